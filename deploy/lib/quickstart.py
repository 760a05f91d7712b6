"""The first session: install what is missing, start the supervisor, tell where it answers.

The supervisor takes this process's place (same pid, same terminal), so Ctrl-C and signals are its own to handle.
A helper that is no child of its watches the start on the admin API, prints the addresses and ends.
"""

import argparse
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from typing import Any

from environments import ROOT, guarded, set_up
from progress import Progress, SetupError, duration

CONFIG = "etc/quickstart.yaml"
COMMAND = ".venv/bin/infinity-supervisor"

DESCRIPTION = f"""\
Installs Infinity Supervisor and a real, unmodified Infinity with a small model inside this checkout, starts the
supervisor in the foreground with {CONFIG} and prints where it answers. Ctrl-C stops it and everything it started.
The first run downloads 0.4 GB (3 GB where pip finds only PyTorch's CUDA build); later runs need no network."""


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="deploy/quickstart", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--install-only", action="store_true", help="stop before starting the supervisor")
    asked = parser.parse_args()
    if sys.platform != "linux":
        raise SetupError("the supervisor reads /proc and cgroups: it runs on Linux only")
    progress = Progress()
    set_up(progress=progress)
    if asked.install_only:
        progress.say("Installed. `deploy/quickstart` starts it.")
        return
    os.chdir(ROOT)  # the config's paths are the checkout's
    config = effective_config()
    for key in ("proxy", "admin"):
        check_free(config[key]["listen"], f"{key}.listen")
    progress.say(f"Starting the supervisor with {CONFIG}; Infinity takes its time to load the first model.")
    watch_beside(config, progress)
    os.execv(COMMAND, [COMMAND, "run", "-c", CONFIG])


def effective_config() -> dict[str, Any]:
    """What the supervisor makes of the config; where it refuses it, its own words, a line a fault."""
    checked = subprocess.run(
        [COMMAND, "check-config", "-c", CONFIG, "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer = json.loads(checked.stdout)
    except ValueError:
        last = (checked.stderr or checked.stdout).strip().rpartition("\n")[2]
        raise SetupError(f"{COMMAND} does not work ({last}): remove .venv and run this again") from None
    if not answer["ok"]:
        faults = (
            f"{fault['file']}:{fault['line']}: {fault['path']}{': ' if fault['path'] else ''}{fault['message']}"
            for fault in answer["faults"]
        )
        raise SetupError("the config is not valid:\n" + "\n".join(faults))
    config: dict[str, Any] = answer["effective"]
    return config


def check_free(address: str, key: str) -> None:
    """Refuse an address that something listens on, or that is not ours to take."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
            probe.listen(1)
        except OSError as fault:
            if fault.errno == errno.EADDRINUSE:
                cause, remedy = "is taken", f"stop what listens there (`ss -ltnp 'sport = :{port}'` names it) or "
            else:
                cause, remedy = f"cannot be listened on ({fault.strerror})", ""
            raise SetupError(f"{address} {cause}: {remedy}change {key} in {CONFIG}") from fault


def watch_beside(config: dict[str, Any], progress: Progress) -> None:
    """Start the watcher as a grandchild, so that no supervisor has to reap it, in the terminal's process group."""
    ours = os.pidfd_open(os.getpid())
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os.close(ours)
        return
    if os.fork():
        os._exit(0)
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        watch(config, ours, progress)
    finally:
        os._exit(0)


def watch(config: dict[str, Any], supervisor: int, progress: Progress) -> None:
    """Tell how the start goes until a model is ready, or the process behind the pidfd `supervisor` is gone."""
    began = told = time.monotonic()
    proxy, admin = (f"http://{config[key]['listen']}" for key in ("proxy", "admin"))
    expected = [model["name"] for model in config["models"] if model["preload"]]
    while not select.select([supervisor], [], [], 0.5)[0]:
        found = status(admin)
        if not found:
            continue
        models = {model["name"]: model for model in found["models"]}
        after = time.monotonic() - began
        if ready := next((name for name, model in models.items() if model["state"] == "ready"), None):
            return progress.say(welcome(proxy, admin, ready, f"{ready} is ready after {after:.0f} s."))
        if not expected:
            first = next(iter(models))
            return progress.say(welcome(proxy, admin, first, "Ready; a model is loaded when it is asked for."))
        if time.monotonic() - told >= 5:
            told = time.monotonic()
            for name in expected:
                why = f" ({models[name]['reason']})" if models[name]["reason"] else ""
                progress.say(f"  {name}: {models[name]['state']}{why}, {duration(after)}")
    return None


def status(admin: str) -> dict[str, Any]:
    """The supervisor's status, empty while it does not answer."""
    with suppress(OSError, ValueError):
        local = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with local.open(f"{admin}/api/v1/status", timeout=2) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    return {}


def welcome(proxy: str, admin: str, model: str, headline: str) -> str:
    """Where it answers, and one line to try it with."""
    body = json.dumps({"model": model, "input": "hello"})
    return f"""
{headline} Ctrl-C stops everything.
  proxy      {proxy}
  dashboard  {admin}/
  try        curl -s {proxy}/v1/embeddings -H 'content-type: application/json' -d '{body}'
"""


if __name__ == "__main__":
    guarded("quickstart", main)
