"""The commands' side of the control socket: synchronous, typed, and every failure one sentence."""

import contextlib
import re
import socket
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from detector.api.control import IDENTIFIER, SOCKET_NAME, ReleaseReport
from detector.api.server import open_folder, socket_address
from detector.api.view import (
    CutReport,
    Health,
    HintReport,
    HintRequest,
    IncidentRow,
    ReloadReport,
    StreamRow,
    UndoReport,
)

_Answer = TypeVar("_Answer")

_TIMEOUT_SECONDS = 30.0
"""A cut answers when it is proved or given up, which takes seconds."""


class ControlError(Exception):
    """Raised by `ControlClient`; the text is one sentence for the user."""


class ServiceNotRunning(ControlError):
    """Raised where nobody answers on the control socket; nothing was done."""


class ControlRefused(ControlError):
    """Raised where the service refused or failed; the text is its own sentence."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class ControlClient:
    """`with ControlClient(state_dir) as service`: what an operator may ask of the service that runs there."""

    def __init__(self, state_dir: Path, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        self._state_dir = state_dir
        self._timeout_seconds = timeout_seconds
        self._resources = contextlib.ExitStack()
        self._http: httpx.Client | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            try:
                folder = undo.enter_context(open_folder(self._state_dir))
                address = socket_address(folder, SOCKET_NAME)
                _probe(address)
            except PermissionError:
                raise ServiceNotRunning(
                    f"the control socket in {self._state_dir} belongs to another user; "
                    "run this command as the user that runs stopframe."
                ) from None
            except OSError:
                raise ServiceNotRunning(self._not_running()) from None
            transport = httpx.HTTPTransport(uds=address)
            client = httpx.Client(transport=transport, base_url="http://stopframe", timeout=self._timeout_seconds)
            self._http = undo.enter_context(client)
            self._resources = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._http = None
        self._resources.close()

    def status(self) -> Health:
        """Return the service's health."""
        return self._ask("GET", "/status", Health)

    def streams(self, *, keys: bool = False) -> list[StreamRow]:
        """Return every live stream; the paths whole, with the publishers' keys, only where `keys` asks for them."""
        return self._ask("GET", "/streams", list[StreamRow], params={"keys": keys})

    def incidents(self, limit: int = 50) -> list[IncidentRow]:
        """Return the newest incidents, newest first."""
        return self._ask("GET", "/incidents", list[IncidentRow], params={"limit": limit})

    def cut(self, stream: str) -> CutReport:
        """Cut a live stream; returns when the cut is proved or given up."""
        return self._ask("POST", f"/streams/{_identifier(stream, 'streams')}/cut", CutReport)

    def hint(self, stream: str, hint: HintRequest) -> HintReport:
        """Have a live stream looked at more closely for a while."""
        return self._ask("POST", f"/streams/{_identifier(stream, 'streams')}/hint", HintReport, json=asdict(hint))

    def undo(self, incident: str) -> UndoReport:
        """Restore the key that an incident revoked."""
        return self._ask("POST", f"/incidents/{_identifier(incident, 'incidents')}/undo", UndoReport)

    def release(self, source: str) -> bool:
        """Let `source` cut again after the breaker held it; False where nothing was held."""
        return self._ask("POST", "/breaker/release", ReleaseReport, json={"source": source}).is_released

    def reload(self, file: Path | None = None) -> ReloadReport:
        """Make the service take up its config file, which must be `file` if that is given."""
        return self._ask("POST", "/reload", ReloadReport, json={"file": None if file is None else str(file)})

    def _ask(self, method: str, path: str, kind: type[_Answer], **content: Any) -> _Answer:
        assert self._http is not None, "ask inside the with block"
        try:
            response = self._http.request(method, path, **content)
        except httpx.TimeoutException:
            sentence = f"the service did not answer within {self._timeout_seconds:g} s; its log says what holds it up."
            raise ControlError(sentence) from None
        except httpx.TransportError:
            raise ServiceNotRunning(self._not_running()) from None
        if response.status_code != HTTPStatus.OK:
            raise ControlRefused(_sentence(response), response.status_code)
        try:
            return TypeAdapter(kind).validate_json(response.content)
        except ValidationError:
            sentence = "the service's answer is not understood; use the stopframe command of the service's own version."
            raise ControlError(sentence) from None

    def _not_running(self) -> str:
        return f"no stopframe runs on {self._state_dir}; start it with 'stopframe run', or name its config with -c."


def _probe(address: str) -> None:
    """Raise the OSError that says why nobody can be reached at `address`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(2.0)
        connection.connect(address)


def _identifier(text: str, command: str) -> str:
    """Return `text` if it may be an identifier. It is not repeated in the error: a publisher's key may stand there."""
    if not re.fullmatch(IDENTIFIER, text):
        raise ControlRefused(f"this is no identifier; 'stopframe {command}' lists them.", HTTPStatus.NOT_FOUND)
    return text


def _sentence(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the service answered {response.status_code}; its log says why."
