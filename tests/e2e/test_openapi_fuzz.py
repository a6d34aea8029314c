"""The deployed service answers as its OpenAPI document says, whatever it is sent.

`make fuzz` sends 10,000 requests; this is a sample of them, the same each time.
"""

import pytest
from deployment import Deployment

from fuzz_api import SETTINGS, Fuzzer, companies_to_fuzz, new_snapshot_key, webhook_target
from service_process import API

pytestmark = pytest.mark.e2e

SEED = 20_261


def test_answers_are_as_documented(deployment: Deployment) -> None:
    companies = companies_to_fuzz(deployment.sandbox, deployment.sessions_dir)
    service = deployment.start(SNAPSHOT_ENCRYPTION_KEYS=new_snapshot_key(), **SETTINGS)

    with webhook_target() as target:
        fuzzer = Fuzzer(
            service=service, companies=companies, target=target, folder=deployment.folder
        )
        fuzzer.prepare()
        stranger = fuzzer.run("fuzz_anonymous", examples=2, seed=SEED, phases="fuzzing")
        owner = fuzzer.run("fuzz_api", examples=5, seed=SEED)

    assert not stranger.failures, stranger.failures[0][-8000:]
    assert not owner.failures, owner.failures[0][-8000:]
    documented = service.request("GET", f"{API}/openapi.json").json()["paths"]
    routes = {f"{method.upper()} {path}" for path, item in documented.items() for method in item}
    assert routes <= set(owner.routes)
    assert owner.requests > 500
    assert stranger.requests > 40
    assert set(stranger.answers) <= {"401", "404", "405"}
    assert "Traceback" not in deployment.log()
    assert service.readiness()["ready"] is True
