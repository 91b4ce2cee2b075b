"""Checks of paths given by the user, with messages that name the argument."""

import errno
import os
import stat
from pathlib import Path

from mobile_sam.system.errors import ConfigError

_CHECK = "check the path"
# Messages by number of the system error.
_MESSAGES = {
    errno.ENOENT: f"there is no such file or directory; {_CHECK}",
    errno.ENOTDIR: f"a part of the path is a file, not a directory; {_CHECK}",
    errno.EISDIR: "this is a directory, not a file; give a file, or move the directory",
    errno.EEXIST: "the path exists already; move the file, or give another path",
    errno.ENOTEMPTY: "the directory holds other files; move them, or give another path",
    errno.ELOOP: "this is a link to itself; remove the link",
    errno.ENAMETOOLONG: "the name is longer than the disk allows; give a shorter one",
    errno.EACCES: "this user has no permission to read it; change its permissions",
    errno.EPERM: "this user has no permission to read it; change its permissions",
    errno.ENXIO: "this is neither a file nor a directory; give another path",
    errno.EBUSY: "another program uses it; end that program, and try again",
}


def path_message(number: int, path: str | Path) -> str | None:
    """Return the message for a path, by the number of the system's error; None if unknown."""
    path = Path(path)
    if number == errno.ENOENT and path.is_symlink():
        return f"the link leads to {path.readlink()}, which does not exist; fix or remove the link"
    return _MESSAGES.get(number)


def file_problem(path: Path) -> str | None:
    """Return why a path is not a readable file; None if it is one."""
    mode = _mode(path, "file")
    if isinstance(mode, str):
        return mode
    if stat.S_ISDIR(mode):
        return "this is a directory, not a file; give a file"
    if not stat.S_ISREG(mode):
        return "this is neither a file nor a directory; give a file"
    return None if os.access(path, os.R_OK) else _MESSAGES[errno.EACCES]


def directory_problem(path: Path) -> str | None:
    """Return why a path is not a readable directory; None if it is one."""
    mode = _mode(path, "directory")
    if isinstance(mode, str):
        return mode
    if not stat.S_ISDIR(mode):
        return "this is a file, not a directory; give a directory"
    return None if os.access(path, os.R_OK | os.X_OK) else _MESSAGES[errno.EACCES]


def existing_file(path: Path, name: str = "") -> Path:
    """Return the path of a readable file.

    name: name of the argument, for messages. Raises ConfigError for anything else.
    """
    return _checked_path(path, name, file_problem(path))


def existing_directory(path: Path, name: str = "") -> Path:
    """Return the path of a readable directory; arguments are those of `existing_file`."""
    return _checked_path(path, name, directory_problem(path))


def existing_path(path: Path, name: str = "") -> Path:
    """Return the path of a readable file or directory; arguments are those of `existing_file`."""
    mode = _mode(path, "file or directory")
    if isinstance(mode, str):
        return _checked_path(path, name, mode)
    problem = directory_problem(path) if stat.S_ISDIR(mode) else file_problem(path)
    return _checked_path(path, name, problem)


def output_problem(directory: Path, written: bool = True) -> str | None:
    """Return why files cannot be written into a directory, existing or new; None if they can.

    written: if false, permissions are not checked.
    """
    path = directory.absolute()
    existing = path
    if not os.path.lexists(path):
        existing = next(parent for parent in path.parents if os.path.lexists(parent))
    mode = _mode(existing, "directory")
    if isinstance(mode, str):
        return mode if existing == path else f"{existing}: {mode}"
    if not stat.S_ISDIR(mode):
        subject = "this" if existing == path else str(existing)
        return f"{subject} is a file, not a directory; give another path"
    if written and not os.access(existing, os.W_OK | os.X_OK):
        return (
            f"this user has no permission to write into {existing}; change its permissions, or "
            "give another path"
        )
    return None


def output_directory(path: Path, name: str) -> Path:
    """Return the path of a writable directory, which need not exist yet.

    name: name of the argument, for messages. Raises ConfigError for anything else.
    """
    return _checked_path(path, name, output_problem(path))


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark.

    Raises ConfigError for a file that is missing, empty, or in another encoding.
    """
    content = existing_file(path).read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{path}: the text is in UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}: line {line}: the text is not in UTF-8 (byte 0x{content[error.start]:02x}); "
            "save it as UTF-8"
        ) from None
    if not text.strip():
        raise ConfigError(f"{path}: the file is empty; write its content again")
    return text


def _mode(path: Path, expected: str) -> int | str:
    """Return the mode of the file at a path, or a message about the path."""
    try:
        return path.stat().st_mode
    except ValueError:
        return "the path contains a null character; remove it"
    except OSError as error:
        number = error.errno or 0
        if number == errno.ENOENT and not path.is_symlink():
            return f"there is no such {expected}; {_CHECK}"
        message = path_message(number, path)
        if message is None:
            raise
        return message


def _checked_path(path: Path, name: str, problem: str | None) -> Path:
    if problem is not None:
        raise ConfigError(f"{name} {path}: {problem}" if name else f"{path}: {problem}")
    return path
