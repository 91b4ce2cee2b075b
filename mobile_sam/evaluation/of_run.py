"""The models that a run validates: loaded, given a detector's boxes, and their cost."""

import logging
import math
from pathlib import Path

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.evaluation.cost import blueprint_of, blueprints, write_costs
from mobile_sam.evaluation.detections import detected_precision
from mobile_sam.files import write_json
from mobile_sam.layout import BOX_FILLED, START, RunPaths, compared, settings_beside, trained
from mobile_sam.models.device import default_device
from mobile_sam.models.recognise import load_any
from mobile_sam.models.roles import load_teacher, start_student
from mobile_sam.models.sam import Sam
from mobile_sam.plan import check_detections
from mobile_sam.runs import load_settings
from mobile_sam.teachers import named_teachers
from mobile_sam.training.export import load_student

log = logging.getLogger(__name__)


def validated_model(config: RunConfig, what: str) -> Sam:
    """The model that `validated` names, in eval mode, on the device of this machine."""
    teachers, others, students = named_teachers(config), compared(config), trained(config)
    if what in teachers:
        model = load_teacher(teachers[what])
    elif what in others:
        model = load_any(others[what], config.img_size, _model_type_beside(others[what]))
    else:
        model = start_student(config)
        if what != START:
            load_student(model, config, *students[what])
    return model.eval().to(default_device())


def _model_type_beside(weights: Path) -> str | None:
    """The architecture of a run's weights, by the settings beside them; None for other files."""
    settings = settings_beside(weights)
    return None if settings is None else load_settings(settings).model_type


def write_average_precision(config: RunConfig, what: str) -> None:
    """Write AP of the boxes of `detections`, segmented by `what`, as JSON.

    Raises ConfigError when there are none, or when the masks are in no COCO file.
    """
    if config.detections is None or what == BOX_FILLED:
        raise ConfigError("detections: set it to the boxes that a model is to segment")
    paths = RunPaths(config)
    check_detections(config)
    found = detected_precision(
        validated_model(config, what),
        Path(config.detections),
        paths.mask_dir("val"),
        paths.image_dir("val"),
        config.mask_threshold,
    )
    known = {name: value for name, value in found.items() if not math.isnan(value)}
    write_json(paths.average_precision(what), {name: known.get(name) for name in found})
    log.info("%s: %s", what, "  ".join(f"{name} {value:.3f}" for name, value in known.items()))


def measure_costs(config: RunConfig) -> None:
    """Write parameters, operations, latency and memory of the run's models, on this machine."""
    if not config.cost_repeats:
        raise ConfigError("cost_repeats: 0 measures no cost; set it to 1 or more")
    extra = {
        name: blueprint_of(path, config.img_size, _model_type_beside(path))
        for name, path in compared(config).items()
    }
    write_costs(blueprints(config) | extra, RunPaths(config).cost, config.cost_repeats)
