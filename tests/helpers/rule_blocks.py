"""Snakemake that prints the block of each job, with its rule, files and resources.

    python tests/helpers/rule_blocks.py -n --config run=...

takes Snakemake's arguments. Snakemake itself prints the `message:` of a rule in place of its block.
"""

import sys
from typing import Any

import snakemake.cli
from snakemake.logging import DefaultFormatter


class WithoutMessages(DefaultFormatter):
    """Formatter that leaves the messages of rules out."""

    def format_job_info(self, msg: dict[str, Any]) -> str:
        return str(super().format_job_info(msg | {"rule_msg": None}))


if __name__ == "__main__":
    sys.path.pop(0)  # this directory, whose modules are not for Snakemake
    snakemake.logging.DefaultFormatter = WithoutMessages
    snakemake.cli.main(sys.argv[1:])
