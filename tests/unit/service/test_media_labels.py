"""Names and declared types: they must belong to the content."""

import pytest

from crm_whatsapp.domain.media import ContentType, MediaKind, MediaNote, MediaTypeRefused
from crm_whatsapp.service import media_types as types
from crm_whatsapp.service.media_labels import label_content

IMAGE, DOCUMENT = MediaKind.IMAGE, MediaKind.DOCUMENT


@pytest.mark.parametrize(
    ("found", "mimetype", "filename", "told"),
    [
        (types.PDF, None, None, ("application/pdf", "document.pdf")),
        (types.PDF, "application/PDF", "Conta.PDF", ("application/pdf", "Conta.PDF")),
        (types.JPEG, "image/jpg", "a.jpeg", ("image/jpeg", "a.jpeg")),
        (types.OPUS, "audio/ogg", "a.opus", ("audio/ogg; codecs=opus", "a.opus")),
        (types.OPUS, "audio/ogg; codecs=opus", None, ("audio/ogg; codecs=opus", "document.ogg")),
        (types.TEXT, None, None, ("text/plain", "document.txt")),
        (types.TEXT, "text/plain; charset=utf-8", "a.md", ("text/plain", "a.md")),
        (types.TEXT, "text/csv", None, ("text/csv", "document.csv")),
        (types.TEXT, None, "a.b.csv", ("text/csv", "a.b.csv")),
        (types.ZIP, "application/x-zip-compressed", "a.zip", ("application/zip", "a.zip")),
    ],
)
def test_what_agrees_is_told_to_whatsapp(
    found: ContentType, mimetype: str | None, filename: str | None, told: tuple[str, str]
) -> None:
    label = label_content(found, MediaNote(kind=DOCUMENT, mimetype=mimetype, filename=filename))
    assert (label.mimetype, label.filename) == told


@pytest.mark.parametrize(
    ("found", "mimetype", "filename", "field"),
    [
        (types.PNG, "image/jpeg", None, "media.mimetype"),
        (types.PNG, "application/octet-stream", None, "media.mimetype"),
        (types.TEXT, "text/html", None, "media.mimetype"),
        (types.ZIP, "application/java-archive", None, "media.mimetype"),
        (types.PNG, None, "a.jpg", "media.filename"),
        (types.PDF, None, "a.pdf.exe", "media.filename"),
        (types.PDF, None, "a", "media.filename"),
        (types.PDF, None, ".pdf", "media.filename"),
        (types.PDF, None, "pdf", "media.filename"),
        (types.TEXT, None, "a.bat", "media.filename"),
        (types.TEXT, None, "a.html", "media.filename"),
        (types.TEXT, "text/csv", "a.txt", "media.filename"),
        (types.TEXT, "text/plain", "a.csv", "media.filename"),
    ],
)
def test_what_contradicts_is_refused_naming_the_field_and_the_content(
    found: ContentType, mimetype: str | None, filename: str | None, field: str
) -> None:
    note = MediaNote(kind=DOCUMENT, mimetype=mimetype, filename=filename)
    with pytest.raises(MediaTypeRefused) as refusal:
        label_content(found, note)
    assert refusal.value.details["field"] == field
    kinds = ("text/plain", "text/csv") if found is types.TEXT else (found.mimetype,)
    assert any(kind in refusal.value.message for kind in kinds)


def test_only_documents_have_a_name_though_every_name_is_checked() -> None:
    assert label_content(types.PNG, MediaNote(kind=IMAGE, filename="a.png")).filename is None
    with pytest.raises(MediaTypeRefused):
        label_content(types.PNG, MediaNote(kind=IMAGE, filename="a.html"))


def test_every_type_names_itself() -> None:
    for it in types.ALLOWED:
        note = MediaNote(kind=DOCUMENT, mimetype=it.mimetype, filename=f"a.{it.extensions[0]}")
        found = types.TEXT if it is types.CSV else it
        assert label_content(found, note).mimetype == it.mimetype
