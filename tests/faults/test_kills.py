"""Each verb killed, or asked to end, at random moments: the results are the same."""

import random
import signal
import time

import pytest

from tests.helpers.disturbed_commands import ended_at_random
from tests.helpers.fault_projects import OUTPUTS, Copy, Project

pytestmark = pytest.mark.faults

KILLS = {"index": 3, "extract": 4, "train": 6, "export": 3, "validate": 4, "report": 4}
assert sum(KILLS.values()) >= 20


def seconds(project: Project, verb: str) -> float:
    """How long a verb works, undisturbed; its outputs are then removed again."""
    running = project.start(verb)
    running.wait_for_work()
    began = time.monotonic()
    assert running.wait().status == 0
    spent = time.monotonic() - began
    project.remove(verb)
    return spent


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
@pytest.mark.parametrize("verb", OUTPUTS)
def test_ended_at_random_moments_a_verb_ends_in_the_same_results(
    verb: str, number: signal.Signals, copy: Copy, undisturbed: Project
) -> None:
    project = copy(without=verb)
    work, rng, ended = seconds(project, verb), random.Random(verb), 0
    others = project.files(verb)
    while ended < (KILLS[verb] if number == signal.SIGKILL else 2):
        found = ended_at_random(project.start(verb), work, number, rng)
        assert project.differing(undisturbed, verb) == []
        assert "Traceback" not in found.output
        if found.status == 0:
            project.remove(verb)  # it was faster: once more
        else:
            assert found.status in {-signal.SIGKILL, 128 + signal.SIGTERM}
            ended += 1
        if number == signal.SIGTERM:
            left = [name for name in project.unfinished() if ".zarr." not in name]
            assert left == []  # but for a store that threads of zarr still make
    project.finish(verb)
    assert project.differing(undisturbed) == project.missing(undisturbed) == []
    assert project.files(verb) == others


@pytest.mark.parametrize("verb", ["index", "report"])
def test_ctrl_c_ends_a_verb_in_a_line(verb: str, copy: Copy, undisturbed: Project) -> None:
    project = copy(without=verb)
    work = seconds(project, verb)
    running = project.start(verb)
    running.wait_for_work()
    time.sleep(work / 2)
    ended = running.signal(signal.SIGINT)
    assert ended.status == 128 + signal.SIGINT
    assert "Traceback" not in ended.output
    assert "interrupted; run the same command to start again" in ended.output
    assert project.unfinished() == project.differing(undisturbed, verb) == []
    project.finish(verb)
    assert project.missing(undisturbed) == []
