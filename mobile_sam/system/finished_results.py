"""Finished results, kept outside of the declared outputs until a later step has used them.

Snakemake deletes the declared outputs of a job that did not end successfully, even if all of them
are complete; a signal between the last file and the end of the process is enough.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mobile_sam.system.atomic_files import atomic_write, file_digest, link, path_exists
from mobile_sam.system.stopping import stopping_point

log = logging.getLogger(__name__)

FORCED = "MOBILE_SAM_FORCED"  # set by a workflow with `--forcerun` and the like
_OWN = _KEY, _CHECKSUMS, _USED = "key", "sha256", "used"


class Finished:
    """Results of one job, kept as hard links, or as copies if the file system has no links.

    place: directory of these results. key: identifies settings and inputs; equal keys give equal
    results. outputs: final paths of the results, in the order in which they are made.
    """

    def __init__(self, place: Path, key: str, outputs: Sequence[Path]) -> None:
        self.place, self.key, self.outputs = place, key, outputs

    def restore(self) -> bool:
        """Restore results that an earlier attempt finished; return False if there are none.

        Results with another key or wrong checksums are removed.
        """
        if not path_exists(self.place / _KEY):
            return False
        problem = self._problem()
        if problem:
            log.info("%s: finished results %s; removed", self.place, problem)
            discard(self.place)
        elif all(path_exists(self.place / path.name) for path in self.outputs):
            self._put()
            return True
        return False

    @contextmanager
    def making(self) -> Iterator[Path]:
        """Yield the directory in which to write the results, under the names of the outputs.

        Write each file atomically. The results are finished with the last file, and move to their
        final paths when the block ends. Call `restore` first.
        """
        if not path_exists(self.place / _KEY):
            for name in (_CHECKSUMS, *(path.name for path in self.outputs)):
                (self.place / name).unlink(missing_ok=True)  # left by an interrupted `discard`
            with atomic_write(self.place / _KEY) as unfinished:
                unfinished.write_text(self.key, encoding="utf-8")
        yield self.place
        stopping_point("results are made")
        self._put()

    def _problem(self) -> str | None:
        """Return the problem of the existing results; None if they are valid."""
        if (self.place / _KEY).read_text(encoding="utf-8") != self.key:
            return "belong to other settings or inputs"
        checksums = self.place / _CHECKSUMS
        if path_exists(checksums) and checksums.read_text(encoding="utf-8") != self._checksums():
            return "do not match their checksums"
        return None

    def _checksums(self) -> str:
        """Return a line for each result in the format of `sha256sum`."""
        files = [path for o in self.outputs if path_exists(path := self.place / o.name)]
        return "".join(f"{file_digest(path)}  {path.name}\n" for path in files)

    def _put(self) -> None:
        if not path_exists(self.place / _CHECKSUMS):
            with atomic_write(self.place / _CHECKSUMS) as unfinished:
                unfinished.write_text(self._checksums(), encoding="utf-8")
        stopping_point("results are kept")
        for path in self.outputs:
            link(self.place / path.name, path)
            os.utime(path)  # Snakemake deletes an output that is older than its input
            stopping_point(f"{path.name} is in place")


def discard(place: Path) -> None:
    """Remove finished results that are no longer needed."""
    # The key goes first: partly removed results without a key are not restored.
    (place / _KEY).unlink(missing_ok=True)
    with suppress(FileNotFoundError):  # there are none, or another process removes them too
        shutil.rmtree(place)


def retire(place: Path, version: str) -> None:
    """Remove results that a later step has used, unless they are links, which take no space.

    Links stay for a job that runs again without changes (see `discard_retired`).
    version: version of the code that made them.
    """
    files = [path for path in place.glob("*") if path.name not in _OWN]
    if any(path.stat().st_nlink == 1 for path in files):
        discard(place)
    elif files and not _is_marked(place / _USED, version):
        with atomic_write(place / _USED) as unfinished:
            unfinished.write_text(version, encoding="utf-8")


def discard_retired(place: Path, version: str) -> None:
    """Remove used results of another version of the code, or all used results in a forced run."""
    used = place / _USED
    if used.is_file() and (FORCED in os.environ or used.read_text(encoding="utf-8") != version):
        discard(place)


def _is_marked(used: Path, version: str) -> bool:
    return path_exists(used) and used.read_text(encoding="utf-8") == version


def discard_all(directory: Path) -> None:
    """Remove the finished results of several jobs, which are subdirectories of `directory`.

    Unfinished results of another process are kept.
    """
    for checksums in directory.glob(f"*/{_CHECKSUMS}"):
        discard(checksums.parent)
