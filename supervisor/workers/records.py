"""What must be known about running workers by the next supervisor if this one is killed: a small private file.

Owns the file and the ending of workers found in it that nobody adopts. A process is only touched when its number, its
start time and the boot it belongs to all match what was written: anything else got the number later, and is none of our
business.
"""

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import structlog

from supervisor.workers.process import group_empty, kill_group, start_ticks

log = structlog.get_logger(__name__)

VERSION = 2
# What a file of version 1 lacks: its workers are not adopted, but found and ended.
_SINCE_2 = frozenset({"api_key", "launched_as", "ready"})
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# How long a killed group may take: longer only for a process that hangs in the kernel.
_KILL_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Record:
    """One live worker. `start_ticks` and `boot_id` tell its process from a later one of the same number.

    `launched_as` is `WorkerSpec.fingerprint` of the settings it was started with; `ready`: it has served.
    """

    model: str
    pid: int
    pgid: int
    start_ticks: int
    boot_id: str
    port: int
    api_key: str = field(default="", repr=False)
    launched_as: str = ""
    ready: bool = False


class Records:
    """The file of live workers: private (0600, for it has their keys), replaced as a whole, never half written.

    A write that fails is logged and costs only the next supervisor's knowledge. It is not synced to disk: after a
    power failure there are no workers.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[int, Record] = {}  # by process: a worker and its successor are of one model

    def read(self) -> list[Record]:
        """What an earlier supervisor left; a file that is not ours or not understood is set aside with a warning."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._set_aside(str(error))
            return []
        try:
            with os.fdopen(descriptor, "rb") as file:
                found = os.fstat(file.fileno())
                if found.st_uid != os.geteuid() or found.st_mode & 0o022:
                    raise ValueError(f"owned by user {found.st_uid} with mode {found.st_mode & 0o777:o}")
                return _parse(json.loads(file.read()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._set_aside(f"{type(error).__name__}: {error}")
            return []

    def put(self, record: Record) -> None:
        """Remember a worker as it is now."""
        self._records[record.pid] = record
        self._write()

    def remove(self, pid: int) -> None:
        """Forget a worker of which nothing is left."""
        if self._records.pop(pid, None) is not None:
            self._write()

    def keep(self, records: Sequence[Record]) -> None:
        """Of what an earlier supervisor left, remember these and forget the others."""
        self._records = {record.pid: record for record in records}
        self._write()

    def _write(self) -> None:
        new = self._path.with_name(self._path.name + ".new")
        text = json.dumps({"version": VERSION, "workers": [asdict(record) for record in self._records.values()]})
        try:
            with suppress(FileNotFoundError):
                new.unlink()
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            new.replace(self._path)
        except OSError as error:
            log.warning("worker_records_not_written", file=str(self._path), error=str(error))

    def _set_aside(self, why: str) -> None:
        bad = self._path.with_name(self._path.name + ".bad")
        with suppress(OSError):
            self._path.replace(bad)
        log.warning("worker_records_set_aside", file=str(self._path), kept_as=str(bad), why=why)


def boot_id() -> str:
    """The kernel's name for this boot; empty where there is none, which then matches itself."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


async def sweep(records: Sequence[Record], stop_timeout: float) -> list[Record]:
    """End the workers an earlier supervisor left; returns those that were found alive, when nothing of them is left.

    SIGTERM to the group, SIGKILL after `stop_timeout` seconds, all of them side by side.
    """
    ended = await asyncio.gather(*(_end(record, stop_timeout) for record in records))
    return [record for record, was_alive in zip(records, ended, strict=True) if was_alive]


async def _end(record: Record, stop_timeout: float) -> bool:
    """Whether it was there.

    1. Leave alone what is not certainly the recorded process.
    2. Ask its group to end, and wait.
    3. Kill what is left: a group's number is given to nobody else while it has members.
    """
    fields: dict[str, Any] = {"model": record.model, "pid": record.pid, "port": record.port}
    if not is_alive(record):  # 1
        log.info("leftover_worker_gone", **fields)
        return False
    log.warning("leftover_worker_found", **fields, consequence="it is ended before a new one is started")
    _signal_group(record.pgid, signal.SIGTERM)  # 2
    how = "SIGTERM"
    if not await group_empty(record.pgid, stop_timeout):
        how = "SIGKILL"
        if not await kill_group(record.pgid, _KILL_TIMEOUT):  # 3
            log.error("leftover_worker_not_ended", **fields)
            return True
    log.warning("leftover_worker_ended", **fields, how=how)
    return True


def is_alive(record: Record) -> bool:
    """Whether the process that was recorded is there, that very one."""
    if record.boot_id != boot_id() or start_ticks(record.pid) != record.start_ticks:
        return False
    try:
        return os.getpgid(record.pid) == record.pgid
    except OSError:
        return False


def _signal_group(pgid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, number)


def _parse(data: Any) -> list[Record]:
    """The records of a file of our version; ValueError, KeyError or TypeError for anything else."""
    if data["version"] not in (1, VERSION):
        raise ValueError(f"version {data['version']!r}, this is {VERSION}")
    kinds = {each.name: each.type for each in fields(Record)}
    records = []
    for item in data["workers"]:
        values = {name: item[name] for name in kinds if name in item or name not in _SINCE_2}
        for name, value in values.items():
            if type(value) is not kinds[name]:
                raise ValueError(f"{name} is {value!r}")
        record = Record(**values)
        # Workers lead their groups; a signal to group 0, -1 or 1 would go to ourselves, to everybody, to init.
        if record.pid <= 1 or record.pgid != record.pid:
            raise ValueError(f"process {record.pid} of group {record.pgid}")
        records.append(record)
    return records
