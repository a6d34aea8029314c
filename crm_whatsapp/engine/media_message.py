"""Messages with attachments, as neonize's protobufs.

neonize's own build_*_message want ffmpeg, libmagic and Pillow, for previews and lengths that
WhatsApp does without, and fetch what looks like a URL.
"""

from neonize.proto.waE2E.WAWebProtobufsE2E_pb2 import (
    AudioMessage,
    DocumentMessage,
    ImageMessage,
    Message,
    VideoMessage,
)
from neonize.utils.enum import MediaType

from crm_whatsapp.domain.media import MediaKind
from crm_whatsapp.engine.whatsapp_client import OutgoingMedia

UPLOAD_TYPES = {
    MediaKind.IMAGE: MediaType.MediaImage,
    MediaKind.VIDEO: MediaType.MediaVideo,
    MediaKind.AUDIO: MediaType.MediaAudio,
    MediaKind.DOCUMENT: MediaType.MediaDocument,
}


def media_message(media: OutgoingMedia) -> Message:
    """Return the message that points to the upload."""
    kept = media.uploaded
    stored = {
        "URL": kept.url,
        "directPath": kept.DirectPath,
        "mediaKey": kept.MediaKey,
        "fileEncSHA256": kept.FileEncSHA256,
        "fileSHA256": kept.FileSHA256,
        "fileLength": kept.FileLength,
        "mimetype": media.mimetype,
    }
    match media.kind:
        case MediaKind.IMAGE:
            return Message(imageMessage=ImageMessage(**stored, caption=media.caption))
        case MediaKind.VIDEO:
            return Message(videoMessage=VideoMessage(**stored, caption=media.caption))
        case MediaKind.AUDIO:
            return Message(audioMessage=AudioMessage(**stored))
        case MediaKind.DOCUMENT:
            named = {"title": media.filename, "fileName": media.filename}
            document = DocumentMessage(**stored, **named, caption=media.caption)
            return Message(documentMessage=document)
