"""From what WhatsApp's people send to the domain's events, through the pipe."""

import random
import string
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from crm_whatsapp.domain.inbound import (
    MOST_IDS_IN_A_RECEIPT,
    MOST_NAME_CHARACTERS,
    MOST_TEXT_CHARACTERS,
    InboundEvent,
    MessageArrived,
    MessageType,
    ReceiptArrived,
    ReceiptType,
)
from crm_whatsapp.engine.event_translation import MESSAGE, RECEIPT, domain_event, event_frame
from crm_whatsapp.engine.frames import MAX_FRAME_BYTES, FrameError, Report, decode, encode
from crm_whatsapp.engine.inbound_translation import BareMessage, translate_inbound
from tests.unit.engine.whatsapp_messages import (
    ANNA,
    ANNA_HIDDEN,
    CLASSES,
    GROUP,
    NOBODY,
    OWN,
    SENT_AT_MS,
    message_event,
    receipt_event,
)

NUMBER_JID = "5511988887777@s.whatsapp.net"
LID = "360755973120501@lid"


def through_the_pipe(code: int, event: Any) -> list[InboundEvent]:
    heard = []
    for name, fields in translate_inbound(code, event):
        frame = {**event_frame("c-1", 3, name, fields), "type": Report.INBOUND}
        data = encode(frame)
        assert len(data) < MAX_FRAME_BYTES / 4
        event = domain_event(decode(data))
        assert isinstance(event, InboundEvent)
        heard.append(event)
    return heard


def heard(content: Any, **event: Any) -> MessageArrived:
    (message,) = through_the_pipe(MESSAGE, message_event(content, **event))
    assert isinstance(message, MessageArrived)
    return message


def test_a_text_with_everything_about_it() -> None:
    assert heard({"conversation": "Is it ready? 👋"}) == MessageArrived(
        company_id="c-1",
        generation=3,
        message_id="3EB0AAAA",
        chat=NUMBER_JID,
        sender=NUMBER_JID,
        sender_lid=LID,
        is_group=False,
        from_me=False,
        sent_at_ms=SENT_AT_MS,
        message_type=MessageType.TEXT,
        push_name="Anna",
        text="Is it ready? 👋",
    )


@pytest.mark.parametrize(
    ("where", "chat", "sender", "lid"),
    [
        ({}, NUMBER_JID, NUMBER_JID, LID),
        ({"sender_alt": NOBODY}, NUMBER_JID, NUMBER_JID, None),
        (
            {"chat": ANNA_HIDDEN, "sender": ANNA_HIDDEN, "sender_alt": ANNA},
            NUMBER_JID,
            NUMBER_JID,
            LID,
        ),
        ({"chat": ANNA_HIDDEN, "sender": ANNA_HIDDEN, "sender_alt": NOBODY}, LID, LID, LID),
        ({"chat": GROUP}, "120363000000000001@g.us", NUMBER_JID, LID),
        ({"chat": ("1700000000", "broadcast")}, NUMBER_JID, NUMBER_JID, LID),
    ],
)
def test_who_wrote_where(where: dict[str, Any], chat: str, sender: str, lid: str | None) -> None:
    message = heard({"conversation": "a"}, **where)
    assert (message.chat, message.sender, message.sender_lid) == (chat, sender, lid)
    assert message.is_group is chat.endswith("@g.us")


def test_the_company_from_its_own_phone() -> None:
    message = heard(
        {"conversation": "from the phone"},
        chat=ANNA_HIDDEN,
        sender=OWN,
        sender_alt=("426159840309567", "lid"),
        recipient_alt=ANNA,
        from_me=True,
    )
    assert message.from_me is True
    assert (message.chat, message.sender) == (NUMBER_JID, "5511900000001@s.whatsapp.net")


MEDIA = {"mimetype": "image/png", "fileLength": 48, "mediaKey": b"secret", "URL": "https://x"}
KEY = {"remoteJID": NUMBER_JID, "ID": "3EB0BBBB", "fromMe": True}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            {"extendedTextMessage": {"text": "yes", "contextInfo": {"stanzaID": "3EB0BBBB"}}},
            {"message_type": "text", "text": "yes", "reply_to": "3EB0BBBB"},
        ),
        (
            {"imageMessage": {**MEDIA, "caption": "look"}},
            {
                "message_type": "image",
                "text": "look",
                "mimetype": "image/png",
                "size_bytes": 48,
            },
        ),
        ({"videoMessage": MEDIA}, {"message_type": "video", "text": None}),
        ({"ptvMessage": MEDIA}, {"message_type": "video"}),
        ({"audioMessage": MEDIA}, {"message_type": "audio", "filename": None}),
        ({"stickerMessage": MEDIA}, {"message_type": "sticker", "size_bytes": 48}),
        (
            {"documentMessage": {**MEDIA, "fileName": "offer.pdf", "caption": "our offer"}},
            {"message_type": "document", "filename": "offer.pdf", "text": "our offer"},
        ),
        (
            {
                "locationMessage": {
                    "degreesLatitude": -23.5505199,
                    "degreesLongitude": -46.6333094,
                    "name": "Bakery",
                    "address": "Rua A, 1",
                }
            },
            {"message_type": "location", "text": "-23.550520,-46.633309\nBakery\nRua A, 1"},
        ),
        (
            {"locationMessage": {"degreesLatitude": float("nan"), "degreesLongitude": 1e300}},
            {"message_type": "location", "text": None},
        ),
        (
            {"liveLocationMessage": {"degreesLatitude": 1, "degreesLongitude": 2, "caption": "me"}},
            {"message_type": "location", "text": "1.000000,2.000000\nme"},
        ),
        (
            {
                "contactMessage": {
                    "displayName": "Bruno",
                    "vcard": "BEGIN:VCARD\nitem1.TEL;waid=55119:+55 11 9\r\nTEL:112\nEND:VCARD",
                }
            },
            {"message_type": "contact", "text": "Bruno +55 11 9 112"},
        ),
        (
            {"contactsArrayMessage": {"contacts": [{"displayName": "A"}, {"displayName": "B"}]}},
            {"message_type": "contact", "text": "A\nB"},
        ),
        (
            {"reactionMessage": {"key": KEY, "text": "👍"}},
            {"message_type": "reaction", "text": "👍", "reply_to": "3EB0BBBB"},
        ),
        (
            {"reactionMessage": {"key": KEY, "text": ""}},
            {"message_type": "reaction", "text": None, "reply_to": "3EB0BBBB"},
        ),
        (
            {
                "pollCreationMessageV3": {
                    "name": "When?",
                    "options": [{"optionName": "now"}, {"optionName": "later"}],
                }
            },
            {"message_type": "poll", "text": "When?\n- now\n- later"},
        ),
        (
            {"protocolMessage": {"key": KEY, "type": 0}},
            {"message_type": "delete", "text": None, "reply_to": "3EB0BBBB"},
        ),
        (
            {
                "protocolMessage": {
                    "key": KEY,
                    "type": 14,
                    "editedMessage": {"conversation": "better"},
                }
            },
            {"message_type": "edit", "text": "better", "reply_to": "3EB0BBBB"},
        ),
        (
            {"buttonsResponseMessage": {"selectedDisplayText": "Yes, please"}},
            {"message_type": "text", "text": "Yes, please"},
        ),
        ({"listResponseMessage": {"title": "Bread"}}, {"message_type": "text", "text": "Bread"}),
        (
            {"interactiveResponseMessage": {"body": {"text": "Book"}}},
            {"message_type": "text", "text": "Book"},
        ),
        (
            {"groupInviteMessage": {"groupName": "Bakers"}},
            {"message_type": "unknown", "unknown_type": "groupInviteMessage", "text": None},
        ),
    ],
)
def test_what_is_said(content: dict[str, Any], expected: dict[str, Any]) -> None:
    message = heard(content)
    assert {name: getattr(message, name) for name in expected} == expected


TEXT = {"message": {"conversation": "inside"}}


@pytest.mark.parametrize(
    "content",
    [
        {"ephemeralMessage": TEXT},
        {"viewOnceMessage": TEXT},
        {"viewOnceMessageV2": TEXT},
        {"viewOnceMessageV2Extension": TEXT},
        {"documentWithCaptionMessage": TEXT},
        {"editedMessage": TEXT},
        {"associatedChildMessage": TEXT},
        {"deviceSentMessage": {"destinationJID": NUMBER_JID, **TEXT}},
        {"ephemeralMessage": {"message": {"viewOnceMessage": TEXT}}},
        {"messageContextInfo": {"messageSecret": b"s"}, "conversation": "inside"},
        {
            "senderKeyDistributionMessage": {
                "groupID": "g",
                "axolotlSenderKeyDistributionMessage": b"k",
            },
            "conversation": "inside",
        },
    ],
)
def test_wrappers_are_taken_off(content: dict[str, Any]) -> None:
    message = heard(content)
    assert (message.message_type, message.text) == (MessageType.TEXT, "inside")


@pytest.mark.parametrize(
    "event",
    [
        message_event({"protocolMessage": {"type": 6, "appStateSyncKeyShare": {}}}, from_me=True),
        message_event({"protocolMessage": {"type": 5, "historySyncNotification": {}}}),
        message_event({"protocolMessage": {"type": 3, "ephemeralExpiration": 60}}),
        message_event({"protocolMessage": {"editedMessage": {"conversation": "no type"}}}),
        message_event({"deviceSentMessage": {"message": {"protocolMessage": {"type": 3}}}}),
        message_event({"conversation": "for devices"}, category="peer"),
        message_event({"senderKeyDistributionMessage": {"groupID": "g"}}, chat=GROUP),
        message_event({"messageContextInfo": {"messageSecret": b"s"}}),
        message_event({"conversation": ""}),
        message_event({"albumMessage": {"expectedImageCount": 3}}),
        message_event({"conversation": "my story"}, chat=("status", "broadcast")),
        message_event(
            {"conversation": "a post"}, chat=("12036", "newsletter"), sender=("12036", "newsletter")
        ),
        message_event({"conversation": "nameless"}, message_id=""),
        message_event(
            {"conversation": "from nowhere"}, chat=NOBODY, sender=NOBODY, sender_alt=NOBODY
        ),
    ],
    ids=str,
)
def test_what_is_not_for_people_is_not_told(event: Any) -> None:
    assert through_the_pipe(MESSAGE, event) == []


def test_a_kind_of_message_that_is_newer_than_this_service() -> None:
    message = heard(CLASSES.Message.FromString(b"\xa2\x3f\x03abc"))
    assert (message.message_type, message.unknown_type) == (MessageType.UNKNOWN, "field 1012")


# --- what only a modified client sends ------------------------------------------------------------


def test_no_utf8_no_zeros_no_end() -> None:
    message = heard(CLASSES.Message.FromString(b"\x0a\x06a\xff\x00\xedb!"))
    assert message.text == "a\ufffd\ufffdb!"
    assert heard({"conversation": "x" * 200_000}).text == "x" * MOST_TEXT_CHARACTERS
    assert heard({"conversation": "👋" * 200_000}).text == "👋" * MOST_TEXT_CHARACTERS
    huge = "n" * 100_000
    message = heard(
        {"documentMessage": {"fileName": huge, "mimetype": huge, "fileLength": 2**64 - 1}},
        message_id=huge,
        push_name=huge,
    )
    short = "n" * MOST_NAME_CHARACTERS
    assert (message.filename, message.mimetype, message.message_id) == (short, short, short)
    assert (message.push_name, message.size_bytes) == (short, None)


def test_many_contacts_and_options_are_cut_off() -> None:
    cards = [{"displayName": "n" * 9000, "vcard": "TEL:1\n" * 9000}] * 2000
    assert (
        len(heard({"contactsArrayMessage": {"contacts": cards}}).text or "") <= MOST_TEXT_CHARACTERS
    )
    options = [{"optionName": "o" * 9000}] * 2000
    poll = heard({"pollCreationMessage": {"name": "q" * 99_000, "options": options}})
    assert len(poll.text or "") == MOST_TEXT_CHARACTERS


def test_wrappers_in_wrappers_end_somewhere() -> None:
    content: dict[str, Any] = {"conversation": "deep inside"}
    for _ in range(25):
        content = {"ephemeralMessage": {"message": content}}
    assert heard(content).message_type is MessageType.UNKNOWN


@pytest.mark.parametrize("at_ms", [0, -62_135_596_800_000, 2**62, 1_000])
def test_an_absurd_time_is_no_time(at_ms: int) -> None:
    assert heard({"conversation": "a"}, at_ms=at_ms).sent_at_ms == 0


def test_a_message_that_was_not_read_is_still_told_of() -> None:
    event = message_event({"conversation": "never looked at"})
    (message,) = through_the_pipe(MESSAGE, BareMessage(Info=event.Info, why="oversized"))
    assert isinstance(message, MessageArrived)
    assert (message.message_type, message.unknown_type) == (MessageType.UNKNOWN, "oversized")
    assert (message.chat, message.text) == (NUMBER_JID, None)


def test_content_that_breaks_its_reader_is_told_as_unreadable(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Trap:
        def ListFields(self) -> Any:
            raise RuntimeError("SECRET TEXT")

    event = message_event({"conversation": "a"})
    trapped = type("Event", (), {"Info": event.Info, "Message": Trap()})()
    (message,) = through_the_pipe(MESSAGE, trapped)
    assert isinstance(message, MessageArrived)
    assert message.unknown_type == "unreadable"
    assert "SECRET" not in caplog.text
    assert through_the_pipe(MESSAGE, object()) == []


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400))
def test_whatever_bytes_parse_as_a_message_become_a_sound_event(data: bytes) -> None:
    try:
        content = CLASSES.Message.FromString(data)
    except DecodeError:
        return
    assert len(through_the_pipe(MESSAGE, message_event(content))) <= 1


def test_mutilated_real_messages_become_sound_events() -> None:
    rng = random.Random(20261121)  # noqa: S311
    whole = [
        CLASSES.Message(
            **{
                "imageMessage": {
                    **MEDIA,
                    "caption": string.printable,
                    "contextInfo": {"stanzaID": "a"},
                }
            }
        ),
        CLASSES.Message(
            **{"protocolMessage": {"key": KEY, "type": 14, "editedMessage": {"conversation": "b"}}}
        ),
        CLASSES.Message(
            **{"ephemeralMessage": {"message": {"contactMessage": {"vcard": "TEL:1"}}}}
        ),
    ]
    for _ in range(3000):
        data = bytearray(rng.choice(whole).SerializeToString())
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            content = CLASSES.Message.FromString(bytes(data))
        except DecodeError:
            continue
        assert len(through_the_pipe(MESSAGE, message_event(content))) <= 1


# --- receipts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "word"), [(1, ReceiptType.DELIVERED), (4, ReceiptType.READ), (6, ReceiptType.PLAYED)]
)
def test_a_receipt(kind: int, word: ReceiptType) -> None:
    assert through_the_pipe(RECEIPT, receipt_event(kind, "A", "B")) == [
        ReceiptArrived(
            company_id="c-1",
            generation=3,
            chat=NUMBER_JID,
            sender=NUMBER_JID,
            sender_lid=LID,
            is_group=False,
            from_me=False,
            sent_at_ms=SENT_AT_MS,
            message_ids=("A", "B"),
            receipt_type=word,
        )
    ]


def test_in_a_group_each_participant_has_a_receipt() -> None:
    (receipt,) = through_the_pipe(RECEIPT, receipt_event(4, "A", chat=GROUP))
    assert (receipt.chat, receipt.sender) == ("120363000000000001@g.us", NUMBER_JID)


@pytest.mark.parametrize(
    "event",
    [
        *(receipt_event(kind, "A") for kind in (2, 3, 5, 7, 8, 9, 10, 11)),
        receipt_event(4, "A", from_me=True, sender=OWN),
        receipt_event(1),
        receipt_event(4, "A", chat=("status", "broadcast")),
    ],
    ids=str,
)
def test_receipts_between_devices_are_not_told(event: Any) -> None:
    assert through_the_pipe(RECEIPT, event) == []


def test_a_receipt_for_many_messages_comes_in_parts() -> None:
    ids = [f"3EB0{number:016}" for number in range(600)]
    receipts = through_the_pipe(RECEIPT, receipt_event(1, *ids))
    parts = [receipt.message_ids for receipt in receipts if isinstance(receipt, ReceiptArrived)]
    assert [len(part) for part in parts] == [MOST_IDS_IN_A_RECEIPT, MOST_IDS_IN_A_RECEIPT, 88]
    assert [one for part in parts for one in part] == ids


# --- what the supervisor believes -----------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"text": "a\x00b"},
        {"text": "\ud800"},
        {"text": "x" * (MOST_TEXT_CHARACTERS + 1)},
        {"text": 5},
        {"message_type": "song"},
        {"message_type": None},
        {"size_bytes": "48"},
        {"is_group": 1},
        {"is_admin": True},
    ],
)
def test_an_engine_that_lies_is_not_believed(changes: dict[str, Any]) -> None:
    ((name, fields),) = translate_inbound(MESSAGE, message_event({"conversation": "a"}))
    frame = {**event_frame("c-1", 3, name, {**fields, **changes}), "type": Report.INBOUND}
    with pytest.raises(FrameError):
        domain_event(decode(encode(frame)))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("MessageArrived", Report.EVENT),
        ("ClientDisconnected", Report.INBOUND),
        ("InboundEvent", Report.INBOUND),
    ],
)
def test_each_kind_of_frame_carries_its_own_events(name: str, kind: Report) -> None:
    ((_, fields),) = translate_inbound(MESSAGE, message_event({"conversation": "a"}))
    with pytest.raises(FrameError):
        domain_event({**event_frame("c-1", 3, name, fields), "type": kind})


@pytest.mark.parametrize("ids", [["a", 1], "ab", ["a\x00"], [["a"]], None])
def test_a_receipt_with_ids_that_are_none(ids: Any) -> None:
    ((name, fields),) = translate_inbound(RECEIPT, receipt_event(1, "A"))
    frame = {**event_frame("c-1", 3, name, {**fields, "message_ids": ids}), "type": Report.INBOUND}
    with pytest.raises(FrameError):
        domain_event(frame)
