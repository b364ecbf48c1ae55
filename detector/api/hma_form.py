"""Files out of `multipart/form-data` (RFC 7578), as HMA takes them; small, bounded, and for nothing else."""

from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Final

_MOST_PARTS: Final = 32
_MOST_HEADER_BYTES: Final = 4096
_LONGEST_BOUNDARY: Final = 70
"""RFC 2046, 5.1.1."""


class FormInvalid(ValueError):
    """Raised for what is no such form; one sentence."""


@dataclass(frozen=True, slots=True)
class FormFile:
    """A part with a file's name: the field that it came in, and its bytes. The file's own name is not kept."""

    name: str
    content: bytes = field(repr=False)


def form_files(content_type: str, body: bytes) -> list[FormFile]:
    """Return the parts that are files, in their order; other fields are passed over.

    Raises:
        FormInvalid: the body is not what its type says, or of more than 32 parts.
    """
    head = Message()
    head["content-type"] = content_type
    try:
        boundary = head.get_param("boundary")
    except (LookupError, TypeError, ValueError):
        raise FormInvalid("the form's boundary is none") from None
    if head.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        return []
    if not 0 < len(boundary) <= _LONGEST_BOUNDARY or not boundary.isascii():
        raise FormInvalid("the form's boundary is none")
    line = b"--" + boundary.encode()
    pieces = (b"\r\n" + body).split(b"\r\n" + line, _MOST_PARTS + 2)
    if len(pieces) < 2 or len(pieces) > _MOST_PARTS + 2 or not pieces[-1].startswith(b"--"):
        raise FormInvalid(f"the form does not end, or has more than {_MOST_PARTS} parts")
    found = [_file(piece) for piece in pieces[1:-1]]
    return [one for one in found if one is not None]


def _file(piece: bytes) -> FormFile | None:
    start = piece.find(b"\r\n")
    end = piece.find(b"\r\n\r\n")
    if start < 0 or piece[:start].strip() or not 0 <= end <= _MOST_HEADER_BYTES:
        raise FormInvalid("a part of the form has no head")
    head = BytesHeaderParser().parsebytes(piece[start + 2 : end + 2])
    try:
        name = head.get_param("name", header="content-disposition")
        is_file = head.get_filename() is not None
    except (LookupError, TypeError, ValueError):  # the library trips over some values in pieces (RFC 2231)
        raise FormInvalid("a part of the form has a head that cannot be read") from None
    if not is_file or not isinstance(name, str):
        return None
    return FormFile(name, piece[end + 4 :])
