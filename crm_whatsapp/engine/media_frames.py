"""The order to send an attachment, at both ends of the pipe. The content stays in a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crm_whatsapp.domain.media import MediaKind, MediaParcel
from crm_whatsapp.engine.frames import Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaOrder:
    """What to send to whom, and how long each step may take, in seconds."""

    to_jid: str
    parcel: MediaParcel
    upload_seconds: float
    ack_seconds: float

    @property
    def total_seconds(self) -> float:
        """Both steps together."""
        return self.upload_seconds + self.ack_seconds

    def fields(self) -> dict[str, Any]:
        """Return the fields of a SEND_MEDIA frame."""
        return {
            "to_jid": self.to_jid,
            "kind": self.parcel.kind.value,
            "path": str(self.parcel.path),
            "mimetype": self.parcel.mimetype,
            "filename": self.parcel.filename,
            "caption": self.parcel.caption,
            "upload_seconds": self.upload_seconds,
            "ack_seconds": self.ack_seconds,
        }

    @classmethod
    def of(cls, frame: Frame) -> "MediaOrder":
        """Return the order in a SEND_MEDIA frame."""
        parcel = MediaParcel(
            kind=MediaKind(frame["kind"]),
            path=Path(frame["path"]),
            mimetype=frame["mimetype"],
            filename=frame["filename"],
            caption=frame["caption"],
        )
        return cls(
            to_jid=frame["to_jid"],
            parcel=parcel,
            upload_seconds=float(frame["upload_seconds"]),
            ack_seconds=float(frame["ack_seconds"]),
        )
