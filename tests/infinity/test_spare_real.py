"""A warm spare of the real Infinity: what it imports is all there is to import, and the worker is the same as any."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator

import psutil
import pytest

from supervisor.workers import spare_program
from tests.support import daemon as daemons
from tests.support import infinity
from tests.support.daemon import Daemon

pytestmark = pytest.mark.timeout(300)

# Imports the modules it is given and tells which functions of torch's that deal with CUDA were called meanwhile.
LOOK = """
import importlib, json, sys, types
import torch
asked = []
for name in [name for name in dir(torch._C) if name.startswith("_cuda_")]:
    if isinstance(getattr(torch._C, name), types.BuiltinFunctionType):
        def ask(*args, _name=name, _real=getattr(torch._C, name)):
            asked.append(_name)
            return _real(*args)
        setattr(torch._C, name, ask)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps([asked, torch.cuda.is_initialized(), len(sys.modules)]))
"""


@pytest.fixture(scope="module")
def d(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all of these: two models with MiniLM's weights, none loaded, and a spare."""
    models = [daemons.minilm_model(name, preload=False) for name in ("a", "b")]
    settings = {"models": models, "infinity": {"command": infinity.plain_command(), "warm_spare": True}}
    with daemons.running(tmp_path_factory.mktemp("spare"), settings) as daemon:
        yield daemon


def warm(d: Daemon) -> int:
    """Wait until the spare is warm; its pid."""
    d.until(lambda: d.status()["spare"]["state"] == "warm", 120, "no spare is warm")
    pid: int = d.status()["spare"]["pid"]
    return pid


def test_a_cold_model_answers_through_the_spare(d: Daemon) -> None:
    """In a fraction of a plain start, with the same numbers; its memory is told before, and it is the worker's then."""
    pid = warm(d)
    d.until(lambda: d.status()["spare"]["memory_bytes"], 10, "the spare's memory is not told")
    held = d.status()["spare"]["memory_bytes"]
    assert 100e6 < held < 1.5e9
    assert f"infinity_supervisor_spare_memory_bytes {float(held):g}"[:45] in d.get(d.admin + "/metrics")[1]
    began = time.monotonic()
    (one,) = d.embed("a", "the same text")
    quick = time.monotonic() - began
    assert d.model("a")["pid"] == pid
    assert d.model("a")["restarts"] == 0
    (other,) = d.embed("b", "the same text")  # takes the next one while it imports, or starts plainly
    slow = time.monotonic() - began - quick
    assert d.model("b")["pid"] != pid
    assert one == pytest.approx(other, abs=1e-5)
    assert quick < slow / 2, (quick, slow)


def test_a_worker_that_was_a_spare_is_stopped_and_restarted_as_any(d: Daemon) -> None:
    """SIGTERM ends it in its own time; one that is killed is replaced by the next spare."""
    d.embed("a", "x")
    before = warm(d)
    worker = psutil.Process(d.model("a")["pid"])
    assert before != worker.pid
    worker.kill()
    d.until(lambda: d.model("a")["pid"] == before, 30, "the spare did not take its place")
    d.embed("a", "x")
    d.api("models/a/unload")
    assert not psutil.pid_exists(before)
    assert not d.events("worker_ignores_sigterm")
    assert not d.events("spare_failed")


def test_an_upgrade_leaves_no_spare_behind(d: Daemon) -> None:
    """SIGUSR2: the spare is gone and reaped before the program runs anew, which makes its own; workers go on."""
    d.embed("a", "x")
    spare, workers = warm(d), {worker.pid for worker in d.workers()}
    assert d.process is not None
    started = len(d.events("started"))
    d.process.send_signal(signal.SIGUSR2)
    d.until(lambda: len(d.events("started")) > started, 60, "it did not start anew")
    d.wait_ready("a")
    assert not psutil.pid_exists(spare)
    children = {warm(d), *workers}
    assert {child.pid for child in psutil.Process(d.process.pid).children()} == children
    assert {worker.pid for worker in d.workers()} == workers


def test_pressure_takes_the_spare_first(d: Daemon) -> None:
    """A drill to unload with two cold models: the spare goes, then one of them."""
    d.embed("a", "x")
    d.embed("b", "x")
    pid, before = warm(d), len(d.decisions())
    d.drill(8, memory=96)
    d.until(lambda: not psutil.pid_exists(pid), 10, "the spare is still there")
    assert d.status()["spare"]["state"] == "absent"
    d.until(lambda: d.decisions()[-1]["action"] == "unload", 10, "no model is unloaded")
    actions = [row["action"] for row in d.decisions()[before:]]
    assert actions.index("spare_dropped") < actions.index("unload")
    d.drill(0)


def test_a_stop_leaves_nothing(d: Daemon) -> None:
    """Neither workers that were spares nor one that is."""
    assert d.process is not None
    children = psutil.Process(d.process.pid).children(recursive=True)
    assert d.stop() == 0
    assert not [child for child in children if child.is_running()]


def test_importing_asks_nothing_of_cuda() -> None:
    """No CUDA call of torch's happens during the imports, so which GPU is seen may be told afterwards."""
    env = {**infinity.clean_environment(), **infinity.ENV}
    words = [str(infinity.PYTHON), "-c", LOOK, spare_program.ENTRY]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=True)
    asked, initialised, modules = json.loads(done.stdout.splitlines()[-1])
    assert asked == []
    assert not initialised
    assert modules > 1000
