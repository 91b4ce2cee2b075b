"""Models are found by the name of their run, by file, and by the name of their architecture."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mobile_sam.config.load import Runs
from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.download import files
from mobile_sam.inference import loading
from mobile_sam.inference.loading import (
    build_sam,
    load_run,
    sam_model_registry,
    settings_of_run,
)
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam
from mobile_sam.models.weights import to_original
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.settings_files import write_settings
from mobile_sam.system.errors import ConfigError
from tests.helpers.equality import equal_states
from tests.helpers.runs import tiny_settings

Finished = Callable[..., tuple[RunConfig, Sam]]


@pytest.fixture
def finished(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Finished:
    """Makes a run as if it were trained, below `results/`; gives its settings and its model."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, weights: bool = True, **changes: object) -> tuple[RunConfig, Sam]:
        settings = tiny_settings(scenes, Path("results"), run_name=name, **changes)
        config = parse_config(settings, "test")
        write_settings(Runs((config,), (config,)))
        model = build_sam_model(config.model_type, config.img_size, config.iou_head_depth, seed=3)
        if weights:
            torch.save(to_original(model), RunPaths(config).weights)
        return config, model

    return make


def test_a_run_is_found_by_its_name_or_its_directory(finished: Finished) -> None:
    config, model = finished("my_run", mask_threshold=0.3, iou_head_depth=2)
    other, _ = finished("elsewhere", project_name="cells")
    where = RunPaths(config).run
    ways = [load_run("my_run"), load_run(where), load_run(str(where.resolve()))]
    ways += [build_sam(where / "weights.pt"), build_sam(str(where / "weights.pt"))]
    for found in ways:
        assert equal_states(found.state_dict(), model.state_dict())
        assert (found.img_size, found.mask_threshold, found.training) == (64, 0.3, False)
    assert load_run("elsewhere", project_name="cells").img_size == other.img_size
    assert load_run("elsewhere", "cells", where.parents[1]).img_size == other.img_size


def test_an_architecture_that_no_file_lists_is_that_of_the_run(finished: Finished) -> None:
    config, model = finished("by_name", model_type="timm/test_efficientnet")
    assert equal_states(load_run("by_name").state_dict(), model.state_dict())
    moved = Path("moved.pt")
    RunPaths(config).weights.rename(moved)
    with pytest.raises(ConfigError, match=r"moved\.pt: the weights match no architecture"):
        build_sam(moved)


def test_weights_without_a_run_are_recognised(finished: Finished, tmp_path: Path) -> None:
    _, model = finished("my_run")
    torch.save(to_original(model), tmp_path / "alone.pt")
    assert build_sam("alone.pt").img_size == 1024
    shutil.copy("alone.pt", "results/mobile_sam/my_run/other.pt")
    assert build_sam("results/mobile_sam/my_run/other.pt").img_size == 1024  # not what it exported
    found = build_sam("alone.pt", img_size=128)
    assert found.img_size == found.prompt_encoder.img_size == found.image_encoder.img_size == 128
    assert equal_states(found.state_dict(), model.state_dict())


def test_an_unknown_run_says_which_there_are(finished: Finished) -> None:
    finished("b")
    finished("a")
    finished("unfinished", weights=False)
    with pytest.raises(
        ConfigError, match="no 'c' in results/mobile_sam; finished runs there: a, b"
    ):
        load_run("c")
    with pytest.raises(ConfigError, match=r"no 'c' in results/x; finished runs there: none"):
        load_run("c", project_name="x")
    with pytest.raises(ConfigError, match=r"unfinished/weights\.pt: the run has no weights yet"):
        load_run("unfinished")


def test_weights_that_are_not_the_runs_are_an_error(finished: Finished) -> None:
    config, _ = finished("my_run")
    torch.save(to_original(build_sam_model("tiny_sam_se", 64)), RunPaths(config).weights)
    with pytest.raises(ConfigError, match=r"my_run/weights\.pt: the weights do not fit"):
        load_run("my_run")


def test_the_registry_builds_every_architecture(tmp_path: Path) -> None:
    assert {"vit_t", "vit_t_se", "tiny_sam"} < set(sam_model_registry)
    model = build_sam_model("tiny_sam", 64, seed=9)
    torch.save(to_original(model), tmp_path / "w.pt")
    found = sam_model_registry["tiny_sam"](checkpoint=tmp_path / "w.pt")
    assert equal_states(found.state_dict(), model.state_dict())
    assert (found.img_size, found.training) == (1024, False)
    with pytest.raises(ConfigError, match=r"w\.pt: the weights do not fit the model"):
        sam_model_registry["vit_t"](checkpoint=str(tmp_path / "w.pt"))


def test_the_originals_names_are_of_its_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "build_sam_model", lambda name, size: Named(f"{name} {size}"))
    built = {name: sam_model_registry[name]().name for name in ("default", *sam_model_registry)}
    assert built.pop("default") == build_sam().name == "vit_h 1024"
    assert built == {name: f"{name} 1024" for name in built}


class Named:
    """Stands for a model of this name, for those of SAM are large."""

    def __init__(self, name: str) -> None:
        self.name = name

    def eval(self) -> "Named":
        return self


def test_a_known_name_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_sam_model("vit_t", 64, seed=2)
    torch.save(to_original(model), tmp_path / "mobile_sam.pt")
    monkeypatch.setattr(files, "fetch_checkpoint", lambda name: tmp_path / f"{name}.pt")
    for found in (build_sam("mobile_sam", 64), sam_model_registry["vit_t"]("mobile_sam")):
        assert equal_states(found.state_dict(), model.state_dict())


def test_settings_of_a_run_say_where_it_lies_now(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = finished("my_run", weights=False)
    where = RunPaths(config).run
    assert settings_of_run("my_run") == settings_of_run(where) == config
    home = where.resolve()
    moved = Path(shutil.copytree(where.parents[1], "other"))
    assert RunPaths(settings_of_run(moved / "mobile_sam" / "my_run")).run.samefile(
        moved / "mobile_sam" / "my_run"
    )
    monkeypatch.chdir(home.parents[3])
    assert RunPaths(settings_of_run(home)).run == home


def test_settings_of_an_unknown_or_renamed_run_are_refused(finished: Finished) -> None:
    config, _ = finished("my_run")
    with pytest.raises(ConfigError, match=r"there is no 'other' in .*finished runs there: my_run"):
        settings_of_run("other")
    RunPaths(config).run.rename("results/mobile_sam/other")
    with pytest.raises(
        ConfigError, match="the settings of mobile_sam/my_run; rename the directory"
    ):
        settings_of_run("other")
