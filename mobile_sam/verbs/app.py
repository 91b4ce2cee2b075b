"""The verb of the app, a page on which models are asked with the mouse."""

import argparse

from mobile_sam.config import ConfigError
from mobile_sam.verbs.verb import DEVICE, Arguments, Verb

# Imports of torch stay inside the verb: the others start faster.


def app(args: Arguments) -> None:
    from mobile_sam.app.asking import Asker
    from mobile_sam.app.models import models_of_run, models_of_weights
    from mobile_sam.app.pictures import examples
    from mobile_sam.app.serving import served, until_interrupted
    from mobile_sam.inference.loading import settings_of_run
    from mobile_sam.models.device import given_device

    device = given_device(args.device)
    if args.run:
        config = settings_of_run(args.run)
        models = models_of_run(config, args.models, device)
        title, shown = config.run_name, examples(config)
    elif args.models:
        raise ConfigError("--models: these are of a run; name them with --run")
    else:
        models, shown = models_of_weights(args.weights, device), []
        title = ", ".join(models.names)
    with served(Asker(models), shown, title, args.host, args.port, args.open) as url:
        print(f"{url}  (Ctrl-C ends it)", flush=True)
        until_interrupted()


def _app_arguments(parser: argparse.ArgumentParser) -> None:
    of = parser.add_mutually_exclusive_group(required=True)
    of.add_argument("--run", help="its name, or the path of its directory")
    of.add_argument("--weights", nargs="+", help="files or known names, of MobileSAM or SAM too")
    add = parser.add_argument
    add("--models", nargs="+", help="of the run; default: start, each stage, the teachers")
    add("--device", help=DEVICE)
    add("--host", default="127.0.0.1", help="default: %(default)s, which only this machine reaches")
    add("--port", type=int, help="default: the first free one from 7860 on")
    add("--open", action="store_true", help="the page in a browser")


VERBS = {
    "app": Verb(
        app,
        "click on images in a browser, and see the masks of several models side by side",
        "app --run my_run --open",
        _app_arguments,
    ),
}
