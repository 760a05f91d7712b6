"""Who may import whom, each rule with its reason, and the size of files."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "supervisor"

# What puts the parts together; none of them knows it.
ABOVE = ("controller", "control", "assembly", "daemon", "cli")
# part -> (what of our own it must not import, why)
FORBIDDEN: dict[str, tuple[tuple[str, ...], str]] = {
    "core": (
        (*ABOVE, "sense", "workers", "proxy", "admin", "config", "service", "log", "metrics", "journal", "state"),
        "decisions are pure: tests, replay and production run the same code",
    ),
    "sense": ((*ABOVE, "workers", "proxy", "admin", "config", "service"), "readings decide nothing"),
    "workers": (
        (*ABOVE, "proxy", "admin", "config", "service", "core.policy", "core.ladder"),
        "workers know no thresholds",
    ),
    "proxy": ((*ABOVE, "workers", "admin", "config", "sense", "service"), "the data plane knows no processes"),
    "admin": (
        ("controller", "assembly", "daemon", "workers", "proxy", "sense", "config", "service"),
        "the control plane reads reports and posts requests",
    ),
    "config": ((*ABOVE, "sense", "workers", "proxy", "admin", "service"), "config is values"),
    "controller": (
        ("assembly", "daemon", "cli", "sense", "workers", "proxy", "admin", "config", "service"),
        "it defines the interfaces it needs",
    ),
}
CORE_ALLOWED_STDLIB = {
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "errno",
    "functools",
    "hashlib",
    "heapq",
    "itertools",
    "math",
    "re",
    "types",
    "typing",
    "json",
    "base64",
    "operator",
    "__future__",
}
CORE_ALLOWED_THIRD_PARTY = {"orjson"}  # a codec: bytes to values and back, no state, no clock


def modules(part: str) -> list[Path]:
    """The files of one part."""
    single = PACKAGE / f"{part}.py"
    return [single] if single.exists() else sorted((PACKAGE / part).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every absolute module name that a file imports, at any depth in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("part", FORBIDDEN)
def test_part_imports_only_what_it_may(part: str) -> None:
    """Each part of the package keeps to the import rules."""
    forbidden, why = FORBIDDEN[part]
    files = modules(part)
    assert files, f"nothing found for {part}"
    for path in files:
        for name in imports(path):
            for other in forbidden:
                target = f"supervisor.{other}"
                assert not f"{name}.".startswith(f"{target}."), f"{path.name} imports {name}: {why}"


def test_core_reads_no_clock_and_does_no_io() -> None:
    """The core imports value modules of the standard library and itself, nothing that reads the world."""
    for path in modules("core"):
        for name in imports(path):
            top = name.split(".")[0]
            if top == "supervisor":
                assert name == "supervisor" or name.startswith("supervisor.core"), f"{path.name} imports {name}"
            else:
                assert top in CORE_ALLOWED_STDLIB | CORE_ALLOWED_THIRD_PARTY, f"{path.name} imports {name}"


def test_files_stay_small() -> None:
    """A file over 350 lines holds a second noun: find it and move it out."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    too_long = {path: lines for path, lines in lengths.items() if lines > 350}
    assert not too_long
