"""Loading of models by file, name or run, and the original's registry.

Models are in eval mode, on the CPU. The architecture is detected from the weights.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mobile_sam.config.architectures import architectures
from mobile_sam.config.load import load_settings
from mobile_sam.config.run import RunConfig
from mobile_sam.download.files import fetched_weights
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.detect_architecture import load_any
from mobile_sam.models.sam import Sam
from mobile_sam.paths import RunPaths, finished_runs, run_directory, run_files, settings_of_weights
from mobile_sam.system.errors import ConfigError

PUBLISHED_SIZE = 1024  # side of the model frame of published weights, in pixels
# Runs are looked up by name where a config puts them by default.
_PROJECT: str = RunConfig.model_fields["project_name"].default
_OUTPUT: str = RunConfig.model_fields["output_dir"].default


def build_sam(checkpoint: str | Path | None = None, img_size: int | None = None) -> Sam:
    """Build a model from any weights; the architecture is detected.

    checkpoint: a file of this package, of MobileSAM or of SAM; or a known name, which is fetched.
    None: `vit_h` with random weights, as in the original.
    img_size: side of the model frame in pixels; None: the run's for the `weights.pt` of a run, 1024
    for all other weights. A run's `weights.pt` also has the run's mask threshold and image options.
    Raises ConfigError for weights of no known architecture.
    """
    if checkpoint is None:
        return build_registered("vit_h")
    path = fetched_weights(checkpoint)
    settings = settings_of_weights(path)
    if settings is None:
        return load_any(path, img_size or PUBLISHED_SIZE).eval()
    config = load_settings(settings)
    model = load_any(path, img_size or config.img_size, config.model_type)
    model.mask_threshold, model.image_options = config.mask_threshold, config.data
    return model.eval()


def load_run(
    run: str | Path,
    project_name: str = _PROJECT,
    output_dir: str | Path = _OUTPUT,
    img_size: int | None = None,
) -> Sam:
    """Load the model that a run trained.

    run: its name; or its directory or `run.json`, as a Path or as text with a slash.
    project_name, output_dir: for a name, where to look; by default the defaults of a config.
    img_size: as in `build_sam`.
    Raises ConfigError, which lists the finished runs, for a run that is unknown or unfinished.
    """
    return build_sam(weights_of_run(run, project_name, output_dir), img_size)


def weights_of_run(
    run: str | Path,
    project_name: str = _PROJECT,
    output_dir: str | Path = _OUTPUT,
) -> Path:
    """Return the weights file of a finished run; arguments and errors as in `load_run`."""
    directory = _directory(run, project_name, Path(output_dir))
    settings, weights = run_files(directory)
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
    """Return the settings of a run, with the `output_dir` that it is in now.

    Arguments as in `load_run`. Raises ConfigError for a run that is unknown or was renamed.
    """
    directory = _directory(run, project_name, Path(output_dir))
    settings, _ = run_files(directory)
    if not settings.is_file():
        raise _unknown(directory)
    config = load_settings(settings)
    path = directory.resolve()
    if (path.parent.name, path.name) != (config.project_name, config.run_name):
        raise ConfigError(
            f"{settings}: the settings of {config.project_name}/{config.run_name}; rename the "
            "directory back to this name"
        )
    if RunPaths(config).run.resolve() == path:
        return config
    return config.model_copy(update={"output_dir": str(path.parents[1])})


def _directory(run: str | Path, project_name: str, output_dir: Path) -> Path:
    if not isinstance(run, Path) and "/" not in run:
        return run_directory(run, project_name, output_dir)
    return Path(run).parent if Path(run).suffix == ".json" else Path(run)


def _unknown(directory: Path) -> ConfigError:
    finished = ", ".join(finished_runs(directory.parent)) or "none"
    return ConfigError(
        f"run: there is no {directory.name!r} in {directory.parent}; finished runs there: "
        f"{finished}"
    )


def build_registered(model_type: str, checkpoint: str | Path | None = None) -> Sam:
    """Build a 1024-pixel model of an architecture of `configs/*.yaml`.

    checkpoint: as in `build_sam`; None: random weights. Raises ConfigError for weights that do not
    fit.
    """
    if checkpoint is None:
        return build_sam_model(model_type, PUBLISHED_SIZE).eval()
    return load_any(fetched_weights(checkpoint), PUBLISHED_SIZE, model_type).eval()


def build_sam_vit_h(checkpoint: str | Path | None = None) -> Sam:
    """Build SAM with ViT-H."""
    return build_registered("vit_h", checkpoint)


def build_sam_vit_l(checkpoint: str | Path | None = None) -> Sam:
    """Build SAM with ViT-L."""
    return build_registered("vit_l", checkpoint)


def build_sam_vit_b(checkpoint: str | Path | None = None) -> Sam:
    """Build SAM with ViT-B."""
    return build_registered("vit_b", checkpoint)


def build_sam_vit_t(checkpoint: str | Path | None = None) -> Sam:
    """Build MobileSAM."""
    return build_registered("vit_t", checkpoint)


# All architectures, and the original's five names.
sam_model_registry: dict[str, Callable[..., Sam]] = {
    **{name: partial(build_registered, name) for name in architectures()},
    "default": build_sam_vit_h,
    "vit_h": build_sam_vit_h,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
    "vit_t": build_sam_vit_t,
}
