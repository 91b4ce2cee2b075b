"""Where results lie: the only module that joins result paths."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobile_sam.config import DIRECTORY_KEYS, ConfigError, RunConfig
from mobile_sam.fetch import weights_path
from mobile_sam.options import Kept, is_safe_name
from mobile_sam.schedule import any_distillation, normalise
from mobile_sam.stage import Stage
from mobile_sam.teachers import named_teachers, random_number, teacher_configs


@dataclass(frozen=True)
class RunPaths:
    """Paths of one run: everything is below `<output_dir>/<project_name>`."""

    config: RunConfig

    @property
    def project(self) -> Path:
        return Path(self.config.output_dir) / self.config.project_name

    @property
    def run(self) -> Path:
        return self.project / self.config.run_name

    # Shared by the runs of a project.

    @property
    def dataset(self) -> Path:
        """Index and teacher features of the data set, named by what it is made of."""
        return self.project / "shared" / _dataset_name(self.config)

    @property
    def dataset_settings(self) -> Path:
        return self.dataset / "dataset.json"

    @property
    def synthetic_manifest(self) -> Path:
        return self.dataset / "synthetic.json"

    @property
    def index(self) -> Path:
        return self.dataset / "index.parquet"

    @property
    def kept_index(self) -> Path:
        """The last index, undeclared: what has not changed since is not read again."""
        return self.dataset / "index.kept.parquet"

    @property
    def sources(self) -> dict[str, tuple[Path, ...]]:
        """Images and masks of each split that has its own: `train`, and mostly `val`.

        Of `unlabelled`, where the run has images without masks, the images.
        """
        labelled = ["train"] if splits_by_fraction(self.config) else ["train", "val"]
        places: dict[str, tuple[Path, ...]] = {
            split: (self.image_dir(split), self.mask_dir(split)) for split in labelled
        }
        if self.config.unlabelled_img_dir is not None:
            places["unlabelled"] = (Path(self.config.unlabelled_img_dir),)
        return places

    def image_dir(self, split: str) -> Path:
        """Images of `train` or `val`."""
        given = getattr(self.config, f"{split}_img_dir")
        return Path(given) if given is not None else self.dataset / split / "image"

    def mask_dir(self, split: str) -> Path:
        """Masks of `train` or `val`."""
        given = getattr(self.config, f"{split}_mask_dir")
        return Path(given) if given is not None else self.dataset / split / "mask"

    @property
    def features(self) -> Path:
        """The Zarr store of teacher features; undeclared, so that Snakemake never deletes it."""
        given = self.config.train_img_dir_teacher_features
        if given is not None:
            return Path(given)
        return self.dataset / "features" / f"{feature_key(self.config)}.zarr"

    @property
    def features_settings(self) -> Path:
        return self.features.with_suffix(".settings.json")

    @property
    def features_plan(self) -> Path:
        """Which image has which row; written before any feature is computed."""
        return self.features.with_suffix(".plan.json")

    def features_part(self, part: int) -> Path:
        """What one extraction job has finished."""
        return self.features.with_suffix(f".part{part}of{self.config.extract_jobs}.json")

    @property
    def features_manifest(self) -> Path:
        """The store is complete."""
        return self.features.with_suffix(".json")

    def embeddings(self, encoder: str) -> Path:
        """What a frozen image encoder gives; `encoder` is the digest of its weights."""
        return self.dataset / "embeddings" / f"{encoder}-{self.config.img_size}px.zarr"

    @property
    def teachers(self) -> tuple["RunPaths", ...]:
        """The paths of each teacher of the run, which has `features` and weights of its own."""
        return tuple(RunPaths(teacher) for teacher in teacher_configs(self.config))

    # The run's own.

    @property
    def settings(self) -> Path:
        return files_of_run(self.run)[0]

    def checkpoint(self, stage: Stage, kept: Kept = "last") -> Path:
        """What a finished stage leaves: after its last epoch, or after its best one."""
        name = {"last": "checkpoint.pt", "best": "best.pt"}[kept]
        return self.run / "stages" / stage.directory / name

    def metrics(self, stage: Stage) -> Path:
        return self.run / "stages" / stage.directory / "metrics.csv"

    def state(self, stage: Stage) -> Path:
        """Resume state; undeclared, so that nothing deletes it."""
        return self.run / "state" / stage.directory

    @property
    def lock(self) -> Path:
        """Held by the process that trains the run."""
        return self.run / "state" / "lock"

    def tensorboard(self, stage: Stage) -> Path:
        """Event files; undeclared, so that they outlive a killed job."""
        return self.run / "tensorboard" / stage.directory

    @property
    def weights(self) -> Path:
        """The student's state dict, in original MobileSAM names."""
        return files_of_run(self.run)[1]

    def validation(self, what: str) -> Path:
        """The table of what was measured of `what`, one of `validated`."""
        return self.run / "validation" / f"{what}.parquet"

    def validation_part(self, what: str, part: int) -> Path:
        """What one of `validate_jobs` jobs measured."""
        jobs = self.config.validate_jobs
        return self.run / "validation" / "parts" / f"{what}.{part}of{jobs}.parquet"

    def average_precision(self, what: str) -> Path:
        """AP of a detector's boxes, segmented by `what`."""
        return self.run / "validation" / f"{what}.ap.json"

    @property
    def cost(self) -> Path:
        """Parameters, operations, latency and memory of the run's models."""
        return self.run / "validation" / "cost.csv"

    @property
    def report(self) -> Path:
        return self.run / "report"

    @property
    def logs(self) -> Path:
        return self.run / "logs"

    @property
    def benchmarks(self) -> Path:
        return self.run / "benchmarks"

    @property
    def shared_logs(self) -> Path:
        return self.dataset / "logs"

    @property
    def teacher_weights(self) -> Path | None:
        """The first teacher's file, or None when there is no teacher or it is random."""
        teacher = self.config.teacher_checkpoint
        if teacher is None or random_number(teacher) is not None:
            return None
        if teacher.startswith("run:"):
            return self.weights_of(teacher)
        return weights_path(teacher)

    def weights_of(self, reference: str) -> Path:
        """Weights of another run of the project, `run:<name>`.

        Raises ConfigError for what is no name of a run, and could lead out of the project.
        """
        name = reference.removeprefix("run:")
        if not is_safe_name(name):
            raise ConfigError(
                f"run {self.config.run_name!r}: {reference!r} names no run of the project; give "
                "run:<run_name>, of letters, digits, '_', '-' and '.'"
            )
        return files_of_run(self.project / name)[1]

    @property
    def start_weights(self) -> Path | None:
        """The file of the start checkpoint, or None for random weights and those of timm."""
        checkpoint = self.config.checkpoint
        return None if checkpoint in {None, "imagenet"} else weights_path(str(checkpoint))


_SETTINGS, _WEIGHTS = "run.json", "weights.pt"


def run_directory(run_name: str, project_name: str, output_dir: Path) -> Path:
    """The directory of a run, whose settings need not be known."""
    return output_dir / project_name / run_name


def finished_runs(project: Path) -> list[str]:
    """Names of the runs of a project that have exported weights."""
    return sorted(path.parent.name for path in project.glob(f"*/{_WEIGHTS}"))


def files_of_run(directory: Path) -> tuple[Path, Path]:
    """The settings of the run in a directory, and the weights that it exports."""
    return directory / _SETTINGS, directory / _WEIGHTS


def settings_beside(weights: Path) -> Path | None:
    """The settings of the run that exported `weights`; None for other files."""
    settings, exported_weights = files_of_run(weights.parent)
    return settings if weights == exported_weights and settings.is_file() else None


_LONGEST_NAME = 120  # of a directory
BOX_FILLED, START = "box_filled", "start"


def validated(config: RunConfig) -> list[str]:
    """What the run validates, in the order of its tables.

    The trivial baseline (the box itself as a mask), the student before training, each stage's last
    and best checkpoint, the teachers, and what `compare` names.
    """
    return [BOX_FILLED, START, *trained(config), *named_teachers(config), *compared(config)]


def trained(config: RunConfig) -> dict[str, tuple[Stage, Kept]]:
    """The checkpoints of all stages, by their names in tables: `NN_name` and `NN_name_best`.

    Without images to validate between epochs, no epoch is known to be the best.
    """
    kept: tuple[Kept, ...] = ("last", "best") if config.val_images else ("last",)
    return {
        stage_checkpoint(stage, which): (stage, which)
        for stage in normalise(config)
        for which in kept
    }


def stage_checkpoint(stage: Stage, kept: Kept) -> str:
    """The name of a stage's checkpoint in tables."""
    return stage.directory if kept == "last" else f"{stage.directory}_best"


def exported(config: RunConfig) -> str:
    """The name in tables of what the run exports."""
    kept = config.use_checkpoint if config.val_images else "last"
    return stage_checkpoint(normalise(config)[-1], kept)


def compared(config: RunConfig) -> dict[str, Path]:
    """Weights beside the run's own, by their names in tables.

    `run:x` is `run_x`, a known checkpoint has its own name, a file that of its stem. Raises
    ConfigError for two of one name.
    """
    found: dict[str, Path] = {}
    taken = {BOX_FILLED, START, *trained(config), *named_teachers(config)}
    for weights in config.compare:
        if weights.startswith("run:"):
            name = weights.replace(":", "_", 1)
            path = RunPaths(config).weights_of(weights)
        else:
            name, path = _clean(Path(weights).stem), weights_path(weights)
        if name in found or name in taken:
            raise ConfigError(
                f"run {config.run_name!r}: compare: {weights!r} would be {name!r} in tables, and "
                "that is something else already; rename the file or link to it by another name"
            )
        found[name] = path
    return found


def comparable(configs: Sequence[RunConfig]) -> list[tuple[RunConfig, ...]]:
    """Runs whose numbers compare, two or more together: of one data set, at one threshold."""
    groups: dict[tuple[Path, float], list[RunConfig]] = {}
    for config in configs:
        groups.setdefault((RunPaths(config).dataset, config.mask_threshold), []).append(config)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def comparison(configs: Sequence[RunConfig]) -> Path:
    """The directory of the report that compares several runs of a project."""
    name = "+".join(config.run_name for config in configs)
    if len(name) > _LONGEST_NAME:
        name = f"{configs[0].run_name}+{len(configs) - 1}-{_digest(name)}"
    return RunPaths(configs[0]).project / "comparisons" / name


def splits_by_fraction(config: RunConfig) -> bool:
    """Whether validation images are drawn from the training images."""
    return config.train_img_dir is not None and config.val_img_dir is None


def needs_features(config: RunConfig) -> bool:
    """Whether the run reads stored teacher features."""
    return any_distillation(config) and config.teacher == "stored"


def feature_key(config: RunConfig) -> str:
    """Names a feature store by what decides its content: teacher, levels, size, dtype, views."""
    teacher = _slug(config.teacher_checkpoint or "none", extra=config.teacher_model_type or "")
    number = random_number(config.teacher_checkpoint)
    if number is not None:
        teacher = f"random{number or ''}-{config.teacher_model_type}-seed{config.seed}"
    # No teacher's name has a plus, so that no level can be taken for a part of one.
    levels = "+".join(str(level) for level in config.distill_levels)
    views = "".join(f"-{view}" for view in config.feature_views if view != "identity")
    return f"{teacher}-{levels}-{config.img_size}px-{config.feature_dtype}{views}"


def _dataset_name(config: RunConfig) -> str:
    # Only what differs from the defaults enters, so that names stay when keys are added.
    # Of another version, only what changed is read: its index takes the place of the one before.
    options: dict[str, Any] = config.data.model_dump(exclude_defaults=True, exclude={"version"})
    if splits_by_fraction(config):
        options |= {"val_fraction": config.data.val_fraction, "seed": config.seed}
    if config.unlabelled_img_dir is not None:
        options["unlabelled_img_dir"] = str(Path(config.unlabelled_img_dir).resolve())
    if config.train_img_dir is None:
        scenes = config.synthetic
        if scenes is None:
            raise ValueError(f"run {config.run_name!r}: neither directories nor synthetic data")
        name = f"synthetic-{scenes.train}-{scenes.val}-{scenes.size}px-seed{config.seed}"
        return f"{name}-{_digest(json.dumps(options))}" if options else name
    given = [getattr(config, key) for key in DIRECTORY_KEYS]
    directories = [value and str(Path(value).resolve()) for value in given]
    train = Path(directories[0])
    name = next((p for p in reversed(train.parts) if p not in {"image", "images", "train"}), "data")
    what = [*directories, options] if options else directories
    return f"{_clean(name)}-{_digest(json.dumps(what, sort_keys=True))}"


def _slug(text: str, extra: str) -> str:
    """Readable and unambiguous: cleaned text, with a digest when cleaning changed it."""
    cleaned = _clean(Path(text).stem if "/" in text else text)
    unambiguous = re.fullmatch(r"[A-Za-z0-9_-]+", text)
    return cleaned if unambiguous else f"{cleaned}-{_digest(text + extra)}"


def _clean(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_") or "x"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
