"""Hash algorithms of other packages, held to what they promise.

An algorithm from elsewhere is a stranger's code in the middle of the analysis. It is tried before it is used, and
every answer is checked: what it gets wrong costs its own matches, never those of others and never the service.
"""

import importlib.metadata
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.hashing.algorithm import PLANE_SIDE, Fingerprint, HashIndex, Plane

ENTRY_POINT_GROUP: Final = "stopframe.hashes"

_PICTURE_SIDE: Final = 256
_LONGEST_BITS: Final = 1 << 16
_REMEDY: Final = "mend or uninstall its package"


class PluginFailed(Exception):
    """Raised where an installed algorithm breaks its promise; one sentence. The frame has no hash of it."""


class Plugin:
    """An installed algorithm. Implements `models.hashing.algorithm.HashAlgorithm`; every answer is checked.

    `may_cut` where it declares that its matches are good enough to act on alone: a declaration, which an operator has
    to allow. `hashes_pictures` where it is shown the picture instead of the plane.
    """

    def __init__(self, name: str, algorithm: Any) -> None:
        self.name: Final = name
        self._algorithm = algorithm
        self.bits: Final = _whole(name, algorithm, "bits")
        self.max_distance: Final = _whole(name, algorithm, "max_distance")
        self.may_cut: Final = getattr(algorithm, "may_cut", False) is True
        self.hashes_pictures: Final = callable(getattr(algorithm, "hash_picture", None))
        self.has_index: Final = callable(getattr(algorithm, "build_index", None))
        self._check_promises()

    def hash_plane(self, plane: Plane) -> Fingerprint:
        """As `HashAlgorithm.hash_plane`. Raises `PluginFailed`."""
        return self._checked(self._call("hash_plane", plane))

    def hash_picture(self, picture: NDArray[np.uint8]) -> Fingerprint:
        """As `PictureAlgorithm.hash_picture`. Raises `PluginFailed`."""
        return self._checked(self._call("hash_picture", picture))

    def build_index(self, rows: NDArray[np.uint8]) -> "PluginIndex | None":
        """The algorithm's own index of (N, bits / 8) uint8 rows; None where Hamming distance is its distance.

        Raises:
            PluginFailed: it gives none.
        """
        if not self.has_index:
            return None
        built = self._call("build_index", rows, self.max_distance)
        if not callable(getattr(built, "search_all", None)):
            raise PluginFailed(f"the hash {self.name} builds an index without search_all; {_REMEDY}")
        return PluginIndex(self, built, len(rows))

    def _check_promises(self) -> None:
        if not self.name.isidentifier() or self.name != self.name.lower() or not self.name.isascii():
            raise PluginFailed(f"the hash {self.name!r} has no lower-case name of letters, digits and _; {_REMEDY}")
        if getattr(self._algorithm, "name", None) != self.name:
            raise PluginFailed(f"the hash {self.name} calls itself otherwise in its `name`; {_REMEDY}")
        if not 0 < self.bits <= _LONGEST_BITS or self.bits % 64:
            raise PluginFailed(f"the hash {self.name} has {self.bits} bits, which are no whole 64-bit words; {_REMEDY}")
        if not 0 <= self.max_distance < self.bits:
            raise PluginFailed(
                f"the hash {self.name} has max_distance {self.max_distance}, which is not between 0 and its bits; "
                f"{_REMEDY}"
            )
        self._try()

    def _try(self) -> None:
        """Hash something and find it again, before it is needed."""
        levels = np.random.default_rng(0).integers(0, 256, (_PICTURE_SIDE, _PICTURE_SIDE, 3), dtype=np.uint8)
        if self.hashes_pictures:
            value = self.hash_picture(_read_only(levels)).value
        else:
            value = self.hash_plane(_read_only(levels[:PLANE_SIDE, :PLANE_SIDE, 0].copy())).value
        index = self.build_index(_read_only(np.frombuffer(value + bytes(len(value)), np.uint8).reshape(2, -1)))
        if index is not None:
            ((numbers, distances),) = index.search_all([value], self.max_distance)
            if 0 not in numbers.tolist() or distances[numbers.tolist().index(0)] != 0:
                raise PluginFailed(f"the hash {self.name} does not find its own hash again at distance 0; {_REMEDY}")

    def _call(self, what: str, *arguments: Any) -> Any:
        return self.guarded(what, getattr(self._algorithm, what), *arguments)

    def guarded(self, what: str, function: Any, *arguments: Any) -> Any:
        """Call the stranger's code. Raises `PluginFailed` for whatever it raises."""
        try:
            return function(*arguments)
        except (Exception, SystemExit) as error:  # a stranger's code: its fault costs its own matches alone
            raise PluginFailed(f"the hash {self.name} raised {type(error).__name__} in {what}; {_REMEDY}") from error

    def _checked(self, given: Any) -> Fingerprint:
        value, quality = getattr(given, "value", None), getattr(given, "quality", None)
        if type(value) is not bytes or len(value) * 8 != self.bits:
            got = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
            raise PluginFailed(f"the hash {self.name} gives {got} instead of {self.bits // 8} bytes; {_REMEDY}")
        if not isinstance(quality, int | np.integer) or isinstance(quality, bool) or not 0 <= quality <= 100:
            raise PluginFailed(f"the hash {self.name} gives a quality that is no whole number of 0-100; {_REMEDY}")
        return Fingerprint(value, int(quality), is_stable=bool(getattr(given, "is_stable", False)))


class PluginIndex:
    """An index that an installed algorithm built. Implements `models.hashing.algorithm.HashIndex`."""

    def __init__(self, plugin: Plugin, index: HashIndex, count: int) -> None:
        self._plugin = plugin
        self._index = index
        self._count = count

    def __len__(self) -> int:
        return self._count

    def search_all(self, queries: Sequence[bytes], radius: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """As `HashIndex.search_all`; what it gives is sorted and cut to the radius. Raises `PluginFailed`."""
        found = self._plugin.guarded("search_all", self._index.search_all, list(queries), radius)
        return self._plugin.guarded("search_all", self._sorted, found, len(queries), radius)  # type: ignore[no-any-return]

    def _sorted(self, found: Any, count: int, radius: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        answers = []
        for numbers, distances in found:
            rows, far = np.asarray(numbers, dtype=np.int64), np.asarray(distances, dtype=np.int64)
            if rows.ndim != 1 or rows.shape != far.shape:
                raise ValueError("rows and distances differ in shape")
            near = (far >= 0) & (far <= radius) & (rows >= 0) & (rows < self._count)
            order = np.lexsort((rows[near], far[near]))
            answers.append((rows[near][order], far[near][order]))
        if len(answers) != count:
            raise ValueError("another number of answers than of queries")
        return answers


@cache
def installed(taken: frozenset[str]) -> tuple[dict[str, Plugin], dict[str, str]]:
    """The algorithms that other packages bring, by name, and one sentence for each that is refused.

    `taken` are the names that no plug-in may have. Looked up once for each process: those that analyse cannot read
    the folders of packages any more once they are in their cage.
    """
    found: dict[str, Plugin] = {}
    refused: dict[str, str] = {}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in taken or entry.name in found:
            whose = "that ships with stopframe" if entry.name in taken else "of another package"
            refused[f"{entry.name} = {entry.value}"] = (
                f"the hash plug-in {entry.name} ({entry.value}) has the name of one {whose}; rename it, or uninstall it"
            )
            continue
        try:
            found[entry.name] = Plugin(entry.name, _loaded(entry))
        except PluginFailed as error:
            refused[entry.name] = f"the hash plug-in {entry.name} ({entry.value}) is not in use: {error}"
    return found, refused


def _loaded(entry: importlib.metadata.EntryPoint) -> Any:
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # importing runs a stranger's code
        raise PluginFailed(f"it cannot be imported ({type(error).__name__}); {_REMEDY}") from error


def _whole(name: str, algorithm: Any, what: str) -> int:
    value = getattr(algorithm, what, None)
    if not isinstance(value, int) or isinstance(value, bool):
        raise PluginFailed(f"the hash {name} has no whole number as its {what}; {_REMEDY}")
    return value


def _read_only(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    array = np.ascontiguousarray(array).view()
    array.flags.writeable = False
    return array
