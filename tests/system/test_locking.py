"""Locks on disks that differ: NFS asks how a file was opened, others have no locks."""

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest

from mobile_sam.config.run import RunConfig
from mobile_sam.download.files import fetch_file
from mobile_sam.extraction import maintenance
from mobile_sam.features import locks
from mobile_sam.features.schema import FeatureError
from mobile_sam.inference import prediction_files
from mobile_sam.system.directories import mark_output
from mobile_sam.system.machine_errors import machine_fault
from mobile_sam.training.run import exclusive

Lock = Callable[[IO[bytes], int], None]
Make = Callable[..., RunConfig]


def as_nfs(lock: Lock, file: IO[bytes], kind: int) -> None:
    """A shared lock needs a file that can be read, an exclusive one a file that can be written."""
    access = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
    if kind != fcntl.LOCK_UN and access == (os.O_WRONLY if kind & fcntl.LOCK_SH else os.O_RDONLY):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    lock(file, kind)


@pytest.fixture
def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flock", "lockf"):
        monkeypatch.setattr(fcntl, name, partial(as_nfs, getattr(fcntl, name)))


def fail_with(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in ("flock", "lockf"):
        monkeypatch.setattr(fcntl, name, fail)


def of_predictions(path: Path) -> AbstractContextManager[None]:
    mark_output(path)
    return prediction_files.exclusive(path)


LOCKS: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "store: rows": locks.write_lock,
    "store: alone": locks.exclusive_lock,
    "store: shared": locks.shared_lock,
    "training": lambda path: exclusive(path / "state" / "lock"),
    "predictions": of_predictions,
}


@pytest.mark.usefixtures("nfs")
def test_the_rule_of_nfs_is_emulated(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("wb") as file, pytest.raises(OSError, match="Bad file descriptor"):
        fcntl.lockf(file, fcntl.LOCK_SH)
    with path.open("rb") as file, pytest.raises(OSError, match="Bad file descriptor"):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.usefixtures("nfs")
@pytest.mark.parametrize("name", LOCKS)
def test_all_locks_are_given_by_nfs(name: str, tmp_path: Path) -> None:
    for _ in range(2):  # the file is new, and there
        with LOCKS[name](tmp_path / "place"):
            pass


@pytest.mark.usefixtures("nfs")
def test_a_download_is_locked_on_nfs(tmp_path: Path) -> None:
    target = tmp_path / "weights.pt"
    target.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert fetch_file("http://127.0.0.1:9/weights.pt", sha256, target, "weights") == target


@pytest.mark.usefixtures("nfs")
def test_a_store_is_made_and_looked_after_on_nfs(tiny: Make) -> None:
    assert "nothing to prune" in maintenance.prune_store(tiny(use_distill=True))


@pytest.mark.parametrize("name", LOCKS)
def test_a_disk_without_locks_is_used_with_a_warning(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail_with(errno.ENOSYS, monkeypatch)
    with LOCKS[name](tmp_path / "place"):
        pass
    assert "the disk has no locks; run one Snakemake at a time on it" in caplog.text


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_that_is_not_given_is_an_error_that_names_the_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(errno.ENOLCK, monkeypatch)
    with pytest.raises(OSError, match="No locks") as caught, LOCKS[name](tmp_path / "place"):
        pass
    assert (machine_fault(caught.value) or "").startswith(f"{tmp_path}/")
    assert "the disk gives no lock; mount it with locks" in (machine_fault(caught.value) or "")


def refuse(*args: Any) -> IO[bytes]:
    raise OSError(errno.EROFS, "Read-only file system")


def test_who_cannot_write_shares_the_lock_that_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A colleague reads the store of a group, and keeps its owner from replacing it."""
    path = tmp_path / "store.zarr"
    with monkeypatch.context() as patched:
        patched.setattr(locks, "_open_lock_file", refuse)
        with locks.shared_lock(path):
            assert list(tmp_path.iterdir()) == []
    with locks.exclusive_lock(path):
        pass
    with monkeypatch.context() as patched:
        patched.setattr(locks, "_open_lock_file", refuse)
        reading = locks.acquire_shared_lock(path)
    assert reading is not None
    with (
        pytest.raises(FeatureError, match="another process reads or writes"),
        locks.exclusive_lock(path),
    ):
        pass
    reading.close()
    with locks.exclusive_lock(path):
        pass
