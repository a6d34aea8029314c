"""A real Chromium on the dashboard, with the in-memory facade behind it."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from werkzeug.serving import make_server

from crm_whatsapp.web.app_factory import WebSettings, create_app
from service_process import end_with_parent
from tests.unit.web.fakes import FakeServices

SANDBOX_PHONE_URL = "http://127.0.0.1:9"  # shown as a link, never called
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_NO_BROWSER = (
    "NO CHROMIUM ON THIS MACHINE, THE DASHBOARD IS NOT TESTED. "
    "On Debian and Ubuntu: apt install chromium chromium-driver"
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: drives a real Chromium")


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def site(services: FakeServices) -> Iterator[str]:
    settings = WebSettings(secret_key="a-secret-of-the-tests", sandbox_phone_url=SANDBOX_PHONE_URL)
    with serving_app(services, create_app(services.provide, settings)) as origin:
        yield origin


@contextmanager
def serving_app(services: FakeServices, app: Flask) -> Iterator[str]:
    """Serve an app on a free port; yields its origin."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, name="test-site")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        services.events.stop()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def chromium_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start a headless Chromium that talks to nobody but this machine."""
    binary = next(filter(None, map(shutil.which, _BROWSERS)), None)
    driver_path = shutil.which("chromedriver")
    if binary is None or driver_path is None:
        pytest.skip(_NO_BROWSER)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's own sandbox refuses to run as root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(
        executable_path=driver_path, popen_kw={"preexec_fn": end_with_parent}
    )
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(30)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def chromium(chromium_process: Any) -> Iterator[Any]:
    """Lend the browser, signed out and with an empty console."""
    chromium_process.get("about:blank")
    chromium_process.execute_cdp_cmd("Network.clearBrowserCookies", {})
    chromium_process.get_log("browser")
    yield chromium_process
    chromium_process.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium_process.get("about:blank")
