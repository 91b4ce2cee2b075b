"""The models that the app asks: those of a run, or any weights, loaded when they are needed."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.evaluation.cost import count_parameters
from mobile_sam.evaluation.of_run import validated_model
from mobile_sam.fetch import fetched_weights
from mobile_sam.inference.loading import build_sam
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.layout import (
    BOX_FILLED,
    START,
    RunPaths,
    compared,
    exported,
    settings_beside,
    stage_checkpoint,
    trained,
    validated,
)
from mobile_sam.models.device import default_device
from mobile_sam.models.sam import Sam
from mobile_sam.schedule import normalise
from mobile_sam.teachers import named_teachers

log = logging.getLogger(__name__)


class Models:
    """Predictors by the names of their models, in the order of the page.

    loaders: make each model, in eval mode. first: names that are shown from the start; None: all.
    exported: the name of the one that the run exports.
    mask_threshold: logits above it belong to a mask; None: that of each model.
    device: where they run.
    """

    def __init__(
        self,
        loaders: Mapping[str, Callable[[], Sam]],
        first: Sequence[str] | None = None,
        mask_threshold: float | None = None,
        exported: str | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.names = tuple(loaders)
        self.first = self.names if first is None else tuple(first)
        self.exported = exported
        self._loaders = loaders
        self._device = device or default_device()
        self._mask_threshold = mask_threshold
        self._loaded: dict[str, SamPredictor] = {}

    def __getitem__(self, name: str) -> SamPredictor:
        """On its device, and warm. Raises UserError for weights that do not fit."""
        if name not in self._loaded:
            log.info("%s: loading", name)
            model = self._loaders[name]().to(self._device).requires_grad_(False)
            predictor = SamPredictor(model, self._mask_threshold)
            # The first pass loads kernels, which is no cost of the image that is timed next.
            predictor.set_image(np.zeros((64, 64, 3), dtype=np.uint8))
            predictor.predict(box=np.array([16, 16, 48, 48]))
            self._loaded[name] = predictor
        return self._loaded[name]

    def about(self, name: str) -> str:
        """How large a model is, and whether it is the one that is exported."""
        size = f"{count_parameters(self[name].model) / 1e6:.2g} M parameters"
        return f"{size}, exported" if name == self.exported else size


def models_of_run(
    config: RunConfig, chosen: Sequence[str] | None = None, device: torch.device | None = None
) -> Models:
    """What a run has: its start, the stages that are trained, its teachers, what it compares with.

    chosen: names of `validated`; None: the start, each stage once, and the teachers.
    device: where they run; None: the default one.
    Raises ConfigError for a name that is none, and for a model whose file is not there yet.
    """
    needed = _needed(config)
    unknown = sorted(set(chosen or ()) - set(needed))
    if unknown:
        raise ConfigError(
            f"--models: run {config.run_name!r} has no {unknown[0]!r}; it has {', '.join(needed)}"
        )
    there = [name for name, path in needed.items() if path is None or path.is_file()]
    missing = [name for name in chosen or () if name not in there]
    if missing:
        raise ConfigError(
            f"--models {missing[0]}: {needed[missing[0]]} is not there; finish the run first, or "
            f"name others: {', '.join(there)}"
        )
    first = chosen or [name for name in _usual(config) if name in there]
    absent = [name for name in _usual(config) if name not in there]
    if absent and not chosen:
        log.info("without %s, whose files are not there", ", ".join(absent))
    loaders = {name: partial(validated_model, config, name) for name in there}
    return Models(loaders, first, config.mask_threshold, exported(config), device)


def models_of_weights(weights: Sequence[str], device: torch.device | None = None) -> Models:
    """Any weights: files, or known names, which are fetched. `weights.pt` of a run has its name.

    device: where they run; None: the default one.
    Raises ConfigError for a file that is not there, and for two of one name.
    """
    loaders: dict[str, Callable[[], Sam]] = {}
    for given in weights:
        path = fetched_weights(given)
        if not path.is_file():
            raise ConfigError(f"--weights {given}: there is no such file; give a path that exists")
        name = path.resolve().parent.name if settings_beside(path) else path.stem
        if name in loaders:
            raise ConfigError(f"--weights {given}: {name!r} is there already; rename one of them")
        loaders[name] = partial(build_sam, path)
    return Models(loaders, device=device)


def _needed(config: RunConfig) -> dict[str, Path | None]:
    """The file behind each model that the run validates; None where there need not be one."""
    paths, students = RunPaths(config), trained(config)
    teachers = {name: RunPaths(one).teacher_weights for name, one in named_teachers(config).items()}
    files: dict[str, Path | None] = {
        START: paths.start_weights,
        **{name: paths.checkpoint(*of) for name, of in students.items()},
        **teachers,
        **compared(config),
    }
    return {name: files[name] for name in validated(config) if name != BOX_FILLED}


def _usual(config: RunConfig) -> list[str]:
    """The start, each stage, and the teachers; of the last stage what the run exports."""
    *before, _ = normalise(config)
    stages = [stage_checkpoint(stage, "last") for stage in before]
    return [START, *stages, exported(config), *named_teachers(config)]
