"""Files that are there whole or not at all, on disks that several hosts write to."""

import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mobile_sam.system import atomic_files
from mobile_sam.system.atomic_files import (
    atomic_write,
    atomic_write_files,
    path_exists,
    remove_unfinished,
    unfinished_path,
)

DAY = 24 * 3600


def host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: name)


def test_unfinished_names_are_of_one_host_and_process_and_never_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()
    for name in ("node-1", "node-2", "node-2"):
        host(name, monkeypatch)
        path = unfinished_path(tmp_path / "a.pt")
        assert re.fullmatch(rf"\.a\.pt\.{name}\.{os.getpid()}\.[0-9a-f]{{8}}", path.name)
        names.add(path.name)
    assert len(names) == 3


@pytest.mark.parametrize("name", ["node.cluster.example.org", "", "x" * 64])
def test_any_name_of_a_host_makes_a_name_that_is_known_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host(name, monkeypatch)
    unfinished_path(tmp_path / "a.pt").touch()
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("letter", ["x", "é"])
def test_the_longest_names_of_a_disk_can_be_written(letter: str, tmp_path: Path) -> None:
    path = tmp_path / (letter * (255 // len(letter.encode())))
    with atomic_write(path) as unfinished:
        unfinished.write_text("1")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_unfinished_file_is_created_by_one_writer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = tmp_path / ".a.node.7.00000000"
    monkeypatch.setattr(atomic_files, "unfinished_path", lambda path: same)
    with atomic_write(tmp_path / "a") as unfinished:
        unfinished.write_text("first")
        with pytest.raises(FileExistsError), atomic_write(tmp_path / "a"):
            pass
        with pytest.raises(FileExistsError), atomic_write_files(tmp_path / "a", last="b"):
            pass
    assert (tmp_path / "a").read_text() == "first"


def test_two_hosts_that_write_one_file_at_a_time_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    host("node-1", monkeypatch)
    with atomic_write(path) as first:
        first.write_text("first")
        host("node-2", monkeypatch)
        remove_unfinished(tmp_path)  # as a training of node-2 does when it begins
        with atomic_write(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_killed_writers_left_is_removed_as_far_as_that_is_certain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host("here", monkeypatch)
    ended, running = ended_process(), os.getppid()
    removed = [f".a.pt.here.{ended}.01234567", f".b.here.{os.getpid()}.01234567"]
    removed += [".old.there.1.01234567", ".old.pt.4711"]
    kept = [f".a.pt.here.{running}.01234567", f".a.pt.there.{ended}.01234567"]
    kept += [".new.pt.4711", ".lock", ".store.zarr.rows.lock", "a.pt", ".a.here.x.01234567"]
    for name in (*removed, *kept):
        (tmp_path / name).write_text("")
        age = 2 * DAY if "old" in name or name == "a.pt" else DAY / 2
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    store = tmp_path / f".store.zarr.here.{ended}.01234567"
    (store / "neck").mkdir(parents=True)
    remove_unfinished(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)


def test_only_what_becomes_a_given_name_is_removed(tmp_path: Path) -> None:
    for name in ("a[1]", "a1"):
        unfinished_path(tmp_path / name).touch()
    remove_unfinished(tmp_path, "a[1]")
    assert [p.name.split(".")[1] for p in tmp_path.iterdir()] == ["a1"]


def test_a_file_is_on_the_disk_before_its_name_and_its_name_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace, flush = Path.replace, os.fsync

    def flushed(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        done.append("flush directory" if name == tmp_path.name else "flush file")
        flush(descriptor)

    def replaced(path: Path, target: Path) -> Path:
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr("os.fsync", flushed)
    monkeypatch.setattr(Path, "replace", replaced)
    with atomic_write(tmp_path / "a") as unfinished:
        unfinished.write_text("1")
    assert done == ["flush file", "rename", "flush directory"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.EIO])
def test_a_disk_that_flushes_no_directories_is_used(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def only_files(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == tmp_path:
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr("os.fsync", only_files)
    if number == errno.EIO:
        with pytest.raises(OSError, match="Input/output error"), atomic_write(tmp_path / "a"):
            pass
    else:
        with atomic_write(tmp_path / "a"):
            pass
        assert (tmp_path / "a").is_file()


def test_what_cannot_be_looked_at_is_not_taken_for_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert path_exists(tmp_path)
    assert not path_exists(tmp_path / "a")
    (tmp_path / "file").write_text("")
    assert not path_exists(tmp_path / "file" / "a")

    def fail(path: Path, **options: object) -> os.stat_result:
        raise OSError(errno.ETIMEDOUT, "Connection timed out", str(path))

    monkeypatch.setattr(Path, "stat", fail)
    with pytest.raises(OSError, match="timed out"):
        path_exists(tmp_path / "a")
