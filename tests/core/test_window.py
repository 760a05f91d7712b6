"""The window against simulated workers: it grows where that brings more, and nowhere else."""

import heapq
import itertools
import random
from collections.abc import Callable

import pytest

from supervisor.core.window import FIRST_DELAY, LAST_DELAY, Window

SEEDS = range(8)


class Worker:
    """A queue that never ends before one worker, in virtual time.

    A part takes `way` seconds to get there, side by side with others, then `work` seconds alone: the throughput is
    size / (way + work) until the worker is busy, then 1 / work. `noise` is the largest deviation of either.
    """

    def __init__(self, work: float, way: float = 0.0, noise: float = 0.0, seed: int = 1) -> None:
        self.work, self.way, self.noise = work, way, noise
        self.chance = random.Random(seed)
        self.window = Window()
        self.now = 0.0
        self.free = 0.0
        self.flight: list[float] = []
        self.spent: dict[int, float] = dict.fromkeys(range(1, 5), 0.0)
        self.sizes: list[tuple[float, int]] = []
        self.waits: Callable[[int, float], bool] = lambda _size, _now: True

    def _some(self, seconds: float) -> float:
        return seconds * (1 + self.chance.uniform(-self.noise, self.noise))

    def run(self, seconds: float) -> "Worker":
        """Go on for so long."""
        until = self.now + seconds
        while self.now < until:
            self.window.busy(self.waits(len(self.flight), self.now), self.now)
            while len(self.flight) < self.window.size and self.waits(len(self.flight), self.now):
                self.free = max(self.free, self.now + self._some(self.way)) + self._some(self.work)
                heapq.heappush(self.flight, self.free)
                self.window.busy(self.waits(len(self.flight), self.now), self.now)
            answered = heapq.heappop(self.flight) if self.flight else self.now + 0.01
            self.spent[self.window.size] += answered - self.now
            self.now = answered
            self.window.answered(1.0, self.now)
            if not self.sizes or self.sizes[-1][1] != self.window.size:
                self.sizes.append((self.now, self.window.size))
        return self

    def share(self, size: int) -> float:
        """Of the time so far, spent at this size."""
        return self.spent[size] / sum(self.spent.values())

    def settled_at(self, size: int) -> float:
        """Since when it has been at this size without a break."""
        assert self.sizes[-1][1] == size, self.sizes[-5:]
        return self.sizes[-1][0]


def two_only(seconds: float, seed: int = 1, noise: float = 0.02) -> Worker:
    """A torch on the CPU: busy with two."""
    return Worker(seconds, noise=noise, seed=seed)


@pytest.mark.parametrize("seconds", [0.008, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_busy_with_two_keeps_two(seconds: float, seed: int) -> None:
    """It is at 2 for 95 % of ten minutes (of 3,000 parts at least), trials included, and never at 4."""
    worker = two_only(seconds, seed).run(max(600, 3000 * seconds))
    assert worker.share(2) >= 0.95
    assert worker.share(4) == 0


def test_noise_is_no_gain() -> None:
    """Parts that differ by 10 %, on a host whose pace differs by 10 % from one half second to the next."""
    shares = []
    for seed in range(12):
        worker = two_only(0.02, seed, noise=0.1)
        pace = random.Random(seed)
        for _ in range(1500):
            worker.work = 0.02 * pace.uniform(0.9, 1.1)
            worker.run(0.4)
        shares.append(worker.share(2))
        assert worker.share(4) <= 0.01, "not even a trial of it, but for one that follows a wrong verdict"
    assert sum(shares) / len(shares) >= 0.97
    assert min(shares) >= 0.9, "a wrong verdict in ten minutes, reviewed after 30 s"


@pytest.mark.parametrize(("work", "way"), [(0.0, 0.02), (0.0062, 0.0186), (0.02, 0.06)])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_the_way_bounds_gets_four(work: float, way: float, seed: int) -> None:
    """Within 15 s of a backlog, and it stays there."""
    worker = Worker(work, way, noise=0.1, seed=seed).run(20)
    assert worker.settled_at(4) <= 15


class Rates:
    """A worker told by its throughput in parts per second at each size."""

    def __init__(self, rates: dict[int, float], noise: float = 0.0, seed: int = 1, lag: int = 0) -> None:
        self.rates, self.noise = rates, noise
        self.left = [2] * lag  # the sizes under which the parts at the worker left
        self.chance = random.Random(seed)
        self.window = Window()
        self.now = 0.0
        self.trials: list[float] = []

    def run(self, seconds: float, backlog: Callable[[float], bool] = lambda _now: True) -> "Rates":
        """Go on for so long; while there is no backlog nothing is answered."""
        until = self.now + seconds
        while self.now < until:
            self.window.busy(backlog(self.now), self.now)
            before = self.window.size
            self.left.append(before)
            self.now += (1 + self.chance.uniform(-self.noise, self.noise)) / self.rates[self.left.pop(0)]
            if backlog(self.now):
                self.window.answered(1.0, self.now)
            if self.window.size > before:
                self.trials.append(self.now)
        return self


@pytest.mark.parametrize("seed", SEEDS)
def test_fifteen_percent_are_worth_a_place_each(seed: int) -> None:
    """2 → 3 → 4, each by a trial of a few seconds."""
    worker = Rates({2: 100, 3: 115, 4: 132}, 0.1, seed).run(15)
    assert worker.window.size == 4


def test_parts_of_the_size_before_are_not_counted() -> None:
    """With 8 parts a period, two that left too early would hide a third of the gain."""
    worker = Rates({2: 16, 3: 16.56, 4: 16.56}, lag=2).run(20)
    assert worker.window.size == 3


def test_a_period_has_eight_parts_however_long_they_take() -> None:
    """Of parts that take a second, one says nothing."""
    worker = Rates({2: 1, 3: 1, 4: 1})
    larger = [worker.run(0.5).window.size == 3 for _ in range(60)]
    assert sum(larger) >= 8


def test_three_percent_are_not() -> None:
    """Within 3 % nothing is gained but a longer queue at the worker."""
    worker = Rates({2: 100, 3: 102.5, 4: 105}, 0.02).run(29)
    assert worker.window.size == 2


def test_a_third_part_that_helps_and_a_fourth_that_does_not() -> None:
    """It stays at 3, also where it looks again whether the third still helps."""
    worker = Rates({2: 100, 3: 115, 4: 115}, 0.02).run(25)
    assert worker.window.size == 3
    larger = Rates({2: 100, 3: 115, 4: 115}, 0.02)
    at_three = sum(larger.run(1).window.size == 3 for _ in range(600))
    assert at_three >= 0.95 * 600


def test_trials_that_find_nothing_grow_rare() -> None:
    """At once, then after 30, 60, 120 and 240 s, from then on every 5 minutes."""
    worker = Rates({2: 30, 3: 30, 4: 30}).run(1200)
    starts = [t for i, t in enumerate(worker.trials) if i == 0 or t - worker.trials[i - 1] > 10]
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert starts[0] < 2
    assert gaps == pytest.approx([FIRST_DELAY, 60, 120, 240, LAST_DELAY, LAST_DELAY], abs=4)


def test_a_gain_that_is_gone_is_given_back() -> None:
    """The size is reviewed like a larger one is tried."""
    worker = Rates({2: 100, 3: 115, 4: 132}, 0.05).run(20)
    assert worker.window.size == 4
    worker.rates = dict.fromkeys(range(1, 5), 100.0)
    worker.run(60)
    assert worker.window.size == 2


def test_another_kind_of_work_is_tried_soon() -> None:
    """A worker that answers five times as much as before need not wait for its next trial five minutes away."""
    worker = Rates({2: 20, 3: 20, 4: 20}).run(610)
    assert len(worker.trials) > 2
    worker.rates = {2: 100, 3: 115, 4: 132}
    worker.run(30)
    assert worker.window.size == 4


# -- what proves nothing --------------------------------------------------------------------------------------------


def test_without_a_backlog_there_is_no_trial() -> None:
    """However much is answered, the clients set the pace."""
    worker = Rates({2: 100, 3: 115, 4: 132})
    for _ in range(3000):
        worker.window.busy(False, worker.now)
        worker.now += 0.01
        worker.window.answered(1.0, worker.now)
        assert worker.window.size == 2


def test_bursts_shorter_than_a_period_count_for_nothing() -> None:
    """0.4 s of work each second: no period is ever whole, however many add up."""
    worker = Rates({2: 100, 3: 115, 4: 132}).run(120, backlog=lambda now: now % 1 < 0.4)
    assert worker.trials == []


def test_gaps_and_stalls_do_not_count_against_a_gain() -> None:
    """A gap in the backlog each 4 s spoils its period only."""
    worker = Rates({2: 100, 3: 115, 4: 132}, 0.05).run(60, backlog=lambda now: now % 4 < 3.7)
    assert worker.window.size == 4


@pytest.mark.parametrize("at", [0.7, 1.3, 1.9, 2.5])
def test_a_stall_is_no_gain(at: float) -> None:
    """A part that takes 3 s, in whichever period of the trial, is no reason to grow."""
    worker = Rates({2: 100, 3: 100, 4: 100}, 0.02).run(at)
    worker.now += 3.0
    worker.run(25)
    assert worker.window.size == 2
    assert worker.window.size == worker.run(4).window.size


def test_three_clients_do_not_hold_the_trial_open() -> None:
    """With a third place nothing waits any more, so the trial proves nothing: after some attempts it rests."""
    worker = two_only(0.02)
    worker.waits = lambda at_worker, _now: at_worker < 3
    worker.run(60)
    assert worker.share(2) >= 0.9
    assert worker.sizes[-1][0] < 30 + 15


def test_trials_without_an_end_are_given_up() -> None:
    """Clients whose work ends whenever the window grows: 8 attempts, then a rest."""
    worker = Rates({2: 100, 3: 100, 4: 100})
    attempts = 0
    for _ in range(25 * 100):
        worker.window.busy(True, worker.now)
        if worker.window.size == 3:
            attempts += 1
            worker.window.busy(False, worker.now)
            worker.window.busy(True, worker.now)
            worker.now += 0.01
            worker.window.busy(False, worker.now)
        else:
            worker.now += 0.01
            worker.window.answered(1.0, worker.now)
    assert 1 <= attempts <= 8


def test_idle_in_the_middle_of_a_trial_is_the_usual_size() -> None:
    """What comes next meets the size that is proven."""
    worker = Rates({2: 100, 3: 115, 4: 132})
    while worker.window.size == 2:
        worker.run(0.01)
    worker.window.busy(False, worker.now)
    assert worker.window.size == 2
    worker.window.busy(True, worker.now + 60)
    assert worker.window.size == 3, "the trial goes on with the period that was spoiled"


# -- the limit ------------------------------------------------------------------------------------------------------


def test_shrink_is_one_part_at_once_and_two_after_it() -> None:
    """What was gained before is to be proven again."""
    worker = Rates({1: 80, 2: 100, 3: 115, 4: 132}, 0.05).run(20)
    worker.window.limit(1)
    assert worker.window.size == 1
    worker.run(100)
    assert worker.window.size == 1
    worker.window.limit(4)
    assert worker.window.size == 2
    worker.run(60)
    assert worker.window.size == 4


def test_shrink_in_the_middle_of_a_trial_ends_it() -> None:
    """The trial's own size is under the limit like any other."""
    worker = Rates({1: 80, 2: 100, 3: 115, 4: 132})
    while worker.window.size == 2:
        worker.run(0.01)
    worker.window.limit(1)
    assert worker.window.size == 1
    assert worker.run(10).trials == [worker.trials[0]]
    worker.window.limit(4)
    assert worker.window.size == 2


@pytest.mark.parametrize("most", [2, 3])
def test_a_limit_between_is_kept(most: int) -> None:
    """Neither trials nor what was gained before pass it."""
    worker = Rates({2: 100, 3: 115, 4: 132}, 0.02).run(20)
    worker.window.limit(most)
    for _ in range(6000):
        assert worker.run(0.01).window.size <= most
    assert Window().size == 2


def test_a_backlog_that_goes_on_is_told_once() -> None:
    """A limit in between does not make it forget that parts wait."""
    worker = Rates({1: 80, 2: 100, 3: 115, 4: 132}, 0.05)
    worker.window.busy(True, 0.0)
    for limit in (4, 1, 4):
        worker.window.limit(limit)
        for _ in range(2000):
            worker.now += 1 / worker.rates[worker.window.size]
            worker.window.answered(1.0, worker.now)
    assert worker.window.size == 4


def test_a_limit_that_is_told_again_changes_nothing() -> None:
    """Orders come every tick."""
    worker = Rates({2: 100, 3: 115, 4: 132}, 0.05)
    for _ in range(200):
        worker.window.limit(4)
        worker.run(0.1)
    assert worker.window.size == 4
