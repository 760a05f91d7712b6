"""The arithmetic of the benchmarks: figures that decide something must be right themselves."""

import math
import re
from collections.abc import Sequence

import pytest

from tests.bench import arithmetic, wrk
from tests.bench.arithmetic import CpuSample, Span, Spread
from tests.bench.client import LOST, Reply, head_of
from tests.bench.figures import Figure, Of, Rounds, Target
from tests.bench.host import TICKS_PER_SECOND
from tests.bench.report import document, misses, number, shown, table
from tests.bench.runner import Choice, costs
from tests.bench.scenario import Scenario
from tests.bench.scenarios import BY_NAME, SCENARIOS, overload

CORES = 2
TICKS = 10 * CORES
"""A tenth of a second on two cores, in hundredths."""


def samples(busy: Sequence[float], begin: float = 100.0) -> list[CpuSample]:
    """Looks at 10 Hz; each share is the busy part of the tenth of a second that begins at its look."""
    result = [CpuSample(begin, 1000, 5000)]
    for i, share in enumerate(busy, 1):
        last = result[-1]
        result.append(CpuSample(begin + i / 10, last.busy + round(share * TICKS), last.total + TICKS))
    return result


class TestSpread:
    """Medians with their bounds."""

    def test_of_an_odd_and_an_even_count(self) -> None:
        """The middle one, or the mean of the two in the middle."""
        assert arithmetic.spread([5, 1, 3]) == Spread(3, 1, 5)
        assert arithmetic.spread([4, 1, 2, 9]) == Spread(3, 1, 9)

    def test_of_nothing(self) -> None:
        """No value is no spread, and no zero."""
        assert arithmetic.spread([]) is None


class TestQuantile:
    """Latencies that a share of all does not exceed."""

    @pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.001, 1)])
    def test_is_one_of_the_values(self, share: float, expected: float) -> None:
        """The nearest rank, whatever the order: nothing is made up between two values."""
        assert arithmetic.quantile([float(v) for v in range(100, 0, -1)], share) == expected

    def test_of_one_and_of_none(self) -> None:
        """One value is every quantile; none has none."""
        assert arithmetic.quantile([7.0], 0.99) == 7.0
        assert math.isnan(arithmetic.quantile([], 0.99))


class TestRatio:
    """To bare Infinity's value."""

    def test_of_zeros(self) -> None:
        """Nothing to nothing is as much; something to nothing is infinitely more."""
        assert arithmetic.ratio(6, 3) == 2
        assert arithmetic.ratio(0, 0) == 1
        assert arithmetic.ratio(1, 0) == math.inf


class TestWork:
    """Throughput where answers are few and large."""

    def test_straddling_requests_count_by_their_share(self) -> None:
        """A request of which half lies inside counts half, at either border; one that covers all counts its middle."""
        assert arithmetic.work_within([Span(9, 11, 32)], 10, 20) == 16
        assert arithmetic.work_within([Span(19, 21, 32)], 10, 20) == 16
        assert arithmetic.work_within([Span(5, 25, 40)], 10, 20) == 20

    def test_inside_and_outside(self) -> None:
        """All of what is inside, nothing of what is outside or took no time."""
        spans = [Span(10, 12, 32), Span(12, 20, 32), Span(1, 10, 32), Span(20, 30, 32), Span(15, 15, 32)]
        assert arithmetic.work_within(spans, 10, 20) == 64


class TestWindows:
    """Sliding windows of CPU."""

    def test_steady_load(self) -> None:
        """Every window of a steady load is that load; a window begins at each look that has a second behind it."""
        steady = arithmetic.windows(samples([0.8] * 30), 1.0, 0, math.inf)
        assert steady == [80.0] * 21

    def test_a_burst_is_over_in_the_windows_that_hold_most_of_it(self) -> None:
        """A second of 100 % between seconds of 80 %: over 90 % where more than half of it is inside."""
        shares = arithmetic.windows(samples([0.8] * 10 + [1.0] * 10 + [0.8] * 10), 1.0, 0, math.inf)
        assert max(shares) == 100
        assert arithmetic.percent_above(shares, 90) == pytest.approx(100 * 9 / 21)

    def test_only_what_lies_between_the_times(self) -> None:
        """Looks before the begin and after the end belong to no window."""
        taken = samples([1.0] * 10 + [0.5] * 20 + [1.0] * 10)
        assert arithmetic.windows(taken, 1.0, 101.0, 103.0) == [50.0] * 11
        assert arithmetic.busy_percent(taken, 101.0, 103.0) == 50
        assert arithmetic.busy_percent(taken, 0, math.inf) == 75

    def test_late_looks_widen_their_window_only(self) -> None:
        """A look that came late by half a second makes longer windows, not wrong shares."""
        taken = samples([0.6] * 30)
        del taken[14:19]
        assert set(arithmetic.windows(taken, 1.0, 0, math.inf)) == {60.0}

    def test_too_few_looks(self) -> None:
        """Less than a window is no window, and a share of nothing is not a number."""
        assert arithmetic.windows(samples([1.0] * 5), 1.0, 0, math.inf) == []
        assert math.isnan(arithmetic.percent_above([], 90))
        assert math.isnan(arithmetic.busy_percent(samples([]), 0, math.inf))


class TestQuiet:
    """When a host became idle."""

    def test_is_the_end_of_the_work(self) -> None:
        """Four tenths of a second of full work, then rest."""
        assert arithmetic.quiet_since(samples([1.0] * 4 + [0.0] * 10), 10, 0.5) == pytest.approx(100.4)

    def test_a_busy_start_is_not_hidden_in_the_mean(self) -> None:
        """The last 40 ms of work are 8 % of the half second that begins with them, and work all the same."""
        assert arithmetic.quiet_since(samples([1.0] * 4 + [0.4] + [0.0] * 10), 10, 0.5) == pytest.approx(100.5)

    def test_a_gap_in_the_work_is_no_end(self) -> None:
        """Rest that is shorter than asked for does not count."""
        busy = [1.0] * 2 + [0.0] * 3 + [1.0] * 5 + [0.0] * 10
        assert arithmetic.quiet_since(samples(busy), 10, 0.5) == pytest.approx(101.0)

    def test_never(self) -> None:
        """Work to the end, or too short a rest at the end, is no idle host."""
        assert arithmetic.quiet_since(samples([1.0] * 20), 10, 0.5) is None
        assert arithmetic.quiet_since(samples([1.0] * 20 + [0.0] * 3), 10, 0.5) is None


class TestWrk:
    """What our script makes wrk say."""

    SAID = """\
Running 2s test @ http://127.0.0.1:41234
  1 threads and 128 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    97.57ms   35.97ms 420.35ms   88.87%
bench requests 2634
bench seconds 2.004221
bench failed 34
bench p50_us 88113
bench p99_us 283501
"""

    def test_values(self) -> None:
        """Rates are of requests that succeeded; latencies in ms."""
        said = wrk.values(self.SAID.splitlines(), inputs=32)
        assert said["requests_s"] == pytest.approx(2600 / 2.004221)
        assert said["inputs_s"] == pytest.approx(32 * 2600 / 2.004221)
        assert (said["p50_ms"], said["p99_ms"], said["failed"]) == (88.113, 283.501, 34)

    def test_no_answer_at_all(self) -> None:
        """Nothing done is a rate of 0, but no latency of 0."""
        lines = [re.sub(r"^(bench (?!seconds)\S+) .*", r"\1 0", line) for line in self.SAID.splitlines()]
        said = wrk.values(lines, inputs=1)
        assert said["requests_s"] == 0
        assert math.isnan(said["p50_ms"])
        assert math.isnan(said["p99_ms"])

    @pytest.mark.parametrize("lost", wrk.KEYS)
    def test_a_missing_line_is_an_error(self, lost: str) -> None:
        """No value is made up for what wrk did not say."""
        lines = [line for line in self.SAID.splitlines() if not line.startswith(f"bench {lost} ")]
        with pytest.raises(RuntimeError, match=f"wrk did not say {lost}"):
            wrk.values(lines, inputs=1)


class TestAnswers:
    """What the raw client reads of an answer."""

    def test_head(self) -> None:
        """Status and length, in any case of the header's name."""
        assert head_of(b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 12") == (200, 12)
        assert head_of(b"HTTP/1.1 429 Too Many\r\ncontent-length: 7\r\nx: y") == (429, 7)

    def test_an_answer_without_length(self) -> None:
        """Its end would not be found, so it is refused rather than waited for."""
        with pytest.raises(ValueError, match="without Content-Length"):
            head_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked")


def rounds(**values: Sequence[float]) -> Rounds:
    """One value a round for each contestant."""
    result = Rounds()
    for name, row in values.items():
        for turn, value in enumerate(row, 1):
            result.add(turn, name, {"x": value})
    return result


class TestRounds:
    """Comparison within a round."""

    def test_ratio_is_the_median_of_the_rounds_ratios(self) -> None:
        """Not the ratio of medians: what slowed a whole round down slowed both."""
        both = rounds(bare=[100, 50, 10], supervisor=[500, 300, 40])
        assert both.spread("supervisor", "x", Of.RATIO) == Spread(5, 4, 6)
        assert both.spread("supervisor", "x", Of.DIFFERENCE) == Spread(250, 30, 400)
        assert both.spread("supervisor", "x") == Spread(300, 40, 500)

    def test_rounds_without_a_base_or_a_number_are_left_out(self) -> None:
        """A round that broke off for one compares nothing, and what is not a number is no value."""
        both = rounds(bare=[100, math.nan], supervisor=[500, 300, 40])
        assert both.spread("supervisor", "x", Of.RATIO) == Spread(5, 5, 5)
        assert rounds(supervisor=[1.0]).spread("supervisor", "x", Of.RATIO) is None

    @pytest.mark.parametrize(
        ("target", "reached"),
        [
            (Target(at_least=3), True),
            (Target(at_least=3.1), False),
            (Target(at_most=3), True),
            (Target(at_most=2.9), False),
            (Target(at_least=2, at_most=4), True),
            (Target(at_most=4, worst=True), False),
            (Target(at_least=1, at_most=5, worst=True), True),
            (Target(Of.RATIO, at_least=1.5), True),
            (Target(Of.RATIO, at_least=1.6), False),
            (Target(Of.DIFFERENCE, at_most=1), True),
            (Target(Of.DIFFERENCE, at_most=0.9), False),
        ],
    )
    def test_verdict(self, target: Target, reached: bool) -> None:
        """The median is judged, or where it says so the worst round; bounds themselves are reached."""
        both = rounds(bare=[2, 2, 2], supervisor=[1, 3, 5])
        assert both.verdict(Figure("x", "x", target)) is reached

    def test_no_verdict_without_judge_or_judged(self) -> None:
        """A ratio needs a bare Infinity, and all of it needs the supervisor."""
        figure = Figure("x", "x", Target(Of.RATIO, at_least=1))
        assert rounds(bare=[1]).verdict(figure) is None
        assert rounds(supervisor=[1]).verdict(figure) is None
        assert rounds(bare=[1], supervisor=[1]).verdict(Figure("x", "x")) is None

    def test_what_was_not_measured_is_not_reached(self) -> None:
        """Nothing, or not a number, is no success."""
        assert rounds(bare=[1], supervisor=[math.nan]).verdict(Figure("x", "x", Target(at_most=5))) is False


class TestOverload:
    """Goodput and refusals of an open loop."""

    def test_counts(self) -> None:
        """Late answers, those of the ramp and after the flood are no goodput; a 504 is no refusal; lost is failed."""
        flood = [
            Reply(0.0, 1.0, 200),  # in the ramp
            Reply(2.0, 3.0, 200),
            Reply(2.5, 4.0, 200),
            Reply(3.0, 5.5, 200),  # later than it may be
            Reply(11.5, 12.5, 200),  # after the end
            Reply(2.0, 2.004, 429),
            Reply(2.0, 2.008, 503),
            Reply(3.0, 5.0, 504),
            Reply(3.0, 3.0, LOST),
        ]
        said = overload.judged(flood, seconds=10.0, peak=0.4)
        assert said["goodput"] == pytest.approx(0.5)
        assert said["accepted_p99_ms"] == pytest.approx(2500)
        assert said["refusal_p99_ms"] == pytest.approx(8)
        assert (said["refused"], said["expired"], said["failed"]) == (2 / 9, 1 / 9, 1)


class TestReport:
    """What people read."""

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0, "0"), (1234567.8, "1,234,568"), (12.345, "12.3"), (0.012345, "0.0123"), (200.0, "200"), (-1.5, "-1.5")],
    )
    def test_numbers(self, value: float, text: str) -> None:
        """Three digits that count, whole thousands, no exponent."""
        assert number(value, 3) == text

    def test_spreads(self) -> None:
        """Bounds are shown where they differ."""
        assert shown(Spread(2, 1, 3), 3, "×") == "×2 (×1–×3)"
        assert shown(Spread(0, 0, 0), 3) == "0"
        assert shown(None, 3) == ""

    def test_table_and_misses(self) -> None:
        """A column a contestant, a row for the ratio, the target beside what it is of; a miss with what was got."""
        scenario = Scenario("s", "words", (Figure("x", "speed", Target(Of.RATIO, at_least=3)),))
        both = rounds(bare=[100, 50], supervisor=[200, 100])
        lines = table(scenario, ["bare", "supervisor"], both).splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
        assert cells[2] == ["speed", "75 (50–100)", "150 (100–200)", ""]
        assert cells[3] == ["— ratio to bare", "", "×2", "ratio ≥ 3: not reached"]
        assert misses([(scenario, both)]) == ["s: speed: ratio ≥ 3, got 2"]

    def test_document_has_every_value(self) -> None:
        """JSON keeps single values, not only medians, and null for what is not a number."""
        scenario = Scenario("s", "words", (Figure("x", "speed", Target(at_least=3)),))
        told = document(scenario, rounds(supervisor=[1, math.nan]), {})
        assert [s["values"]["x"] for s in told["slices"]] == [1, None]
        assert told["figures"][0]["reached"] is False
        assert told["figures"][0]["value"]["supervisor"] == {"median": 1, "least": 1, "most": 1}


class TestCosts:
    """Who used the host during a slice."""

    def test_what_is_not_ours_is_others(self) -> None:
        """Ten seconds with 15 core-seconds busy, of which ours are 12, of which the load took 1."""
        told = costs(CpuSample(0, 0, 0), CpuSample(10, 15 * TICKS_PER_SECOND, 20 * TICKS_PER_SECOND), used=1, ours=12)
        assert told == pytest.approx({"client_cores": 0.1, "others_cores": 0.3, "took_s": 10})

    def test_others_use_no_less_than_nothing(self) -> None:
        """Counters of processes and of the host tick apart."""
        told = costs(CpuSample(0, 0, 0), CpuSample(10, TICKS_PER_SECOND, 20 * TICKS_PER_SECOND), used=1, ours=1.01)
        assert told["others_cores"] == 0


class TestChoice:
    """How often and how long."""

    def test_slices_share_the_time_and_multiply_the_rounds(self) -> None:
        """Ten seconds in five slices are five rounds of two seconds a run."""
        choice = Choice(5, False, None, ("bare", "supervisor"), ())
        assert choice.rounds(BY_NAME["single-1"]) == 25
        assert choice.slice_seconds(BY_NAME["single-1"]) == 2
        assert choice.rounds(BY_NAME["growing"]) == 10
        assert Choice(1, True, 5, (), ()).rounds(BY_NAME["growing"]) == 1
        assert choice.contestants(BY_NAME["overload"]) == ["supervisor"]

    def test_scenarios_have_names_of_their_own(self) -> None:
        """A name chooses one, and neighbours with one set-up share a start."""
        assert len(BY_NAME) == len(SCENARIOS)
