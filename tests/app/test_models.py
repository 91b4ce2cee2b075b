"""Which models of a run the app has, and how any weights are called."""

import shutil
from pathlib import Path

import pytest
import torch

from mobile_sam.__main__ import main
from mobile_sam.app.models import Models, models_of_run, models_of_weights
from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.evaluation.from_run import load_checkpoint_model
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.weights import to_original
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import ConfigError
from tests.helpers.equality import equal_states
from tests.helpers.runs import tiny_settings

ALL = ["start", "00_distill", "00_distill_best", "01_finetune", "01_finetune_best", "teacher"]


def test_a_run_shows_its_start_each_stage_once_and_the_teacher(trained: RunConfig) -> None:
    models = models_of_run(trained)
    assert list(models.names) == ALL
    assert list(models.first) == ["start", "00_distill", "01_finetune_best", "teacher"]
    assert models.exported == "01_finetune_best"


def test_a_model_is_that_of_validation_and_its_threshold_that_of_the_run(
    trained: RunConfig, models: Models
) -> None:
    for name in ("start", "01_finetune", "teacher"):
        predictor = models[name]
        wanted = load_checkpoint_model(trained, name).state_dict()
        assert equal_states(predictor.model.state_dict(), wanted)
        assert predictor.mask_threshold == trained.mask_threshold
        assert models[name] is predictor
    states = [models[name].model.state_dict() for name in ("start", "01_finetune")]
    assert not equal_states(*states)


def test_a_model_says_how_large_it_is_and_whether_it_is_exported(models: Models) -> None:
    count = sum(p.numel() for p in models["start"].model.parameters())
    assert models.about("start") == f"{count / 1e6:.2g} M parameters"
    assert models.about("01_finetune_best") == f"{count / 1e6:.2g} M parameters, exported"


def test_chosen_models_are_shown_and_unknown_ones_refused(trained: RunConfig) -> None:
    assert list(models_of_run(trained, ["00_distill_best", "teacher"]).first) == [
        "00_distill_best",
        "teacher",
    ]
    with pytest.raises(ConfigError, match=r"run 'tiny' has no '02_more'; it has start, 00_distill"):
        models_of_run(trained, ["start", "02_more"])


def test_an_unfinished_run_shows_what_it_has(
    trained: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(RunPaths(trained).project, tmp_path / "mobile_sam")
    config = trained.model_copy(update={"output_dir": str(tmp_path)})
    shutil.rmtree(RunPaths(config).stage(normalise(config)[1]))
    caplog.set_level("INFO", "mobile_sam")
    models = models_of_run(config)
    assert list(models.names) == ["start", "00_distill", "00_distill_best", "teacher"]
    assert "without 01_finetune_best: the files do not exist" in caplog.text
    with pytest.raises(ConfigError, match=r"--models 01_finetune: .*checkpoint\.pt does not exist"):
        models_of_run(config, ["01_finetune"])


def test_weights_are_called_by_their_file_or_their_run(scenes: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "other.pt", tmp_path / "my_run" / "weights.pt"]
    for seed, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        torch.save(to_original(build_sam_model("tiny_sam", 64, seed=seed)), path)
    settings = tiny_settings(scenes, tmp_path, run_name="my_run", mask_threshold=0.3)
    (paths[1].parent / "run.json").write_text(
        parse_config(settings, "test").model_dump_json(exclude={"schema_file"})
    )
    models = models_of_weights([str(path) for path in paths])
    assert models.names == models.first == ("other", "my_run")
    assert (models["my_run"].model.img_size, models["my_run"].mask_threshold) == (64, 0.3)
    with pytest.raises(ConfigError, match="a second model named 'other'; rename a file"):
        models_of_weights([str(paths[0]), str(paths[0])])
    with pytest.raises(ConfigError, match=r"--weights gone\.pt: there is no such file"):
        models_of_weights(["gone.pt"])


def test_models_run_where_they_are_asked_to(
    trained: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mobile_sam.app.models.default_device", lambda: torch.device("meta"))
    assert models_of_run(trained, device=torch.device("cpu"))["start"].device.type == "cpu"
    run = str(RunPaths(trained).run)
    assert main(["app", "--run", run, "--device", "nowhere"]) == 1
    assert "--device nowhere: " in caplog.text
