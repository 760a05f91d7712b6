"""What a part costs in memory: learned from parts, erring upwards, and what fits into the room there is."""

import random
from collections.abc import Callable

import pytest

from supervisor.core.part_memory import FIRST_COST, FIXED, MIB, PartMemory

Need = Callable[[int, int], float]


def squared(rows: int, longest: int) -> float:
    """A model with attention: 8 KiB a character and 1 byte a squared one, for each row, and 6 MiB for any part."""
    return 6 * MIB + rows * (8192 * longest + longest**2)


def truncating(rows: int, longest: int) -> float:
    """A model that reads 1,500 characters of a row."""
    return squared(rows, min(longest, 1500))


def unpadded(rows: int, longest: int) -> float:
    """A model that needs no mask for one row alone: what a torch worker really does."""
    return 6 * MIB + rows * (400 * longest + (0 if rows == 1 else 0.5 * longest**2))


class Worker:
    """A worker that needs so much for a part, and keeps a share of the most it ever took (as torch does)."""

    def __init__(self, need: Need, keeps: float = 0.0, seed: int = 1) -> None:
        self.need, self.keeps, self.held, self.highest = need, keeps, 0.0, 0.0
        self.rnd = random.Random(seed)

    def run(self, memory: PartMemory, rows: int, longest: int, tokens: float = 1.0) -> float:
        """Run a part and tell what it took; `tokens`: how dense the text is, 1 the densest."""
        took = self.need(rows, max(1, int(longest * tokens)))
        # What is kept may serve the next part or not.
        peak = self.held * self.rnd.random() + took
        peak = max(peak, self.held)
        memory.note(rows, longest, int(peak), int(self.held))
        self.highest = max(self.highest, took)
        self.held = self.keeps * self.highest
        return peak - self.held


def learned(need: Need, shapes: list[tuple[int, int]], keeps: float = 0.0) -> PartMemory:
    """What is known after these parts, each run three times."""
    memory, worker = PartMemory(), Worker(need, keeps)
    for rows, longest in shapes * 3:
        worker.run(memory, rows, longest)
    return memory


SHORT = [(rows, longest) for rows in (1, 2, 8, 32) for longest in (50, 100, 200, 500)]


def test_nothing_is_known_at_first() -> None:
    """No prediction before the first part, and a careful first part, smaller still where there is little room."""
    memory = PartMemory()
    assert memory.predict(1, 10) is None
    assert memory.rows_that_fit(32, 2048, 10 << 30) == 8
    assert memory.rows_that_fit(32, 100, 10 << 30) == 32
    assert memory.rows_that_fit(32, 2048, 64 * MIB) == 2
    assert memory.rows_that_fit(32, 2048, 0) == 1
    assert memory.trial(100_000, 10 << 30) == int(FIRST_COST**0.5)


@pytest.mark.parametrize("need", [squared, truncating, unpadded])
@pytest.mark.parametrize("keeps", [0.0, 0.6])
def test_prediction_is_never_too_low(need: Need, keeps: float) -> None:
    """Learned on rows up to 500 characters, nothing up to 40 times as long takes more than was predicted."""
    memory = learned(need, SHORT, keeps)
    for rows in (1, 2, 3, 8, 20, 32, 64):
        for longest in (1, 60, 300, 501, 1000, 3000, 20_000):
            predicted = memory.predict(rows, longest)
            assert predicted is not None
            assert predicted >= need(rows, longest), (rows, longest)


@pytest.mark.parametrize("need", [squared, unpadded])
@pytest.mark.parametrize("keeps", [0.0, 0.6])
def test_prediction_of_what_was_measured_is_close(need: Need, keeps: float) -> None:
    """What was measured with many rows is predicted within the margin and the fixed part, also if the worker keeps
    what it took."""
    shapes = [(32, 500), (32, 1000), (16, 2000), (8, 4000), (4, 8000)]
    memory = learned(need, [*SHORT, *shapes], keeps)
    for rows, longest in shapes:
        predicted = memory.predict(rows, longest)
        assert predicted is not None
        assert predicted <= 1.75 * need(rows, longest) + 1.5 * FIXED, (rows, longest)


def test_rows_add_up() -> None:
    """Twice the rows need twice as much, less the fixed part."""
    memory = learned(squared, [(4, 2000)] * 5)
    four, eight = memory.predict(4, 2000), memory.predict(8, 2000)
    assert four is not None
    assert eight is not None
    assert 1.5 * four < eight < 2 * four


def test_longer_rows_are_extrapolated_by_the_square() -> None:
    """Ten times as long as any measured: up to a hundred times the bytes a row, and no more."""
    memory = learned(squared, [(1, 500), (8, 500)])
    short, long = memory.predict(1, 500), memory.predict(1, 5000)
    assert short is not None
    assert long is not None
    assert 20 * (short - 2 * FIXED) < long < 100 * short * 1.5


def test_margin_shrinks_with_evidence() -> None:
    """The same measurement again and again makes the prediction surer, down to a margin that stays."""
    memory = PartMemory()
    seen = []
    for _ in range(30):
        memory.note(8, 1000, 400 * MIB)
        seen.append(memory.predict(8, 1000) or 0)
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > 1.35 * 400 * MIB
    assert 1.1 * 400 * MIB < seen[-1] < 1.25 * 400 * MIB


def test_envelope_jumps_up_and_falls_slowly() -> None:
    """One dense text raises the prediction at once; thin ones lower it only in dozens."""
    memory = PartMemory()
    for _ in range(20):
        memory.note(8, 1000, 200 * MIB)
    memory.note(8, 1000, 400 * MIB)
    assert (memory.predict(8, 1000) or 0) >= 400 * MIB
    for _ in range(5):
        memory.note(8, 1000, 200 * MIB)
    assert (memory.predict(8, 1000) or 0) >= 350 * MIB
    for _ in range(100):
        memory.note(8, 1000, 200 * MIB)
    assert (memory.predict(8, 1000) or 0) <= 280 * MIB


def test_memory_a_worker_keeps_is_not_the_next_parts_need() -> None:
    """After one huge part the level stays high: small parts are believed to need what is known of them."""
    memory = learned(squared, SHORT)
    before = memory.predict(32, 100)
    for _ in range(50):
        memory.note(32, 100, 3000 * MIB, 2995 * MIB)
    assert memory.predict(32, 100) == before


def test_growth_proves_a_need_whatever_was_held_before() -> None:
    """Growth beyond what was predicted counts although the worker held much already."""
    memory = learned(squared, SHORT)
    memory.note(8, 500, 2900 * MIB, 2000 * MIB)
    assert (memory.predict(8, 500) or 0) >= 900 * MIB


def test_one_row_alone_proves_nothing_for_two() -> None:
    """Without padding there is no mask: two rows of a length that was cheap alone are predicted with one."""
    memory, worker = PartMemory(), Worker(unpadded)
    for longest in (1000, 4000, 16_000):
        worker.run(memory, 1, longest)
    assert (memory.predict(1, 16_000) or 0) < 100 * MIB
    assert (memory.predict(2, 16_000) or 0) >= unpadded(2, 16_000)


def test_rows_of_equal_length_prove_little() -> None:
    """A few cheap parts of several long rows (no padding, no mask) do not allow as many padded ones."""
    memory = PartMemory()
    for _ in range(3):
        memory.note(2, 16_000, 10 * MIB)
    assert (memory.predict(2, 16_000) or 0) >= unpadded(2, 16_000)


def test_what_fits() -> None:
    """As many rows as are predicted to fit; all, where there is room."""
    memory = learned(squared, [(rows, 2000) for rows in (1, 2, 4, 8, 16, 32)] * 8)
    assert memory.rows_that_fit(32, 2000, 10 << 30) == 32
    for room in (300 * MIB, 500 * MIB):
        rows = memory.rows_that_fit(32, 2000, room)
        assert 0 < rows < 32
        assert (memory.predict(rows, 2000) or 0) <= room < (memory.predict(rows + 1, 2000) or 0)


def test_more_room_or_shorter_rows_never_mean_fewer_rows() -> None:
    """The answer grows with the room and falls with the length."""
    memory = learned(squared, [*SHORT, (8, 2000), (2, 8000)])
    rooms = [MIB * 2**k for k in range(4, 16)]
    lengths = [10, 100, 450, 900, 2000, 7000, 20_000]
    table = [[memory.rows_that_fit(32, longest, room) for room in rooms] for longest in lengths]
    for row in table:
        assert row == sorted(row)
    for column in zip(*table, strict=True):
        assert list(column) == sorted(column, reverse=True)


def test_unknown_lengths_are_reached_by_doubling() -> None:
    """Rows much longer than any measured begin two at a time where the prediction does not fit comfortably."""
    memory = learned(squared, SHORT)
    room = int((memory.predict(32, 4000) or 0) * 1.1)
    assert memory.rows_that_fit(32, 4000, room) < 32
    tight = int((memory.predict(3, 4000) or 0) * 1.1)
    assert memory.rows_that_fit(32, 4000, tight) == 2
    memory.note(2, 4000, int(squared(2, 4000)))
    assert memory.rows_that_fit(32, 4000, tight) >= 4


def test_a_row_that_does_not_fit_is_refused_with_figures() -> None:
    """0 once it is known; the figures tell what it needs and how long a row would fit."""
    memory, room = learned(squared, [*SHORT, (1, 8000), (1, 20_000)]), 300 * MIB
    assert memory.rows_that_fit(4, 20_000, room) == 0
    assert memory.trial(20_000, room) is None
    figures = memory.figures(20_000, room)
    assert figures.needed == pytest.approx(squared(1, 20_000), rel=0.1)
    assert figures.room == room
    assert 0.6 * room < squared(1, figures.fits) <= room
    assert memory.rows_that_fit(1, figures.fits, room) == 1


def test_a_row_that_was_not_measured_is_tried_in_part() -> None:
    """Before a row that is far too long by extrapolation, beginnings of it are measured, none too large."""
    room = 2 << 30
    for need, fits in ((squared, False), (truncating, True), (unpadded, True)):
        memory, worker = learned(need, SHORT), Worker(need)
        trials = 0
        while (length := memory.trial(100_000, room)) is not None:
            assert need(1, length) <= 1.25 * room
            worker.run(memory, 1, length)
            trials += 1
            assert trials < 20
        assert memory.rows_that_fit(1, 100_000, room) == fits, need


def test_killed_part_lowers_the_cap() -> None:
    """After a kill at most 70 % of rows x longest leave; one row still does; the cap comes back with success."""
    memory = learned(truncating, [*SHORT, *[(32, 1000)] * 8])
    assert memory.rows_that_fit(32, 1000, 100 << 30) == 32
    memory.lower_cap(32, 1000)
    assert memory.rows_that_fit(32, 1000, 100 << 30) == 22
    assert memory.rows_that_fit(32, 500, 100 << 30) == 32
    memory.lower_cap(22, 1000)
    assert memory.rows_that_fit(32, 1000, 100 << 30) == 15
    assert memory.rows_that_fit(32, 500_000, 1 << 50) == 1
    for _ in range(60):
        rows = memory.rows_that_fit(32, 1000, 100 << 30)
        memory.note(rows, 1000, int(truncating(rows, 1000)))
    assert memory.rows_that_fit(32, 1000, 100 << 30) == 32


def test_killed_row_counts_as_measured() -> None:
    """A row that took more than the room it had is not sent into the same room again."""
    memory = learned(squared, SHORT)
    memory.lower_cap(1, 50_000, room=1 << 30)
    assert memory.rows_that_fit(1, 50_000, 1 << 30) == 0
    assert memory.rows_that_fit(1, 50_000, 4 << 30) == 1


def test_well_known_shapes_are_measured_now_and_then() -> None:
    """Each part until its shape is well known, then one in eight; a larger one always."""
    memory = PartMemory()
    for _ in range(8):
        assert memory.wants(8, 500)
        memory.note(8, 500, 50 * MIB)
    assert sum(memory.wants(8, 500) for _ in range(80)) == 10
    assert memory.wants(32, 500)
    assert memory.wants(8, 1000)


@pytest.mark.parametrize("need", [squared, truncating, unpadded])
@pytest.mark.parametrize("seed", range(5))
def test_growing_inputs_never_take_more_than_there_is(need: Need, seed: int) -> None:
    """Requests whose rows grow until none fits: no part ever takes more than the room and the margin above it."""
    rnd = random.Random(seed)
    memory, worker = PartMemory(), Worker(need, keeps=0.4, seed=seed)
    limit = rnd.choice([512, 1024, 4096]) * MIB
    death = 1.15 * limit  # the room ends at the shrink threshold, 85 of 100; the worker dies at 100
    longest, refused, sent = 20, 0, 0
    while longest < 100_000:
        waiting = rnd.randint(1, 32)
        while waiting:
            room = limit - int(worker.held)
            rows = memory.rows_that_fit(waiting, longest, room)
            if rows == 0:
                refused += 1
                break
            if rows == 1 and (length := memory.trial(longest, room)) is not None:
                assert worker.run(memory, 1, length) <= death
                continue
            assert worker.run(memory, rows, longest, rnd.uniform(0.3, 1.0)) <= death, (rows, longest)
            waiting -= rows
            sent += rows
        longest = int(longest * rnd.uniform(1.02, 1.6)) + 1
    assert sent > 100
    assert (refused > 0) == (need(1, 70_000) > limit)


def test_learned_well_the_room_is_used() -> None:
    """In the long run a part is no smaller than three fifths of what would fit."""
    memory, worker = PartMemory(), Worker(squared)
    room = 512 * MIB
    for _ in range(100):
        rows = memory.rows_that_fit(64, 2000, room)
        worker.run(memory, rows, 2000)
    best = max(rows for rows in range(1, 65) if squared(rows, 2000) <= room)
    assert memory.rows_that_fit(64, 2000, room) >= 0.6 * best
