"""Command line of the package: `python -m mobile_sam COMMAND`."""

import argparse
import logging
import os
import signal
import sys

from mobile_sam.cli import app, inference, run, standalone
from mobile_sam.cli.command import SCRIPT, parser
from mobile_sam.system.cpus import spin_briefly
from mobile_sam.system.errors import UserError
from mobile_sam.system.machine_errors import error_text, machine_fault, path_problem
from mobile_sam.system.process import exit_on_sigterm, log_to, quiet_threads

log = logging.getLogger("mobile_sam")

COMMANDS = {**run.COMMANDS, **standalone.COMMANDS, **inference.COMMANDS, **app.COMMANDS}


def command_line() -> argparse.ArgumentParser:
    """Return the parser of `mobile-sam`, from which shtab generates shell completion."""
    result = parser(COMMANDS)
    result.prog = SCRIPT
    return result


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit status.

    Wrong settings, wrong files and faults of the machine are logged in one line, without a
    traceback.
    """
    args = parser(COMMANDS).parse_args(argv)
    spin_briefly()
    try:
        level = logging.WARNING if args.quiet else logging.INFO
        log_to(args.log, level, logging.INFO if args.verbose else logging.WARNING)
        exit_on_sigterm()
        quiet_threads()
        COMMANDS[args.command].run(args)
        sys.stdout.flush()
    except UserError as error:
        log.error("error: %s", error_text(error), exc_info=args.verbose)
        return 1
    except BrokenPipeError:  # `| head` reads no more; the rest of the buffer is dropped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        log.error("interrupted; run the same command to start again")
        return 128 + signal.SIGINT
    except Exception as error:
        message = machine_fault(error, args.command) or path_problem(error)
        if message is None:
            raise
        log.error("error: %s", message, exc_info=args.verbose)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
