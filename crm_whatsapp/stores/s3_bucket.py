"""A bucket of S3-compatible storage: AWS, MinIO, Supabase Storage and others.

botocore is loaded with the first call: it takes about 24 MB, which only those pay who use S3.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from crm_whatsapp.domain.errors import StoreRejected, StoreUnavailable

_CONNECTIONS = 8
_ATTEMPTS = 2
_PIECE_BYTES = 1024 * 1024
_PASSING_CODES = frozenset(
    {"InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown"}
)
_PASSING_STATUSES = frozenset({408, 425, 429})
_MISSING_CODES = frozenset({"404", "NoSuchKey", "NotFound"})
_HINTS = {
    "NoSuchBucket": "Check S3_BUCKET.",
    "PermanentRedirect": "Check S3_REGION and S3_ENDPOINT_URL.",
    "AuthorizationHeaderMalformed": "Check S3_REGION.",
    "InvalidAccessKeyId": "Check S3_ACCESS_KEY_ID.",
    "SignatureDoesNotMatch": "Check S3_SECRET_ACCESS_KEY.",
    "RequestTimeTooSkewed": "Set the clock of this machine.",
    "AccessDenied": (
        "The key needs s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket; without the "
        "last, S3 refuses also what merely does not exist."
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSettings:
    """Where the bucket is.

    endpoint_url: None is AWS; elsewhere buckets are addressed by path.
    access_key_id, secret_access_key: both None leaves the choice to botocore (instance role).
    timeout_seconds: for connecting, and between two bytes.
    """

    bucket: str
    endpoint_url: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    timeout_seconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketObject:
    """An object as it is listed. modified_at: on the clock of the storage."""

    key: str
    modified_at: datetime


class S3Bucket:
    """Reads and writes whole objects. Threads may share it.

    Every method raises StoreUnavailable when trying again later can help, and StoreRejected when
    it cannot: no rights, no bucket, settings that are no address or no key.
    """

    def __init__(self, settings: BucketSettings) -> None:
        self._settings = settings
        self._making = threading.Lock()
        self._made: Any = None

    def put(self, key: str, content: bytes) -> None:
        """Write an object; one of that name is replaced."""
        with self._calling("write to") as client:
            client.put_object(
                Bucket=self._settings.bucket,
                Key=key,
                Body=content,
                ContentType="application/octet-stream",
            )

    def find(self, key: str, most_bytes: int) -> bytes | None:
        """Return the content of an object, cut after more than most_bytes; None when there is none.

        Others may write to the bucket: an object is not read into memory because it is there.
        """
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        with self._calling("read from") as client:
            try:
                answer = client.get_object(Bucket=self._settings.bucket, Key=key)
            except ClientError as exc:
                if _code(exc) in _MISSING_CODES:
                    return None
                raise
            with answer["Body"] as body:
                content = bytearray()
                while len(content) <= most_bytes and (piece := body.read(_PIECE_BYTES)):
                    content += piece
                return bytes(content)

    def remove(self, key: str) -> None:
        """Remove an object; no error when there is none."""
        with self._calling("delete from") as client:
            client.delete_object(Bucket=self._settings.bucket, Key=key)

    def list(self, prefix: str) -> Iterator[BucketObject]:
        """Yield the objects whose keys begin so, in pages of 1000."""
        with self._calling("list") as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self._settings.bucket, Prefix=prefix
            )
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield BucketObject(key=entry["Key"], modified_at=entry["LastModified"])

    def close(self) -> None:
        """Close the connections."""
        with self._making:
            if self._made is not None:
                self._made.close()
                self._made = None

    @contextmanager
    def _calling(self, what: str) -> Iterator[Any]:
        """Give the client, and translate what it raises."""
        from botocore import exceptions  # type: ignore[import-untyped]

        where = f"the bucket {self._settings.bucket}"
        try:
            yield self._client()
        except exceptions.ClientError as exc:
            raise _translated(exc, f"{what} {where}") from exc
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as exc:
            raise StoreRejected(
                "There is no key for S3. Set S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY."
            ) from exc
        except exceptions.ParamValidationError as exc:
            raise StoreRejected(f"S3 cannot {what} {where}: {exc}") from exc
        except exceptions.BotoCoreError as exc:
            raise StoreUnavailable(f"S3 could not {what} {where}: {exc}") from exc

    def _client(self) -> Any:
        with self._making:
            if self._made is None:
                self._made = _make_client(self._settings)
            return self._made


def _make_client(settings: BucketSettings) -> Any:
    from botocore.config import Config  # type: ignore[import-untyped]
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session  # type: ignore[import-untyped]

    config = Config(
        connect_timeout=settings.timeout_seconds,
        read_timeout=settings.timeout_seconds,
        max_pool_connections=_CONNECTIONS,
        retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
        s3={"addressing_style": "path" if settings.endpoint_url else "auto"},
        # Others than AWS do not all know its newer checksums; ours is in the row.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        return Session().create_client(
            "s3",
            region_name=settings.region or "us-east-1",
            endpoint_url=settings.endpoint_url,
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=settings.secret_access_key,
            config=config,
        )
    except (BotoCoreError, ValueError) as exc:
        raise StoreRejected(f"The settings of S3 are not usable: {exc}") from exc


def _translated(exc: Any, what: str) -> StoreUnavailable | StoreRejected:
    code = _code(exc)
    status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = str(exc.response.get("Error", {}).get("Message") or "no reason given").rstrip(".")
    facts = {"status": status, "s3_code": code}
    if code in _PASSING_CODES or status in _PASSING_STATUSES or status >= 500:
        return StoreUnavailable(f"S3 could not {what}: {text} ({code}).", **facts)
    hint = _HINTS.get(code, "")
    return StoreRejected(f"S3 refused to {what}: {text} ({code}). {hint}".rstrip(), **facts)


def _code(exc: Any) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))
