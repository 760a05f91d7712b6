"""The backstop of the CPU hold: where the limit lies, and when it is written."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.backstop import INTERVAL, LEAST, LEAST_CHANGE, Backstop, backstop_percent, cpu_max


class Host:
    """A host of 4 cores in which others and our workers use what a test says, looked at ten times a second."""

    def __init__(self) -> None:
        self.backstop = Backstop()
        self.now = 0.0
        self.own = 0.0
        self.written: list[tuple[float, float | None]] = []

    def run(
        self, seconds: float, others: float, ours: float, *, pause: float | None = 90, hold: float | None = 83
    ) -> None:
        """Time passes, with a tick each second."""
        for count in range(1, round(seconds * 10) + 1):
            self.now += 0.1
            self.own += ours * 0.1
            self.backstop.observe(others + ours, self.own, self.now)
            if count % 10 == 0 and self.backstop.step(4, pause, hold, self.now):
                self.written.append((self.now, self.backstop.limit))

    @property
    def limits(self) -> list[float | None]:
        """What was written, to a thousandth of a core."""
        return [limit if limit is None else round(limit, 3) for _, limit in self.written]


def test_the_workers_get_what_others_leave_below_pause() -> None:
    """One point below the level of pause, less what others use: what our own workers use does not count."""
    host = Host()
    host.run(5, others=1.0, ours=2.3)
    assert host.limits == [0.89 * 4 - 1.0]


def test_it_follows_others_but_not_their_noise() -> None:
    """A change of others is met within a second; one of less than 2 % of the cores is none."""
    host = Host()
    host.run(3, others=1.0, ours=1.0)
    host.run(3, others=1.07, ours=1.5)
    host.run(3, others=2.0, ours=1.0)
    host.run(3, others=0.0, ours=3.0)
    assert host.limits == [2.56, 1.56, 3.56]
    assert [round(at) for at, _ in host.written] == [1, 7, 10]


def test_something_is_always_left() -> None:
    """Others that take everything leave the workers a tenth of a core."""
    host = Host()
    host.run(2, others=4.0, ours=0.0)
    assert host.limits == [LEAST]


def test_without_a_hold_there_is_no_limit() -> None:
    """Hold off (or observe mode, which turns it off), or no level of pause: the limit is taken away at once, once."""
    for off in ({"hold": None}, {"pause": None}):
        host = Host()
        host.run(2, others=3.0, ours=1.0, **off)
        assert host.limits == []
        host.run(2, others=1.0, ours=1.0)
        host.run(3, others=1.0, ours=1.0, **off)
        host.run(2, others=1.0, ours=1.0)
        assert host.limits == [2.56, None, 2.56]


def test_it_is_written_once_a_second_at_most() -> None:
    """However often it is asked, and however wildly others change."""
    host = Host()
    for count in range(200):
        host.now += 0.1
        host.backstop.observe(4.0 * (count % 7 > 3), 0.0, host.now)
        if host.backstop.step(4, 90, 83, host.now):
            host.written.append((host.now, host.backstop.limit))
    times = [at for at, _ in host.written]
    assert len(times) > 5
    assert all(later - earlier >= INTERVAL - 0.06 for earlier, later in itertools.pairwise(times))


def test_the_first_limit_waits_for_nothing() -> None:
    """A start takes every core from its first moment: before a look at others they are taken to use nothing."""
    backstop = Backstop()
    assert backstop.step(4, 90, 83, 0.0)
    assert backstop.limit == 0.89 * 4


def test_what_was_not_seen_says_nothing() -> None:
    """An unreadable CPU, a stall and a counter that fell are left out: the limit stays until something was seen."""
    backstop = Backstop()
    backstop.step(4, 90, 83, -9.0)
    backstop.observe(3.0, 100.0, 0.0)
    backstop.observe(None, 100.0, 0.1)
    backstop.observe(3.0, 100.0, 5.0)  # 4.9 s after the look before it
    backstop.observe(3.0, 7.0, 5.1)
    assert not backstop.step(4, 90, 83, 5.1)
    backstop.observe(3.0, 7.1, 5.2)
    assert backstop.step(4, 90, 83, 5.2)
    assert backstop.limit is not None
    assert round(backstop.limit, 6) == round(0.89 * 4 - 2.0, 6)


@given(pause=st.floats(1, 100), gap=st.floats(0.01, 99), cores=st.floats(0.5, 256), others=st.floats(-1, 300))
def test_it_lies_between_hold_and_pause(pause: float, gap: float, cores: float, others: float) -> None:
    """Whatever the levels: above what the hold aims at, below pause, and never less than the floor."""
    hold = max(0.0, pause - gap)
    percent = backstop_percent(pause, hold)
    assert hold < percent < pause
    limit = cpu_max(cores, percent, others)
    assert limit >= LEAST
    assert limit == LEAST or limit + max(0.0, others) <= pause / 100 * cores + 1e-6


def test_steps_are_worth_a_write() -> None:
    """Just below 2 % of the cores nothing is written, just above it is."""
    for change, written in ((LEAST_CHANGE * 4 - 0.01, 1), (LEAST_CHANGE * 4 + 0.01, 2)):
        host = Host()
        host.run(2, others=1.0, ours=0.0)
        host.run(2, others=1.0 + change, ours=0.0)
        assert len(host.written) == written
