"""Where log events go: stderr, for people or as JSON lines; the libraries' warnings among them, in the same form.

Whatever a value holds, an event is one line (a traceback's lines are indented below it), no value is longer than
`VALUE_CHARACTERS`, and no secret in force is shown.
"""

import logging
import sys
import threading
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Any, Literal

import structlog

from detector.log_output import log_output
from detector.redaction import end_without_secrets, printable, without_secrets

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

VALUE_CHARACTERS = 500
"""Longest text of one value."""
TRACEBACK_CHARACTERS = 16_000
_ITEMS = 50
_DEPTH = 3
_INDENT = "    | "

_OURS = frozenset({"event", "level", "timestamp", "stream", "incident", "alert"})
"""Made by ourselves of fixed characters: a publisher that takes another stream's id as its name hides nothing here."""


def configure_logs(level: Level, form: Format) -> None:
    """Log from `level` on to stderr; `auto` writes for people on a terminal and JSON lines elsewhere."""
    is_for_people = sys.stderr.isatty() if form == "auto" else form == "console"
    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        # The default of either form may show every function's variables: URLs with keys, passwords.
        structlog.processors.format_exc_info,
    ]
    after: list[structlog.typing.Processor] = [structlog.processors.TimeStamper(fmt="iso", utc=True)]
    if is_for_people:
        ending: list[structlog.typing.Processor] = [
            _indent_traceback,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
            ),
        ]
    else:
        ending = [structlog.processors.JSONRenderer()]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*before, _clean_own, *after, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=log_output()),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(log_output())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*before, _clean_foreign, *after],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # What libraries tell below a warning is of no use to whoever runs the service.
    root.setLevel(max(number, logging.WARNING))


def catch_faults() -> None:
    """Have faults that nobody caught, in any thread, and Python's own warnings logged like everything else.

    Without this Python writes them to stderr itself, with whatever secret their text holds.
    """
    configure_logs("warning", "auto")  # for a command that breaks before it has read a config
    logging.captureWarnings(capture=True)
    log = structlog.get_logger()

    def broke(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.exit(130)
        log.error("process.fault", exc_info=(kind, error, trace))

    sys.excepthook = broke
    threading.excepthook = lambda given: broke(given.exc_type, given.exc_value, given.exc_traceback)
    sys.unraisablehook = lambda given: broke(given.exc_type, given.exc_value, given.exc_traceback)


def _clean_own(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key == "exception":
            event[key] = _traceback(value)
        else:
            event[key] = _shown(value, is_ours=key in _OURS)
    return event


def _clean_foreign(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """As for our own events; but a library's message is a text like any other."""
    for key, value in event.items():
        if key == "exception":
            event[key] = _traceback(value)
        elif not key.startswith("_"):  # the library's record, which is taken out before anything is written
            event[key] = _shown(value, is_ours=key == "level")
    return event


def _shown(value: Any, depth: int = 0, *, is_ours: bool = False) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return printable(value[:VALUE_CHARACTERS] if is_ours else without_secrets(str(value), VALUE_CHARACTERS))
    if depth < _DEPTH and isinstance(value, Mapping):
        items = list(value.items())[:_ITEMS]
        return {_shown(str(key), depth + 1): _shown(item, depth + 1) for key, item in items}
    if depth < _DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [_shown(item, depth + 1) for item in list(value)[:_ITEMS]]
    return printable(without_secrets(repr(value), VALUE_CHARACTERS))


def _traceback(text: Any) -> str:
    """A traceback without secrets; its end matters most. Line breaks in an error's own text cannot be told apart."""
    shown = end_without_secrets(str(text), TRACEBACK_CHARACTERS)
    return "\n".join(printable(line) for line in shown.split("\n"))


def _indent_traceback(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """No line of a traceback looks like an event, whatever the error's text says."""
    text = event.get("exception")
    if isinstance(text, str):
        event["exception"] = _INDENT + text.replace("\n", "\n" + _INDENT)
    return event
