"""How models that share a process must be alike, and how many places models need. Pure, as `rules` are.

What Infinity takes for each model of a process (0.0.78: nearly all options of `infinity_emb v2`) it takes from options
that are repeated, in the order of the models; what is given once goes for all of them.
"""

from collections.abc import Iterator

from supervisor.config.faults import Path, Problem
from supervisor.config.settings import ModelSettings, Settings

ALIKE = ("device", "device_id", "args", "env")
"""Settings of a model that are its process's: what it computes on, and what is handed on as it is."""
_ALIKE_TEXT = "device, device_id, args and env"


def processes(settings: Settings) -> dict[str, list[int]]:
    """Which models each process has, by their indices: by the group's name, or by its only model's."""
    found: dict[str, list[int]] = {}
    for index, model in enumerate(settings.models):
        found.setdefault(model.group or model.name, []).append(index)
    return found


def members_are_alike(written: Settings, settings: Settings) -> Iterator[Problem]:
    """Models of one group have all that is their process's in common."""
    for first, *others in processes(settings).values():
        for index in others:
            one, other = settings.models[first], settings.models[index]
            for key in ALIKE:
                if getattr(one, key) != getattr(other, key):
                    blamed = key if key in other.model_fields_set else "group"
                    yield Problem(
                        ("models", index, blamed),
                        f"{key} is not that of {one.name!r}, whose process it shares; "
                        f"allowed: the same {_ALIKE_TEXT} in all of group {other.group!r}",
                        (("models", first, key), ("models", index, key), ("models", first, "group")),
                    )


def models_have_places(written: Settings, settings: Settings) -> Iterator[Problem]:
    """Every model can be loaded some time.

    1. A group is in memory as a whole, and takes a place for each of its models. What somebody else runs takes none.
    2. Pinned models never leave, nor does a group with one, so every other one needs its places besides them.
    """
    places = settings.model_memory_manager.max_models_in_memory
    involved: tuple[Path, ...] = (("profile",), ("model_memory_manager", "max_models_in_memory"), ("models",))
    involved += tuple(("models", index, key) for index in range(len(settings.models)) for key in ("pinned", "group"))
    groups = [members for members in processes(settings).values() if settings.models[members[0]].managed]
    for members in groups:
        if len(members) > places:  # 1
            what = (
                f"group {settings.models[members[0]].group!r} has {len(members)} models, more than "
                f"max_models_in_memory, {places}, so it could never be loaded; allowed: at most that many"
            )
            yield Problem(("models", members[places], "group"), what, involved)
            return
    staying = [members for members in groups if any(settings.models[index].pinned for index in members)]
    pinned = sorted(index for members in staying for index in members)
    if len(pinned) > places:  # 2
        what = f"{len(pinned)} models are pinned, more than max_models_in_memory, {places}; allowed: at most that many"
        yield Problem(("models", pinned[places], "pinned"), what, involved)
        return
    for members in groups if pinned else ():
        if members not in staying and len(pinned) + len(members) > places:
            model = settings.models[members[0]]
            taken = "all" if len(pinned) == places else str(len(pinned))
            what = (
                f"pinned models take {taken} of max_models_in_memory, {places}, so {_named(model)} could never be "
                f"loaded; allowed: fewer pinned models, or a higher max_models_in_memory"
            )
            yield Problem(("models", pinned[-1], "pinned"), what, involved)
            return


def _named(model: ModelSettings) -> str:
    return repr(model.name) if model.group is None else f"group {model.group!r}"
