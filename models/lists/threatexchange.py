"""ThreatExchange: pages of `/threat_updates/` as JSON, one page or many, or their records line after line.

The names are those of Meta's Graph API (https://developers.facebook.com/docs/threat-exchange/reference/apis/) as
python-threatexchange asks for them (facebook/ThreatExchange, exchanges/impl/fb_threatexchange_api.py), and so is what
descriptors and reactions mean. An entry's name is the indicator's `id`.
"""

from typing import Any, BinaryIO, Final

from models.lists.contents import POSITIVE, ListContents
from models.lists.gathering import (
    DISPUTED,
    NEGATIVE,
    SEED,
    BadRow,
    Gathering,
    carried,
    identity,
    is_taken_back,
    together,
)
from models.lists.json_records import JsonList, JsonWriter

SIGNALS: Final = {"HASH_PDQ": "pdq", "HASH_PHOTODNA": "photodna"}
"""Indicator types by the hash that they are here; one that is not installed is left out like all others."""

_LONGEST_OWNER: Final = 64
_STATUS: Final = {"MALICIOUS": POSITIVE, "NON_MALICIOUS": NEGATIVE}
_WRITTEN: Final = {
    NEGATIVE: ("NON_MALICIOUS",),
    SEED: ("UNKNOWN",),
    POSITIVE: ("MALICIOUS",),
    DISPUTED: ("MALICIOUS", "NON_MALICIOUS"),
}


class ThreatExchangeList(JsonList):
    """The format `threatexchange`. It carries whole frames, their entries and opinions, and withdrawals.

    A page's facts are such as `paging.next` and `paging.cursors.after`.
    """

    name: Final = "threatexchange"
    list_key = "data"

    def write(self, file: BinaryIO, contents: ListContents) -> int:
        """Write one page and tell how many hashes it holds."""
        count = 0
        page = JsonWriter(file, self.list_key)
        seconds = int(contents.as_of_seconds)
        for kind, rows in carried(contents, SIGNALS).items():
            columns = zip(rows.entry_names("row"), rows.hashes, rows.dense_opinions().tolist(), strict=True)
            for entry, value, opinion in columns:
                descriptors = [
                    {"id": f"{owner}", "owner": {"id": f"{owner}"}, "status": status, "tags": []}
                    for owner, status in enumerate(_WRITTEN[opinion], 1)
                ]
                record = {"id": entry, "indicator": value.tobytes().hex(), "type": kind, "last_updated": seconds}
                page.put({**record, "should_delete": False, "descriptors": {"data": descriptors}})
            count += len(rows)
        for entry in contents.withdrawn:
            page.put({"id": entry, "last_updated": seconds, "should_delete": True})
        page.close({})
        return count

    def is_record(self, raw: dict[str, Any]) -> bool:
        """Tell an update from a descriptor or an owner."""
        return "id" in raw and ("indicator" in raw or "should_delete" in raw)

    def take(self, raw: dict[str, Any], line: int, gathering: Gathering) -> None:
        """Take one update. Raises `BadRow`."""
        entry, kind, indicator = identity(raw.get("id")), raw.get("type"), raw.get("indicator")
        gathering.newest(raw.get("last_updated"))
        is_gone = is_taken_back(raw.get("should_delete"), "should_delete")
        opinion = None if is_gone else _opinion(raw.get("descriptors"))
        if opinion is None:
            gathering.withdraw(entry)
            return
        if not isinstance(kind, str):
            raise BadRow("it has no type")
        signal = SIGNALS.get(kind, "")
        if not gathering.knows(signal):
            gathering.leave_out(kind)
            return
        if not isinstance(indicator, str):
            raise BadRow("its indicator is no text")
        gathering.row(signal, indicator, line, entry, opinion)


def _opinion(descriptors: Any) -> int | None:
    """What those who shared an indicator and who reacted to it think together; None where nobody shares it any more."""
    listed = descriptors.get("data") if isinstance(descriptors, dict) else descriptors
    if listed is None:
        return None
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise BadRow("its descriptors are no list of objects")
    said: dict[str, int] = {}
    reacted: dict[str, int] = {}
    for number, one in enumerate(listed):
        owner = one.get("owner")
        who = str(owner.get("id", number))[:_LONGEST_OWNER] if isinstance(owner, dict) else f"?{number}"
        status = one.get("status")
        opinion = _STATUS.get(status, SEED) if isinstance(status, str) else SEED
        said[who] = together([opinion, said[who]]) if who in said else opinion
        _add_reactions(one.get("reactions"), reacted)
    if not said:
        return None
    return together([*said.values(), *(opinion for who, opinion in reacted.items() if who not in said)])


def _add_reactions(reactions: Any, reacted: dict[str, int]) -> None:
    for reaction in reactions if isinstance(reactions, list) else ():
        value = reaction.get("value") if isinstance(reaction, dict) else None
        if not isinstance(value, str):
            continue
        for who in value.split(","):
            if reaction.get("key") == "HELPFUL":
                reacted[who] = POSITIVE
            elif reaction.get("key") == "DISAGREE_WITH_TAGS":
                reacted.setdefault(who, NEGATIVE)
