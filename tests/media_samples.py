"""Small whole files of each type that may be sent, made by hand, and some that may not."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib


def png(side: int = 8, *, noise: bytes = b"") -> bytes:
    """Return a grey picture; noise goes into a chunk that nobody draws."""
    rows = b"".join(b"\0" + bytes(side) for _ in range(side))
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    if noise:
        parts.insert(1, (b"npLb", noise))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def zipped(files: dict[str, bytes | str], *, stored: bool = False) -> bytes:
    """Return a ZIP file."""
    target = io.BytesIO()
    how = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(target, "w", how) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def office(main: str, **more: bytes) -> bytes:
    """Return an office document with this main part."""
    extra = {name.replace("__", "/").replace("_dot_", "."): body for name, body in more.items()}
    return zipped({"[Content_Types].xml": "<Types/>", main: "<document/>", **extra})


def open_document(what: str) -> bytes:
    """Return an OpenDocument; its type comes first and is not compressed."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("mimetype", f"application/vnd.oasis.opendocument.{what}")
        archive.writestr("content.xml", "<office/>", zipfile.ZIP_DEFLATED)
    return target.getvalue()


def box(name: bytes, *parts: bytes) -> bytes:
    """Return a box of an ISO base media file."""
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + name + body


def film(brand: bytes, *handlers: bytes, content: bytes = bytes(64)) -> bytes:
    """Return an ISO base media file with a track for each handler (vide, soun)."""
    tracks = [
        box(b"trak", box(b"mdia", box(b"hdlr", bytes(8), handler, bytes(13))))
        for handler in handlers
    ]
    return (
        box(b"ftyp", brand, bytes(4), brand)
        + box(b"mdat", content)
        + box(b"moov", box(b"mvhd", bytes(100)), *tracks)
    )


def ole(*names: str) -> bytes:
    """Return an OLE file with these folder entries."""
    entries = b"".join(
        name.encode("utf-16-le").ljust(64, b"\0") + struct.pack("<H", 2 * len(name) + 2) + bytes(62)
        for name in ("Root Entry", *names)
    )
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + entries


JPEG = (
    b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    b"\xff\xc0\0\x0b\x08\0\1\0\1\1\1\x11\0\xff\xda\0\x08\1\1\0\0\x3f\0\0\xff\xd9"
)
WEBP = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8L" + struct.pack("<I", 10) + b"\x2f" + bytes(9)
GIF = b"GIF89a\1\0\1\0\0\0\0;"
OPUS = b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead\1\1" + bytes(9)
VORBIS = b"OggS\0\2" + bytes(20) + b"\1\x1e\1vorbis" + bytes(23)
MP3 = (b"\xff\xfb\x90\x00" + bytes(413)) * 3
MP3_TAGGED = b"ID3\4\0\0\0\0\1\0" + bytes(128) + MP3
AAC = (b"\xff\xf1\x50\x80\x03\x7f\xfc" + bytes(20)) * 4
AMR = b"#!AMR\n" + (b"\x3c" + bytes(31)) * 3
PDF = b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\nstartxref\n9\n%%EOF\n"
RTF = b"{\\rtf1\\ansi Hello}"
CSV = "nome;cidade\nJoão;São Paulo\n".encode()
HTML = b"<!DOCTYPE html><html><body><script>alert(1)</script></body></html>"
EXE = b"MZ\x90\0\3\0\0\0" + bytes(56) + b"\x40\0\0\0PE\0\0" + bytes(200)
ELF = b"\x7fELF\2\1\1" + bytes(57)
MP4 = film(b"isom", b"vide", b"soun")
M4A = film(b"M4A ", b"soun")
THREE_GP = film(b"3gp4", b"vide")
DOCX = office("word/document.xml")
XLSX = office("xl/workbook.xml")
