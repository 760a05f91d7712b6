"""The supervisor as a service of systemd: user, environments, config, units; and all of that away again.

Everything is looked at before it is changed, so a second run does what the first one left undone. `--dry-run` tells the
steps and takes none. Nothing is started: the first start is the operator's.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from environments import ROOT, Names, Setup, carry_out, guarded
from progress import Progress, SetupError

USER = "infinity-supervisor"
INSTALLED = Path("/opt/infinity-supervisor")
CONFIG = Path("/etc/infinity-supervisor/supervisor.yaml")
UNITS = Path("/etc/systemd/system")
RULES = Path("/etc/polkit-1/rules.d")
COMMAND = Path("/usr/local/bin/infinity-supervisor")
NAMES = Names("venv", "infinity", "setup")
SERVICE, SOCKET = "infinity-supervisor.service", "infinity-supervisor.socket"
# What is the operator's, and what was learned and downloaded: `--purge` takes it, too.
KEPT = (CONFIG.parent, Path("/var/lib/infinity-supervisor"), Path("/var/cache/infinity-supervisor"))
# systemd-python has no build of its own: a compiler and the headers of systemd and Python make one.
BUILD_PACKAGES = ("gcc", "libc6-dev", "pkg-config", "libsystemd-dev")
# Who may use a GPU's devices. NVIDIA's are open to all.
GPU_GROUPS = ("video", "render")
UNIT_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]+\.service")

RULE = """\
// The supervisor may start, stop and kill this unit, and nothing else: models attached by `systemd_unit`.
polkit.addRule(function(action, subject) {{
    if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == "{user}" &&
        action.lookup("unit") == "{unit}" &&
        ["start", "stop", "restart", "kill"].indexOf(action.lookup("verb")) >= 0) {{
        return polkit.Result.YES;
    }}
}});
"""

EPILOG = """\
examples:
  sudo deploy/install --dry-run
  sudo deploy/install
  sudo deploy/install --control infinity.service   also lets the service start and stop that unit
  sudo deploy/install --uninstall                  keeps config and state; --purge takes them, too

Run it again from a newer checkout to upgrade. pip's settings (an index, a proxy) hold as they are.
"""


@dataclass(frozen=True)
class Step:
    """Something to be done: in words, and how."""

    words: str
    take: Callable[[], None]


def main(arguments: Sequence[str]) -> None:
    """Install, uninstall, or tell what either would do; raises SetupError."""
    parser = argparse.ArgumentParser(
        prog="deploy/install",
        description="Installs Infinity Supervisor as a service of systemd, on Debian and Ubuntu.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--control", metavar="UNIT", action="append", default=[], help="let the service control UNIT")
    parser.add_argument("--uninstall", action="store_true", help="stop the service and remove what was installed")
    parser.add_argument("--purge", action="store_true", help="with --uninstall: config, state and user as well")
    parser.add_argument("--dry-run", action="store_true", help="tell the steps and take none")
    chosen = parser.parse_args(arguments)
    if chosen.purge and not chosen.uninstall:
        parser.error("--purge goes with --uninstall")
    for unit in chosen.control:
        if not UNIT_NAME.fullmatch(unit):
            parser.error(f"{unit!r} is no service unit; as in: --control infinity.service")
    if not chosen.dry_run:
        check_host()
    progress = Progress()
    steps = list(removal(purge=chosen.purge)) if chosen.uninstall else list(installation(progress, chosen.control))
    for step in steps:
        progress.say(f"would {step.words}" if chosen.dry_run else f"{step.words[0].upper()}{step.words[1:]}.")
        if not chosen.dry_run:
            step.take()
    if not steps:
        progress.say("Nothing of it is here." if chosen.uninstall else "All is in place.")
    elif not chosen.dry_run:
        progress.say(kept_note(chosen.purge) if chosen.uninstall else what_next())


def check_host() -> None:
    """SetupError where it can't be done, with what to do instead."""
    if os.geteuid() != 0:
        raise SetupError("only root can install a service: run it with sudo (deploy/quickstart needs no root)")
    if not Path("/run/systemd/system").is_dir():
        raise SetupError("systemd does not run here: deploy/quickstart runs in the foreground, deploy/docker elsewhere")
    if shutil.which("apt-get") is None:
        raise SetupError("there is no apt-get: this is for Debian and Ubuntu; deploy/systemd has the units to adapt")


# -- installation -----------------------------------------------------------------------------------------------------


def installation(progress: Progress, controlled: Iterable[str]) -> Iterable[Step]:
    """What is to be done, in order."""
    packages = missing_packages()
    if packages:
        yield Step(f"install the packages {' '.join(packages)}", lambda: install_packages(packages))
    if run(["getent", "passwd", USER], check=False).returncode:
        yield Step(f"add the system user {USER}", add_user)
    for group in GPU_GROUPS:
        known = run(["getent", "group", group], check=False)
        if known.returncode == 0 and USER not in known.stdout.strip().rpartition(":")[2].split(","):
            yield Step(f"let it use GPUs (group {group})", lambda group=group: add_to_group(group))  # type: ignore[misc]
    yield Step(f"bring {INSTALLED} up to date", lambda: environments(progress))
    shipped = shipped_config()
    if not CONFIG.exists():
        yield Step(f"write {CONFIG}", lambda: write_config(CONFIG, shipped))
    elif shipped not in (content(CONFIG), content(INSTALLED / "setup/service.yaml")):
        beside = CONFIG.with_name(CONFIG.name + ".new")
        if content(beside) != shipped:
            yield Step(
                f"write {beside}: {CONFIG.name} stays as it is, this is the new one to compare with",
                lambda: write_config(beside, shipped),
            )
    fresh = [name for name in (SERVICE, SOCKET) if content(UNITS / name) != content(ROOT / "deploy/systemd" / name)]
    if fresh:
        yield Step(f"write the units {' '.join(fresh)} to {UNITS}", lambda: write_units(fresh))
    if not COMMAND.exists() and not COMMAND.is_symlink():
        yield Step(f"link {COMMAND}", lambda: COMMAND.symlink_to(INSTALLED / "venv/bin/infinity-supervisor"))
    for unit in controlled:
        path, rule = rule_path(unit), RULE.format(user=USER, unit=unit.replace("\\", "\\\\")).encode()
        if content(path) != rule:
            yield Step(f"let {USER} control {unit} ({path})", lambda path=path, rule=rule: write_rule(path, rule))  # type: ignore[misc]


def missing_packages() -> list[str]:
    """The distribution's packages that are needed and not there; Python's headers for the Python that runs this."""
    headers = Path(sys.base_prefix, "include", f"python{sys.version_info.major}.{sys.version_info.minor}", "Python.h")
    wanted = [*BUILD_PACKAGES, *(() if headers.exists() else (f"python{headers.parent.name[6:]}-dev",))]
    return [
        name for name in wanted if "ok installed" not in run(["dpkg-query", "-Wf${Status}", name], check=False).stdout
    ]


def install_packages(packages: Sequence[str]) -> None:
    """By apt-get; they stay, for an upgrade may need them again."""
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update"], environ=environ)
    options = ["--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
    run(["apt-get", "install", *options, *packages], environ=environ)


def add_user() -> None:
    """Without a shell, and without a home of its own: systemd makes its folders."""
    home = str(KEPT[1])
    run(["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", home, "--shell", nologin(), USER])


def nologin() -> str:
    """Where that is here."""
    return next((path for path in ("/usr/sbin/nologin", "/sbin/nologin") if Path(path).exists()), "/bin/false")


def add_to_group(group: str) -> None:
    """Besides its own."""
    run(["usermod", "--append", "--groups", group, USER])


def environments(progress: Progress) -> None:
    """The supervisor and Infinity, each in an environment that only root can change; and the settings explained."""
    INSTALLED.mkdir(mode=0o755, parents=True, exist_ok=True)
    before = os.umask(0o022)
    try:
        carry_out(Setup(INSTALLED, progress, sys.executable, NAMES, ROOT), ["systemd"])
        share = INSTALLED / "share"
        share.mkdir(exist_ok=True)
        for name in ("supervisor.yaml", "supervisor.schema.json"):
            write(share / name, (ROOT / "etc" / name).read_bytes(), 0o644)
    finally:
        os.umask(before)


def shipped_config() -> bytes:
    """The config that an installation begins with; editors find the schema where it is then."""
    text = (ROOT / "etc/service.yaml").read_text(encoding="utf-8")
    return text.replace("$schema=", f"$schema={INSTALLED}/share/", 1).encode()


def write_config(path: Path, text: bytes) -> None:
    """For root to change and the service to read: it may come to have secrets in it."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write(path, text, 0o640)
    shutil.chown(path, "root", USER)
    write(INSTALLED / "setup/service.yaml", text, 0o644)


def write_units(names: Iterable[str]) -> None:
    """Known to systemd from now on."""
    for name in names:
        write(UNITS / name, (ROOT / "deploy/systemd" / name).read_bytes(), 0o644)
    run(["systemctl", "daemon-reload"])


def rule_path(unit: str) -> Path:
    """Where the rule for a unit is."""
    return RULES / f"50-{USER}-{unit}.rules"


def write_rule(path: Path, rule: bytes) -> None:
    """polkit sees it by itself."""
    if not RULES.is_dir():
        raise SetupError("polkit with rules is not here: run `apt-get install polkitd` (Debian 12, Ubuntu 24.04) first")
    write(path, rule, 0o644)


def what_next() -> str:
    """What the operator does now."""
    if run(["systemctl", "is-active", "--quiet", SERVICE], check=False).returncode == 0:
        return f"""
The old version still runs. To change over without a failed request: systemctl kill --kill-whom=main -s USR2 {SERVICE}
After a change of the unit: systemctl restart {SERVICE}"""
    return f"""
Next:
  1. look at {CONFIG}; then: infinity-supervisor check-config -c {CONFIG}
  2. systemctl enable --now {SOCKET} {SERVICE}
  3. systemctl status {USER}; infinity-supervisor status
     curl -s http://127.0.0.1:7997/embeddings -H 'content-type: application/json' \\
       -d '{{"model": "minilm", "input": "hello"}}'
  its log: journalctl -u {USER}; away with it: deploy/install --uninstall"""


# -- removal ----------------------------------------------------------------------------------------------------------


def removal(*, purge: bool) -> Iterable[Step]:
    """What is to be done, in order."""
    units = [name for name in (SERVICE, SOCKET) if (UNITS / name).exists()]
    if units:
        yield Step(f"stop and forget {' '.join(units)}", lambda: remove_units(units))
    rules = sorted(RULES.glob(f"50-{USER}-*.rules")) if RULES.is_dir() else []
    if rules:
        yield Step(f"remove {' '.join(map(str, rules))}", lambda: remove_files(rules))
    if COMMAND.is_symlink() and str(INSTALLED) in os.readlink(COMMAND):
        yield Step(f"remove {COMMAND}", COMMAND.unlink)
    drop_ins = [UNITS / f"{name}.d" for name in (SERVICE, SOCKET)]
    for path in (INSTALLED, *((*KEPT, *drop_ins) if purge else ())):
        if path.exists():
            yield Step(f"remove {path}", lambda path=path: shutil.rmtree(path))  # type: ignore[misc]
    if purge and run(["getent", "passwd", USER], check=False).returncode == 0:
        yield Step(f"remove the user {USER}", remove_user)


def remove_units(names: Sequence[str]) -> None:
    """What they run is drained and ends first."""
    run(["systemctl", "disable", "--now", *names], check=False)
    for name in names:
        (UNITS / name).unlink()
    run(["systemctl", "daemon-reload"])


def remove_files(paths: Iterable[Path]) -> None:
    """One after the other."""
    for path in paths:
        path.unlink()


def remove_user() -> None:
    """And its group."""
    run(["userdel", USER])


def kept_note(purge: bool) -> str:
    """What is still there, and why."""
    left = [str(path) for path in KEPT if path.exists()]
    if purge or not left:
        return "Nothing of it is left, but packages of the distribution."
    return f"Kept: {' '.join(left)} and the user {USER}; `deploy/install --uninstall --purge` takes them, too."


# -- tools ------------------------------------------------------------------------------------------------------------


def content(path: Path) -> bytes | None:
    """What is in a file; None when there is none."""
    with suppress(OSError):
        return path.read_bytes()
    return None


def write(path: Path, text: bytes, mode: int) -> None:
    """Whole or not at all."""
    fresh = path.with_name(f".{path.name}.fresh")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    fresh.replace(path)


def run(
    command: Sequence[str], *, check: bool = True, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A program to its end, with what it said; SetupError with its last words when it fails and that matters."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environ
        )
    except OSError as error:
        raise SetupError(f"{command[0]}: {error.strerror}") from error
    if check and done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it failed").splitlines()[-1]
        raise SetupError(f"`{' '.join(command)}`: {said}")
    return done


if __name__ == "__main__":
    guarded("deploy/install", lambda: main(sys.argv[1:]))
