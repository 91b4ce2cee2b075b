"""What may happen to a job on a cluster, and that it costs nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.slurm_cluster import Cluster, jobs, query, wait_until
from tests.helpers.slurm_workflows import LONG, Submitted, first_epoch, same_end, trained_epochs
from tests.helpers.stopping import stop_at

pytestmark = pytest.mark.slurm

Undisturbed = Callable[[int], Path]
ASKED = "received a signal to end; run the same command again to continue"


def cancel(submitted: Submitted, epochs: int) -> None:
    query("scancel", submitted.training())


def interrupt(submitted: Submitted, epochs: int) -> None:
    """Press Ctrl-C in Snakemake, and give the same command again."""
    submitted.training()
    submitted.interrupt()
    wait_until(lambda: not jobs(), "the job has ended")
    submitted.start(*LONG.target, *LONG.arguments(epochs))


def displace(submitted: Submitted, epochs: int = 0) -> str:
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
    disturb: Callable[[Submitted, int], object],
    submitted: Submitted,
    undisturbed: Undisturbed,
    epochs: int,
) -> None:
    submitted.start(*LONG.target, *LONG.arguments(epochs))
    disturb(submitted, epochs)
    submitted.wait()
    first, second = submitted.attempts()
    assert ASKED in first
    assert trained_epochs([first, second]) == list(range(1, epochs + 1))
    assert same_end(submitted.directory, undisturbed(epochs))


def test_a_job_at_its_time_limit_saves_and_goes_on(
    submitted: Submitted, undisturbed: Undisturbed, epochs: int
) -> None:
    """SLURM looks each half minute for jobs to warn: each has from half a minute to a whole one.

    How many are needed depends on the machine, and that no epoch is trained twice does not.
    """
    epochs *= 2
    limit = ("train:runtime=1", "train:slurm_extra='--signal=TERM@30'")
    many = ("--retries", "12")
    submitted.start(*LONG.target, *many, "--set-resources", *limit, *LONG.arguments(epochs))
    submitted.wait(900)
    attempts = submitted.attempts()
    assert any(ASKED in attempt for attempt in attempts)
    assert not any("DUE TO TIME LIMIT" in attempt for attempt in attempts)
    assert trained_epochs(attempts) == list(range(1, epochs + 1))
    assert same_end(submitted.directory, undisturbed(epochs))


def kill_snakemake(submitted: Submitted) -> None:
    """That of the job, whose training is then asked to end."""
    snakemake = submitted.trainer().parent()
    assert snakemake is not None
    snakemake.kill()


@pytest.mark.parametrize(
    "end",
    [
        lambda submitted: submitted.trainer().kill(),
        kill_snakemake,
        lambda submitted: query("scancel", "--user=root"),
    ],
    ids=["trainer", "snakemake", "scancel"],
)
@pytest.mark.parametrize("point", ["checkpoint.pt is in place", "the work is done"])
def test_a_job_that_ends_when_its_stage_is_finished_trains_nothing_again(
    point: str,
    end: Callable[[Submitted], object],
    submitted: Submitted,
    undisturbed: Undisturbed,
    tmp_path: Path,
) -> None:
    stop = stop_at(tmp_path, point)
    submitted.start(*LONG.target, *LONG.arguments(30), **stop.environment)
    stop.wait(submitted.alive)
    trainer = submitted.trainer()
    end(submitted)
    stop.release()
    trainer.wait(60)
    stop.wait(submitted.alive)  # the next attempt comes there too
    stop.release()
    submitted.wait()
    attempts = submitted.attempts()
    assert "results are restored" in attempts[-1]
    assert trained_epochs(attempts) == list(range(1, 31))
    assert same_end(submitted.directory, undisturbed(30))


def test_slurmctld_restarts_in_the_middle(
    submitted: Submitted, cluster: Cluster, undisturbed: Undisturbed, epochs: int
) -> None:
    submitted.start(*LONG.target, *LONG.arguments(epochs))
    submitted.training()
    cluster.stop_controller()
    cluster.start_controller()
    submitted.wait()
    (attempt,) = submitted.attempts()
    assert first_epoch(attempt) == 0
    assert same_end(submitted.directory, undisturbed(epochs))


def test_a_node_that_goes_down_loses_its_job_to_the_other(
    submitted: Submitted, cluster: Cluster, undisturbed: Undisturbed, epochs: int
) -> None:
    submitted.start(*LONG.target, *LONG.arguments(epochs))
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
    assert same_end(submitted.directory, undisturbed(epochs))


def test_displaced_without_a_grace_time_it_is_queued_again(
    submitted: Submitted, undisturbed: Undisturbed, epochs: int
) -> None:
    ungraceful = ("--set-resources", "train:slurm_partition=cpu")
    submitted.start(*LONG.target, *ungraceful, *LONG.arguments(epochs))
    job = displace(submitted)
    wait_until(lambda: restarts(job) == 1, "SLURM queues the job again")
    submitted.wait()
    (attempt,) = submitted.attempts()
    assert first_epoch(attempt) > 0
    assert same_end(submitted.directory, undisturbed(epochs))


def node_of(job: str) -> str:
    return query("squeue", "--noheader", "--states=all", "--format=%N", "--job", job).stdout.strip()


def restarts(job: str) -> int:
    """How often SLURM has queued a job again."""
    shown = query("scontrol", "show", "job", job).stdout
    return int(shown.split("Restarts=")[1].split()[0])
