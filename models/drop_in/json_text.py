"""JSON from strangers: bounded, without duplicate keys, without NaN, and with the line of every key at the top."""

import json
import re
from pathlib import Path
from typing import Any, Final, NoReturn

from models.drop_in.folder import Folder
from models.manifest_yaml import Fact, ManifestError

MAX_JSON_BYTES: Final = 8 * 1024**2
"""Room for 100,000 labels in both directions."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:]', re.DOTALL)


class JsonText:
    """The mapping that a JSON file holds."""

    def __init__(self, folder: Folder, name: str) -> None:
        """Read the file `name` of `folder`.

        Raises:
            ManifestError: It cannot be read or is no JSON mapping; one sentence.
        """
        self.path: Path = folder.path / name
        text = folder.read_text(name, MAX_JSON_BYTES)
        try:
            values = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            raise ManifestError(self.path, error.lineno, f"is no valid JSON: {error.msg}; mend that line") from None
        except RecursionError:
            raise ManifestError(self.path, None, "is nested too deeply; write plain values") from None
        except ValueError as error:
            raise ManifestError(self.path, None, f"is no valid JSON: {str(error)[:100]}; mend it") from None
        if not isinstance(values, dict):
            raise ManifestError(self.path, 1, "is no JSON mapping; put the file there that the model came with")
        self.values: dict[str, Any] = values
        self._lines = _lines_of_keys(text)

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def get(self, key: str) -> Any:
        """The value of `key`; None where it is absent or null."""
        return self.values.get(key)

    def fact(self, key: str, value: Any, note: str = "") -> Fact:
        """`value`, which was made of what stands under `key`."""
        line = self._lines.get(key)
        origin = self.path.name if line is None else f"{self.path.name}:{line}"
        return Fact(value, origin + (f" ({note})" if note else ""), self.path, line, key)

    def fault(self, key: str, message: str) -> ManifestError:
        """The error to raise for what stands under `key`."""
        return ManifestError(self.path, self._lines.get(key), f"{key}: {message}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _lines_of_keys(text: str) -> dict[str, int]:
    """The line of each key of the outermost mapping. The text is known to be valid JSON."""
    lines: dict[str, int] = {}
    depth, line, counted_to, last = 0, 1, 0, ""
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark in "{[":
            depth += 1
        elif mark in "}]":
            depth -= 1
        elif mark == ":":
            if depth == 1 and last:
                lines[json.loads(last)] = line
        elif depth == 1:
            line += text.count("\n", counted_to, token.start())
            counted_to, last = token.start(), mark
    return lines
