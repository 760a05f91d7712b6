"""Images that are split, and those in doubt, which go whole."""

import orjson
import pytest

from supervisor.core.body import read_body
from supervisor.core.payload import Inference, Plan, Rows, Whole, understand

IMAGE = "data:image/png;base64,AAAA"


def plan_of(request: object, endpoint: Inference = Inference.IMAGES, *, limit: int = 2048) -> Plan:
    """The plan for a request as a client would write it."""
    return understand(endpoint, read_body(orjson.dumps(request), "application/json"), "m", limit)


@pytest.mark.parametrize(
    "image",
    [
        IMAGE,
        "data:image/svg+xml;base64,AAA=",
        "data:image/jpeg;base64,AA==",
        "data:image/x-a.b;base64,",
        "data:image/png;base64,A+/9",
        "http://example.com/a.png",
        "https://a-b.example.com:8080/~x/1_2.png?q=1&r=2",
        "http://localhost",
    ],
)
def test_images_that_are_surely_accepted_are_split(image: str) -> None:
    """At both endpoints, in the client's order, each as heavy as the next."""
    for endpoint, more in ((Inference.IMAGES, {}), (Inference.EMBEDDINGS, {"modality": "image", "dimensions": 4})):
        request = {"input": [IMAGE, image, IMAGE], "encoding_format": "base64", **more}
        plan = plan_of(request, endpoint)
        assert isinstance(plan, Rows)
        assert (plan.order, plan.key, plan.longest(0, 2)) == (None, None, 1)
        assert orjson.loads(plan.part(1, 3)) == {**request, "input": [image, IMAGE]}


@pytest.mark.parametrize(
    "image",
    [
        "",
        "nonsense",
        "data:,a",
        "data:image/png,AAAA",
        "data:;base64,AAAA",
        "data:text/plain;base64,AAAA",
        "data:image/png;name=x;base64,AAAA",
        "data:image/png;base64,AAA",
        "data:image/png;base64,A===",
        "data:image/png;base64,AA=A",
        "data:image/png;base64,AA\nA",
        "data:image/png;base64,AA A",
        "data:image/png;base64,AAA\u00e9",
        " " + IMAGE,
        "http://",
        "http:///a",
        "ftp://example.com/a",
        "http://127.0.0.1/a",
        "http://1.2.3.4.5/a",
        "http://a.0x1/",
        "http://xn--a/",
        "http://b.xn--a/",
        "http://user@example.com/",
        "http://example.com:99999/",
        "http://-a.com/",
        "http://a..b/",
        "http://a_b/",
        "http://[::1]/",
        "http://example.com/ a",
        "http://example.com/\u00e9",
        "http://example.com/" + "a" * 2000,
        None,
        3,
        [IMAGE],
    ],
)
def test_images_in_doubt_go_whole(image: object) -> None:
    """Infinity's 422 names the index of the bad one, so it must see them all."""
    assert isinstance(plan_of({"input": [IMAGE, image]}), Whole)


def test_the_limit_on_images_is_32_or_the_workers() -> None:
    """As in Infinity: the smaller of the two."""
    assert isinstance(plan_of({"input": [IMAGE] * 32}), Rows)
    assert isinstance(plan_of({"input": [IMAGE] * 33}, limit=4000), Whole)
    assert isinstance(plan_of({"input": [IMAGE] * 5}, limit=4), Whole)
    assert plan_of({"input": [IMAGE] * 33}).inputs == 1
