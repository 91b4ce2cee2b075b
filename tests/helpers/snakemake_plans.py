"""Plans commands of Snakemake, each in a fork of one process that has imported it.

    python -m tests.helpers.snakemake_plans < commands.json

Reads a list of lists of words; prints a list of [exit status, what Snakemake said].
"""

import json
import os
import sys
import tempfile

import snakemake.cli


def plan(words: list[str]) -> tuple[int, str]:
    """Exit status and output of `snakemake WORDS -n`."""
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), sys.stdout.fileno())
            os.dup2(said.fileno(), sys.stderr.fileno())
            snakemake.cli.main([*words, "-n"])  # exits
        _, status = os.waitpid(child, 0)
        said.seek(0)
        return os.waitstatus_to_exitcode(status), said.read()


if __name__ == "__main__":
    print(json.dumps([plan(words) for words in json.load(sys.stdin)]))
