"""What each reason means to people: its usual status, its text, and what to do."""

from typing import NamedTuple

from crm_whatsapp.domain.connection import Reason, Status, UserAction


class Wording(NamedTuple):
    """The status a reason usually goes with, the sentence shown, and the action to take."""

    status: Status
    message: str
    user_action: UserAction


_D, _C, _F = Status.DISCONNECTED, Status.CONNECTING, Status.FAILED
_A = UserAction

WORDING: dict[Reason, Wording] = {
    Reason.NEVER_CONNECTED: Wording(
        _D, 'Not connected. Click "Connect WhatsApp" to start.', _A.CONNECT
    ),
    Reason.ONLINE: Wording(Status.CONNECTED, "WhatsApp is connected.", _A.NONE),
    Reason.STOPPED: Wording(
        _D,
        'Disconnected on request. Click "Connect WhatsApp" to resume; no scan is needed.',
        _A.CONNECT,
    ),
    Reason.RESTORING: Wording(_C, "Restoring connection from saved session...", _A.WAIT),
    Reason.PREPARING_PAIRING: Wording(_C, "Preparing the code to link your phone...", _A.WAIT),
    Reason.PAIRING: Wording(
        Status.AWAITING_SCAN,
        "On your phone open WhatsApp > Linked devices > Link a device, and scan the QR code or "
        "enter the pairing code.",
        _A.SCAN,
    ),
    Reason.FINISHING_PAIRING: Wording(
        _C, "The phone has accepted. Finishing the first login...", _A.WAIT
    ),
    Reason.NETWORK_LOST: Wording(
        _C, "The connection to WhatsApp dropped. Reconnecting...", _A.WAIT
    ),
    Reason.WHATSAPP_UNREACHABLE: Wording(
        _C, "WhatsApp cannot be reached. Trying again by itself.", _A.WAIT
    ),
    Reason.STREAM_REPLACED: Wording(
        _D,
        "The same linked device was opened somewhere else and took over the connection.",
        _A.RETRY,
    ),
    Reason.PHONE_UNLINKED: Wording(
        Status.LOGGED_OUT,
        'The link was removed on the phone. Click "Connect WhatsApp" and scan again.',
        _A.CONNECT,
    ),
    Reason.LOGGED_OUT_BY_SERVER: Wording(
        Status.LOGGED_OUT,
        'WhatsApp ended this session. Click "Connect WhatsApp" and scan again.',
        _A.CONNECT,
    ),
    Reason.LOGGED_OUT_BY_USER: Wording(
        Status.LOGGED_OUT, 'Logged out. Click "Connect WhatsApp" to link a phone.', _A.CONNECT
    ),
    Reason.TEMPORARY_BAN: Wording(
        Status.BANNED,
        "WhatsApp has suspended this account for a while. It reconnects by itself afterwards.",
        _A.WAIT,
    ),
    Reason.CLIENT_OUTDATED: Wording(
        _F, "WhatsApp refuses this version of the software. It must be upgraded.", _A.UPGRADE
    ),
    Reason.CONNECT_FAILURE: Wording(_F, "WhatsApp refused the connection.", _A.RETRY),
    Reason.PAIRING_EXPIRED: Wording(
        _D, 'The code was not used in time. Click "Connect WhatsApp" for a new one.', _A.CONNECT
    ),
    Reason.PAIRING_FAILED: Wording(
        _D, 'Linking the phone did not work. Click "Connect WhatsApp" to try again.', _A.CONNECT
    ),
    Reason.CREDENTIALS_MISSING: Wording(
        _D, 'No saved session was found. Click "Connect WhatsApp" and scan again.', _A.CONNECT
    ),
    Reason.STORE_CORRUPT: Wording(
        _F,
        "The saved session cannot be read. Nothing was deleted; connect with a new scan "
        "(fresh) or ask support to repair it.",
        _A.CONTACT_SUPPORT,
    ),
    Reason.STORE_FOREIGN: Wording(
        _F,
        "The session folder belongs to another WhatsApp library. Connect with a new scan "
        "(fresh); the old folder is kept aside.",
        _A.CONNECT,
    ),
    Reason.STORAGE_UNAVAILABLE: Wording(
        _F, "The session storage cannot be used at the moment.", _A.CONTACT_SUPPORT
    ),
    Reason.KEY_MISSING: Wording(
        _F,
        "The saved copy of the session is encrypted with a key that is not configured.",
        _A.CONTACT_SUPPORT,
    ),
    Reason.ENGINE_CRASH: Wording(
        _F, "This session repeatedly ended the WhatsApp engine.", _A.CONTACT_SUPPORT
    ),
    Reason.HELD_ELSEWHERE: Wording(
        _C,
        "Another instance is running this session. It is taken over when that one stops.",
        _A.WAIT,
    ),
    Reason.SERVICE_STOPPED: Wording(
        _D, "The service is restarting. The session comes back by itself.", _A.WAIT
    ),
    Reason.LOGGING_OUT: Wording(_D, "Logging out...", _A.WAIT),
}
