"""The command line: one verb for each step of the workflow."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from mobile_sam.config import ConfigError, RunConfig, UserError, parse_config
from mobile_sam.datasets import KNOWN_DATASETS, fetch_dataset
from mobile_sam.faults import fault, words
from mobile_sam.fetch import KNOWN_CHECKPOINTS, fetch_checkpoint, fetched_weights
from mobile_sam.files import write_json
from mobile_sam.layout import BOX_FILLED, RunPaths, needs_features
from mobile_sam.options import Protocol
from mobile_sam.process import end_when_asked, end_with_parent, log_to, quiet_threads
from mobile_sam.runs import load_settings
from mobile_sam.teachers import teacher_configs

log = logging.getLogger("mobile_sam")

# Imports of torch and matplotlib stay inside the verbs that need them: most verbs start faster.


def synthesize(config: RunConfig, args: argparse.Namespace) -> None:
    from mobile_sam.data.synthetic import write_scenes

    scenes, paths = config.synthetic, RunPaths(config)
    if scenes is None:
        raise ConfigError(f"run {config.run_name!r}: synthetic is null; nothing to draw")
    for number, (split, count) in enumerate((("train", scenes.train), ("val", scenes.val))):
        seed = 2 * config.seed + number
        write_scenes(paths.image_dir(split).parent, count, scenes.size, seed)
        log.info("%s: %d scenes in %s", split, count, paths.image_dir(split).parent)
    write_json(paths.synthetic_manifest, scenes.model_dump())


def index(config: RunConfig, args: argparse.Namespace) -> None:
    from mobile_sam.data.indexing import index_dataset
    from mobile_sam.data.summary import summarise

    paths = RunPaths(config)
    if not args.summary:
        count = index_dataset(
            paths.sources, paths.index, config.data, config.seed, args.workers, paths.kept_index
        )
        log.info("%d segments in %s", count, paths.index)
    print(summarise(paths.index).text())


def extract(config: RunConfig, args: argparse.Namespace) -> None:
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


def features(config: RunConfig, args: argparse.Namespace) -> None:
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


def train(config: RunConfig, args: argparse.Namespace) -> None:
    from mobile_sam.training.run import train_run

    train_run(config, args.stage)


def export(args: argparse.Namespace) -> None:
    config = load_settings(args.config) if args.config else None
    if args.onnx:
        from mobile_sam.inference.onnx.verb import export_bundle

        forms = [form for form in ("float16", "int8") if getattr(args, form)]
        weights = fetched_weights(args.weights) if args.weights else None
        size, kind = args.img_size, args.model_type
        count = args.calibration_images
        print(export_bundle(args.onnx, config, weights, size, kind, forms, args.images, count))
    elif config is None or args.float16 or args.int8 or args.images:
        raise ConfigError("--weights, --float16, --int8 and --images go with --onnx DIRECTORY")
    else:
        from mobile_sam.training.export import export_weights

        end_with_parent()
        export_weights(config)


def validate(config: RunConfig, args: argparse.Namespace) -> None:
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


def cost(config: RunConfig, args: argparse.Namespace) -> None:
    from mobile_sam.evaluation.of_run import measure_costs

    measure_costs(config)


def report(config: RunConfig, args: argparse.Namespace) -> None:
    from mobile_sam.report import write_report

    print(write_report(config))


def compare(args: argparse.Namespace) -> None:
    from mobile_sam.layout import comparison
    from mobile_sam.report import write_comparison

    configs = [load_settings(path) for path in args.runs]
    print(write_comparison(configs, args.out or comparison(configs)))


def evaluate(args: argparse.Namespace) -> None:
    from mobile_sam.assessment import assess
    from mobile_sam.evaluation.measuring import measuring
    from mobile_sam.report import write_evaluation

    places = {
        f"{split}_{what}_dir": str(path)
        for split in ("train", "val")
        for what, path in (("img", args.images), ("mask", args.masks))
    }
    asked = {"protocols": args.protocols} if args.protocols else {}
    settings = {"img_size": args.img_size, "mask_threshold": args.mask_threshold}
    config = parse_config({"run_name": "evaluation", **places, **asked, **settings}, "evaluate")
    tables = assess(
        [fetched_weights(weights) for weights in args.weights],
        args.images,
        args.masks,
        args.out,
        measuring(config),
        config.img_size,
        args.model_type,
        args.cost_repeats,
        args.workers,
    )
    title = ", ".join(table.stem for table in tables[1:])
    print(write_evaluation(tables, args.out, title, config.mask_threshold, args.examples))


def fetch(args: argparse.Namespace) -> None:
    for name in args.names:
        path = fetch_dataset(name) if name in KNOWN_DATASETS else fetch_checkpoint(name)
        log.info("%s: %s", name, path)
        print(path)


def schema(args: argparse.Namespace) -> None:
    from mobile_sam.reference import write_reference

    for path in write_reference():
        print(path)


RUN_VERBS: dict[str, tuple[Callable[[RunConfig, argparse.Namespace], None], str]] = {
    "synthesize": (synthesize, "draw the synthetic data set of a run"),
    "index": (index, "read all images and masks, and write the index"),
    "extract": (extract, "compute the features of all teachers"),
    "features": (features, "look after the stores of teacher features"),
    "train": (train, "train a stage, or all of them"),
    "validate": (validate, "measure every segment of the validation images"),
    "cost": (cost, "measure what the models of a run cost on this machine"),
    "report": (report, "draw the report from tables that exist"),
}


OTHER_VERBS: dict[str, Callable[[argparse.Namespace], None]] = {
    "compare": compare,
    "evaluate": evaluate,
    "export": export,
    "fetch": fetch,
    "schema": schema,
}
FEATURE_ACTIONS = {
    "info": "what the store is of, and what is in it",
    "verify": "read every chunk; fails and names the images that are damaged",
    "repair": "compute damaged images anew",
    "prune": "drop images that are no longer in an index",
}


def parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    root = argparse.ArgumentParser(prog="python -m mobile_sam", description=__doc__)
    verbs = root.add_subparsers(dest="verb", required=True)
    for name, (_, text) in RUN_VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("--config", type=Path, required=True, help="a run.json or configs/*.json")
        verb.add_argument("--log", type=Path, help="write the log there too")
        if name == "index":
            verb.add_argument("--summary", action="store_true", help="of the index that is there")
            verb.add_argument(
                "--workers", type=int, default=os.cpu_count(), help="processes; default: all cores"
            )
        if name == "extract":
            verb.add_argument("--step", choices=["plan", "part", "finish"], help="default: all")
            verb.add_argument("--part", type=int, default=0, help="which of extract_jobs")
        if name == "features":
            actions = verb.add_mutually_exclusive_group(required=True)
            for action, meaning in FEATURE_ACTIONS.items():
                actions.add_argument(
                    f"--{action}", dest="action", action="store_const", const=action, help=meaning
                )
        if name == "train":
            verb.add_argument("--stage", help="NN_name; default: all unfinished stages")
        if name == "validate":
            verb.add_argument(
                "--what",
                help="box_filled, start, NN_name, NN_name_best, teacher or teacher_2, or what "
                "`compare` names; default: all",
            )
            verb.add_argument("--step", choices=["part", "join", "ap"], help="default: all images")
            verb.add_argument("--part", type=int, default=0, help="which of validate_jobs")
    verb = verbs.add_parser("compare", help="draw one report of several runs over the same data")
    verb.add_argument("--runs", type=Path, nargs="+", required=True, help="their run.json files")
    verb.add_argument("--out", type=Path, help="default: a directory of the project")
    verb.add_argument("--log", type=Path, help="write the log there too")
    _add_evaluate(verbs)
    _add_export(verbs)
    verb = verbs.add_parser("fetch", help="download known checkpoints and data sets")
    verb.add_argument("names", nargs="+", choices=sorted({*KNOWN_CHECKPOINTS, *KNOWN_DATASETS}))
    verb.add_argument("--log", type=Path, help="write the log there too")
    verbs.add_parser("schema", help="write configs/schema.json and configs/README.md")
    return root


def _add_evaluate(verbs: Any) -> None:
    verb = verbs.add_parser(
        "evaluate", help="measure any weights on images and masks, outside any run"
    )
    add = verb.add_argument
    add("--weights", nargs="+", required=True, help="files or known names, of MobileSAM or SAM too")
    add("--images", type=Path, required=True, help="a directory of images")
    add("--masks", type=Path, required=True, help="their masks: a directory or a COCO file")
    add("--out", type=Path, default=Path("results/evaluation"), help="default: %(default)s")
    add("--img-size", type=int, default=1024, help="pixels of the longest side; default: 1024")
    add("--model-type", help="of all weights; default: as their tensors say")
    add("--mask-threshold", type=float, default=0.0, help="of mask logits; default: 0")
    add("--protocols", nargs="+", choices=get_args(Protocol), help="default: all")
    add("--cost-repeats", type=int, default=10, help="timed runs of each model; 0: none")
    add("--examples", type=int, default=6, help="images in each gallery; default: 6")
    add("--workers", type=int, default=0, help="processes and threads that read; default: none")
    add("--log", type=Path, help="write the log there too")


def _add_export(verbs: Any) -> None:
    text = "write weights.pt for the original code, or a bundle of ONNX files"
    verb = verbs.add_parser("export", help=text, description=text)
    of = verb.add_mutually_exclusive_group(required=True)
    of.add_argument("--config", type=Path, help="the run.json of a run")
    of.add_argument("--weights", help="a file or known name; only with --onnx")
    add = verb.add_argument
    add("--onnx", type=Path, metavar="DIRECTORY", help="write a bundle there, not weights.pt")
    add("--float16", action="store_true", help="in the bundle, too")
    add("--int8", action="store_true", help="in the bundle, too")
    add("--images", type=Path, help="that calibrate and judge; default: those of the run")
    add("--calibration-images", type=int, default=32, help="at most; default: %(default)s")
    add("--img-size", type=int, default=1024, help="of --weights, in pixels; default: 1024")
    add("--model-type", help="of --weights; default: as their tensors say")
    add("--log", type=Path, help="write the log there too")


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status.

    A wrong setting or file and a fault of the machine are one line, without a traceback.
    """
    args = parser().parse_args(argv)
    try:
        log_to(getattr(args, "log", None))
        end_when_asked()
        quiet_threads()
        if args.verb in OTHER_VERBS:
            OTHER_VERBS[args.verb](args)
        else:
            end_with_parent()
            RUN_VERBS[args.verb][0](load_settings(args.config), args)
    except UserError as error:
        log.error("error: %s", words(error))
        return 1
    except KeyboardInterrupt:
        log.error("interrupted; the same command begins again")
        return 128 + signal.SIGINT
    except Exception as error:
        sentence = fault(error, args.verb)
        if sentence is None:
            raise
        log.error("error: %s", sentence)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
