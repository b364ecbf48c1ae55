"""Files out of forms: what browsers and libraries send is read, what nobody sends is refused, nothing is guessed."""

import contextlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.api.hma_form import FormFile, FormInvalid, form_files


def _sent(**files: tuple[str, bytes]) -> tuple[str, bytes]:
    request = httpx.Request("POST", "http://hma/h/hash", files=files, data={"note": "a field that is no file"})
    return request.headers["content-type"], request.read()


@given(st.binary(max_size=300))
def test_a_file_comes_out_as_it_went_in(content: bytes) -> None:
    """Whatever bytes it has, line ends and dashes as well; other fields are passed over."""
    assert form_files(*_sent(photo=("a.png", content))) == [FormFile("photo", content)]


def test_several_files_keep_their_fields() -> None:
    """The field says what kind of content a file is; its own name is dropped."""
    assert form_files(*_sent(photo=("a.png", b"1"), video=("../b\\.mp4", b"2"))) == [
        FormFile("photo", b"1"),
        FormFile("video", b"2"),
    ]


@given(st.binary(max_size=200), st.text(max_size=60))
def test_any_body_is_read_or_refused(body: bytes, boundary: str) -> None:
    """No body and no type makes it fail in another way."""
    for content_type in (f"multipart/form-data; boundary={boundary}", boundary, "multipart/form-data; boundary=b"):
        for text in (body, b"--b\r\n" + body + b"\r\n--b--\r\n"):
            with contextlib.suppress(FormInvalid):
                assert isinstance(form_files(content_type, text), list)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b\r\n",
        b"--b\r\nContent-Disposition: form-data; name=photo; filename=a\r\n\r\nnever ends",
        b"--b\r\n" + b"X: y\r\n" * 2000 + b"\r\n\r\n--b--",
        b"--b\r\n\r\n\r\n" * 40 + b"--b--",
        b"--b\r\nContent-Disposition: form-data; filename*=utf-8''a; filename*0*=x''%41\r\n\r\nA\r\n--b--",
    ],
)
def test_what_is_no_form_is_refused(body: bytes) -> None:
    """Half a form, a head without end, a thousand parts, and a name in pieces that do not fit together."""
    with pytest.raises(FormInvalid):
        form_files("multipart/form-data; boundary=b", body)


def test_another_type_is_no_form() -> None:
    """It holds no file: HMA's words for that are said elsewhere."""
    assert form_files("image/png", b"--b--") == []
    assert form_files("", b"") == []
    with pytest.raises(FormInvalid, match="boundary"):
        form_files("multipart/form-data; boundary*=a; boundary*0*=b; boundary*1=c", b"")
