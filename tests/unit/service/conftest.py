"""Pods that end with their test."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.service.pod import Pod


@pytest.fixture
def make_pod() -> Iterator[Callable[..., Pod]]:
    """Make a pod; or, given one, the pod that follows it on the same disk."""
    made: list[Pod] = []

    def make(earlier: Pod | None = None, **changes: Any) -> Pod:
        pod = earlier.next_process(**changes) if earlier else Pod(**changes)
        made.append(pod)
        return pod

    yield make
    for pod in made:
        pod.end()


@pytest.fixture
def pod(make_pod: Callable[..., Pod]) -> Pod:
    """A pod that has started with nothing on its disk; polls may start sessions."""
    return make_pod().start(restores=False)
