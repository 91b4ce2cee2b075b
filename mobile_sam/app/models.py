"""Models of the app: those of a run, or any weights; each is loaded on first use."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mobile_sam.config.checkpoints import (
    BOX_FILLED,
    START,
    checkpoint_name,
    checkpoint_names,
    exported_checkpoint,
    stage_checkpoints,
)
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.config.sections import ImageOptions
from mobile_sam.config.teachers import named_teachers
from mobile_sam.data.images import DEFAULT_OPTIONS
from mobile_sam.download.files import fetched_weights
from mobile_sam.evaluation.cost import count_parameters
from mobile_sam.evaluation.from_run import load_checkpoint_model
from mobile_sam.inference.loading import build_sam
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.models.device import default_device
from mobile_sam.models.file_kinds import check_kind
from mobile_sam.models.sam import Sam
from mobile_sam.paths import RunPaths, extra_checkpoints, settings_of_weights
from mobile_sam.system.errors import ConfigError

log = logging.getLogger(__name__)


class Models:
    """Predictors by the names of their models, in the order of the page.

    loaders: functions that load the models, in eval mode. first: names that are selected at first;
    None: all. mask_threshold: logits above it belong to a mask; None: each model's threshold.
    exported: name of the model that the run exports. device: of all models; None: the default.
    image_options: how uploaded files are read.
    """

    def __init__(
        self,
        loaders: Mapping[str, Callable[[], Sam]],
        first: Sequence[str] | None = None,
        mask_threshold: float | None = None,
        exported: str | None = None,
        device: torch.device | None = None,
        image_options: ImageOptions = DEFAULT_OPTIONS,
    ) -> None:
        self.image_options = image_options
        self.names = tuple(loaders)
        self.first = self.names if first is None else tuple(first)
        self.exported = exported
        self._loaders = loaders
        self._device = device or default_device()
        self._mask_threshold = mask_threshold
        self._loaded: dict[str, SamPredictor] = {}

    def __getitem__(self, name: str) -> SamPredictor:
        """Return a predictor on its device, warmed up. Raises UserError for unsuitable weights."""
        if name not in self._loaded:
            log.info("%s: loading", name)
            model = self._loaders[name]().to(self._device).requires_grad_(False)
            predictor = SamPredictor(model, self._mask_threshold)
            # The first pass also loads kernels, which the times of images must not include.
            predictor.set_image(np.zeros((64, 64, 3), dtype=np.uint8))
            predictor.predict(box=np.array([16, 16, 48, 48]))
            self._loaded[name] = predictor
        return self._loaded[name]

    def about(self, name: str) -> str:
        """Describe a model: its number of parameters, and whether the run exports it."""
        size = f"{count_parameters(self[name].model) / 1e6:.2g} M parameters"
        return f"{size}, exported" if name == self.exported else size


def models_of_run(
    config: RunConfig, selected: Sequence[str] | None = None, device: torch.device | None = None
) -> Models:
    """Return the models of a run: its start, trained stages, teachers, and compared checkpoints.

    selected: names to select at first; None: the start, each stage once, and the teachers.
    device: of all models; None: the default.
    Raises ConfigError for an unknown name, and for a model whose file does not exist yet.
    """
    files = _model_files(config)
    unknown = sorted(set(selected or ()) - set(files))
    if unknown:
        raise ConfigError(
            f"--models: run {config.run_name!r} has no {unknown[0]!r}; it has {', '.join(files)}"
        )
    available = [name for name, path in files.items() if path is None or path.is_file()]
    missing = [name for name in selected or () if name not in available]
    if missing:
        raise ConfigError(
            f"--models {missing[0]}: {files[missing[0]]} does not exist; finish the run first, or "
            f"select from: {', '.join(available)}"
        )
    default = _default_names(config)
    first = selected or [name for name in default if name in available]
    absent = [name for name in default if name not in available]
    if absent and not selected:
        log.info("without %s: the files do not exist", ", ".join(absent))
    loaders = {name: partial(load_checkpoint_model, config, name) for name in available}
    return Models(
        loaders, first, config.mask_threshold, exported_checkpoint(config), device, config.data
    )


def models_of_weights(weights: Sequence[str], device: torch.device | None = None) -> Models:
    """Return models of any weights: files, or known names, which are downloaded.

    A model is named after its file; for the `weights.pt` of a run, after the run.
    device: of all models; None: the default.
    Raises ConfigError for a missing file, and for two models of one name.
    """
    loaders: dict[str, Callable[[], Sam]] = {}
    for source in weights:
        path = fetched_weights(source, "--weights")
        check_kind(path)
        name = path.resolve().parent.name if settings_of_weights(path) else path.stem
        if name in loaders:
            raise ConfigError(f"--weights {source}: a second model named {name!r}; rename a file")
        loaders[name] = partial(build_sam, path)
    return Models(loaders, device=device)


def _model_files(config: RunConfig) -> dict[str, Path | None]:
    """Return the file of each model that the run validates; None if it needs no file."""
    paths, students = RunPaths(config), stage_checkpoints(config)
    teachers = {
        name: RunPaths(teacher).teacher_weights for name, teacher in named_teachers(config).items()
    }
    files: dict[str, Path | None] = {
        START: paths.start_weights,
        **{name: paths.checkpoint(*student) for name, student in students.items()},
        **teachers,
        **extra_checkpoints(config),
    }
    return {name: files[name] for name in checkpoint_names(config) if name != BOX_FILLED}


def _default_names(config: RunConfig) -> list[str]:
    """Return the start, each stage (the last one as exported), and the teachers."""

    *before, _ = normalise(config)
    stages = [checkpoint_name(stage, "last") for stage in before]
    return [START, *stages, exported_checkpoint(config), *named_teachers(config)]
