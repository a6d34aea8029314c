"""One attachment on its way through an engine: read, uploaded, sent."""

from collections.abc import Callable
from typing import Any

from crm_whatsapp.engine.call_desk import CallDesk
from crm_whatsapp.engine.media_frames import MediaOrder
from crm_whatsapp.engine.whatsapp_client import OutgoingMedia, SendReceipt, WhatsAppClient


class NotUploaded(Exception):
    """The upload failed or was not over in time; nothing was sent."""


class MediaSending:
    """Makes the two calls of a send, one after the other.

    An upload that ends after its time has ended in vain: by then the caller was told that nothing
    was sent, so nothing is.

    Args:
        done: gets a SendReceipt, NotUploaded, or what the second call raised; once.
    """

    def __init__(
        self,
        order: MediaOrder,
        *,
        company_id: str,
        find_client: Callable[[], WhatsAppClient | None],
        uploads: CallDesk,
        calls: CallDesk,
        done: Callable[[SendReceipt | Exception], None],
    ) -> None:
        self._order = order
        self._company_id = company_id
        self._find_client = find_client
        self._uploads = uploads
        self._calls = calls
        self._done = done
        self._content = b""

    def begin(self) -> None:
        """Upload, and go on when that is done."""
        client = self._find_client()
        if client is None:
            self._done(ConnectionError("The client is not connected."))
            return
        self._uploads.call(
            self._company_id,
            lambda: client.upload(self._order.parcel.kind, self._take_content()),
            prepare=self._read,
            timeout_seconds=self._order.upload_seconds,
            done=self._uploaded,
        )

    def _read(self) -> None:
        self._content = self._order.parcel.path.read_bytes()

    def _take_content(self) -> bytes:
        content, self._content = self._content, b""
        return content

    def _uploaded(self, result: Any) -> None:
        if isinstance(result, Exception):
            failure = NotUploaded(str(result))
            failure.__cause__ = result
            self._done(failure)
            return
        client = self._find_client()
        if client is None:
            self._done(ConnectionError("The client is not connected."))
            return
        parcel = self._order.parcel
        media = OutgoingMedia(
            kind=parcel.kind,
            mimetype=parcel.mimetype,
            filename=parcel.filename,
            caption=parcel.caption,
            uploaded=result,
        )
        self._calls.call(
            self._company_id,
            lambda: client.send_media(self._order.to_jid, media),
            timeout_seconds=self._order.ack_seconds,
            done=self._done,
        )
