"""A verb of the command line: what it does, what it takes, and what it says of itself."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROGRAM, SCRIPT = "python -m mobile_sam", "mobile-sam"
Arguments = argparse.Namespace

# Of the option --device, which several verbs have.
DEVICE = "cpu, cuda, cuda:1; default: the first GPU, where there is one"


@dataclass(frozen=True)
class Verb:
    """run: does it. text: what it does, in one sentence.

    example: what is typed after `python -m mobile_sam`. arguments: adds what it takes to a parser.
    """

    run: Callable[[Arguments], None]
    text: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def parser(verbs: dict[str, Verb]) -> argparse.ArgumentParser:
    """The parser of all verbs, whose help names what was called; the verb itself is `verb`."""
    script = Path(sys.argv[0]).stem
    program = script if script == SCRIPT else PROGRAM
    root = argparse.ArgumentParser(
        prog=program,
        description="Fine-tune and distil MobileSAM, and use what comes of it.",
        epilog=f"`{program} VERB --help` shows what a verb takes, with an example.",
    )
    added = root.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in verbs.items():
        one = added.add_parser(
            name,
            help=verb.text,
            description=f"{verb.text[0].upper()}{verb.text[1:]}.",
            epilog=f"example:\n  {program} {verb.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.arguments(one)
        one.add_argument("--log", type=Path, metavar="FILE", help="write the log there too")
    return root
