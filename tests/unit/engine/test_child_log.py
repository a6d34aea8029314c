"""What an engine's log may hold."""

from crm_whatsapp.engine.child_log import redact


def test_qr_text_is_never_logged() -> None:
    line = "Emitting QR code https://wa.me/settings/linked_devices#2@abc,def= now"
    assert redact(line, keep_numbers=True) == "Emitting QR code <qr> now"
    assert "2@" not in redact("code 2@aaaaaaaaaaaaaaaaaaaaaaaaaaa,bbb", keep_numbers=True)


def test_numbers_stay_at_debug_only() -> None:
    line = "Successfully paired 5511900000001:1@s.whatsapp.net"
    assert redact(line, keep_numbers=True) == line
    assert redact(line, keep_numbers=False) == "Successfully paired <number>:1@s.whatsapp.net"


def test_codes_and_counts_stay() -> None:
    assert redact("Got 503 stream error, 812 keys", keep_numbers=False) == (
        "Got 503 stream error, 812 keys"
    )


def test_stanzas_are_never_logged() -> None:
    line = 'Node handling took 6s for <message from="55@lid" notify="Anna">\n<enc>0a</enc>'
    assert redact(line, keep_numbers=True) == "Node handling took 6s for <stanza>"
    assert redact("list < 5 <messages>", keep_numbers=False) == "list < 5 <messages>"
