"""The thread that asks NVML, so that a driver that hangs stops nobody but itself.

Owns every call into pynvml, the library's life (found, opened, lost, opened again) and the report it leaves after each
round. Nobody waits for it: the event loop reads `report`, and the thread is a daemon, so the process ends without it.
"""

import ctypes
import importlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from supervisor.core.model import GpuDevice, Known, Missing, Reading

LIBRARY = "libnvidia-ml.so.1"
NO_LIBRARY = "no NVML library"
# Memory twice a second; the driver averages utilisation over up to a second itself, and lists processes slowly.
ROUND = 0.5
ROUNDS_PER_FULL_ONE = 2
# A driver may be installed while we run; looking for it costs 30 µs.
LIBRARY_RETRY = 60.0
REOPEN_FIRST, REOPEN_MOST = 1.0, 60.0
# close() waits this long for a round in progress, then leaves the thread behind.
CLOSE_WAIT = 0.2


@dataclass(frozen=True, slots=True)
class GpuReport:
    """What one round found; `missing` is why there are no devices.

    `silent_from` is when the wait for the next report begins: later than `at` where the thread rests for long.
    """

    at: float
    silent_from: float
    devices: tuple[GpuDevice, ...] = ()
    memory_by_pid: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    missing: str | None = None


class NvmlThread:
    """Asks NVML for ever and leaves each answer in `report`."""

    def __init__(self) -> None:
        self.report: GpuReport | None = None
        self.started_at: float | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._nvml: Any = None  # the binding, once the library was found: its import takes 5 MB
        self._handles: list[tuple[GpuDevice, Any]] = []
        self._opened = False
        self._known: dict[str, GpuDevice] = {}  # every device ever seen, as last seen
        self._memory_by_pid: Mapping[int, int] = {}
        self._round = 0
        self._unopened: str | None = None  # why a device could not be opened
        self._lost: str | None = None  # why the library should be opened again
        self._reopen_at = 0.0
        self._back_off = REOPEN_FIRST

    def start(self) -> None:
        """Begin; a second call does nothing."""
        if self._thread is None:
            self.started_at = time.monotonic()
            self._thread = threading.Thread(target=self._run, name="nvml", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End after the call in progress; waits for it for a moment only."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(CLOSE_WAIT)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                wait = self._turn()
            except Exception as error:  # noqa: BLE001 - a driver's nonsense in any form must not end the readings
                wait = self._failed(str(error) or type(error).__name__)
            self._stop.wait(wait)
        self._close_library()

    def _turn(self) -> float:
        """One round; how long to wait until the next.

        1. Without the library there is nothing to ask, and the binding is not imported.
        2. A library that is not open, or has lost a device, is opened (again), with back-off.
        3. The devices are read.
        """
        if self._nvml is None:
            try:
                ctypes.CDLL(LIBRARY)  # 1: as the binding itself finds it
            except OSError:
                return self._publish((), LIBRARY_RETRY, NO_LIBRARY)
            self._nvml = importlib.import_module("pynvml")
        if not self._opened or (self._lost is not None and time.monotonic() >= self._reopen_at):
            self._close_library()
            self._open()  # 2
        return self._read_devices()  # 3

    def _open(self) -> None:
        """Open the library and list its devices in PCI order, the order of CUDA_DEVICE_ORDER=PCI_BUS_ID."""
        self._reopen_at = time.monotonic() + self._back_off
        self._back_off = min(REOPEN_MOST, 2 * self._back_off)
        self._unopened = None
        self._nvml.nvmlInit()
        self._opened = True
        found = []
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                pci = self._nvml.nvmlDeviceGetPciInfo(handle)
                uuid = _word(self._nvml.nvmlDeviceGetUUID(handle))
                name = _word(self._nvml.nvmlDeviceGetName(handle))
            except self._nvml.NVMLError as error:
                if not self._final(error):  # off the bus; not given to this container is final
                    self._unopened = str(error)
                continue
            found.append(((pci.domain, pci.bus, pci.device), uuid, name, handle))
        found.sort(key=lambda device: device[0])
        now = time.monotonic()
        unread = Missing("not read yet", now)
        self._handles = [
            (GpuDevice(uuid, index, name, unread, unread, 0, 0), handle)
            for index, (_, uuid, name, handle) in enumerate(found)
        ]
        self._round = 0

    def _read_devices(self) -> float:
        """Memory of every device; every second time utilisation and processes too."""
        full = self._round % ROUNDS_PER_FULL_ONE == 0
        self._round += 1
        present = {device.uuid for device, _ in self._handles}
        self._lost = self._unopened or ("a device has gone" if self._known.keys() - present else None)
        by_pid: dict[int, int] = {}
        for place, (device, handle) in enumerate(self._handles):
            seen = self._memory(device, handle)
            if full or isinstance(seen.memory, Missing):
                seen = replace(seen, utilisation=self._utilisation(handle))
            if full:
                for pid, used in self._processes(handle).items():
                    by_pid[pid] = by_pid.get(pid, 0) + used
            self._handles[place] = seen, handle
            self._known[seen.uuid] = seen
        if full:
            self._memory_by_pid = by_pid
        if self._lost is None:
            self._back_off = REOPEN_FIRST
        return self._publish(tuple(device for device, _ in self._handles), ROUND)

    def _memory(self, device: GpuDevice, handle: Any) -> GpuDevice:
        memory = self._asked(self._nvml.nvmlDeviceGetMemoryInfo, handle)
        if isinstance(memory, Missing):
            return replace(device, memory=memory)
        used, total = int(memory.used), int(memory.total)
        reading: Reading = Missing("NVML tells no memory size", time.monotonic())
        if total > 0:
            reading = Known(min(100.0, 100.0 * used / total), time.monotonic())
        return replace(device, memory=reading, memory_used=used, memory_total=total)

    def _utilisation(self, handle: Any) -> Reading:
        rates = self._asked(self._nvml.nvmlDeviceGetUtilizationRates, handle)
        return rates if isinstance(rates, Missing) else Known(min(100.0, float(rates.gpu)), time.monotonic())

    def _processes(self, handle: Any) -> dict[int, int]:
        """Bytes by pid on one device; a process without a figure (MIG, WDDM) is left out.

        A process that computes and draws is in both lists with the same figure.
        """
        used: dict[int, int] = {}
        for process in (*self._listed("Compute", handle), *self._listed("Graphics", handle)):
            if process.usedGpuMemory is not None:
                used[process.pid] = max(used.get(process.pid, 0), int(process.usedGpuMemory))
        return used

    def _listed(self, kind: str, handle: Any) -> list[Any]:
        """The processes of one kind; drivers before 510 know the older call only."""
        # Not the binding's unversioned name: that one raises an error of another class with an older driver.
        for version in ("v3", "v2"):
            call = getattr(self._nvml, f"nvmlDeviceGet{kind}RunningProcesses_{version}")
            listed = self._asked(call, handle, vital=False)
            if not isinstance(listed, Missing):
                return list(listed)
        return []

    def _asked(self, call: Callable[[Any], Any], handle: Any, vital: bool = True) -> Any:
        """The answer, or Missing with NVML's own words; a vital call that fails means that the device is lost."""
        try:
            return call(handle)
        except self._nvml.NVMLError as error:
            if vital and not self._final(error):
                self._lost = str(error)
            return Missing(str(error), time.monotonic())

    def _final(self, error: Any) -> bool:
        """The error is an answer, not a failure: asking again changes nothing."""
        nvml = self._nvml
        return error.value in (
            nvml.NVML_ERROR_NOT_SUPPORTED,
            nvml.NVML_ERROR_NO_PERMISSION,
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        )

    def _failed(self, reason: str) -> float:
        """NVML as a whole gave nothing this time."""
        self._close_library()
        return self._publish((), max(ROUND, self._reopen_at - time.monotonic()), reason)

    def _close_library(self) -> None:
        self._handles = []
        if self._opened:
            self._opened = False
            try:
                self._nvml.nvmlShutdown()
            except Exception:  # noqa: BLE001 - nothing is left to be done about it
                return

    def _publish(self, devices: tuple[GpuDevice, ...], wait: float, missing: str | None = None) -> float:
        """Leave the report; devices that were there before and are not now are in it as Missing, without an index."""
        now = time.monotonic()
        gone = Missing(missing or "NVML lists it no more", now)
        present = {device.uuid for device in devices}
        absent = [
            replace(device, index=device.index if missing else -1, utilisation=gone, memory=gone)
            for uuid, device in self._known.items()
            if uuid not in present
        ]
        memory_by_pid = self._memory_by_pid if devices else {}
        self.report = GpuReport(now, now + wait - ROUND, (*devices, *absent), memory_by_pid, missing)
        return wait


def _word(text: str | bytes) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text
