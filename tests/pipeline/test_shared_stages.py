"""Stages of a project: trained once for all runs that have them, and kept from earlier versions."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobile_sam.__main__ import main
from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.pruning import unneeded
from mobile_sam.pipeline.shared_stages import adopt_stages, link_stages
from mobile_sam.training.run import train_run
from tests.helpers.commands import snakemake
from tests.helpers.equality import equal
from tests.helpers.runs import TWO_STAGES, tiny_settings
from tests.helpers.training_runs import results
from tests.helpers.workflow_projects import Project, changed

Make = Callable[..., RunConfig]


def two_stages(directory: Path, scenes: Path, **changes: Any) -> RunPaths:
    settings = {"num_epochs": 4, "stage_schedule": TWO_STAGES} | changes
    return RunPaths(parse_config(tiny_settings(scenes, directory, **settings), "test"))


def places(paths: RunPaths) -> list[Path]:
    return [paths.stage(stage) for stage in normalise(paths.config)]


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({"run_name": "other"}, 2),
        ({"num_workers": 3, "save_every_minutes": 1}, 2),
        ({"mask_threshold": 0.3}, 2),
        ({"stage_schedule": [TWO_STAGES[0] | {"name": "mine"}, *TWO_STAGES[1:]]}, 2),
        ({"stage_schedule": [TWO_STAGES[0], TWO_STAGES[1] | {"learning_rate": 0.5}]}, 1),
        ({"stage_schedule": [TWO_STAGES[0], TWO_STAGES[1] | {"start_from": "best"}]}, 1),
        ({"stage_schedule": [TWO_STAGES[0] | {"learning_rate": 0.5}, TWO_STAGES[1]]}, 0),
        ({"seed": 1}, 0),
        ({"data": {"min_area": 3}}, 0),
    ],
)
def test_a_stage_has_the_place_of_all_that_its_weights_depend_on(
    changes: dict[str, Any], shared: int, tmp_path: Path, scenes: Path
) -> None:
    first, other = two_stages(tmp_path, scenes), two_stages(tmp_path, scenes, **changes)
    same = [a == b for a, b in zip(places(first), places(other), strict=True)]
    assert same == [True] * shared + [False] * (2 - shared)


def test_links_have_readable_names_and_follow_the_settings(tmp_path: Path, scenes: Path) -> None:
    paths = two_stages(tmp_path, scenes)
    for place in places(paths):
        place.mkdir(parents=True)
    link_stages(paths.config)
    names = ["00_distill", "01_finetune"]
    assert json.loads(paths.stages.read_text()) == {
        name: place.name for name, place in zip(names, places(paths), strict=True)
    }
    assert [(paths.run / "stages" / n).resolve() for n in names] == places(paths)
    moved = shutil.move(tmp_path / "mobile_sam", tmp_path / "elsewhere")
    assert all((Path(moved) / "tiny" / "stages" / name).is_dir() for name in names)
    shutil.move(moved, tmp_path / "mobile_sam")
    renamed = [TWO_STAGES[0] | {"name": "first"}, TWO_STAGES[1]]
    link_stages(two_stages(tmp_path, scenes, stage_schedule=renamed).config)
    assert sorted(p.name for p in paths.stage_links.iterdir()) == ["00_first", "01_finetune"]


def to_earlier_version(config: RunConfig) -> None:
    """Move the stages of a run to where earlier versions kept them."""
    paths = RunPaths(config)
    for stage in normalise(config):
        link = paths.stage_link(stage)
        link.unlink(missing_ok=True)
        state = paths.run / "state" / stage.directory
        state.parent.mkdir(exist_ok=True)
        if paths.state(stage).exists():
            paths.state(stage).rename(state)
        paths.stage(stage).rename(link)
    paths.stages.unlink()
    settings = config.model_dump(mode="json", exclude={"schema_file"})
    paths.settings.write_text(json.dumps(settings))


def test_stages_of_an_earlier_version_are_moved_and_not_trained_again(tiny: Make) -> None:
    config = tiny(num_epochs=4, stage_schedule=TWO_STAGES)
    train_run(config)
    before = results(config)
    to_earlier_version(config)
    adopt_stages([config])
    link_stages(config)
    assert equal(results(config), before)
    assert all(RunPaths(config).stage_link(stage).is_symlink() for stage in normalise(config))


def test_a_stage_of_an_earlier_version_with_other_settings_stays(
    tiny: Make, scenes: Path, tmp_path: Path
) -> None:
    config = tiny(num_epochs=4, stage_schedule=TWO_STAGES)
    train_run(config)
    to_earlier_version(config)
    schedule = [TWO_STAGES[0], TWO_STAGES[1] | {"learning_rate": 0.5}]
    edited = config.model_copy(
        update={
            "stage_schedule": parse_config(
                tiny_settings(scenes, tmp_path, num_epochs=4, stage_schedule=schedule), "test"
            ).stage_schedule
        }
    )
    adopt_stages([edited])
    first, second = normalise(edited)
    assert RunPaths(edited).checkpoint(first).is_file()
    assert not RunPaths(edited).stage(second).exists()
    assert (RunPaths(edited).stage_link(second) / "checkpoint.pt").is_file()
    link_stages(edited)  # a directory of results is never replaced by a link
    assert not RunPaths(edited).stage_link(second).is_symlink()


def test_two_runs_train_their_common_stage_once(scenes: Path, tmp_path: Path) -> None:
    """Together, and when the second run comes later; the report of each has it."""
    project = Project(tmp_path / "p", scenes)
    runs = []
    for number in range(3):
        path = project.directory / f"run{number}.json"
        settings = changed(project.settings, 1, learning_rate=0.001 * (number + 1))
        path.write_text(json.dumps(settings | {"run_name": f"run{number}", "protocols": ["box"]}))
        runs.append(str(path))

    def plan(*names: str) -> list[str]:
        said = snakemake(project.directory, "-n", "--config", f"run={','.join(names)}")
        lines = (said.stdout + said.stderr).splitlines()
        return sorted({line.split()[0] for line in lines if line.startswith("train_run")})

    assert plan(*runs[:2]) == [
        "train_run0_00_distill",
        "train_run0_01_finetune",
        "train_run1_01_finetune",
    ]
    done = snakemake(project.directory, "--config", f"run={','.join(runs[:2])}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert plan(*runs) == ["train_run2_01_finetune"]
    assert plan(runs[2]) == ["train_run2_01_finetune"]
    for name in ("run0", "run1"):
        run = project.directory / "results/mobile_sam" / name
        assert "train_00_distill" in (run / "report" / "times.csv").read_text()


def test_what_no_run_needs_is_listed_and_removed(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project(tmp_path / "p", scenes)
    project.write(project.settings | {"protocols": ["box"], "unlabelled_img_dir": None})
    project.run("--until", "train_my_01_finetune")
    shared = project.directory / "results" / "mobile_sam" / "shared"
    assert unneeded(shared.parent) == []
    project.write(changed(project.settings, 1, learning_rate=0.5) | {"unlabelled_img_dir": None})
    project.run("--until", "train_my_01_finetune")
    (old,) = unneeded(shared.parent)
    assert (old / "checkpoint.pt").is_file()
    assert main(["prune", str(shared.parent)]) == 0
    assert old.exists()
    assert main(["prune", str(shared.parent), "--remove"]) == 0
    assert not old.exists()
    assert "1 results removed" in capsys.readouterr().out
    assert project.would_run("--until", "train_my_01_finetune") == set()
    shutil.rmtree(shared.parent / "my")
    assert {path.parent for path in unneeded(shared.parent)} == {shared, shared / "stages"}
    assert main(["prune", str(project.directory)]) == 1
