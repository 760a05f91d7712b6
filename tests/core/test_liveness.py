"""When a worker counts as dead: timelines of what it was given, what it finished, and what became of its canaries."""

from supervisor.core.liveness import BUSY_FACTOR, IDLE_FAILURES, IDLE_SECONDS, Doubt, Heard, Liveness, Work

STALL = 30.0
ZOMBIE = {"heard": Heard.NOTHING, "took": 10.0, "core_seconds": 0.0}
BUSY = {"heard": Heard.NOTHING, "took": 10.0, "core_seconds": 19.0}
SOUND = {"heard": Heard.SOUND, "took": 0.1, "core_seconds": 0.01}


def doubts(work: Work, seconds: float, liveness: Liveness | None = None, since: float = 0.0) -> list[float]:
    """The seconds at which there was doubt, looking once a second for so long."""
    liveness = liveness or Liveness(since)
    return [float(t) for t in range(int(since), int(since + seconds)) if liveness.doubt(work, STALL, float(t))]


def test_a_zombie_is_doubted_after_the_stall_timeout_and_dead_after_its_canary() -> None:
    """Work for 30 s, nothing finished, no canary, no CPU: dead; not a second before."""
    liveness, work = Liveness(0.0), Work(sent_at=5.0)
    assert liveness.doubt(work, STALL, 34.9) is None
    assert liveness.doubt(work, STALL, 35.0) is Doubt.STALLED
    wrong = liveness.verdict(work, STALL, 45.0, **ZOMBIE)
    assert wrong == "nothing finished for 40 s; no answer to a canary in 10 s, with 0.00 CPU seconds used"


def test_a_deep_queue_is_no_stall() -> None:
    """The oldest part may be as old as it likes while others are finished."""
    liveness = Liveness(0.0)
    for t in range(1000):
        answered = float(t - t % 20)
        assert liveness.doubt(Work(sent_at=0.0, answered_at=answered), STALL, float(t)) is None


def test_a_long_batch_is_busy_and_gets_ten_times_as_long() -> None:
    """No canary comes back beside a batch of minutes, but it uses CPU: asked again each `stall_timeout`, then dead."""
    liveness, work, asked, now = Liveness(0.0), Work(sent_at=0.0), [], 0.0
    wrong = None
    while wrong is None:
        if liveness.doubt(work, STALL, now):
            asked.append(now)
            now += 10.0
            wrong = liveness.verdict(work, STALL, now, **BUSY)
        now += 1.0
    assert asked[:3] == [30.0, 70.0, 110.0]
    assert BUSY_FACTOR * STALL <= now < BUSY_FACTOR * STALL + STALL + 15
    assert "uses CPU, but has finished nothing" in wrong


def test_a_canary_that_comes_back_clears_it_for_a_while() -> None:
    """A worker that was stopped for a moment, or a saturated host: the next doubt comes a `stall_timeout` later."""
    liveness, work = Liveness(0.0), Work(sent_at=0.0)
    assert liveness.doubt(work, STALL, 30.0) is Doubt.STALLED
    assert liveness.verdict(work, STALL, 31.0, **SOUND) is None
    assert doubts(work, 60, liveness, since=31.0)[0] == 61.0


def test_one_that_answers_canaries_but_never_its_work_is_dead_in_the_end() -> None:
    """A request that hangs in Infinity's HTTP for ever is sent again some day."""
    liveness, work = Liveness(0.0), Work(sent_at=0.0)
    assert liveness.doubt(work, STALL, 299.0) is Doubt.STALLED
    assert liveness.verdict(work, STALL, 299.5, **SOUND) is None
    assert liveness.doubt(work, STALL, 330.0) is Doubt.STALLED
    assert liveness.verdict(work, STALL, 330.0, **SOUND) == (
        "it answers a canary, but has finished nothing of what it was sent for 330 s"
    )


def test_an_answer_that_comes_while_the_canary_is_out_is_proof_enough() -> None:
    """The batch before the canary ended: the worker lives, whatever became of the canary."""
    liveness = Liveness(0.0)
    assert liveness.doubt(Work(sent_at=0.0), STALL, 30.0) is Doubt.STALLED
    assert liveness.verdict(Work(sent_at=35.0, answered_at=39.0), STALL, 40.0, **ZOMBIE) is None


def test_an_idle_worker_is_asked_now_and_then() -> None:
    """Nothing to do for five minutes: a canary, so that a client is not the first to find a zombie."""
    assert doubts(Work(), 700) == [float(t) for t in range(int(IDLE_SECONDS), 700)]
    liveness = Liveness(0.0)
    assert liveness.doubt(Work(answered_at=100.0), STALL, 399.0) is None
    assert liveness.doubt(Work(answered_at=100.0), STALL, 400.0) is Doubt.IDLE
    assert liveness.verdict(Work(answered_at=100.0), STALL, 400.1, **SOUND) is None
    assert liveness.doubt(Work(answered_at=100.0), STALL, 500.0) is None


def test_an_idle_worker_is_dead_after_three_canaries_that_stayed_out() -> None:
    """A saturated host may be late once or twice, and nobody waits: the next one goes a `stall_timeout` later."""
    liveness, work, now, asked = Liveness(0.0), Work(), IDLE_SECONDS, []
    while (doubt := liveness.doubt(work, STALL, now)) is None or not liveness.verdict(work, STALL, now, **ZOMBIE):
        asked += [now] if doubt else []
        now += 1.0
    assert [*asked, now] == [IDLE_SECONDS + i * STALL for i in range(IDLE_FAILURES)]


def test_an_answer_that_is_not_sound_is_the_end() -> None:
    """Numbers that are not finite, or an error: whatever CPU it uses, its model is broken."""
    liveness, work = Liveness(0.0), Work(sent_at=0.0)
    unsound = {"heard": Heard.UNSOUND, "took": 0.02, "core_seconds": 0.02}
    assert liveness.verdict(work, STALL, 30.0, **unsound) == "its answer to a canary is not sound"


def test_work_that_was_just_sent_to_an_idle_worker_has_its_time() -> None:
    """The clock runs from when the part was sent, not from the last answer an hour ago."""
    liveness = Liveness(0.0)
    assert liveness.doubt(Work(sent_at=3600.0, answered_at=10.0), STALL, 3629.0) is None
    assert liveness.doubt(Work(sent_at=3600.0, answered_at=10.0), STALL, 3630.0) is Doubt.STALLED


def test_a_429_without_load_is_doubted_at_once_and_once() -> None:
    """A worker that says it has too much while it has ours only is asked; an answer since then says it is over."""
    liveness = Liveness(0.0)
    work = Work(answered_at=1.0, refused_at=2.0)
    assert liveness.doubt(work, STALL, 2.5) is Doubt.REFUSES
    assert liveness.verdict(work, STALL, 2.6, **SOUND) is None
    assert liveness.doubt(work, STALL, 3.0) is None
    assert liveness.doubt(Work(answered_at=9.0, refused_at=8.0), STALL, 9.5) is None


UNSEEN = {"heard": Heard.NOTHING, "took": 10.0, "core_seconds": None}


def test_one_whose_cpu_nobody_sees_may_be_busy_while_it_has_work() -> None:
    """An Infinity that something else runs gets as long as a busy worker: slow is not dead."""
    liveness, work, now = Liveness(0.0), Work(sent_at=0.0), 0.0
    while (wrong := liveness.verdict(work, STALL, now, **UNSEEN)) is None:
        now += STALL + 10.0
    assert now >= BUSY_FACTOR * STALL
    assert wrong.startswith("it may be busy, but has finished nothing")


def test_one_whose_cpu_nobody_sees_and_that_has_no_work_is_not_excused() -> None:
    """Idle, it is dead after as many silent canaries as any worker."""
    liveness = Liveness(0.0)
    told = [liveness.verdict(Work(), STALL, IDLE_SECONDS + i * STALL, **UNSEEN) for i in range(IDLE_FAILURES)]
    assert told == [None] * (IDLE_FAILURES - 1) + ["no answer to a canary in 10 s"]
