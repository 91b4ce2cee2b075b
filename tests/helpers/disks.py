"""A small disk in memory, to be filled or made read-only."""

import os
import subprocess
from pathlib import Path


class Disk:
    """A tmpfs at `place`."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"

    def fill(self, left: int) -> None:
        """Leave so many KiB."""
        self.free()
        there = os.statvfs(self.place)
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, there.f_bavail * there.f_bsize - left * 1024)

    def free(self) -> None:
        """Give back what was filled."""
        self._filler.unlink(missing_ok=True)

    def read_only(self, yes: bool = True) -> None:
        option = "remount,ro" if yes else "remount,rw"
        subprocess.run(["mount", "-o", option, str(self.place)], check=True)
