"""Verbs of a run: each is one step of the workflow, and takes the settings of the run."""

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.files import write_json
from mobile_sam.layout import BOX_FILLED, RunPaths, needs_features
from mobile_sam.process import end_with_parent
from mobile_sam.runs import load_settings
from mobile_sam.teachers import teacher_configs
from mobile_sam.verbs.verb import Arguments, Verb

log = logging.getLogger(__name__)

# Imports of torch and matplotlib stay inside the verbs that need them: most verbs start faster.


def synthesize(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.data.synthetic import write_scenes

    scenes, paths = config.synthetic, RunPaths(config)
    if scenes is None:
        raise ConfigError(f"run {config.run_name!r}: synthetic is null; nothing to draw")
    for number, (split, count) in enumerate((("train", scenes.train), ("val", scenes.val))):
        seed = 2 * config.seed + number
        write_scenes(paths.image_dir(split).parent, count, scenes.size, seed)
        log.info("%s: %d scenes in %s", split, count, paths.image_dir(split).parent)
    write_json(paths.synthetic_manifest, scenes.model_dump())


def index(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.data.indexing import index_dataset
    from mobile_sam.data.summary import summarise

    paths = RunPaths(config)
    if not args.summary:
        count = index_dataset(
            paths.sources, paths.index, config.data, config.seed, args.workers, paths.kept_index
        )
        log.info("%d segments in %s", count, paths.index)
    print(summarise(paths.index).text())


def extract(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.extraction.plan import finish_extraction, plan_extraction

    if not needs_features(config):
        raise ConfigError(
            f"run {config.run_name!r}: no stage distils from stored features; nothing to do"
        )
    whole = args.step is None
    for teacher in teacher_configs(config):
        if whole or args.step == "plan":
            plan_extraction(teacher)
        if whole or args.step == "part":
            from mobile_sam.extraction.compute import extract_features

            extract_features(teacher, *((0, 1) if whole else (args.part, teacher.extract_jobs)))
        if whole or args.step == "finish":
            finish_extraction(teacher)


def features(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.extraction.care import info, repair, verify
    from mobile_sam.extraction.prune import prune
    from mobile_sam.features.parts import FeatureError

    if not needs_features(config):
        raise ConfigError(f"run {config.run_name!r}: no stage distils from stored features")
    action = {"info": info, "verify": verify, "repair": repair, "prune": prune}[args.action]
    failed = []
    for teacher in teacher_configs(config):
        try:
            print(action(teacher))
        except FeatureError as error:
            failed.append(str(error))
    if failed:
        raise FeatureError("\n".join(failed))


def train(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.training.run import train_run

    train_run(config, args.stage)


def validate(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.layout import validated
    from mobile_sam.validation import join_parts, validate

    if args.step and not args.what:
        raise ConfigError(f"--step {args.step}: say of what; add --what")
    for what in [args.what] if args.what else validated(config):
        if args.step in {None, "part"}:
            validate(config, what, args.part if args.step else None)
        elif args.step == "join":
            join_parts(config, what)
        boxes = args.step is None and not args.what and config.detections and what != BOX_FILLED
        if boxes or args.step == "ap":
            from mobile_sam.evaluation.of_run import write_average_precision

            write_average_precision(config, what)


def cost(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.evaluation.of_run import measure_costs

    measure_costs(config)


def report(config: RunConfig, args: Arguments) -> None:
    from mobile_sam.report import write_report

    print(write_report(config))


def _index_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--summary", action="store_true", help="of the index that is there")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes; default: all cores"
    )


def _extract_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--step", choices=["plan", "part", "finish"], help="default: all")
    parser.add_argument("--part", type=int, default=0, help="which of extract_jobs")


def _features_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_mutually_exclusive_group(required=True)
    for action, meaning in FEATURE_ACTIONS.items():
        actions.add_argument(
            f"--{action}", dest="action", action="store_const", const=action, help=meaning
        )


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", help="NN_name; default: all unfinished stages")


def _validate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--what",
        help="box_filled, start, NN_name, NN_name_best, teacher or teacher_2, or what `compare` "
        "names; default: all",
    )
    parser.add_argument("--step", choices=["part", "join", "ap"], help="default: all images")
    parser.add_argument("--part", type=int, default=0, help="which of validate_jobs")


FEATURE_ACTIONS = {
    "info": "what the store is of, and what is in it",
    "verify": "read every chunk; fails and names the images that are damaged",
    "repair": "compute damaged images anew",
    "prune": "drop images that are no longer in an index",
}


def _verb(
    step: Callable[[RunConfig, Arguments], None],
    text: str,
    example: str,
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> Verb:
    def run(args: Arguments) -> None:
        end_with_parent()
        step(load_settings(args.config), args)

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--config", type=Path, required=True, help="a run.json or configs/*.json"
        )
        arguments(parser)

    return Verb(run, text, f"{example} --config results/mobile_sam/my_run/run.json", add)


VERBS = {
    "synthesize": _verb(synthesize, "draw the synthetic data set of a run", "synthesize"),
    "index": _verb(
        index, "read all images and masks, and write the index", "index", _index_arguments
    ),
    "extract": _verb(
        extract, "compute the features of all teachers", "extract", _extract_arguments
    ),
    "features": _verb(
        features,
        "look after the stores of teacher features",
        "features --info",
        _features_arguments,
    ),
    "train": _verb(
        train, "train a stage, or all of them", "train --stage 00_distill", _train_arguments
    ),
    "validate": _verb(
        validate,
        "measure every segment of the validation images",
        "validate --what 00_distill",
        _validate_arguments,
    ),
    "cost": _verb(cost, "measure what the models of a run cost on this machine", "cost"),
    "report": _verb(report, "draw the report from tables that exist", "report"),
}
