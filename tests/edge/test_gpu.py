"""GPUs through the real binding and a scripted library: what is read, and a driver that fails, vanishes or hangs."""

import ctypes
import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.core.model import Missing
from supervisor.sense.gpu import GpuSense
from supervisor.sense.nvml import LIBRARY, GpuReport, NvmlThread
from tests.support.nvml_stub import Look, NvmlStub, gpu, process

NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, GPU_IS_LOST, UNKNOWN = 3, 4, 9, 15, 999


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> NvmlStub:
    """The library, compiled once."""
    return NvmlStub.built(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def stub(built: NvmlStub) -> NvmlStub:
    """The library, with a driver that has no device yet."""
    return built.script()


def memory_is(percent: float) -> Callable[[Look], bool]:
    return lambda look: look["gpu_memory"].get("value") == percent


def missing(text: str) -> Callable[[Look], bool]:
    return lambda look: text in look["gpu_memory"].get("reason", "")


def device(look: Look, uuid: str) -> Look:
    (found,) = [device for device in look["devices"] if device["uuid"] == uuid]
    return dict(found)


def test_devices_in_pci_order_and_the_fullest_of_them(stub: NvmlStub) -> None:
    """Every device with what it is and holds, numbered as CUDA does by PCI order; each signal is the highest one's."""
    stub.script(
        gpu("GPU-late", bus=0x81, used=4, total=16, utilisation=70, name="NVIDIA A10"),
        gpu("GPU-early", bus=0x02, used=12, total=16, utilisation=5, name="NVIDIA H200"),
    )
    with stub.watch() as watch:
        look = watch.until(memory_is(75.0))
        assert look["gpu"]["value"] == 70.0
        early, late = look["devices"]
        assert (early["uuid"], early["index"], early["name"]) == ("GPU-early", 0, "NVIDIA H200")
        assert (late["uuid"], late["index"], late["name"]) == ("GPU-late", 1, "NVIDIA A10")
        assert (early["memory_used"], early["memory_total"]) == (12, 16)
        assert late["memory"]["value"] == 25.0
        assert late["utilisation"]["value"] == 70.0
        assert watch.close() < 5


def test_memory_of_a_workers_processes(stub: NvmlStub) -> None:
    """Summed over devices and members; once where a process computes and draws, nothing where there is no figure."""
    with subprocess.Popen(["sleep", "60"], process_group=0) as worker:
        try:
            stub.script(
                gpu("GPU-a"),
                gpu("GPU-b", bus=2),
                process("GPU-a", worker.pid, 1000),
                process("GPU-a", worker.pid, 1000, kind="graphics"),
                process("GPU-b", worker.pid, 500),
                process("GPU-b", 1, 77),
            )
            with stub.watch(worker.pid) as watch:
                watch.until(lambda look: look["uses"] == {"me": 1500})
                stub.script(gpu("GPU-a"), process("GPU-a", worker.pid, None))  # as MIG and WDDM answer
                watch.until(lambda look: look["uses"] == {"me": 0})
                # drivers before 510
                stub.script(
                    gpu("GPU-a"),
                    process("GPU-a", worker.pid, 300),
                    "error nvmlDeviceGetComputeRunningProcesses_v3 13",
                )
                watch.until(lambda look: look["uses"] == {"me": 300})
        finally:
            worker.kill()


def test_no_device(stub: NvmlStub) -> None:
    """A driver without a card is no GPU, not 0 %."""
    with stub.watch() as watch:
        look = watch.until(missing("no GPU"))
        assert look["gpu"]["reason"] == "no GPU"
        assert look["devices"] == []


@pytest.mark.parametrize("call", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2"])
def test_driver_not_loaded_and_then_loaded(stub: NvmlStub, call: str) -> None:
    """Missing in NVML's words; tried again, so a driver loaded later is found."""
    stub.script(gpu("GPU-a"), f"error {call} {DRIVER_NOT_LOADED}")
    with stub.watch() as watch:
        assert watch.until(missing("Driver Not Loaded"))["devices"] == []
        stub.script(gpu("GPU-a"))
        watch.until(memory_is(25.0))


def test_what_a_card_does_not_tell(stub: NvmlStub) -> None:
    """Not supported (MIG, integrated cards) is Missing for that figure alone, and no reason to open anything again."""
    stub.script(gpu("GPU-a"), f"error nvmlDeviceGetUtilizationRates {NOT_SUPPORTED}")
    with stub.watch() as watch:
        look = watch.until(memory_is(25.0))
        assert look["gpu"]["reason"] == "Not Supported"
        stub.script(gpu("GPU-a", total=0), f"error nvmlDeviceGetUtilizationRates {NOT_SUPPORTED}")
        watch.until(missing("NVML tells no memory size"))


def test_a_card_this_container_was_not_given(stub: NvmlStub) -> None:
    """A device that may not be opened is left out; the others are numbered as CUDA sees them."""
    stub.script(
        gpu("GPU-theirs"), gpu("GPU-ours", bus=2), f"error nvmlDeviceGetHandleByIndex_v2 {NO_PERMISSION} GPU-theirs"
    )
    before = stub.opened
    with stub.watch() as watch:
        began = watch.until(memory_is(25.0))["now"]
        look = watch.until(lambda look: look["now"] > began + 2)
        assert stub.opened == before + 1, "a refusal is final: nothing is gained by opening the library again"
        assert [(device["uuid"], device["index"]) for device in look["devices"]] == [("GPU-ours", 0)]


def test_one_card_of_two_is_lost(stub: NvmlStub) -> None:
    """Its own readings are Missing with NVML's reason, the other's go on; it counts again when it is back."""
    cards = gpu("GPU-a", used=8), gpu("GPU-b", bus=2, used=4)
    stub.script(*cards)
    with stub.watch() as watch:
        watch.until(memory_is(50.0))
        lost = (f"error nvmlDevice{call} {GPU_IS_LOST} GPU-a" for call in ("GetMemoryInfo", "GetUtilizationRates"))
        stub.script(*cards, *lost)
        look = watch.until(memory_is(25.0))
        assert device(look, "GPU-a")["memory"]["reason"] == "GPU is lost"
        assert device(look, "GPU-b")["memory"]["value"] == 25.0
        stub.script(*cards)
        watch.until(memory_is(50.0))


def test_the_only_card_falls_off_the_bus_and_comes_back(stub: NvmlStub) -> None:
    """First its calls fail, then it is listed no more: Missing either way, never 0; opened again with back-off."""
    stub.script(gpu("GPU-a"))
    with stub.watch() as watch:
        watch.until(memory_is(25.0))
        stub.script()
        look = watch.until(missing("GPU is lost"))
        assert device(look, "GPU-a")["utilisation"]["reason"] == "GPU is lost"
        look = watch.until(missing("NVML lists it no more"))
        assert device(look, "GPU-a")["index"] == -1
        stub.script(gpu("GPU-a"))
        look = watch.until(memory_is(25.0))
        assert device(look, "GPU-a")["index"] == 0


def test_a_driver_that_goes_away_as_a_whole(stub: NvmlStub) -> None:
    """Known devices stay listed, Missing with the reason, while the library can't be opened again."""
    stub.script(gpu("GPU-a"))
    with stub.watch() as watch:
        watch.until(memory_is(25.0))
        stub.script(f"error nvmlInitWithFlags {UNKNOWN}", f"error nvmlDeviceGetMemoryInfo {UNKNOWN}", gpu("GPU-a"))
        look = watch.until(missing("Unknown Error"))
        assert device(look, "GPU-a")["memory"]["reason"] == "Unknown Error"
        stub.script(gpu("GPU-a"))
        watch.until(memory_is(25.0))


def test_a_call_that_hangs(stub: NvmlStub) -> None:
    """Samples go on meanwhile, the readings become Missing after three seconds, and Known again when it returns."""
    stub.script(gpu("GPU-a"))
    with stub.watch() as watch:
        watch.until(memory_is(25.0))
        stub.script(gpu("GPU-a", used=8), "hang nvmlDeviceGetMemoryInfo")
        look = watch.until(missing("NVML has not answered for 3 s"))
        assert look["gpu"]["reason"] == look["devices"][0]["memory"]["reason"] == "NVML has not answered for 3 s"
        watch.until(missing("NVML has not answered for 4 s"))
        assert len(watch.seen) > 20, "the samples stood still with the driver"
        stub.script(gpu("GPU-a", used=8))
        watch.until(memory_is(50.0))


@pytest.mark.parametrize("call", ["nvmlInitWithFlags", "nvmlDeviceGetUtilizationRates", "nvmlShutdown"])
def test_a_hanging_driver_does_not_keep_the_process(stub: NvmlStub, call: str) -> None:
    """Ending takes a moment, whichever call hangs, the last one included."""
    stub.script(gpu("GPU-a"), f"hang {call}")
    with stub.watch() as watch:
        watch.until(memory_is(25.0) if call == "nvmlShutdown" else missing("NVML has not answered"))
        assert watch.close() < 5
        assert watch.until(lambda look: "closed_in" in look)["closed_in"] < 2


def test_how_long_silence_is_borne() -> None:
    """Three seconds from the start, or from the last report; a thread that said it would rest is not silent."""
    thread = NvmlThread()
    sense = GpuSense(thread)
    assert sense.look(100.0).gpu == Missing("not started", 100.0)
    thread.started_at = 100.0
    assert sense.look(102.9).gpu == Missing("NVML has not answered yet", 102.9)
    assert sense.look(103.0).gpu == Missing("NVML has not answered for 3 s", 103.0)
    thread.report = GpuReport(at=104.0, silent_from=104.0, missing="no GPU")
    assert sense.look(106.9).gpu == Missing("no GPU", 106.9)
    assert sense.look(107.5).gpu == Missing("NVML has not answered for 3 s", 107.5)
    thread.report = GpuReport(at=110.0, silent_from=170.0, missing="no NVML library")
    assert sense.look(172.9).gpu == Missing("no NVML library", 172.9)
    assert sense.look(174.0).gpu == Missing("NVML has not answered for 4 s", 174.0)


def test_a_library_that_is_something_else(stub: NvmlStub, tmp_path: Path) -> None:
    """A file of that name without NVML's functions, or that is no library, is no GPU and no crash."""
    broken = tmp_path / "broken"
    broken.mkdir()
    other = dataclasses.replace(stub, folder=broken)
    subprocess.run(["cc", "-shared", "-o", broken / LIBRARY, "-x", "c", "/dev/null"], check=True)
    with other.watch() as watch:
        watch.until(missing("Function Not Found"))
    (broken / LIBRARY).write_bytes(b"not a library")
    with other.watch() as watch:
        assert watch.until(missing("no NVML library"))["pynvml"] is False


def test_no_library(tmp_path: Path, stub: NvmlStub) -> None:
    """Without the library the readings say so and the binding is not even imported: it costs 5 MB."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        pass
    else:
        pytest.skip(f"this host has {LIBRARY}: the case without it cannot be made here")
    with dataclasses.replace(stub, folder=tmp_path).watch() as watch:
        look = watch.until(missing("no NVML library"))
        assert look["gpu"]["reason"] == "no NVML library"
        assert look["pynvml"] is False
        later = watch.until(lambda seen: seen["now"] > look["now"] + 4)
        assert later["gpu_memory"]["reason"] == "no NVML library", "the thread rests, it is not silent"
