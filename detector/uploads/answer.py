"""What is answered about one upload: the detections of `stopframe scan --json`, what they come to, on what grounds."""

import asyncio
from pathlib import Path
from typing import Any, Final

from detector.analysis.pool import AnalysisPool
from detector.analysis.setup import BANKS_FOLDER
from detector.config.config import Config
from detector.config.loading import config_digest
from detector.events import Step
from detector.looking import ENOUGH, MediumLook, half_a_look
from detector.metric_words import UploadEnd
from detector.overview import versions
from detector.uploads.file import Received
from models.arrays import IndexCorrupt
from models.bank_store import INCIDENT_BANK, bank_names
from models.generations import read_pointer
from streams.wire import EndCode

MOST_DETECTIONS: Final = 1000
"""In one answer; the others are counted."""


class Provenance:
    """On what grounds an upload is judged: the config, the models, and the generation of each bank."""

    def __init__(self, pool: AnalysisPool) -> None:
        self._pool = pool
        self._digest: tuple[Config, str] | None = None

    async def read(self, config: Config) -> dict[str, Any]:
        """Return what holds now, with a sentence for each `problem`: a bank or a model that is not in use."""
        if self._digest is None or self._digest[0] is not config:
            self._digest = config, config_digest(config)
        state = self._pool.state()
        generations = await asyncio.to_thread(_generations, config.state_dir / BANKS_FOLDER)
        return {
            "stopframe": versions().get("stopframe"),
            "node": config.node,
            "config_digest": self._digest[1],
            "banks": generations,
            "models": dict(state.models) if state is not None else {},
            "problems": half_a_look(config, self._pool),
        }


class UploadAnswer:
    """What is told of one upload. `tell` takes its detections as they come, `end` closes it."""

    def __init__(self, received: Received, provenance: dict[str, Any], *, is_live: bool) -> None:
        self.name = f"sha256:{received.sha256}"
        self.cpu_seconds = 0.0
        self.is_looked_at = False
        self._received = received
        self._provenance = provenance
        self._is_live = is_live
        self._strongest = Step.OFF
        self._detections: list[dict[str, Any]] = []
        self._left_out = 0
        self._summary: dict[str, Any] = {}
        self._ended = ""
        self._is_complete = False

    def tell(self, detection: dict[str, Any]) -> None:
        """Take a detection, in the form in which a scan prints it."""
        self._strongest = max(self._strongest, Step[detection["decision"].upper()])
        if len(self._detections) < MOST_DETECTIONS:
            self._detections.append(detection)
        else:
            self._left_out += 1

    def end(self, code: str, fault: str | None, look: MediumLook) -> None:
        """Take in how the look ended."""
        self._ended = str(code)
        self._summary = look.summary(code, fault)
        self.cpu_seconds = float(self._summary["cpu_s"])
        self.is_looked_at = look.frames_analysed > 0
        is_whole = code == EndCode.END_OF_STREAM and fault is None and not look.frames_not_analysed
        self._is_complete = is_whole and not self._provenance["problems"]

    @property
    def ended(self) -> str:
        """The word for how the look ended."""
        return self._ended

    @property
    def count(self) -> int:
        """How many detections there were."""
        return len(self._detections) + self._left_out

    @property
    def decision(self) -> UploadEnd:
        """The strongest step that was found; of what was not looked at as a whole never that it is harmless."""
        if self._strongest >= Step.REVIEW or (self._is_complete and self._strongest > Step.OFF):
            return UploadEnd(self._strongest.word)
        return UploadEnd.ALLOW if self._is_complete else UploadEnd.UNKNOWN

    @property
    def error(self) -> str | None:
        """Why nothing of it could be looked at, in one sentence; None where something was."""
        if self.is_looked_at or self._ended in (EndCode.END_OF_STREAM, ENOUGH):
            return None
        return f"the file {self._summary['error']['message']}."

    def body(self) -> dict[str, Any]:
        """Return the answer; no pixel is in it."""
        told: dict[str, Any] = {
            "decision": self.decision.value,
            "complete": self._is_complete,
            "ended": self._ended,
            "mode": "live" if self._is_live else "shadow",
            "sha256": self._received.sha256,
            "bytes": self._received.length_bytes,
            "detections": self._detections,
            "detections_left_out": self._left_out,
            "summary": self._summary,
            "provenance": self._provenance,
        }
        return told if self.error is None else {"error": self.error, **told}


def _generations(banks: Path) -> dict[str, str]:
    """The generation in force of each bank, by name."""
    found = {}
    for name in [*bank_names(banks), INCIDENT_BANK]:
        try:
            pointer = read_pointer(banks / name)
        except (IndexCorrupt, OSError):  # the analysis processes tell of banks that cannot be read
            continue
        if pointer is not None:
            found[name] = pointer.generation
    return found
