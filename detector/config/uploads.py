"""The section `uploads`: files that a platform has looked at before it publishes them."""

import os
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from detector.config.crosscheck import Conflict, refuse
from detector.config.sections import HttpSection, Section
from detector.config.units import Between, Duration, Size
from detector.config.values import Switch
from detector.config.wording import shown


def _looks(value: object) -> int | Literal["auto"]:
    """`auto`, or a number of files. Raises ValueError with a sentence."""
    if value == "auto":
        return "auto"
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 256:
        raise ValueError(f"{shown(value)} is no number of files; write auto (one per core, two at least) or 1 to 256")
    return value


class UploadsSection(Section):
    """Files that are looked at by `POST /scan`, with the banks, the models and the rules of live streams."""

    enabled: Switch = False
    """Whether files are taken; `http.token` must be given with each."""
    size_limit: Annotated[Size, Between("1KiB", "64GiB")] = Size.parse("256MiB")
    """Longest file."""
    at_once: Annotated[int, Field(strict=True, ge=1, le=512)] = 64
    """Files that may be on their way, waiting and looked at together; one more is refused."""
    disk_limit: Annotated[Size, Between("1KiB", "1024GiB")] = Size.parse("2GiB")
    """Bytes of all of them together; they lie in files without a name below state_dir."""
    slowest: Annotated[Size, Between("1KiB", "1GiB")] = Size.parse("32KiB")
    """Bytes a second that a file must come with on average, after its first ten seconds."""
    receive_within: Annotated[Duration, Between("1s", "24h")] = Duration.parse("10m")
    """How long a whole file may be on its way."""
    looked_at_once: Annotated[
        int | Literal["auto"],
        PlainValidator(_looks),
        WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 256}]}),
    ] = "auto"
    """Files that are decoded at the same time; `auto` is one per core, two at least."""
    wait: Annotated[Duration, Between("0s", "1h")] = Duration.parse("30s")
    """How long a whole file waits for its turn; then it is refused."""
    look_within: Annotated[Duration, Between("100ms", "24h")] = Duration.parse("1m")
    """How long one file is looked at; then the answer says how much of it was."""

    @model_validator(mode="after")
    def _one_file_fits(self) -> "UploadsSection":
        if self.disk_limit.bytes < self.size_limit.bytes:
            what = f"{self.disk_limit} is less than one file may have (size_limit {self.size_limit}); raise it"
            raise refuse(Conflict(("disk_limit",), what, concerns=(("size_limit",),)))
        return self

    @property
    def look_count(self) -> int:
        """How many files are decoded at the same time, `auto` counted out for this process's cores."""
        return max(2, len(os.sched_getaffinity(0))) if self.looked_at_once == "auto" else self.looked_at_once


def upload_conflicts(uploads: UploadsSection, http: HttpSection) -> Iterator[Conflict]:
    """A door that nobody could open."""
    if uploads.enabled and http.token is None:
        what = "is true, and files are taken with http.token alone; set http.token, or leave it out"
        yield Conflict(("uploads", "enabled"), what, concerns=(("http", "token"),))
