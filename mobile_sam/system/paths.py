"""Checks of paths given by the user, with messages that name the argument."""

import errno
import os
import stat
from pathlib import Path

from mobile_sam.system.errors import ConfigError

_CHECK = "check the path"
# Messages by the system's error.
_MESSAGES = {
    errno.ENOENT: f"there is no such file or directory; {_CHECK}",
    errno.ENOTDIR: f"a part of the path is a file, and a directory is needed; {_CHECK}",
    errno.EISDIR: "a directory, and a file is needed; name a file, or move the directory",
    errno.EEXIST: "something else is there already; move it, or give another path",
    errno.ENOTEMPTY: "the directory holds other files; move them, or give another path",
    errno.ELOOP: "a link that leads to itself; remove the link",
    errno.ENAMETOOLONG: "the name is longer than the disk allows; give a shorter one",
    errno.EACCES: "this user has no right to read it; change its permissions",
    errno.EPERM: "this user has no right to read it; change its permissions",
    errno.ENXIO: "neither a file nor a directory; give another path",
    errno.EBUSY: "another program holds it; end that program, and try again",
}


def path_message(number: int, path: str | Path) -> str | None:
    """Return the message for a path, by the number of the system's error; None if unknown."""
    path = Path(path)
    if number == errno.ENOENT and path.is_symlink():
        return f"the link leads to {path.readlink()}, which is not there; mend or remove the link"
    return _MESSAGES.get(number)


def file_problem(path: Path) -> str | None:
    """Return why a path is not a readable file; None if it is one."""
    mode = _mode(path, "file")
    if isinstance(mode, str):
        return mode
    if stat.S_ISDIR(mode):
        return "a directory, and a file is needed; give a file"
    if not stat.S_ISREG(mode):
        return "neither a file nor a directory; give a file"
    return None if os.access(path, os.R_OK) else _MESSAGES[errno.EACCES]


def directory_problem(path: Path) -> str | None:
    """Return why a path is not a readable directory; None if it is one."""
    mode = _mode(path, "directory")
    if isinstance(mode, str):
        return mode
    if not stat.S_ISDIR(mode):
        return "a file, and a directory is needed; give a directory"
    return None if os.access(path, os.R_OK | os.X_OK) else _MESSAGES[errno.EACCES]


def existing_file(path: Path, name: str = "") -> Path:
    """Return the path of a readable file.

    name: name of the argument, for messages. Raises ConfigError for anything else.
    """
    return _sound(path, name, file_problem(path))


def existing_directory(path: Path, name: str = "") -> Path:
    """Return the path of a readable directory; arguments are those of `existing_file`."""
    return _sound(path, name, directory_problem(path))


def existing_path(path: Path, name: str = "") -> Path:
    """Return the path of a readable file or directory; arguments are those of `existing_file`."""
    mode = _mode(path, "file or directory")
    if isinstance(mode, str):
        return _sound(path, name, mode)
    problem = directory_problem(path) if stat.S_ISDIR(mode) else file_problem(path)
    return _sound(path, name, problem)


def output_problem(directory: Path, written: bool = True) -> str | None:
    """Return why files cannot be written into a directory, existing or new; None if they can.

    written: if false, permissions are not checked.
    """
    place = directory.absolute()
    if not os.path.lexists(place):
        place = next(above for above in place.parents if os.path.lexists(above))
    mode = _mode(place, "directory")
    if isinstance(mode, str):
        return mode if place == directory.absolute() else f"{place}: {mode}"
    subject = "" if place == directory.absolute() else f"{place} is "
    if not stat.S_ISDIR(mode):
        return f"{subject}a file, and a directory is needed; give another path"
    if written and not os.access(place, os.W_OK | os.X_OK):
        return f"this user cannot write into {place}; change its permissions, or give another path"
    return None


def output_directory(path: Path, name: str) -> Path:
    """Return the path of a writable directory, which need not exist yet.

    name: name of the argument, for messages. Raises ConfigError for anything else.
    """
    return _sound(path, name, output_problem(path))


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
        raise ConfigError(f"{path}: the file is empty; write it again")
    return text


def _mode(path: Path, expected: str) -> int | str:
    """Return the mode of the file at a path, or a message about the path."""
    try:
        return path.stat().st_mode
    except ValueError:
        return "the path holds a null character; remove it"
    except OSError as error:
        number = error.errno or 0
        if number == errno.ENOENT and not path.is_symlink():
            return f"there is no such {expected}; {_CHECK}"
        message = path_message(number, path)
        if message is None:
            raise
        return message


def _sound(path: Path, name: str, problem: str | None) -> Path:
    if problem is not None:
        raise ConfigError(f"{name} {path}: {problem}" if name else f"{path}: {problem}")
    return path
