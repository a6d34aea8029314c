"""Run a local WhatsApp edge for the unmodified neonize library.

    python scripts/sandbox/sandbox.py run --state-dir DIR
    eval "$(python scripts/sandbox/sandbox.py env --state-dir DIR)"

From Python: `Sandbox.start(folder)` gives a sandbox that ends with the calling process.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import dataclasses
import datetime
import fcntl
import importlib.util
import ipaddress
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:  # run as a script: scripts/ is not on the path yet
    sys.path.insert(1, str(HERE.parent))

from node_runtime import NodeRuntimeError, find_node, npm  # noqa: E402

NODE_MODULES = HERE / "node_modules"
READY_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 10.0
CERTIFICATE_DAYS = 365
RENEW_DAYS = 30
HOSTS = ("web.whatsapp.com", "*.whatsapp.net", "*.whatsapp.com", "localhost")

# The public key that whatsmeow, inside neonize, checks WhatsApp's certificates against.
# Source: whatsmeow handshake.go, WACertPubKey.
WHATSAPP_ROOT_KEY = bytes.fromhex(
    "142375574d0a587166aae71ebe516437c4a28b73e3695c6ce1f7f9545da8ee6b"
)


class SandboxError(RuntimeError):
    """The sandbox cannot be prepared or started."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A running sandbox that ends with stop(), or with this process."""

    state_dir: Path
    admin_url: str
    proxy_url: str
    ca_file: Path
    python_path: Path
    process: subprocess.Popen[str]

    @classmethod
    def start(cls, state_dir: Path | str) -> Sandbox:
        """Prepare and start a sandbox; return when it accepts connections.

        Raises:
            SandboxError: it did not become ready within a minute; says why.
            NodeRuntimeError: there is no Node.js, or the npm packages cannot be installed.
        """
        folder = Path(state_dir).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        _install_packages()  # here, because it may take longer than a start
        command = [sys.executable, str(HERE / "sandbox.py"), "run", "--state-dir", str(folder)]
        log = folder / "sandbox.log"
        with log.open("ab") as log_file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                text=True,
                start_new_session=True,  # Ctrl+C reaches the caller, which ends it in its turn
            )
        try:
            _await_ready(process, log)
            facts = _read_facts(folder)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return cls(
            state_dir=folder,
            admin_url=facts["admin_url"],
            proxy_url=facts["proxy_url"],
            ca_file=Path(facts["ca_file"]),
            python_path=Path(facts["python_path"]),
            process=process,
        )

    @property
    def env(self) -> dict[str, str]:
        """Return the environment variables that lead neonize to this sandbox."""
        return client_environment(self.proxy_url, self.ca_file, self.python_path)

    def stop(self) -> None:
        """End the sandbox and wait for it; its state stays in the folder."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def client_environment(proxy_url: str, ca_file: Path, python_path: Path) -> dict[str, str]:
    """Return what a client process needs; NO_PROXY keeps other local services reachable."""
    return {
        "HTTPS_PROXY": proxy_url,
        "NO_PROXY": "127.0.0.1,localhost,::1",
        "SSL_CERT_FILE": str(ca_file),
        "PYTHONPATH": os.pathsep.join(
            [str(python_path), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    }


def prepare(folder: Path) -> Path:
    """Install npm packages, make keys and certificates and the neonize copy; return its path.

    Raises:
        SandboxError: something is missing; says what.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _install_packages()
    public_key = _noise_root(folder / "keys")
    _certificates(folder / "tls")
    return _patched_neonize(folder / "python", public_key)


def main() -> int:
    """Run one command; return the exit code."""
    arguments = _parser().parse_args()
    folder: Path = arguments.state_dir.resolve()
    try:
        if arguments.command == "prepare":
            prepare(folder)
            _say(f"prepared {folder}")
        elif arguments.command == "env":
            _print_environment(folder)
        else:
            _run(folder, arguments)
    except (SandboxError, NodeRuntimeError) as error:
        _say(str(error))
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_HelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="serve in the foreground until a signal ends it")
    run.add_argument("--admin-port", type=int, help="default: the last one, or a free one")
    run.add_argument("--proxy-port", type=int, help="default: the last one, or a free one")
    run.add_argument(
        "--outlive-parent", action="store_true", help="do not end when the parent process ends"
    )
    env = commands.add_parser("env", help="print shell exports for a client")
    ready = commands.add_parser("prepare", help="install and make what `run` needs")
    for command in (run, env, ready):
        command.add_argument("--state-dir", type=Path, required=True)
    return parser


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    pass


def _run(folder: Path, arguments: argparse.Namespace) -> None:
    """Prepare, then become the Node server: signals and the parent's death reach it directly."""
    folder.mkdir(parents=True, exist_ok=True)
    _lock(folder)
    (folder / "sandbox.json").unlink(missing_ok=True)
    python_path = prepare(folder)
    node = str(find_node())
    command = [node, str(HERE / "server.mjs"), "--state-dir", str(folder)]
    command += ["--python-path", str(python_path)]
    for name in ("admin_port", "proxy_port"):
        if getattr(arguments, name) is not None:
            command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    if arguments.outlive_parent:
        command.append("--outlive-parent")
    sys.stdout.flush()
    os.execv(node, command)  # noqa: S606 - no shell is wanted


def _lock(folder: Path) -> None:
    """Hold the folder for the life of this process, through exec; the kernel lets go of it."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SandboxError(f"another sandbox uses {folder}") from error
    os.set_inheritable(descriptor, True)


def _print_environment(folder: Path) -> None:
    facts = _read_facts(folder)
    exports = client_environment(
        facts["proxy_url"], Path(facts["ca_file"]), Path(facts["python_path"])
    )
    for name, value in exports.items():
        print(f"export {name}={shlex.quote(value)}")


def _read_facts(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((folder / "sandbox.json").read_text())
    except FileNotFoundError as error:
        raise SandboxError(f"no sandbox runs in {folder}") from error
    return facts


def _await_ready(process: subprocess.Popen[str], log: Path) -> None:
    """Wait for the server's one line of output."""
    line: list[str] = []

    def read() -> None:
        if process.stdout is not None:
            line.append(process.stdout.readline())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(READY_TIMEOUT_SECONDS)
    if not line or not line[0].startswith("sandbox ready"):
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise SandboxError(f"the sandbox did not become ready:\n{tail}")


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[IO[str]]:
    """Hold a file lock: several sandboxes may be prepared at once."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _install_packages() -> None:
    """Run npm ci when node_modules does not match the lock file."""
    wanted = (HERE / "package-lock.json").read_bytes()
    stamp = NODE_MODULES / ".sandbox-lock"
    if stamp.exists() and stamp.read_bytes() == wanted:
        return
    with _exclusive(HERE / ".npm-lock"):
        if stamp.exists() and stamp.read_bytes() == wanted:
            return
        _say("installing the npm packages (once) ...")
        npm(["ci", "--ignore-scripts", "--no-audit", "--no-fund"], HERE)
        stamp.write_bytes(wanted)


def _noise_root(folder: Path) -> bytes:
    """Make the root key of the Noise certificates once; return its public half."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    file = folder / "noise-root.key"
    if not file.exists():
        folder.mkdir(exist_ok=True)
        _write(file, X25519PrivateKey.generate().private_bytes_raw())
    return X25519PrivateKey.from_private_bytes(file.read_bytes()).public_key().public_bytes_raw()


def _certificates(folder: Path) -> None:
    """Make a CA and a server certificate, anew when they are about to expire."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)
    chain = folder / "server.pem"
    if chain.exists():
        certificate = x509.load_pem_x509_certificate(chain.read_bytes())
        if certificate.not_valid_after_utc - now > datetime.timedelta(days=RENEW_DAYS):
            return
    folder.mkdir(exist_ok=True)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer, subject = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        for name in ("WhatsApp sandbox CA", "WhatsApp sandbox")
    )

    def build(name: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .issuer_name(issuer)
            .subject_name(name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=CERTIFICATE_DAYS))
        )

    ca = (
        build(issuer, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in HOSTS]
    names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    server = (
        build(subject, key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    _write(
        folder / "server.key",
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    _write(folder / "ca.pem", ca.public_bytes(pem))
    _write(chain, server.public_bytes(pem))  # last: it says that the others are complete


def _patched_neonize(folder: Path, public_key: bytes) -> Path:
    """Copy the installed neonize and put our root key into the copy; return the folder."""
    spec = importlib.util.find_spec("neonize")
    if spec is None or spec.origin is None or Path(spec.origin).is_relative_to(folder):
        raise SandboxError(f"neonize is not installed for {sys.executable}")
    source = Path(spec.origin).parent
    libraries = [path for path in source.iterdir() if path.suffix in {".so", ".dylib", ".dll"}]
    stamp = json.dumps(
        [str(source), public_key.hex(), [(p.name, p.stat().st_mtime_ns) for p in libraries]]
    )
    stamp_file = folder / "made-from.json"
    if stamp_file.exists() and stamp_file.read_text() == stamp:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns(*(path.name for path in libraries))
    shutil.copytree(source, folder / "neonize", ignore=ignored)
    for library in libraries:
        content = library.read_bytes()
        if content.count(WHATSAPP_ROOT_KEY) != 1:
            raise SandboxError(
                f"{library} holds WhatsApp's root key {content.count(WHATSAPP_ROOT_KEY)} times "
                "instead of once: this version of neonize is not understood"
            )
        copy = folder / "neonize" / library.name
        copy.write_bytes(content.replace(WHATSAPP_ROOT_KEY, public_key))
        copy.chmod(0o755)
    if not libraries:
        raise SandboxError(f"{source} has no library for this platform")
    compileall.compile_dir(folder / "neonize", quiet=2)  # or the first clients are slow to start
    _write(stamp_file, stamp.encode())
    return folder


def _write(path: Path, content: bytes) -> None:
    """Write atomically, readable by the owner alone."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.touch(mode=0o600)
    temporary.write_bytes(content)
    temporary.replace(path)


def _say(text: str) -> None:
    print(f"sandbox: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
