"""A daemon's control side without a daemon: fixed figures, a real journal, and acts that are remembered."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from supervisor.core.model import Rung, Signal
from supervisor.core.sentences import Action
from supervisor.errors import NotInTime, Refused, UnknownModel
from supervisor.journal import Decision, Journal, Subscription

Json = dict[str, Any]
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def status() -> Json:
    """A status document with every case in it: drilled, missing, pinned, failed, hostile text."""
    return {
        "version": "0.1.0",
        "uptime_s": 8041.5,
        "mode": "enforce",
        "rung": "pause",
        "paused": True,
        "reason": "memory 91.2 % ≥ 90 %",
        "external_pressure": False,
        "external_load": False,
        "signals": {
            "cpu": {"percent": 12.5, "rung": "normal", "age_s": 0.3, "trend_per_min": 0.4, "drill": False},
            "memory": {"percent": 91.2, "rung": "pause", "age_s": 0.1, "trend_per_min": -2.0, "drill": True},
            "gpu": {"percent": None, "rung": None, "missing": "no NVML library", "devices": []},
            "gpu_memory": {"percent": None, "rung": None, "missing": "no NVML library", "devices": []},
        },
        "batch": {"size": 14, "min": 1, "max": 32, "adjustments": 1},
        "queue": {"requests": 12, "inputs": 340, "bytes": 81920, "oldest_s": 4.25},
        "models": [
            model("minilm", "ready", pid=4711, memory_bytes=660602880, idle_s=3.2, uses=17, loads=1, pinned=True),
            model("BAAI/bge-small-en-v1.5", "starting", pid=4712, memory_bytes=1258291200, paused=True),
            model("<script>alert(1)</script>", "failed", reason='last words: "\x1b[31mKeyError\x1b[0m: <b>x</b>"'),
        ],
        "spare": {"state": "warm", "pid": 4713, "memory_bytes": 367001600, "reason": None},
        "last_reload": None,
    }


def model(name: str, state: str, **fields: Any) -> Json:
    """One model of a status document."""
    return {
        "name": name,
        "state": state,
        "pid": None,
        "port": None,
        "memory_bytes": None,
        "inflight_inputs": 0,
        "batch_size": 14,
        "paused": False,
        "idle_s": None,
        "uses": 0,
        "loads": 0,
        "unloads": 0,
        "restarts": 0,
        "pinned": False,
        "reason": None,
        **fields,
    }


def decisions(journal: Journal) -> None:
    """A short story: up the ladder by a memory drill and down again."""
    up = {"signal": Signal.MEMORY, "age_s": 0.1}
    journal.append(Decision(Action.DRILL, target="memory 91.2 % for 20 s"))
    journal.append(
        Decision(
            Action.RUNG,
            Rung.NORMAL,
            Rung.PAUSE,
            percent=91.2,
            threshold=90.0,
            outcome="12 requests held",
            **up,  # type: ignore[arg-type]
        )
    )
    journal.append(Decision(Action.UNLOAD, Rung.PAUSE, Rung.PAUSE, target="<i>old</i>", why="idle for 301 s"))
    journal.append(Decision(Action.RUNG, Rung.PAUSE, Rung.NORMAL, percent=61.0, threshold=75.0, **up))  # type: ignore[arg-type]


class FakeControl:
    """Implements `admin.control.Control`; `acts` has what was asked for, `faults` what an act is to raise."""

    def __init__(self) -> None:
        ticks = iter(range(1_000_000))
        self.journal = Journal(now=lambda: START + timedelta(milliseconds=1500 * next(ticks)))
        decisions(self.journal)
        self.document = status()
        self.acts: list[tuple[Any, ...]] = []
        self.faults: dict[str, BaseException] = {}
        self.ticking = True
        self.open = True
        self.hold: asyncio.Event | None = None

    def status(self) -> Json:
        return self.document

    def history(self) -> Sequence[Json]:
        return [{"at": "2026-01-02T03:04:05.000Z", "cpu": 12.5, "memory": 91.2, "gpu": None, "gpu_memory": None}]

    def decisions(self, n: int) -> Sequence[Mapping[str, Any]]:
        return [decision.as_dict() for decision in self.journal.last(n)]

    def config(self) -> Json:
        return {"mode": "enforce"}

    def logs(self, name: str, count: int, after: int | None) -> Json:
        if name != "minilm":
            raise UnknownModel(f"no model named {name!r}")
        lines = [f"line {i}" for i in range(3)]
        return {"lines": lines[-count:] if after is None else [], "position": 21}

    def subscribe(self) -> Subscription:
        return self.journal.subscribe()

    def alive(self) -> tuple[bool, str]:
        return self.ticking, "last tick 0.2 s ago" if self.ticking else "last tick 9.0 s ago"

    def accepting(self) -> tuple[bool, str]:
        return self.open, "accepting requests" if self.open else "shutting down"

    async def load(self, name: str) -> Json:
        return await self._act("load", name, state="ready")

    async def unload(self, name: str) -> Json:
        return await self._act("unload", name, state="stopped")

    async def restart(self, name: str) -> Json:
        return await self._act("restart", name, state="ready")

    async def pause(self, seconds: float | None) -> Json:
        self.acts.append(("pause", seconds))
        return {"paused": True, "seconds": seconds}

    async def resume(self) -> Json:
        self.acts.append(("resume",))
        return {"paused": self.document["paused"], "reason": self.document["reason"]}

    async def drill(self, signals: Mapping[str, float], seconds: float) -> Json:
        self.acts.append(("drill", dict(signals), seconds))
        return {"signals": dict(signals), "seconds": seconds}

    async def reload(self) -> Json:
        self.acts.append(("reload",))
        if "reload" in self.faults:
            raise self.faults["reload"]
        return {"changed": []}

    async def _act(self, act: str, name: str, state: str) -> Json:
        self.acts.append((act, name))
        if self.hold is not None:
            await self.hold.wait()
        if act in self.faults:
            raise self.faults[act]
        if name == "slow":
            raise NotInTime("slow is still starting; it goes on, see status")
        if name == "broken":
            raise Refused("broken could not be loaded: OSError: no such model")
        if name == "nobody":
            raise UnknownModel("no model named 'nobody'; configured: minilm")
        return {"model": name, "state": state, "reason": None}
