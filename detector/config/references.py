"""Values that point outside the config file: folders counted from it, and secrets, which never stand in it."""

import contextlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from detector.redaction import hide_secret

_SECRET_FILE_BYTES = 4096
_OPEN_TO_OTHERS = 0o077
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]{0,99})\}")
_HOW = 'write "${NAME}" for an environment variable or {file: PATH} for a file'


@dataclass(frozen=True, slots=True)
class LoadContext:
    """What a file's values are read against.

    `folder` is the config file's: relative paths count from it. `environment` is None where only the file may be
    read; then secrets stay unresolved. `secret_files` takes the path of every file that a secret was sought in.
    """

    folder: Path
    environment: Mapping[str, str] | None = field(default=None, repr=False)
    secret_files: set[Path] = field(default_factory=set, compare=False)


def absolute_path(value: object, info: ValidationInfo) -> Path:
    """A path, absolute, `~` expanded. Raises ValueError with a sentence."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.isprintable() or not value.strip():
        raise ValueError("needs the path of a file or folder, such as /var/lib/stopframe")
    folder = info.context.folder if isinstance(info.context, LoadContext) else Path.cwd()
    try:
        return Path(folder / Path(value).expanduser()).absolute()
    except RuntimeError:
        raise ValueError("starts with ~, but there is no such home folder here; write the whole path") from None


def variable_name(value: object) -> str | None:
    """The NAME of a value written `${NAME}`, or None."""
    match = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
    return match[1] if match else None


def variable_value(name: str, context: object) -> str | None:
    """What the environment holds under a name; None where it may not be read.

    Raises ValueError, which names the variable, where it is not set.
    """
    if not isinstance(context, LoadContext) or context.environment is None:
        return None
    text = context.environment.get(name, "")
    if not text:
        raise ValueError(f"the environment variable {name} is not set; set it before starting")
    return text


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret comes from and, once the config was loaded, what it is. Printing shows `origin` alone.

    Once it was read it is hidden in whatever this process logs or shows. `is_exposed` says that its file is open to
    other users of the machine.
    """

    origin: str
    value: str | None = field(default=None, repr=False)
    file: Path | None = None
    is_exposed: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        """Hide it from now on."""
        if self.value is not None:
            hide_secret(self.value)

    def reveal(self) -> str:
        """The secret itself. Raises LookupError when the config was only checked, not loaded."""
        if self.value is None:
            raise LookupError(f"the secret from {self.origin} was not read; load the config instead of checking it")
        return self.value

    def current(self) -> str:
        """The secret as its file holds it now, or as it was read where the file holds none any more."""
        if self.file is not None:
            with contextlib.suppress(ValueError):
                text, _ = _file_secret(self.file)
                hide_secret(text)
                return text
        return self.reveal()

    def __str__(self) -> str:
        return self.origin

    @classmethod
    def from_yaml(cls, value: object, info: ValidationInfo) -> Self:
        """Read `${NAME}` or `{file: PATH}`. Raises ValueError with a sentence that never holds the secret."""
        if isinstance(value, cls):
            return value
        name = variable_name(value)
        if name is not None:
            return cls(f"${{{name}}}", variable_value(name, info.context))
        if isinstance(value, dict) and set(value) == {"file"}:
            path = absolute_path(value["file"], info)
            if not isinstance(info.context, LoadContext) or info.context.environment is None:
                return cls(f"file {path}", file=path)
            info.context.secret_files.add(path)
            text, mode = _file_secret(path)
            return cls(f"file {path}", text, path, is_exposed=bool(mode & _OPEN_TO_OTHERS) and not _is_credential(path))
        raise ValueError(f"a secret never stands in this file; {_HOW}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate by `from_yaml`, serialize the origin alone."""
        return core_schema.with_info_plain_validator_function(
            cls.from_yaml, serialization=core_schema.to_string_ser_schema(when_used="json")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The two ways to name a secret."""
        file = {
            "type": "object",
            "properties": {"file": {"type": "string"}},
            "required": ["file"],
            "additionalProperties": False,
        }
        return {"anyOf": [{"type": "string", "pattern": f"^{_VARIABLE.pattern}$"}, file]}


def _is_credential(path: Path) -> bool:
    """Whether systemd guards the file: it may show a group there, but lets only the service into its folder."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return bool(folder) and path.is_relative_to(folder)


def _file_secret(path: Path) -> tuple[str, int]:
    """The text of a secret's file, without the newline at its end, and the file's mode."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(_SECRET_FILE_BYTES + 1).decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ValueError(
            f"the file {path} cannot be read ({error.strerror}); make it readable or name another"
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"the file {path} is not UTF-8 text; write the secret on its only line") from None
    if not text or len(text) > _SECRET_FILE_BYTES or not text.isprintable():
        raise ValueError(f"the file {path} holds no secret; write it on the file's only line, up to 4096 characters")
    return text, mode
