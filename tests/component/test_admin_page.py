"""The status page: complete, escaped, self-contained."""

from html.parser import HTMLParser

from supervisor.admin import page
from supervisor.admin.server import AdminServer
from supervisor.metrics import Metrics
from tests.support.admin_client import call
from tests.support.fake_control import FakeControl, model, status

VOID = {"meta", "br", "link"}


class Outline(HTMLParser):
    """The page's tags, text and links; `faults` has tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.faults: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for key, value in attrs if key in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def outline(document: dict[str, object] | None = None) -> Outline:
    """The page for this status, with the fake's decisions."""
    return Outline(page.render(document or status(), FakeControl().decisions(10)))


def test_the_page_shows_everything_of_the_status() -> None:
    """Rung, reason, signals with figures or why they are missing, queue, batch, models, decisions in sentences."""
    text = outline().text
    for words in (
        "Paused",
        "12 requests held; memory 91.2 % ≥ 90 %",
        "12.5 %",
        "+0.4 per min",
        "drill",
        "not available: no NVML library",
        "12 requests, 340 inputs",
        "80.0 KiB",
        "14 (1 to 32)",
        "minilm",
        "630 MiB",
        "pinned",
        "starting",
        "paused: memory 91.2 % ≥ 90 % (0.1 s old); 12 requests held",
        "2026-01-02 03:04:06.500Z",
        "up 2 h 14 m",
        "enforcing",
    ):
        assert words in text, words


def test_the_newest_decision_comes_first() -> None:
    """The last decision is the first that is read."""
    text = outline().text
    assert text.index("resumed, back to normal") < text.index("paused: memory")


def test_hostile_text_stays_text() -> None:
    """Names, reasons and decisions from anywhere make no tags and no control characters."""
    shown = outline()
    assert "script" not in shown.tags
    assert not {"b", "i"} & (shown.tags - {"b"})
    assert "<script>alert(1)</script>" in shown.text
    assert "<b>x</b>" in shown.text
    assert "<i>old</i>" in shown.text
    assert r"\x1b[31mKeyError" in shown.text
    evil = '"><img src=x onerror=alert(1)>'
    document = {
        **status(),
        "version": evil,
        "rung": evil,
        "mode": evil,
        "reason": evil,
        "signals": {evil: {"percent": 50, "rung": evil}, "gpu": {"percent": None, "rung": None, "missing": evil}},
        "models": [model(evil, evil, reason=evil)],
    }
    assert "img" not in outline(document).tags


def test_the_page_is_well_formed_and_needs_nothing_else() -> None:
    """Tags are closed in order; no script, and every link stays on this listener."""
    shown = outline()
    assert (shown.faults, shown.open) == ([], [])
    assert all(link.startswith("/") for link in shown.links)
    assert "/metrics" in shown.links


def test_states_without_figures_are_shown() -> None:
    """Before the first tick, without models, in observe mode and under an operator's pause the page still stands."""
    nothing = {**status(), "models": [], "signals": {"cpu": {"percent": None, "rung": None}}, "mode": "observe"}
    text = outline(nothing).text
    assert "No models are configured." in text
    assert "not read yet" in text
    assert "observing only" in text
    operator = {**status(), "reason": "operator", "rung": "normal"}
    assert "Paused by the operator" in outline(operator).text
    flowing = {**status(), "paused": False, "reason": None, "rung": "normal"}
    assert "Requests flow." in outline(flowing).text
    assert outline({"rung": "normal"}).faults == []


async def test_the_page_is_served_with_a_policy_that_forbids_scripts() -> None:
    """`GET /` is HTML with a content security policy, and is never kept by a cache."""
    server = AdminServer(FakeControl(), Metrics(), "127.0.0.1", 0)
    await server.start()
    try:
        answer = await call(server.port, "GET", "/")
    finally:
        await server.close()
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.raw.decode().startswith("<!doctype html>")
