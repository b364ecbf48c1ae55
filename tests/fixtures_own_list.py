"""A list of one's own on disk, with its signed manifest, and what takes it in."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.exchanges.job import SyncJob
from detector.exchanges.manifest import Manifest, file_digest
from detector.exchanges.records import SyncState
from detector.exchanges.sync import sync
from detector.trust.signing import Signer, public_key_text
from models.bank_store import bank_stats
from tests.exchange_servers import NOW

SIGNER = Signer.of_seed(b"k" * 32)
BANK = "banks/OWN"
DAY = 86_400.0


@dataclass
class OwnList:
    """A list of our own on disk, signed anew by each `put`, and the job that takes it in."""

    folder: Path
    version: int = 0
    now: float = NOW
    most_change: float = 0.1
    accepted: tuple[int, int] | None = None
    keys: tuple[tuple[str, int | None], ...] = ((public_key_text(SIGNER.public_key), None),)
    text: str = field(default="", init=False)

    @property
    def manifest(self) -> Path:
        return self.folder / "own.json"

    def put(self, hashes: NDArray[np.uint8], *, signer: Signer = SIGNER, **changes: Any) -> None:
        """Write the list and its manifest; `changes` are what the manifest says otherwise."""
        self.version += 1
        self.text = "".join(f"pdq {row.tobytes().hex()}\n" for row in hashes)
        (self.folder / "own.txt").write_text(self.text)
        now = round(self.now * 1000)
        made = Manifest(
            name="own",
            file="own.txt",
            format="plain",
            sha256=file_digest(self.folder / "own.txt"),
            rows=len(hashes),
            version=self.version,
            issued_ms=now,
            expires_ms=now + 86_400_000,
        )
        self.manifest.write_text(json.dumps(replace(made, **changes).signed(signer)))

    async def sync(self) -> SyncState:
        job = SyncJob(
            exchange="own",
            kind="file",
            bank_dir=str(self.folder / BANK),
            state_dir=str(self.folder),
            most_rows=100_000,
            most_change=self.most_change,
            path=str(self.manifest),
            keys=self.keys,
            accepted=self.accepted,
        )
        return await sync(job.client(lambda: self.now), job.adoption(), lambda: self.now)

    def rows(self) -> int:
        return sum(bank_stats(self.folder / BANK).rows.values())
