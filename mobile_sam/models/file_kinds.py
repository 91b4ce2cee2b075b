"""Detection of files that were given as weights by mistake, by their first bytes."""

import struct
import zipfile
from pathlib import Path

from mobile_sam.system.errors import ConfigError

_HEAD = 512  # bytes
_WEB_PAGE = (
    "is a web page, which a download saved in place of the weights; download the file itself"
)
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")
# First bytes of a file, and its kind.
_KINDS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the weights: run `git lfs pull` in the "
    "directory that you cloned",
    b"\x1f\x8b": "is a gzip archive; unpack it and give the file in it",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive; unpack it and give the file in it",
    b"Rar!": "is a RAR archive; unpack it and give the file in it",
    b"\x89HDF": "is an HDF5 file; give weights of PyTorch",
    b"\x93NUMPY": "is an array of NumPy; give weights of PyTorch",
}
# Names and suffixes of weights files in a directory, most likely first.
_LIKELY = ("weights.pt", "model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".pt", ".pth", ".safetensors", ".bin", ".ckpt")


def check_kind(path: Path) -> None:
    """Raise ConfigError, with the kind of file, for a path that cannot hold weights.

    These are directories, empty files, Git LFS pointers, web pages, texts, TorchScript and
    archives. Raises OSError for a file that cannot be read.
    """
    if path.is_dir():
        raise ConfigError(f"{path}: is a directory; {_directory_hint(path)}")
    if not path.exists():
        raise ConfigError(f"{path}: there is no such file")
    kind = _kind(path)
    if kind is not None:
        raise ConfigError(f"{path}: {kind}")


def is_safetensors(path: Path) -> bool:
    """Return whether a file is in the safetensors format, by its content or its name.

    It begins with the length of its header, in 8 bytes, and the header, in JSON.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**27:
        return True
    by_torch = head.startswith((b"PK\x03\x04", b"\x80"))  # regardless of the file's name
    return path.suffix == ".safetensors" and not by_torch


def is_cut_off(path: Path) -> bool:
    """Return whether a file begins like one of `torch.save` but lacks the end."""
    with path.open("rb") as file:
        head = file.read(4)
    return head == b"PK\x03\x04" and not zipfile.is_zipfile(path)


def _kind(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "is empty; copy or download it again"
    for start, kind in _KINDS.items():
        if head.startswith(start):
            return kind
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
        return _WEB_PAGE
    if zipfile.is_zipfile(path):
        return _kind_of_zip(path)
    text = _text(head)
    return None if text is None else f"is a text file, not weights; it begins with {text[:60]!r}"


def _kind_of_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [Path(name).name for name in archive.namelist()]
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return None  # damaged; torch reports that
    if "constants.pkl" in names:
        return (
            "is a TorchScript program, not weights; save the state_dict() of its model by "
            "torch.save and give that"
        )
    if "data.pkl" in names:
        return None
    return f"is a ZIP archive that torch.save did not write ({names[:3]}); unpack it first"


def _text(head: bytes) -> str | None:
    """Return the text that a file begins with; None if the bytes are not text."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # a character may be cut off at the end
            return None
        text = head[: error.start].decode()
    return text if all(c.isprintable() or c in "\n\r\t" for c in text) else None


def _directory_hint(path: Path) -> str:
    files = sorted(entry.name for entry in path.iterdir() if entry.suffix in _SUFFIXES)
    candidates = [name for name in _LIKELY if name in files] + files
    if candidates:
        return f"give a file of weights in it, such as {path / candidates[0]}"
    return f"it holds no file of weights ({', '.join('*' + s for s in _SUFFIXES)}); give a file"
