"""What a reload changes: which paths, which of them not live, and which models have to be started anew."""

from pathlib import Path

import pytest

from supervisor.config import Diff, Settings, diff, load, with_fixed_kept

BASE = """\
infinity: {command: [infinity_emb, v2], env: {A: b}}
models:
  - {name: a, model_id: org/a}
  - {name: b/c, model_id: org/b}
"""


def settings_of(tmp_path: Path, text: str) -> Settings:
    """The settings of a file with that text."""
    (tmp_path / "a.yaml").write_text(text)
    return load(tmp_path / "a.yaml")


def test_nothing_changed_is_nothing(tmp_path: Path) -> None:
    """The same settings, and the same written in another way, differ in nothing."""
    old = settings_of(tmp_path, BASE)
    assert not diff(old, old)
    assert (
        diff(old, settings_of(tmp_path, BASE + "mode: enforce\nresource_monitor: {cpu_pause_threshold: 90}\n"))
        == Diff()
    )


BOTH = ("a", "b/c")
CHANGES = [
    ("mode: observe\n", Diff(live=("mode",))),
    (
        "resource_monitor: {memory_pause_threshold: 82}\n",
        Diff(
            live=tuple(
                f"resource_monitor.memory_{rung}_threshold"
                for rung in ("warning", "shrink", "pause", "unload", "resume")
            )
        ),
    ),
    (
        "batch_controller: {max_batch_size: 8}\n",
        Diff(live=("batch_controller.max_batch_size", "batch_controller.initial_batch_size")),
    ),
    ("proxy: {queue: {max_wait: 5}}\n", Diff(live=("proxy.queue.max_wait",))),
    ("proxy: {listen: '127.0.0.1:1'}\n", Diff(needs_restart=("proxy.listen",))),
    ("admin: {listen: '127.0.0.1:1'}\n", Diff(needs_restart=("admin.listen",))),
    ("admin: {agent_listen: '127.0.0.1:1'}\n", Diff(needs_restart=("admin.agent_listen",))),
    ("admin: {socket: /run/x}\n", Diff(needs_restart=("admin.socket",))),
    ("proxy: {trusted_proxies: ['::1']}\n", Diff(live=("proxy.trusted_proxies",))),
    ("proxy: {when_paused: refuse}\n", Diff(live=("proxy.when_paused",))),
    ("state_dir: /srv/x\n", Diff(needs_restart=("state_dir",))),
    ("logging: {format: json, level: debug}\n", Diff(live=("logging.level",), needs_restart=("logging.format",))),
]


@pytest.mark.parametrize(("text", "expected"), CHANGES)
def test_settings_that_change(tmp_path: Path, text: str, expected: Diff) -> None:
    """Each changed path is named, derived ones included; what is bound for the daemon's life is told apart."""
    old = settings_of(tmp_path, BASE)
    found = diff(old, settings_of(tmp_path, BASE + text))
    assert found == expected
    assert found


INFINITY = [
    ("{command: [infinity_emb, v2, --log-level, debug], env: {A: b}}", ("infinity.command",), BOTH),
    ("{command: [infinity_emb, v2], env: {A: c}}", ("infinity.env",), BOTH),
    ("{command: [infinity_emb, v2], env: {A: b, B: c}}", ("infinity.env",), BOTH),
    ("{command: [infinity_emb, v2], env: {A: b}, stop_timeout: 5}", ("infinity.stop_timeout",), ()),
    (
        "{command: [infinity_emb, v2], env: {A: b}, start_timeout: 5, drain_timeout: 0}",
        ("infinity.start_timeout", "infinity.drain_timeout"),
        (),
    ),
]


@pytest.mark.parametrize(("infinity", "live", "changed"), INFINITY)
def test_what_all_workers_share(tmp_path: Path, infinity: str, live: tuple[str, ...], changed: tuple[str, ...]) -> None:
    """Another command or environment is another start of every model; time-outs apply to the ones that run."""
    old = settings_of(tmp_path, BASE)
    new = settings_of(tmp_path, BASE.replace("{command: [infinity_emb, v2], env: {A: b}}", infinity))
    assert diff(old, new) == Diff(live=live, models_changed=changed)


MODELS = [
    ("model_id: org/x", "models.a.model_id", True),
    ("model_id: org/a, engine: optimum", "models.a.engine", True),
    ("model_id: org/a, device: cuda", "models.a.device", True),
    ("model_id: org/a, device_id: 1", "models.a.device_id", True),
    ("model_id: org/a, args: [--dtype, float16]", "models.a.args", True),
    ("model_id: org/a, env: {B: c}", "models.a.env", True),
    ("model_id: org/a, aliases: [x]", "models.a.aliases", False),
    ("model_id: org/a, preload: false", "models.a.preload", False),
    ("model_id: org/a, pinned: true", "models.a.pinned", False),
    ("model_id: org/a, memory_gb: 2", "models.a.memory_gb", False),
]


@pytest.mark.parametrize(("model", "path", "restarts"), MODELS)
def test_what_one_model_is(tmp_path: Path, model: str, path: str, restarts: bool) -> None:
    """A model is started anew only for what its worker can't change while it runs; the other model stays as it is."""
    old = settings_of(tmp_path, BASE)
    new = settings_of(tmp_path, BASE.replace("name: a, model_id: org/a", f"name: a, {model}"))
    assert diff(old, new) == Diff(live=(path,), models_changed=("a",) if restarts else ())


ATTACHED = [
    ("url: 'http://127.0.0.1:9001'", "models.e.url", True),
    ("url: 'http://127.0.0.1:9000', pid_file: /run/x.pid", "models.e.pid_file", True),
    ("url: 'http://127.0.0.1:9000', systemd_unit: x.service", "models.e.systemd_unit", True),
    ("url: 'http://127.0.0.1:9000', pinned: true", "models.e.pinned", False),
]


@pytest.mark.parametrize(("model", "path", "attached_anew"), ATTACHED)
def test_what_an_attached_model_is(tmp_path: Path, model: str, path: str, attached_anew: bool) -> None:
    """One that something else runs is let go and attached anew only for what is about where and how to reach it."""
    base = BASE + "  - {name: e, url: 'http://127.0.0.1:9000'}\n"
    old = settings_of(tmp_path, base)
    new = settings_of(tmp_path, base.replace("url: 'http://127.0.0.1:9000'", model))
    assert diff(old, new) == Diff(live=(path,), models_changed=("e",) if attached_anew else ())
    other = settings_of(tmp_path, base.replace("env: {A: b}", "env: {A: c}"))
    assert diff(old, other).models_changed == BOTH


def test_models_come_and_go(tmp_path: Path) -> None:
    """Models are told apart by name: a new name is a new model, and another order is no more than that."""
    old = settings_of(tmp_path, BASE)
    assert diff(old, settings_of(tmp_path, BASE.replace("name: a", "name: d"))) == Diff(
        models_added=("d",), models_removed=("a",)
    )
    first, second = "  - {name: a, model_id: org/a}\n", "  - {name: b/c, model_id: org/b}\n"
    assert diff(old, settings_of(tmp_path, BASE.replace(first, ""))) == Diff(models_removed=("a",))
    assert diff(old, settings_of(tmp_path, BASE.replace(first + second, second + first))) == Diff(live=("models",))
    more = BASE.replace(first, "  - {name: x, model_id: org/x}\n" + first)
    assert diff(old, settings_of(tmp_path, more)) == Diff(models_added=("x",))


def test_a_difference_holds_no_values(tmp_path: Path) -> None:
    """It may be logged although a secret changed."""
    old = settings_of(tmp_path, BASE)
    new = settings_of(tmp_path, BASE.replace("{A: b}", "{A: s3cret}"))
    assert "s3cret" not in repr(diff(old, new))


def test_what_needs_a_restart_stays_as_it_was(tmp_path: Path) -> None:
    """A reload takes all but the fixed values, so that the next one still tells them apart from what is in force."""
    old = settings_of(tmp_path, BASE)
    text = BASE + "mode: observe\nstate_dir: /elsewhere\nproxy: {listen: 127.0.0.1:9, queue: {max_wait: 5}}\n"
    new = settings_of(tmp_path, text + "logging: {format: json, level: debug}\nadmin: {listen: 127.0.0.1:8}\n")
    kept = with_fixed_kept(old, new)
    assert diff(old, kept).needs_restart == ()
    assert (kept.mode, kept.proxy.queue.max_wait, kept.logging.level) == ("observe", 5, "debug")
    assert set(diff(kept, new).needs_restart) == {"state_dir", "proxy.listen", "admin.listen", "logging.format"}
