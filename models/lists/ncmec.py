"""NCMEC's hash sharing, version 2: a page of `entries` as XML.

The names are those of https://report.cybertip.org/hashsharing/v2/documentation.pdf as facebook/ThreatExchange reads
them (python-threatexchange, exchanges/clients/ncmec/hash_api.py). An entry's name is `<member>-<id>`, as there; an
entry of member 0, who nobody is, is one of our own and called by its `id` alone.
"""

import contextlib
import io
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from models.lists.contents import DEFAULT_SIGNAL, POSITIVE, ListContents, ListedRows, ListPage, PageUnreadable
from models.lists.gathering import DISPUTED, BadRow, FileList, Gathering, carried, shown
from models.lists.json_records import MOST_PAGE_BYTES, Facts
from models.lists.times import utc_seconds, utc_text
from models.lists.xml_records import Part, TypeRefused, XmlRecord, XmlRecords

NAMESPACE: Final = "https://hashsharing.ncmec.org/hashsharing/v2"

SIGNALS: Final = {"pdq": "pdq", "pdna": "photodna"}
"""Fingerprints by the hash that they are here; one that is not installed is left out like all others."""

_RECORDS: Final = ("image", "video", "deletedImage", "deletedVideo")
_CONTAINERS: Final = ("images", "videos")
_OF_MEMBER: Final = re.compile(r"([1-9]\d{0,18})-(.+)", re.DOTALL | re.ASCII)
_NOBODY: Final = "0"
_MEMBER: Final = re.compile(r"\d{1,19}", re.ASCII)
_TOP: Final = 1
_INNER: Final = 2
_LONGEST_TIME: Final = 40


class NcmecList(FileList):
    """The format `ncmec`. It carries whole frames that are known or disputed, their entries, and deletions."""

    name: Final = "ncmec"

    def read_file(self, file: BinaryIO, path: Path, *, signal: str = DEFAULT_SIGNAL) -> ListContents:
        """Read a file; every fingerprint says its type, so `signal` is not needed."""
        del signal
        gathering = Gathering(path, self.most_rows)
        records = XmlRecords(file, _RECORDS, _CONTAINERS)
        try:
            deque(_taken(records, gathering), maxlen=0)
        except TypeRefused as error:
            gathering.bad(1, str(error))
        _facts(records, gathering)
        return gathering.contents(is_whole=True)

    def parse(self, body: bytes) -> ListPage:
        """Read one page. Its facts are `next` and such as `images.maxTimestamp`; `as_of_seconds` is the later of these.

        Raises:
            PageUnreadable: The body is none.
        """
        if len(body) > MOST_PAGE_BYTES:
            raise PageUnreadable(f"the reply is longer than {MOST_PAGE_BYTES} bytes")
        gathering = Gathering(None, self.most_rows)
        records = XmlRecords(io.BytesIO(body), _RECORDS, _CONTAINERS)
        try:
            for _, record in _taken(records, gathering):
                if isinstance(record, BadRow):
                    raise PageUnreadable(f"the reply is no whole page: {record}")
        except TypeRefused as error:
            raise PageUnreadable(str(error)) from None
        if records.root[1] != "queryResult":
            raise PageUnreadable("the reply is no queryResult")
        facts = _facts(records, gathering)
        return ListPage(gathering.contents(is_whole=True), facts)

    def write(self, file: BinaryIO, contents: ListContents) -> int:
        """Write one page and tell how many hashes it holds: those that are positive or disputed."""
        when = utc_text(contents.as_of_seconds)
        listed = {kind: _known(rows) for kind, rows in carried(contents, SIGNALS).items()}
        count = sum(len(rows) for rows in listed.values())
        file.write(b'<?xml version="1.0" encoding="UTF-8"?>\n')
        file.write(f"<queryResult xmlns={quoteattr(NAMESPACE)}>\n".encode())
        file.write(f'<images count="{count + len(contents.withdrawn)}" maxTimestamp="{when}">\n'.encode())
        for kind, rows in listed.items():
            opinions = rows.dense_opinions().tolist()
            for number, entry in enumerate(rows.entry_names("row")):
                value = rows.hashes[number].tobytes().hex()
                doubt = f'<feedback><negativeFeedback type="{kind.capitalize()}"/></feedback>'
                file.write(
                    f"<image>{_head(entry, when)}<fingerprints><{kind}>{value}</{kind}></fingerprints>"
                    f"{doubt if opinions[number] == DISPUTED else ''}</image>\n".encode()
                )
        for entry in contents.withdrawn:
            file.write(f"<deletedImage>{_head(entry, when)}</deletedImage>\n".encode())
        file.write(b"</images>\n</queryResult>\n")
        return count


def _known(rows: ListedRows) -> ListedRows:
    return rows.without(np.flatnonzero(~np.isin(rows.dense_opinions(), (POSITIVE, DISPUTED))))


def _head(entry: str, when: str) -> str:
    of_member = _OF_MEMBER.fullmatch(entry)
    is_members = of_member is not None and of_member[2] == of_member[2].strip()
    member, own = of_member.groups() if of_member is not None and is_members else (_NOBODY, entry)
    return f'<member id="{member}"/><timestamp>{when}</timestamp><id>{escape(own)}</id>'


def _taken(records: XmlRecords, gathering: Gathering) -> Iterator[tuple[int, XmlRecord | BadRow]]:
    """Take all records; gives each, so that a caller may stop at one that is broken."""
    for number, (line, record) in enumerate(records, 1):
        try:
            if isinstance(record, BadRow):
                raise record
            _take(record, gathering)
        except BadRow as error:
            gathering.bad(line, f"record {number}: {error}")
        yield line, record


def _take(record: XmlRecord, gathering: Gathering) -> None:
    entry = _entry(record)
    if record.name.startswith("deleted"):
        gathering.withdraw(entry)
        return
    disputed = {
        part.attributes.get("type", "").lower()
        for part in record.parts
        if part.name == "negativeFeedback" and part.depth == _INNER
    }
    bad: BadRow | None = None
    for part in _within(record, "fingerprints"):
        signal = SIGNALS.get(part.name.lower(), "")
        if not gathering.knows(signal):
            gathering.leave_out(part.name)
            continue
        opinion = DISPUTED if part.name.lower() in disputed else POSITIVE
        try:
            gathering.row(signal, part.text.strip(), record.line, entry, opinion)
        except BadRow as error:
            bad = bad or error
    if bad is not None:
        raise bad


def _within(record: XmlRecord, name: str) -> Iterator[Part]:
    """The elements that stand right within one of a name."""
    is_inside = False
    for part in record.parts:
        if part.depth == _TOP:
            is_inside = part.name == name
        elif is_inside and part.depth == _INNER:
            yield part


def _entry(record: XmlRecord) -> str:
    top = {part.name: part for part in record.parts if part.depth == _TOP}
    if "member" not in top or "id" not in top:
        raise BadRow("it has no member or no id")
    member, own = top["member"].attributes.get("id", ""), top["id"].text
    if not _MEMBER.fullmatch(member):
        raise BadRow(f"the member {shown(member)} is none")
    member = str(int(member))
    own = own.strip() if "\n" in own or member != _NOBODY else own
    if not own:
        raise BadRow("the id is empty")
    return own if member == _NOBODY else f"{member}-{own}"


def _facts(records: XmlRecords, gathering: Gathering) -> Facts:
    facts: Facts = {}
    for part in records.around:
        if part.name in _CONTAINERS and "maxTimestamp" in part.attributes:
            text = part.attributes["maxTimestamp"][:_LONGEST_TIME]
            facts[f"{part.name}.maxTimestamp"] = text
            with contextlib.suppress(ValueError):
                gathering.newest(utc_seconds(text))
        elif part.name == "next" and part.text:
            facts["next"] = part.text.strip()
    return facts
