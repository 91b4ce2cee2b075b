"""Command that starts the app, a web page for prompting models with the mouse."""

import argparse

from mobile_sam.cli.command import DEVICE, Arguments, Command
from mobile_sam.system.errors import ConfigError

# Imports of torch are inside the command, so that the other commands start faster.


def app(args: Arguments) -> None:
    from mobile_sam.app.images import example_images
    from mobile_sam.app.models import models_of_run, models_of_weights
    from mobile_sam.app.predictor_cache import PredictorCache
    from mobile_sam.app.serving import serve_page, wait_until_interrupted
    from mobile_sam.inference.loading import settings_of_run
    from mobile_sam.models.device import given_device

    device = given_device(args.device)
    if args.run:
        config = settings_of_run(args.run)
        models = models_of_run(config, args.models, device)
        title, examples = config.run_name, example_images(config)
    elif args.models:
        raise ConfigError("--models selects checkpoints of a run; give the run with --run")
    else:
        models, examples = models_of_weights(args.weights, device), []
        title = ", ".join(models.names)
    predictors = PredictorCache(models)
    with serve_page(predictors, examples, title, args.host, args.port, args.open) as url:
        print(f"{url}  (stop with Ctrl-C)", flush=True)
        wait_until_interrupted()


def _app_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", help="name of a finished run, or path of its directory")
    source.add_argument(
        "--weights", nargs="+", help="weight files or known names; MobileSAM's and SAM's work too"
    )
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        help="checkpoints of the run; default: start, all stages and all teachers",
    )
    add("--device", help=DEVICE)
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on; default: %(default)s, this machine only",
    )
    add("--port", type=int, help="port to listen on; default: the first free port from 7860")
    add("--open", action="store_true", help="open the page in a browser")


COMMANDS = {
    "app": Command(
        app,
        "start a web page that shows the masks of several models for your clicks",
        "app --run my_run --open",
        _app_arguments,
    ),
}
