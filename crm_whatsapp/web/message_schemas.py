"""What callers send as messages."""

import binascii
import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr, model_validator
from pydantic.json_schema import WithJsonSchema
from pydantic_core import PydanticCustomError

from crm_whatsapp.domain.errors import InvalidInput
from crm_whatsapp.domain.media import MediaKind, MediaNote, MediaSource
from crm_whatsapp.web.field_types import MessageText, ShortText
from crm_whatsapp.web.large_bodies import MOST_BODY_BYTES
from crm_whatsapp.web.schemas import CompanyRequest, Request

_PIECE = 256 * 1024  # a multiple of 4 characters
_TYPES = ("text", *(kind.value for kind in MediaKind))
_ABSENT = ("sticker", "location", "poll", "reaction")
# What a name may not hold: ways out of a folder, and characters that change how it reads.
_BAD_IN_NAMES = re.compile(
    r"[\x00-\x1f\x7f/\\:*?\"<>|\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
_MEDIA_TYPE = r"^[A-Za-z0-9!#$&^_.+-]{1,63}/[A-Za-z0-9!#$&^_.+-]{1,127}( *;[ -~]{0,100})?$"


def _message_type(value: object) -> object:
    if value in _TYPES:
        return value
    what = f"{value} is not available; " if value in _ABSENT else ""
    raise PydanticCustomError(
        "crm_message_type",
        "type: {what}send text, image, video, audio or document.",
        {"what": what},
    )


def _decoded(value: object) -> object:
    """Return the bytes of base64 (RFC 4648, 4); nothing else is taken for it."""
    if not isinstance(value, str):
        raise PydanticCustomError("crm_base64", "media.base64 must be a text.")
    if value.startswith("data:"):
        raise PydanticCustomError(
            "crm_base64", "media.base64 must be the base64 alone, without data:...;base64, before."
        )
    try:
        content = b"".join(_decoded_pieces(value))
    except ValueError:
        raise PydanticCustomError(
            "crm_base64",
            "media.base64 is not base64: A-Z, a-z, 0-9, + and /, filled up with =, "
            "without line breaks.",
        ) from None
    if not content:
        raise PydanticCustomError("crm_base64", "media.base64 is empty.")
    return content


def _decoded_pieces(text: str) -> Iterator[bytes]:
    """Yield the content piece by piece: decoding holds up all other threads."""
    for start in range(0, len(text), _PIECE):
        piece = text[start : start + _PIECE].encode("ascii")
        if piece.endswith(b"=") and start + _PIECE < len(text):
            raise ValueError("the end comes before the end")
        yield binascii.a2b_base64(piece, strict_mode=True)


def _plain_name(value: str) -> str:
    if _BAD_IN_NAMES.search(value) or value.startswith(".") or value != value.strip():
        raise PydanticCustomError(
            "crm_filename",
            "media.filename must be a plain name such as invoice.pdf, without folders, control "
            'characters and the characters : * ? " < > |',
        )
    return value


Base64Content = Annotated[
    bytes,
    BeforeValidator(_decoded),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "minLength": 4}),
]
FileName = Annotated[StrictStr, Field(min_length=1, max_length=240), AfterValidator(_plain_name)]


class MediaBody(Request):
    """An attachment: its content, or where it is, and what it is called."""

    url: StrictStr | None = Field(
        default=None,
        min_length=1,
        max_length=2048,
        description="http or https, on the public internet. Redirects are not followed.",
        examples=["https://files.example.com/invoice.pdf"],
    )
    base64: Base64Content | None = Field(default=None, description="The content itself.")
    mimetype: StrictStr | None = Field(
        default=None,
        pattern=_MEDIA_TYPE,
        description="Absent: what the content is. It must be that.",
        examples=["application/pdf"],
    )
    filename: FileName | None = Field(
        default=None,
        description="Shown with documents; must end as its type does.",
        examples=["invoice.pdf"],
    )
    caption: Annotated[MessageText, Field(max_length=1024)] | None = Field(
        default=None, description="Not with audio."
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.url is None) == (self.base64 is None):
            raise InvalidInput("media needs either url or base64.", field="media")
        return self


class SendRequest(CompanyRequest):
    """A message: a text, or one attachment."""

    most_body_bytes: ClassVar[int] = MOST_BODY_BYTES

    to: ShortText = Field(
        description="E.164 number or jid.",
        examples=["+5511987654321", "5511987654321@s.whatsapp.net"],
    )
    type: Annotated[
        Literal["text", "image", "video", "audio", "document"], BeforeValidator(_message_type)
    ] = "text"
    text: MessageText | None = Field(default=None, description="Of type text alone.")
    media: MediaBody | None = Field(default=None, description="Of all other types.")

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if self.type == "text":
            if self.text is None:
                raise InvalidInput("text is required.", field="text")
            if self.media is not None:
                raise InvalidInput(
                    "media is not sent with type text; set type to what it is.", field="media"
                )
            return self
        if self.media is None:
            raise InvalidInput(f"media is required for type {self.type}.", field="media")
        if self.text is not None:
            raise InvalidInput(
                f"text is not sent with type {self.type}; put it into media.caption.", field="text"
            )
        if self.type == "audio" and self.media.caption is not None:
            raise InvalidInput(
                "media.caption is not shown with audio; send a text of its own.",
                field="media.caption",
            )
        return self

    def attachment(self) -> tuple[MediaNote, MediaSource] | None:
        """Return what is attached; None for a text."""
        if self.media is None:
            return None
        note = MediaNote(
            kind=MediaKind(self.type),
            mimetype=self.media.mimetype,
            filename=self.media.filename,
            caption=self.media.caption,
        )
        return note, MediaSource(url=self.media.url, content=self.media.base64)
