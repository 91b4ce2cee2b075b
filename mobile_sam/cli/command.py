"""Commands of the command line: their functions, arguments and help."""

import argparse
import json
import logging
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.sections import Data
from mobile_sam.system.errors import ConfigError

log = logging.getLogger(__name__)

PROGRAM, SCRIPT = "python -m mobile_sam", "mobile-sam"
Arguments = argparse.Namespace

DEVICE = "cpu, cuda or cuda:1; default: the first GPU if there is one, otherwise cpu"
DATA = "how to read the files: the key `data` of a run, as JSON"
OUT = "output directory; default: %(default)s"


@dataclass(frozen=True)
class Command:
    """Command of the command line.

    run: executes the command. text: its purpose, in one sentence. example: words to type after
    `python -m mobile_sam`. arguments: adds the arguments of the command to a parser.
    """

    run: Callable[[Arguments], None]
    text: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def data_options(text: str | None) -> Data:
    """Return the options of `--data`. Raises ConfigError for text that is not valid options."""
    if text is None:
        return Data()
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"--data {text}: not JSON ({error.msg}); write --data '{{\"bands\": [3, 2, 1]}}'"
        ) from None
    return parse_config({"run_name": "data", "data": content}, "--data").data


def number(text: str) -> float:
    """Parse an argument that is a finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number; give one in digits")
    return value


def path(text: str) -> Path:
    """Parse an argument that is a path. An empty one is refused, because it means `.`."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty; give a path")
    return Path(text)


class OldOption(argparse.Action):
    """Option under an old name, which the help does not show; `const` is its new name."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        log.warning("%s is now %s; the old name still works", option_string, self.const)
        setattr(namespace, self.dest, values)


def parser(commands: dict[str, Command]) -> argparse.ArgumentParser:
    """Return the parser of all commands; the name of the command becomes `args.command`.

    Its help shows the program as it was called: `mobile-sam` or `python -m mobile_sam`.
    """
    script = Path(sys.argv[0]).stem
    program = script if script == SCRIPT else PROGRAM
    root = argparse.ArgumentParser(
        prog=program,
        description="Fine-tune and distil MobileSAM, and use the resulting models.",
        epilog=f"`{program} COMMAND --help` shows the arguments of a command and an example. Exit "
        "status: 0 success; 1 error, with a message; 2 wrong arguments; 130 ended by Ctrl-C; 141 "
        "ended because the reader of its output has closed the pipe; 143 ended by SIGTERM.",
    )
    subparsers = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in commands.items():
        subparser = subparsers.add_parser(
            name,
            help=command.text,
            description=f"{command.text[0].upper()}{command.text[1:]}.",
            epilog=f"example:\n  {program} {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.arguments(subparser)
        log_options = subparser.add_argument_group("log")
        log_options.add_argument(
            "--log", type=path, metavar="FILE", help="also write the log to this file"
        )
        level = log_options.add_mutually_exclusive_group()
        level.add_argument("--quiet", action="store_true", help="log warnings and errors only")
        level.add_argument(
            "--verbose", action="store_true", help="also log messages of libraries, and tracebacks"
        )
    return root
