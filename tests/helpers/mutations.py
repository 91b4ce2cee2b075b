"""Mutations of files, drawn by hypothesis: of bytes, of JSON values, of text encodings."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

ODD_VALUES: list[object] = [
    *(None, True, False, 0, 1, -1, 2, 1.0, 1.5, 1e300, 10**30, 10**400, "", "0", "1", "a", "a\nb"),
    *(" 7 ", "\0", "x" * 300, "é", "e\u0301", [], {}, [[]], [1, 2], [[1, 1, 5, 1, 5, 5]], {"a": 1}),
    *({"size": [1, 1], "counts": [1]}, float("nan"), float("inf"), "-0", "1_0", "٣", "²"),
]
ODD_KEYS = ["id", "shapes", "segmentation", "size", "mask", "x", "iscrowd", "file_name"]


def damaged(draw: Draw, content: bytes) -> bytes:
    """Return bytes of which some are changed, left out, repeated, or cut off at the end."""
    for _ in range(draw(st.integers(1, 3))):
        if not content:
            break
        place = draw(st.integers(0, len(content) - 1))
        kind = draw(st.sampled_from(["flip", "flip", "flip", "set", "cut", "drop", "repeat"]))
        if kind == "flip":
            flipped = content[place] ^ 1 << draw(st.integers(0, 7))
            content = content[:place] + bytes([flipped]) + content[place + 1 :]
        elif kind == "set":
            content = content[:place] + draw(st.binary(min_size=1, max_size=4)) + content[place:]
        elif kind == "cut":
            content = content[:place]
        else:
            end = place + draw(st.integers(1, 12))
            first, second = (place, end) if kind == "drop" else (end, place)
            content = content[:first] + content[second:]
    return content


def slots(content: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each place of a JSON value that can be replaced: its container and key."""
    keys = list(content) if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield content, key
        if isinstance(content[key], dict | list):
            yield from slots(content[key])


def replace_values(draw: Draw, content: Any) -> None:
    """Replace, remove, add, copy or move values anywhere in a JSON value, in place."""
    for _ in range(draw(st.integers(1, 3))):
        places = list(slots(content))
        if not places:
            return
        container, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "copy"]))
        if kind == "remove":
            del container[key]
        elif kind == "copy":
            container[key] = json.loads(json.dumps(_of(draw(st.sampled_from(places)))))
        elif kind == "replace" or isinstance(container, list):
            container[key] = deepcopy(draw(st.sampled_from(ODD_VALUES)))
        else:
            container[draw(st.sampled_from(ODD_KEYS))] = deepcopy(draw(st.sampled_from(ODD_VALUES)))


def _of(slot: tuple[Any, Any]) -> Any:
    container, key = slot
    try:
        return container[key]
    except (KeyError, IndexError):
        return None


def encoded(draw: Draw, text: str) -> bytes:
    """Return text in an encoding that readers of JSON must know: UTF-8, or one with a mark."""
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))
    return text.encode(encoding)
