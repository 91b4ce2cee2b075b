"""Faults of the machine, a full disk or too little memory, in sentences that say what to do.

Libraries report them in many ways, some of them as damage of the file that is being read.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_GOES_ON = "the same command then goes on"
_OF_FILES = {
    errno.ENOSPC: f"the disk is full; make room, and {_GOES_ON}",
    errno.EDQUOT: f"your quota of the disk is used up; make room, and {_GOES_ON}",
    errno.EROFS: f"the disk is read-only; make it writable, and {_GOES_ON}, or choose another "
    "output_dir",
    errno.EACCES: f"this user has no right to it; change that, and {_GOES_ON}",
    errno.EPERM: f"this user has no right to it; change that, and {_GOES_ON}",
    errno.EMFILE: "too many files are open; raise `ulimit -n`, or lower num_workers",
    errno.ENFILE: "too many files are open on this machine; end other programs",
    errno.EIO: f"the disk cannot be read or written; look after it, and {_GOES_ON}",
    errno.ESTALE: f"the network disk has lost it; mount that again, and {_GOES_ON}",
}
# Of C++, torch, CUDA, oneDNN, Arrow, matplotlib and the system.
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
_LESS = {
    "train": "lower num_workers or set recompute_encoder to true, which train nothing again; else "
    "lower prompts_per_pass, objects_per_image or batch_size",
    "index": "give it fewer --workers (of Snakemake: --max-threads)",
    "extract": "lower num_workers",
    "validate": "lower num_workers, or raise validate_jobs",
    "report": "lower report_examples",
}


def fault(error: BaseException, verb: str = "") -> str | None:
    """A sentence about the fault behind an error; None for errors of any other kind.

    verb: of the command line, for what it can do with less of.
    """
    for cause in _causes(error):
        if isinstance(cause, OSError) and _number(cause) in _OF_FILES:
            unnamed = "results, temporary files or /dev/shm"
            where = cause.filename if isinstance(cause.filename, str | Path) else unnamed
            return f"{where}: {_OF_FILES[_number(cause)]}"
        text = words(cause)
        if isinstance(cause, RuntimeError) and _SHARED_MEMORY.search(text):
            return (
                "the memory that processes share (/dev/shm) is full; lower num_workers, or make it "
                "larger (of a container: --shm-size)"
            )
        if isinstance(cause, RuntimeError) and _READER_KILLED.search(text):
            return (
                "a process that reads images was killed, as the system does when memory is short; "
                f"lower num_workers, and {_GOES_ON}"
            )
        if isinstance(cause, MemoryError) or _is_memory(cause, text):
            said = f" ({_first_line(text)})" if text else ""
            less = _LESS.get(verb, "end other programs")
            return f"the memory of this machine is too small{said}; {less}"
    return None


def words(error: BaseException) -> str:
    """What an error says; of one from a process that reads, without the traceback in it."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    return text.rstrip().rsplit(f"{type(error).__name__}: ", 1)[-1]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError that names no file, or the unfinished one, say that it is about `path`."""
    try:
        yield
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, OSError) and _is_unnamed(cause, path):
                cause.filename = str(path)
        raise


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came of, as far as that is known; `torch.save` hides a full disk so."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _is_unnamed(error: OSError, path: Path) -> bool:
    name = error.filename
    if error.errno is None:  # of Arrow: its words would no longer be shown
        return False
    return name is None or Path(str(name)).name.startswith(f".{path.name}.")


def _number(error: OSError) -> int:
    """Of the system's list of errors; 0 where it is not known."""
    if error.errno is not None:
        return error.errno
    said = re.search(r"\[errno (\d+)\]", words(error), re.IGNORECASE)
    return int(said[1]) if said else 0


def _is_memory(error: BaseException, text: str) -> bool:
    if isinstance(error, OSError):
        return _number(error) == errno.ENOMEM
    return isinstance(error, Exception) and _MEMORY.search(text) is not None


def _first_line(text: str) -> str:
    return text.splitlines()[0].rstrip(".")
