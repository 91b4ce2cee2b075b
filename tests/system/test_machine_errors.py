"""What libraries say of faults of the machine, and what becomes of it."""

import errno
import os
from pathlib import Path

import pytest
import torch

from mobile_sam.data.index import open_index
from mobile_sam.faults import fault, naming, words
from mobile_sam.files import whole, whole_files
from mobile_sam.models.state_files import load_file

OF_FILES = ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EMFILE", "EIO", "ESTALE"]


def of_file(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number), "results/a.pt")


@pytest.mark.parametrize("name", OF_FILES)
def test_faults_of_a_disk_name_the_file(name: str) -> None:
    sentence = fault(of_file(name))
    assert sentence is not None
    assert sentence.startswith("results/a.pt: ")
    assert ";" in sentence


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28]"), "the disk is full"),
        (MemoryError(), "the memory of this machine is too small; lower num_workers or set"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "(CUDA out of memory. Tried"),
        (torch.OutOfMemoryError("CUDA out of memory."), "lower prompts_per_pass"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "memory of this machine"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory of this machine is too small"),
        (RuntimeError("unable to write to file </torch_1_2_3>: No space left"), "(/dev/shm) is"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."),
            "(/dev/shm) is",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "was killed, as"),
    ],
)
def test_faults_are_known_by_what_libraries_say(error: Exception, says: str) -> None:
    assert says in (fault(error, "train") or "")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_other_errors_are_none(error: Exception) -> None:
    assert fault(error, "train") is None


def test_a_fault_behind_another_error_is_found_and_named() -> None:
    """`torch.save` says `unexpected pos`, having met a full disk before."""
    with pytest.raises(RuntimeError) as caught, naming(Path("a.pt")):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 128 vs 64")
    assert (fault(caught.value) or "").startswith("a.pt: the disk is full")


def test_an_error_without_a_number_keeps_its_words() -> None:
    """Arrow's, which would become `[Errno None] None: a.parquet`."""
    with pytest.raises(OSError, match="only has 0 row groups"), naming(Path("a.parquet")):
        raise OSError("The file only has 0 row groups")


def test_of_an_error_in_a_process_that_reads_the_traceback_is_left_out() -> None:
    text = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent"
    assert words(ValueError(f"{text}\n  File x\npackage.ValueError: a.png: cut off\n")) == (
        "a.png: cut off"
    )


@pytest.mark.parametrize("name", OF_FILES)
@pytest.mark.parametrize("read", [load_file, open_index])
def test_a_fault_is_not_taken_for_damage(
    name: str, read: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")

    def fail(*args: object, **options: object) -> None:
        raise of_file(name)

    monkeypatch.setattr("torch.load", fail)
    monkeypatch.setattr("pyarrow.parquet.ParquetFile", fail)
    with pytest.raises(OSError, match=r"results/a\.pt"):
        read(path)  # type: ignore[operator]


def test_a_file_that_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match=r"a\.txt"), whole(path) as unfinished:
        unfinished.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"
    with whole(path) as unfinished:
        unfinished.write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "new"


def test_files_that_fail_leave_a_directory_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "report"
    for content in ("old", "new"):
        with whole_files(target, last="a.html") as unfinished:
            for name in ("a.html", "b.png"):
                (unfinished / name).write_text(content)
    with pytest.raises(OSError, match="report"), whole_files(target, "a.html") as unfinished:
        (unfinished / "b.png").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert {p.name: p.read_text() for p in target.iterdir()} == {"a.html": "new", "b.png": "new"}
    assert [p.name for p in tmp_path.iterdir()] == ["report"]
