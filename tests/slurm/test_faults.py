"""What may happen to a job on a cluster, and that it costs nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, jobs, query, wait_until
from tests.slurm.workflows import LONG, Submitted, first_epoch, same_end

pytestmark = pytest.mark.slurm

ASKED = "asked to end; the same command goes on from here"


def cancel(submitted: Submitted) -> None:
    query("scancel", submitted.training())


def interrupt(submitted: Submitted) -> None:
    """Press Ctrl-C in Snakemake, and give the same command again."""
    submitted.training()
    submitted.interrupt()
    wait_until(lambda: not jobs(), "the job has ended")
    submitted.start(LONG.checkpoint, *LONG.arguments)


def displace(submitted: Submitted) -> str:
    """Submit a job that needs both nodes, for some seconds, and comes before all others.

    Returns the job of the training that it displaces. With a grace time SLURM asks that to end, and
    what ends by itself is not queued again.
    """
    job = submitted.training()
    wanted = ("--partition=urgent", "--exclusive", "--nodes=2", "--chdir=/", "--output=/dev/null")
    assert query("sbatch", *wanted, "--wrap=sleep 5").returncode == 0
    return job


@pytest.mark.parametrize("disturb", [cancel, interrupt, displace])
def test_asked_to_end_a_job_saves_and_another_goes_on(
    disturb: Callable[[Submitted], object], submitted: Submitted, undisturbed: Path
) -> None:
    submitted.start(LONG.checkpoint, *LONG.arguments)
    disturb(submitted)
    submitted.wait()
    first, second = submitted.attempts()
    assert ASKED in first
    assert first_epoch(second) > first_epoch(first) == 0
    assert same_end(submitted.directory, undisturbed)


def test_a_job_at_its_time_limit_saves_and_goes_on(submitted: Submitted, undisturbed: Path) -> None:
    """SLURM looks each half minute for jobs to warn, so that each of them has less than that."""
    limit = ("train:runtime=1", "train:slurm_extra='--signal=TERM@30'")
    submitted.start(LONG.checkpoint, "--set-resources", *limit, *LONG.arguments)
    submitted.wait()
    attempts = submitted.attempts()
    asked = [attempt for attempt in attempts if ASKED in attempt]
    assert asked
    assert not any("DUE TO TIME LIMIT" in attempt for attempt in attempts)
    epochs = [first_epoch(attempt) for attempt in [*asked, attempts[-1]]]
    assert epochs == sorted(set(epochs))
    assert same_end(submitted.directory, undisturbed)


def test_slurmctld_restarts_in_the_middle(
    submitted: Submitted, cluster: Cluster, undisturbed: Path
) -> None:
    submitted.start(LONG.checkpoint, *LONG.arguments)
    submitted.training()
    cluster.stop_controller()
    cluster.start_controller()
    submitted.wait()
    (attempt,) = submitted.attempts()
    assert first_epoch(attempt) == 0
    assert same_end(submitted.directory, undisturbed)


def test_a_node_that_goes_down_loses_its_job_to_the_other(
    submitted: Submitted, cluster: Cluster, undisturbed: Path
) -> None:
    submitted.start(LONG.checkpoint, *LONG.arguments)
    job = submitted.training()
    node = node_of(job)
    query("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        wait_until(lambda: restarts(job) == 1, "SLURM queues the job again", 30)
        submitted.wait()
        assert node_of(job) != node
    finally:
        query("scontrol", "update", f"nodename={node}", "state=resume")
    (attempt,) = submitted.attempts()
    assert first_epoch(attempt) > 0
    assert same_end(submitted.directory, undisturbed)


def test_displaced_without_a_grace_time_it_is_queued_again(
    submitted: Submitted, undisturbed: Path
) -> None:
    ungraceful = ("--set-resources", "train:slurm_partition=cpu")
    submitted.start(LONG.checkpoint, *ungraceful, *LONG.arguments)
    job = displace(submitted)
    wait_until(lambda: restarts(job) == 1, "SLURM queues the job again")
    submitted.wait()
    (attempt,) = submitted.attempts()
    assert first_epoch(attempt) > 0
    assert same_end(submitted.directory, undisturbed)


def node_of(job: str) -> str:
    return query("squeue", "--noheader", "--states=all", "--format=%N", "--job", job).stdout.strip()


def restarts(job: str) -> int:
    """How often SLURM has queued a job again."""
    shown = query("scontrol", "show", "job", job).stdout
    return int(shown.split("Restarts=")[1].split()[0])
