"""JSON files of annotations: read whole, with a sentence for what is wrong with them."""

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mobile_sam.data.images import RecordError

_T = TypeVar("_T")
_NOT_A_JSON_NUMBER = re.compile(rb"(?<![\w\"])-?(NaN|Infinity)(?![\w\"])")
_BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


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


def parse_json(content: bytes, path: Path, type_: type[_T], form: str) -> _T:
    """Return the content of a JSON text of a known form.

    form: what was expected, for messages, such as `a COCO file`.
    Raises RecordError that says what is wrong.
    """
    try:
        return msgspec.json.decode(content, type=type_)
    except msgspec.ValidationError as error:
        raise RecordError(f"{path}: not {form} ({_plain_message(error)})") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        number = _NOT_A_JSON_NUMBER.search(content)
        if number:
            line = content[: number.start()].count(b"\n") + 1
            raise RecordError(
                f"{path}: line {line}: {number[0].decode()} is no number in JSON; correct the "
                "annotation, or remove it"
            ) from error
        what = (
            "in another encoding than UTF-8" if _is_other_text(content) else f"not JSON ({error})"
        )
        raise RecordError(f"{path}: the file is {what}; export the annotations again") from error


def read_any_json(path: Path) -> Any:
    """Return the content of a JSON file of any form. Raises RecordError as `parse_json`."""
    return parse_json(json_bytes(path), path, object, "a JSON file")


def _is_other_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return True
    return False


def _plain_message(error: Exception) -> str:
    """A message of msgspec in words of JSON: `$.images[0].id is missing`."""
    text = str(error)
    found = re.fullmatch(r"(.*?) - at `(.*)`", text)
    if not found:
        return text.replace("`", "'")
    return f"{found[2]}: {found[1]}".replace("`", "'")
