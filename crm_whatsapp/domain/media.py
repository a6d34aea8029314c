"""Attachments: what they may be, what may go wrong, and who brings them."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from mmap import mmap
from pathlib import Path
from typing import Protocol

from crm_whatsapp.domain.errors import CrmWhatsappError, EngineError, InvalidInput


class MediaKind(StrEnum):
    """As what the recipient sees an attachment."""

    IMAGE = "image"  # a picture in the chat
    VIDEO = "video"  # a film in the chat
    AUDIO = "audio"  # a sound with a play button; has no caption
    DOCUMENT = "document"  # a file with a name, not looked into; anything on the list


class MediaTypeRefused(InvalidInput):
    """The content of the attachment is not of an allowed type."""

    code = "media-type-refused"


class MediaTooLarge(InvalidInput):
    """The attachment is too large."""

    code = "media-too-large"


class MediaAddressRefused(InvalidInput):
    """media.url leads to an address that may not be fetched from."""

    code = "media-address-refused"


class MediaUnreachable(CrmWhatsappError):
    """The attachment could not be fetched from media.url."""

    code = "media-unreachable"


class MediaNotUploaded(EngineError):
    """WhatsApp did not take the attachment in time. Nothing was sent; try again."""

    code = "media-not-uploaded"


Content = bytes | mmap
"""The whole of an attachment; a file is mapped, not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentType:
    """One allowed type of content.

    mimetype: what WhatsApp is told.
    extensions: endings of names that go with it, the usual one first.
    also: other media types that callers write for it, in small letters.
    kinds: as what it may be sent.
    """

    mimetype: str
    extensions: tuple[str, ...]
    also: frozenset[str] = frozenset()
    kinds: frozenset[MediaKind]


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaSource:
    """Where the content comes from: exactly one of the two."""

    url: str | None = None
    content: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaNote:
    """What a caller says of an attachment.

    mimetype: must be what the content is; None takes what it is.
    filename: what the recipient sees of a document; ends as its type does.
    """

    kind: MediaKind
    mimetype: str | None = None
    filename: str | None = None
    caption: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaParcel:
    """An attachment that has been looked at and may be sent.

    path: the file with its content, on this machine; goes away when the send is over.
    filename: None for everything but documents.
    """

    kind: MediaKind
    path: Path
    mimetype: str
    filename: str | None
    caption: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLimits:
    """What attachments may cost.

    most_bytes: of the content, by kind.
    most_sent_bytes: of content that comes in the request itself.
    in_flight, in_flight_per_company: sends of attachments at the same time.
    upload_seconds: longest wait for WhatsApp to take the content.
    """

    most_bytes: Mapping[MediaKind, int]
    most_sent_bytes: int
    in_flight: int
    in_flight_per_company: int
    upload_seconds: float


class MediaFile(Protocol):
    """A file that is gone when its owner is done."""

    @property
    def path(self) -> Path: ...

    def write(self, chunk: bytes) -> None:
        """Append; raises StorageError."""

    def content(self) -> AbstractContextManager[Content]:
        """Return all that was written; raises StorageError."""


class MediaFiles(Protocol):
    """Where attachments wait for WhatsApp to take them."""

    def new(self) -> AbstractContextManager[MediaFile]:
        """Make a file that only this user may read; raises StorageError."""


class MediaFetcher(Protocol):
    """Brings content from addresses that callers name."""

    def check(self, url: str) -> None:
        """Look at what can be seen without asking anybody.

        Raises:
            InvalidInput: it is not a URL.
            MediaAddressRefused: it names an address that is not fetched from.
        """

    def fetch(self, url: str, take: Callable[[bytes], None], *, most_bytes: int) -> None:
        """Hand over the content piece by piece.

        Raises:
            InvalidInput, MediaAddressRefused: as `check`, and after its name was resolved.
            MediaUnreachable: it answered otherwise than with a whole file, or not in time.
            MediaTooLarge: there is more than that.
        """
