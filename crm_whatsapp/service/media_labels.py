"""What an attachment is called: its media type and its name, held against its content."""

from collections.abc import Iterable
from dataclasses import dataclass

from crm_whatsapp.domain.media import ContentType, MediaKind, MediaNote, MediaTypeRefused
from crm_whatsapp.service import media_types as types


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLabel:
    """What WhatsApp is told. filename: of documents only."""

    mimetype: str
    filename: str | None


def label_content(found: ContentType, note: MediaNote) -> MediaLabel:
    """Return the label; text is CSV where the caller says so, for its content cannot.

    Raises:
        MediaTypeRefused: the declared type or the name belongs to another type.
    """
    candidates = (types.TEXT, types.CSV) if found is types.TEXT else (found,)
    fitting = [it for it in candidates if _fits_type(it, note.mimetype)]
    if not fitting:
        raise MediaTypeRefused(
            f"media.mimetype is {note.mimetype}, and the content is {_names(candidates)}. "
            "Send the type of the content, or none.",
            field="media.mimetype",
        )
    named = [it for it in fitting if _fits_name(it, note.filename)]
    if not named:
        endings = " or ".join(f".{end}" for it in fitting for end in it.extensions)
        raise MediaTypeRefused(
            f"media.filename does not fit the content, which is {_names(fitting)}: "
            f"it must end in {endings}.",
            field="media.filename",
        )
    chosen = named[0]
    is_document = note.kind is MediaKind.DOCUMENT
    name = note.filename or f"document.{chosen.extensions[0]}"
    return MediaLabel(mimetype=chosen.mimetype, filename=name if is_document else None)


def _fits_type(it: ContentType, declared: str | None) -> bool:
    if declared is None:
        return True
    bare = declared.partition(";")[0].strip().lower()
    return bare in it.also or bare == it.mimetype.partition(";")[0]


def _fits_name(it: ContentType, filename: str | None) -> bool:
    if filename is None:
        return True
    stem, dot, ending = filename.rpartition(".")
    return bool(stem and dot) and ending.lower() in it.extensions


def _names(found: Iterable[ContentType]) -> str:
    return " or ".join(it.mimetype for it in found)
