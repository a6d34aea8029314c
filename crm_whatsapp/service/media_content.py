"""What an attachment is, decided by its content alone.

`filetype` knows the signatures. A signature is a few bytes that anybody can write, so each type
has to show more: its end, its parts, and that it is nothing else as well. What is not on the list
of media_types is refused, whatever it calls itself.
"""

import re
import struct
from collections.abc import Callable, Iterator
from itertools import islice

import filetype
from filetype.types import archive, audio, image

from crm_whatsapp.domain.media import Content, ContentType, MediaKind, MediaTypeRefused
from crm_whatsapp.service import media_types as types
from crm_whatsapp.service.byte_search import holds
from crm_whatsapp.service.media_archives import ends_as_archive, judge_archive, judge_compound

_HEAD_BYTES = 8192
_TAIL_BYTES = 65_536
_MOST_BOXES = 4096
_MOST_INDEX_BYTES = 4 * 1024 * 1024
_MOST_TRACKS = 64
_VIDEO_BRANDS = frozenset(
    b"isom iso2 iso3 iso4 iso5 iso6 iso7 iso8 iso9 mp41 mp42 mp71 avc1 MSNV dash".split()
) | {b"M4V "}
_AUDIO_BRANDS = frozenset({b"M4A ", b"M4B ", b"F4A "})
_PLAYED = re.compile(rb"hdlr.{8}(vide|soun)", re.DOTALL)
# What browsers take for a page or a program, wherever it stands in the beginning.
_MARKUP = re.compile(
    rb"<\s*(?:!doctype|html|head|body|script|iframe|svg|object|embed|frameset|meta|link|base"
    rb"|\?xml|\?php|%|img|style|hta:)",
    re.IGNORECASE,
)
_PROGRAM_TEXT = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:#!|@echo\s|\[InternetShortcut\]|Windows Registry)", re.IGNORECASE
)
_END_OF_JPEG = re.compile(rb"\xff\xd9")
# Control characters that no text file has; 0x1a ends old DOS files.
_NOT_TEXT = re.compile(rb"[\x00-\x08\x0b\x0e-\x19\x1b-\x1f\x7f]")
_SIGNATURES = (
    image.Jpeg(),
    image.Png(),
    image.Webp(),
    audio.Ogg(),
    audio.Amr(),
    audio.Aac(),
    audio.Mp3(),
    archive.Pdf(),
    archive.Zip(),
    archive.Rtf(),
)


def judge_content(content: Content, kind: MediaKind) -> ContentType:
    """Return what the content is; text is plain text.

    Raises:
        MediaTypeRefused: it may not be sent as this kind, with what may.
    """
    if not len(content):
        raise MediaTypeRefused("The attachment is empty.", field="media")
    found = _recognise(content, kind)
    if found is None or kind not in found.kinds:
        seen = "of no known type, or damaged" if found is None else found.mimetype
        raise MediaTypeRefused(
            f"The content of the attachment is {seen}. "
            f"As {kind.value} these can be sent: {types.names_of(kind)}.",
            field="media",
        )
    return found


def _recognise(content: Content, kind: MediaKind) -> ContentType | None:
    head = bytes(content[:_HEAD_BYTES])
    if head[4:8] == b"ftyp":
        return _judge_boxes(content, kind)
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return judge_compound(content)
    signature = filetype.match(head, matchers=_SIGNATURES)
    if signature is None:
        return types.TEXT if _is_text(content, head) else None
    found = _JUDGES[signature.mime](content)
    if found is not None and signature.mime != types.ZIP.mimetype and ends_as_archive(content):
        return None  # two files in one: a picture to phones, an archive or a program elsewhere
    return found


def _judge_jpeg(content: Content) -> ContentType | None:
    # Cameras write previews and films behind the picture, so the end mark may come earlier.
    has_segment = len(content) > 4 and content[3] >= 0xC0
    return types.JPEG if has_segment and holds(_END_OF_JPEG, content) else None


def _judge_png(content: Content) -> ContentType | None:
    whole = content[12:16] == b"IHDR" and content[-12:] == b"\0\0\0\0IEND\xaeB`\x82"
    return types.PNG if whole else None


def _judge_webp(content: Content) -> ContentType | None:
    if len(content) < 16:
        return None
    (size,) = struct.unpack("<I", content[4:8])
    parts = (b"VP8 ", b"VP8L", b"VP8X")
    return types.WEBP if size + 8 == len(content) and content[12:16] in parts else None


def _judge_ogg(content: Content) -> ContentType | None:
    # The first page of a stream holds nothing but its head (RFC 7845, 3).
    first = 27 + content[26] if len(content) > 28 else 0
    return types.OPUS if content[first : first + 8] == b"OpusHead" else None


def _judge_mp3(content: Content) -> ContentType | None:
    start = 0
    if content[:3] == b"ID3":
        if len(content) < 10 or any(byte & 0x80 for byte in content[6:10]):
            return None
        size = int.from_bytes(bytes(content[6:10]), "big")
        start = 10 + sum(((size >> 8 * n) & 0x7F) << 7 * n for n in range(4))
        if content[5] & 0x10:
            start += 10
    window = bytes(content[start : start + _HEAD_BYTES])
    position = len(window) - len(window.lstrip(b"\0"))
    return types.MP3 if _is_mpeg_frame(window[position : position + 4]) else None


def _is_mpeg_frame(head: bytes) -> bool:
    """Tell whether this is the head of an MPEG audio frame of layer 3."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rate, sampling = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer == 1 and rate not in (0, 15) and sampling != 3


def _judge_aac(content: Content) -> ContentType | None:
    """ADTS: each frame tells where the next one begins."""
    position, frames = 0, 0
    while frames < 3 and position + 7 <= len(content):
        head = bytes(content[position : position + 7])
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        if head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or length < 7:
            return None
        position, frames = position + length, frames + 1
    return types.AAC if frames and position <= len(content) else None


def _judge_amr(content: Content) -> ContentType | None:
    return types.AMR if content[:6] == b"#!AMR\n" and len(content) > 6 else None


def _judge_pdf(content: Content) -> ContentType | None:
    whole = content[:5] == b"%PDF-" and b"%%EOF" in bytes(content[-_TAIL_BYTES:])
    return types.PDF if whole else None


def _judge_rtf(content: Content) -> ContentType | None:
    end = bytes(content[-64:]).rstrip(b"\0 \r\n\t")
    return types.RTF if content[:5] == b"{\\rtf" and end.endswith(b"}") else None


def _judge_boxes(content: Content, kind: MediaKind) -> ContentType | None:
    """ISO base media files: a brand, and a `moov` box that tells what is played."""
    brand = bytes(content[8:12])
    played: set[bytes] = set()
    for name, start, end in _boxes(content):
        if name == b"moov":
            tracks = _PLAYED.finditer(content, start, min(end, start + _MOST_INDEX_BYTES))
            played = {track[1] for track in islice(tracks, _MOST_TRACKS)}
    if brand in _AUDIO_BRANDS and played == {b"soun"}:
        return types.M4A
    if b"vide" in played:
        return (
            types.THREE_GP
            if brand[:3] in (b"3gp", b"3gr", b"3gs")
            else (types.MP4 if brand in _VIDEO_BRANDS else None)
        )
    is_sound = played == {b"soun"} and (brand in _VIDEO_BRANDS or brand[:2] == b"3g")
    return types.M4A if is_sound else None


def _boxes(content: Content) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the outermost boxes; ends early when they do not fit."""
    position, size = 0, len(content)
    for _ in range(_MOST_BOXES):
        if position + 8 > size:
            return
        length, name = struct.unpack(">I4s", content[position : position + 8])
        start = position + 8
        if length == 1 and position + 16 <= size:
            (length,) = struct.unpack(">Q", content[start : start + 8])
            start += 8
        end = size if length == 0 else position + length
        if end < start or end > size:
            return
        yield name, start, end
        position = end


def _is_text(content: Content, head: bytes) -> bool:
    if _MARKUP.search(head) or _PROGRAM_TEXT.match(head) or filetype.guess(head) is not None:
        return False
    return not holds(_NOT_TEXT, content)


_JUDGES: dict[str, Callable[[Content], ContentType | None]] = {
    "image/jpeg": _judge_jpeg,
    "image/png": _judge_png,
    "image/webp": _judge_webp,
    "audio/ogg": _judge_ogg,
    "audio/mpeg": _judge_mp3,
    "audio/aac": _judge_aac,
    "audio/amr": _judge_amr,
    "application/pdf": _judge_pdf,
    "application/zip": judge_archive,
    "application/rtf": _judge_rtf,
}
