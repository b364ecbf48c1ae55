"""Where log events go: stderr, for people or as JSON lines; the libraries' warnings among them, in the same form."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

_CREDENTIALS = re.compile(r"(://)[^/@\s]+@")


def configure_logs(level: Level, form: Format) -> None:
    """Log from `level` on to stderr; `auto` writes for people on a terminal and JSON lines elsewhere."""
    is_for_people = sys.stderr.isatty() if form == "auto" else form == "console"
    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_credentials,
    ]
    if is_for_people:
        last: structlog.typing.Processor = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # The default shows every function's variables: URLs with keys, passwords.
            exception_formatter=structlog.dev.plain_traceback,
        )
        ending = [last]
    else:
        ending = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*before, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # What libraries tell below a warning is of no use to whoever runs the service.
    root.setLevel(max(number, logging.WARNING))


def _without_credentials(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A library may log a URL as it was given; what stands before its @ is nobody's business."""
    for key, value in event.items():
        if isinstance(value, str) and "@" in value:
            event[key] = _CREDENTIALS.sub(r"\1***@", value)
    return event
