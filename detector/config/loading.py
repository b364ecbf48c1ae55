"""From a file to a config, or to every fault in it at once."""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from detector.config.config import Config
from detector.config.crosscheck import Location
from detector.config.document import MAX_BYTES, Document, DocumentError, read_document
from detector.config.faults import ConfigError, Fault, Finding, findings, key_text
from detector.config.references import LoadContext

SomeConfig = TypeVar("SomeConfig", bound=BaseModel)

# Each round takes out what was at fault and looks at what is left: pydantic looks for conflicts between keys only where
# the keys themselves are sound, so those of a section come to light in the second round and those of the file later.
_ROUNDS = 6
# Looking for what rests on what takes the square of their number.
_MAX_FAULTS = 200
_STATE_DIR_LINE = re.compile(rb"^state_dir:[^\r\n]*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading a file came to: a config, or None and every fault. `secret_files` are those that it names."""

    config: Config | None
    faults: tuple[Fault, ...] = ()
    secret_files: frozenset[Path] = frozenset()
    document: Document | None = field(default=None, repr=False)

    def line_of(self, location: Location) -> int:
        """The line of a key, or of the nearest key above it; 1 where there is none."""
        return 1 if self.document is None else self.document.line_of(location)


def load_config(path: Path | str | None, *, environment: Mapping[str, str] | None = None) -> Config:
    """Read a config file, secrets included; None gives the defaults.

    `environment` is where `${NAME}` is looked up, by default the process's own. Raises ConfigError with every fault.
    """
    if path is None:
        return Config()
    reading = read_file(path, environment=environment)
    if reading.config is None:
        raise ConfigError(list(reading.faults))
    return reading.config


def read_file(path: Path | str, *, environment: Mapping[str, str] | None = None) -> Reading:
    """As `load_config`, with what else there is to know of the file, and with faults instead of an error."""
    return _read(path, os.environ if environment is None else environment)


def read_public(path: Path | str) -> Reading:
    """Read a file alone: no environment, no secret; those of the config raise LookupError when they are asked for."""
    return _read(path, None)


def read_state_dir(path: Path | str) -> Path:
    """Where the service of a file keeps its state, whatever else is wrong with the file.

    A running service goes on with its last good config while its file has a fault, and can be asked all the same.
    Reads the file alone, no environment and no secret. Raises ConfigError where it does not say.
    """
    reading = read_public(path)
    if reading.config is not None:
        return reading.config.state_dir
    try:
        document = reading.document or _state_dir_line(Path(path))
        context = LoadContext(Path(path).absolute().parent)
        return Config.model_validate(
            {key: value for key, value in document.values.items() if key == "state_dir"}, context=context
        ).state_dir
    except (OSError, ValueError):
        raise ConfigError(list(reading.faults)) from None


def _state_dir_line(path: Path) -> Document:
    """What one line says, in a text that as a whole is no YAML."""
    with path.open("rb") as opened:
        found = _STATE_DIR_LINE.search(opened.read(MAX_BYTES))
    return read_document(found[0] if found else b"")


def load_other(root: type[SomeConfig], path: Path | str, *, needs_secrets: bool = True) -> SomeConfig:
    """Read the config file of another command, secrets included where they are needed. Raises ConfigError."""
    config, faults, _, _ = _read_as(root, path, os.environ if needs_secrets else None)
    if config is None:
        raise ConfigError(list(faults))
    return config


def read_part(part: type[SomeConfig], path: Path | str, key: str) -> SomeConfig | None:
    """What stands under a key at the top of a file, whatever is wrong with the rest of it; None where that is wrong."""
    try:
        with Path(path).open("rb") as opened:
            values = read_document(opened.read(MAX_BYTES + 1)).values.get(key)
        return part.model_validate({} if values is None else values, context=LoadContext(Path(path).absolute().parent))
    except (OSError, ValueError):
        return None


def check_files(paths: Iterable[Path | str]) -> list[Fault]:
    """Every fault of every file, in the order of the files and their lines.

    Reads the files alone: no environment, no secret, no model, no bank. A file that cannot be read is a fault.
    """
    return [fault for path in paths for fault in read_public(path).faults]


def check_other(root: type[BaseModel], path: Path | str) -> tuple[Fault, ...]:
    """As `check_files`, of the config file of another command."""
    return _read_as(root, path, None)[1]


def top_keys(path: Path | str) -> frozenset[str]:
    """The keys at the top of a file; none where it cannot be read."""
    try:
        with Path(path).open("rb") as opened:
            return frozenset(str(key) for key in read_document(opened.read(MAX_BYTES)).values)
    except (OSError, ValueError):
        return frozenset()


def config_digest(config: Config) -> str:
    """SHA-256 (hex) over the effective values; secrets count by where they come from, never by what they are."""
    values = config.model_dump(mode="json")
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read(path: Path | str, environment: Mapping[str, str] | None) -> Reading:
    return Reading(*_read_as(Config, path, environment))


def _read_as(
    root: type[SomeConfig], path: Path | str, environment: Mapping[str, str] | None
) -> tuple[SomeConfig | None, tuple[Fault, ...], frozenset[Path], Document | None]:
    """What `Reading` holds, of any kind of config."""
    file = os.fsencode(path).decode("utf-8", "replace")
    try:
        with Path(path).open("rb") as opened:
            document = read_document(opened.read(MAX_BYTES + 1))
    except OSError as error:
        fault = Fault(file, 1, "(file)", f"cannot be read ({error.strerror}); name a readable config file")
        return None, (fault,), frozenset(), None
    except ValueError as error:
        if isinstance(error, DocumentError):
            return None, (Fault(file, error.line, "(file)", error.message),), frozenset(), None
        fault = Fault(file, 1, "(file)", "is no valid path; name a readable config file")
        return None, (fault,), frozenset(), None
    context = LoadContext(Path(path).absolute().parent, environment)
    config, found = _validate(root, document, context)
    faults = [Fault(file, document.line_of(each.location), key_text(each.location), each.message) for each in found]
    for location, line in document.repeated:
        first = document.line_of(location)
        faults.append(Fault(file, line, key_text(location), f"stands in line {first} already; give each key once"))
    files = frozenset(context.secret_files)
    return None if faults else config, tuple(_readable(sorted(faults))), files, document


def _readable(faults: list[Fault]) -> list[Fault]:
    """As many faults as anybody reads, and a last one that says when there are more."""
    if len(faults) <= _MAX_FAULTS:
        return faults
    shown = faults[:_MAX_FAULTS]
    return [*shown, replace(shown[-1], key="(file)", message=f"more than {_MAX_FAULTS} faults; correct these first")]


def _validate(
    root: type[SomeConfig], document: Document, context: LoadContext
) -> tuple[SomeConfig | None, list[Finding]]:
    """The config, or everything that is wrong with the values."""
    values: object = document.values
    found: list[Finding] = []
    for _ in range(_ROUNDS):
        try:
            return root.model_validate(values, context=context), found
        except ValidationError as error:
            present = list(itertools.islice(findings(error, values, root), _MAX_FAULTS + 1))
        found += [each for each in present if not _rests_on_faults(each, found)]
        if len(found) > _MAX_FAULTS:
            break
        for each in present:
            values = _without(values, each.location)
    return None, found


def _rests_on_faults(finding: Finding, known: Iterable[Finding]) -> bool:
    """Whether a finding may only be there because a faulty value was taken out."""
    places = (finding.location, *finding.concerns)
    return any(_overlap(place, each.location) for place in places for each in known)


def _overlap(one: Location, other: Location) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _without(values: object, location: Location) -> object:
    """A copy of the values without the one at a place.

    What is missing, or a place in a list, cannot be taken out alone: then the key above it goes.
    """
    if not location:
        return {}
    head, rest = location[0], location[1:]
    if isinstance(values, dict) and head in values:
        inner = _without(values[head], rest) if rest else values[head]
        if inner is values[head]:
            return {key: value for key, value in values.items() if key != head}
        return {**values, head: inner}
    if isinstance(values, list) and isinstance(head, int) and head < len(values) and rest:
        inner = _without(values[head], rest)
        return values if inner is values[head] else [*values[:head], inner, *values[head + 1 :]]
    return values
