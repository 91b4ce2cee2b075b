"""The verb `export --onnx`: a bundle of a run's final weights, or of any others."""

from collections.abc import Sequence
from pathlib import Path

import mobile_sam.inference.onnx.bundle as bundles
from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.files import file_digest
from mobile_sam.inference.onnx.examples import Examples, of_directory, of_index
from mobile_sam.layout import RunPaths
from mobile_sam.models.recognise import load_any


def export_bundle(
    directory: Path,
    config: RunConfig | None,
    weights: Path | None,
    img_size: int,
    model_type: str | None,
    forms: Sequence[str],
    images: Path | None,
    count: int,
) -> str:
    """Write a bundle of a run (`config`), or of `weights`; returns its table.

    img_size, model_type: of `weights`; a run has its own. model_type: None recognises it.
    forms: beside float32. images: a directory; None takes the images of the run.
    count: calibration images at most.
    Raises UserError where something is missing; then nothing is written.
    """
    if count < 1:
        raise ConfigError(f"--calibration-images: {count}; it must be at least 1")
    bundles.require_onnx()
    threshold = 0.0
    if config is not None:
        weights, threshold = RunPaths(config).weights, config.mask_threshold
        img_size, model_type = config.img_size, config.model_type
        if not weights.is_file():
            raise ConfigError(
                f"{weights}: there is no such file; run `export` without --onnx first"
            )
    elif weights is None:
        raise ConfigError("export --onnx: name a run with --config, or a file with --weights")
    examples = _examples(config, images, count) if forms else None
    model = load_any(weights, img_size, model_type).eval().requires_grad_(False)
    source = {"weights": str(weights), "sha256": file_digest(weights)}
    about = bundles.write_bundle(model, directory, source, forms, examples, threshold)
    return bundles.table(about)


def _examples(config: RunConfig | None, images: Path | None, count: int) -> Examples:
    if images is not None:
        return of_directory(images, count)
    if config is None:
        raise ConfigError(
            "--float16 and --int8 need images to be judged by; add --images DIRECTORY"
        )
    return of_index(RunPaths(config).index, count)
