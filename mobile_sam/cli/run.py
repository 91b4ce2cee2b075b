"""Commands of a run: each is one step of the workflow, with the settings of the run."""

import argparse
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mobile_sam.cli.command import Arguments, Command, path
from mobile_sam.config.checkpoints import BOX_FILLED
from mobile_sam.config.load import load_settings
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import needs_features
from mobile_sam.config.teachers import shape_steps, teacher_configs
from mobile_sam.paths import RunPaths
from mobile_sam.system.atomic_files import write_json
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.gpus import take_gpus
from mobile_sam.system.paths import output_problem, read_text
from mobile_sam.system.process import end_with_parent
from mobile_sam.system.stopping import stopping_point

log = logging.getLogger(__name__)

# Imports of torch and matplotlib are inside the commands, so that the others start faster.


def synthesize(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.data.synthetic import write_scenes

    scenes, paths = config.synthetic, RunPaths(config)
    if scenes is None:
        raise ConfigError(f"run {config.run_name!r}: synthetic is null; set it to draw images")
    for number, (split, count) in enumerate((("train", scenes.train), ("val", scenes.val))):
        seed = 2 * scenes.seed + number
        write_scenes(paths.image_dir(split).parent, count, scenes.size, seed, scenes.objects)
        log.info("%s: %d scenes in %s", split, count, paths.image_dir(split).parent)
    write_json(paths.synthetic_manifest, scenes.model_dump())


def index(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.data.index.build import index_dataset
    from mobile_sam.data.index.near_duplicates import near_duplicate_notes
    from mobile_sam.data.index.summary import summarise

    paths = RunPaths(config)
    notes: list[str] = []
    if args.near_duplicates:
        notes = near_duplicate_notes(paths.index, args.workers)
    elif not args.summary:
        if config.data.subset is not None:
            read_text(Path(config.data.subset))  # an empty file would exclude all images
        count = index_dataset(
            paths.sources, paths.index, config.data, args.workers, paths.kept_index
        )
        log.info("%d segments in %s", count, paths.index)
        log.info("the report and `index --near-duplicates` find look-alikes of training images")
    print(summarise(paths.index, notes).text())


def extract(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.extraction.plan import finish_extraction, plan_extraction

    if not needs_features(config):
        raise ConfigError(_no_features(config))
    all_steps = args.step is None
    for teacher in teacher_configs(config):
        if all_steps or args.step == "plan":
            plan_extraction(teacher)
        if all_steps or args.step == "part":
            from mobile_sam.extraction.compute import extract_features

            jobs = 1 if all_steps else teacher.extract_jobs or 1
            extract_features(teacher, 0 if all_steps else args.part, jobs)
        if all_steps or args.step == "finish":
            finish_extraction(teacher)


def _no_features(config: RunConfig) -> str:
    return (
        f"run {config.run_name!r}: no stage distils from stored features; set distillation of a "
        'stage to true, and teacher_features to "stored"'
    )


def features(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.extraction.maintenance import (
        prune_store,
        repair_store,
        store_info,
        verify_store,
    )
    from mobile_sam.features.schema import FeatureError

    if not needs_features(config):
        raise ConfigError(_no_features(config))
    if args.forget and args.action != "prune":
        raise ConfigError("--forget needs --prune; add --prune, or leave out --forget")
    actions = {"info": store_info, "verify": verify_store, "repair": repair_store}
    action = actions.get(args.action) or partial(prune_store, forget=args.forget)
    problems = []
    for teacher in teacher_configs(config):
        try:
            print(action(teacher))
        except FeatureError as error:
            problems.append(str(error))
    if problems:
        raise FeatureError("\n".join(problems))


def shapes(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.models.device import default_device
    from mobile_sam.models.student_teacher import random_student
    from mobile_sam.training.shapes import write_shape_weights

    steps, target = shape_steps(config.checkpoint), RunPaths(config).shape_weights
    if steps is None or target is None:
        raise ConfigError(
            f"run {config.run_name!r}: checkpoint: {config.checkpoint!r}; set it to 'shapes', to "
            "start from weights that this command makes"
        )
    write_shape_weights(random_student(config).to(default_device()), steps, config.seed, target)
    log.info("start weights: %s", target)


def train(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.models.quick_import import quick_import

    with quick_import():
        from mobile_sam.training.run import train_run

    train_run(config, args.stage, args.until_epoch)


def estimate(config: RunConfig, args: Arguments) -> None:
    if args.gpu_memory is not None and not 0 < args.gpu_memory < float("inf"):
        raise ConfigError(
            f"--gpu-memory: {args.gpu_memory}; give the memory of a GPU in GiB, such as 16"
        )
    from mobile_sam.evaluation import memory_estimate

    for line in memory_estimate.estimate(config, memory_estimate.this_machine(args.gpu_memory)):
        print(line, flush=True)


def validate(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.config.checkpoints import checkpoint_names
    from mobile_sam.evaluation.validate_run import join_parts, validate

    if args.step and not args.checkpoint:
        raise ConfigError(f"--step {args.step} needs --checkpoint; add it")
    for checkpoint in [args.checkpoint] if args.checkpoint else checkpoint_names(config):
        if args.step in {None, "part"}:
            validate(config, checkpoint, args.part if args.step else None)
        elif args.step == "join":
            join_parts(config, checkpoint)
        all_steps = args.step is None and not args.checkpoint
        with_boxes = all_steps and config.detections and checkpoint != BOX_FILLED
        if with_boxes or args.step == "ap":
            from mobile_sam.evaluation.from_run import write_average_precision

            write_average_precision(config, checkpoint)


def cost(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.evaluation.from_run import measure_costs

    measure_costs(config)


def report(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.report.write import write_report

    print(write_report(config))


def _index_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--summary", action="store_true", help="print the summary of the existing index"
    )
    parser.add_argument(
        "--near-duplicates",
        action="store_true",
        help="the same, after a search for validation images that look like training images",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="number of processes; default: the number of CPUs",
    )


def _extract_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--step", choices=["plan", "part", "finish"], help="step to run; default: all"
    )
    parser.add_argument(
        "--part", type=int, default=0, help="number of the part, below extract_jobs"
    )


def _features_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_mutually_exclusive_group(required=True)
    for action, meaning in FEATURE_ACTIONS.items():
        actions.add_argument(
            f"--{action}", dest="action", action="store_const", const=action, help=meaning
        )
    parser.add_argument(
        "--forget",
        type=path,
        action="append",
        default=[],
        metavar="INDEX",
        help="with --prune: index of a deleted project, whose images are no longer needed",
    )


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stage", help="stage to train, NN_name or its number; default: all unfinished stages"
    )
    parser.add_argument(
        "--until-epoch",
        type=int,
        metavar="EPOCH",
        help="with --stage: pause after this epoch of the run; the same command without it "
        "continues",
    )


def _estimate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gpu-memory",
        type=float,
        metavar="GIB",
        help="memory of the GPU; default: this machine's GPU",
    )


def _validate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        help="box_filled, start, NN_name, NN_name_best, teacher, teacher_2, or a name from "
        "`compare`; default: all",
    )
    # The rules use the old name: Snakemake would run the jobs of a changed command again.
    parser.add_argument("--what", dest="checkpoint", help=argparse.SUPPRESS)
    parser.add_argument(
        "--step", choices=["part", "join", "ap"], help="one step; default: all images"
    )
    parser.add_argument(
        "--part", type=int, default=0, help="number of the part, below validate_jobs"
    )


FEATURE_ACTIONS = {
    "info": "print the identity and contents of the stores",
    "verify": "read all chunks; list damaged images and exit with an error",
    "repair": "compute damaged images again",
    "prune": "remove images that are in no index",
}


def _gpus_of_validation(config: RunConfig, args: Arguments) -> int:
    return int(args.checkpoint != BOX_FILLED and args.step != "join")


def _command(
    step: Callable[[RunConfig, Arguments], None],
    text: str,
    example: str,
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
    gpus: Callable[[RunConfig, Arguments], int] = lambda config, args: 0,
) -> Command:
    """Return a command of a run. gpus: number of GPUs that it takes from the workflow's."""

    def run(args: Arguments) -> None:
        end_with_parent()
        config = load_settings(args.config)
        take_gpus(gpus(config, args))
        project = RunPaths(config).project
        problem = output_problem(project, written=False)
        if problem:
            raise ConfigError(f"output_dir: {project}: {problem}")
        step(config, args)
        stopping_point("the work is done")

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--config", type=path, required=True, help="run.json, or a file of configs/"
        )
        arguments(parser)

    return Command(run, text, f"{example} --config results/mobile_sam/my_run/run.json", add)


COMMANDS = {
    "synthesize": _command(synthesize, "draw the synthetic data set of a run", "synthesize"),
    "index": _command(
        index, "read all images and masks, and write the index", "index", _index_arguments
    ),
    "extract": _command(
        extract,
        "compute the features of all teachers",
        "extract",
        _extract_arguments,
        gpus=lambda config, args: int(args.step in {None, "part"}),
    ),
    "features": _command(
        features,
        "inspect, verify, repair or prune the stores of teacher features",
        "features --info",
        _features_arguments,
    ),
    "shapes": _command(
        shapes,
        "make the start weights `shapes`: random ones that have learned what a box means",
        "shapes",
        gpus=lambda config, args: 1,
    ),
    "train": _command(
        train,
        "train one stage, or all of them",
        "train --stage 00_distill",
        _train_arguments,
        # On several nodes, SLURM assigns GPUs to each process.
        gpus=lambda config, args: config.devices if config.num_nodes == 1 else 0,
    ),
    "estimate": _command(
        estimate,
        "estimate the memory of each job, and list training settings that fit",
        "estimate --gpu-memory 16",
        _estimate_arguments,
    ),
    "validate": _command(
        validate,
        "measure the masks of all objects in the validation images",
        "validate --checkpoint 00_distill",
        _validate_arguments,
        gpus=_gpus_of_validation,
    ),
    "cost": _command(
        cost,
        "measure parameters, operations, latency and memory of the models of a run",
        "cost",
        gpus=lambda config, args: 1,
    ),
    "report": _command(report, "write the report of a run from its tables", "report"),
}
