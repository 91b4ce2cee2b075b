"""Settings files that jobs read: one per run, and those of jobs that runs share."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mobile_sam.config.load import Runs
from mobile_sam.config.run import DIRECTORY_KEYS, RunConfig
from mobile_sam.config.schedule import needs_features
from mobile_sam.config.teachers import teacher_configs
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.fingerprints import fingerprint_once
from mobile_sam.pipeline.rules import stages_of_runs
from mobile_sam.pipeline.shared_stages import link_stages
from mobile_sam.pipeline.sweeps import write_list
from mobile_sam.system.atomic_files import json_content, update_json
from mobile_sam.system.directories import mark_output


def shared_settings(config: RunConfig) -> dict[Path, dict[str, Any]]:
    """Return the settings files of jobs whose results runs share, by path.

    They contain nothing specific to one run, so that other runs reuse the results of such a job.
    """
    settings = config.model_dump(mode="json")
    keys = [
        "project_name",
        "output_dir",
        "num_workers",
        "seed",
        "synthetic",
        "data",
        "unlabelled_img_dir",
        *DIRECTORY_KEYS,
    ]
    dataset = {key: settings[key] for key in keys} | {"run_name": "dataset"}
    files = {RunPaths(config).dataset_settings: dataset}
    start = RunPaths(config).shape_settings
    if start is not None:
        files[start] = _shape_settings(config)
    if needs_features(config):
        for teacher in teacher_configs(config):
            files[RunPaths(teacher).features_settings] = dataset | _store_settings(teacher)
    return files


def _store_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings of the store of the first teacher, besides those of the data set."""
    keys = {"teacher_checkpoint", "teacher_model_type", "distill_feature_level", "img_size"}
    keys |= {"train_img_dir_teacher_features", "feature_dtype", "feature_views", "extract_jobs"}
    # There is no student; its architecture must be valid, so it is the teacher's.
    fixed = {"run_name": "features", "use_distill": True, "model_type": config.teacher_model_type}
    return config.model_dump(mode="json", include=keys) | fixed


def _shape_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings of initial weights `shapes`."""
    keys = {"project_name", "output_dir", "checkpoint", "model_type", "img_size", "seed"}
    keys |= {"iou_head_depth", "iou_head_hidden_dim"}
    return config.model_dump(mode="json", include=keys) | {"run_name": "shapes"}


def with_extract_jobs(runs: Runs, gpus: int, remote: bool = False) -> Runs:
    """Return the runs with their number of extraction jobs: as set, or one for each GPU.

    gpus: number of GPUs that the jobs of this workflow share. remote: whether this is a job of a
    cluster, whose workflow has chosen the number.
    A complete store keeps its number until images change, so that a new number causes no new
    extraction.
    """

    def with_jobs(config: RunConfig) -> RunConfig:
        stores = RunPaths(config).teachers if needs_features(config) else ()
        planned = {_planned_jobs(store, remote) for store in stores}
        jobs = planned.pop() if len(planned) == 1 else None
        jobs = jobs or config.extract_jobs or max(gpus, 1)
        return config.model_copy(update={"extract_jobs": jobs})

    configs = {config.run_name: with_jobs(config) for config in runs.all}
    named = tuple(configs[config.run_name] for config in runs.named)
    return replace(runs, all=tuple(configs.values()), named=named)


def _planned_jobs(store: RunPaths, remote: bool) -> int | None:
    """Return the number of jobs of a finished extraction; None if the store must be extracted."""
    planned = json_content(store.features_jobs)
    if not isinstance(planned, dict) or not isinstance(planned.get("jobs"), int):
        return None
    if remote:
        return planned["jobs"]
    is_current = planned.get("files") == fingerprint_once(store.config)
    return planned["jobs"] if is_current and store.features_manifest.is_file() else None


def _run_settings(config: RunConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"schema_file"})


def write_settings(runs: Runs) -> None:
    """Write `run.json` of each run, the settings of shared jobs, and the names of its stages."""
    for config in runs.all:
        mark_output(RunPaths(config).project)
        files = shared_settings(config)
        for store in RunPaths(config).teachers if needs_features(config) else ():
            planned = {"jobs": config.extract_jobs, "files": fingerprint_once(config)}
            files[store.features_jobs] = planned
        files[RunPaths(config).settings] = _run_settings(config)
        link_stages(config)
        for path, content in files.items():
            update_json(path, content)
    for paths, stage in stages_of_runs(map(RunPaths, runs.all)).values():
        update_json(paths.stage_settings(stage), _run_settings(paths.config))
    for group in runs.variants:
        write_list(group)
