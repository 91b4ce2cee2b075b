"""Output directories given by the user, checked before anything is written into them."""

from collections.abc import Callable
from pathlib import Path

from mobile_sam.system.directories import is_output, list_directory, mark_output
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.paths import output_directory


def check_output(directory: Path, name: str, is_own: Callable[[Path], bool]) -> None:
    """Raise ConfigError unless a directory is empty or holds earlier results of this package.

    name: name of the argument, for messages. is_own: returns whether the command wrote an entry of
    the directory, for results that are older than the mark. Logs are allowed. A directory below
    an output directory may contain anything, because no input is read from there.
    """
    output_directory(directory, name)
    if not directory.exists() or any(map(is_output, (directory, *directory.resolve().parents))):
        return
    listing = list_directory(directory)
    for entry in [*listing.files, *listing.directories, *listing.broken]:
        if entry.suffix != ".log" and not is_own(entry):
            raise ConfigError(
                f"{name} {directory}: the directory holds other files, such as {entry.name}; give "
                "a new or empty directory"
            )


def check_beside(directory: Path, name: str, inputs: Path) -> None:
    """Raise ConfigError if the output directory contains the inputs."""
    if inputs.resolve().is_relative_to(directory.resolve()):
        raise ConfigError(
            f"{name} {directory}: the directory contains the input {inputs}; give another "
            "directory, because results must not be among images"
        )


def claim_output(directory: Path, name: str, is_own: Callable[[Path], bool]) -> None:
    """Create an output directory and mark it; arguments and errors are those of `check_output`."""
    check_output(directory, name, is_own)
    mark_output(directory)
