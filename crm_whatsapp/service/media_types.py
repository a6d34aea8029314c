"""The attachments that are taken, each with the names that callers have for its type."""

from crm_whatsapp.domain.media import ContentType, MediaKind

_DOCUMENT = frozenset({MediaKind.DOCUMENT})
_OOXML = "application/vnd.openxmlformats-officedocument."
_ODF = "application/vnd.oasis.opendocument."


def _type(
    mimetype: str, *extensions: str, also: str = "", kind: MediaKind | None = None
) -> ContentType:
    return ContentType(
        mimetype=mimetype,
        extensions=extensions,
        also=frozenset(also.split()),
        kinds=_DOCUMENT if kind is None else _DOCUMENT | {kind},
    )


JPEG = _type(
    "image/jpeg", "jpg", "jpeg", "jpe", "jfif", also="image/jpg image/pjpeg", kind=MediaKind.IMAGE
)
PNG = _type("image/png", "png", also="image/x-png", kind=MediaKind.IMAGE)
WEBP = _type("image/webp", "webp", kind=MediaKind.IMAGE)
MP4 = _type("video/mp4", "mp4", "m4v", also="video/x-m4v application/mp4", kind=MediaKind.VIDEO)
THREE_GP = _type("video/3gpp", "3gp", "3gpp", also="video/3gp", kind=MediaKind.VIDEO)
# The parameter is part of what phones need to play it (WhatsApp Cloud API, supported media).
OPUS = _type(
    "audio/ogg; codecs=opus",
    "ogg",
    "opus",
    "oga",
    also="audio/ogg audio/opus application/ogg",
    kind=MediaKind.AUDIO,
)
MP3 = _type("audio/mpeg", "mp3", also="audio/mp3 audio/x-mp3", kind=MediaKind.AUDIO)
M4A = _type("audio/mp4", "m4a", "mp4", also="audio/m4a audio/x-m4a video/mp4", kind=MediaKind.AUDIO)
AAC = _type("audio/aac", "aac", also="audio/x-aac audio/aacp", kind=MediaKind.AUDIO)
AMR = _type("audio/amr", "amr", also="audio/amr-nb", kind=MediaKind.AUDIO)
PDF = _type("application/pdf", "pdf", also="application/x-pdf")
ZIP = _type("application/zip", "zip", also="application/x-zip-compressed application/x-zip")
DOCX = _type(f"{_OOXML}wordprocessingml.document", "docx")
XLSX = _type(f"{_OOXML}spreadsheetml.sheet", "xlsx")
PPTX = _type(f"{_OOXML}presentationml.presentation", "pptx")
ODT = _type(f"{_ODF}text", "odt")
ODS = _type(f"{_ODF}spreadsheet", "ods")
ODP = _type(f"{_ODF}presentation", "odp")
DOC = _type("application/msword", "doc")
XLS = _type("application/vnd.ms-excel", "xls", also="application/excel application/x-excel")
PPT = _type("application/vnd.ms-powerpoint", "ppt", also="application/mspowerpoint")
RTF = _type("application/rtf", "rtf", also="text/rtf")
TEXT = _type("text/plain", "txt", "text", "log", "md")
CSV = _type("text/csv", "csv", also="application/csv text/comma-separated-values")

ALLOWED = (
    *(JPEG, PNG, WEBP, MP4, THREE_GP, OPUS, MP3, M4A, AAC, AMR),
    *(PDF, ZIP, DOCX, XLSX, PPTX, ODT, ODS, ODP, DOC, XLS, PPT, RTF, TEXT, CSV),
)


def names_of(kind: MediaKind) -> str:
    """Return what may be sent as this kind, for people."""
    return ", ".join(it.extensions[0] for it in ALLOWED if kind in it.kinds)
