"""What an operator may ask of the daemon: outcomes, refusals with their reason, and what is kept over a restart."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.control import Control
from supervisor.core.model import Known, Missing, ModelState
from supervisor.errors import NotInTime, Refused, UnknownModel
from supervisor.state import OperatorPause
from tests.support.fake_house import FakeModel, FakeView, House


class FakePool:
    """Stops what it is told to; forgives."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.forgiven: list[str] = []
        self.beside: list[bool] = []
        self.hangs = False

    def forgive(self, name: str) -> None:
        """Noted."""
        self.forgiven.append(name)
        if self.house.workers.state[name].state is ModelState.FAILED:
            self.house.workers.state[name] = FakeView()

    async def ensure_stopped(self, name: str, cause: str) -> None:
        """Gone at once, or never."""
        if self.hangs:
            await asyncio.sleep(3600)
        self.house.workers.request_stop(name, cause)

    async def restart(self, name: str, cause: str, beside: bool = False) -> None:
        """Gone and back at once."""
        self.beside.append(beside)
        self.house.workers.request_stop(name, cause)
        self.house.workers.request_ready(name)


class Desk:
    """A control over a fake house; time in the house passes while the event loop runs."""

    def __init__(self, tmp_path: Path, house: House, timeout: float = 5.0) -> None:
        self.house = house
        self.pool = FakePool(house)
        self.pause_file = OperatorPause(tmp_path / "pause.json")
        names = {m.name: m.name for m in house.models} | {"alias": "a"}
        self.control = Control(
            house.controller,
            self.pool,
            self.pause_file,
            names=lambda: names,
            reload=self._reload,
            effective=lambda: {"mode": "enforce"},
            accepting=lambda: True,
            holds=lambda: True,
            max_requests=lambda: 2048,
            load_timeout=lambda: timeout,
            infinity=lambda: {"a": Known(7.0, 0.0), "b": Missing("/models answers 500", 0.0)},
            logs=lambda name, count, after: ([f"{name} {count} {after}"], 7),
        )

    async def _reload(self) -> dict[str, Any]:
        return {"ok": True}

    async def while_time_passes(self, act: Any) -> Any:
        """The act's outcome; the control loop looks all the while."""
        task = asyncio.ensure_future(act)
        while not task.done():
            self.house.passes(0.1)
            await asyncio.sleep(0.005)
        return task.result()


async def test_load_waits_until_ready(tmp_path: Path) -> None:
    """`load`, by alias too, returns when the model is ready and is told in the journal."""
    desk = Desk(tmp_path, House())
    outcome = await desk.while_time_passes(desk.control.load("alias"))
    assert outcome == {"model": "a", "state": "ready", "reason": None}
    assert desk.house.journal.last(10)[0].text == "load a: asked for by the operator"


async def test_load_of_a_failed_model_forgives_first(tmp_path: Path) -> None:
    """A model that was given up gets another chance by `load`."""
    desk = Desk(tmp_path, House())
    desk.house.workers.state["a"] = FakeView(ModelState.FAILED, reason="exit status 3")
    assert (await desk.while_time_passes(desk.control.load("a")))["state"] == "ready"
    assert desk.pool.forgiven == ["a"]


async def test_load_that_fails_says_why(tmp_path: Path) -> None:
    """A worker in back-off ends the wait with its last words."""
    desk = Desk(tmp_path, House())
    desk.house.workers.obey = False
    task = asyncio.ensure_future(desk.control.load("a"))
    await asyncio.sleep(0.02)
    desk.house.workers.state["a"] = FakeView(ModelState.BACKOFF, reason="exit status 1; last lines: no such file")
    with pytest.raises(Refused, match="no such file"):
        await desk.while_time_passes(task)


async def test_load_that_can_never_be_is_refused(tmp_path: Path) -> None:
    """A model larger than the host is refused with the figures."""
    desk = Desk(tmp_path, House(FakeModel("a", estimate=99 * 1024**3)))
    with pytest.raises(Refused, match=r"99\.00 GiB"):
        await desk.while_time_passes(desk.control.load("a"))


async def test_what_takes_too_long_is_told(tmp_path: Path) -> None:
    """`load` and `unload` stop waiting after the time allowed; what was asked for goes on."""
    desk = Desk(tmp_path, House(), timeout=0.3)
    desk.house.workers.obey = False
    with pytest.raises(NotInTime, match="stopped"):
        await desk.while_time_passes(desk.control.load("a"))
    desk.pool.hangs = True
    with pytest.raises(NotInTime):
        await desk.control.unload("a")


async def test_what_something_else_runs_is_not_stopped(tmp_path: Path) -> None:
    """Without any control over it unload and restart are refused by name, before anything is done or told."""
    desk = Desk(tmp_path, House(FakeModel("a", managed=False, stoppable=False), FakeModel("b", managed=False)))
    assert (await desk.while_time_passes(desk.control.load("a")))["state"] == "ready"
    told = len(desk.house.journal.last(100))
    for act in (desk.control.unload, desk.control.restart):
        with pytest.raises(Refused) as refused:
            await act("alias")
        assert str(refused.value) == (
            "a: attached by url, without pid_file or systemd_unit; this supervisor cannot stop it"
        )
    assert len(desk.house.journal.last(100)) == told
    assert ("stop", "a", "operator") not in desk.house.workers.asked
    await desk.while_time_passes(desk.control.load("b"))
    assert (await desk.control.unload("b"))["state"] == "stopped"


async def test_unload_and_restart(tmp_path: Path) -> None:
    """`unload` leaves it stopped, `restart` leaves it ready."""
    desk = Desk(tmp_path, House())
    await desk.while_time_passes(desk.control.load("a"))
    assert (await desk.control.unload("a"))["state"] == "stopped"
    desk.house.passes(5)
    assert desk.house.workers.state["a"].state is ModelState.STOPPED
    assert (await desk.while_time_passes(desk.control.restart("a")))["state"] == "ready"


@pytest.mark.parametrize("act", ["load", "unload", "restart"])
async def test_unknown_models_are_named(tmp_path: Path, act: str) -> None:
    """Whatever is asked of a model that is not configured is refused, with the names there are."""
    with pytest.raises(UnknownModel, match="configured: a, b"):
        await getattr(Desk(tmp_path, House()).control, act)("zzz")


async def test_pause_is_kept_and_resume_forgets_it(tmp_path: Path) -> None:
    """The pause is on disk for the next daemon until it is resumed."""
    desk = Desk(tmp_path, House())
    await desk.control.pause(None)
    assert desk.house.orders.reason == "operator"
    assert OperatorPause(tmp_path / "pause.json").load() == (True, None)
    assert await desk.control.resume() == {"paused": False, "reason": None}
    assert desk.pause_file.load() == (False, None)


async def test_a_pause_that_cannot_be_kept_still_holds(tmp_path: Path) -> None:
    """A full or missing disk costs the memory of the pause, not the pause."""
    desk = Desk(tmp_path / "nowhere", House())
    await desk.control.pause(60)
    assert desk.house.orders.paused


async def test_drill_by_name(tmp_path: Path) -> None:
    """Signals are named as in status; 0 seconds ends all drills."""
    desk = Desk(tmp_path, House())
    desk.house.now += 0.01
    await desk.control.drill({"memory": 92}, 60)
    assert desk.control.status()["signals"]["memory"]["drill"] is True
    desk.house.now += 0.01
    await desk.control.drill({}, 0)
    assert desk.control.status()["signals"]["memory"]["drill"] is False
    assert desk.house.actions()[0] == "drill"


async def test_a_pause_file_that_cannot_be_removed_does_not_hold_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`resume` resumes on a disk that can't be written to; only a restart would pause again."""
    desk = Desk(tmp_path, House())
    await desk.control.pause(None)

    def fail() -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(desk.pause_file, "clear", fail)
    assert (await desk.control.resume())["paused"] is False


async def test_a_model_removed_while_it_is_unloaded(tmp_path: Path) -> None:
    """A reload that removes the model meanwhile makes no fault of the answer."""
    desk = Desk(tmp_path, House())
    desk.pool.ensure_stopped = lambda name, cause: asyncio.sleep(0, desk.house.workers.state.pop(name))  # type: ignore[method-assign,assignment]
    assert (await desk.control.unload("a"))["reason"] == "removed from the configuration"


async def test_alive_means_ticks(tmp_path: Path) -> None:
    """Without ticks for five seconds the control loop counts as dead."""
    desk = Desk(tmp_path, House())
    assert desk.control.alive()[0]
    desk.house.now += 6
    assert not desk.control.alive()[0]


async def test_status_has_the_contracts_shape(tmp_path: Path) -> None:
    """Every field of the contract is there, unreadable signals with their reason and never as 0."""
    house = House()
    house.workers.state["a"] = replace(FakeView(ModelState.READY), pid=4711, pgid=4711, port=40123, loads=1)
    house.lanes.wanted["a"].inflight_inputs = 3
    house.passes(2)
    status = Desk(tmp_path, house).control.status()
    assert set(status) >= {
        *("version", "uptime_s", "mode", "rung", "paused", "reason", "signals", "batch", "queue", "models"),
    }
    assert set(status["signals"]["cpu"]) >= {"percent", "rung", "age_s", "trend_per_min", "drill"}
    gpu = status["signals"]["gpu"]
    assert (gpu["percent"], gpu["rung"], gpu["missing"], gpu["devices"]) == (None, None, "no NVML library", [])
    assert set(status["batch"]) == {"size", "min", "max", "adjustments"}
    assert set(status["queue"]) == {"requests", "inputs", "bytes", "oldest_s"}
    first = status["models"][0]
    assert set(first) >= {
        *("name", "state", "pid", "port", "memory_bytes", "inflight_inputs", "batch_size", "paused", "idle_s"),
        *("uses", "loads", "unloads", "restarts", "pinned", "reason"),
    }
    assert (first["state"], first["pid"], first["memory_bytes"], first["inflight_inputs"]) == ("ready", 4711, 2**29, 3)
    assert first["infinity_queued_inputs"] == 7
    assert status["models"][1]["infinity_queued_inputs"] is None
    assert status["models"][1]["infinity_missing"] == "/models answers 500"


async def test_logs_go_by_a_models_name_or_alias(tmp_path: Path) -> None:
    """An alias reads the log of its model; an unknown name is refused."""
    it = Desk(tmp_path, House())
    assert it.control.logs("alias", 3, None) == {"lines": ["a 3 None"], "position": 7}
    with pytest.raises(UnknownModel):
        it.control.logs("nope", 3, None)
