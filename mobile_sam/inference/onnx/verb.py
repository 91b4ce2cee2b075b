"""The verb `export` with `--onnx` or `--web`: a run's final weights, or any others, to be used."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mobile_sam.inference.onnx.bundle as bundles
from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.data.index import Index
from mobile_sam.files import file_digest
from mobile_sam.inference.onnx.examples import Examples, of_directory, of_index, spaced
from mobile_sam.inference.onnx.web_page import write_page
from mobile_sam.inference.onnx.web_runtime import runtime_archive
from mobile_sam.layout import RunPaths
from mobile_sam.models.recognise import load_any

_SHOWN = 3  # images on a page
_LOOK = "to look at it: python -m http.server --directory {}, then http://localhost:8000"


@dataclass(frozen=True)
class Web:
    """A page around the bundle. runtime: the archive of onnxruntime-web; None fetches it."""

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
    web: Web | None = None,
) -> str:
    """Write a bundle of a run (`config`), or of `weights`; returns what to print.

    img_size, model_type: of `weights`; a run has its own. model_type: None recognises it.
    forms: beside float32. images: a directory; None takes the images of the run.
    count: calibration images at most. web: a page that runs it in the browser, around it.
    Raises UserError where something is missing; then nothing is written.
    """
    if count < 1:
        raise ConfigError(f"--calibration-images: {count}; it must be at least 1")
    bundles.require_onnx()
    threshold = 0.0
    if config is not None:
        weights, threshold = _weights_of(config, web), config.mask_threshold
        img_size, model_type = config.img_size, config.model_type
    elif weights is None:
        raise ConfigError("export --onnx: name a run with --config, or a file with --weights")
    examples = _examples(config, images, count) if forms else None
    model = load_any(weights, img_size, model_type).eval().requires_grad_(False)
    source = {"weights": str(weights), "sha256": file_digest(weights)}

    def write(target: Path) -> dict[str, Any]:
        return bundles.write_bundle(model, target, source, forms, examples, threshold)

    if web is None:
        return bundles.table(write(directory))
    title = weights.stem if config is None else config.run_name
    archive, shown = runtime_archive(web.runtime), _shown(config, images)
    table = bundles.table(write_page(directory, write, archive, title, shown))
    return f"{table}\n\n{_LOOK.format(directory)}"


def _weights_of(config: RunConfig, web: Web | None) -> Path:
    """The final weights of a run. Raises ConfigError where there are none."""
    weights = RunPaths(config).weights
    if not weights.is_file():
        without = "--onnx" if web is None else "--web"
        raise ConfigError(f"{weights}: there is no such file; run `export` without {without} first")
    return weights


def _examples(config: RunConfig | None, images: Path | None, count: int) -> Examples:
    if images is not None:
        return of_directory(images, count)
    if config is None:
        raise ConfigError(
            "--float16 and --int8 need images to be judged by; add --images DIRECTORY"
        )
    return of_index(RunPaths(config).index, count)


def _shown(config: RunConfig | None, images: Path | None) -> list[Path]:
    """Images to try a page on: some of the directory, else of the run's validation split."""
    if images is not None:
        found = of_directory(images, _SHOWN)
        return [*(judge.path for judge in found.judges), *found.calibration][:_SHOWN]
    if config is None:
        return []
    index = Index(RunPaths(config).index, "val")
    return [index[number].path for number in spaced(len(index), _SHOWN)]
