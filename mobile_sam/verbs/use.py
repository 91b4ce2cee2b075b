"""Verbs that use a model: a run's final weights, or any others."""

import argparse
from pathlib import Path

from mobile_sam.config import ConfigError
from mobile_sam.fetch import fetched_weights
from mobile_sam.process import end_with_parent
from mobile_sam.runs import load_settings
from mobile_sam.verbs.verb import Arguments, Verb

# Imports of torch stay inside the verbs: the others start faster.


def export(args: Arguments) -> None:
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


def app(args: Arguments) -> None:
    from mobile_sam.app.asking import Asker
    from mobile_sam.app.models import models_of_run, models_of_weights
    from mobile_sam.app.pictures import examples
    from mobile_sam.app.serving import served, until_interrupted
    from mobile_sam.inference.loading import settings_of_run

    if args.weights:
        title, shown = "MobileSAM", []
        models = models_of_weights(args.weights)
    else:
        config = settings_of_run(args.run)
        title, shown = config.run_name, examples(config)
        models = models_of_run(config, args.models)
    with served(Asker(models), shown, title, args.host, args.port, args.open) as url:
        print(f"{url}  (Ctrl-C ends it)", flush=True)
        until_interrupted()


def _app_arguments(parser: argparse.ArgumentParser) -> None:
    of = parser.add_mutually_exclusive_group(required=True)
    of.add_argument("--run", help="its name, or its directory, with a slash")
    of.add_argument("--weights", nargs="+", help="files or known names, of MobileSAM or SAM too")
    add = parser.add_argument
    add("--models", nargs="+", help="of the run; default: start, each stage, the teachers")
    add("--host", default="127.0.0.1", help="default: %(default)s, which only this machine reaches")
    add("--port", type=int, help="default: the first free one from 7860 on")
    add("--open", action="store_true", help="the page in a browser")


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    of = parser.add_mutually_exclusive_group(required=True)
    of.add_argument("--config", type=Path, help="the run.json of a run")
    of.add_argument("--weights", help="a file or known name; only with --onnx")
    add = parser.add_argument
    add("--onnx", type=Path, metavar="DIRECTORY", help="write a bundle there, not weights.pt")
    add("--float16", action="store_true", help="in the bundle, too")
    add("--int8", action="store_true", help="in the bundle, too")
    add("--images", type=Path, help="that calibrate and judge; default: those of the run")
    add("--calibration-images", type=int, default=32, help="at most; default: %(default)s")
    add("--img-size", type=int, default=1024, help="of --weights, in pixels; default: 1024")
    add("--model-type", help="of --weights; default: as their tensors say")


VERBS = {
    "app": Verb(
        app,
        "click on images in a browser, and see the masks of several models side by side",
        "app --run my_run --open",
        _app_arguments,
    ),
    "export": Verb(
        export,
        "write weights.pt for the original code, or a bundle of ONNX files",
        "export --config results/mobile_sam/my_run/run.json --onnx bundle --int8",
        _export_arguments,
    ),
}
