"""The workers' cgroups under a real kernel with cgroup v2: limits that limit, groups that go, endings that are told.

The kernel is user-mode-linux (`tests.support.uml`), started once; `tests.support.cgroup_guest` plays the scenes there.
"""

from typing import Any

import pytest

from tests.support.uml import inside


@pytest.fixture(scope="module")
def told() -> list[Any]:
    """Everything that all scenes told."""
    return inside("tests.support.cgroup_guest")


@pytest.fixture
def scene(told: list[Any], request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What the scene named by the test told."""
    name = request.param
    return [values for values in told if values["scene"] == name]


def of(name: str) -> pytest.MarkDecorator:
    """The scene a test is about."""
    return pytest.mark.parametrize("scene", [name], indirect=True)


@of("limits")
def test_each_worker_has_a_group_and_we_have_a_leaf(scene: list[dict[str, Any]]) -> None:
    """The supervisor moves below its group, switches the controllers on, and makes a group for each worker."""
    opened, running, *_ = scene
    assert opened == {"scene": "limits", "opened": True, "own": "supervisor", "controllers": "cpu memory"}
    assert running["tree"][:2] == ["supervisor", "workers"]
    assert {path.rpartition("-")[0] for path in running["tree"][2:]} == {
        "workers/served",
        "workers/org_busy_model",
        "workers/b",
    }
    assert running["served"] == 2  # it and its child


@of("limits")
@pytest.mark.parametrize(
    ("limit", "text", "least", "most"),
    [(0.3, "30000 100000", 0.2, 0.4), (0.6, "60000 100000", 0.5, 0.7), (None, "max 100000", 0.8, 1.05)],
)
def test_the_limit_is_kept(
    scene: list[dict[str, Any]], limit: float | None, text: str, least: float, most: float
) -> None:
    """Two workers that take all they get use what they may together, and everything when there is no limit."""
    (seen,) = [values for values in scene if "share" in values and values["limit"] == limit]
    assert seen["cpu_max"] == text
    assert least <= seen["share"] <= most
    assert 2 * least <= seen["counted"] <= 2 * most + 0.5  # in a little over 2 s, by the group's own counter


@of("limits")
def test_groups_go_with_what_they_were_for(scene: list[dict[str, Any]]) -> None:
    """A worker's group goes when it ends; in the end there is nothing of ours, and we are where we began."""
    stopped, closed = scene[-2:]
    assert [path.rpartition("-")[0] for path in stopped["tree"][2:]] == ["workers/org_busy_model", "workers/served"]
    assert closed == {"scene": "limits", "closed": True, "own": ".", "tree": [], "controllers": ""}


@of("endings")
def test_nothing_stays_of_a_worker_that_left_its_process_group(scene: list[dict[str, Any]]) -> None:
    """A child in a session of its own, which no signal to the group reaches, ends with the worker's cgroup."""
    assert scene[0]["runaway"].endswith("/workers/runaway-1")
    assert not scene[0]["alive"]
    assert scene[-1] == {"scene": "endings", "closed": True, "tree": [], "state": True}


@of("endings")
def test_an_oom_kill_is_told_apart(scene: list[dict[str, Any]]) -> None:
    """The reason says that it was for want of memory, not that somebody sent SIGKILL."""
    assert "SIGKILL" in scene[1]["hungry"]
    assert "out of memory: the kernel killed 1 of its processes" in scene[1]["hungry"]


@of("predecessor")
def test_what_a_killed_supervisor_left_is_taken_over(scene: list[dict[str, Any]]) -> None:
    """Empty groups go, one with a process in it stays until that has ended, an old limit does not live on."""
    found, closed = scene
    assert found == {
        "scene": "predecessor",
        "own": "supervisor",
        "tree": ["supervisor", "workers", "workers/m-1", "workers/m-2"],
        "again": "m-2",
        "cpu_max": "max 100000",
    }
    assert closed == {"scene": "predecessor", "closed": True, "own": ".", "tree": []}


@of("by_owner")
def test_a_subtree_given_to_a_user(scene: list[dict[str, Any]]) -> None:
    """Without root and without systemd's mark, a group that belongs to us while its parent does not is ours."""
    running, closed = scene
    assert running["own"] == "supervisor"
    assert running["worker"] == "0::/by_owner.service/workers/m-1"
    assert running["cpu_max"] == "50000 100000"
    assert closed == {"scene": "by_owner", "closed": True, "own": ".", "tree": []}


@of("refusals")
def test_what_was_not_given_is_not_touched(scene: list[dict[str, Any]]) -> None:
    """The root group, a group that root may write to but was not given, and one with somebody else in it."""
    root, unmarked, shared = scene
    assert "root of all groups" in root["reason"]
    assert "not delegated" in unmarked["reason"]
    assert "other processes are in" in shared["reason"]
    assert all(values["tree"] == [] and values["group"] is False for values in scene)
