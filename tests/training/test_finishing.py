"""A stage that has been trained is not trained again, whatever happens to its job at the end."""

import errno
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.config.sections import CheckpointKind
from mobile_sam.data.index.build import index_dataset
from mobile_sam.paths import RunPaths
from mobile_sam.system.finished_results import FORCED
from mobile_sam.training import checkpoint, run
from mobile_sam.training.export import export_weights
from mobile_sam.training.run import train_run
from tests.helpers.equality import equal, equal_states
from tests.helpers.runs import TWO_STAGES, directories, prepare
from tests.helpers.stopping import POINTS, stop_at
from tests.helpers.training_processes import log_of, start, train, train_ranks
from tests.helpers.training_runs import results, trained, weights

Make = Callable[..., RunConfig]
KINDS: tuple[CheckpointKind, ...] = ("last", "best")


def delete_outputs(config: RunConfig) -> None:
    """As Snakemake does with those of a job that it has not seen end well."""
    paths = RunPaths(config)
    for stage in normalise(config):
        for output in (paths.metrics(stage), *(paths.checkpoint(stage, k) for k in KINDS)):
            output.unlink(missing_ok=True)


def epochs(config: RunConfig) -> list[str]:
    """The epochs that processes of the run have trained."""
    return re.findall(r"epoch (\d+) done", log_of(config))


def test_killed_between_any_two_steps_of_finishing_nothing_is_trained_again(
    tiny: Make, tmp_path: Path
) -> None:
    undisturbed = tiny(run_name="undisturbed", num_epochs=2)
    train_run(undisturbed)
    killed = tiny(run_name="killed", num_epochs=2)
    for point in POINTS:
        stop = stop_at(tmp_path, point)
        process = start(killed, environment=stop.environment)
        stop.wait(process.is_alive)
        process.kill()
        process.join()
        stop.release()
        delete_outputs(killed)
    assert "results are restored" in train(killed)
    assert epochs(killed) == ["1", "2"]
    assert equal(results(killed), results(undisturbed))
    (stage,) = normalise(killed)
    assert [path.name for path in RunPaths(killed).state(stage).iterdir()] == ["finished"]


def refuse(*_: Any) -> None:
    raise AssertionError("it would have been trained")


def test_a_finished_stage_is_restored_before_data_and_models_are_loaded(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that stopped early."""
    config = tiny(num_epochs=9, early_stopping=1, learning_rate=1e-9, freeze_batchnorm=True)
    train_run(config)
    before = results(config)
    assert len(before[-1]["epoch"]) < 9
    delete_outputs(config)
    monkeypatch.setattr(run, "StageTraining", refuse)
    for stage in (None, "00_finetune"):
        train_run(config, stage)
        assert equal(results(config), before)


def test_a_finished_stage_of_other_inputs_is_not_restored(
    tiny: Make, scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = shutil.copytree(scenes, tmp_path / "data")
    config = tiny(**directories(data))
    train_run(config)
    delete_outputs(config)
    image = min(Path(config.train_img_dir or "").iterdir())
    shutil.rmtree(Path(config.train_mask_dir or "") / image.stem)
    image.unlink()
    RunPaths(config).index.unlink()
    prepare(config)
    with caplog.at_level("INFO"):
        train_run(config)
    assert "belong to other settings or inputs; removed" in caplog.text
    assert equal_states(weights(config), trained(tiny(run_name="fresh", **directories(data))))


@pytest.mark.parametrize("links", [True, False])
def test_links_are_kept_and_copies_until_the_next_stage_or_the_export_has_used_them(
    links: bool, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(num_epochs=4, stage_schedule=TWO_STAGES)
    if not links:
        monkeypatch.setattr("os.link", Mock(side_effect=OSError(errno.EPERM, "no links")))
    paths, (first, second) = RunPaths(config), normalise(config)
    train_run(config, first.directory)
    assert paths.finished_stage(first).is_dir()
    train_run(config, second.directory)
    assert paths.finished_stage(first).exists() == links
    assert paths.finished_stage(second).is_dir()
    export_weights(config)
    assert paths.finished_stage(second).exists() == links


def test_an_index_made_again_of_touched_files_trains_nothing(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, scenes: Path, tmp_path: Path
) -> None:
    """Snakemake plans the stages then, since it cannot know that the index will be the same."""
    data = shutil.copytree(scenes, tmp_path / "data")
    config = tiny(num_epochs=4, stage_schedule=TWO_STAGES, **directories(data))
    train_run(config)
    export_weights(config)
    before, index = results(config), RunPaths(config).index
    for path in data.rglob("*.png"):
        path.touch()
    delete_outputs(config)
    index.unlink()
    index_dataset(RunPaths(config).sources, index, config.data)
    with monkeypatch.context() as patch:
        patch.setattr(run, "StageTraining", refuse)
        for stage in normalise(config):
            train_run(config, stage.directory)
    assert equal(results(config), before)


def test_a_forced_workflow_trains_again_and_restores_what_it_has_finished_itself(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    train_run(config)
    export_weights(config)
    monkeypatch.setenv(FORCED, "1")
    delete_outputs(config)
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="would have been"):
        patch.setattr(run, "StageTraining", refuse)
        train_run(config, "00_finetune")
    train_run(config, "00_finetune")
    delete_outputs(config)  # as after a job that Snakemake has not seen end well
    monkeypatch.setattr(run, "StageTraining", refuse)
    train_run(config, "00_finetune")


def test_results_of_another_version_of_the_package_are_not_restored(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    train_run(config)
    delete_outputs(config)
    monkeypatch.setattr(checkpoint, "version_of_code", lambda: "9.9")
    train_run(config)  # nothing has used them yet
    monkeypatch.undo()
    export_weights(config)
    delete_outputs(config)
    monkeypatch.setattr(checkpoint, "version_of_code", lambda: "9.9")
    monkeypatch.setattr(run, "StageTraining", refuse)
    with pytest.raises(AssertionError, match="would have been trained"):
        train_run(config)


def test_several_ranks_restore_a_finished_stage(tiny: Make) -> None:
    config = tiny(num_epochs=1, devices=2)
    train_ranks(config)
    before = results(config)
    delete_outputs(config)
    train_ranks(config)
    assert log_of(config).count("results are restored") == len(epochs(config)) == 1
    assert equal(results(config), before)
