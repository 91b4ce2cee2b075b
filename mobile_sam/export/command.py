"""The command `export` with `--onnx` or `--web`, for a run's final weights or any others."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import ImageOptions
from mobile_sam.export.bundle import format_table, write_bundle
from mobile_sam.export.calibration import (
    EvaluationImage,
    ExportImages,
    from_index,
    images_from_directory,
    images_from_index,
)
from mobile_sam.export.onnx_export import require_onnx
from mobile_sam.export.web_page import runtime_archive, write_page
from mobile_sam.models.detect_architecture import load_any
from mobile_sam.paths import RunPaths
from mobile_sam.system.atomic_files import file_digest
from mobile_sam.system.errors import ConfigError

_PAGE_EXAMPLES = 3
_OPEN_PAGE = "to view it: python -m http.server --directory {}, then open http://localhost:8000"


@dataclass(frozen=True)
class WebOptions:
    """Options of a web page. runtime: the archive of onnxruntime-web; None downloads it."""

    runtime: Path | None = None


def export_bundle(
    directory: Path,
    config: RunConfig | None,
    weights: Path | None,
    img_size: int,
    model_type: str | None,
    forms: Sequence[str],
    images: Path | None,
    count: int,
    web: WebOptions | None = None,
) -> str:
    """Write a bundle of a run (`config`) or of `weights`; return the text to print.

    img_size, model_type: of `weights`; a run has its own. model_type: None detects it.
    forms: precisions in addition to float32. images: a directory; None: the images of the run.
    count: largest number of calibration images.
    web: None for the bundle alone; otherwise a web page that contains the bundle.
    Raises UserError if anything is missing; then nothing is written.
    """
    if count < 1:
        raise ConfigError(f"--calibration-images: {count}; it must be at least 1")
    require_onnx()
    threshold = 0.0
    if config is not None:
        weights, threshold = _final_weights(config, web), config.mask_threshold
        img_size, model_type = config.img_size, config.model_type
    elif weights is None:
        raise ConfigError(
            "export --onnx: there is no model; give a run with --config, or a file with --weights"
        )
    archive = None if web is None else runtime_archive(web.runtime)
    export_images = _export_images(config, images, count) if forms else None
    model = load_any(weights, img_size, model_type).eval().requires_grad_(False)
    source = {"weights": str(weights), "sha256": file_digest(weights)}

    def write(target: Path) -> dict[str, Any]:
        return write_bundle(model, target, source, forms, export_images, threshold)

    if archive is None:
        return format_table(write(directory))
    title = weights.stem if config is None else config.run_name
    examples = _page_examples(config, images)
    table = format_table(write_page(directory, write, archive, title, examples))
    return f"{table}\n\n{_OPEN_PAGE.format(directory)}"


def _final_weights(config: RunConfig, web: WebOptions | None) -> Path:
    """Return the final weights of a run. Raises ConfigError if there are none."""
    weights = RunPaths(config).weights
    if not weights.is_file():
        option = "--onnx" if web is None else "--web"
        raise ConfigError(f"{weights}: there is no such file; run `export` without {option} first")
    return weights


def _image_options(config: RunConfig | None) -> ImageOptions:
    return ImageOptions() if config is None else config.data


def _export_images(config: RunConfig | None, images: Path | None, count: int) -> ExportImages:
    if images is not None:
        return images_from_directory(images, count, _image_options(config))
    if config is None:
        raise ConfigError("--float16 and --int8 need images for evaluation; add --images DIRECTORY")
    return images_from_index(RunPaths(config).index, count)


def _page_examples(config: RunConfig | None, images: Path | None) -> list[EvaluationImage]:
    """Select examples for a page from the directory, or from the run's validation split."""
    if images is not None:
        selected = images_from_directory(images, _PAGE_EXAMPLES, _image_options(config))
        return [*selected.evaluation, *selected.calibration][:_PAGE_EXAMPLES]
    if config is None:
        return []
    return from_index(RunPaths(config).index, "val", _PAGE_EXAMPLES)
