"""Sending of attachments: brought here, looked at, handed to the engine, and thrown away."""

from crm_whatsapp.domain.engines import EngineFleet, SentMessage
from crm_whatsapp.domain.jids import parse_recipient
from crm_whatsapp.domain.media import (
    MediaFetcher,
    MediaFile,
    MediaFiles,
    MediaLimits,
    MediaNote,
    MediaParcel,
    MediaSource,
    MediaTooLarge,
)
from crm_whatsapp.service.media_content import judge_content
from crm_whatsapp.service.media_labels import label_content
from crm_whatsapp.service.media_places import MediaPlaces
from crm_whatsapp.service.messaging import Messaging


class MediaMessaging:
    """Sends attachments through live sessions."""

    def __init__(
        self,
        *,
        messaging: Messaging,
        fleet: EngineFleet,
        fetcher: MediaFetcher,
        files: MediaFiles,
        limits: MediaLimits,
    ) -> None:
        self._messaging = messaging
        self._fleet = fleet
        self._fetcher = fetcher
        self._files = files
        self._limits = limits
        self._places = MediaPlaces(
            most=limits.in_flight, most_per_company=limits.in_flight_per_company
        )

    def send_media(
        self, company_id: str, *, to: str, note: MediaNote, source: MediaSource
    ) -> SentMessage:
        """Send one attachment and wait for the server's ack.

        The session is looked at before anything is fetched, and again before anything is sent.

        Args:
            to: an E.164 number or a jid.
        Raises:
            InvalidInput: `to`, or a URL that is none.
            MediaTypeRefused, MediaTooLarge, MediaAddressRefused, MediaUnreachable: the attachment.
            MediaNotUploaded: WhatsApp did not take it in time; nothing was sent.
            ServiceBusy: too many attachments are under way.
            And what Messaging.send_text raises.
        """
        to_jid = parse_recipient(to)
        if source.url is not None:
            self._fetcher.check(source.url)
        with self._places.hold(company_id):
            self._messaging.connected(company_id)
            with self._files.new() as file:
                self._fill(file, source, self._limits.most_bytes[note.kind])
                return self._deliver(company_id, to_jid, self._parcel(file, note))

    def _fill(self, file: MediaFile, source: MediaSource, most_bytes: int) -> None:
        if source.url is not None:
            self._fetcher.fetch(source.url, file.write, most_bytes=most_bytes)
            return
        content = source.content or b""
        most_bytes = min(most_bytes, self._limits.most_sent_bytes)
        if len(content) > most_bytes:
            raise MediaTooLarge(
                f"The attachment has {len(content)} bytes; at most {most_bytes} can be sent so.",
                field="media.base64",
                max_bytes=most_bytes,
            )
        file.write(content)

    def _parcel(self, file: MediaFile, note: MediaNote) -> MediaParcel:
        with file.content() as content:
            label = label_content(judge_content(content, note.kind), note)
        return MediaParcel(
            kind=note.kind,
            path=file.path,
            mimetype=label.mimetype,
            filename=label.filename,
            caption=note.caption,
        )

    def _deliver(self, company_id: str, to_jid: str, parcel: MediaParcel) -> SentMessage:
        connection = self._messaging.connected(company_id)
        ack_seconds = self._messaging.ack_wait_seconds
        future = self._fleet.send_media(
            connection.company_id,
            connection.generation,
            to_jid=to_jid,
            parcel=parcel,
            upload_seconds=self._limits.upload_seconds,
            ack_seconds=ack_seconds,
        )
        return self._messaging.result_of(
            future, connection, self._limits.upload_seconds + ack_seconds
        )
