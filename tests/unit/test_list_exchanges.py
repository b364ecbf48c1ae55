"""Lists of exchanges: what their words mean here, and that a broken record costs itself alone."""

import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bank_rows import OPINION_CODES
from models.lists.contents import ListContents, ListTooLong, PageFormat, PageUnreadable
from models.lists.ncmec import NAMESPACE, NcmecList
from models.lists.registry import FORMATS
from models.lists.stopncii import StopNciiList
from models.lists.tech_against_terrorism import TechAgainstTerrorismList
from models.lists.threatexchange import ThreatExchangeList
from models.lists.times import utc_seconds, utc_text

_PDQ = "0123456789abcdef" * 4


def _read(tmp_path: Path, form: str, content: str | bytes) -> ListContents:
    path = tmp_path / "list"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return FORMATS[form].read(path)


def _said(contents: ListContents) -> dict[str, str]:
    """Opinions by entry."""
    rows = contents.rows.get("pdq")
    if rows is None:
        return {}
    opinions = [OPINION_CODES[code].value for code in rows.dense_opinions()]
    return dict(zip(rows.entry_names("list"), opinions, strict=True))


def _update(number: int, *statuses: str, **more: Any) -> dict[str, Any]:
    descriptors = [
        {"id": f"{place}", "owner": {"id": f"{place}"}, "status": status} for place, status in enumerate(statuses)
    ]
    return {
        "id": f"{number}",
        "indicator": secrets.token_hex(32),
        "type": "HASH_PDQ",
        "last_updated": 1_700_000_000 + number,
        "should_delete": False,
        "descriptors": {"data": descriptors},
        **more,
    }


@pytest.mark.parametrize(
    ("statuses", "reactions", "opinion"),
    [
        (["MALICIOUS"], [], "positive"),
        (["NON_MALICIOUS"], [], "negative"),
        (["UNKNOWN"], [], "seed"),
        (["a word of tomorrow"], [], "seed"),
        (["UNKNOWN", "MALICIOUS"], [], "positive"),
        (["MALICIOUS", "NON_MALICIOUS"], [], "disputed"),
        (["MALICIOUS"], [{"key": "DISAGREE_WITH_TAGS", "value": "77,78"}], "disputed"),
        (["UNKNOWN"], [{"key": "HELPFUL", "value": "77"}], "positive"),
        (["MALICIOUS"], [{"key": "DISAGREE_WITH_TAGS", "value": "0"}], "positive"),
    ],
)
def test_threatexchange_owners_and_reactions_come_to_one_opinion(
    statuses: list[str], reactions: list[dict[str, str]], opinion: str
) -> None:
    """Who shares an indicator says what it is; others' reactions count, but not against one's own word."""
    update = _update(1, *statuses)
    update["descriptors"]["data"][0]["reactions"] = reactions
    page = ThreatExchangeList().parse(json.dumps({"data": [update]}).encode())

    assert _said(page.contents) == {"1": opinion}


def test_threatexchange_tombstones_withdraw() -> None:
    """`should_delete`, and a record that nobody describes any more, take the entry back; a number is a name."""
    updates = [
        {"id": 12, "should_delete": True},
        _update(2, "MALICIOUS", should_delete=True),
        {**_update(3), "descriptors": {"data": []}},
        {"id": "4", "indicator": _PDQ, "type": "HASH_PDQ"},
    ]
    body = {"data": updates, "paging": {"next": "https://127.0.0.1/next", "cursors": {"after": "abc"}}}
    page = ThreatExchangeList().parse(json.dumps(body).encode())

    assert (len(page.contents), page.contents.withdrawn) == (0, ["12", "2", "3", "4"])
    assert page.facts == {"paging.next": "https://127.0.0.1/next", "paging.cursors.after": "abc"}
    assert page.contents.as_of_seconds == 1_700_000_003


def test_kinds_that_nothing_matches_are_counted_by_their_word(tmp_path: Path) -> None:
    """MD5, PhotoDNA and what else there is are left out and counted, and are no bad rows."""
    kinds = ["HASH_MD5", "HASH_MD5", "HASH_PHOTODNA", "HASH_TMK", "\x1b[2J"]
    lines = [json.dumps(_update(number, "MALICIOUS", type=kind)) for number, kind in enumerate(kinds)]
    contents = _read(tmp_path, "threatexchange", "\n".join(lines))

    assert contents.left_out == {"HASH_MD5": 2, "HASH_PHOTODNA": 1, "HASH_TMK": 1, "other": 1}
    assert (contents.bad.count, len(contents)) == (0, 0)


def test_the_last_word_on_an_entry_stands(tmp_path: Path) -> None:
    """A tombstone after a record takes it back; a record after a tombstone brings it again."""
    first, second = _update(1, "MALICIOUS"), _update(2, "MALICIOUS")
    gone = [{"id": "1", "should_delete": True}, {"id": "2", "should_delete": True}]
    contents = _read(tmp_path, "threatexchange", "\n".join(map(json.dumps, [gone[1], first, gone[0], second])))

    assert _said(contents) == {"2": "positive"}
    assert contents.withdrawn == ["2", "1"]


def _record(status: str, value: str = "", **more: Any) -> dict[str, Any]:
    return {
        "lastModtimestamp": 1_700_000_000,
        "signalType": "ImagePDQ",
        "hashValue": value or secrets.token_hex(32),
        "hashStatus": status,
        "caseNumbers": {"00000000": status},
        "CSPFeedbacks": [],
        **more,
    }


def test_stopncii_honours_withdrawals_and_refuses_half_a_hash() -> None:
    """Withdrawn and deleted cases go; a hash of half the length is a bad row; a new word for a state is none."""
    values = [secrets.token_hex(32) for _ in range(5)]
    records = [
        _record("Active", values[0]),
        _record("Withdrawn", values[1]),
        _record("Deleted", values[2].upper()),
        _record("Active", secrets.token_hex(16)),
        _record("Expired", values[3]),
        _record("Received", values[4], CSPFeedbacks=[{"feedbackValue": "Blocked", "tags": ["x"], "source": "y"}]),
        _record("Active", secrets.token_hex(16), signalType="VideoMD5"),
    ]
    body = {"count": 7, "nextPageToken": "n", "nextSetTimestamp": 5, "hasMoreRecords": True, "hashRecords": records}
    page = StopNciiList().parse(json.dumps(body).encode())

    assert _said(page.contents) == {f"ImagePDQ:{values[0]}": "seed", f"ImagePDQ:{values[4]}": "positive"}
    assert page.contents.withdrawn == [f"ImagePDQ:{values[1]}", f"ImagePDQ:{values[2]}"]
    assert (page.contents.bad.count, page.contents.left_out) == (2, {"VideoMD5": 1})
    assert page.contents.bad.first_reason == "record 4: a pdq hash has 64 hexadecimal digits, not 32"
    assert page.facts == {"count": 7, "nextPageToken": "n", "nextSetTimestamp": 5, "hasMoreRecords": True}


def test_tech_against_terrorism_is_read_as_page_and_as_file(tmp_path: Path) -> None:
    """Pages and the bare list hold the same records; a deletion takes back, other algorithms are counted."""
    record = {"hash_digest": _PDQ, "algorithm": "PDQ", "ideology": "all", "file_type": "jpg", "deleted": False, "id": 7}
    records = [record, {**record, "id": 8, "deleted": True}, {**record, "id": 9, "algorithm": "MD5"}]
    body = json.dumps({"count": 3, "next": None, "previous": None, "checkpoint": "1,9", "results": records})
    page = TechAgainstTerrorismList().parse(body.encode())
    bare = _read(tmp_path, "tat", json.dumps(records, indent=2))

    for contents in (page.contents, bare):
        assert _said(contents) == {"7": "positive"}
        assert (contents.withdrawn, contents.left_out, contents.bad.count) == (["8"], {"MD5": 1}, 0)
    assert page.facts == {"count": 3, "next": None, "previous": None, "checkpoint": "1,9"}


def _entry(number: int, more: str = "", value: str = "") -> str:
    return (
        f'<image><member id="42">M</member><timestamp>2026-10-24T15:00:00Z</timestamp><id>image{number}</id>'
        f"<fingerprints><md5>00</md5><pdq>{value or secrets.token_hex(32)}</pdq></fingerprints>{more}</image>\n"
    )


def _page(*parts: str, videos: str = "", more: str = "") -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n<queryResult xmlns="{NAMESPACE}">\n'
        f'<images count="1" maxTimestamp="2026-10-24T15:10:00Z">{"".join(parts)}</images>\n'
        f'<videos count="1" maxTimestamp="2026-10-24T15:20:00">{videos}</videos>\n{more}</queryResult>'
    ).encode()


def test_ncmec_entries_deletions_and_doubts() -> None:
    """Member and id name an entry; deletions of pictures and videos withdraw; negative feedback on PDQ disputes."""
    doubt = '<feedback><negativeFeedback type="Pdq"/><negativeFeedback type="Md5"/></feedback>'
    other = '<feedback><negativeFeedback type="Md5"/><affirmativeFeedback type="Pdq"/></feedback>'
    gone = '<deletedImage><member id="43"/><id>image4</id></deletedImage>'
    videos = '<deletedVideo><member id="42"/><id>video4</id></deletedVideo>'
    paging = "<paging><next>/v2/entries?from=a&amp;start=2001</next></paging>"
    page = NcmecList().parse(_page(_entry(1), _entry(2, doubt), _entry(3, other), gone, videos=videos, more=paging))

    assert _said(page.contents) == {"42-image1": "positive", "42-image2": "disputed", "42-image3": "positive"}
    assert page.contents.withdrawn == ["43-image4", "42-video4"]
    assert page.contents.left_out == {"md5": 3}
    assert page.facts["next"] == "/v2/entries?from=a&start=2001"
    assert page.facts["images.maxTimestamp"] == "2026-10-24T15:10:00Z"
    assert page.contents.as_of_seconds == utc_seconds("2026-10-24T15:20:00Z")


def test_a_record_that_breaks_costs_itself(tmp_path: Path) -> None:
    """In XML and in JSON what is damaged is counted, and everything else is taken, in front of it and behind it."""
    damaged = ["<image><member id='42'><id>x</image>\n", "<image>&unknown;</image>\n", "<image <></image>\n"]
    parts = [part for number in range(30) for part in (_entry(number), damaged[number % 3])]
    contents = _read(tmp_path, "ncmec", _page(*parts, videos=_entry(99).replace("image>", "video>")))
    assert set(_said(contents)) == {*(f"42-image{number}" for number in range(30)), "42-image99"}
    assert 30 <= contents.bad.count <= 60
    assert contents.bad.first_line_number == 4

    lines = [json.dumps(_update(number, "MALICIOUS")) for number in range(40)]
    halved = [line if number % 2 else line[: len(line) * number // 40] for number, line in enumerate(lines)]
    contents = _read(tmp_path, "threatexchange", '{"data": [\n' + ",\n".join(halved) + "\n]}")
    assert set(_said(contents)) == {f"{number}" for number in range(1, 40, 2)}
    assert 19 <= contents.bad.count <= 21


def test_a_list_longer_than_what_is_held_is_read_whole(tmp_path: Path) -> None:
    """A page of megabytes, and lines of pages, come out record by record."""
    records = [_record("Active") for _ in range(6_000)]
    text = json.dumps({"hashRecords": records, "count": 6_000, "more": {"a": [1, {"b": "}]"}]}})
    lines = "\n".join(json.dumps({"count": 1, "hashRecords": [record]}) for record in records[:500])

    assert len(text) > 1 << 20
    for content, count in ((text, 6_000), (lines, 500), (text + "\n" + text, 6_000)):
        contents = _read(tmp_path, "stopncii", content)
        assert (len(set(_said(contents))), contents.bad.count) == (count, 0)


@pytest.mark.parametrize("kind", ["doctype", "entities"])
def test_a_document_type_is_refused(tmp_path: Path, kind: str) -> None:
    """No document of a list declares its type: nothing of one that does is believed, nothing is expanded or fetched."""
    inner = '<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">' if kind == "entities" else ""
    body = f'<!DOCTYPE queryResult SYSTEM "file:///etc/passwd" [{inner}]>'.encode()
    content = _page(_entry(1, "<x>&b;</x>" if inner else "")).replace(b"?>\n", b"?>\n" + body)
    contents = _read(tmp_path, "ncmec", content)

    assert (len(contents), contents.bad.count) == (0, 1)
    assert "declares a type" in contents.bad.first_reason
    with pytest.raises(PageUnreadable, match="declares a type"):
        NcmecList().parse(content)


def test_prefixes_encodings_and_spaces_make_no_difference(tmp_path: Path) -> None:
    """XML is XML: other prefixes, Latin-1, UTF-16 and lines within values are read all the same, damaged or not."""
    value = secrets.token_hex(32)
    page = _page(_entry(1, value=value)).decode()
    prefixed = page.replace("xmlns=", "xmlns:h=").replace("</", "</h:").replace("<", "<h:").replace("<h:/h:", "</h:")
    prefixed = prefixed.replace("<h:?xml", "<?xml")
    spaced = page.replace("<id>image1</id>", "<id>\n  image1\n </id>").replace(value, f"\n {value}\n")
    broken = prefixed.replace("<h:image>", "<h:image><oops></h:image><h:image>")
    latin = page.replace("UTF-8", "ISO-8859-1").replace(">M<", ">Mé<").encode("latin-1")
    wide = page.replace("UTF-8", "UTF-16").encode("utf-16")
    for content in (prefixed.encode(), spaced.encode(), broken.encode(), latin, wide):
        assert _said(_read(tmp_path, "ncmec", content)) == {"42-image1": "positive"}


@pytest.mark.parametrize("name", ["threatexchange", "ncmec", "stopncii", "tat"])
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b"<html>", b"\xff\xfe", b'{"data": {}}', b"[" * 200_000])
def test_what_is_no_page_is_none(name: str, body: bytes) -> None:
    """An error page, an empty reply or a bomb is no page without records."""
    form = FORMATS[name]
    assert isinstance(form, PageFormat)
    with pytest.raises(PageUnreadable):
        form.parse(body)


def test_more_rows_than_allowed_are_refused(tmp_path: Path) -> None:
    """The limit holds for every format alike."""
    path = tmp_path / "list"
    path.write_text("\n".join(json.dumps(_update(number, "MALICIOUS")) for number in range(11)))

    with pytest.raises(ListTooLong):
        ThreatExchangeList(most_rows=10).read(path)
    assert len(ThreatExchangeList(most_rows=11).read(path)) == 11


@pytest.fixture(params=["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """This machine's own zone, here and there."""
    monkeypatch.setitem(os.environ, "TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def test_times_are_utc_wherever_this_runs(zone: str) -> None:
    """A time without a zone is UTC; the machine's own zone shifts nothing, in or out."""
    assert utc_seconds("2026-10-24T15:10:00Z") == utc_seconds("2026-10-24T15:10:00") == 1_792_854_600, zone
    assert utc_seconds("2026-10-24 17:10:00.5+02:00") == 1_792_854_600.5
    assert utc_text(1_792_854_600) == "2026-10-24T15:10:00Z"
    for text in ("", "yesterday", "9" * 50):
        with pytest.raises(ValueError, match=r"time|isoformat"):
            utc_seconds(text)


@given(
    content=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "id",
                        "indicator",
                        "type",
                        "should_delete",
                        "descriptors",
                        "data",
                        "status",
                        "owner",
                        "results",
                        "hash_digest",
                        "algorithm",
                        "deleted",
                        "hashRecords",
                        "signalType",
                        "hashValue",
                        "hashStatus",
                    ]
                ),
                inner,
                max_size=6,
            )
        ),
        max_leaves=20,
    )
)
@settings(max_examples=150, deadline=None)
def test_json_of_any_shape_is_read(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    """Whatever types stand where others are expected, rows are counted as bad and nothing else happens."""
    path = tmp_path_factory.mktemp("lists") / "list"
    path.write_text(json.dumps({"data": [content], "results": [content], "hashRecords": [content]}))
    for name in ("threatexchange", "stopncii", "tat"):
        contents = FORMATS[name].read(path)
        assert len(contents) + len(contents.withdrawn) + sum(contents.left_out.values()) + contents.bad.count <= 1
        assert np.all(contents.bad.count >= 0)
