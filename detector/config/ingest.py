"""The section `ingest`: its keys are those of the server that its `kind` names, each declared in that server's file."""

from typing import Any, Union

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from detector.config.crosscheck import Conflict, refuse
from detector.config.sections import IngestSection
from detector.config.wording import listed, nearest, shown
from detector.ingest.registry import INGEST_SERVERS, ingest_kind, ingest_kinds

DEFAULT_KIND = "embedded"


def section_for(value: object) -> type[IngestSection]:
    """The section type for what stands under `ingest`. Raises LookupError where its kind is none."""
    kind = value.get("kind", DEFAULT_KIND) if isinstance(value, dict) else DEFAULT_KIND
    if not isinstance(kind, str):
        raise LookupError(shown(kind))  # noqa: TRY004 - as for any other word that is no kind
    return ingest_kind(kind).settings


def known_sections() -> tuple[type[IngestSection], ...]:
    """The section types of the servers that come with the service."""
    return tuple(kind.settings for kind in INGEST_SERVERS.values())


class ChosenByKind:
    """Validates `ingest` by the section of its kind: one that comes with the service or one from another package."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Choose the section for reading and writing; the JSON Schema knows those that come with the service."""
        return core_schema.with_info_wrap_validator_function(
            lambda value, _, info: _read(value, info),
            handler.generate_schema(Union[known_sections()]),  # noqa: UP007 - made of a list
            serialization=core_schema.plain_serializer_function_ser_schema(_write),
        )


def _read(value: Any, info: ValidationInfo) -> IngestSection:
    if isinstance(value, IngestSection):
        return value
    try:
        section = section_for(value)
    except LookupError:
        kind, names = value["kind"], ingest_kinds()
        near = nearest(kind, names) if isinstance(kind, str) else None
        meant = f" (did you mean {near}?)" if near else ""
        raise refuse(Conflict(("kind",), f"{shown(kind)} does not fit; write {listed(names)}{meant}")) from None
    return section.model_validate(value, context=info.context)


def _write(section: IngestSection) -> dict[str, Any]:
    # As JSON in every mode: of an object within this dict pydantic would write out every field, a secret's value too.
    return section.model_dump(mode="json")
