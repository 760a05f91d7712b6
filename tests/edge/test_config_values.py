"""Valid files: defaults, what follows from what is written, resolved paths, the policy, and the effective config."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from supervisor.config import ConfigError, Fault, Settings, check, effective, load, parse_address, queue_bytes
from supervisor.config.resource_monitor import RUNGS, threshold_key
from supervisor.core.model import Signal
from supervisor.core.policy import BatchPolicy, Policy, ResidencyPolicy, Thresholds

SEED = """\
# 资源监控配置
resource_monitor:
  check_interval: 1.0  # 检查间隔（秒）
  cpu_warning_threshold: 80  # CPU警告阈值（%）
  cpu_pause_threshold: 90  # CPU暂停阈值（%）
  memory_warning_threshold: 80  # 内存警告阈值（%）
  memory_pause_threshold: 90  # 内存暂停阈值（%）

# 批处理配置
batch_controller:
  min_batch_size: 1
  max_batch_size: 32
  initial_batch_size: 16
  increase_threshold: 0.7  # 资源充足阈值
  decrease_threshold: 0.85  # 资源紧张阈值
  adjustment_step: 2
  adjustment_cooldown: 5.0

# 模型内存配置
model_memory_manager:
  max_models_in_memory: 3
  inactive_timeout: 300  # 5分钟
"""

# A default that changes changes what running hosts do: change it here only on purpose, and tell it in the changelog.
DEFAULTS: dict[str, Any] = {
    "profile": None,
    "resource_monitor": {
        "check_interval": 1.0,
        "history_size": 60,
        "cpu_warning_threshold": 80,
        "cpu_shrink_threshold": 85,
        "cpu_pause_threshold": 90,
        "cpu_unload_threshold": 95,
        "cpu_resume_threshold": 75,
        "memory_warning_threshold": 80,
        "memory_shrink_threshold": 85,
        "memory_pause_threshold": 90,
        "memory_unload_threshold": 95,
        "memory_resume_threshold": 75,
        "gpu_warning_threshold": 80,
        "gpu_shrink_threshold": None,
        "gpu_pause_threshold": None,
        "gpu_unload_threshold": None,
        "gpu_resume_threshold": None,
        "gpu_memory_warning_threshold": 80,
        "gpu_memory_shrink_threshold": 85,
        "gpu_memory_pause_threshold": 90,
        "gpu_memory_unload_threshold": 95,
        "gpu_memory_resume_threshold": 75,
        "cpu_hold_target": 83,
        "scope": "auto",
    },
    "batch_controller": {
        "min_batch_size": 1,
        "max_batch_size": 32,
        "initial_batch_size": 16,
        "increase_threshold": 0.7,
        "decrease_threshold": 0.85,
        "adjustment_step": 2,
        "adjustment_cooldown": 5.0,
    },
    "model_memory_manager": {
        "max_models_in_memory": 3,
        "inactive_timeout": 300,
        "cleanup_interval": 60,
        "eviction": "lru",
        "recycle_growth_gb": None,
        "recycle_slope_gb_per_hour": None,
    },
    "infinity": {
        "command": ["infinity_emb", "v2"],
        "env": {},
        "start_timeout": 300,
        "drain_timeout": 30,
        "stop_timeout": 10,
        "stall_timeout": 30,
        "warm_spare": False,
    },
    "models": [],
    "proxy": {
        "listen": "127.0.0.1:7997",
        "max_body_bytes": 67108864,
        "queue": {"max_requests": 2048, "max_bytes": None, "max_wait": 60},
        "when_paused": "hold",
        "trusted_proxies": [],
        "api_keys_file": None,
    },
    "admin": {"listen": "127.0.0.1:7998", "socket": None, "token_file": None, "agent_listen": None},
    "state_dir": None,
    "logging": {"level": "info", "format": "auto"},
    "mode": "enforce",
}
MODEL_DEFAULTS: dict[str, Any] = {
    "name": "a",
    "aliases": [],
    "model_id": "org/a",
    "engine": "torch",
    "device": "cpu",
    "device_id": None,
    "args": [],
    "env": {},
    "preload": True,
    "pinned": False,
    "group": None,
    "memory_gb": None,
    "url": None,
    "api_key_file": None,
    "systemd_unit": None,
    "pid_file": None,
}


def settings_of(tmp_path: Path, text: str) -> Settings:
    """The settings of a file with that text."""
    (tmp_path / "a.yaml").write_text(text)
    return load(tmp_path / "a.yaml")


def thresholds_of(
    tmp_path: Path, signal: str, *, profile: str = "null", **written: float | None
) -> tuple[float | None, ...]:
    """(warning, shrink, pause, unload, resume) of a signal when only `written` is in the file."""
    lines = "".join(f"  {signal}_{rung}_threshold: {'null' if at is None else at}\n" for rung, at in written.items())
    monitor = settings_of(tmp_path, f"profile: {profile}\nresource_monitor:\n{lines}").resource_monitor
    return tuple(getattr(monitor, threshold_key(Signal(signal), rung)) for rung in RUNGS)


def test_defaults_are_pinned(tmp_path: Path) -> None:
    """An empty file gives the contract's defaults, in the contract's order."""
    shown = effective(settings_of(tmp_path, ""))
    assert shown == DEFAULTS
    assert list(shown) == list(DEFAULTS)
    for section, values in DEFAULTS.items():
        if isinstance(values, dict):
            assert list(shown[section]) == list(values)
    [model] = effective(settings_of(tmp_path, "models: [{name: a, model_id: org/a}]"))["models"]
    assert (model, list(model)) == (MODEL_DEFAULTS, list(MODEL_DEFAULTS))


def test_settings_as_a_class_have_the_same_defaults() -> None:
    """What the fields say and what an empty file gives are one."""
    assert effective(Settings()) == DEFAULTS


def test_the_seeds_block_is_valid_as_it_stands(tmp_path: Path) -> None:
    """Section 7.1 of the seed gives exactly the defaults, with a note that no models are configured."""
    assert effective(settings_of(tmp_path, SEED)) == DEFAULTS
    checked = check(tmp_path / "a.yaml")
    assert not checked.faults
    assert "no models are configured" in str(checked.notes[0])


def test_sections_with_nothing_in_them_are_empty(tmp_path: Path) -> None:
    """A section or list of which every line is commented out is as if it were not there."""
    sections = "".join(f"{key}:\n" for key, value in DEFAULTS.items() if isinstance(value, dict | list))
    assert effective(settings_of(tmp_path, sections)) == DEFAULTS
    model = "models:\n  - name: a\n    model_id: org/a\n    aliases:\n    args:\n    env:\n"
    text = "infinity:\n  env:\nproxy:\n  queue:\n" + model
    assert effective(settings_of(tmp_path, text)) == {**DEFAULTS, "models": [MODEL_DEFAULTS]}


@pytest.mark.parametrize(
    ("profile", "pause", "batch", "initial", "models"),
    [
        ("null", 90, 32, 16, 3),
        ("small", 85, 8, 4, 1),
        ("medium", 90, 16, 8, 2),
        ("large", 90, 32, 16, 3),
        ("gpu", 90, 64, 32, 4),
    ],
)
def test_profiles_are_the_seeds_table(
    tmp_path: Path, profile: str, pause: int, batch: int, initial: int, models: int
) -> None:
    """Table 7.2: thresholds of CPU and memory, the largest batch (half of it at the start), and models in memory."""
    for signal in ("cpu", "memory"):
        expected = (pause - 10, pause - 5, pause, (pause + 100) / 2, pause - 15)
        assert thresholds_of(tmp_path, signal, profile=profile) == expected
    assert thresholds_of(tmp_path, "gpu_memory", profile=profile) == (80, 85, 90, 95, 75)
    assert thresholds_of(tmp_path, "gpu", profile=profile) == (80, None, None, None, None)
    settings = settings_of(tmp_path, f"profile: {profile}\n")
    assert settings.batch_controller.max_batch_size == batch
    assert settings.batch_controller.initial_batch_size == initial
    assert settings.model_memory_manager.max_models_in_memory == models


def test_what_is_written_wins_over_the_profile(tmp_path: Path) -> None:
    """A key in the file beats the profile's value, even where it says the default."""
    settings = settings_of(
        tmp_path,
        "profile: small\nresource_monitor: {cpu_pause_threshold: 90}\nbatch_controller: {max_batch_size: 32}\n"
        "model_memory_manager: {max_models_in_memory: 3}\n",
    )
    monitor = settings.resource_monitor
    assert (monitor.cpu_pause_threshold, monitor.cpu_warning_threshold, monitor.memory_pause_threshold) == (90, 80, 85)
    assert (settings.batch_controller.max_batch_size, settings.batch_controller.initial_batch_size) == (32, 16)
    assert settings.model_memory_manager.max_models_in_memory == 3


FOLLOWS = [
    ("memory", {"pause": 82}, (72, 77, 82, 91, 67)),
    ("memory", {"pause": 82.3}, (72.3, 77.3, 82.3, 91.15, 67.3)),
    ("cpu", {"warning": 70}, (70, 80, 90, 95, 65)),
    ("cpu", {"warning": 60, "pause": 80}, (60, 70, 80, 90, 55)),
    ("cpu", {"shrink": 88}, (80, 88, 90, 95, 75)),
    ("cpu", {"resume": 60}, (80, 85, 90, 95, 60)),
    ("cpu", {"unload": 99}, (80, 85, 90, 99, 75)),
    ("cpu", {"warning": None}, (None, 85, 90, 95, 75)),
    ("cpu", {"warning": None, "pause": 82}, (None, 77, 82, 91, 67)),
    ("cpu", {"shrink": None, "unload": None}, (80, None, 90, None, 75)),
    ("memory", {"pause": None}, (80, 85, None, 95, None)),
    ("memory", {"pause": None, "resume": 70}, (80, 85, None, 95, 70)),
    ("memory", {"pause": None, "unload": None, "shrink": None, "warning": None}, (None,) * 5),
    ("memory", {"pause": 100, "unload": None}, (90, 95, 100, None, 85)),
    ("gpu_memory", {"pause": 96}, (86, 91, 96, 98, 81)),
    ("gpu", {"warning": 95}, (95, None, None, None, None)),
    ("gpu", {"warning": None}, (None,) * 5),
    ("gpu", {"pause": 98}, (88, None, 98, None, 83)),
    ("gpu", {"shrink": 96}, (80, 96, None, None, None)),
]


@pytest.mark.parametrize(("signal", "written", "expected"), FOLLOWS)
def test_thresholds_follow_from_what_is_written(
    tmp_path: Path, signal: str, written: dict[str, float | None], expected: tuple[float | None, ...]
) -> None:
    """warning = pause - 10, resume = warning - 5, shrink between warning and pause, unload between pause and 100."""
    assert thresholds_of(tmp_path, signal, **written) == expected


@pytest.mark.parametrize(
    ("written", "hold"),
    [
        ("{cpu_shrink_threshold: 82}", 80),
        ("{cpu_pause_threshold: 82.3}", 75.3),
        ("{cpu_shrink_threshold: null}", 83),
        ("{cpu_shrink_threshold: null, cpu_pause_threshold: 96}", 89),
        ("{cpu_pause_threshold: null}", 83),
        ("{cpu_shrink_threshold: null, cpu_pause_threshold: null}", None),
        ("{cpu_warning_threshold: null, cpu_shrink_threshold: 3}", 1.5),
        ("{memory_shrink_threshold: null, memory_pause_threshold: null}", 83),
        ("{cpu_hold_target: null}", None),
        ("{cpu_hold_target: 40.5}", 40.5),
        ("{cpu_hold_target: 99, cpu_shrink_threshold: null}", 99),
    ],
)
def test_the_hold_follows_from_shrink(tmp_path: Path, written: str, hold: float | None) -> None:
    """Two below shrink, or where shrink would be; off with the limits of CPU; what is written stands."""
    assert settings_of(tmp_path, f"resource_monitor: {written}\n").resource_monitor.cpu_hold_target == hold


def test_profile_small_holds_lower(tmp_path: Path) -> None:
    """Its CPU shrinks at 80 %, so it is held at 78."""
    assert settings_of(tmp_path, "profile: small\n").policy().cpu_hold == 78


def test_one_signals_thresholds_leave_the_others_alone(tmp_path: Path) -> None:
    """Writing a threshold of memory changes nothing for CPU and the GPU."""
    shown = effective(settings_of(tmp_path, "resource_monitor: {memory_pause_threshold: 82}\n"))["resource_monitor"]
    assert {key: value for key, value in shown.items() if not key.startswith("memory")} == {
        key: value for key, value in DEFAULTS["resource_monitor"].items() if not key.startswith("memory")
    }


@pytest.mark.parametrize(
    ("written", "initial"),
    [("max_batch_size: 8", 4), ("max_batch_size: 1", 1), ("max_batch_size: 9", 4), ("min_batch_size: 20", 20)],
)
def test_the_initial_batch_is_half_of_the_largest(tmp_path: Path, written: str, initial: int) -> None:
    """Rounded down, and never below the smallest."""
    settings = settings_of(tmp_path, f"batch_controller: {{{written}}}\n")
    assert settings.batch_controller.initial_batch_size == initial


def test_policy_is_what_the_core_needs(tmp_path: Path) -> None:
    """The core gets its own values, of the right types, and nothing of the YAML."""
    policy = settings_of(tmp_path, "").policy()
    five = Thresholds(warning=80.0, shrink=85.0, pause=90.0, unload=95.0, resume=75.0)
    assert policy == Policy(
        thresholds={
            Signal.CPU: five,
            Signal.MEMORY: five,
            Signal.GPU: Thresholds(warning=80.0, shrink=None, pause=None, unload=None, resume=None),
            Signal.GPU_MEMORY: five,
        },
        batch=BatchPolicy(),
        residency=ResidencyPolicy(),
        check_interval=1.0,
        history_size=60,
        observe=False,
        cpu_hold=83.0,
    )
    assert settings_of(tmp_path, "resource_monitor: {cpu_hold_target: null}\n").policy().cpu_hold is None
    changed = settings_of(
        tmp_path, "mode: observe\nmodel_memory_manager: {inactive_timeout: 0}\nresource_monitor: {history_size: 9}\n"
    )
    assert (changed.policy().observe, changed.policy().residency.inactive_timeout, changed.policy().history_size) == (
        True,
        0,
        9,
    )
    assert isinstance(changed.policy().residency.inactive_timeout, float)


def test_settings_are_frozen(tmp_path: Path) -> None:
    """Nobody changes settings in place."""
    settings = settings_of(tmp_path, "")
    with pytest.raises(ValidationError):
        settings.mode = "observe"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.proxy.queue.max_wait = 1  # type: ignore[misc]


def test_paths_count_from_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative programs, model folders and state folders are found from anywhere; `~` is the home folder."""
    config = tmp_path / "etc"
    for folder in (config, tmp_path / "bin", tmp_path / "model", tmp_path / "home" / "model"):
        folder.mkdir(parents=True)
    program = tmp_path / "bin" / "infinity_emb"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (config / "link").symlink_to(tmp_path / "model")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir("/")
    text = """\
infinity: {command: [../bin/infinity_emb, v2, ./stays]}
models:
  - {name: a, model_id: ../model}
  - {name: b, model_id: ~/model}
  - {name: c, model_id: ./link}
  - {name: d, model_id: org/name}
  - {name: e, model_id: .}
state_dir: ../state/new
"""
    settings = settings_of(config, text)
    assert settings.infinity.command == (str(program), "v2", "./stays")
    assert [model.model_id for model in settings.models] == [
        f"{tmp_path}/model",
        f"{tmp_path}/home/model",
        f"{config}/link",
        "org/name",
        str(config),
    ]
    assert settings.state_dir == f"{tmp_path}/state/new"
    monkeypatch.chdir(tmp_path)
    assert load("etc/a.yaml") == settings


def test_dots_behind_a_link_are_left_to_the_system(tmp_path: Path) -> None:
    """`link/..` is the parent of what the link leads to: such a path is kept as it is."""
    (tmp_path / "far" / "inside").mkdir(parents=True)
    (tmp_path / "far" / "model").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "inside")
    [model] = settings_of(tmp_path, "models: [{name: a, model_id: ./link/../model}]").models
    assert Path(model.model_id).resolve() == tmp_path / "far" / "model"


def test_a_replaced_link_is_followed_anew(tmp_path: Path) -> None:
    """A ConfigMap swaps the folder behind a link: the next load reads the new file."""
    for name, mode in (("one", "enforce"), ("two", "observe")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").write_text(f"mode: {mode}\n")
    (tmp_path / "data").symlink_to("one")
    (tmp_path / "a.yaml").symlink_to("data/a.yaml")
    assert load(tmp_path / "a.yaml").mode == "enforce"
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").replace(tmp_path / "data")
    assert load(tmp_path / "a.yaml").mode == "observe"


ODD_NAMES = [
    "org/name",
    "a b",
    "health",
    "models/a/load",
    "模型",
    "-x",
    "a.b:c@d",
    "0",
    "x" * 200,
    "Ünï",
    "a;b",
    "nulls",
]


def test_odd_model_names_are_fine(tmp_path: Path) -> None:
    """Slashes, inner spaces, other scripts and names like endpoints are nobody's business."""
    text = yaml.safe_dump({"models": [{"name": name, "model_id": "org/x"} for name in ODD_NAMES]}, allow_unicode=True)
    assert [model.name for model in settings_of(tmp_path, text).models] == ODD_NAMES


def test_dates_and_gpu_ids_are_what_they_look_like(tmp_path: Path) -> None:
    """A date stays the text that was written; a device is an index or a UUID."""
    text = (
        "models:\n- {name: 2024-05-01, model_id: org/a, device: cuda, device_id: 1}\n"
        "- {name: b, model_id: org/b, device: cuda, memory_gb: 2, "
        "device_id: GPU-8932f937-d72c-4106-c12f-20bd9faed9f6}\n"
        "- {name: c, model_id: org/c, device: auto, device_id: MIG-GPU-8932f937/1/0}\n"
    )
    models = settings_of(tmp_path, text).models
    assert [model.device_id for model in models] == [
        1,
        "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
        "MIG-GPU-8932f937/1/0",
    ]
    assert (models[0].name, models[1].memory_gb) == ("2024-05-01", 2.0)


def test_models_that_something_else_runs_take_no_place(tmp_path: Path) -> None:
    """Pinned models count as far as they have a place in memory, and so do those that need one besides them."""
    one = "model_memory_manager: {max_models_in_memory: 1}\nmodels:\n"
    attached = "- {name: b, url: 'http://127.0.0.1:9000', pinned: true}\n"
    assert settings_of(tmp_path, one + "- {name: a, model_id: x, pinned: true}\n" + attached)
    assert settings_of(tmp_path, one + "- {name: a, model_id: x}\n" + attached)
    controlled = attached.replace("pinned: true", "systemd_unit: b.service")
    faults = settings_faults(tmp_path, one + "- {name: a, model_id: x, pinned: true}\n" + controlled)
    assert [fault.path for fault in faults] == ["models.0.pinned"]


def settings_faults(tmp_path: Path, text: str) -> tuple[Fault, ...]:
    """The faults of a file with that text."""
    (tmp_path / "a.yaml").write_text(text)
    return check(tmp_path / "a.yaml").faults


def test_files_of_an_attached_model_count_from_the_config_file(tmp_path: Path) -> None:
    """`api_key_file` and `pid_file` are found beside the config, wherever the supervisor is started."""
    (tmp_path / "key").write_text("secret")
    model = "{name: a, url: 'http://127.0.0.1:9000', api_key_file: ./key, pid_file: run/a.pid}"
    [found] = settings_of(tmp_path, f"models: [{model}]").models
    assert (found.api_key_file, found.pid_file) == (f"{tmp_path}/key", f"{tmp_path}/run/a.pid")
    assert "secret" not in str(effective(load(tmp_path / "a.yaml")))


def test_pinned_models_may_fill_memory_when_nothing_else_is_to_be_loaded(tmp_path: Path) -> None:
    """As many pinned models as places, and no others, is a plan."""
    models = "models:\n- {name: a, model_id: x, pinned: true}\n- {name: b, model_id: y, pinned: true}\n"
    assert len(settings_of(tmp_path, f"profile: medium\n{models}").models) == 2
    assert len(settings_of(tmp_path, f"{models}- {{name: c, model_id: z}}\n- {{name: d, model_id: z}}\n").models) == 4


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback", "shown"),
    [
        ("127.0.0.1:7997", "127.0.0.1", 7997, True, "127.0.0.1:7997"),
        ("[::1]:0", "::1", 0, True, "[::1]:0"),
        ("localhost:1", "localhost", 1, True, "localhost:1"),
        ("127.8.9.10:65535", "127.8.9.10", 65535, True, "127.8.9.10:65535"),
        ("0.0.0.0:80", "0.0.0.0", 80, False, "0.0.0.0:80"),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80, False, "[fe80::1%eth0]:80"),
        ("my-host1.example:80", "my-host1.example", 80, False, "my-host1.example:80"),
        ("host_2:080", "host_2", 80, False, "host_2:80"),
    ],
)
def test_addresses(text: str, host: str, port: int, loopback: bool, shown: str) -> None:
    """IPv4, IPv6 in brackets and names, each with a port."""
    address = parse_address(text)
    assert (address.host, address.port, address.loopback, str(address)) == (host, port, loopback, shown)


def test_any_free_port_never_clashes(tmp_path: Path) -> None:
    """Port 0 may be written for both; different ports and different hosts are fine, too."""
    for proxy, admin in [("127.0.0.1:0", "127.0.0.1:0"), ("0.0.0.0:1", "127.0.0.1:2"), ("10.0.0.1:1", "127.0.0.1:1")]:
        settings = settings_of(tmp_path, f"proxy: {{listen: '{proxy}'}}\nadmin: {{listen: '{admin}'}}\n")
        assert (str(settings.proxy.address), str(settings.admin.address)) == (proxy, admin)


def test_the_agents_address_has_a_port_of_its_own(tmp_path: Path) -> None:
    """It may be reached from elsewhere; one that is another's, or none, is refused by name."""
    settings = settings_of(tmp_path, "admin: {agent_listen: '0.0.0.0:7999'}\n")
    assert str(settings.admin.agent_address) == "0.0.0.0:7999"
    for text, fault in [
        ("admin: {agent_listen: '127.0.0.1:7998'}\n", "clashes with admin.listen, 127.0.0.1:7998"),
        ("admin: {agent_listen: '0.0.0.0:7997'}\n", "clashes with proxy.listen, 127.0.0.1:7997"),
        ("admin: {agent_listen: haproxy}\n", "is no address"),
    ]:
        with pytest.raises(ConfigError, match=fault):
            settings_of(tmp_path, text)


def test_effective_hides_secrets(tmp_path: Path) -> None:
    """Variables that look secret and credentials in URLs are not shown, nor are they in the text of the settings."""
    text = """\
infinity:
  env: {HF_TOKEN: s3cret, aws_secret: s3cret, TOKENIZERS_PARALLELISM: "false", HTTPS_PROXY: "http://me:s3cret@proxy:1/x"}
models:
  - {name: a, model_id: org/a, env: {API_KEY: s3cret, DB_PASSWORD: s3cret, OMP_NUM_THREADS: "4"}}
"""
    settings = settings_of(tmp_path, text)
    shown = effective(settings)
    assert shown["infinity"]["env"] == {
        "HF_TOKEN": "***",
        "aws_secret": "***",
        "TOKENIZERS_PARALLELISM": "false",
        "HTTPS_PROXY": "http://***@proxy:1/x",
    }
    assert shown["models"][0]["env"] == {"API_KEY": "***", "DB_PASSWORD": "***", "OMP_NUM_THREADS": "4"}
    assert "s3cret" not in f"{shown} {settings!r} {settings}"
    assert settings.infinity.env["HF_TOKEN"] == "s3cret"


def test_effective_is_a_config_file_with_the_same_effect(tmp_path: Path) -> None:
    """What `check-config` prints can be loaded, and changes nothing."""
    text = """\
profile: small
resource_monitor: {memory_pause_threshold: 82, gpu_pause_threshold: 98, cpu_warning_threshold: null}
models:
  - {name: größe, aliases: [b], model_id: org/a, device: cuda, device_id: 1, args: [--dtype, float16], env: {A: "1"}}
proxy: {listen: "[::1]:0", queue: {max_wait: 0.5}}
state_dir: ./state
"""
    settings = settings_of(tmp_path, text)
    again = settings_of(tmp_path, yaml.safe_dump(effective(settings), sort_keys=False))
    assert effective(again) == effective(settings)
    assert again == settings


def test_what_follows_from_the_host_is_shown_when_it_is_given(tmp_path: Path) -> None:
    """The queue's bytes are the smaller of 256 MiB and 2 % of memory; what is written wins, for the folder, too."""
    settings = settings_of(tmp_path, "")
    assert queue_bytes(settings, 4 * 1024**3) == 4 * 1024**3 // 50
    assert queue_bytes(settings, 64 * 1024**3) == 256 * 1024**2
    shown = effective(settings, total_memory=64 * 1024**3, state_dir="/var/lib/x")
    assert (shown["proxy"]["queue"]["max_bytes"], shown["state_dir"]) == (256 * 1024**2, "/var/lib/x")
    written = settings_of(tmp_path, "state_dir: /srv\nproxy: {queue: {max_bytes: 5}, max_body_bytes: 5}\n")
    shown = effective(written, total_memory=64 * 1024**3, state_dir="/var/lib/x")
    assert (shown["proxy"]["queue"]["max_bytes"], shown["state_dir"], queue_bytes(written, 1)) == (5, "/srv", 5)


def test_models_of_a_group_need_a_place_each(tmp_path: Path) -> None:
    """A group as large as there are places is a plan; one that is pinned counts with all its models."""
    group = "models:\n" + "".join(f"- {{name: {name}, model_id: x, group: g}}\n" for name in "abc")
    assert [model.group for model in settings_of(tmp_path, group).models] == ["g"] * 3
    pinned = group.replace("group: g}", "group: g, pinned: true}", 1)
    assert len(settings_of(tmp_path, pinned).models) == 3
