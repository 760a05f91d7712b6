"""How the settings must stand to each other. Pure: values in, problems out; reads no file and no host.

Each rule looks at the settings with everything filled in (`derive`) and at those that were written, so that it can
blame a key that is in the file and say where a value that is not came from.
"""

import ipaddress
import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise

from supervisor.config import attached, groups, owned
from supervisor.config.address import parse_address
from supervisor.config.derive import Given, written_thresholds
from supervisor.config.faults import Path, Problem
from supervisor.config.resource_monitor import RUNGS, threshold_key
from supervisor.config.settings import ModelSettings, Settings
from supervisor.core.model import Signal

Rule = Callable[[Settings, Settings], Iterator[Problem]]


def problems(written: Settings, settings: Settings) -> Iterator[Problem]:
    """Every broken relation in `settings`, which is `written` with all that follows filled in."""
    for rule in RULES:
        yield from rule(written, settings)


# -- thresholds -----------------------------------------------------------------------------------------------------


def thresholds_in_order(written: Settings, settings: Settings) -> Iterator[Problem]:
    """warning < shrink < pause < unload, of those that are on; resume < pause; none at or below 0.

    1. What is written, with pause as the anchor, has to be in order by itself.
    2. Only then is it of interest whether what follows from it fits in between.
    3. Resume belongs to pause.
    """
    for signal in Signal:
        given = written_thresholds(written.resource_monitor, signal)
        values: Given = {rung: getattr(settings.resource_monitor, threshold_key(signal, rung)) for rung in RUNGS}
        ladder = {rung: value for rung in RUNGS[:4] if (value := values[rung]) is not None}
        anchors = {rung: value for rung, value in ladder.items() if rung in given or rung == "pause"}
        broken = list(_out_of_order(signal, anchors, given)) or list(_out_of_order(signal, ladder, given))  # 1, 2
        yield from broken
        if not broken:
            yield from _no_room_below(signal, values, given)
        if "resume" in given:
            yield from _resume(signal, values, given)  # 3


def _out_of_order(signal: Signal, values: dict[str, float], given: Given) -> Iterator[Problem]:
    for low, high in pairwise(values):
        if values[low] < values[high]:
            continue
        blamed, other, side = (low, high, "below") if low in given else (high, low, "above")
        yield Problem(
            _path(signal, blamed),
            f"{_percent(values[blamed])} must be {side} {threshold_key(signal, other)}, {_percent(values[other])}"
            f"{_origin(signal, other, given)}; allowed: warning < shrink < pause < unload (null: off)",
            _involved(signal),
        )


def _no_room_below(signal: Signal, values: Given, given: Given) -> Iterator[Problem]:
    """A low pause or warning would push what follows from it to 0 and below."""
    for rung, source in (("warning", "pause"), ("shrink", "pause"), ("resume", "warning"), ("resume", "pause")):
        value = values[rung]
        if value is not None and value <= 0 and rung not in given and given.get(source) is not None:
            yield Problem(
                _path(signal, source),
                f"puts {threshold_key(signal, rung)}, which follows from it, at {_percent(value)}; "
                f"allowed: a higher one, or write {threshold_key(signal, rung)}, too",
                _involved(signal),
            )
            return


def _resume(signal: Signal, values: Given, given: Given) -> Iterator[Problem]:
    pause, resume = values["pause"], values["resume"]
    if pause is None:
        return
    if resume is None:
        message = "null would never let a pause end; allowed: a number below "
    elif resume >= pause:
        message = f"{_percent(resume)} would end a pause before it began; allowed: below "
    else:
        return
    message += f"{threshold_key(signal, 'pause')}, {_percent(pause)}{_origin(signal, 'pause', given)}"
    yield Problem(_path(signal, "resume"), message, _involved(signal))


def hold_is_below_shrink(written: Settings, settings: Settings) -> Iterator[Problem]:
    """Held at shrink or above, the batch would be worn down by the hold itself."""
    monitor = settings.resource_monitor
    hold, shrink, given = monitor.cpu_hold_target, monitor.cpu_shrink_threshold, written.resource_monitor
    if hold is None or shrink is None or hold < shrink or "cpu_hold_target" not in given.model_fields_set:
        return
    yield Problem(
        ("resource_monitor", "cpu_hold_target"),
        f"{_percent(hold)} must be below cpu_shrink_threshold, {_percent(shrink)}"
        f"{_origin(Signal.CPU, 'shrink', written_thresholds(given, Signal.CPU))}; allowed: lower, or null (off)",
        _involved(Signal.CPU),
    )


def _origin(signal: Signal, rung: str, given: Given) -> str:
    if rung in given:
        return ""
    if rung == "pause":
        return " (not written: the default or the profile's)"
    return f" (not written: follows from {threshold_key(signal, 'pause')})"


def _path(signal: Signal, rung: str) -> Path:
    return ("resource_monitor", threshold_key(signal, rung))


def _involved(signal: Signal) -> tuple[Path, ...]:
    return (("profile",), *(_path(signal, rung) for rung in RUNGS))


def _percent(value: float) -> str:
    return f"{value:.10g}"


# -- batches --------------------------------------------------------------------------------------------------------


def batch_sizes_in_order(written: Settings, settings: Settings) -> Iterator[Problem]:
    """min ≤ initial ≤ max, and batches grow at less load than they shrink at."""
    batch, given = settings.batch_controller, written.batch_controller.model_fields_set
    section = "batch_controller"
    sizes = ("min_batch_size", "initial_batch_size", "max_batch_size")
    involved = (("profile",), *((section, key) for key in sizes))
    low, initial, high = (getattr(batch, key) for key in sizes)
    if low > high:
        blamed = "min_batch_size" if "min_batch_size" in given else "max_batch_size"
        origin = "" if "max_batch_size" in given else " (not written: the default or the profile's)"
        message = f"min_batch_size {low} is above max_batch_size {high}{origin}; allowed: min ≤ initial ≤ max"
        yield Problem((section, blamed), message, involved)
    elif not low <= initial <= high:
        message = f"{initial} is not between min and max; allowed: {low} to {high}"
        yield Problem((section, "initial_batch_size"), message, involved)
    if batch.increase_threshold >= batch.decrease_threshold:
        blamed = "increase_threshold" if "increase_threshold" in given else "decrease_threshold"
        yield Problem(
            (section, blamed),
            f"increase_threshold {batch.increase_threshold:.10g} is not below decrease_threshold "
            f"{batch.decrease_threshold:.10g}: batches would grow and shrink at once; allowed: increase < decrease",
            ((section, "increase_threshold"), (section, "decrease_threshold")),
        )


# -- models ---------------------------------------------------------------------------------------------------------


_AS_WHAT = {"name": "the name", "aliases": "an alias", "group": "the group"}


def names_are_usable_and_unique(written: Settings, settings: Settings) -> Iterator[Problem]:
    """Names, aliases and groups are printable, and no two are the same but for case or Unicode form."""
    first: dict[str, tuple[str, Path]] = {}
    for path, name in _names(settings):
        if name != name.strip():
            yield Problem(path, f"{name!r} begins or ends with white space; allowed: white space inside only")
        elif not name.isprintable():
            yield Problem(path, f"{name!r} has characters that can't be printed; allowed: printable ones")
        key = unicodedata.normalize("NFKC", name).casefold()
        if key in first:
            other, other_path = first[key]
            same = f"{name!r} is" if other == name else f"{name!r} differs only in case or Unicode form from {other!r},"
            place = f"{_AS_WHAT[str(other_path[2])]} of models.{other_path[1]}"
            yield Problem(path, f"{same} {place} already; allowed: unique names and aliases", (other_path,))
        else:
            first[key] = (name, path)


def _names(settings: Settings) -> Iterator[tuple[Path, str]]:
    for index, model in enumerate(settings.models):
        yield ("models", index, "name"), model.name
    for index, model in enumerate(settings.models):
        for number, alias in enumerate(model.aliases):
            yield ("models", index, "aliases", number), alias
    seen: set[str] = set()
    for index, model in enumerate(settings.models):
        if model.group is not None and model.group not in seen:
            seen.add(model.group)
            yield ("models", index, "group"), model.group


# -- Infinity -------------------------------------------------------------------------------------------------------


def owned_settings_are_not_set(written: Settings, settings: Settings) -> Iterator[Problem]:
    """Options and variables that the supervisor sets on its workers are nobody else's."""
    yield from owned.command_problems(settings.infinity.command, ("infinity", "command"))
    yield from owned.owned_variables(settings.infinity.env, ("infinity", "env"))
    for index, model in enumerate(settings.models):
        yield from owned.owned_options(model.args, ("models", index, "args"))
        yield from owned.owned_variables(model.env, ("models", index, "env"))


# -- addresses ------------------------------------------------------------------------------------------------------


def addresses_can_be_listened_on(written: Settings, settings: Settings) -> Iterator[Problem]:
    """All addresses are some, differ, and only this machine reaches the admin one, unless a token is asked for."""
    proxy_path, admin_path, agent_path = ("proxy", "listen"), ("admin", "listen"), ("admin", "agent_listen")
    agent_listen = settings.admin.agent_listen
    addresses = {}
    for path, text in (
        (proxy_path, settings.proxy.listen),
        (admin_path, settings.admin.listen),
        *(((agent_path, agent_listen),) if agent_listen is not None else ()),
    ):
        try:
            addresses[path] = parse_address(text)
        except ValueError as error:
            yield Problem(path, str(error))
    proxy, admin, agent = addresses.get(proxy_path), addresses.get(admin_path), addresses.get(agent_path)
    if admin and not admin.loopback and settings.admin.token_file is None:
        yield Problem(
            admin_path,
            f"{admin.host!r} can be reached from other machines, and whoever reaches it may give orders; "
            "allowed: with admin.token_file, or loopback, as in 127.0.0.1:7998 or [::1]:7998",
            (("admin", "token_file"),),
        )
    elif proxy and admin and proxy.clashes_with(admin):
        paths = [admin_path, proxy_path] if "listen" in written.admin.model_fields_set else [proxy_path, admin_path]
        message = f"clashes with {'.'.join(paths[1])}, {addresses[paths[1]]}; allowed: two different ports"
        yield Problem(paths[0], message, tuple(paths))
    for path, other in ((proxy_path, proxy), (admin_path, admin)):
        if agent and other and agent.clashes_with(other):
            message = f"clashes with {'.'.join(path)}, {other}; allowed: two different ports"
            yield Problem(agent_path, message, (agent_path, path))


def trusted_proxies_are_networks(written: Settings, settings: Settings) -> Iterator[Problem]:
    """Each is an address or a network without host bits: 10.0.0.1/8 might be meant as one or as the other."""
    for index, text in enumerate(settings.proxy.trusted_proxies):
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            message = f"{error}; allowed: an IP address or a network, as in 10.0.0.5, 10.0.0.0/8 or fd00::/8"
            yield Problem(("proxy", "trusted_proxies", index), message)


RULES: tuple[Rule, ...] = (
    thresholds_in_order,
    hold_is_below_shrink,
    batch_sizes_in_order,
    names_are_usable_and_unique,
    groups.members_are_alike,
    groups.models_have_places,
    owned_settings_are_not_set,
    attached.models_say_who_runs_them,
    attached.urls_lead_elsewhere,
    attached.controls_are_not_shared,
    addresses_can_be_listened_on,
    trusted_proxies_are_networks,
)


def remarks(settings: Settings) -> Iterator[Problem]:
    """What is allowed and yet hardly meant."""
    if not settings.models:
        yield Problem(("models",), "no models are configured; `run` needs at least one with `name` and `model_id`")
    for index, model in enumerate(settings.models):
        if model.device_id is not None and model.device == "cpu":
            yield Problem(("models", index, "device_id"), _unused_device_id(model))
    queue, body = settings.proxy.queue.max_bytes, settings.proxy.max_body_bytes
    if queue is not None and queue < body:
        yield Problem(("proxy", "queue", "max_bytes"), f"refuses bodies that max_body_bytes, {body}, allows")


def _unused_device_id(model: ModelSettings) -> str:
    return f"has no effect on device cpu; for GPU {model.device_id} write `device: cuda`"
