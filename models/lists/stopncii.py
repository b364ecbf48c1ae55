"""StopNCII: pages of `FetchHashes` as JSON, one page or many, or their records line after line.

The names are those of the API's version 1 as facebook/ThreatExchange has them (python-threatexchange,
exchanges/clients/stopncii/api.py). A record is known by its type and hash alone, so an entry's name is both:
`ImagePDQ:<hash>`. Cases that people have withdrawn or had deleted are tombstones.
"""

from typing import Any, BinaryIO, Final

from models.lists.contents import POSITIVE, ListContents
from models.lists.gathering import DISPUTED, NEGATIVE, SEED, BadRow, Gathering, carried, shown, together
from models.lists.json_records import JsonList, JsonWriter

SIGNALS: Final = {"ImagePDQ": "pdq"}
"""Signal types by the hash that they are here."""

_GONE: Final = ("Withdrawn", "Deleted")
_THERE: Final = ("Unknown", "Received", "Active")
_FEEDBACK: Final = {"Blocked": POSITIVE, "NotBlocked": NEGATIVE}
_WRITTEN: Final = {
    NEGATIVE: ("NotBlocked",),
    SEED: (),
    POSITIVE: ("Blocked",),
    DISPUTED: ("Blocked", "NotBlocked"),
}


class StopNciiList(JsonList):
    """The format `stopncii`. It carries whole frames and opinions, and withdrawals; entries are called by the hash.

    A page's facts are `count`, `nextPageToken`, `nextSetTimestamp` and `hasMoreRecords`.
    """

    name: Final = "stopncii"
    list_key = "hashRecords"

    def write(self, file: BinaryIO, contents: ListContents) -> int:
        """Write one page and tell how many hashes it holds."""
        seconds = int(contents.as_of_seconds)
        count = 0
        page = JsonWriter(file, self.list_key)
        for kind, rows in carried(contents, SIGNALS).items():
            for value, opinion in zip(rows.hashes, rows.dense_opinions().tolist(), strict=True):
                page.put(_record(kind, value.tobytes().hex(), "Active", seconds, _WRITTEN[opinion]))
            count += len(rows)
        for entry in contents.withdrawn:
            kind, _, value = entry.partition(":")
            if kind in SIGNALS and value:
                page.put(_record(kind, value, "Withdrawn", seconds, ()))
        page.close({"count": count, "nextPageToken": "", "nextSetTimestamp": seconds, "hasMoreRecords": False})
        return count

    def is_record(self, raw: dict[str, Any]) -> bool:
        """Tell a hash from a platform's feedback on it."""
        return "signalType" in raw and "hashValue" in raw

    def take(self, raw: dict[str, Any], line: int, gathering: Gathering) -> None:
        """Take one hash. Raises `BadRow`."""
        kind, value, status = raw.get("signalType"), raw.get("hashValue"), raw.get("hashStatus")
        if not isinstance(kind, str) or not isinstance(value, str):
            raise BadRow("it has no type or no hash")
        gathering.newest(raw.get("lastModtimestamp"))
        signal = SIGNALS.get(kind, "")
        if not gathering.knows(signal):
            gathering.leave_out(kind)
            return
        entry = f"{kind}:{value.strip().lower()}"
        word = status.capitalize() if isinstance(status, str) else ""
        if word in _GONE:
            gathering.withdraw(entry)
        elif word in _THERE:
            gathering.row(signal, value.strip(), line, entry, _opinion(raw.get("CSPFeedbacks")))
        else:
            raise BadRow(f"its hashStatus is {shown(status)}, none of {', '.join(_THERE + _GONE)}")


def _record(kind: str, value: str, status: str, seconds: int, feedbacks: tuple[str, ...]) -> dict[str, Any]:
    return {
        "lastModtimestamp": seconds,
        "signalType": kind,
        "hashValue": value,
        "hashStatus": status,
        "caseNumbers": {},
        "CSPFeedbacks": [{"feedbackValue": word, "tags": [], "source": ""} for word in feedbacks],
    }


def _opinion(feedbacks: Any) -> int:
    """What platforms said; a hash that somebody handed in of their own picture asks to look, and no more."""
    said = {SEED}
    for feedback in feedbacks if isinstance(feedbacks, list) else ():
        word = feedback.get("feedbackValue") if isinstance(feedback, dict) else None
        if isinstance(word, str):
            said.add(_FEEDBACK.get(word, SEED))
    return together(said)
