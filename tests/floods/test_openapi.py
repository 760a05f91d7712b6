"""Requests made from Infinity's own OpenAPI document, by schemathesis: through the proxy they get what Infinity gives.

Infinity answers some of them with 500 (data URLs above all). Each answer is compared with that of a bare Infinity to
the same request, so no 5xx is ours.
"""

import collections
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from requests import Response
from schemathesis import GenerationMode

from tests.support import daemon as daemons
from tests.support import infinity
from tests.support.daemon import Daemon

EXAMPLES = 20
"""For each operation and mode: about 250 requests, 5 s."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with two models: a bare Infinity with one does not look at the name that it is asked for."""
    settings = {"models": [daemons.debug_model("a"), daemons.debug_model("b")]}
    with daemons.running(tmp_path_factory.mktemp("served"), settings) as d:
        d.wait_ready("a", "b")
        yield d


@pytest.fixture(scope="module")
def bare() -> Iterator[infinity.Server]:
    """The same without a supervisor."""
    with infinity.serve([*infinity.debug_args("a"), *infinity.debug_args("b")]) as server:
        yield server


def told(answer: Response) -> tuple[int, object]:
    """What of an answer must be equal: the status, and what a refusal says."""
    if answer.status_code < 400:
        return answer.status_code, None
    try:
        return answer.status_code, answer.json()
    except ValueError:
        return answer.status_code, answer.text


def compare(
    operation: Any, mode: GenerationMode, served: Daemon, bare: infinity.Server, seen: collections.Counter[int]
) -> None:
    """The same requests to both."""

    @settings(
        max_examples=EXAMPLES if operation.body else 1,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(operation.as_strategy(generation_mode=mode), st.booleans())
    def one(case: Any, known: bool) -> None:
        if known and isinstance(case.body, dict):
            case.body["model"] = "a"
        ours = case.call(base_url=served.proxy)
        seen[ours.status_code] += 1
        theirs = case.call(base_url=bare.base_url)
        if "is not served" in ours.text or "Invalid model" in ours.text:  # then what else is wrong is not looked at
            assert ours.status_code == 400
            assert theirs.status_code >= 400, case.body
        else:
            assert told(ours) == told(theirs), case.body

    one()


def test_every_answer_is_infinitys(served: Daemon, bare: infinity.Server) -> None:
    """Valid requests and invalid ones, with a model that is served and with others; no worker dies of them."""
    document = served.get(served.proxy + "/openapi.json")[1]
    operations = [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]
    assert len(operations) >= 8
    before = [(m["state"], m["pid"], m["restarts"]) for m in served.status()["models"]]
    seen: collections.Counter[int] = collections.Counter()
    for operation, mode in itertools.product(operations, GenerationMode):
        if operation.body or mode is GenerationMode.POSITIVE:  # without a body nothing in it can be wrong
            compare(operation, mode, served, bare, seen)
    assert served.embed("a", "abc") == [[3.0] * 13]
    assert [(m["state"], m["pid"], m["restarts"]) for m in served.status()["models"]] == before
    assert served.events("request_failed") == []
    assert min(seen[200], seen[400], seen[422], seen[500]) > 0, seen  # each kind was met
