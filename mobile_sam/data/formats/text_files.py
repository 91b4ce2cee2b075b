"""Text and JSON files, read with messages that name the problem."""

import re
from pathlib import Path
from typing import TypeVar

import msgspec

from mobile_sam.data.images import RecordError

_T = TypeVar("_T")
_NOT_A_JSON_NUMBER = re.compile(rb"(?<![\w\"])-?(NaN|Infinity)(?![\w\"])")
_BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file. Raises RecordError if it cannot be read."""
    try:
        # Decoded at once, so that an incomplete byte order mark is an error and not dropped.
        return path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise RecordError(f"{path}: the text cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: the text cannot be read ({error}); save it as UTF-8") from error


def json_bytes(path: Path) -> bytes:
    """Return the text of a JSON file as UTF-8, without a byte order mark.

    Raises RecordError for a file that cannot be read, is empty, or is in another encoding.
    """
    try:
        content = path.read_bytes()
        for mark, encoding in _BOMS.items():
            if content.startswith(mark):
                content = content.decode(encoding).encode()
    except OSError as error:
        raise RecordError(f"{path}: the file cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: the text cannot be read ({error}); save it as UTF-8") from error
    if not content.strip():
        raise RecordError(f"{path}: the file is empty; export the annotations again")
    return content


def parse_json(content: bytes, path: Path, type_: type[_T], expected: str) -> _T:
    """Decode a JSON text to a type.

    expected: the expected content, for messages, such as `a COCO file`.
    Raises RecordError for a text that is not JSON or not of this type.
    """
    try:
        return msgspec.json.decode(content, type=type_)
    except msgspec.ValidationError as error:
        raise RecordError(f"{path}: not {expected} ({_plain_message(error)})") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        number = _NOT_A_JSON_NUMBER.search(content)
        if number:
            line = content[: number.start()].count(b"\n") + 1
            raise RecordError(
                f"{path}: line {line}: {number[0].decode()} is not a number in JSON; correct the "
                "annotation, or remove it"
            ) from error
        problem = f"not JSON ({error})" if _is_utf8(content) else "not encoded in UTF-8"
        raise RecordError(f"{path}: the file is {problem}; export the annotations again") from error


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _plain_message(error: Exception) -> str:
    """Return a message of msgspec that begins with the place: `$.images[0]: Expected ...`."""
    text = str(error)
    match = re.fullmatch(r"(.*?) - at `(.*)`", text)
    if match:
        text = f"{match[2]}: {match[1]}"
    return text.replace("`", "'")
