"""The backstop between its two ends: a counter of what the workers used, and a limit that is set."""

from supervisor.backstop import CpuBackstop


class Limit:
    """A counter that a test moves, and what was set."""

    def __init__(self) -> None:
        self.used: float | None = 0.0
        self.set: list[float | None] = []

    def cpu_seconds(self) -> float | None:
        return self.used

    def set_limit(self, cores: float | None) -> None:
        self.set.append(None if cores is None else round(cores, 3))


def run(backstop: CpuBackstop, limit: Limit, seconds: float, since: float, *, hold: float | None = 83) -> None:
    """On 2 cores the workers use one and others half of one, for some seconds."""
    for count in range(round(seconds * 10)):
        if limit.used is not None:
            limit.used += 0.1
        backstop.observe(1.5, since + count / 10)
        if count % 10 == 0:
            backstop.follow(2, 90, hold, since + count / 10)


def test_the_limit_follows_what_others_use() -> None:
    """At first all below pause, then less what others were seen to use, and none once the hold is off."""
    limit = Limit()
    backstop = CpuBackstop(limit)
    run(backstop, limit, 5, 0)
    assert limit.set == [1.78, 1.28]
    run(backstop, limit, 2, 5, hold=None)
    assert limit.set == [1.78, 1.28, None]


def test_without_a_limit_nothing_happens() -> None:
    """Where there is none at all, and where there is one that can't be put in force."""
    run(CpuBackstop(), Limit(), 3, 0)
    limit = Limit()
    limit.used = None
    run(CpuBackstop(limit), limit, 3, 0)
    assert limit.set == [1.78]  # a null object is told as well, once
