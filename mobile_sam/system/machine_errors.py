"""Messages for faults of the machine, such as a full disk or too little memory.

Libraries report these faults in many ways, some of them as damage of the file that they read.
"""

import errno
import os
import re
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path

from mobile_sam.system.paths import path_message

_AGAIN = "run the same command again to continue"
_FILE_MESSAGES = {
    errno.ENOSPC: f"the disk is full; free some space, and {_AGAIN}",
    errno.EDQUOT: f"your disk quota is used up; free some space, and {_AGAIN}",
    errno.EROFS: f"the disk is read-only; make it writable, and {_AGAIN}; or choose another "
    "output_dir",
    errno.EACCES: f"this user has no permission; change the permissions, and {_AGAIN}",
    errno.EPERM: f"this user has no permission; change the permissions, and {_AGAIN}",
    errno.EMFILE: "too many files are open; raise `ulimit -n`, or lower num_workers",
    errno.ENFILE: "too many files are open on this machine; end other programs",
    errno.EIO: f"the disk cannot be read or written; check the disk, and {_AGAIN}",
    errno.EBADMSG: f"the disk cannot be read or written; check the disk, and {_AGAIN}",
    errno.ESTALE: f"the network disk has lost the file; mount the disk again, and {_AGAIN}",
    errno.ENOLCK: "the disk gives no lock; mount it with locks (NFS: with its lock service), and "
    f"{_AGAIN}",
}
_NETWORK = f"the network disk does not answer; wait for it or mount it again, and {_AGAIN}"
# By name, because not every system has all of them.
_NETWORK_ERRORS = {"EREMOTEIO", "EHOSTDOWN", "ENOLINK", "ECOMM", "ENONET", "ENOMEDIUM"}
_TICKET_ERRORS = {"ENOKEY", "EKEYEXPIRED", "EKEYREVOKED", "EKEYREJECTED"}
# Downloads can fail with these as well; an error that names a file is one of a disk.
_SOCKET_ERRORS = {
    *("ETIMEDOUT", "ENOTCONN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET"),
    *("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "ESHUTDOWN"),
}
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
# Messages of C++, torch, CUDA, oneDNN, Arrow, matplotlib and the system.
_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|"
    r"bad_alloc|can't start new thread|failed to launch worker thread|alloc_cpu|"
    r"failed to map segment|could not create a (primitive|memory)|not be made C-contiguous",
    re.IGNORECASE,
)
_SHARED_MEMORY = re.compile(
    r"</torch_\d|shared memory ?\(shm\)|out of shared memory|bus error", re.IGNORECASE
)
_READER_KILLED = re.compile(r"DataLoader worker .*killed by signal: Killed")
# Messages of torch, cuDNN and cuBLAS about the memory of a GPU.
_GPU_MEMORY = re.compile(r"\b(CUDA|HIP)\b.*out of memory|_STATUS_\w*ALLOC\w*_FAILED", re.IGNORECASE)
_FEWER_JOBS = "give Snakemake fewer --cores, so that fewer jobs run at a time"
_REMEDIES = {
    "train": "lower num_workers or set recompute_encoder to true, which retrains nothing; "
    "otherwise lower decoder_chunk_size, objects_per_image or batch_size",
    "index": "give it fewer --workers (of Snakemake: --max-threads)",
    "extract": f"lower num_workers, or {_FEWER_JOBS}",
    "validate": f"lower num_workers, or {_FEWER_JOBS}",
    "cost": "end other programs, or set benchmark_repeats to 0",
    "report": "lower report_examples",
    "evaluate": "give it fewer --workers",
}
# num_workers is missing here, because readers of images use no GPU memory.
_END_OTHERS = "end other programs that use it (`nvidia-smi` lists them)"
_GPU_REMEDIES = {
    "train": "set recompute_encoder to true, which retrains nothing; otherwise lower "
    "decoder_chunk_size or objects_per_image, or halve batch_size and double gradient_accumulation",
    "extract": f"{_END_OTHERS}, or choose a smaller teacher or img_size",
    "validate": f"{_END_OTHERS}, or put CUDA_VISIBLE_DEVICES= before the command to use the CPU",
    "cost": f"{_END_OTHERS}, or set benchmark_repeats to 0",
    **dict.fromkeys(
        ("predict", "segment", "evaluate", "app"), f"{_END_OTHERS}, or add --device cpu"
    ),
}


def machine_fault(error: BaseException, command: str = "") -> str | None:
    """Return a message about the fault of the machine behind an error; None for other errors.

    command: name of the command, for advice on its settings.
    """
    for cause in _causes(error):
        if isinstance(cause, OSError) and (message := _file_message(cause)):
            unnamed = "results, temporary files or /dev/shm"
            place = cause.filename if isinstance(cause.filename, str | Path) else unnamed
            return f"{place}: {message}"
        text = error_text(cause)
        if isinstance(cause, RuntimeError) and _SHARED_MEMORY.search(text):
            return (
                "the shared memory (/dev/shm) is full; lower num_workers, or make it "
                "larger (for a container: --shm-size)"
            )
        message = _memory_message(cause, text, command)
        if message is not None:
            return message
    return None


def _memory_message(error: BaseException, text: str, command: str) -> str | None:
    """Return a message about too little memory, of the machine or a GPU; None for other errors."""
    remedy = _REMEDIES.get(command, "end other programs")
    killed = "a process that reads images was killed, as the system does when memory is short"
    if isinstance(error, RuntimeError) and _READER_KILLED.search(text):
        return f"{killed}; lower num_workers, and {_AGAIN}"
    if isinstance(error, BrokenExecutor):
        return f"{killed}; {remedy}, and {_AGAIN}"
    detail = f" ({_first_line(text)})" if text else ""
    if isinstance(error, Exception) and _GPU_MEMORY.search(text):
        remedy = _GPU_REMEDIES.get(command, _END_OTHERS)
        return f"the memory of the GPU is too small{detail}; {remedy}"
    if isinstance(error, MemoryError) or _is_memory(error, text):
        return f"the memory of this machine is too small{detail}; {remedy}"
    return None


def is_damage(error: BaseException) -> bool:
    """Return whether a reading error means that a file is damaged or missing.

    False for faults of the machine and other errors of the system: the file may be intact, and it
    can be read again.
    """
    numbers = [_number(cause) for cause in _causes(error) if isinstance(cause, OSError)]
    return machine_fault(error) is None and not any(n and n not in _ABSENT for n in numbers)


def path_problem(error: BaseException) -> str | None:
    """Return a message about the path that an OSError names; None for any other error.

    Such an error is not a fault of the machine: for example, a file is missing.
    """
    for cause in _causes(error):
        path = cause.filename if isinstance(cause, OSError) else None
        if isinstance(cause, OSError) and isinstance(path, str | Path):
            unknown = f'the system reports "{cause.strerror}"; check the path'
            return f"{path}: {path_message(_number(cause), path) or unknown}"
    return None


def error_text(error: BaseException) -> str:
    """Return the message of an error; for one from a reading process, without its traceback."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    return text.rstrip().rsplit(f"{type(error).__name__}: ", 1)[-1]


@contextmanager
def naming(path: Path, unfinished: Path | None = None) -> Iterator[None]:
    """Set `path` as the file name of an OSError that names no file.

    unfinished: temporary file or directory of `path`, whose name is replaced as well.
    """
    try:
        yield
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, OSError) and _is_unnamed(cause, unfinished):
                cause.filename = str(path)
        raise


def _file_message(error: OSError) -> str | None:
    number = _number(error)
    name = errno.errorcode.get(number, "")
    if name in _TICKET_ERRORS:
        return f"your ticket for the network disk is no longer valid; renew it, and {_AGAIN}"
    if name in _NETWORK_ERRORS or (name in _SOCKET_ERRORS and error.filename is not None):
        return _NETWORK
    return _FILE_MESSAGES.get(number)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes; `torch.save` reports a full disk only as a cause."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _is_unnamed(error: OSError, unfinished: Path | None) -> bool:
    if error.errno is None:  # an error of Arrow, whose message a file name would hide
        return False
    name = error.filename
    is_path = isinstance(name, str | bytes | Path)
    return name is None or bool(
        unfinished and is_path and Path(os.fsdecode(name)).is_relative_to(unfinished)
    )


def _number(error: OSError) -> int:
    """Return the number of the system error; 0 if it is unknown."""
    if error.errno is not None:
        return error.errno
    match = re.search(r"\[errno (\d+)\]", error_text(error), re.IGNORECASE)
    return int(match[1]) if match else 0


def _is_memory(error: BaseException, text: str) -> bool:
    if isinstance(error, OSError):
        return _number(error) == errno.ENOMEM
    return isinstance(error, Exception) and _MEMORY.search(text) is not None


def _first_line(text: str) -> str:
    return text.splitlines()[0].rstrip(".")
