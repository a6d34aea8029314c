"""Text of strangers that is shown to people: nothing in it moves a cursor or turns a line around.

What is meant: control characters (C0, DEL and C1, of which terminals take U+009B for an escape
sequence), the separators of lines and paragraphs, the marks that reorder what follows them (Unicode
TR36, 3.1.1; CVE-2021-42574), and lone surrogates, which no encoding takes.
"""

import re

_TRICKS = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_UNPRINTABLE = re.compile(f"[{_TRICKS}]")
_UNPRINTABLE_IN_LINES = re.compile(rf"(?![\n\t])[{_TRICKS}]")


def escaped(text: str) -> str:
    """Return the text with these characters spelled out as \\uXXXX, as JSON does."""
    return _UNPRINTABLE.sub(_spelled, text)


def escaped_lines(text: str) -> str:
    """Return the same, with line feeds and tabs left as they are."""
    return _UNPRINTABLE_IN_LINES.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
