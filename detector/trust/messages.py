"""What acknowledgements, commands and answers say: built, signed, and read back only where all of it may be believed.

The `read_...` functions verify the signature and everything that binds a message to its place: its topic, its node, its
time. What only the receiver can know (a number seen before, an alert that is over) is the receiver's to check.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import Any, Final

from detector.instants import rfc3339
from detector.trust.signing import (
    MESSAGE_LIMIT_BYTES,
    SCHEMAS,
    NotTrusted,
    Purpose,
    Reason,
    Signer,
    TrustedKeys,
    Verified,
    parse,
    time_ms,
)

COMMAND_LIFE_LIMIT_MS: Final = 300_000
"""No command is good for longer: what was held back on the way must not cut tomorrow."""

CLOCKS_APART_MS: Final = 30_000
"""So far may the sender's clock be ahead of ours."""

LARGEST_SEQ: Final = 2**53 - 1

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_WORD: Final = re.compile(r"[a-z0-9_.-]{1,64}", re.ASCII)
_DETAIL_CHARACTERS: Final = 200
_ACK_FIELDS: Final = frozenset({"schema", "alert_id", "stream", "state", "by", "at", "detail", "key_id", "sig"})
_COMMAND_FIELDS: Final = frozenset(
    {"schema", "node", "command", "arguments", "seq", "issued_at", "expires_at", "key_id", "sig"}
)


@unique
class AckState(StrEnum):
    """What a consumer says of an alert: `received` is a promise, `cut` and `rejected` are the end of it."""

    RECEIVED = "received"
    CUT = "cut"
    REJECTED = "rejected"


@unique
class CommandName(StrEnum):
    """What may be asked of a node; the last level of the command's topic."""

    CUT = "cut"
    UNDO = "undo"
    HINT = "hint"
    SAMPLING = "sampling"


@unique
class Result(StrEnum):
    """What became of a command: `refused` did nothing, `failed` was tried."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Ack:
    """A consumer's word on one alert. `by` is the consumer's name (a-z 0-9 _ . -), `at_ms` its wall clock."""

    alert_id: str
    stream: str
    state: AckState
    by: str
    at_ms: int
    detail: str | None = None
    key_id: str | None = None
    """Who signed it; set by `read_ack`."""


@dataclass(frozen=True, slots=True)
class Command:
    """An order to one node. `seq` rises from one command of a key to its next."""

    node: str
    command: CommandName
    arguments: Mapping[str, Any] = field(repr=False)
    seq: int
    issued_at_ms: int
    expires_at_ms: int
    key_id: str | None = None
    """Who signed it; set by `read_command`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node made of the command that key `to` numbered `seq`; `reason` is one word, of a list in the schema."""

    node: str
    command: CommandName
    to: str
    seq: int
    result: Result
    reason: str
    at_ms: int


def ack_topic(prefix: str, stream: str) -> str:
    """Return where acknowledgements of a stream's alerts go; `+` for those of all."""
    return f"{prefix}/stream/{stream}/ack"


def command_topic(prefix: str, node: str, command: str) -> str:
    """Return where a node hears a command; `+` for all of them."""
    return f"{prefix}/cmd/{node}/{command}"


def answer_topic(prefix: str, node: str) -> str:
    """Return where a node answers commands."""
    return f"{prefix}/{node}/answer"


def build_ack(ack: Ack, signer: Signer) -> bytes:
    """Return the signed payload. Raises ValueError for what no receiver would take."""
    body = {
        "schema": SCHEMAS[Purpose.ACK],
        "alert_id": ack.alert_id,
        "stream": ack.stream,
        "state": AckState(ack.state).value,
        "by": ack.by,
        "at": rfc3339(ack.at_ms),
    }
    if ack.detail is not None:
        body["detail"] = "".join(c if c.isprintable() else "?" for c in ack.detail[:_DETAIL_CHARACTERS])
    return _payload(body, signer)


def read_ack(payload: bytes, keys: TrustedKeys, *, stream: str, now_ms: int) -> Ack:
    """Return the acknowledgement that came on the topic of `stream`. Raises NotTrusted.

    The same acknowledgement may come any number of times: it says of one alert what is so.
    """
    message = keys.verify(parse(payload), Purpose.ACK, now_ms=now_ms)
    said = message.object
    if said.get("stream") != stream:
        raise NotTrusted(Reason.OTHER_STREAM, "it came on the topic of another stream")
    detail = said.get("detail")
    if (
        not _matches(_UUID, said.get("alert_id"))
        or not _matches(_WORD, said.get("by"))
        or said.get("state") not in set(AckState)
        or not said.keys() <= _ACK_FIELDS
        or not (detail is None or (isinstance(detail, str) and len(detail) <= _DETAIL_CHARACTERS))
    ):
        raise NotTrusted(Reason.MALFORMED, "it is no acknowledgement by its schema")
    at_ms = time_ms(said.get("at"))
    return Ack(said["alert_id"], stream, AckState(said["state"]), said["by"], at_ms, detail, message.key_id)


def read_alert(payload: bytes, keys: TrustedKeys, *, stream: str | None, now_ms: int) -> Verified:
    """Return the alert that came on the topic of `stream` (None: not asked). Raises NotTrusted.

    Whether it was seen before is for `detector.trust.replay` to say.
    """
    message = keys.verify(parse(payload), Purpose.ALERT, now_ms=now_ms)
    alert = message.object
    if stream is not None and alert.get("stream") != stream:
        raise NotTrusted(Reason.OTHER_STREAM, "it came on the topic of another stream")
    seq = alert.get("seq")
    if (
        not _matches(_UUID, alert.get("alert_id"))
        or not isinstance(alert.get("stream"), str)
        or not (seq is None or _is_seq(seq))
        or "expires_at" not in alert
    ):
        raise NotTrusted(Reason.MALFORMED, "it is no alert by its schema")
    return message


def build_command(command: Command, signer: Signer) -> bytes:
    """Return the signed payload. Raises ValueError for what no node would take."""
    body = {
        "schema": SCHEMAS[Purpose.COMMAND],
        "node": command.node,
        "command": CommandName(command.command).value,
        "arguments": dict(command.arguments),
        "seq": command.seq,
        "issued_at": rfc3339(command.issued_at_ms),
        "expires_at": rfc3339(command.expires_at_ms),
    }
    return _payload(body, signer)


def read_command(payload: bytes, keys: TrustedKeys, *, node: str, name: str, now_ms: int) -> Command:
    """Return the command that came on the topic `name` of `node`. Raises NotTrusted.

    Its arguments are not looked at, and whether its number was seen before is the receiver's to check.
    """
    message = keys.verify(parse(payload), Purpose.COMMAND, now_ms=now_ms)
    said = message.object
    if said.get("node") != node:
        raise NotTrusted(Reason.OTHER_NODE, "it is for another node")
    if said.get("command") != name:
        raise NotTrusted(Reason.OTHER_TOPIC, "it came on the topic of another command")
    if (
        said.keys() != _COMMAND_FIELDS
        or name not in set(CommandName)
        or not isinstance(said["arguments"], dict)
        or not _is_seq(said["seq"])
    ):
        raise NotTrusted(Reason.MALFORMED, "it is no command by its schema")
    issued_at_ms, expires_at_ms = time_ms(said["issued_at"]), time_ms(said["expires_at"])
    if expires_at_ms - issued_at_ms > COMMAND_LIFE_LIMIT_MS or issued_at_ms > now_ms + CLOCKS_APART_MS:
        raise NotTrusted(
            Reason.TOO_LONG_LIFE,
            f"it is good for longer than {COMMAND_LIFE_LIMIT_MS // 1000} s, or was issued in the future",
        )
    return Command(node, CommandName(name), said["arguments"], said["seq"], issued_at_ms, expires_at_ms, message.key_id)


def build_answer(answer: Answer, signer: Signer) -> bytes:
    """Return the signed payload."""
    body = {
        "schema": SCHEMAS[Purpose.ANSWER],
        "node": answer.node,
        "command": answer.command.value,
        "to": answer.to,
        "seq": answer.seq,
        "result": answer.result.value,
        "reason": answer.reason,
        "at": rfc3339(answer.at_ms),
    }
    return _payload(body, signer)


def _payload(body: Mapping[str, Any], signer: Signer) -> bytes:
    signed = signer.sign(body)
    payload = json.dumps(signed, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    if len(payload) > MESSAGE_LIMIT_BYTES:
        raise ValueError(f"the message is longer than {MESSAGE_LIMIT_BYTES} bytes")
    return payload


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_seq(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_SEQ
