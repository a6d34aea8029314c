"""Attachments that are folders inside: ZIP with office documents among them, and OLE files.

Nothing is unpacked: only the list of contents is read, and only when it is small.
"""

import io
import re
import struct
import zipfile
from mmap import mmap
from typing import IO, cast

from crm_whatsapp.domain.media import Content, ContentType
from crm_whatsapp.service import media_types as types
from crm_whatsapp.service.byte_search import find_all

_MOST_ENTRIES = 20_000
_MOST_LIST_BYTES = 2 * 1024 * 1024
_END = struct.Struct("<4s4H2LH")
_OPEN_DOCUMENTS = {it.mimetype.encode(): it for it in (types.ODT, types.ODS, types.ODP)}
_OFFICE = {
    "word/document.xml": types.DOCX,
    "xl/workbook.xml": types.XLSX,
    "ppt/presentation.xml": types.PPTX,
}
# Programs that are ZIP files: Java, Android, iPhone, and office documents with macros.
_PROGRAM = re.compile(
    r"META-INF/MANIFEST\.MF|AndroidManifest\.xml|classes\.dex|Payload/[^/]+\.app/.*"
    r"|(?:.*/)?vbaProject\.bin|Basic/.*|Scripts/.*",
    re.IGNORECASE,
)
_COMPOUND = {
    "WordDocument": types.DOC,
    "Workbook": types.XLS,
    "Book": types.XLS,
    "PowerPoint Document": types.PPT,
}
_COMPOUND_PROGRAMS = ("_VBA_PROJECT", "_VBA_PROJECT_CUR", "Macros", "VBA", "\x01Ole10Native")


def _entry(name: str) -> bytes:
    return name.encode("utf-16-le").ljust(64, b"\0") + struct.pack("<H", 2 * len(name) + 2)


_ENTRY_BYTES = 128
_ENTRIES = {_entry(name): name for name in (*_COMPOUND, *_COMPOUND_PROGRAMS)}
_ANY_ENTRY = re.compile(b"|".join(re.escape(entry) for entry in _ENTRIES))


def ends_as_archive(content: Content) -> bool:
    """Tell whether the content, whatever it begins with, ends as a ZIP file does."""
    return bytes(content[-_END.size :]).startswith(b"PK\5\6") and len(content) >= _END.size


def judge_archive(content: Content) -> ContentType | None:
    """Return what this ZIP file is; None for damaged, huge and split ones and for programs."""
    if not _is_plain(content):
        return None
    try:
        file = cast(IO[bytes], content) if isinstance(content, mmap) else io.BytesIO(content)
        with zipfile.ZipFile(file) as zipped:
            entries = zipped.infolist()
            if not entries or min(entry.header_offset for entry in entries) != 0:
                return None
            return _judge_entries(zipped, entries)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError):
        return None


def _is_plain(content: Content) -> bool:
    """Tell whether it ends with an end record that has no comment and lists a bounded number.

    zipfile reads the whole list into memory; this is the record it will go by.
    """
    if len(content) < _END.size:
        return False
    mark, disk, first, here, entries, size, _, comment = _END.unpack(content[-_END.size :])
    is_64 = bytes(content[-_END.size - 20 : -_END.size]).startswith(b"PK\6\7")
    whole = mark == b"PK\5\6" and not (disk or first or comment or is_64) and here == entries
    return whole and entries <= _MOST_ENTRIES and size <= _MOST_LIST_BYTES


def _judge_entries(zipped: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> ContentType | None:
    names = [entry.filename for entry in entries]
    if any(_PROGRAM.fullmatch(name) for name in names):
        return None
    first = entries[0]
    if first.filename == "mimetype":
        stored = first.compress_type == zipfile.ZIP_STORED and first.file_size <= 100
        return _OPEN_DOCUMENTS.get(zipped.read(first)) if stored else None
    if "[Content_Types].xml" in names:
        return next((it for name, it in _OFFICE.items() if name in names), None)
    return types.ZIP


def judge_compound(content: Content) -> ContentType | None:
    """Return which old office document an OLE file is; None for others and for those with macros.

    Its folder entries are 128 bytes each, on multiples of 128, and begin with the name in UTF-16
    ([MS-CFB] 2.6.1).
    """
    names = {
        _ENTRIES[found]
        for position, found in find_all(_ANY_ENTRY, content, longest=_ENTRY_BYTES)
        if position % _ENTRY_BYTES == 0
    }
    if names.intersection(_COMPOUND_PROGRAMS):
        return None
    return next((it for name, it in _COMPOUND.items() if name in names), None)
