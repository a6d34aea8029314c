"""Write neonize stores of devices that the sandbox has linked without a pairing dialogue.

    python scripts/sandbox/seed_stores.py --state-dir DIR --out FOLDER --count 100

`POST /api/devices` of the sandbox makes the devices; write_store() makes one store of one of
them. The tables are whatsmeow's own: neonize makes an empty store once, and it is copied.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

CACHE = Path(__file__).resolve().parent / ".cache"
TEMPLATE_TIMEOUT_SECONDS = 60
_MAKE_EMPTY_STORE = """
import os, sys
from neonize.client import ClientFactory
ClientFactory.get_all_devices_from_db(sys.argv[1])
os._exit(0)
"""

Device = Mapping[str, Any]


def create_devices(
    admin_url: str, count: int, *, number: str | None = None, one_time_keys: int = 10
) -> list[dict[str, Any]]:
    """Let the sandbox link devices, each to a phone of its own unless a number is given.

    Args:
        one_time_keys: how many one-time keys each device holds, 0 to 812. A real one has 812
            after pairing; with fewer than 5 whatsmeow uploads 50 at its first login.
    """
    body: dict[str, Any] = {"count": count, "one_time_keys": one_time_keys}
    if number is not None:
        body["number"] = number
    request = urllib.request.Request(  # noqa: S310 - always a loopback http address
        f"{admin_url}/api/devices",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request) as response:
        devices: list[dict[str, Any]] = json.load(response)
    return devices


def write_store(path: Path | str, device: Device) -> None:
    """Write a store that holds exactly this device, as whatsmeow leaves it after pairing.

    Args:
        device: one element of the answer of POST /api/devices.
    Raises:
        FileExistsError: there is a file at the path already.
    """
    target = Path(path)
    if target.exists():
        raise FileExistsError(target)
    shutil.copyfile(store_template(), target)
    with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as store:
        store.execute("PRAGMA synchronous = OFF")
        store.execute("BEGIN")
        _insert(store, "whatsmeow_device", _device_row(device))
        _insert(
            store, "whatsmeow_lid_map", {"lid": _user(device["lid"]), "pn": _user(device["jid"])}
        )
        _insert(
            store,
            "whatsmeow_identity_keys",
            {
                "our_jid": device["jid"],
                "their_id": f"{_user(device['lid'])}_1:0",
                "identity": _bytes(device["account"]["account_signature_key"]),
            },
        )
        for key in device["one_time_keys"]:
            row = {"jid": device["jid"], "key_id": key["id"], "key": _bytes(key["private"])}
            _insert(store, "whatsmeow_pre_keys", row | {"uploaded": True})
        store.execute("COMMIT")


def store_template() -> Path:
    """Return an empty store of the installed neonize, made by itself the first time."""
    template = CACHE / f"empty-store-{metadata.version('neonize')}.db"
    if template.exists():
        return template
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        fresh = Path(folder) / "store.db"
        subprocess.run(
            [sys.executable, "-c", _MAKE_EMPTY_STORE, str(fresh)],
            check=True,
            capture_output=True,
            timeout=TEMPLATE_TIMEOUT_SECONDS,
        )
        os.replace(fresh, template)
    return template


def _device_row(device: Device) -> dict[str, object]:
    signed, account = device["signed_prekey"], device["account"]
    return {
        "jid": device["jid"],
        "lid": device["lid"],
        "registration_id": device["registration_id"],
        "noise_key": _bytes(device["noise_private"]),
        "identity_key": _bytes(device["identity_private"]),
        "signed_pre_key": _bytes(signed["private"]),
        "signed_pre_key_id": signed["id"],
        "signed_pre_key_sig": _bytes(signed["signature"]),
        "adv_key": _bytes(device["adv_secret"]),
        "adv_details": _bytes(account["details"]),
        "adv_account_sig": _bytes(account["account_signature"]),
        "adv_account_sig_key": _bytes(account["account_signature_key"]),
        "adv_device_sig": _bytes(account["device_signature"]),
        "platform": device["platform"],
        "push_name": device["push_name"],
    }


def _insert(store: sqlite3.Connection, table: str, row: Mapping[str, object]) -> None:
    columns, marks = ", ".join(row), ", ".join("?" * len(row))
    store.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(row.values()))  # noqa: S608


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _user(jid: str) -> str:
    """Return the user part of "user:device@server"."""
    return jid.split("@")[0].split(":")[0]


def main() -> None:
    """Make devices in a running sandbox and write their stores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--state-dir", type=Path, required=True, help="of the running sandbox")
    parser.add_argument("--out", type=Path, required=True, help="gets <number>-<device>.db files")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--one-time-keys", type=int, default=10)
    arguments = parser.parse_args()
    facts = json.loads((arguments.state_dir / "sandbox.json").read_text())
    arguments.out.mkdir(parents=True, exist_ok=True)
    for device in create_devices(
        facts["admin_url"], arguments.count, one_time_keys=arguments.one_time_keys
    ):
        name = device["jid"].split("@")[0].replace(":", "-")
        write_store(arguments.out / f"{name}.db", device)
        print(device["jid"])


if __name__ == "__main__":
    main()
