"""What a part takes, learned: against models whose true times are written here, with noise, stalls and slow hosts."""

import random
from collections.abc import Callable, Iterable
from statistics import median

import pytest

from supervisor.core.cost import CostModel

Truth = Callable[[int, int], float]
"""Seconds of a part of so many rows, the longest of so many characters."""


def minilm(rows: int, longest: int) -> float:
    """As measured on two cores: an overhead, a price a character, rows cut at 1,400 characters."""
    return 0.016 + 27e-6 * rows * min(longest, 1400)


def debug_engine(_rows: int, _longest: int) -> float:
    """8 ms whatever is in it."""
    return 0.008


def attentive(rows: int, longest: int) -> float:
    """A model of 8,000 tokens: twice as long is more than twice as dear."""
    return 0.03 + rows * (2e-5 * longest + 1e-8 * longest**2)


def some_parts(seed: int, count: int) -> Iterable[tuple[int, int]]:
    """Rows and longest row of so many parts, of every kind."""
    chance = random.Random(seed)
    for _ in range(count):
        yield chance.randint(1, 32), int(10 ** chance.uniform(1, 3.7))


def taught(truth: Truth, parts: Iterable[tuple[int, int]], noise: float = 0.0, seed: int = 1) -> CostModel:
    """A model of costs that saw these parts; `noise` is the deviation of their times in logarithms."""
    chance = random.Random(seed)
    model = CostModel()
    for rows, longest in parts:
        model.note(rows, longest, truth(rows, longest) * chance.lognormvariate(0, noise))
    return model


def told(model: CostModel, rows: int, longest: int) -> float:
    """Its prediction, which it has."""
    seconds = model.seconds(rows, longest)
    assert seconds is not None
    return seconds


@pytest.mark.parametrize("truth", [minilm, debug_engine, attentive])
@pytest.mark.parametrize("seed", range(4))
def test_predictions_after_fifty_parts(truth: Truth, seed: int) -> None:
    """Each next part: the middle within 10 %, nine of ten within a factor of 1.5, with 20 % noise on what it learns."""
    chance = random.Random(seed)
    model = taught(truth, some_parts(seed, 50), 0.2, seed)
    ratios = []
    for part in some_parts(seed + 100, 300):
        ratios.append(told(model, *part) / truth(*part))
        model.note(*part, truth(*part) * chance.lognormvariate(0, 0.2))
    assert 0.9 < median(ratios) < 1.1
    assert sum(1 / 1.5 < ratio < 1.5 for ratio in ratios) >= 0.9 * len(ratios)


def test_nothing_is_known_before_the_first_part() -> None:
    """No prediction of seconds; what is asked of every part nevertheless is a guess of the right order."""
    model = CostModel()
    assert model.seconds(1, 100) is None
    assert 0.005 < model.core_seconds(1, 100) < 0.1
    assert 0.1 < model.core_seconds(32, 100_000) <= 1
    assert model.units(8, 100) > model.units(1, 100) > 0


def test_one_single_row_does_not_speak_for_many() -> None:
    """Half of what it took is held to be overhead: 32 rows take neither as long as one nor 32 times as long."""
    model = taught(debug_engine, [(1, 40)])
    assert told(model, 1, 40) == pytest.approx(0.008, rel=0.1)
    assert 5 * 0.008 < told(model, 32, 40) < 20 * 0.008


@pytest.mark.parametrize("seed", range(4))
def test_noise_of_parts_that_are_alike_is_no_price(seed: int) -> None:
    """After a thousand single queries 32 rows are still held to take between 2 and 32 times as long."""
    model = taught(minilm, [(1, 40)] * 1000, 0.3, seed)
    single = told(model, 1, 40)
    assert single == pytest.approx(minilm(1, 40), rel=0.35)
    assert 2 * single < told(model, 32, 40) < 32 * single


@pytest.mark.parametrize("seed", range(8))
def test_the_overhead_is_never_all(seed: int) -> None:
    """Single queries of 30 to 60 characters, mostly noise, must not end in rows that cost nothing."""
    chance = random.Random(seed)
    model = taught(minilm, ((1, chance.randint(30, 60)) for _ in range(200)), 0.2, seed)
    assert told(model, 32, 40) > 1.8 * told(model, 1, 40)


def test_more_rows_are_never_cheaper() -> None:
    """Even where it so happened."""
    model = CostModel()
    for _ in range(20):
        model.note(1, 40, 0.010)
        model.note(32, 40, 0.005)
    assert told(model, 32, 40) >= told(model, 1, 40)


def test_two_sizes_tell_the_overhead_from_the_price() -> None:
    """Without noise both are exact, also for sizes never seen."""
    model = taught(minilm, [(1, 200), (32, 200)] * 10)
    assert told(model, 16, 200) == pytest.approx(minilm(16, 200), rel=0.05)
    model = taught(debug_engine, [(1, 200), (32, 200)] * 10)
    assert told(model, 16, 200) == pytest.approx(0.008, rel=0.05)


def test_the_overhead_is_one_for_all_lengths() -> None:
    """Learned at one length, it is known at another that was seen in one size only."""
    model = taught(minilm, [(1, 200), (32, 200)] * 10 + [(8, 1000)] * 10)
    assert told(model, 1, 1000) == pytest.approx(minilm(1, 1000), rel=0.1)


def test_cut_rows_have_a_price_of_their_own() -> None:
    """Rows of 5,000 characters cost what those of 1,400 do, and neither spoils the other's price."""
    model = taught(minilm, [(2, 1000), (8, 1000), (2, 5000), (8, 5000)] * 10)
    assert told(model, 4, 1000) == pytest.approx(minilm(4, 1000), rel=0.05)
    assert told(model, 4, 5000) == pytest.approx(minilm(4, 5000), rel=0.05)


def test_unknown_lengths_borrow_the_price_of_the_nearest() -> None:
    """Longer ones scale by characters; between two as near, the dearer counts, up to what the longer rows take."""
    model = taught(minilm, [(2, 500), (16, 500)] * 10)
    assert told(model, 4, 2000) == pytest.approx(0.016 + 27e-6 * 8000, rel=0.05)
    assert told(model, 4, 100) == pytest.approx(0.016 + 27e-6 * 400, rel=0.05)
    between = taught(minilm, [(2, 1000), (16, 1000), (2, 4000), (16, 4000)] * 10)
    assert told(between, 4, 2000) == pytest.approx(told(between, 4, 4096), rel=0.05)
    rising = taught(attentive, [(2, 1000), (16, 1000), (2, 4000), (16, 4000)] * 10)
    assert attentive(4, 2000) < told(rising, 4, 2000) == pytest.approx(0.03 + 4 * 2000 * 6e-5, rel=0.1)


# -- hosts that do not keep still -----------------------------------------------------------------------------------


def test_a_row_is_never_dearer_than_a_longer_one() -> None:
    """Of a class that was only seen in single rows, 32 take no longer than 32 longer ones do (seen: 10 times)."""
    model = taught(lambda rows, longest: 0.010 if rows == 1 else 0.005, [(1, 50), (32, 80)] * 20)
    assert told(model, 32, 50) <= 1.3 * told(model, 32, 128)
    assert told(model, 32, 128) < 0.02


def test_one_stall_is_damped() -> None:
    """A part that took ten times its time moves the next prediction by less than a third."""
    model = taught(minilm, some_parts(1, 200))
    before = told(model, 8, 400)
    model.note(8, 400, 10 * before)
    assert told(model, 8, 400) < 1.33 * before
    for _ in range(6):
        model.note(8, 400, before)
    assert told(model, 8, 400) < 1.15 * before


@pytest.mark.parametrize("factor", [3.0, 1 / 3])
def test_a_lasting_change_is_followed_within_ten_parts(factor: float) -> None:
    """For the parts that are sent and, by the same pace, for all others."""
    model = taught(minilm, some_parts(1, 200), 0.1)
    for _ in range(10):
        model.note(8, 400, factor * minilm(8, 400))
    assert told(model, 8, 400) == pytest.approx(factor * minilm(8, 400), rel=0.15)
    for part in [(1, 30), (30, 900)]:
        assert told(model, *part) == pytest.approx(factor * minilm(*part), rel=0.35)


def test_units_do_not_follow_the_pace() -> None:
    """What parts are worth beside each other stands still while the host slows down; else throughput is always 1."""
    model = taught(minilm, some_parts(1, 200))
    before = model.units(8, 400)
    for _ in range(50):
        model.note(8, 400, 1.2 * minilm(8, 400))
    assert model.units(8, 400) == pytest.approx(before, rel=0.03)
    assert told(model, 8, 400) == pytest.approx(1.2 * before, rel=0.05)


def test_what_lasts_becomes_the_measure() -> None:
    """A host that is slow for good, or another model behind the name: by half within 8,000 parts."""
    model = taught(minilm, some_parts(1, 200))
    for _ in range(8000):
        model.note(8, 400, 3 * minilm(8, 400))
    assert 1.5 * minilm(8, 400) < model.units(8, 400) < 2.5 * minilm(8, 400)


def test_single_rows_alone_do_not_let_them_wander_off() -> None:
    """Nothing but noisy single queries for hours: what they take is known, what they are worth is of that order."""
    model = taught(minilm, [(1, 40)] * 50_000, 0.4)
    assert 0.5 < told(model, 1, 40) / minilm(1, 40) < 2
    assert model.units(1, 40) / minilm(1, 40) < 4


@pytest.mark.parametrize("noise", [0.1, 0.4])
def test_pace_and_prices_do_not_wander_off(noise: float) -> None:
    """Known by their product only, they would, given time: 20,000 noisy parts leave both where they were."""
    model = taught(minilm, some_parts(1, 20_000), noise)
    for part in [(1, 30), (8, 400), (4, 3000)]:
        assert 0.6 < model.units(*part) / minilm(*part) < 1.6
        assert 0.5 < told(model, *part) / minilm(*part) < 2


def test_the_first_part_may_have_met_a_stall() -> None:
    """The first answers of a fresh worker are slow; a few ordinary ones outweigh them."""
    model = taught(minilm, [])
    model.note(4, 100, 10 * minilm(4, 100))
    for _ in range(3):
        model.note(4, 100, minilm(4, 100))
    assert told(model, 4, 100) < 1.5 * minilm(4, 100)


def test_answers_in_no_time_are_outweighed() -> None:
    """Two answers that came with others' before anything was known."""
    model = CostModel()
    for _ in range(2):
        model.note(4, 100, 0.0)
    for _ in range(12):
        model.note(4, 100, minilm(4, 100))
    assert told(model, 4, 100) == pytest.approx(minilm(4, 100), rel=0.3)


def test_parts_answered_together_cancel_out() -> None:
    """Infinity may run two parts as one batch: one seems to take both their time, the other none."""
    model = taught(minilm, some_parts(1, 200))
    for _ in range(50):
        model.note(8, 400, 2 * minilm(8, 400))
        model.note(8, 400, 0.0)
    assert told(model, 8, 400) == pytest.approx(minilm(8, 400), rel=0.35)
    assert told(model, 30, 100) == pytest.approx(minilm(30, 100), rel=0.35)


# -- core-seconds ---------------------------------------------------------------------------------------------------


def test_core_seconds_follow_the_cores_it_kept_busy() -> None:
    """Half of two cores or all of them, learned from ticks of 10 ms."""
    for cores in (1.0, 1.9):
        chance = random.Random(5)
        model = CostModel()
        for rows, longest in some_parts(3, 300):
            used = cores * minilm(rows, longest)
            ticks = int(used / 0.01) + (chance.random() < used / 0.01 % 1)
            model.note(rows, longest, minilm(rows, longest), ticks * 0.01)
        model.note(1, 10, minilm(1, 10), 0.0)
        assert model.core_seconds(8, 400) == pytest.approx(cores * minilm(8, 400), rel=0.15)


def test_core_seconds_are_those_of_one_core_until_they_are_measured() -> None:
    """Workers whose CPU is not known still have a figure to be planned with."""
    model = taught(minilm, some_parts(1, 100))
    assert model.core_seconds(8, 400) == pytest.approx(minilm(8, 400), rel=0.1)


# -- rows -----------------------------------------------------------------------------------------------------------


def test_rows_take_about_the_time_that_is_given() -> None:
    """With the overhead, and with less of it from shrink on."""
    model = taught(minilm, some_parts(1, 300))
    for seconds in (0.1, 0.2):
        for longest in (300, 700, 1400, 5000):
            rows = model.rows_within(seconds, longest, 64)
            assert minilm(rows, longest) <= 1.1 * seconds
            assert minilm(rows + 2, longest) > 0.9 * seconds


def test_rows_are_never_none_and_never_more_than_asked() -> None:
    """Whatever is known or not."""
    for model in (CostModel(), taught(minilm, some_parts(1, 100)), taught(debug_engine, some_parts(1, 100))):
        for longest in (0, 1, 50, 2000, 2001, 122_880):
            for most in (1, 3, 32):
                for seconds in (0.0, 0.001, 0.2, 1000.0):
                    assert 1 <= model.rows_within(seconds, longest, most) <= most


def test_the_first_part_is_careful_but_not_timid() -> None:
    """8 short rows, 1 or 2 long ones."""
    model = CostModel()
    assert model.rows_within(0.2, 40, 32) == 8
    assert model.rows_within(0.2, 2000, 32) == 8
    assert model.rows_within(0.2, 5000, 32) == 2
    assert model.rows_within(0.2, 20_000, 32) == 1
    assert model.rows_within(0.2, 40, 4) == 4


def test_parts_double_until_their_size_is_known() -> None:
    """However cheap the first ones seemed."""
    model = CostModel()
    sizes = []
    for _ in range(6):
        rows = model.rows_within(0.2, 40, 128)
        sizes.append(rows)
        model.note(rows, 40, 0.002)
    assert sizes == [8, 16, 32, 64, 128, 128]
    model.note(1, 40, 0.002)
    assert model.rows_within(0.2, 40, 128) == 128, "a small part between does not start it over"
    assert model.rows_within(0.2, 20_000, 128) == 1, "2 x 128 x 40 characters are half such a row"


def test_a_slower_host_gets_smaller_parts() -> None:
    """The rows follow the pace, not only the seconds that are told."""
    model = taught(minilm, some_parts(1, 300))
    before = model.rows_within(0.2, 700, 64)
    for _ in range(10):
        model.note(8, 700, 3 * minilm(8, 700))
    assert model.rows_within(0.2, 700, 64) <= before / 2


def test_a_row_over_a_second_goes_alone() -> None:
    """By arithmetic: two of them take longer than 0.2 s."""
    model = taught(lambda rows, _longest: 0.02 + 1.2 * rows, [(1, 3000), (2, 3000)] * 5)
    assert model.rows_within(0.2, 3000, 32) == 1
    assert model.rows_within(3.0, 3000, 32) == 2


def test_a_slow_host_does_not_end_in_parts_of_one_row() -> None:
    """Where the overhead alone takes the time that is given, the rows still have half of it."""
    model = taught(minilm, some_parts(1, 300))
    for _ in range(60):
        model.note(8, 100, 25 * minilm(8, 100))
    assert told(model, 1, 1) > 0.2, "the overhead takes it all"
    assert model.rows_within(0.2, 60, 32) >= 3
