"""What strangers write is shown as text, and does nothing else."""

import pytest

from crm_whatsapp.domain.plain_text import escaped, escaped_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Padaria São João 👩‍👩‍👧", "Padaria São João 👩‍👩‍👧"),
        ("a\nERROR all is lost", "a\\u000aERROR all is lost"),
        ("\x1b[2Kgone", "\\u001b[2Kgone"),
        ("\x9b2Kgone", "\\u009b2Kgone"),
        ("line\u2028line\x85line", "line\\u2028line\\u0085line"),
        ("invoice\u202efdp.exe", "invoice\\u202efdp.exe"),
        ("\u2067\u061c\ufeff", "\\u2067\\u061c\\ufeff"),
        ("half \ud83d", "half \\ud83d"),
    ],
)
def test_what_moves_the_cursor_is_spelled_out(text: str, shown: str) -> None:
    assert escaped(text) == shown
    assert shown.encode()


def test_lines_may_stay() -> None:
    assert escaped_lines("a\n\tb\r\x1b[0m") == "a\n\tb\\u000d\\u001b[0m"
