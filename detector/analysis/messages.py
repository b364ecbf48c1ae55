"""Messages between the analysis pool and its processes: length-prefixed, bounded, validated, never pickled.

An analysis process sees pixels that a stranger chose and runs native code over them, so its answers are checked like
any other input before the service believes them.
"""

import json
import math
import struct
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum, unique
from typing import Any

from detector.analysis.shaped import MOST_BYTES, pack_shaped
from models.cascade import Asking, ModelRule
from models.evidence import ClassScore, HashMatch, Inspection, ModelUse, Opinion, SecondTest, Strength
from models.hashing.scenes import Look
from models.hashing.view_table import Tier
from models.hashing.viewing import OVERLAY_BYTES
from streams.frame import PICTURE_BYTES, PLANE_BYTES, Frame

FINGERPRINT_BYTES = 32
HEADER = struct.Struct("<B3xI")
_RESTING = (Tier.EDGES, Tier.IN_TURN, Tier.PER_SCENE)
_ASKING = struct.Struct("<IIIBB")
_INSPECT = struct.Struct(
    f"<QIIddBBBBB3B{_ASKING.size}s{FINGERPRINT_BYTES}s{FINGERPRINT_BYTES}s{FINGERPRINT_BYTES}s{OVERLAY_BYTES}s"
)
INSPECT_BYTES = _INSPECT.size + PLANE_BYTES + PICTURE_BYTES
MOST_INSPECT_BYTES = INSPECT_BYTES + MOST_BYTES
TEXT_LIMIT_BYTES = 1024 * 1024
SECOND_HASH_BYTES = 64
VIEWS_LIMIT = 1000
"""More views than ever are made of one frame."""
_MOST_LOOKS = 1000
_LARGEST_ROW = 1 << 40
_LONGEST_POSITION_MS = (1 << 31) - 1
_INSPECTION_FIELDS = tuple(each.name for each in fields(Inspection))
_NOTHING_KNOWN = Asking()
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
"""What reading JSON of a wrong shape raises; the last one is for `Infinity` where a count should be."""


class AnalysisProtocolError(Exception):
    """Raised by the parsers here: the process broke the protocol; nothing of the message is used."""


@unique
class Kind(IntEnum):
    """What a message is. The first three go to the process, the others come from it."""

    SETUP = 1
    INSPECT = 2
    RELOAD = 3
    READY = 16
    STAGE = 17
    RESULT = 18
    RELOADED = 19


@dataclass(frozen=True, slots=True)
class ModelSetup:
    """One classifier to load: its name, where its manifest is, what runs it, and when it is asked.

    `place` is its own among all models that are configured: what `Asking` counts by.
    """

    name: str
    source: str
    provider: str = "cpu"
    precision: str = "auto"
    place: int = 0
    rule: ModelRule | None = None


@dataclass(frozen=True, slots=True)
class ViewSetup:
    """What the views of live frames may cost and which tiers of them may run at all (`models.hashing.view_table`)."""

    seconds_per_sample: float
    tiers: tuple[int, ...]


_ALL_VIEWS = ViewSetup(seconds_per_sample=0.003, tiers=tuple(Tier))


@dataclass(frozen=True, slots=True)
class BankSetup:
    """What an operator says of a bank; the fields are those of `models.banks.BankLimits`."""

    min_quality: int = 50
    is_negative: bool = False
    disabled_until_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """All an analysis process needs to know. Paths are absolute; nothing in it is secret.

    `bank_limits` are distances in bits up to which a frame may act, for banks where the length of the list does not
    decide; `banks` says what else the operator says of a bank. `read_bases` are the long bases of banks that were read
    and found sound (`models.shelves.state_of`). `bank_limits`, `views`, `banks` and `read_bases` may change later.
    """

    banks_folder: str
    bank_limits: dict[str, int]
    models: tuple[ModelSetup, ...]
    readable_paths: tuple[str, ...]
    sandbox: str
    memory_limit_bytes: int
    views: ViewSetup = _ALL_VIEWS
    banks: dict[str, BankSetup] = field(default_factory=dict)
    read_bases: tuple[str, ...] = ()
    gpu_patience_seconds: float = 0.0  # how long one look may wait for the GPU's process; 0 where there is none
    slowness: dict[str, float] = field(default_factory=dict)  # `detector.analysis.slowness`: for rehearsals


def pack_reload(setup: WorkerSetup) -> bytes:
    """Return the order to take up the banks as they are on disk, and what of `setup` may change."""
    return pack(Kind.RELOAD, json.dumps(asdict(setup)).encode())


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The process is warm. `models` maps name to sha256; `refused` maps name to the reason; `banks` to row counts.

    `runs_on` maps the name of a model to what runs it, in words.
    """

    models: dict[str, str]
    refused: dict[str, str]
    banks: dict[str, int]
    refused_banks: dict[str, str]
    missing_cage: tuple[str, ...]
    runs_on: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InspectRequest:
    """One frame to look at. The pixels are views of the message that they came in, for as long as that stands."""

    number: int
    width: int
    height: int
    look: Look | None
    """What is known of the frame's stream; None for a single picture, which is looked at in every way."""
    asking: Asking
    plane: memoryview
    picture: memoryview
    seconds_left: float = math.inf


def pack(kind: Kind, body: bytes) -> bytes:
    """Return header and body as one byte string."""
    return HEADER.pack(kind, len(body)) + body


def parse_header(header: bytes) -> tuple[Kind, int]:
    """Return kind and body length; raise `AnalysisProtocolError` for an unknown kind or an absurd length."""
    try:
        number, length = HEADER.unpack(header)
        kind = Kind(number)
    except (struct.error, ValueError) as error:
        raise AnalysisProtocolError("no message header") from error
    if length > (MOST_INSPECT_BYTES if kind is Kind.INSPECT else TEXT_LIMIT_BYTES):
        raise AnalysisProtocolError(f"{kind.name} of {length} bytes")
    return kind, length


def pack_inspect(
    number: int, frame: Frame, look: Look | None, asking: Asking = _NOTHING_KNOWN, seconds_left: float = math.inf
) -> bytes:
    """Return the request to look at `frame`, knowing what `look` says; None for a single picture.

    `asking` says what to ask of which model, `seconds_left` how long the frame has.
    """
    known = look or Look()
    head = _INSPECT.pack(
        *(number, frame.width, frame.height),
        *(math.nan if known.saved_seconds is None else known.saved_seconds, seconds_left),
        *(look is not None, known.turn, sum(1 << tier for tier in known.rested), known.scene_age, bool(known.overlay)),
        *(known.waited.get(tier, 0) for tier in _RESTING),
        _pack_asking(asking),
        *(known.rested.get(tier, b"") for tier in _RESTING),
        known.overlay,
    )
    size, pixels = pack_shaped(frame)
    length = INSPECT_BYTES + len(size) + len(pixels)
    return b"".join((HEADER.pack(Kind.INSPECT, length), head, frame.plane, frame.picture, size, pixels))


def parse_inspect(body: memoryview) -> InspectRequest:
    """Return the request in `body`; from `INSPECT_BYTES` on there is what `parse_shaped` reads."""
    if len(body) < INSPECT_BYTES:
        raise AnalysisProtocolError("INSPECT of a wrong size")
    number, width, height, saved, left, is_live, turn, rested, scene_age, has_overlay, *others = _INSPECT.unpack_from(
        body
    )
    waited, asking, run_on, overlay = others[:3], others[3], others[4:7], others[7]
    look = Look(
        turn=turn,
        rested={tier: found for tier, found in zip(_RESTING, run_on, strict=True) if rested >> tier & 1},
        scene_age=scene_age,
        overlay=overlay if has_overlay else b"",
        saved_seconds=None if math.isnan(saved) else saved,
        waited={tier: samples for tier, samples in zip(_RESTING, waited, strict=True) if samples},
    )
    plane_end = _INSPECT.size + PLANE_BYTES
    pixels = (body[_INSPECT.size : plane_end], body[plane_end:INSPECT_BYTES])
    return InspectRequest(number, width, height, look if is_live else None, _parse_asking(asking), *pixels, left)


def _pack_asking(asking: Asking) -> bytes:
    told = (asking.is_suspicious, asking.has_room, asking.is_test, asking.shows_check, asking.spares_all)
    flags = sum(is_so << place for place, is_so in enumerate(told))
    return _ASKING.pack(asking.awake, asking.rested, asking.draw, asking.turn, flags)


def _parse_asking(packed: bytes) -> Asking:
    awake, rested, draw, turn, flags = _ASKING.unpack(packed)
    is_suspicious, has_room, *rest = (bool(flags >> place & 1) for place in range(5))
    return Asking(awake, rested, is_suspicious, has_room, turn, draw, *rest)


def pack_setup(setup: WorkerSetup) -> bytes:
    """Return the message that sets a fresh process up."""
    return pack(Kind.SETUP, json.dumps(asdict(setup)).encode())


def parse_setup(body: memoryview) -> WorkerSetup:
    """Return the setup in `body`. It comes from the service, so only its shape is checked."""
    raw = json.loads(bytes(body))
    for model in raw["models"]:
        model["rule"] = None if model["rule"] is None else ModelRule(**model["rule"])
    raw["models"] = tuple(ModelSetup(**model) for model in raw["models"])
    raw["readable_paths"] = tuple(raw["readable_paths"])
    raw["read_bases"] = tuple(raw["read_bases"])
    raw["views"] = ViewSetup(raw["views"]["seconds_per_sample"], tuple(raw["views"]["tiers"]))
    raw["banks"] = {name: BankSetup(**bank) for name, bank in raw["banks"].items()}
    return WorkerSetup(**raw)


def pack_ready(kind: Kind, ready: WorkerReady) -> bytes:
    """Return a READY or RELOADED message."""
    return pack(kind, json.dumps(asdict(ready)).encode())


def parse_ready(body: bytes) -> WorkerReady:
    """Return what a process says of itself; raise `AnalysisProtocolError`."""
    try:
        raw = json.loads(body)
        return WorkerReady(
            models=_texts(raw["models"]),
            refused=_texts(raw["refused"]),
            banks={str(name): int(count) for name, count in raw["banks"].items()},
            refused_banks=_texts(raw["refused_banks"]),
            missing_cage=tuple(str(part) for part in raw["missing_cage"]),
            runs_on=_texts(raw["runs_on"]),
        )
    except _MALFORMED as error:
        raise AnalysisProtocolError(f"READY: {type(error).__name__}") from error


def pack_result(number: int, inspection: Inspection) -> bytes:
    """Return the answer to request `number`."""
    raw: dict[str, Any] = {name: getattr(inspection, name) for name in _INSPECTION_FIELDS}
    raw["fingerprint"], raw["second"] = inspection.fingerprint.hex(), inspection.second.hex()
    # Few; `asdict` of the whole would copy all the rest in depth, for each frame.
    raw["matches"] = [asdict(each) | {"view_hash": each.view_hash.hex()} for each in inspection.matches]
    raw["scores"] = [asdict(each) for each in inspection.scores]
    raw["model_uses"] = [asdict(each) for each in inspection.model_uses]
    return pack(Kind.RESULT, json.dumps([number, raw]).encode())


def parse_result(body: bytes) -> tuple[int, Inspection]:
    """Return the request's number and what was found; raise `AnalysisProtocolError` for anything out of range."""
    try:
        number, raw = json.loads(body)
        inspection = Inspection(
            quality=_ranged(int(raw["quality"]), 0, 100),
            is_stable=bool(raw["is_stable"]),
            is_low_information=bool(raw["is_low_information"]),
            fingerprint=_fingerprint(raw["fingerprint"]),
            matches=tuple(_match(match) for match in raw["matches"]),
            scores=tuple(_score(score) for score in raw["scores"]),
            failed_models=tuple(str(name) for name in raw["failed_models"]),
            left_out_matches=int(raw["left_out_matches"]),
            cpu_seconds=_amount(raw["cpu_seconds"]),
            second=_second(raw["second"]),
            views_run=_ranged(int(raw["views_run"]), 0, VIEWS_LIMIT),
            views_left_out=_ranged(int(raw["views_left_out"]), 0, VIEWS_LIMIT),
            is_inspectable=bool(raw["is_inspectable"]),
            suppressed_matches=_counted(raw["suppressed_matches"]),
            tier_seconds={
                _ranged(int(tier), 0, max(Tier)): _amount(seconds) for tier, seconds in raw["tier_seconds"].items()
            },
            saved_seconds=None if raw["saved_seconds"] is None else _finite(raw["saved_seconds"]),
            model_uses=tuple(_use(use) for use in raw["model_uses"]),
            stage_seconds={str(stage): _finite(seconds) for stage, seconds in raw["stage_seconds"].items()},
        )
        return int(number), inspection
    except _MALFORMED as error:
        raise AnalysisProtocolError(f"RESULT: {type(error).__name__}: {error}") from error


def _texts(raw: dict[str, Any]) -> dict[str, str]:
    return {str(name): str(text)[:500] for name, text in raw.items()}


def _ranged(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ValueError(f"{value} is not in {low}..{high}")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return float(value)


def _amount(value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError("neither a length of time nor another amount")
    return float(value)


def _fingerprint(raw: str) -> bytes:
    value = bytes.fromhex(raw)
    if len(value) != FINGERPRINT_BYTES:
        raise ValueError("a fingerprint has 32 bytes")
    return value


def _second(raw: str) -> bytes:
    value = bytes.fromhex(raw)
    if len(value) not in (0, SECOND_HASH_BYTES):
        raise ValueError(f"a second hash has {SECOND_HASH_BYTES} bytes")
    return value


def _counted(value: int) -> int:
    return _ranged(int(value), 0, _LARGEST_ROW)


def _match(raw: dict[str, Any]) -> HashMatch:
    bits = _ranged(int(raw["bits"]), 1, 4096)
    return HashMatch(
        bank=str(raw["bank"]),
        entry=str(raw["entry"]),
        algorithm=str(raw["algorithm"]),
        bits=bits,
        distance=_ranged(int(raw["distance"]), 0, bits),
        max_distance=_ranged(int(raw["max_distance"]), 0, bits),
        view=str(raw["view"]),
        quality=_ranged(int(raw["quality"]), 0, 100),
        opinion=Opinion(raw["opinion"]),
        generation=str(raw["generation"]),
        strength=Strength(raw["strength"]),
        second_test=SecondTest(raw["second_test"]),
        second_value=_optional(raw["second_value"]),
        second_limit=_optional(raw["second_limit"]),
        position_ms=_position(raw["position_ms"]),
        row=_ranged(int(raw["row"]), -1, _LARGEST_ROW),
        passes_shape=bool(raw["passes_shape"]),
        is_stable=bool(raw["is_stable"]),
        tier=_ranged(int(raw["tier"]), 0, 127),
        bank_rows=_counted(raw["bank_rows"]),
        expected_false=_amount(raw["expected_false"]),
        view_hash=_view_hash(raw["view_hash"], bits),
    )


def _view_hash(raw: str, bits: int) -> bytes:
    if raw and len(raw) * 4 != bits:
        raise ValueError(f"a view's hash of {bits} bits has not {len(raw)} digits")
    return bytes.fromhex(raw)


def _optional(value: float | None) -> float | None:
    return None if value is None else _amount(value)


def _position(value: int | None) -> int | None:
    return None if value is None else _ranged(int(value), 0, _LONGEST_POSITION_MS)


def _score(raw: dict[str, Any]) -> ClassScore:
    score = _finite(raw["score"])
    if not 0 <= score <= 1:
        raise ValueError("a score is 0-1")
    return ClassScore(
        model=str(raw["model"]),
        label=str(raw["label"]),
        score=score,
        model_sha256=str(raw["model_sha256"]),
        provider=str(raw["provider"]),
        precision=str(raw["precision"]),
        view=str(raw["view"]),
        is_reused=bool(raw["is_reused"]),
    )


def _use(raw: dict[str, Any]) -> ModelUse:
    looks, left_out = (_ranged(int(raw[name]), 0, _MOST_LOOKS) for name in ("looks", "left_out"))
    return ModelUse(str(raw["model"]), looks, left_out, bool(raw["is_spared"]), bool(raw["is_reused"]))
