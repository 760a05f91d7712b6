"""What our own source may not do, and that the threat model names tests that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = (ROOT / "deploy" / "SECURITY.md").read_text(encoding="utf-8")
SHIPPED = sorted([*(ROOT / "supervisor").rglob("*.py"), *(ROOT / "deploy").rglob("*.py")])

NO_IMPORT = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "pty", "commands", "jsonpickle", "joblib"}
NO_CALL = {
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
    *(
        "eval",
        "exec",
        "compile",
        "__import__",
        "yaml.unsafe_load",
        "yaml.full_load",
        "yaml.load_all",
        "tempfile.mktemp",
    ),
    *("pickle.loads", "pickle.load", "torch.load", "numpy.load", "ssl._create_unverified_context"),
}


def dotted(node: ast.expr) -> str:
    """`a.b.c` as it is written; "" for what is no such name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def faults(source: str) -> Iterator[str]:
    """Each thing that may not be in a source, with its line."""
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"{line}: import {name}" for name in names if name.split(".")[0] in NO_IMPORT)
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in NO_CALL or name.endswith(".create_subprocess_shell"):
                yield f"{line}: {name}()"
            if name == "yaml.load" and "SafeLoader" not in ast.unparse(node):
                yield f"{line}: yaml.load without a safe loader"
            for keyword in node.keywords:
                if keyword.arg == "shell" and not (isinstance(keyword.value, ast.Constant) and not keyword.value.value):
                    yield f"{line}: shell="
        elif isinstance(node, ast.ClassDef):
            for base in map(dotted, node.bases):
                if re.fullmatch(r"(yaml\.)?C?(Unsafe|Full)?Loader", base):
                    yield f"{line}: a loader that is not safe"


def test_no_shell_no_pickle_and_yaml_by_safe_loaders_only() -> None:
    """In all that ships: programs get their words as a list, and what is read can't become code."""
    assert len(SHIPPED) > 100
    found = [f"{path.relative_to(ROOT)}:{fault}" for path in SHIPPED for fault in faults(path.read_text())]
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "import os\nos.system('x')",
        "subprocess.run('x', shell=True)",
        "subprocess.run('x', shell=yes)",
        "await_ = asyncio.create_subprocess_shell('x')",
        "yaml.load(text)",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "class L(yaml.Loader): pass",
        "eval('x')",
    ],
)
def test_each_of_them_would_be_found(source: str) -> None:
    """A look that finds nothing means something only if it can find."""
    assert list(faults(source))


def named_tests() -> list[str]:
    """What the threat model's tables name as tests: `path::test`."""
    return re.findall(r"`(tests/[\w/]+\.py::\w+)`", MODEL)


def test_the_threat_model_names_tests_that_exist() -> None:
    """Every row has a test, and every test is there; no row promises what nothing shows."""
    names = named_tests()
    assert len(names) > 25
    for name in names:
        path, _, test = name.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        functions = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert test in functions, name
    rows = [line for line in MODEL.splitlines() if line.startswith("| ") and not line.startswith(("| who", "| ---"))]
    assert len(rows) >= 20
    assert not [row for row in rows if not re.search(r"`tests/[\w/]+\.py::\w+`", row)]


def test_settings_that_the_threat_model_names_exist() -> None:
    """A setting that was renamed must not live on here."""
    from supervisor.config import json_schema

    schema = str(json_schema())
    for name in re.findall(r"`(?:proxy|admin|infinity|models\[\])\.(\w+)`", MODEL):
        assert f"'{name}'" in schema, name
