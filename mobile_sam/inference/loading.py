"""Models by name, by file, by run: the original's registry, and loading that needs no architecture.

Models are in eval mode, on the CPU.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mobile_sam.architectures import architectures
from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.fetch import fetched_weights
from mobile_sam.layout import (
    RunPaths,
    files_of_run,
    finished_runs,
    run_directory,
    settings_beside,
)
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.recognise import load_any
from mobile_sam.models.sam import Sam
from mobile_sam.models.weights import load_weights
from mobile_sam.runs import load_settings

PUBLISHED_SIZE = 1024  # pixels
# Where runs are looked up by name: where a config puts them by default.
_PROJECT: str = RunConfig.model_fields["project_name"].default
_OUTPUT: str = RunConfig.model_fields["output_dir"].default


def build_sam(checkpoint: str | Path | None = None, img_size: int | None = None) -> Sam:
    """The model of any weights, with the architecture that they have.

    checkpoint: a file of this package, of MobileSAM or of SAM; or a known name, which is fetched.
    None is `vit_h` with random weights, as in the original.
    img_size: side of the model frame in pixels; None: that of the run for its `weights.pt`, beside
    which its settings lie and say what masks are too, and 1024 for all other weights.
    Raises ConfigError for weights of no known architecture.
    """
    if checkpoint is None:
        return registered("vit_h")
    path = fetched_weights(checkpoint)
    settings = settings_beside(path)
    if settings is None:
        return load_any(path, img_size or PUBLISHED_SIZE).eval()
    config = load_settings(settings)
    model = load_weights(path, config.model_type, img_size or config.img_size)
    model.mask_threshold = config.mask_threshold
    return model.eval()


def load_run(
    run: str | Path,
    project_name: str = _PROJECT,
    output_dir: str | Path = _OUTPUT,
    img_size: int | None = None,
) -> Sam:
    """The model that a run has trained.

    run: its name, its directory or its `run.json`: a Path, or text with a slash.
    project_name, output_dir: where runs are looked up by name; by default those of a config.
    img_size: as in `build_sam`.
    Raises ConfigError, which names the runs that exist, for one that is unknown or unfinished.
    """
    return build_sam(weights_of_run(run, project_name, output_dir), img_size)


def weights_of_run(
    run: str | Path,
    project_name: str = _PROJECT,
    output_dir: str | Path = _OUTPUT,
) -> Path:
    """The file of the weights of a finished run; arguments and errors are those of `load_run`."""
    directory = _directory(run, project_name, Path(output_dir))
    settings, weights = files_of_run(directory)
    if weights.is_file():
        return weights
    if settings.is_file():
        raise ConfigError(f"{weights}: the run has no weights yet; let its training finish first")
    raise _unknown(directory)


def settings_of_run(
    run: str | Path,
    project_name: str = _PROJECT,
    output_dir: str | Path = _OUTPUT,
) -> RunConfig:
    """The settings of a run, with the `output_dir` in which it lies now.

    Arguments as of `load_run`. Raises ConfigError for one that is unknown, or of another name.
    """
    directory = _directory(run, project_name, Path(output_dir))
    settings, _ = files_of_run(directory)
    if not settings.is_file():
        raise _unknown(directory)
    config = load_settings(settings)
    place = directory.resolve()
    if (place.parent.name, place.name) != (config.project_name, config.run_name):
        raise ConfigError(
            f"{settings}: the settings of {config.project_name}/{config.run_name}; call the "
            "directory by this name again"
        )
    lies = RunPaths(config).run.resolve() == place
    return config if lies else config.model_copy(update={"output_dir": str(place.parents[1])})


def _directory(run: str | Path, project_name: str, output_dir: Path) -> Path:
    if not isinstance(run, Path) and "/" not in run:
        return run_directory(run, project_name, output_dir)
    return Path(run).parent if Path(run).suffix == ".json" else Path(run)


def _unknown(directory: Path) -> ConfigError:
    found = ", ".join(finished_runs(directory.parent)) or "none"
    return ConfigError(
        f"run: there is no {directory.name!r} in {directory.parent}; finished runs there: {found}"
    )


def registered(model_type: str, checkpoint: str | Path | None = None) -> Sam:
    """A model of 1024 pixels of an architecture of `configs/*.yaml`; random without a checkpoint.

    checkpoint: as in `build_sam`. Raises ConfigError for weights that do not fit.
    """
    if checkpoint is None:
        return build_sam_model(model_type, PUBLISHED_SIZE).eval()
    return load_weights(fetched_weights(checkpoint), model_type, PUBLISHED_SIZE).eval()


def build_sam_vit_h(checkpoint: str | Path | None = None) -> Sam:
    """SAM with ViT-H."""
    return registered("vit_h", checkpoint)


def build_sam_vit_l(checkpoint: str | Path | None = None) -> Sam:
    """SAM with ViT-L."""
    return registered("vit_l", checkpoint)


def build_sam_vit_b(checkpoint: str | Path | None = None) -> Sam:
    """SAM with ViT-B."""
    return registered("vit_b", checkpoint)


def build_sam_vit_t(checkpoint: str | Path | None = None) -> Sam:
    """MobileSAM."""
    return registered("vit_t", checkpoint)


# Every architecture there is, and the original's five names.
sam_model_registry: dict[str, Callable[..., Sam]] = {
    **{name: partial(registered, name) for name in architectures()},
    "default": build_sam_vit_h,
    "vit_h": build_sam_vit_h,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
    "vit_t": build_sam_vit_t,
}
