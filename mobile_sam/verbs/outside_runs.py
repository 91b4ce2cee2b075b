"""Verbs outside a run: fetch weights, measure any, compare runs, find what is shipped."""

import argparse
import logging
from pathlib import Path
from typing import get_args

from mobile_sam.config import parse_config
from mobile_sam.datasets import KNOWN_DATASETS, fetch_dataset
from mobile_sam.fetch import KNOWN_CHECKPOINTS, fetch_checkpoint, fetched_weights
from mobile_sam.options import Protocol
from mobile_sam.runs import load_settings
from mobile_sam.shipped import PLACES
from mobile_sam.verbs.verb import Arguments, Verb

log = logging.getLogger(__name__)

# Imports of torch and matplotlib stay inside the verbs that need them: most verbs start faster.


def compare(args: Arguments) -> None:
    from mobile_sam.layout import comparison
    from mobile_sam.report import write_comparison

    configs = [load_settings(path) for path in args.runs]
    print(write_comparison(configs, args.out or comparison(configs)))


def evaluate(args: Arguments) -> None:
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


def fetch(args: Arguments) -> None:
    for name in args.names:
        path = fetch_dataset(name) if name in KNOWN_DATASETS else fetch_checkpoint(name)
        log.info("%s: %s", name, path)
        print(path)


def schema(args: Arguments) -> None:
    from mobile_sam.reference import write_reference

    for path in write_reference():
        print(path)


def where(args: Arguments) -> None:
    print(PLACES[args.what])


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="their run.json files")
    parser.add_argument("--out", type=Path, help="default: a directory of the project")


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
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


def _fetch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", choices=sorted({*KNOWN_CHECKPOINTS, *KNOWN_DATASETS}))


def _where_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="?", choices=tuple(PLACES), default="snakefile", help="default: %(default)s"
    )


VERBS = {
    "compare": Verb(
        compare,
        "draw one report of several runs over the same data",
        "compare --runs results/mobile_sam/one/run.json results/mobile_sam/other/run.json",
        _compare_arguments,
    ),
    "evaluate": Verb(
        evaluate,
        "measure any weights on images and masks, outside any run",
        "evaluate --weights other/weights.pt --images my/images --masks my/masks",
        _evaluate_arguments,
    ),
    "fetch": Verb(
        fetch, "download known checkpoints and data sets", "fetch mobile_sam", _fetch_arguments
    ),
    "schema": Verb(schema, "write configs/schema.json and configs/README.md", "schema"),
    "where": Verb(
        where,
        "print where the Snakefile, the shipped runs or the profiles are installed",
        "where configs",
        _where_arguments,
    ),
}
