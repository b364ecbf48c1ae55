"""Looks at one frame: is there anything to see, is it known, and what do the classifiers say?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.asking import Answers, Placed, Scorer, ask_models, placed
from models.bank_store import CANARY_BANK, BankMissing, open_bank
from models.banks import Bank, BankLimits, Beside, Negatives
from models.cascade import Asking
from models.evidence import HashMatch, Inspection
from models.frame_shape import PICTURE_SIDE
from models.gate import has_colour_detail, low_information
from models.hashing.algorithm import PLANE_SIDE, HashAlgorithm, Plane
from models.hashing.plugins import PluginFailed
from models.hashing.registry import hash_algorithms
from models.hashing.scenes import Look
from models.hashing.second_tests import difference_hash
from models.hashing.viewing import Viewed, Viewer
from models.hashing.views import EVERY_TIER, LIVE_TIERS, named_fingerprints, views
from models.matching import PDQ, noise_views
from models.naming import BankMatches, ViewHash, strongest
from models.radii import counted_rows
from models.shelves import Trust

MIN_QUALITY: Final = 50
"""A frame is not inspectable if every view of it is below this PDQ quality and unstable too."""

MOST_MATCHES: Final = 16
"""Matches named per frame; the rest are counted. An alert is at most 4 KB."""

_EVERYBODY: Final = Asking()


class Inspector:
    """Ties the gate, the views, the hashes, the banks and the classifiers together. For one thread.

    Args:
        clock: Read around each stage, in seconds; the inspector keeps no clock of its own.
        banks: The banks to match against.
        limits: Per bank name; a bank without any has the defaults.
        classifiers: Each is shown every frame that holds something to see; with a rule, those that the rule names.
        algorithms: By signal type, those beside PDQ. Only those that some bank needs are computed.
        viewer: Makes the PDQ views of frames; without one everything that is due is run.
        wall_clock: Unix time in seconds, for banks and entries that are disabled for a while; without one they stay so.
    """

    def __init__(  # noqa: PLR0913 - all by name
        self,
        *,
        clock: Callable[[], float],
        banks: Sequence[Bank] = (),
        limits: Mapping[str, BankLimits] | None = None,
        classifiers: Sequence[Scorer | Placed] = (),
        algorithms: Mapping[str, HashAlgorithm] | None = None,
        viewer: Viewer | None = None,
        wall_clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._clock = clock
        self._banks = {bank.name: bank for bank in banks}
        self._limits = dict(limits or {})
        self.take_models(classifiers)
        self._algorithms = dict(algorithms if algorithms is not None else hash_algorithms())
        self._viewer = viewer or Viewer(None, lambda: 0.0)
        self._wall_clock = wall_clock
        self._counted = self._counted_rows()

    def take_models(self, classifiers: Sequence[Scorer | Placed]) -> None:
        """Show frames to these classifiers from now on, and to no others."""
        bare = placed([one for one in classifiers if not isinstance(one, Placed)])
        self._models = (*(one for one in classifiers if isinstance(one, Placed)), *bare)

    @property
    def limits(self) -> Mapping[str, BankLimits]:
        """Per bank name; a bank without any has the defaults. May be replaced between two frames."""
        return self._limits

    @limits.setter
    def limits(self, limits: Mapping[str, BankLimits]) -> None:
        self._limits = dict(limits)
        self._counted = self._counted_rows()

    @property
    def banks(self) -> tuple[Bank, ...]:
        """The generations in use."""
        return tuple(self._banks.values())

    @property
    def counted_rows(self) -> Mapping[str, int]:
        """How many PDQ rows each positive bank counts as beside the others: what its limits go by."""
        return self._counted

    def reload_bank(self, name: str, folder: Path | None = None, trust: Trust | None = None) -> bool:
        """Take up the generation in force of a bank; tell whether the bank exists.

        `folder` is needed for a bank that was not there before. A bank that is gone is dropped.

        Raises:
            KeyError: The bank is new and no folder was given.
            IndexCorrupt: Its files are not what was written; the generation in use stays in use.
            NotRead: As `trust` says; the generation in use stays in use.
        """
        try:
            bank = open_bank(folder or self._banks[name].folder, trust)
        except BankMissing:
            self._banks.pop(name, None)
        else:
            self._banks[name] = bank
        self._counted = self._counted_rows()
        return name in self._banks

    def inspect(  # noqa: PLR0913 - all of one frame, and what is known of it
        self,
        plane: bytes | memoryview,
        picture: bytes | memoryview,
        width: int,
        height: int,
        look: Look | None = None,
        asking: Asking = _EVERYBODY,
        *,
        shaped: NDArray[np.uint8] | None = None,
    ) -> Inspection:
        """Look at one frame: 64x64 luma, 256x256 RGB, and the frame's size in pixels before that.

        `shaped`, (rows, columns, 3) RGB, is the frame in its own shape, for classifiers that want that; hashes do not.

        `look` is what is known of the frame's stream; without it every view is run, as a single picture deserves.
        `asking` says what to ask of which model; one that raises, or that answers with anything but numbers of 0-1,
        goes to `failed_models`; the rest of the answer stands.

        Raises:
            ValueError: The pixels are of another size.
        """
        luma = np.frombuffer(plane, dtype=np.uint8).reshape(PLANE_SIDE, PLANE_SIDE)
        colours = np.frombuffer(picture, dtype=np.uint8).reshape(PICTURE_SIDE, PICTURE_SIDE, 3)
        began = self._clock()
        viewed = self._viewer.view(luma, colours, width, height, look)
        is_low = low_information(luma, viewed.sample.spectrum) is not None and not has_colour_detail(colours)
        viewed_at = self._clock()
        broken: list[str] = []
        others = self._other_hashes(luma, colours, broken, is_live=look is not None)
        second = difference_hash(viewed.sample.spectrum)
        hashed_at = self._clock()
        with self._viewer.paying(viewed, look):
            found = self._match(viewed, others)
        seconds = {"views": viewed_at - began, "hash": hashed_at - viewed_at, "match": self._clock() - hashed_at}
        answers = Answers()
        if not is_low or asking.is_test:
            answers = ask_models(
                self._models,
                colours,
                (width, height),
                asking,
                timed=lambda name: self._timed(name, seconds),
                shaped=shaped,
            )
        batch = viewed.batch
        return Inspection(
            quality=int(batch.qualities[0]),
            is_stable=bool(batch.is_stable[0]),
            is_low_information=is_low,
            fingerprint=batch.values[0].tobytes(),
            matches=found.matches,
            left_out_matches=found.left_out,
            suppressed_matches=found.suppressed,
            scores=tuple(answers.scores),
            failed_models=(*broken, *answers.failed),
            model_uses=tuple(answers.uses),
            stage_seconds=seconds,
            second=second,
            views_run=len(batch),
            views_left_out=viewed.left_out,
            tier_seconds={int(tier): spent for tier, spent in viewed.seconds.items()},
            saved_seconds=self._viewer.saved_seconds,
            is_inspectable=not is_low and not bool(noise_views(batch, MIN_QUALITY).all()),
        )

    def _other_hashes(
        self, luma: Plane, colours: NDArray[np.uint8], failed: list[str], *, is_live: bool
    ) -> list[ViewHash]:
        """The hashes that some bank needs beside PDQ, of a few views each; algorithms that broke go to `failed`."""
        wanted = dict.fromkeys(name for bank in self._banks.values() for name in bank.algorithms if name != PDQ)
        known = [name for name in wanted if name in self._algorithms]
        if not known:
            return []
        looks = views(luma, colours, LIVE_TIERS if is_live else EVERY_TIER)
        found: list[ViewHash] = []
        for name in known:
            try:
                named = named_fingerprints(self._algorithms[name], looks, colours)
            except PluginFailed:
                failed.append(name)
            else:
                found.extend(ViewHash(view, name, fingerprint) for view, fingerprint in named)
        return found

    def _match(self, viewed: Viewed, others: Sequence[ViewHash]) -> BankMatches:
        now_seconds = self._wall_clock()
        negatives = self._negatives(now_seconds)
        found: list[HashMatch] = []
        left_out = suppressed = 0
        for name, bank in self._banks.items():
            answer = bank.match(
                viewed.batch,
                others,
                self._limits.get(name),
                most=MOST_MATCHES,
                now_seconds=now_seconds,
                beside=Beside(self._counted.get(name), negatives),
            )
            found.extend(answer.matches)
            left_out += answer.left_out
            suppressed += answer.suppressed
        named = strongest(found, MOST_MATCHES)
        return BankMatches(named, left_out + len(found) - len(named), suppressed)

    def _negatives(self, now_seconds: float) -> Negatives | None:
        banks = [
            self._banks[name]
            for name, limits in self._limits.items()
            if limits.is_negative and name in self._banks and not limits.is_disabled(now_seconds)
        ]
        return Negatives(banks, now_seconds) if banks else None

    def _counted_rows(self) -> dict[str, int]:
        """The canary's bank takes no part: it holds one picture that nobody else has."""
        rows = {
            name: bank.rows_of(PDQ)
            for name, bank in self._banks.items()
            if name != CANARY_BANK and not (name in self._limits and self._limits[name].is_negative)
        }
        return {name: counted_rows(own, (rows[other] for other in rows if other != name)) for name, own in rows.items()}

    @contextmanager
    def _timed(self, stage: str, seconds: dict[str, float]) -> Iterator[None]:
        began = self._clock()
        yield
        seconds[stage] = self._clock() - began
