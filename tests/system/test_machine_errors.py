"""What libraries say of faults of the machine, and what becomes of it."""

import errno
import os
from pathlib import Path

import pytest
import requests
import torch

from mobile_sam.data.index.table import open_index
from mobile_sam.models.safe_load import load_file
from mobile_sam.system.atomic_files import atomic_write, atomic_write_files
from mobile_sam.system.machine_errors import error_text, is_damage, machine_fault, naming

OF_NETWORK_DISKS = ["ETIMEDOUT", "ENOTCONN", "EREMOTEIO", "EHOSTDOWN", "EHOSTUNREACH", "ENOLINK"]
OF_FILES = ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EMFILE", "EIO", "ESTALE", "ENOLCK"]
OF_FILES += [*OF_NETWORK_DISKS, "EKEYEXPIRED"]


def of_file(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number), "results/a.pt")


@pytest.mark.parametrize("name", OF_FILES)
def test_faults_of_a_disk_name_the_file(name: str) -> None:
    sentence = machine_fault(of_file(name))
    assert sentence is not None
    assert sentence.startswith("results/a.pt: ")
    assert ";" in sentence


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28]"), "the disk is full"),
        (MemoryError(), "the memory of this machine is too small; lower num_workers or set"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "(CUDA out of memory. Tried"),
        (torch.OutOfMemoryError("CUDA out of memory."), "lower decoder_chunk_size"),
        (RuntimeError("CUDA error: out of memory"), "the memory of the GPU is too small"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "the memory of the GPU is too"),
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
    assert says in (machine_fault(error, "train") or "")


ADVICE = {
    "train": ("recompute_encoder", "num_workers"),
    "extract": ("a smaller teacher or img_size", "num_workers"),
    "validate": ("CUDA_VISIBLE_DEVICES=", "num_workers"),
    "cost": ("benchmark_repeats to 0", "num_workers"),
    "predict": ("--device cpu", "num_workers"),
}


@pytest.mark.parametrize("verb", ADVICE)
def test_advice_on_memory_fits_the_verb_and_the_device(verb: str) -> None:
    """Readers of images, which `num_workers` counts, take none of a GPU's memory."""
    helps, does_not = ADVICE[verb]
    on_gpu = machine_fault(torch.OutOfMemoryError("CUDA out of memory."), verb) or ""
    assert helps in on_gpu
    assert does_not not in on_gpu
    on_cpu = machine_fault(MemoryError(), verb) or ""
    assert "nvidia-smi" not in on_cpu
    assert ("num_workers" in on_cpu) == (verb in {"train", "extract", "validate"})


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
        requests.ConnectionError("Failed to connect: [Errno 110] Connection timed out"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_other_errors_are_none(error: Exception) -> None:
    assert machine_fault(error, "train") is None


@pytest.mark.parametrize("name", OF_NETWORK_DISKS)
def test_a_network_disk_that_does_not_answer_is_waited_for(name: str) -> None:
    message = "the network disk does not answer; wait for it or mount it again, and run the same"
    assert message in (machine_fault(of_file(name)) or "")


@pytest.mark.parametrize("name", [*OF_FILES, "EPROTO", "EAGAIN", "ENODEV"])
def test_no_error_of_the_system_is_damage_but_absence(name: str) -> None:
    assert not is_damage(of_file(name))
    assert not is_damage(OSError(getattr(errno, name), "of no file"))
    assert not is_damage(OSError(f"Arrow: [errno {getattr(errno, name)}] of a file"))


@pytest.mark.parametrize(
    "error", [of_file("ENOENT"), of_file("ENOTDIR"), ValueError("checksum"), OSError("Arrow: cut")]
)
def test_what_is_missing_or_wrong_is_damage(error: Exception) -> None:
    assert is_damage(error)


def test_a_fault_behind_another_error_is_found_and_named() -> None:
    """`torch.save` says `unexpected pos`, having met a full disk before."""
    with pytest.raises(RuntimeError) as caught, naming(Path("a.pt")):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 128 vs 64")
    assert (machine_fault(caught.value) or "").startswith("a.pt: the disk is full")


def test_an_error_without_a_number_keeps_its_words() -> None:
    """Arrow's, which would become `[Errno None] None: a.parquet`."""
    with pytest.raises(OSError, match="only has 0 row groups"), naming(Path("a.parquet")):
        raise OSError("The file only has 0 row groups")


def test_of_an_error_in_a_process_that_reads_the_traceback_is_left_out() -> None:
    text = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent"
    assert error_text(ValueError(f"{text}\n  File x\npackage.ValueError: a.png: cut off\n")) == (
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
    with pytest.raises(OSError, match=r"a\.txt"), atomic_write(path) as unfinished:
        unfinished.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"
    with atomic_write(path) as unfinished:
        unfinished.write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "new"


def test_files_that_fail_leave_a_directory_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "report"
    for content in ("old", "new"):
        with atomic_write_files(target, last="a.html") as unfinished:
            for name in ("a.html", "b.png"):
                (unfinished / name).write_text(content)
    with pytest.raises(OSError, match="report"), atomic_write_files(target, "a.html") as unfinished:
        (unfinished / "b.png").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert {p.name: p.read_text() for p in target.iterdir()} == {"a.html": "new", "b.png": "new"}
    assert [p.name for p in tmp_path.iterdir()] == ["report"]
