"""Small data sets in COCO, LabelMe and YOLO, drawn by hypothesis."""

import base64
import io
import json
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.formats import run_length_code
from tests.helpers.mutations import Draw, damaged, encoded, replace_values
from tests.helpers.readings import Size

SIDES = st.integers(3, 20)
NAMES = ("a.png", "\u00e9.png", "c d.png")
CLASSES = ["cat", "dog", "\u00e9"]


def image_of(size: Size) -> bytes:
    """Return a grey PNG of (H, W)."""
    file = io.BytesIO()
    Image.new("L", size[::-1], 90).save(file, "PNG", compress_level=1)
    return file.getvalue()


def drawn_size(draw: Draw) -> Size:
    """Draw (H, W)."""
    return draw(st.tuples(SIDES, SIDES))


def drawn_box(draw: Draw, size: Size) -> tuple[int, int, int, int]:
    """Draw a box xyxy of whole pixels in an image of (H, W), not empty."""
    x0, y0 = draw(st.integers(0, size[1] - 1)), draw(st.integers(0, size[0] - 1))
    x1 = x0 + draw(st.integers(1, size[1] - x0))
    return x0, y0, x1, y0 + draw(st.integers(1, size[0] - y0))


def drawn_mask(draw: Draw, size: Size) -> np.ndarray:
    """Draw a mask (H, W) of one to three boxes."""
    mask = np.zeros(size, dtype=bool)
    for _ in range(draw(st.integers(1, 3))):
        x0, y0, x1, y1 = drawn_box(draw, size)
        mask[y0:y1, x0:x1] = True
    return mask


def drawn_points(draw: Draw, size: Size, least: int = 3) -> list[list[float]]:
    """Draw three to five points xy, up to a pixel beyond the image."""
    sides = [st.integers(-2, 2 * side + 2) for side in size[::-1]]
    points = st.lists(st.tuples(*sides), min_size=least, max_size=least + 2)
    return [[x / 2, y / 2] for x, y in draw(points)]


# COCO -------------------------------------------------------------------------------------------


def drawn_segmentation(draw: Draw, size: Size) -> Any:
    """Draw polygons in one of their forms, or a run-length code."""
    kind = draw(st.sampled_from(["flat", "polygons", "pairs", "code", "counts", "zeros"]))
    if kind in {"code", "counts"}:
        return run_length_code(drawn_mask(draw, size), kind == "code")
    if kind == "zeros":
        return _with_empty_runs(draw, drawn_mask(draw, size))
    if kind == "pairs":
        return [drawn_points(draw, size)]
    polygons = [drawn_points(draw, size) for _ in range(draw(st.integers(1, 2)))]
    flat = [[n for xy in points for n in xy] for points in polygons]
    return flat[0] if kind == "flat" else flat


def _with_empty_runs(draw: Draw, mask: np.ndarray) -> dict[str, Any]:
    """A code in which runs are cut in two by an empty one, which covers the same pixels."""
    code = run_length_code(mask, False)
    place = draw(st.integers(0, len(code["counts"]) - 1))
    run = code["counts"][place]
    first = draw(st.integers(0, run))
    code["counts"][place : place + 1] = [first, 0, run - first]
    return code


def coco_content(draw: Draw, sizes: dict[str, Size]) -> dict[str, Any]:
    """Draw a sound file of COCO's form for images of these sizes, by file name."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, size) in enumerate(sizes.items(), start=1):
        images.append({"id": image_id, "file_name": name, "height": size[0], "width": size[1]})
        for _ in range(draw(st.integers(0, 2))):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": draw(st.sampled_from([1, 2, 3])),
                    "iscrowd": draw(st.sampled_from([0, 0, 1])),
                    "segmentation": drawn_segmentation(draw, size),
                }
            )
    categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def put_in_dialect(draw: Draw, content: dict[str, Any]) -> None:
    """Write ids, crowds, sizes and names as other tools do, in place; the meaning stays."""
    number = draw(st.sampled_from([int, float, str]))
    for image in content["images"]:
        image["id"] = number(image["id"])
        how = draw(st.sampled_from(["int", "float", "text", "none", "-1", "missing", "partly"]))
        for key in ("height", "width"):
            change = {"float": float(image[key]), "text": str(image[key]), "none": None, "-1": -1}
            image[key] = change.get(how, image[key])
            if how == "missing" or (how == "partly" and key == "width"):
                del image[key]
        name = image["file_name"]
        forms = [name, f"train\\{name}", f"images/{name}", f"0123abcd-{name}"]
        form = draw(st.sampled_from([*forms, name.replace("\u00e9", "e\u0301"), None]))
        image["file_name"] = form
        if form is None:
            del image["file_name"]
            image["coco_url"] = f"http://images.example.org/train2017/{name}"
    crowds: dict[int, list[float | str | None]]
    crowds = {0: [0, False, None, "0", 0.0, ""], 1: [1, True, "1", 1.0]}
    for item in content["annotations"]:
        item["id"] = draw(st.sampled_from([item["id"], str(item["id"]), None]))
        item["image_id"] = draw(st.sampled_from([int, float, str]))(item["image_id"])
        item["iscrowd"] = draw(st.sampled_from(crowds[item["iscrowd"]]))
        item["category_id"] = draw(st.sampled_from([int, float, str]))(item["category_id"])
    kept = draw(st.sampled_from(["all", "text", "unnamed", "none", "missing"]))
    for category in content["categories"]:
        category["id"] = str(category["id"]) if kept == "text" else category["id"]
        if kept == "unnamed":
            category["name"] = None
    if kept == "none":
        content["categories"] = None
    elif kept == "missing":
        del content["categories"]


def break_coco(draw: Draw, content: dict[str, Any]) -> None:
    """Write one thing that has no meaning, or another one, in place."""
    images, items = content["images"], content["annotations"]
    image, item = draw(st.sampled_from(images)), draw(st.sampled_from(items or [{}]))
    code = item.get("segmentation")
    kinds = ["twice", "crowd", "name", "size", "reference", "category", "code", "counts", "number"]
    kind = draw(st.sampled_from(kinds))
    if kind == "twice":
        entries = draw(st.sampled_from([images, items or images, content.get("categories") or []]))
        entries += entries[:1]
    elif kind == "crowd":
        item["iscrowd"] = draw(st.sampled_from([2, -1, "2", "no", 0.5, [], "TRUE"]))
    elif kind == "name":
        name = image.get("file_name") or "a.png"
        forms = [f"../{name}", f"/{name}", "..", "", "gone.png", name.upper(), f"{'d' * 300}/x.png"]
        forms += [name + "/..", "a\nb.png", "%2e%2e%2Fa.png", f"x/{'n' * 300}.png", "\0.png"]
        image["file_name"] = draw(st.sampled_from(forms))
    elif kind == "size":
        sides = [99, 5.5, "abc", "1e3", "", 0, 10**400, "nan", "inf", True, [3]]
        image[draw(st.sampled_from(["height", "width"]))] = draw(st.sampled_from(sides))
    elif kind in {"reference", "category"}:
        key = "image_id" if kind == "reference" else "category_id"
        item[key] = draw(st.sampled_from([77, None, "x", 1.5, "a\nb", True]))
    elif isinstance(code, dict):
        _break_code(draw, code)
    elif kind == "number" and isinstance(code, list) and code:
        item["segmentation"] = draw(
            st.sampled_from([code[:1], code * 2, [code], {"counts": code}, str(code), [[1, 2]]])
        )


def _break_code(draw: Draw, code: dict[str, Any]) -> None:
    kind = draw(st.sampled_from(["cut", "size", "more", "odd"]))
    if kind == "cut":
        code["counts"] = code["counts"][:-1]
    elif kind == "size":
        code["size"] = draw(st.sampled_from([code["size"][::-1], [1, 1], [0, 0], [3.0, 3.0]]))
    elif kind == "odd":
        code["counts"] = draw(st.sampled_from([[], "", "0", [-1, 5], [1.0], [2**40], "oooo", None]))
    else:
        code["counts"] = code["counts"] * 2


def coco_bytes(draw: Draw, content: dict[str, Any]) -> tuple[bytes, bool]:
    """Return the text of a file of COCO's form, and whether its meaning is as it was."""
    kinds = ["sound", "dialect", "dialect", "broken", "broken", "values", "values", "bytes"]
    kind = draw(st.sampled_from(kinds))
    if kind == "dialect" or (kind in {"broken", "values"} and draw(st.booleans())):
        put_in_dialect(draw, content)
    if kind == "broken":
        break_coco(draw, content)
    if kind == "values":
        replace_values(draw, content)
    text = encoded(draw, json.dumps(content, ensure_ascii=draw(st.booleans())))
    if kind == "bytes":
        text = damaged(draw, text)
    return text, kind in {"sound", "dialect"}


# LabelMe ----------------------------------------------------------------------------------------


def drawn_shape(draw: Draw, size: Size) -> dict[str, Any]:
    """Draw a polygon, a rectangle, a circle or a mask."""
    kind = draw(st.sampled_from(["polygon", "polygon", "rectangle", "circle", "mask"]))
    shape: dict[str, Any] = {"label": draw(st.sampled_from(CLASSES)), "shape_type": kind}
    shape["group_id"] = draw(st.sampled_from([None, None, 1, 2, "b"]))
    if kind == "polygon":
        shape["points"] = drawn_points(draw, size)
    elif kind == "circle":
        x, y = (draw(st.integers(0, 2 * side)) / 2 for side in size[::-1])
        shape["points"] = [[x, y], [x + draw(st.integers(0, min(size))) / 2, y]]
    else:
        x0, y0, x1, y1 = drawn_box(draw, size)
        shape["points"] = [[x0, y0], [x1, y1]]
        if kind == "rectangle" and draw(st.booleans()):
            shape["points"] = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    if kind == "mask":
        part = drawn_mask(draw, (y1 - y0, x1 - x0))
        file = io.BytesIO()
        Image.fromarray(part).save(file, "PNG")
        shape["mask"] = base64.b64encode(file.getvalue()).decode()
    return shape


def break_labelme(draw: Draw, content: dict[str, Any]) -> None:
    """Write one thing that has no meaning, or another one, in place."""
    sides = [99, 5.5, "12", -1, 0, None, 1e300, True, 10**400]
    if not content["shapes"] or draw(st.integers(0, 3)) == 0:
        content[draw(st.sampled_from(["imageHeight", "imageWidth"]))] = draw(st.sampled_from(sides))
        return
    shape = draw(st.sampled_from(content["shapes"]))
    kind = draw(st.sampled_from(["type", "points", "far", "mask", "label"]))
    if kind == "mask" and "mask" in shape:
        png = damaged(draw, base64.b64decode(shape["mask"]))
        shape["mask"] = base64.b64encode(png).decode()
    elif kind == "points":
        shape["points"] = shape["points"][: draw(st.integers(0, 3))]
    elif kind == "far":
        place = draw(st.sampled_from([1e9, -1e300, 1e308, 50.25, 0.4]))
        shape["points"][0][draw(st.integers(0, 1))] = place
    elif kind == "label":
        shape[draw(st.sampled_from(["label", "group_id"]))] = draw(
            st.sampled_from([1, 1.0, "1", None, True, "a\nb"])
        )
    else:
        kinds = [
            "point",
            "line",
            "linestrip",
            "points",
            "rectangle",
            "circle",
            "polygon",
            "x",
            None,
        ]
        shape["shape_type"] = draw(st.sampled_from([*kinds, "mask", "a\nb"]))


def labelme_bytes(draw: Draw, size: Size) -> tuple[bytes, bool]:
    """Return the text of a file of LabelMe, and whether it is sound."""
    shapes = [drawn_shape(draw, size) for _ in range(draw(st.integers(0, 3)))]
    content: dict[str, Any] = {"version": "5.4.1", "flags": {}, "shapes": shapes}
    content |= {"imagePath": "a.png", "imageHeight": size[0], "imageWidth": size[1]}
    kind = draw(
        st.sampled_from(["sound", "sound", "broken", "broken", "values", "values", "bytes"])
    )
    if kind == "broken":
        break_labelme(draw, content)
    if kind == "values":
        replace_values(draw, content)
    text = encoded(draw, json.dumps(content))
    return damaged(draw, text) if kind == "bytes" else text, kind == "sound"


# YOLO -------------------------------------------------------------------------------------------

ODD_WORDS = ["nan", "inf", "-inf", "1.06", "-0.06", "1.04", "-0.04", "a", "1e-3", "0x1", "1_0", "٣"]
ODD_WORDS += ["1,0", "", "²", "+0.5", ".5", "5.", "1e400", "\0", "\u00a0", "--1", "\x0b", "\x1c"]
ODD_CLASSES = ["1.0", "1.5", "-1", "+1", "cat", "01", "7", "٣", "²", "1" * 5000, "1.0.0", "\ufeff0"]


def yolo_bytes(draw: Draw, size: Size) -> tuple[bytes, bool]:
    """Return the text of YOLO's labels, and whether it is sound."""
    kind = draw(st.sampled_from(["sound", "sound", "words", "words", "bytes", "binary"]))
    lines = []
    for _ in range(draw(st.integers(0, 3))):
        words = [draw(st.sampled_from(["0", "1", "2", "5", "1.0"]))]
        words += [f"{n / side:.6f}" for xy in _within(draw, size) for n, side in xy]
        if kind == "words" and draw(st.booleans()):
            _change_words(draw, words)
        lines.append(draw(st.sampled_from([" ", "\t", "  "])).join(words))
        lines += [""] * draw(st.integers(0, 1))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    text = end.join(lines).encode(draw(st.sampled_from(["utf-8", "utf-8-sig"])))
    if kind == "bytes":
        text = damaged(draw, text)
    if kind == "binary":
        text += draw(st.binary(max_size=20))
    return text, kind == "sound"


def _within(draw: Draw, size: Size) -> list[list[tuple[float, int]]]:
    """Draw points xy in the image, each place with the side that it is a part of."""
    points = drawn_points(draw, size)
    sides = size[::-1]
    return [
        [(min(max(place, 0), side), side) for place, side in zip(point, sides, strict=True)]
        for point in points
    ]


def _change_words(draw: Draw, words: list[str]) -> None:
    kind = draw(st.sampled_from(["class", "word", "drop", "few"]))
    place = draw(st.integers(0, len(words) - 1))
    if kind == "class":
        words[0] = draw(st.sampled_from(ODD_CLASSES))
    elif kind == "word":
        words[place] = draw(st.sampled_from(ODD_WORDS))
    elif kind == "drop":
        del words[place]
    else:
        del words[draw(st.integers(1, 6)) :]
