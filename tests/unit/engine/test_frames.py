"""The frames between an engine and its supervisor."""

import pytest

from crm_whatsapp.engine.child_settings import ChildSettings
from crm_whatsapp.engine.engine_unit import Pulse
from crm_whatsapp.engine.frames import (
    FrameError,
    Report,
    decode,
    encode,
    get_int,
    get_number,
    get_text,
)


def test_there_and_back() -> None:
    frame = {"type": Report.EVENT, "text": "olá 👋 \ud800", "n": 1.5}
    assert decode(encode(frame)) == frame


DEEP = b'{"type":"event","fields":' + b"[" * 200_000 + b"]" * 200_000 + b"}"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"{}", b'{"type": 1}', b"\x80\x04K\x01.", DEEP], ids=range(7)
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode(data)


@pytest.mark.parametrize("figure", [10**400, -1, True, 1.5, "1", None])
def test_figures_of_an_engine_that_lies_are_no_figures(figure: object) -> None:
    names = ("starts", "open_descriptors", "rss_bytes", "pss_bytes")
    pulse = Pulse.from_frame(dict.fromkeys(names, figure))
    assert pulse.memory_mb < 1
    assert pulse.starts in (0, 1)


def test_fields_are_checked() -> None:
    frame = {"type": "t", "text": "a", "int": 1, "number": 1.5, "bool": True}
    assert (get_text(frame, "text"), get_int(frame, "int"), get_number(frame, "number")) == (
        "a",
        1,
        1.5,
    )
    for get, key in ((get_text, "int"), (get_int, "bool"), (get_number, "text"), (get_int, "no")):
        with pytest.raises(FrameError):
            get(frame, key)


def test_settings_cross_the_pipe() -> None:
    settings = ChildSettings(
        device_name="Ünïcode",
        log_level="INFO",
        careful=True,
        start_gate_max_seconds=0.05,
        call_entry_max_seconds=0.01,
        dials_at_once=25,
        lock_wait_seconds=10,
        slow_stop_seconds=7,
        calls_per_client=8,
        calls_per_engine=100,
        uploads_per_client=4,
        uploads_per_engine=16,
        upload_bytes_at_once=1000,
        heartbeat_seconds=1,
        memory_check_seconds=15,
    )
    assert ChildSettings.from_frame(decode(encode(settings.frame()))) == settings
