"""The command line: `python -m mobile_sam VERB`."""

import argparse
import logging
import signal
import sys

from mobile_sam.config import UserError
from mobile_sam.faults import fault, words
from mobile_sam.process import end_when_asked, log_to, quiet_threads
from mobile_sam.verbs import app, of_run, outside_runs, use
from mobile_sam.verbs.verb import SCRIPT, parser

log = logging.getLogger("mobile_sam")

VERBS = {**of_run.VERBS, **outside_runs.VERBS, **use.VERBS, **app.VERBS}


def command_line() -> argparse.ArgumentParser:
    """The parser of `mobile-sam`, from which shtab makes completion for shells."""
    found = parser(VERBS)
    found.prog = SCRIPT
    return found


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status.

    A wrong setting or file and a fault of the machine are one line, without a traceback.
    """
    args = parser(VERBS).parse_args(argv)
    try:
        log_to(args.log)
        end_when_asked()
        quiet_threads()
        VERBS[args.verb].run(args)
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
