"""What an attachment is: its content decides, and a signature alone is not enough."""

import io
import random
import struct
import zipfile

import pytest

from crm_whatsapp.domain.media import MediaKind, MediaTypeRefused
from crm_whatsapp.service.byte_search import holds
from crm_whatsapp.service.media_content import _NOT_TEXT, judge_content
from tests import media_samples as samples

IMAGE, VIDEO, AUDIO, DOCUMENT = MediaKind
GOOD = {
    "png": (IMAGE, samples.png(), "image/png"),
    "jpeg": (IMAGE, samples.JPEG, "image/jpeg"),
    "jpeg with a film behind": (IMAGE, samples.JPEG + samples.MP4, "image/jpeg"),
    "webp": (IMAGE, samples.WEBP, "image/webp"),
    "mp4": (VIDEO, samples.MP4, "video/mp4"),
    "mp4 for streaming": (VIDEO, samples.film(b"iso5", b"vide"), "video/mp4"),
    "3gp": (VIDEO, samples.THREE_GP, "video/3gpp"),
    "opus": (AUDIO, samples.OPUS, "audio/ogg; codecs=opus"),
    "mp3": (AUDIO, samples.MP3, "audio/mpeg"),
    "mp3 with a tag": (AUDIO, samples.MP3_TAGGED, "audio/mpeg"),
    "m4a": (AUDIO, samples.M4A, "audio/mp4"),
    "mp4 without a picture": (AUDIO, samples.film(b"isom", b"soun"), "audio/mp4"),
    "aac": (AUDIO, samples.AAC, "audio/aac"),
    "amr": (AUDIO, samples.AMR, "audio/amr"),
    "pdf": (DOCUMENT, samples.PDF, "application/pdf"),
    "rtf": (DOCUMENT, samples.RTF, "application/rtf"),
    "text": (DOCUMENT, "Olá,\r\n\tmundo\f".encode(), "text/plain"),
    "text of another century": (DOCUMENT, "São Paulo;1\n".encode("cp1252"), "text/plain"),
    "csv": (DOCUMENT, samples.CSV, "text/plain"),
    "text with a smaller-than": (DOCUMENT, b"a < b and b > c <3", "text/plain"),
    "zip": (DOCUMENT, samples.zipped({"a.txt": b"a"}), "application/zip"),
    "odt": (DOCUMENT, samples.open_document("text"), "application/vnd.oasis.opendocument.text"),
    "doc": (DOCUMENT, samples.ole("WordDocument"), "application/msword"),
    "xls": (DOCUMENT, samples.ole("Workbook"), "application/vnd.ms-excel"),
    "ppt": (DOCUMENT, samples.ole("PowerPoint Document"), "application/vnd.ms-powerpoint"),
    "a picture as a document": (DOCUMENT, samples.png(), "image/png"),
}
_OOXML = "application/vnd.openxmlformats-officedocument."
GOOD["docx"] = (DOCUMENT, samples.DOCX, f"{_OOXML}wordprocessingml.document")
GOOD["xlsx"] = (DOCUMENT, samples.XLSX, f"{_OOXML}spreadsheetml.sheet")
GOOD["pptx"] = (
    DOCUMENT,
    samples.office("ppt/presentation.xml"),
    f"{_OOXML}presentationml.presentation",
)


def with_comment(content: bytes) -> bytes:
    target = io.BytesIO(content)
    with zipfile.ZipFile(target, "a") as archive:
        archive.comment = b"</html>"
    return target.getvalue()


def claiming_entries(content: bytes, entries: int, size: int) -> bytes:
    """Return a ZIP file whose end record lies about its list."""
    end = bytearray(content[-22:])
    struct.pack_into("<2HL", end, 8, entries, entries, size)
    return content[:-22] + bytes(end)


BAD = {
    "nothing": (DOCUMENT, b""),
    "one byte of nothing": (DOCUMENT, b"\0"),
    "html": (DOCUMENT, samples.HTML),
    "html after blanks": (DOCUMENT, b"\xef\xbb\xbf  \n<HtMl>"),
    "html after a comment": (DOCUMENT, b"<!-- x -->\n" * 9 + b"< script >"),
    "svg": (DOCUMENT, b"<svg xmlns='http://www.w3.org/2000/svg' onload='x()'/>"),
    "xml": (DOCUMENT, b"<?xml version='1.0'?><a/>"),
    "php": (DOCUMENT, b"<?php system($_GET[0]); ?>"),
    "shell": (DOCUMENT, b"#!/bin/sh\nrm -rf /\n"),
    "batch": (DOCUMENT, b"@echo off\r\nformat c:\r\n"),
    "registry": (DOCUMENT, b"Windows Registry Editor Version 5.00\r\n"),
    "internet shortcut": (DOCUMENT, b"[InternetShortcut]\r\nURL=file:///x\r\n"),
    "exe": (DOCUMENT, samples.EXE),
    "elf": (DOCUMENT, samples.ELF),
    "class": (DOCUMENT, b"\xca\xfe\xba\xbe\0\0\0\x34" + bytes(40)),
    "gif": (IMAGE, samples.GIF),
    "utf-16": (DOCUMENT, "Olá".encode("utf-16")),
    "random": (DOCUMENT, bytes(range(256)) * 16),
    "html as picture": (IMAGE, samples.HTML),
    "pdf as picture": (IMAGE, samples.PDF),
    "picture as film": (VIDEO, samples.png()),
    "film as sound": (AUDIO, samples.MP4),
    "sound as film": (VIDEO, samples.M4A),
    "quicktime": (VIDEO, samples.film(b"qt  ", b"vide")),
    "heic": (IMAGE, samples.film(b"heic", b"pict")),
    "film without an index": (VIDEO, samples.MP4[:80]),
    "film of a box too long": (VIDEO, samples.MP4.replace(b"\0\0\0\x48mdat", b"\x7f\0\0\0mdat")),
    "vorbis": (AUDIO, samples.VORBIS),
    "mp3 tag alone": (AUDIO, b"ID3\4\0\0\0\0\0\x0a" + bytes(40)),
    "mp3 tag before an exe": (AUDIO, b"ID3\4\0\0\0\0\0\0" + samples.EXE),
    "aac of one lie": (AUDIO, samples.AAC[:7] + b"MZ" * 40),
    "jpeg of three bytes": (IMAGE, b"\xff\xd8\xff"),
    "jpeg without an end": (IMAGE, samples.JPEG[:-2]),
    "png without an end": (IMAGE, samples.png()[:-1]),
    "png and more": (IMAGE, samples.png() + samples.HTML),
    "webp without an end": (IMAGE, samples.WEBP[:-1]),
    "webp head": (IMAGE, b"RIFF\0\0\0\0WEBP"),
    "pdf without an end": (DOCUMENT, samples.PDF[:-7]),
    "pdf behind html": (DOCUMENT, samples.HTML + samples.PDF),
    "jpeg and zip": (IMAGE, samples.JPEG + samples.zipped({"evil.class": b"x"})),
    "pdf and zip": (DOCUMENT, samples.PDF + samples.zipped({"a": b"x"})),
    "zip behind an exe": (DOCUMENT, samples.EXE + samples.zipped({"a": b"x"})),
    "zip behind a zip": (DOCUMENT, samples.zipped({"a": b"x"}) + samples.zipped({"b": b"y"})),
    "zip with a comment": (DOCUMENT, with_comment(samples.zipped({"a": b"x"}))),
    "zip cut off": (DOCUMENT, samples.zipped({"a": b"x"})[:-5]),
    "zip without entries": (DOCUMENT, samples.zipped({})),
    "zip of too many": (DOCUMENT, claiming_entries(samples.zipped({"a": b"x"}), 65_535, 47)),
    "zip of a huge list": (DOCUMENT, claiming_entries(samples.zipped({"a": b"x"}), 1, 1 << 31)),
    "jar": (DOCUMENT, samples.zipped({"META-INF/MANIFEST.MF": b"x", "A.class": b"x"})),
    "apk": (DOCUMENT, samples.zipped({"AndroidManifest.xml": b"x", "classes.dex": b"x"})),
    "docm": (DOCUMENT, samples.office("word/document.xml", word__vbaProject_dot_bin=b"x")),
    "office without a main part": (DOCUMENT, samples.zipped({"[Content_Types].xml": b"x"})),
    "epub": (DOCUMENT, samples.zipped({"mimetype": b"application/epub+zip"}, stored=True)),
    "odt of a bomb": (DOCUMENT, samples.zipped({"mimetype": b"\0" * 1_000_000})),
    "msi": (DOCUMENT, samples.ole("SummaryInformation")),
    "doc with macros": (DOCUMENT, samples.ole("WordDocument", "Macros", "_VBA_PROJECT")),
    "doc with a package": (DOCUMENT, samples.ole("WordDocument", "\x01Ole10Native")),
    "doc by a word in it": (DOCUMENT, samples.ole() + b"x" + samples.ole("WordDocument")[640:]),
    "rtf without an end": (DOCUMENT, samples.RTF[:-1]),
    "flash": (DOCUMENT, b"FWS\x09" + bytes(60)),
    "rar": (DOCUMENT, b"Rar!\x1a\x07\x01\0" + bytes(60)),
    "7z": (DOCUMENT, b"7z\xbc\xaf\x27\x1c" + bytes(60)),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_whole_and_on_the_list_is_told_by_its_content(name: str) -> None:
    kind, content, mimetype = GOOD[name]
    assert judge_content(content, kind).mimetype == mimetype


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_on_the_list_damaged_or_two_things_in_one_is_refused(name: str) -> None:
    kind, content = BAD[name]
    with pytest.raises(MediaTypeRefused) as refusal:
        judge_content(content, kind)
    assert refusal.value.details["field"] == "media"


def test_the_refusal_says_what_it_saw_and_what_may_be_sent() -> None:
    with pytest.raises(MediaTypeRefused, match=r"is application/pdf\. As image .*: jpg, png, webp"):
        judge_content(samples.PDF, IMAGE)


@pytest.mark.parametrize("name", GOOD)
def test_no_beginning_of_a_file_breaks_the_judge(name: str) -> None:
    kind, content, _ = GOOD[name]
    for length in range(1, len(content)):
        try:
            judge_content(content[:length], kind)
        except MediaTypeRefused:
            continue


def test_no_flipped_byte_breaks_the_judge() -> None:
    dice = random.Random(2)  # noqa: S311 - repeatable
    for _, content, _ in GOOD.values():
        for _ in range(200):
            bent = bytearray(content)
            bent[dice.randrange(len(bent))] ^= dice.randrange(1, 256)
            for kind in MediaKind:
                try:
                    judge_content(bytes(bent), kind)
                except MediaTypeRefused:
                    continue


@pytest.mark.parametrize("position", [0, 262_143, 262_144, 262_145, 599_999])
def test_a_long_text_is_looked_through_to_its_end(position: int) -> None:
    content = bytearray(b"a" * 600_000)
    assert not holds(_NOT_TEXT, bytes(content))
    content[position] = 0
    assert holds(_NOT_TEXT, bytes(content))


def test_a_mark_across_two_pieces_is_found() -> None:
    start = samples.JPEG[:-2]
    content = start + b"\0" * (262_143 - len(start)) + b"\xff\xd9"
    assert content[262_143:] == b"\xff\xd9"
    assert judge_content(content, IMAGE).mimetype == "image/jpeg"
