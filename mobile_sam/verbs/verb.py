"""A verb of the command line: what it does, what it takes, and what it says of itself."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "python -m mobile_sam"
Arguments = argparse.Namespace


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
    """The parser of all verbs; the verb itself is `verb`."""
    root = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Fine-tune and distil MobileSAM, and use what comes of it.",
        epilog=f"`{PROGRAM} VERB --help` shows what a verb takes, with an example.",
    )
    added = root.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in verbs.items():
        one = added.add_parser(
            name,
            help=verb.text,
            description=f"{verb.text[0].upper()}{verb.text[1:]}.",
            epilog=f"example:\n  {PROGRAM} {verb.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.arguments(one)
        one.add_argument("--log", type=Path, metavar="FILE", help="write the log there too")
    return root
