"""Commands outside a run: download, evaluate weights, compare runs, and find shipped files."""

import argparse
import logging
from pathlib import Path
from typing import Any, get_args

from mobile_sam.cli.command import (
    DATA,
    DEVICE,
    OUT,
    Arguments,
    Command,
    OldOption,
    data_options,
    number,
    path,
)
from mobile_sam.config.catalog import KNOWN_CHECKPOINTS, KNOWN_DATASETS
from mobile_sam.config.load import load_settings
from mobile_sam.config.parsing import parse_config
from mobile_sam.config.sections import Protocol
from mobile_sam.download.datasets import fetch_dataset
from mobile_sam.download.files import fetch_checkpoint, fetched_weights
from mobile_sam.pipeline import pruning
from mobile_sam.pipeline.sweeps import write_halving
from mobile_sam.system.outputs import check_beside, check_output
from mobile_sam.system.package_data import PLACES
from mobile_sam.system.paths import existing_directory, existing_path, output_directory

log = logging.getLogger(__name__)

# Imports of torch and matplotlib are inside the commands, so that the others start faster.


def compare(args: Arguments) -> None:
    from mobile_sam.paths import comparison_directory
    from mobile_sam.report.write import write_comparison

    configs = [load_settings(run) for run in args.runs]
    if args.out:
        check_output(args.out, "--out", _is_report)
    print(write_comparison(configs, args.out or comparison_directory(configs)))


def _is_report(entry: Path) -> bool:
    return entry.with_name("index.html").is_file() and entry.with_name("summary.csv").is_file()


def evaluate(args: Arguments) -> None:
    _check_paths(args)
    from mobile_sam.evaluation.options import evaluation_options
    from mobile_sam.evaluation.standalone import EvaluationPaths, evaluate_weights
    from mobile_sam.models.device import given_device
    from mobile_sam.report.write import write_evaluation

    device = given_device(args.device)
    data = {
        f"{split}_{kind}_dir": str(directory)
        for split in ("train", "val")
        for kind, directory in (("img", args.images), ("mask", args.masks))
    }
    paths = EvaluationPaths(args.out)
    protocols = {"protocols": args.protocols} if args.protocols else {}
    settings = {
        "img_size": args.img_size,
        "mask_threshold": args.mask_threshold,
        "data": data_options(args.data),
    }
    config = parse_config({"run_name": "evaluation", **data, **protocols, **settings}, "evaluate")
    tables = evaluate_weights(
        [fetched_weights(weights, "--weights") for weights in args.weights],
        args.images,
        args.masks,
        paths,
        evaluation_options(config),
        config.img_size,
        args.model_type,
        args.benchmark_repeats,
        args.workers,
        config.data,
        device,
    )
    title = ", ".join(table.stem for table in tables[1:])
    costs = paths.costs if args.benchmark_repeats else None
    options = (config.mask_threshold, args.examples, costs, config.data.units)
    print(write_evaluation(tables, paths.report, title, *options))


def _check_paths(args: Arguments) -> None:
    """Raise ConfigError for missing inputs, before torch is imported."""
    existing_directory(args.images, "--images")
    existing_path(args.masks, "--masks")
    for weights in args.weights:
        if weights not in KNOWN_CHECKPOINTS:
            fetched_weights(weights, "--weights")
    output_directory(args.out, "--out")
    check_beside(args.out, "--out", args.images)
    check_beside(args.out, "--out", args.masks)


def fetch(args: Arguments) -> None:
    for name in args.names:
        target = fetch_dataset(name) if name in KNOWN_DATASETS else fetch_checkpoint(name)
        log.info("%s: %s", name, target)
        print(target)


def schema(args: Arguments) -> None:
    from mobile_sam.config.reference import write_reference

    for written in write_reference():
        print(written)


def where(args: Arguments) -> None:
    print(PLACES[args.place])


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=path, nargs="+", required=True, help="run.json of each run")
    parser.add_argument(
        "--out", type=path, help="directory of the report; default: one in the project"
    )


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("models").add_argument
    model("--weights", nargs="+", required=True, help="weight files or known names")
    model("--img-size", type=int, default=1024, help="input size in pixels; default: 1024")
    model("--model-type", help="architecture of all weights; default: detected")
    model("--mask-threshold", type=number, default=0.0, help="threshold of mask logits; default: 0")
    model("--device", help=DEVICE)
    files = parser.add_argument_group("input and output").add_argument
    files("--images", type=path, required=True, help="directory of images")
    files("--masks", type=path, required=True, help="their masks: a directory or COCO file")
    files("--data", metavar="JSON", help=DATA)
    files("--out", type=path, default=Path("results/evaluation"), help=OUT)
    add = parser.add_argument_group("measurement").add_argument
    add(
        "--protocols",
        nargs="+",
        choices=get_args(Protocol),
        help="prompts to measure; default: all",
    )
    add(
        "--benchmark-repeats",
        type=int,
        default=10,
        help="timed passes of each model; 0 measures no cost; default: %(default)s",
    )
    old: dict[str, Any] = {"action": OldOption, "const": "--benchmark-repeats"}
    add("--cost-repeats", type=int, dest="benchmark_repeats", help=argparse.SUPPRESS, **old)
    add("--examples", type=int, default=6, help="images in each gallery of the report; default: 6")
    add("--workers", type=int, default=0, help="processes and threads that read files; default: 0")


def _fetch_arguments(parser: argparse.ArgumentParser) -> None:
    names = sorted({*KNOWN_CHECKPOINTS, *KNOWN_DATASETS})
    parser.add_argument("names", nargs="+", choices=names, help="checkpoints and data sets")


def _where_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "place",
        nargs="?",
        choices=tuple(PLACES),
        default="snakefile",
        help="files to find; default: %(default)s",
    )


def sweep(args: Arguments) -> None:
    manifest = existing_path(args.manifest)
    if args.halve is not None:
        write_halving(manifest, args.halve)
        return
    from mobile_sam.report.write import write_sweep

    print(write_sweep(manifest))


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", type=path, help="sweep.json, in sweeps/<run> of the project")
    parser.add_argument(
        "--halve",
        type=int,
        metavar="EPOCH",
        help="instead, decide which variants continue after this epoch of sweep_stop",
    )


def prune(args: Arguments) -> None:
    from mobile_sam.extraction.plan import format_bytes

    paths = pruning.unneeded(existing_directory(args.project))
    sizes = {each: pruning.size(each) for each in paths}
    for each, size in sizes.items():
        print(f"{format_bytes(size):>10}  {each}")
    if args.remove:
        pruning.remove(paths)
    done = "removed" if args.remove else "not needed by any run; --remove removes them"
    print(f"{format_bytes(sum(sizes.values())):>10}  {len(paths)} results {done}")


def _prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", type=path, help="directory of a project, results/<project>")
    parser.add_argument("--remove", action="store_true", help="remove what is listed")


COMMANDS = {
    "compare": Command(
        compare,
        "write one report of several runs on the same data",
        "compare --runs results/mobile_sam/one/run.json results/mobile_sam/other/run.json",
        _compare_arguments,
    ),
    "evaluate": Command(
        evaluate,
        "measure any weights on images and masks, without a run",
        "evaluate --weights other/weights.pt --images my/images --masks my/masks",
        _evaluate_arguments,
    ),
    "fetch": Command(
        fetch, "download known checkpoints and data sets", "fetch mobile_sam", _fetch_arguments
    ),
    "sweep": Command(
        sweep,
        "write the report that compares the variants of a run",
        "sweep results/mobile_sam/sweeps/my_run/sweep.json",
        _sweep_arguments,
    ),
    "prune": Command(
        prune,
        "list, or remove, shared results that no run of a project needs",
        "prune results/mobile_sam",
        _prune_arguments,
    ),
    "schema": Command(schema, "write configs/schema.json and configs/README.md", "schema"),
    "where": Command(
        where,
        "print the path of the installed Snakefile, runs or profiles",
        "where configs",
        _where_arguments,
    ),
}
