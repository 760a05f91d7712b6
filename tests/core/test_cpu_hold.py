"""The CPU hold's bucket: what it gains, what it charges, what it never does, told as a timeline of looks and parts."""

import random

import pytest

from supervisor.core.cpu_hold import (
    IDLE_AT_MOST,
    MOST_OWED,
    MOST_SAVED,
    CpuHold,
)


class Story:
    """A bucket on a host, whose workers and others use what they are told; ticks of 50 ms, a look every second one."""

    def __init__(self, cores: float = 2.0, target: float | None = 83.0, others: float = 0.0) -> None:
        self.hold = CpuHold()
        self.cores, self.others = cores, others
        self.now, self.own = 100.0, 7.0
        self.hold.set_target(target, cores)
        self.hold.observe(others, self.own, self.now)

    def passes(self, seconds: float, using: float = 0.0) -> None:
        """Time goes by in which the workers use so many cores."""
        for step in range(round(seconds / 0.05)):
            self.now += 0.05
            self.own += using * 0.05
            self.hold.tick(self.own, self.now)
            if step % 2:
                self.hold.observe(self.others + using, self.own, self.now)


def test_nothing_is_held_without_a_target() -> None:
    """Off means off: whatever is used and sent, parts may leave, and nothing is said of external load."""
    story = Story(target=None, others=2.0)
    story.hold.sent(50.0, story.now)
    story.passes(5.0, using=2.0)
    assert story.hold.allows(story.now)
    assert not story.hold.external_load


def test_gain_is_what_others_leave_below_the_target() -> None:
    """83 % of 2 cores less 0.5 of others is 1.16: workers that use just that keep the level."""
    story = Story(others=0.5)
    story.passes(5.0, using=1.16)
    story.hold.sent(0.0, story.now)  # nothing to wait for: the level alone decides
    level = story.hold.level
    story.passes(10.0, using=1.16)
    assert story.hold.level == pytest.approx(level, abs=0.01)
    story.passes(1.0, using=1.26)
    assert story.hold.level == pytest.approx(level - 0.1, abs=0.01)


def test_others_are_told_from_our_own() -> None:
    """A step of others is known to two thirds after 0.2 s, to 99 % after one; our own use is not theirs."""
    story = Story()
    story.passes(5.0, using=1.0)
    assert story.hold.others == pytest.approx(0.0, abs=1e-9)
    story.others = 1.0
    story.passes(0.2, using=1.0)
    assert story.hold.others == pytest.approx(0.63, abs=0.01)
    story.passes(0.8, using=0.3)
    assert story.hold.others == pytest.approx(0.99, abs=0.005)


@pytest.mark.parametrize("kind", ["lagging", "coarse"])
def test_poor_counters_neither_speed_up_nor_slow_down(kind: str) -> None:
    """A busy share that is a mean over half a second, or noisy by a tenth of the cores, leaves the mean gain as it is.

    Our workers run 0.2 s of each 0.24 s; the gain over a minute is what it would be with an exact look.
    """
    rnd = random.Random(4)
    story = Story(cores=8.0, others=0.8)
    shares = [0.8] * 5
    gained = used = 0.0
    for turn in range(1200):
        using = 6.6 * (0.4 if turn % 6 == 5 else 1.0)
        story.now += 0.05
        story.own += 0.05 * using
        used += 0.05 * using
        if turn % 2:
            shares.append(0.8 + using)
            busy = sum(shares[-5:]) / 5 if kind == "lagging" else shares[-1] + rnd.gauss(0, 0.8)
            story.hold.observe(busy, story.own, story.now)
        before = story.hold.level
        story.hold.tick(story.own, story.now)
        gained += story.hold.level - before
    assert story.hold.others == pytest.approx(0.8, abs=1.5)
    assert story.hold.level > -8.0  # so nothing was cut off
    mean_others = 0.83 * 8 - (story.hold.level + used) / 60
    assert mean_others == pytest.approx(0.8, abs=0.15)


def test_two_figures_that_do_not_belong_together_lend_little() -> None:
    """Workers that use cores which the busy share does not show give 5 % of the cores beyond the target, not all."""
    story = Story(cores=8.0)
    for _ in range(50):
        story.now += 0.1
        story.own += 0.1 * 7.1
        story.hold.observe(0.0, story.own, story.now)
    story.hold.sent(20.0, story.now)
    before = story.hold.level
    story.now += 0.05
    story.hold.tick(story.own, story.now)
    assert story.hold.level - before == pytest.approx(0.05 * (0.83 + 0.05) * 8, rel=0.01)


def test_idling_saves_no_burst() -> None:
    """After an hour of nothing, ticked or not, the level is 0.06 s of each core."""
    for ticks in (True, False):
        story = Story(cores=8.0)
        if ticks:
            story.passes(60.0)
        story.now += 3600
        story.hold.tick(story.own, story.now)
        assert story.hold.level == pytest.approx(MOST_SAVED * 8)


def test_debt_is_bounded() -> None:
    """Use that no hold could prevent is owed to one second of every core, so that work goes on after it."""
    story = Story(others=1.9)
    story.passes(60.0, using=2.0)
    assert story.hold.level == pytest.approx(-MOST_OWED * 2)


def test_a_long_silence_does_not_starve() -> None:
    """Untold for a minute, in which the workers used all there was, the bucket owes no more than its bound."""
    story = Story()
    story.now += 60
    story.own += 120
    story.hold.tick(story.own, story.now)
    assert story.hold.level >= -MOST_OWED * 2


def test_a_part_is_reserved_at_once_and_worked_off_by_use() -> None:
    """What is sent is charged when it leaves; its use is not charged a second time."""
    story = Story(cores=2.0)
    story.passes(1.0)
    before = story.hold.level
    story.hold.sent(0.4, story.now)
    assert story.hold.level == pytest.approx(before - 0.4)
    assert not story.hold.allows(story.now)
    story.passes(0.2, using=2.0)
    assert story.hold.level == pytest.approx(before - 0.4 + 0.2 * 1.66)
    story.hold.ended(0.4, story.now)
    assert story.hold.level == pytest.approx(before - 0.4 + 0.2 * 1.66)


def test_nothing_leaves_on_credit() -> None:
    """One part after the other until the level is used up, then none until it is above zero again."""
    story = Story(cores=2.0)
    story.passes(1.0)
    sent = 0
    while story.hold.allows(story.now):
        story.hold.sent(0.05, story.now)
        sent += 1
    assert sent == 3  # 0.12 saved
    story.passes(0.05, using=2.0)
    assert story.hold.allows(story.now)


def test_too_high_a_prediction_is_given_back() -> None:
    """A part that used a quarter of what was predicted frees the rest when it ends, and no more than may be saved."""
    story = Story()
    story.passes(1.0)
    story.hold.sent(0.4, story.now)
    story.passes(0.05, using=2.0)
    story.hold.ended(0.4, story.now)
    assert story.hold.level == pytest.approx(0.12 - 0.1 + 0.05 * 1.66)
    story.hold.sent(2.0, story.now)
    story.passes(1.0)
    story.hold.ended(2.0, story.now)
    assert story.hold.level == pytest.approx(0.12)


def test_too_low_a_prediction_is_charged_as_it_is_used() -> None:
    """A part that uses four times what was predicted costs what it uses."""
    story = Story()
    story.passes(1.0)
    story.hold.sent(0.1, story.now)
    story.passes(0.2, using=2.0)
    story.hold.ended(0.1, story.now)
    assert story.hold.level == pytest.approx(0.12 - 0.4 + 0.2 * 1.66)


@pytest.mark.parametrize(
    ("workers", "each", "error"),
    [
        *((1, 8.0, error) for error in (0.25, 0.8, 1.0, 1.25, 4.0)),
        *((workers, 8.0 / workers, error) for workers in (3, 8) for error in (0.25, 0.8, 1.0, 1.1)),
    ],
)
def test_mean_use_is_the_target_whatever_is_predicted(workers: int, each: float, error: float) -> None:
    """Workers that can use every core are held to 83 % of 8, though each prediction is wrong by the same factor."""
    rnd = random.Random(3)
    story = Story(cores=8.0)
    left: list[list[list[float]]] = [[] for _ in range(workers)]  # of each worker's parts: what is left, what was said
    used = 0.0
    for step in range(20 * 60):
        using = 0.0
        for parts in left:
            capacity = each * 0.05
            while parts and capacity > 0:
                now = min(capacity, parts[0][0])
                parts[0][0] -= now
                capacity -= now
                using += now
                if parts[0][0] <= 1e-9:
                    story.hold.ended(parts.pop(0)[1], story.now)
        used += using if step >= 200 else 0.0
        story.passes(0.05, using / 0.05)
        story.hold.observe(using / 0.05, story.own, story.now)
        for parts in sorted(left, key=len):
            if len(parts) < 4 and story.hold.allows(story.now):
                work = 0.2 * each * rnd.uniform(0.7, 1.3)
                parts.append([work, work * error])
                story.hold.sent(work * error, story.now)
    assert used / 50 == pytest.approx(0.83 * 8, rel=0.02)


def test_a_worker_that_hangs_does_not_keep_the_others_waiting() -> None:
    """A part that uses nothing keeps its reservation, yet what is gained meanwhile is free for other parts."""
    story = Story()
    story.hold.sent(1.6, story.now)
    story.passes(1.2)
    assert story.hold.allows(story.now)
    story.passes(60.0)
    assert story.hold.level == pytest.approx(0.12)
    story.hold.ended(1.6, story.now)
    assert story.hold.level == pytest.approx(0.12)


def test_beside_any_load_of_others_there_is_a_floor() -> None:
    """Others take all: 0.1 core is gained all the same."""
    story = Story(others=2.0)
    story.passes(3.0)
    story.hold.sent(0.4, story.now)
    before = story.hold.level
    story.passes(1.0)
    assert story.hold.level == pytest.approx(before + 0.1)


def test_something_progresses_while_all_is_owed() -> None:
    """Deep in debt, a part may leave when nothing was on its way for a while, and only one."""
    story = Story(others=2.0)
    story.hold.sent(0.4, story.now)
    story.passes(10.0, using=2.0)
    assert not story.hold.allows(story.now)  # it runs
    story.hold.ended(0.4, story.now)
    assert not story.hold.allows(story.now + IDLE_AT_MOST - 0.01)
    assert story.hold.allows(story.now + IDLE_AT_MOST)
    story.now += IDLE_AT_MOST
    story.hold.sent(0.4, story.now)
    assert not story.hold.allows(story.now)
    assert not story.hold.allows(story.now + 60)


def test_a_counter_that_falls_gives_no_credit() -> None:
    """Workers that went take their counter along: neither use nor gain nor others follow from it."""
    story = Story(others=0.5)
    story.passes(5.0, using=1.0)
    level, others = story.hold.level, story.hold.others
    story.own = 0.0
    story.now += 0.05
    story.hold.tick(story.own, story.now)
    story.hold.observe(1.5, story.own, story.now)
    assert level <= story.hold.level <= level + 0.05 * 1.66
    assert story.hold.others == others


def test_a_look_after_a_gap_says_nothing_of_others() -> None:
    """What is busy now and what we used over half a minute do not belong together."""
    story = Story(others=0.5)
    story.passes(5.0, using=1.0)
    story.now += 30
    story.hold.observe(1.5, story.own, story.now)
    assert story.hold.others == pytest.approx(0.5, abs=0.01)
    story.passes(1.0, using=1.0)
    assert story.hold.others == pytest.approx(0.5, abs=0.01)


def test_time_that_stands_still_or_steps_back_changes_nothing() -> None:
    """The same moment twice, or an earlier one, is no look at all."""
    story = Story()
    story.passes(1.0, using=2.0)
    level = story.hold.level
    story.hold.tick(story.own, story.now)
    story.hold.observe(2.0, story.own, story.now)
    story.hold.observe(2.0, story.own, story.now - 1)
    assert story.hold.level == level


def test_external_load_takes_seconds_to_begin_and_to_end() -> None:
    """Others over the target by themselves are external load; a short peak is not, and nothing flickers around it."""
    story = Story(others=1.9)
    story.passes(1.0)
    assert not story.hold.external_load
    story.passes(2.0)
    assert story.hold.external_load
    for others in (1.62, 1.7) * 5:
        story.others = others
        story.passes(1.0)
        assert story.hold.external_load
    story.others = 1.5
    story.passes(1.0)
    assert story.hold.external_load
    story.passes(3.0)
    assert not story.hold.external_load
    for others in (1.62, 1.7, 1.6) * 3:
        story.others = others
        story.passes(0.3)
        assert not story.hold.external_load


def test_our_own_load_is_not_external() -> None:
    """Workers that use everything are no one else."""
    story = Story(others=0.2)
    story.passes(20.0, using=1.8)
    assert not story.hold.external_load


def test_a_new_target_holds_at_once_and_none_forgets() -> None:
    """Lowered, the gain is lower; switched off and on again, nothing is left of what was on its way."""
    story = Story()
    story.hold.sent(5.0, story.now)
    story.hold.set_target(50.0, 2.0)
    before = story.hold.level
    story.passes(1.0)
    assert story.hold.level == pytest.approx(before + 1.0)
    story.hold.set_target(None, 2.0)
    assert story.hold.allows(story.now)
    story.passes(1.0)
    story.hold.set_target(83.0, 2.0)
    assert story.hold.level == 0.0
    assert story.hold.allows(story.now + IDLE_AT_MOST)
    story.hold.ended(5.0, story.now)
    assert story.hold.level == 0.0


def test_ends_without_a_beginning_do_no_harm() -> None:
    """An end that was never sent leaves the bucket as it is."""
    story = Story()
    story.passes(1.0)
    story.hold.ended(3.0, story.now)
    assert story.hold.level == pytest.approx(0.12)
    story.hold.sent(0.4, story.now)
    assert story.hold.level == pytest.approx(0.12 - 0.4)
