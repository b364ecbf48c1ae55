"""Values with a unit: durations, sizes, shares, moments. Read strictly, printed back as they are written."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from detector.config.wording import shown

# Bounded digits, so that no number in a file can make parsing slow or overflow what stores it.
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,6})?"
_TOO_MUCH = 10**15


class Unit(ABC):
    """A value that a config holds as text, such as `1.5s`. `str()` gives text that parses to the same value."""

    __slots__ = ()
    pattern: ClassVar[str]
    """The text's form, as a regular expression; it stands in the JSON Schema."""

    @classmethod
    @abstractmethod
    def parse(cls, text: str) -> Self:
        """Read the text. Raises ValueError with a sentence that says what would be right."""

    @classmethod
    def from_yaml(cls, value: object) -> Self:
        """Read what stands in a config file. Raises ValueError as `parse` does."""
        return value if isinstance(value, cls) else cls.parse(value if isinstance(value, str) else shown(value))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate by `from_yaml`, serialize by `str`."""
        return core_schema.no_info_plain_validator_function(
            cls.from_yaml, serialization=core_schema.to_string_ser_schema(when_used="json")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Text of the unit's form."""
        return {"type": "string", "pattern": f"^{cls.pattern}$"}


def _decimal_text(value: Decimal) -> str:
    """Plain digits without an exponent or trailing zeros."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, slots=True, order=True)
class Duration(Unit):
    """A length of time in whole milliseconds, written `250ms`, `1.5s`, `2m`, `1h` or `30d`."""

    ms: int

    pattern: ClassVar[str] = rf"{_NUMBER}(?:ms|s|m|h|d)"
    _MS: ClassVar[dict[str, int]] = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self.ms / 1000

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `250ms`, `1.5s`, `2m`, `1h` or `30d`."""
        match = re.fullmatch(rf"({_NUMBER})(ms|s|m|h|d)", text)
        if match is None:
            raise ValueError(f"{shown(text)} is no duration; write a number and ms, s, m, h or d, such as 1.5s")
        ms = Decimal(match[1]) * cls._MS[match[2]]
        if ms >= _TOO_MUCH:
            raise ValueError(f"{shown(text)} is too long; write such as 1h")
        if ms != int(ms):
            raise ValueError(f"{shown(text)} is finer than a millisecond; write whole milliseconds, such as 250ms")
        return cls(int(ms))

    def __str__(self) -> str:
        if self.ms < 1000:
            return f"{self.ms}ms" if self.ms else "0s"
        for unit in ("d", "h", "m"):
            if self.ms % self._MS[unit] == 0:
                return f"{self.ms // self._MS[unit]}{unit}"
        return f"{_decimal_text(Decimal(self.ms) / 1000)}s"


@dataclass(frozen=True, slots=True, order=True)
class Size(Unit):
    """An amount of memory in whole bytes, written `512B`, `64KiB`, `16MiB` or `2GiB`."""

    bytes: int

    pattern: ClassVar[str] = rf"{_NUMBER}(?:B|KiB|MiB|GiB)"
    _BYTES: ClassVar[dict[str, int]] = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `512B`, `64KiB`, `16MiB` or `2GiB`."""
        match = re.fullmatch(rf"({_NUMBER})(B|KiB|MiB|GiB)", text)
        if match is None:
            raise ValueError(f"{shown(text)} is no size; write a number and B, KiB, MiB or GiB, such as 16MiB")
        size = Decimal(match[1]) * cls._BYTES[match[2]]
        if size >= _TOO_MUCH:
            raise ValueError(f"{shown(text)} is too large; write such as 16MiB")
        if size != int(size):
            raise ValueError(f"{shown(text)} is no whole number of bytes; write such as 16MiB")
        return cls(int(size))

    def __str__(self) -> str:
        unit = next(unit for unit, size in self._BYTES.items() if self.bytes % size == 0 and (self.bytes or size == 1))
        return f"{self.bytes // self._BYTES[unit]}{unit}"


@dataclass(frozen=True, slots=True, order=True)
class Share(Unit):
    """A part of a whole, written `2%` or `0.02`; `ratio` is 0-1."""

    ratio: float

    pattern: ClassVar[str] = r"[0-9]{1,3}(?:\.[0-9]{1,6})?%"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `2%` or `0.02`."""
        match = re.fullmatch(rf"({_NUMBER})(%?)", text)
        if match is None:
            raise ValueError(f"{shown(text)} is no share; write a percentage such as 2%, or a ratio such as 0.02")
        ratio = Decimal(match[1]) / (100 if match[2] else 1)
        if ratio > 1:
            raise ValueError(f"{shown(text)} is more than the whole; write between 0% and 100%, such as 2%")
        return cls(float(ratio))

    @classmethod
    def from_yaml(cls, value: object) -> Self:
        """Read `2%`, or the number 0.02."""
        if isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value <= 1:
            return cls(round(float(value), 6))
        return super(Share, cls).from_yaml(value)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """A percentage as text, or a ratio as a number."""
        return {
            "anyOf": [{"type": "string", "pattern": f"^{cls.pattern}$"}, {"type": "number", "minimum": 0, "maximum": 1}]
        }

    def __str__(self) -> str:
        return f"{_decimal_text(Decimal(repr(self.ratio)) * 100)}%"


@dataclass(frozen=True, slots=True, order=True)
class Moment(Unit):
    """A time in whole seconds, written `2027-01-31` (its beginning, UTC), `2027-01-31T18:00:00Z` or with an offset."""

    unix_seconds: int

    pattern: ClassVar[str] = (
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:T[0-9]{2}:[0-9]{2}(?::[0-9]{2})?(?:Z|[+-][0-9]{2}:[0-9]{2}))?"
    )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a day, or a time with Z or an offset."""
        try:
            if re.fullmatch(cls.pattern, text, re.ASCII) is None:
                raise ValueError
            read = datetime.fromisoformat(text)
            return cls(int((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()))
        except (ValueError, OverflowError):
            what = f"{shown(text)} is no time; write a day such as 2027-01-31, or such as 2027-01-31T18:00:00Z"
            raise ValueError(what) from None

    def __str__(self) -> str:
        return datetime.fromtimestamp(self.unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Between:
    """The least and the most that a unit's value may be, written as in a config: `Between("50ms", "1m")`."""

    least: str
    most: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Refuse what lies outside."""
        least, most = source.parse(self.least), source.parse(self.most)

        def within(given: Any, read: core_schema.ValidatorFunctionWrapHandler) -> Any:
            value = read(given)
            if not least <= value <= most:
                written = given if isinstance(given, str) else value  # 0d is what is in the file, not 0s
                raise ValueError(f"{written} is out of range; write between {self.least} and {self.most}")
            return value

        return core_schema.no_info_wrap_validator_function(within, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Say the bounds: JSON Schema has no word for the order of texts with units."""
        return {**handler(schema), "x-minimum": self.least, "x-maximum": self.most}
