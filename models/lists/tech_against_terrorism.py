"""Tech Against Terrorism's hash list: pages of `api/hash-list/v2` as JSON, or the list file of records alone.

The names are those that facebook/ThreatExchange reads (python-threatexchange,
exchanges/clients/techagainstterrorism/api.py) and https://terrorismanalytics.org/docs/hash-list-v1 describes. An
entry's name is the record's `id`.
"""

from typing import Any, BinaryIO, Final

import numpy as np

from models.lists.contents import POSITIVE, ListContents
from models.lists.gathering import BadRow, Gathering, carried, identity, is_taken_back
from models.lists.json_records import JsonList, JsonWriter

SIGNALS: Final = {"PDQ": "pdq"}
"""Algorithms by the hash that they are here."""


class TechAgainstTerrorismList(JsonList):
    """The format `tat`. It carries whole frames that are thought known, their entries, and deletions.

    A page's facts are `count`, `next`, `previous` and `checkpoint`.
    """

    name: Final = "tat"
    list_key = "results"

    def write(self, file: BinaryIO, contents: ListContents) -> int:
        """Write one page and tell how many hashes it holds: those that are positive."""
        count = 0
        page = JsonWriter(file, self.list_key)
        for kind, rows in carried(contents, SIGNALS).items():
            known = rows.without(np.flatnonzero(rows.dense_opinions() != POSITIVE))
            for value, entry in zip(known.hashes, known.entry_names("row"), strict=True):
                page.put(_record(entry, kind, value.tobytes().hex(), contents.as_of_seconds, is_deleted=False))
            count += len(known)
        for entry in contents.withdrawn:
            page.put(_record(entry, "PDQ", "", contents.as_of_seconds, is_deleted=True))
        page.close({"count": count, "next": None, "previous": None, "checkpoint": ""})
        return count

    def is_record(self, raw: dict[str, Any]) -> bool:
        """Tell a hash from anything else."""
        return "id" in raw and ("hash_digest" in raw or "deleted" in raw)

    def take(self, raw: dict[str, Any], line: int, gathering: Gathering) -> None:
        """Take one hash. Raises `BadRow`."""
        entry, kind, value = identity(raw.get("id")), raw.get("algorithm"), raw.get("hash_digest")
        gathering.newest(raw.get("updated_on"))
        if is_taken_back(raw.get("deleted"), "deleted"):
            gathering.withdraw(entry)
            return
        if not isinstance(kind, str) or not isinstance(value, str):
            raise BadRow("it has no algorithm or no hash_digest")
        signal = SIGNALS.get(kind.upper(), "")
        if gathering.knows(signal):
            gathering.row(signal, value.strip(), line, entry)
        else:
            gathering.leave_out(kind)


def _record(entry: str, kind: str, value: str, seconds: float, *, is_deleted: bool) -> dict[str, Any]:
    return {
        "hash_digest": value,
        "algorithm": kind,
        "ideology": "all",
        "file_type": "",
        "deleted": is_deleted,
        "updated_on": seconds,
        "id": entry,
    }
