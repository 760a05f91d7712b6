"""How much memory the parts of all models may take: now, at the last, and at best.

Owns what was learned of the host for that: the least that others ever used, and what each worker holds once loaded.
Only for models on the CPU: what a part takes of a GPU's memory is another matter, and is not foretold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from supervisor.core.model import Known, ModelState, ModelView, Orders, Sample, WorkerUse
from supervisor.core.policy import Thresholds


class Headroom:
    """Puts memory into orders, once a tick, on the sample they were made from."""

    def __init__(self) -> None:
        self._limit = 0
        self._foreign = 0
        # The least each model's worker held since it became ready, with that time.
        self._loaded: dict[str, tuple[float | None, int]] = {}

    def put(
        self,
        orders: Orders,
        sample: Sample,
        thresholds: Thresholds,
        models: Sequence[ModelView],
        use: Mapping[str, WorkerUse],
        drilled: bool,
    ) -> Orders:
        """The same orders, with what the parts may take; unchanged where memory is drilled or can't be read.

        1. Now: up to the shrink threshold. At the last: up to unload. One that is off stands for the other.
        2. At best, for one model: up to unload, with all other processes gone and others using the least they ever did.
           Nothing is asked of one that somebody else runs and whose process is not known: nothing would be learned.
        """
        self._learn(sample, models, use, drilled)
        usual = thresholds.unload if thresholds.shrink is None else thresholds.shrink
        last = thresholds.shrink if thresholds.unload is None else thresholds.unload
        if drilled or not isinstance(sample.memory, Known) or not sample.memory_limit or usual is None or last is None:
            return orders
        lanes = dict(orders.lanes)
        for model in models:
            used = use.get(model.name)
            if model.device == "cpu" and model.name in lanes and (model.managed or used is not None):
                loaded = sum(self._loaded[m.name][1] for m in models if m.name in self._loaded and _share(m, model))
                lanes[model.name] = replace(
                    lanes[model.name],
                    main_pid=used.main_pid if used else None,
                    memory_ever=int(last / 100 * sample.memory_limit) - self._foreign - loaded,  # 2
                )
        return replace(
            orders,
            lanes=lanes,
            memory_room=int(usual / 100 * sample.memory_limit) - sample.memory_used,  # 1
            memory_last=int(last / 100 * sample.memory_limit) - sample.memory_used,
        )

    def _learn(self, sample: Sample, models: Sequence[ModelView], use: Mapping[str, WorkerUse], drilled: bool) -> None:
        for model in models:
            if model.state is ModelState.READY and model.name in use:
                since, held = self._loaded.get(model.name, (None, 0))
                now = use[model.name].memory_bytes
                self._loaded[model.name] = (model.ready_since, min(now, held) if since == model.ready_since else now)
        if drilled or not sample.memory_limit:
            return
        foreign = max(0, sample.memory_used - sum(used.memory_bytes for used in use.values()))
        if sample.memory_limit != self._limit:
            self._limit, self._foreign = sample.memory_limit, foreign
        self._foreign = min(self._foreign, foreign)


def _share(one: ModelView, other: ModelView) -> bool:
    """Whether both are in one process."""
    return one.name == other.name or (one.group is not None and one.group == other.group)
