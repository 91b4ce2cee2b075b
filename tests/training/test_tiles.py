"""Training and validation on tiles of large images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mobile_sam.config.load import resolve
from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.data.index.table import Index
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.evaluation.validate_run import validate
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import ConfigError
from mobile_sam.training.run import train_run
from tests.helpers.equality import equal_states
from tests.helpers.runs import prepare, tiny_settings
from tests.helpers.training_runs import trained, weights

Make = Callable[..., RunConfig]
TILE = {"size": 64, "overlap": 16}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 160 pixels, in which some objects are larger than a tile."""
    directory = tmp_path_factory.mktemp("large")
    write_scenes(directory / "train", 2, 160, seed=0)
    write_scenes(directory / "val", 2, 160, seed=1)
    return directory


def test_images_no_larger_than_a_tile_give_the_same_weights(tiny: Make) -> None:
    whole = tiny(run_name="whole", use_distill=True)
    tiled = tiny(run_name="tiled", use_distill=True, data={"tile": TILE})
    assert equal_states(trained(whole), trained(tiled))


@pytest.mark.parametrize("features", ["stored", "online"])
def test_a_student_distils_from_features_of_tiles(
    features: str, large: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"use_distill": True, "teacher_features": features}
    settings |= {"data": {"tile": TILE}, "protocols": ["box"]}
    config = parse_config(tiny_settings(large, tmp_path, **settings), "test")
    prepare(config)
    train_run(config)
    assert all(value.isfinite().all() for value in weights(config).values())
    paths, (stage,) = RunPaths(config), normalise(config)
    validate(config, stage.directory)
    table = pd.read_parquet(paths.validation(stage.directory))
    index = Index(paths.index, "val")
    tiles = [index[number] for number in range(len(index))]
    segments = [(t.image_id.split("@")[0], s.segment_id) for t in tiles for s in t.segments]
    assert len(segments) == len(set(segments)) == len(table)
    assert any(tile.window is not None and tile.window.step > 1 for tile in tiles)
    whole = parse_config(tiny_settings(large, tmp_path, protocols=["box"]), "test")
    prepare(whole)
    assert len(table) == Index(RunPaths(whole).index, "val").objects


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        ({"tile": {"size": 64, "overlap": 64}}, {}, "overlap: 64 must be less than size, 64"),
        ({"tile": {"size": 512}}, {}, "more than 4 times larger or smaller than img_size, 64"),
        ({"tile": {}}, {"detections": "boxes.json"}, "boxes of a detector are in whole images"),
    ],
)
def test_wrong_tiles_are_an_error_before_any_job(
    data: dict[str, Any], changes: dict[str, Any], message: str, scenes: Path, tmp_path: Path
) -> None:
    path = tmp_path / "my.json"
    settings = tiny_settings(scenes, tmp_path, data=data, **changes)
    path.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=message) as error:
        resolve(str(path), None, {})
    assert "\n" not in str(error.value)
