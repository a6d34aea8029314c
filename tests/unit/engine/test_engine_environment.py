"""What an engine may know."""

from pathlib import Path

from crm_whatsapp.engine.engine_environment import engine_environment


def test_keys_stay_behind_and_network_settings_come_along() -> None:
    source = {
        "PATH": "/bin",
        "HTTPS_PROXY": "http://p",
        "SSL_CERT_FILE": "/ca.pem",
        "PYTHONPATH": "/patched",
        "SUPABASE_SERVICE_ROLE_KEY": "secret",
        "SUPABASE_DB_URL": "postgres://secret",
        "SNAPSHOT_ENCRYPTION_KEYS": "secret",
        "WHATSAPP_API_KEY": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    environment = engine_environment(source, package_root=Path("/app"), extra={"TZ": "UTC"})
    assert "secret" not in "".join(environment.values())
    assert environment == {
        "PATH": "/bin",
        "HTTPS_PROXY": "http://p",
        "SSL_CERT_FILE": "/ca.pem",
        "PYTHONPATH": "/patched:/app",
        "PYTHONUNBUFFERED": "1",
        "TZ": "UTC",
    }
