"""The app on the in-memory facade."""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from crm_whatsapp.web.app_factory import WebSettings, create_app
from tests.unit.web.fakes import SERVICE_KEY, FakeServices

COMPANY = "3b1bee0c-cbee-4de1-88f1-d6e890f4c995"


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def settings() -> WebSettings:
    return WebSettings(secret_key="a-secret-of-the-tests")


@pytest.fixture
def app(services: FakeServices, settings: WebSettings) -> Flask:
    return create_app(services.provide, settings)


@pytest.fixture
def anonymous(app: Flask) -> FlaskClient:
    """A client without any credential."""
    return app.test_client()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client with a service key."""
    client = app.test_client()
    client.environ_base["HTTP_X_API_KEY"] = SERVICE_KEY
    return client


@pytest.fixture
def company() -> str:
    return COMPANY
