"""Stages that runs share: the names that each run gives them, and results of earlier versions."""

import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from mobile_sam.config.checkpoints import exported_checkpoint, stage_checkpoints
from mobile_sam.config.load import load_settings
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import canonical, normalise
from mobile_sam.config.stage import Stage
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.fingerprints import validation_settings
from mobile_sam.system.atomic_files import update_json
from mobile_sam.system.errors import ConfigError

log = logging.getLogger(__name__)


def link_stages(config: RunConfig) -> None:
    """Write the names of a run's stages, with a link to the directory of each.

    Links to stages that the run no longer has are removed. A file system without links has the
    names alone.
    """
    paths = RunPaths(config)
    stages = {stage.directory: stage for stage in normalise(config)}
    update_json(paths.stages, {name: paths.stage(stage).name for name, stage in stages.items()})
    links = {paths.stage_link(stage): paths.stage(stage) for stage in stages.values()}
    for link in paths.stage_links.glob("*"):
        if link.is_symlink() and link not in links:
            link.unlink()
    for link, directory in links.items():
        _link(link, directory)


def _link(link: Path, directory: Path) -> None:
    target = os.path.relpath(directory, link.parent)
    if link.is_symlink():
        if link.readlink() == Path(target):
            return
        link.unlink()
    elif link.exists():
        return  # results of an earlier version that do not belong to these settings
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError as error:
        log.info("%s: no link (%s); %s is the directory", link, error.strerror, directory)


def adopt_stages(configs: Iterable[RunConfig]) -> None:
    """Move the stages that earlier versions kept in the directory of their run to where runs share.

    A finished stage is moved if it was trained with the settings of now, an unfinished one always,
    because its resume state is checked when it is loaded. Others stay, and are not used.
    What was made from a moved stage stays valid.
    """
    for config in configs:
        paths = RunPaths(config)
        stages = [stage for stage in normalise(config) if _has_own(paths, stage)]
        before = _last_settings(paths) if stages else None
        if before is None or RunPaths(before).dataset != paths.dataset:
            continue
        moved = [stage for stage in stages if _adopt(paths, stage)]
        if moved:
            _forget_inputs(_made_from(before, config, moved))


def _has_own(paths: RunPaths, stage: Stage) -> bool:
    link = paths.stage_link(stage)
    return (link.is_dir() and not link.is_symlink()) or _own_state(paths, stage).is_dir()


def _own_state(paths: RunPaths, stage: Stage) -> Path:
    return paths.run / "state" / stage.directory


def _last_settings(paths: RunPaths) -> RunConfig | None:
    """Return the settings of the run's last workflow, if it is a run whose files can be moved."""
    try:
        return load_settings(paths.settings) if os.access(paths.run, os.W_OK) else None
    except ConfigError:
        return None


def _adopt(paths: RunPaths, stage: Stage) -> bool:
    """Move a stage to where runs share it; return whether it was moved."""
    own, state, directory = paths.stage_link(stage), _own_state(paths, stage), paths.stage(stage)
    last = own / paths.checkpoint(stage).name
    if directory.exists() or (
        last.exists() and not _contains(last, canonical(paths.config, stage))
    ):
        return False
    directory.parent.mkdir(parents=True, exist_ok=True)
    if own.is_dir():
        own.rename(directory)
    directory.mkdir(exist_ok=True)
    if state.is_dir():
        state.rename(paths.state(stage))
    ready = paths.run / paths.features_ready(stage).name
    if ready.is_file():
        shutil.copy2(ready, paths.features_ready(stage))
    log.info("%s: moved to %s", own, directory)
    return True


def _made_from(before: RunConfig, config: RunConfig, stages: Sequence[Stage]) -> list[Path]:
    """Return the weights and tables that were made from stages with the settings of now."""
    paths, names = RunPaths(config), stage_checkpoints(config)
    made = [
        path
        for name, (stage, _) in names.items()
        if stage in stages
        and validation_settings(before, name) == validation_settings(config, name)
        for path in (paths.validation(name), paths.average_precision(name))
    ]
    if names[exported_checkpoint(config)][0] in stages:
        made.append(paths.weights)
    return [path for path in made if path.is_file()]


def _forget_inputs(files: Sequence[Path]) -> None:
    """Remove Snakemake's records of files, whose inputs have moved; it compares times instead."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", os.devnull, "--cleanup-metadata"]
    # A file without a record is an error for Snakemake, after it has removed the others.
    subprocess.run([*command, *map(str, files)], check=False, capture_output=True)


def _contains(checkpoint: Path, text: str) -> bool:
    """Return whether a checkpoint contains a text. Without torch, which is slow to import."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(text.encode() in archive.read(name) for name in pickles)
    except (zipfile.BadZipFile, OSError):
        return False
