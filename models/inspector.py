"""Looks at one frame: is there anything to see, is it known, and what do the classifiers say?"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.bank_store import BankMissing, open_bank
from models.banks import Bank, BankLimits, ViewHash
from models.evidence import ClassScore, HashMatch, Inspection
from models.gate import has_colour_detail, low_information
from models.hashing.algorithm import PLANE_SIDE, HashAlgorithm
from models.hashing.registry import hash_algorithms
from models.hashing.views import EVERY_TIER, LIVE_TIERS, View, fingerprints, views

PICTURE_SIDE: Final = 256

MOST_MATCHES: Final = 16
"""Matches named per frame; the rest are counted. An alert is at most 4 KB."""

_FRAME_HASH: Final = "pdq"
"""The algorithm of a frame's own fingerprint, quality and stability."""


class Scorer(Protocol):
    """A classifier as the inspector needs it: a name, the SHA-256 of its weights, and scores of 0-1 by label."""

    @property
    def name(self) -> str:
        """What alerts and metrics call it."""
        ...

    @property
    def sha256(self) -> str:
        """Of the weights."""
        ...

    def score(self, picture: NDArray[np.uint8], width: int, height: int) -> dict[str, float]:
        """Score a (256, 256, 3) uint8 RGB picture of a frame that was `width` x `height` pixels."""
        ...


class Inspector:
    """Ties the gate, the views, the hashes, the banks and the classifiers together. For one thread.

    Args:
        clock: Read around each stage, in seconds; the inspector keeps no clock of its own.
        banks: The banks to match against.
        limits: Per bank name; a bank without any has the defaults.
        classifiers: Each is shown every frame that holds something to see.
        algorithms: By signal type; must contain `pdq`. Only those that some bank needs are computed.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        banks: Sequence[Bank] = (),
        limits: Mapping[str, BankLimits] | None = None,
        classifiers: Sequence[Scorer] = (),
        algorithms: Mapping[str, HashAlgorithm] | None = None,
    ) -> None:
        self._clock = clock
        self._banks = {bank.name: bank for bank in banks}
        self._limits = dict(limits or {})
        self._classifiers = tuple(classifiers)
        self._algorithms = dict(algorithms if algorithms is not None else hash_algorithms())

    @property
    def limits(self) -> Mapping[str, BankLimits]:
        """Per bank name; a bank without any has the defaults. May be replaced between two frames."""
        return self._limits

    @limits.setter
    def limits(self, limits: Mapping[str, BankLimits]) -> None:
        self._limits = dict(limits)

    @property
    def banks(self) -> tuple[Bank, ...]:
        """The generations in use."""
        return tuple(self._banks.values())

    def reload_bank(self, name: str, folder: Path | None = None) -> bool:
        """Take up the generation in force of a bank; tell whether the bank exists.

        `folder` is needed for a bank that was not there before. A bank that is gone is dropped.

        Raises:
            KeyError: The bank is new and no folder was given.
            IndexCorrupt: Its files are not what was written; the generation in use stays in use.
        """
        try:
            bank = open_bank(folder or self._banks[name].folder)
        except BankMissing:
            self._banks.pop(name, None)
            return False
        self._banks[name] = bank
        return True

    def inspect(
        self,
        plane: bytes | memoryview,
        picture: bytes | memoryview,
        width: int,
        height: int,
        *,
        every_tier: bool = False,
    ) -> Inspection:
        """Look at one frame: 64x64 luma, 256x256 RGB, and the frame's size in pixels before that.

        `every_tier` runs all families of views, as a single picture deserves. A classifier that raises, or that answers
        with anything but numbers of 0-1, goes to `failed_models`; the rest of the answer stands.

        Raises:
            ValueError: The pixels are of another size.
        """
        luma = np.frombuffer(plane, dtype=np.uint8).reshape(PLANE_SIDE, PLANE_SIDE)
        colours = np.frombuffer(picture, dtype=np.uint8).reshape(PICTURE_SIDE, PICTURE_SIDE, 3)
        seconds: dict[str, float] = {}
        with self._timed("views", seconds):
            is_low = low_information(luma) is not None and not has_colour_detail(colours)
            looks = views(luma, colours, EVERY_TIER if every_tier else LIVE_TIERS)
        with self._timed("hash", seconds):
            hashes = self._hashes(looks)
        with self._timed("match", seconds):
            matches, left_out = self._match(hashes)
        scores, failed = ((), ()) if is_low else self._score(colours, width, height, seconds)
        own = hashes[0].fingerprint
        return Inspection(
            quality=own.quality,
            is_stable=own.is_stable,
            is_low_information=is_low,
            fingerprint=own.value,
            matches=matches,
            left_out_matches=left_out,
            scores=scores,
            failed_models=failed,
            stage_seconds=seconds,
        )

    def _hashes(self, looks: Sequence[View]) -> list[ViewHash]:
        wanted = {_FRAME_HASH: None} | {name: None for bank in self._banks.values() for name in bank.algorithms}
        return [
            ViewHash(look.name, name, fingerprint)
            for name in wanted
            if name in self._algorithms
            for look, fingerprint in zip(looks, fingerprints(self._algorithms[name], looks), strict=True)
        ]

    def _match(self, hashes: Sequence[ViewHash]) -> tuple[tuple[HashMatch, ...], int]:
        found: list[HashMatch] = []
        left_out = 0
        for name, bank in self._banks.items():
            answer = bank.match(hashes, self._limits.get(name), most=MOST_MATCHES)
            found.extend(answer.matches)
            left_out += answer.left_out
        found.sort(key=lambda match: (match.distance / match.bits, match.bank, match.entry))
        return tuple(found[:MOST_MATCHES]), left_out + max(len(found) - MOST_MATCHES, 0)

    def _score(
        self, picture: NDArray[np.uint8], width: int, height: int, seconds: dict[str, float]
    ) -> tuple[tuple[ClassScore, ...], tuple[str, ...]]:
        scores: list[ClassScore] = []
        failed: list[str] = []
        for classifier in self._classifiers:
            with self._timed(classifier.name, seconds):
                answer = _answer(classifier, picture, width, height)
            if answer is None:
                failed.append(classifier.name)
                continue
            scores.extend(
                ClassScore(classifier.name, label, score, classifier.sha256) for label, score in answer.items()
            )
        return tuple(scores), tuple(failed)

    @contextmanager
    def _timed(self, stage: str, seconds: dict[str, float]) -> Iterator[None]:
        began = self._clock()
        yield
        seconds[stage] = self._clock() - began


def _answer(classifier: Scorer, picture: NDArray[np.uint8], width: int, height: int) -> dict[str, float] | None:
    try:
        answer: object = classifier.score(picture, width, height)
    except Exception:  # noqa: BLE001 -- a model is third-party code: whatever it raises, the hashes must still count
        return None
    if not isinstance(answer, Mapping) or not answer or not all(_is_score(score) for score in answer.values()):
        return None
    return {str(label): float(score) for label, score in answer.items()}


def _is_score(value: object) -> bool:
    return isinstance(value, float | int) and math.isfinite(value) and 0 <= value <= 1
