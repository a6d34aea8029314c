"""One attachment on its way through an engine: read, uploaded, sent."""

import threading
from collections.abc import Callable
from typing import Any

from crm_whatsapp.engine.call_desk import CallDesk
from crm_whatsapp.engine.media_frames import MediaOrder
from crm_whatsapp.engine.upload_budget import UploadBudget
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
        budget: UploadBudget,
        calls: CallDesk,
        done: Callable[[SendReceipt | Exception], None],
    ) -> None:
        self._order = order
        self._company_id = company_id
        self._find_client = find_client
        self._uploads = uploads
        self._budget = budget
        self._calls = calls
        self._done = done
        self._content = b""
        self._lock = threading.Lock()
        self._is_over = False
        self._taken = 0

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
        path = self._order.parcel.path
        taken = self._budget.take(path.stat().st_size, self._order.upload_seconds)
        with self._lock:
            if not self._is_over:
                self._taken = taken
        if not self._taken:
            self._budget.give_back(taken)
            raise TimeoutError("its time was over before it began")
        self._content = path.read_bytes()

    def _take_content(self) -> bytes:
        content, self._content = self._content, b""
        return content

    def _uploaded(self, result: Any) -> None:
        # In its time or after it: an upload that hangs must not keep others waiting for ever.
        with self._lock:
            self._is_over = True
            taken = self._taken
        self._budget.give_back(taken)
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
