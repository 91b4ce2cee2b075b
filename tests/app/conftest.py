"""A finished run of two stages with random weights, and its models."""

from pathlib import Path

import pytest

from mobile_sam.app.images import AppImage, example_images, indexed_image
from mobile_sam.app.models import Models, models_of_run
from mobile_sam.app.predictor_cache import PredictorCache
from mobile_sam.config.load import Runs
from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.settings_files import write_settings
from mobile_sam.training.run import train_run
from tests.helpers.runs import DISTIL_ONLY, prepare, tiny_settings

STAGES = [
    {"start_epoch": 0, "end_epoch": 1, "distillation": True, "loss_weights": DISTIL_ONLY},
    {"start_epoch": 1, "end_epoch": 2, "distillation": False},
]


@pytest.fixture(scope="session")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run that is trained for two epochs. Not to be changed by tests."""
    output_dir = tmp_path_factory.mktemp("app") / "results"
    changes = {"num_epochs": 2, "stage_schedule": STAGES, "use_checkpoint": "best"}
    changes |= {"learning_rate": 1e-4, "mask_threshold": 0.015}  # logits are hardly beyond 0
    config = parse_config(tiny_settings(scenes, output_dir, **changes), "test")
    write_settings(Runs((config,), (config,)))
    prepare(config)
    train_run(config)
    assert RunPaths(config).index.is_file()
    return config


@pytest.fixture(scope="session")
def models(trained: RunConfig) -> Models:
    return models_of_run(trained)


@pytest.fixture
def predictors(models: Models) -> PredictorCache:
    """Asks the models of the run; nothing is encoded yet."""
    return PredictorCache(models)


@pytest.fixture
def image(trained: RunConfig) -> AppImage:
    """A validation image, with its ground truth."""
    return indexed_image(example_images(trained)[0])
