"""Models that a run validates: loading them, their AP with a detector's boxes, their cost."""

import json
import logging
import math
from pathlib import Path

from mobile_sam.config.checkpoints import BOX_FILLED, START, stage_checkpoints
from mobile_sam.config.load import load_settings
from mobile_sam.config.renames import with_old_names
from mobile_sam.config.run import RunConfig
from mobile_sam.config.teachers import named_teachers
from mobile_sam.evaluation.cost import model_specs, read_model_spec, write_costs
from mobile_sam.evaluation.detections import measure_detections
from mobile_sam.models.detect_architecture import load_any
from mobile_sam.models.device import default_device
from mobile_sam.models.safe_load import module_digest
from mobile_sam.models.sam import Sam
from mobile_sam.models.student_teacher import load_teacher, start_student
from mobile_sam.paths import RunPaths, extra_checkpoints, settings_of_weights
from mobile_sam.pipeline.fingerprints import fingerprint
from mobile_sam.pipeline.inputs import check_detections
from mobile_sam.system.atomic_files import file_digest, write_json
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.finished_results import Finished
from mobile_sam.training.export import load_student

log = logging.getLogger(__name__)


def load_checkpoint_model(config: RunConfig, checkpoint: str) -> Sam:
    """Load a checkpoint of `checkpoint_names` in eval mode on this machine's default device."""
    teachers, others, students = (
        named_teachers(config),
        extra_checkpoints(config),
        stage_checkpoints(config),
    )
    if checkpoint in teachers:
        model = load_teacher(teachers[checkpoint])
    elif checkpoint in others:
        model = load_any(
            others[checkpoint], config.img_size, _model_type_beside(others[checkpoint])
        )
    else:
        model = start_student(config)
        if checkpoint != START:
            load_student(model, config, *students[checkpoint])
    return model.eval().to(default_device())


def _model_type_beside(weights: Path) -> str | None:
    """Return the architecture in the settings next to a run's weights; None for other files."""
    settings = settings_of_weights(weights)
    return None if settings is None else load_settings(settings).model_type


def write_average_precision(config: RunConfig, checkpoint: str) -> None:
    """Write AP of a checkpoint, prompted by the boxes of `detections`, as JSON.

    Raises ConfigError if there are no boxes or if the masks are not in a COCO file.
    """
    if config.detections is None or checkpoint == BOX_FILLED:
        raise ConfigError("detections: set it to a file with boxes of a detector")
    check_detections(config)
    paths, model, boxes = (
        RunPaths(config),
        load_checkpoint_model(config, checkpoint),
        Path(config.detections),
    )
    target = paths.average_precision(checkpoint)
    key = {
        "weights": module_digest(model),
        "detections": file_digest(boxes),
        "images and masks": fingerprint(config),
        "mask_threshold": config.mask_threshold,
        "data": with_old_names(config.data.model_dump(mode="json")),
    }
    finished = Finished(paths.finished_table(target), json.dumps(key, sort_keys=True), [target])
    if finished.restore():
        log.info("%s: AP was measured before; it is restored", checkpoint)
        return
    with finished.making() as place:
        metrics = measure_detections(
            model,
            boxes,
            paths.mask_dir("val"),
            paths.image_dir("val"),
            config.mask_threshold,
            config.data,
        )
        finite = {name: value for name, value in metrics.items() if not math.isnan(value)}
        write_json(place / target.name, {name: finite.get(name) for name in metrics})
    log.info(
        "%s: %s", checkpoint, "  ".join(f"{name} {value:.3f}" for name, value in finite.items())
    )


def measure_costs(config: RunConfig) -> None:
    """Measure parameters, FLOPs, latency and memory of the run's models on this machine."""
    if not config.benchmark_repeats:
        raise ConfigError("benchmark_repeats: 0 disables the measurement; set it to 1 or more")
    extra = {
        name: read_model_spec(path, config.img_size, _model_type_beside(path))
        for name, path in extra_checkpoints(config).items()
    }
    write_costs(model_specs(config) | extra, RunPaths(config).cost, config.benchmark_repeats)
