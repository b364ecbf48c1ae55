"""A closed algorithm in a package of its own, outside the tree: what it may do, and what its faults cost."""

import importlib
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detector.events import Observation, Step
from detector.policy import BankRule, History, PolicySettings, decide
from models.bank_store import add_entries, load_bank
from models.evidence import Strength
from models.hashing import plugins
from models.hashing.plugins import Plugin
from models.hashing.registry import ALGORITHMS, hash_algorithms, may_cut_alone, refused_algorithms
from models.inspector import Inspector

# Like PhotoDNA: a vector of 144 numbers, Euclidean distance, taken from the picture. It is none: benign and simple.
VECTOR = '''
"""A stand-in for a closed hash: mean and change of brightness over a grid, 144 numbers."""
import numpy as np


class Given:
    def __init__(self, value, quality):
        self.value, self.quality, self.is_stable = value, quality, quality > 0


class Index:
    def __init__(self, rows):
        self.rows = rows.astype(np.int32)

    def search_all(self, queries, radius):
        found = []
        for query in queries:
            vector = np.frombuffer(query, np.uint8).astype(np.int32)
            far = np.floor(np.sqrt(np.square(self.rows - vector).sum(axis=1))).astype(np.int64)
            near = np.flatnonzero(far <= radius)
            found.append((near, far[near]))
        return found


class Vector:
    name = "vector144"
    bits = 144 * 8
    max_distance = 120
    {more}

    def hash_plane(self, plane):
        raise AssertionError("it wants pictures")

    def hash_picture(self, picture):
        gray = picture.astype(np.int32).mean(axis=2)
        cells = gray[:252, :252].reshape(12, 21, 12, 21).mean(axis=(1, 3))
        value = np.clip(cells, 0, 255).astype(np.uint8).tobytes()
        return Given(value, 100 if gray.std() > 4 else 0)

    def build_index(self, rows, max_distance):
        return Index(rows)


VECTOR = Vector()
'''

HALF = """
class Half:
    name, bits, max_distance = "half", 64, 4
    def hash_plane(self, plane):
        from models.hashing.algorithm import Fingerprint
        return {given}
HALF = Half()
"""


class Install(Protocol):
    """Writes a package with one entry point into a folder on the path."""

    def __call__(self, name: str, module: str, *, target: str, source: str) -> None: ...


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """A folder outside the tree, as pip fills one: modules, and a dist-info that names their entry points."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def write(name: str, module: str, *, target: str, source: str) -> None:
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        info = site / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[stopframe.hashes]\n{name} = {module}:{target}\n")
        importlib.invalidate_caches()
        plugins.installed.cache_clear()

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]
    plugins.installed.cache_clear()


def _picture(seed: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def _plane(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _vector(install: Install, more: str = "") -> Plugin:
    install("vector144", "vector_hash", target="VECTOR", source=VECTOR.replace("{more}", more))
    found = hash_algorithms()["vector144"]
    assert isinstance(found, Plugin), refused_algorithms()
    return found


def _bank(tmp_path: Path, plugin: Plugin, *seeds: int) -> Path:
    values = [plugin.hash_picture(_picture(seed)).value for seed in seeds]
    rows = np.frombuffer(b"".join(values), np.uint8).reshape(len(seeds), -1)
    add_entries(tmp_path / "CLOSED", rows, [f"picture-{seed}" for seed in seeds], algorithm=plugin.name)
    return tmp_path / "CLOSED"


def test_it_hashes_pictures_and_measures_by_itself(install: Install, tmp_path: Path) -> None:
    """Its bank is stored, opened and matched by its own vector and distance; a re-encoded, mirrored copy is found."""
    plugin = _vector(install)
    inspector = Inspector(clock=lambda: 0.0, banks=[load_bank(_bank(tmp_path, plugin, 1, 2, 3))])
    jpeg = cv2.imencode(".jpg", _picture(2), [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    copy = np.ascontiguousarray(np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), dtype=np.uint8)[:, ::-1])

    (match,) = inspector.inspect(_plane(copy).tobytes(), copy.tobytes(), 640, 360).matches

    assert (match.entry, match.view, match.algorithm, match.bits) == ("picture-2", "mirror", "vector144", 1152)
    assert 0 < match.distance <= match.max_distance == 120


def test_the_inspector_matches_it_beside_pdq(install: Install, tmp_path: Path) -> None:
    """Nothing in the core knows its name: a bank that holds it is matched in every frame, for review at most."""
    plugin = _vector(install)
    bank = load_bank(_bank(tmp_path, plugin, 1, 2))
    inspector = Inspector(clock=lambda: 0.0, banks=[bank])

    seen = inspector.inspect(_plane(_picture(1)).tobytes(), _picture(1).tobytes(), 640, 360)

    assert [(match.entry, match.distance, match.strength) for match in seen.matches] == [
        ("picture-1", 0, Strength.REVIEW)
    ]
    assert not may_cut_alone("vector144")


@pytest.mark.parametrize(
    ("declares", "allows", "step"),
    [(True, True, Step.CUT), (True, False, Step.REVIEW), (False, True, Step.REVIEW), (False, False, Step.REVIEW)],
)
def test_it_may_cut_only_where_it_declares_so_and_the_operator_allows(
    install: Install,
    tmp_path: Path,
    *,
    declares: bool,
    allows: bool,
    step: Step,
) -> None:
    """A package that vouches for its matches gets them as far as the operator lets it, and no other."""
    plugin = _vector(install, f"may_cut = {declares}")
    inspector = Inspector(clock=lambda: 0.0, banks=[load_bank(_bank(tmp_path, plugin, 1))])
    seen = inspector.inspect(_plane(_picture(1)).tobytes(), _picture(1).tobytes(), 640, 360)
    observation = Observation(
        stream_id="s",
        session="1",
        sequence=0,
        reason="keyframe",
        arrived_at=0.0,
        decoded_at=0.0,
        scored_at=0.0,
        pts_seconds=None,
        is_corrupt=False,
        inspection=seen,
    )

    rules = {"CLOSED": BankRule(Step.CUT, plugins_may_cut=allows)}
    _, verdict = decide(PolicySettings(banks=rules), History(), observation)

    assert may_cut_alone("vector144") is declares
    assert verdict.action is step


@pytest.mark.parametrize(
    ("name", "target", "source", "sentence"),
    [
        ("gone", "GONE", "raise RuntimeError('no licence')", "it cannot be imported (RuntimeError)"),
        ("gone", "GONE", "import sys\nsys.exit(3)", "it cannot be imported (SystemExit)"),
        ("gone", "GONE", "import no_such_library", "it cannot be imported (ModuleNotFoundError)"),
        ("gone", "GONE", "x = 1", "it cannot be imported (AttributeError)"),
        ("half", "HALF", "HALF = 7", "has no whole number as its bits"),
        ("other", "HALF", HALF.format(given="None"), "calls itself otherwise"),
        ("half", "HALF", HALF.format(given="None"), "gives NoneType instead of 8 bytes"),
        ("half", "HALF", HALF.format(given="Fingerprint(b'1234', 50, True)"), "gives 4 bytes instead of 8 bytes"),
        ("half", "HALF", HALF.format(given="Fingerprint('12345678', 50, True)"), "gives str instead of 8 bytes"),
        ("half", "HALF", HALF.format(given="Fingerprint(b'12345678', 500, True)"), "no whole number of 0-100"),
        ("half", "HALF", HALF.format(given="1 / 0"), "raised ZeroDivisionError in hash_plane"),
        ("half", "HALF", HALF.replace("64, 4", "63, 4"), "63 bits, which are no whole 64-bit words"),
        ("half", "HALF", HALF.replace("64, 4", "64, 64"), "max_distance 64"),
        ("pdq", "HALF", HALF, "has the name of one that ships with stopframe"),
    ],
)
def test_a_bad_plug_in_is_refused_in_one_sentence(
    install: Install, name: str, target: str, source: str, sentence: str
) -> None:
    """Whatever is wrong with it: one sentence with the remedy, and what ships works as before."""
    install(name, "bad_hash", target=target, source=source)

    (told,) = refused_algorithms()

    assert sentence in told
    assert "uninstall" in told
    assert "\n" not in told
    assert hash_algorithms() == ALGORITHMS


def test_a_plug_in_that_breaks_later_costs_its_own_matches_alone(install: Install, tmp_path: Path) -> None:
    """One that raises while it runs has no hash of that frame; the rest of the answer stands, and it is told."""
    plugin = _vector(install, "broken = False")
    bank_dir = _bank(tmp_path, plugin, 1)
    pdq = ALGORITHMS["pdq"].hash_plane(_plane(_picture(1))).value
    add_entries(bank_dir, np.frombuffer(pdq, np.uint8)[None], ["plain"])
    inspector = Inspector(clock=lambda: 0.0, banks=[load_bank(bank_dir)])
    sys.modules["vector_hash"].Vector.hash_picture = lambda self, picture: 1 / 0

    seen = inspector.inspect(_plane(_picture(1)).tobytes(), _picture(1).tobytes(), 640, 360)

    assert [match.entry for match in seen.matches] == ["plain"]
    assert seen.failed_models == ("vector144",)


def test_a_bank_of_a_hash_that_is_gone_is_kept(install: Install, tmp_path: Path) -> None:
    """Uninstalling the package loses no rows: they stay, unmatched, until it is back."""
    plugin = _vector(install)
    bank_dir = _bank(tmp_path, plugin, 1)
    (tmp_path / "site-packages" / "vector_hash-1.0.dist-info" / "entry_points.txt").unlink()
    plugins.installed.cache_clear()

    bank = load_bank(bank_dir)
    add_entries(bank_dir, np.zeros((1, 32), np.uint8), ["plain"])

    assert "vector144" not in hash_algorithms()
    assert bank.algorithms == ("vector144",)
    assert set(load_bank(bank_dir).algorithms) == {"vector144", "pdq"}
