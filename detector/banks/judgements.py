"""Somebody's word on an entry, kept for the exchange that gave it: what `confirm` and `deconfirm` leave behind."""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from detector.config.config import Config
from detector.exchanges.feedback_shapes import SHAPES
from detector.exchanges.records import read_source
from detector.store.database import Database
from detector.store.faults import StoreUnavailable
from detector.store.feedback import MOST_HASHES, FeedbackRow, FeedbackStore, Verdict, read_feedback
from models.bank_store import load_bank

DATABASE: Final = "stopframe.db"

_PDQ: Final = "pdq"


async def keep_judgement(config: Config, bank_dir: Path, entry: str, verdict: Verdict) -> str | None:
    """Keep a word for the exchange that fills the bank; returns that one's name, or None where there is none to tell.

    Raises:
        StoreUnavailable: the database cannot be written.
    """
    source = read_source(bank_dir)
    section = next((one for one in config.exchanges if source is not None and one.name == source.exchange), None)
    if section is None or section.feedback == "off" or section.kind not in SHAPES:
        return None
    row = FeedbackRow(
        section.name, bank_dir.name, entry, tuple(_hashes(bank_dir, entry)), verdict, round(time.time() * 1000)
    )
    async with Database.open(config.state_dir / DATABASE) as database:
        await FeedbackStore(database).note(row)
    return section.name


def kept_judgements(state_dir: Path) -> list[FeedbackRow]:
    """What is kept, the newest first; nothing where there is no database yet.

    Raises:
        StoreUnavailable: it cannot be read.
    """
    path = state_dir / DATABASE
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
            return read_feedback(connection)
    except sqlite3.Error as error:
        raise StoreUnavailable(
            f"{path} cannot be read ({error}); start the service once, which brings it up to date"
        ) from None


def _hashes(bank_dir: Path, entry: str) -> Sequence[str]:
    rows = load_bank(bank_dir).rows(_PDQ)
    if rows is None:
        return ()
    found = rows.taken(rows.names.find(entry)[:MOST_HASHES])
    return [one.tobytes().hex() for one in found.hashes]
