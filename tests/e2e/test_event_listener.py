"""The listener of these tests comes back as a CRM does, and leaves nothing behind."""

import threading
import uuid

from deployment import Deployment
from event_listener import listening


def test_a_listener_comes_back_after_a_kill_and_after_a_stop(deployment: Deployment) -> None:
    service = deployment.start()
    with listening(service, str(uuid.uuid4())) as listener:
        service.kill()
        service.start()
        listener.await_open(times=2)
        service.terminate()
        service.start()
        listener.await_open(times=3)

    assert "event-listener" not in {thread.name for thread in threading.enumerate()}


def test_a_listener_ends_while_nobody_serves(deployment: Deployment) -> None:
    service = deployment.start()
    with listening(service, str(uuid.uuid4())):
        service.kill()

    assert "event-listener" not in {thread.name for thread in threading.enumerate()}
