"""Paths of results: the only module that builds them."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mobile_sam.config.checkpoints import extra_weights, referenced_run
from mobile_sam.config.run import DIRECTORY_KEYS, RunConfig
from mobile_sam.config.schedule import canonical, normalise
from mobile_sam.config.sections import CheckpointKind, clean_name
from mobile_sam.config.stage import Stage
from mobile_sam.config.teachers import random_number, shape_steps, start_reference, teacher_configs
from mobile_sam.download.files import weights_path


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
        """Directory of index and teacher features, named by files and options of the data."""
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
        """Copy of the last index, undeclared; unchanged files are not read again."""
        return self.dataset / "index.kept.parquet"

    @property
    def sources(self) -> dict[str, tuple[Path, ...]]:
        """Directories of images and masks, by split; no `val` if it is a share of `train`.

        `unlabelled` has images only, if the run has images without masks.
        """
        labelled = ["train"] if splits_by_fraction(self.config) else ["train", "val"]
        places: dict[str, tuple[Path, ...]] = {
            split: (self.image_dir(split), self.mask_dir(split)) for split in labelled
        }
        if self.config.unlabelled_img_dir is not None:
            places["unlabelled"] = (Path(self.config.unlabelled_img_dir),)
        return places

    def image_dir(self, split: str) -> Path:
        """Return the directory of images of `train` or `val`."""
        given = getattr(self.config, f"{split}_img_dir")
        return Path(given) if given is not None else self.dataset / split / "image"

    def mask_dir(self, split: str) -> Path:
        """Return the masks of `train` or `val`."""
        given = getattr(self.config, f"{split}_mask_dir")
        return Path(given) if given is not None else self.dataset / split / "mask"

    @property
    def features(self) -> Path:
        """Zarr store of teacher features; undeclared, so that Snakemake never deletes it."""
        given = self.config.train_img_dir_teacher_features
        # Folds have the same images in other roles.
        home = self.project / "shared" / _dataset_name(self.config, with_fold=False)
        derived = home / "features" / f"{feature_key(self.config)}.zarr"
        return _resolve_store(derived if given is None else Path(given))

    @property
    def features_name(self) -> str:
        """Name of the store among those of the data set.

        A store at a given path has its own name, with a digest of the path and of its content.
        """
        given, key = self.config.train_img_dir_teacher_features, feature_key(self.config)
        if given is None:
            return key
        name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", Path(given).name)
        return f"{name[:_MAX_NAME_LENGTH]}-{_digest(f'{os.path.normpath(given)} {key}')}"

    # Beside the index, wherever the store lies: several data sets may share the store.

    @property
    def features_settings(self) -> Path:
        return self._of_features("settings.json")

    @property
    def features_plan(self) -> Path:
        """Plan of the extraction, written before any feature is computed."""
        return self._of_features("plan.json")

    def features_part(self, part: int) -> Path:
        """Record that one extraction job has finished."""
        return self._of_features(f"part{part}of{self.config.extract_jobs or 1}.json")

    @property
    def features_jobs(self) -> Path:
        """Number of jobs of the extraction, and the fingerprint of the files."""
        return self._of_features("jobs.json")

    @property
    def features_manifest(self) -> Path:
        """Mark of a store that has all images of the index."""
        return self._of_features("json")

    def _of_features(self, kind: str) -> Path:
        return self.dataset / "features" / f"{self.features_name}.{kind}"

    def embeddings(self, encoder: str, precision: str) -> Path:
        """Store of a frozen image encoder's embeddings; `encoder` is the digest of its weights."""
        name = f"{encoder}-{self.config.img_size}px-{precision}.zarr"
        return _resolve_store(self.dataset / "embeddings" / name)

    @property
    def teachers(self) -> tuple["RunPaths", ...]:
        """Paths of each teacher of the run, with its own `features` and weights."""
        return tuple(RunPaths(teacher) for teacher in teacher_configs(self.config))

    # Stages, shared by the runs of a project: equal stages are trained once.

    @cached_property
    def _stage_keys(self) -> tuple[str, ...]:
        """Digests of each stage, its data set, and all stages before it."""
        lineage = [self.dataset.name]
        keys = []
        for stage in normalise(self.config):
            lineage.append(canonical(self.config, stage))
            keys.append(_digest(json.dumps(lineage), length=16))
        return tuple(keys)

    def stage(self, stage: Stage) -> Path:
        """Directory of a stage, named by a digest of all that its weights depend on."""
        return self.project / "shared" / "stages" / self._stage_keys[stage.index]

    def stage_link(self, stage: Stage) -> Path:
        """Link from the run's directory to that of a stage, with a readable name."""
        return self.stage_links / stage.directory

    @property
    def stage_links(self) -> Path:
        return self.run / "stages"

    @property
    def stages(self) -> Path:
        """Names of the run's stages, with the names of their directories."""
        return self.run / "stages.json"

    def stage_settings(self, stage: Stage) -> Path:
        """Settings of the job that trains a stage."""
        return self.stage(stage) / "run.json"

    def checkpoint(self, stage: Stage, kind: CheckpointKind = "last") -> Path:
        """Checkpoint of a finished stage: after its last epoch, or after its best one."""
        return self.stage(stage) / {"last": "checkpoint.pt", "best": "best.pt"}[kind]

    def features_ready(self, stage: Stage) -> Path:
        """Mark that the stores of all teachers of a stage are complete."""
        return self.stage(stage) / "features.ready"

    def metrics(self, stage: Stage) -> Path:
        return self.stage(stage) / "metrics.csv"

    def state(self, stage: Stage) -> Path:
        """Return the directory of the resume state; undeclared, so that nothing deletes it."""
        return self.stage(stage) / "state"

    def finished_stage(self, stage: Stage) -> Path:
        """Return the results of a finished stage, kept until the next step uses them."""
        return self.state(stage) / "finished"

    def lock(self, stage: Stage) -> Path:
        """Lock file of the process that trains a stage."""
        return self.stage(stage) / "lock"

    def tensorboard(self, stage: Stage) -> Path:
        """Return the directory of event files; undeclared, so that they outlive a killed job."""
        return self.stage(stage) / "tensorboard"

    def rung(self, stage: Stage, epoch: int) -> Path:
        """Validation IoU of a stage that was trained to an epoch of `sweep_stop`."""
        return self.stage(stage) / "rungs" / f"epoch_{epoch}.json"

    def stage_times(self, stage: Stage) -> Path:
        """Snakemake's measurements of the job that trained a stage."""
        return self.stage(stage) / "train.tsv"

    # The run's own.

    @property
    def settings(self) -> Path:
        return run_files(self.run)[0]

    @property
    def finished_tables(self) -> Path:
        """Directory of finished tables, kept until the report uses them."""
        return self.run / "state" / "validation"

    def finished_table(self, table: Path) -> Path:
        """Return the directory of one finished table. table: its final path."""
        return self.finished_tables / table.stem

    @property
    def sweep(self) -> Path:
        """Variants of a run, and the values in which they differ; the report is beside it."""
        return self.project / "sweeps" / self.config.run_name / "sweep.json"

    @property
    def weights(self) -> Path:
        """State dict of the student, with the original names of MobileSAM."""
        return run_files(self.run)[1]

    def validation(self, checkpoint: str) -> Path:
        """Return the table of measurements of a checkpoint, one of `checkpoint_names`."""
        return self.run / "validation" / f"{checkpoint}.parquet"

    def validation_part(self, checkpoint: str, part: int) -> Path:
        """Table of one of `validate_jobs` jobs."""
        jobs = self.config.validate_jobs
        return self.run / "validation" / "parts" / f"{checkpoint}.{part}of{jobs}.parquet"

    def average_precision(self, checkpoint: str) -> Path:
        """Return the file with AP of a detector's boxes, segmented by a checkpoint."""
        return self.run / "validation" / f"{checkpoint}.ap.json"

    @property
    def cost(self) -> Path:
        """Table of parameters, operations, latency and memory of the run's models."""
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
    def project_logs(self) -> Path:
        """Logs of jobs that belong to no run and no data set."""
        return self.project / "shared" / "logs"

    @property
    def shared_logs(self) -> Path:
        return self.dataset / "logs"

    @property
    def teacher_weights(self) -> Path | None:
        """File of the first teacher; None without a teacher, or for a random one."""
        teacher = self.config.teacher_checkpoint
        if teacher is None or random_number(teacher) is not None:
            return None
        return self.weights_of(teacher)

    def weights_of(self, checkpoint: str) -> Path:
        """Return the file of weights: those of a run (`run:<name>`), a path, or a known name.

        Raises the errors of `referenced_run`.
        """
        if checkpoint.startswith("run:"):
            return run_files(self.project / referenced_run(self.config, checkpoint))[1]
        return weights_path(checkpoint)

    @property
    def start_weights(self) -> Path | None:
        """File of the initial weights; None for random weights and those of timm."""
        checkpoint = self.config.checkpoint
        if checkpoint is None or checkpoint == "imagenet":
            return None
        run, stage = start_reference(self.config)
        if stage:
            directory = self.project / referenced_run(self.config, f"run:{run}")
            return directory / "stage_weights" / f"{stage}.pt"
        return self.shape_weights or self.weights_of(checkpoint)

    def stage_weights(self, stage: Stage) -> Path:
        """State dict of the student after a stage, like `weights`; for runs that start from it."""
        return self.run / "stage_weights" / f"{stage.directory}.pt"

    @property
    def shape_weights(self) -> Path | None:
        """File of the initial weights `shapes`, for all runs that start from the same ones."""
        config, steps = self.config, shape_steps(self.config.checkpoint)
        if steps is None:
            return None
        model = config.model_type.replace("/", "_")
        head = f"iou{config.iou_head_depth}x{config.iou_head_hidden_dim}"
        name = f"{model}-{config.img_size}px-{head}-{steps}steps-seed{config.seed}.pt"
        return self.project / "shared" / "shapes" / name

    @property
    def shape_settings(self) -> Path | None:
        """Return the settings of the job that writes `shape_weights`."""
        return self.shape_weights and self.shape_weights.with_suffix(".json")


def halving_file(sweep: Path, epoch: int) -> Path:
    """Return the path of the variants that continue after an epoch. sweep: `RunPaths.sweep`."""
    return sweep.parent / "rungs" / f"epoch_{epoch}.json"


_SETTINGS, _WEIGHTS = "run.json", "weights.pt"


def run_directory(run_name: str, project_name: str, output_dir: Path) -> Path:
    """Return the directory of a run by its name, without its settings."""
    return output_dir / project_name / run_name


def finished_runs(project: Path) -> list[str]:
    """Return the names of the runs of a project with exported weights."""
    return sorted(path.parent.name for path in project.glob(f"*/{_WEIGHTS}"))


def run_files(directory: Path) -> tuple[Path, Path]:
    """Return the paths of settings and exported weights of the run in a directory."""
    return directory / _SETTINGS, directory / _WEIGHTS


def settings_of_weights(weights: Path) -> Path | None:
    """Return the settings of the run that exported `weights`; None for other files."""
    settings, exported_weights = run_files(weights.parent)
    return settings if weights == exported_weights and settings.is_file() else None


_MAX_NAME_LENGTH = 120  # of a directory


def extra_checkpoints(config: RunConfig) -> dict[str, Path]:
    """Return the files of `compare`, by their names in tables.

    Raises the errors of `extra_weights`.
    """
    paths = RunPaths(config)
    return {name: paths.weights_of(weights) for name, weights in extra_weights(config).items()}


def comparable_runs(configs: Sequence[RunConfig]) -> list[tuple[RunConfig, ...]]:
    """Return groups of two or more runs with the same data set and threshold."""
    groups: dict[tuple[Path, float], list[RunConfig]] = {}
    for config in configs:
        groups.setdefault((RunPaths(config).dataset, config.mask_threshold), []).append(config)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def comparison_directory(configs: Sequence[RunConfig]) -> Path:
    """Return the directory of the report that compares several runs of a project."""
    name = "+".join(config.run_name for config in configs)
    if len(name) > _MAX_NAME_LENGTH:
        name = f"{configs[0].run_name}+{len(configs) - 1}-{_digest(name)}"
    return RunPaths(configs[0]).project / "comparisons" / name


def splits_by_fraction(config: RunConfig) -> bool:
    """Return whether validation images are drawn from the training images."""
    return config.train_img_dir is not None and config.val_img_dir is None


def feature_key(config: RunConfig) -> str:
    """Return the name of a feature store, from teacher, levels, size, data type and views."""
    teacher = _readable_name(
        config.teacher_checkpoint or "none", extra=config.teacher_model_type or ""
    )
    number = random_number(config.teacher_checkpoint)
    if number is not None:
        teacher = f"random{number or ''}-{config.teacher_model_type}-seed{config.seed}"
    # No teacher's name has a plus, so that no level can be taken for a part of one.
    levels = "+".join(str(level) for level in config.distill_levels)
    views = "".join(f"-{view}" for view in config.feature_views if view != "identity")
    return f"{teacher}-{levels}-{config.img_size}px-{config.feature_dtype}{views}"


def _dataset_name(config: RunConfig, with_fold: bool = True) -> str:
    # Only what differs from the defaults enters, so that names stay when keys are added.
    # Of another version, only what changed is read: its index takes the place of the one before.
    no_content = {"revision", "val_fraction", "split_seed", "duplicates"}
    no_content |= set() if with_fold else {"fold"}
    options: dict[str, Any] = config.data.model_dump(exclude_defaults=True, exclude=no_content)
    if splits_by_fraction(config):
        options |= {"val_fraction": config.data.val_fraction, "seed": config.data.split_seed}
    if config.unlabelled_img_dir is not None:
        options["unlabelled_img_dir"] = str(Path(config.unlabelled_img_dir).resolve())
    if config.train_img_dir is None:
        scenes = config.synthetic
        if scenes is None:
            raise ValueError(f"run {config.run_name!r}: neither directories nor synthetic data")
        kind = "" if scenes.objects == "shapes" else f"-{scenes.objects}"
        counts = f"{scenes.train}-{scenes.val}-{scenes.size}px"
        name = f"synthetic{kind}-{counts}-seed{scenes.seed}"
        return f"{name}-{_digest(json.dumps(options))}" if options else name
    given = [getattr(config, key) for key in DIRECTORY_KEYS]
    directories = [value and str(Path(value).resolve()) for value in given]
    train = Path(directories[0])
    name = next((p for p in reversed(train.parts) if p not in {"image", "images", "train"}), "data")
    what = [*directories, options] if options else directories
    return f"{clean_name(name)}-{_digest(json.dumps(what, sort_keys=True))}"


def _readable_name(text: str, extra: str) -> str:
    """Return cleaned text, with a digest if cleaning changed it, so that it is unambiguous."""
    cleaned = clean_name(Path(text).stem if "/" in text else text)
    unambiguous = re.fullmatch(r"[A-Za-z0-9_-]+", text)
    return cleaned if unambiguous else f"{cleaned}-{_digest(text + extra)}"


def _resolve_store(path: Path) -> Path:
    """Resolve the link to a store: locks lie next to the store itself.

    A broken link is kept, and causes an error later: its disk may not be mounted.
    """
    return Path(os.path.realpath(path)) if path.is_symlink() and path.exists() else path


def _digest(text: str, length: int = 8) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
