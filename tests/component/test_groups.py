"""Models that share a process, as operators see them: orders are for all of them, figures add up."""

from pathlib import Path

from supervisor import report
from supervisor.core.model import ModelState
from tests.component.test_control import Desk
from tests.support.fake_house import GIB, FakeModel, House


def group() -> House:
    """Two models in one process, and one that has its own."""
    return House(FakeModel("a", group="g"), FakeModel("x"), FakeModel("b", group="g"))


def test_a_request_for_one_loads_them_all() -> None:
    """The journal names the group; both models are ready."""
    house = group()
    house.lanes.wanted["b"].queued_requests = 1
    house.passes(1)
    assert ("ready", "g") in house.workers.asked
    assert [house.workers.state[name].state for name in "ab"] == [ModelState.READY] * 2
    assert house.workers.state["x"].state is ModelState.STOPPED


def test_what_a_process_uses_is_shown_in_equal_shares() -> None:
    """Each model's row has its share, so that the sum is what the process holds; decisions see the whole of it."""
    house = group()
    house.workers.request_ready("g")
    house.passes(2)
    rows = {row["name"]: row for row in report.models(house.controller, house.lanes.wanted, {})}
    assert [rows[name]["memory_bytes"] for name in "ab"] == [GIB // 4] * 2
    assert [rows[name]["cpu_seconds"] for name in "ab"] == [1.0, 1.0]
    assert [rows[name].get("group") for name in "axb"] == ["g", None, "g"]
    assert house.controller.residency.stats()["total_memory_gb"] == round(GIB / 2 / 1e9, 2)
    assert house.controller.residency.stats()["loaded_models"] == 2


async def test_an_unload_of_one_is_one_of_the_group(tmp_path: Path) -> None:
    """It says so, in the outcome and in the journal, and a preload of the other does not bring them back."""
    desk = Desk(tmp_path, group())
    desk.house.workers.request_ready("g")
    desk.house.passes(1)
    desk.house.controller.preload(["b"])
    outcome = await desk.control.unload("a")
    assert outcome == {"model": "a", "state": "stopped", "reason": None, "together_with": ["b"]}
    assert desk.house.journal.last(1)[0].text == "unload a: asked for by the operator, together with b"
    desk.house.passes(5)
    assert [desk.house.workers.state[name].state for name in "ab"] == [ModelState.STOPPED] * 2


async def test_a_load_of_one_is_one_of_the_group(tmp_path: Path) -> None:
    """It returns when all of the group is ready, and names the others."""
    desk = Desk(tmp_path, group())
    outcome = await desk.while_time_passes(desk.control.load("b"))
    assert outcome == {"model": "b", "state": "ready", "reason": None, "together_with": ["a"]}
    assert desk.house.workers.state["a"].state is ModelState.READY
