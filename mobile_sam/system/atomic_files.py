"""Atomic writing: a file or directory appears at its path only when it is complete."""

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mobile_sam.system.machine_errors import naming

_UNFINISHED = re.compile(r"\..+\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.[0-9a-f]{8}|\..+\.\d+", re.ASCII)
_LONGEST_NAME = 150  # bytes of the name, before host, process and random part
_ABANDONED_SECONDS = 24 * 3600.0
_NO_FLUSHING = {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP}


def unfinished_path(path: Path) -> Path:
    """Return a temporary name next to `path`; rename it to `path` when the content is complete.

    The name contains the host and the process; its random part distinguishes hosts of the same
    name. Create the file exclusively.
    """
    name = path.name.encode()[:_LONGEST_NAME].decode(errors="ignore")
    return path.with_name(f".{name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}")


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:32] or "host"


def remove_unfinished(directory: Path, name: str | None = None) -> None:
    """Remove temporary files of killed writers; this process must not be writing in the directory.

    On this host, these are the files of processes that no longer run. Files of other hosts, and
    with the names of earlier versions, are removed if they have not changed for a day.
    name: final name of the files; None for all names.
    """
    for path in directory.glob(f".{'*' if name is None else glob.escape(name)}.*"):
        match = _UNFINISHED.fullmatch(path.name)
        if match is None or not _is_abandoned(path, match["host"], int(match["pid"] or 0)):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _is_abandoned(path: Path, host: str | None, pid: int) -> bool:
    if host == _host():
        return pid == os.getpid() or not _is_running(pid)
    with suppress(FileNotFoundError):
        return time.time() - path.lstat().st_mtime > _ABANDONED_SECONDS
    return False


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        return True
    return True


def path_exists(path: Path) -> bool:
    """Return whether `path` exists. Raises OSError if that cannot be determined now.

    `Path.exists` of newer Pythons reports False if a network disk does not respond.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file that becomes `path`, flushed to disk, when the block ends.

    The file is empty at first. It is removed after an error; an error of the disk names `path`.
    """
    unfinished = unfinished_path(path)
    with naming(path, unfinished):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.touch(exist_ok=False)
        try:
            yield unfinished
            _flush(unfinished)
            unfinished.replace(path)
            _flush(path.parent)
        finally:
            with suppress(OSError):
                unfinished.unlink()


@contextmanager
def atomic_write_files(directory: Path, last: str) -> Iterator[Path]:
    """Yield a temporary directory; its files move into `directory` when the block ends.

    last: the file that is moved after all others. After an error no file is moved.
    """
    unfinished = unfinished_path(directory)
    with naming(directory, unfinished):
        unfinished.mkdir(parents=True)
        try:
            yield unfinished
            directory.mkdir(exist_ok=True)
            for path in sorted(unfinished.iterdir(), key=lambda path: (path.name == last, path)):
                path.replace(directory / path.name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """Link `source` as `target`, replacing `target`; copy it if the disk has no links."""
    with atomic_write(target) as unfinished:
        unfinished.unlink()  # os.link does not replace a file
        try:
            os.link(source, unfinished)
        except OSError:
            shutil.copyfile(source, unfinished)


def _flush(path: Path) -> None:
    """Flush a file, or the entries of a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network disks cannot flush directories; their servers keep the order of changes.
        if not (path.is_dir() and error.errno in _NO_FLUSHING):
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as unfinished:
        text = json.dumps(content, indent=1, sort_keys=True) + "\n"
        unfinished.write_text(text, encoding="utf-8")


def update_json(path: Path, content: Any) -> None:
    """Write JSON, unless the file has this content: then it keeps its time."""
    if json_content(path) != content:
        write_json(path, content)


def json_content(path: Path) -> Any:
    """Return the content of a JSON file; None if it is missing or truncated."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a directory, in hexadecimal."""
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        lines = [f"{each.relative_to(path)} {file_digest(each)}\n" for each in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
