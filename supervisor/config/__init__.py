"""Configuration: YAML → validated, frozen settings; every fault at once, with its line.

`load` for the daemon, `check` for people, `effective` and `json_schema` to show, `diff` for a reload. Nothing in here
is imported by the core, which gets `Settings.policy()`.
"""

from supervisor.config.address import Address, parse_address, parse_url
from supervisor.config.diff import NEEDS_RESTART, Diff, diff, with_fixed_kept
from supervisor.config.effective import effective
from supervisor.config.faults import ConfigError, Fault, Note
from supervisor.config.load import Checked, check, load, load_to_run
from supervisor.config.schema import json_schema
from supervisor.config.settings import ModelSettings, Settings, queue_bytes

__all__ = [
    "NEEDS_RESTART",
    "Address",
    "Checked",
    "ConfigError",
    "Diff",
    "Fault",
    "ModelSettings",
    "Note",
    "Settings",
    "check",
    "diff",
    "effective",
    "json_schema",
    "load",
    "load_to_run",
    "parse_address",
    "parse_url",
    "queue_bytes",
    "with_fixed_kept",
]
