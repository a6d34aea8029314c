"""Patterns in large contents, searched in pieces: a search holds up all other threads."""

import re
from collections.abc import Iterator

from crm_whatsapp.domain.media import Content

_PIECE_BYTES = 256 * 1024


def holds(pattern: re.Pattern[bytes], content: Content, *, longest: int = 64) -> bool:
    """Tell whether the pattern is found; longest: of what it may match, in bytes."""
    return next(find_all(pattern, content, longest=longest), None) is not None


def find_all(
    pattern: re.Pattern[bytes], content: Content, *, longest: int
) -> Iterator[tuple[int, bytes]]:
    """Yield position and text of each match; one that spans two pieces may come twice."""
    for start in range(0, len(content), _PIECE_BYTES):
        piece = content[start : start + _PIECE_BYTES + longest]
        for match in pattern.finditer(piece):
            yield start + match.start(), match[0]
