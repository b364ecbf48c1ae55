"""Lines of signed messages, each held against the trusted keys: what `stopframe verify` and audits go by."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from detector.alerts.alarm import SCHEMA as ALARM
from detector.trust.signing import MESSAGE_LIMIT_BYTES, SCHEMAS, NotTrusted, Purpose, Reason, TrustedKeys, parse

ALARM_BYTES: Final = 65_536
"""No alarm is longer, which stand between the alerts of a file."""
_PURPOSES: Final = {schema: purpose for purpose, schema in SCHEMAS.items()}


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said of a line (the first is 1). `reason` None: a trusted key signed it."""

    line: int
    reason: Reason | None = None
    sentence: str = ""
    key_id: str | None = None
    is_alarm: bool = False
    """Of the node itself and signed by nobody, as the file of `alerts.jsonl` holds them."""


def verify_lines(
    lines: Iterable[bytes], keys: TrustedKeys, *, now_ms: int | None, in_order: bool = False
) -> Iterator[Finding]:
    """Verify one message a line; empty lines are passed over, alarms only told of: nobody acts on them.

    With `now_ms` None neither messages nor keys expire, as an audit needs it. With `in_order` the numbers of each key
    must rise from line to line; messages without one (acknowledgements, alerts that no disk counted) are passed over.
    """
    last: dict[tuple[str, Purpose], int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip(b" \t\r\n")
        if not text:
            continue
        try:
            message = parse(text, most_bytes=ALARM_BYTES)
            if message.get("schema") == ALARM:
                yield Finding(number, is_alarm=True)
                continue
            _hold_to_length(text)
            purpose = _purpose(message)
            key_id = keys.verify(message, purpose, now_ms=now_ms).key_id
            if in_order and purpose is not Purpose.ANSWER:
                _take(last, (key_id, purpose), message.get("seq"))
        except NotTrusted as error:
            yield Finding(number, error.reason, str(error))
        else:
            yield Finding(number, key_id=key_id)


def _hold_to_length(text: bytes) -> None:
    if len(text) > MESSAGE_LIMIT_BYTES:
        raise NotTrusted(Reason.TOO_LARGE, f"it is longer than {MESSAGE_LIMIT_BYTES} bytes")


def _purpose(message: dict[str, Any]) -> Purpose:
    schema = message.get("schema")
    purpose = _PURPOSES.get(schema) if isinstance(schema, str) else None
    if purpose is None:
        raise NotTrusted(Reason.WRONG_SCHEMA, "its schema is none that is signed")
    return purpose


def _take(last: dict[tuple[str, Purpose], int], series: tuple[str, Purpose], seq: Any) -> None:
    if not isinstance(seq, int):
        return
    if seq <= last.get(series, 0):
        raise NotTrusted(Reason.REPLAYED, f"its number {seq} is not above {last[series]}, which came before")
    last[series] = seq
