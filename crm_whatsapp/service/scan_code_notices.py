"""A QR or pairing code as the outside hears of it."""

import uuid
from datetime import datetime

from crm_whatsapp.domain.connection import PairingMethod
from crm_whatsapp.domain.notices import Notice, NoticeKind
from crm_whatsapp.service.company_runtime import ScanCode
from crm_whatsapp.service.status_notices import iso_text


def scan_code_notice(company_id: str, code: ScanCode, occurred_at: datetime) -> Notice:
    """Return the notice of a new code: `value` is the QR text, `code` the pairing code."""
    name = "value" if code.method is PairingMethod.QR else "code"
    return Notice(
        id=str(uuid.uuid4()),
        kind=NoticeKind.QR,
        company_id=company_id,
        occurred_at=occurred_at,
        data={
            "company_id": company_id,
            "method": code.method.value,
            name: code.value,
            "expires_at": iso_text(code.expires_at),
        },
    )
