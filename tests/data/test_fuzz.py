"""Mutated annotations give the segments of an independent reader, or sentences; never a traceback.

Two thousand examples in CI; `make test-fuzz` tries as many as MOBILE_SAM_FUZZ_EXAMPLES says, with
another seed each time.
"""

import io
import json
import os
import re
import resource
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.registry import read_annotations
from mobile_sam.data.images import check_image
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import DatasetError, Index
from mobile_sam.data.records import find_records
from tests.helpers import mask_readers, small_files, small_masks
from tests.helpers.json_readers import read_coco, read_labelme, read_yolo
from tests.helpers.mutations import Draw
from tests.helpers.readings import Given, Reading, Size, disagreement

# Pillow warns of damaged files before it refuses them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

KINDS = 5
MEMORY = 8 << 30  # bytes
EXAMPLES = int(os.environ.get("MOBILE_SAM_FUZZ_EXAMPLES", "2000")) // KINDS
MANY = "MOBILE_SAM_FUZZ_EXAMPLES" in os.environ
INDEXED = 12  # one example of so many is indexed, too
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not MANY,
    print_blob=MANY,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory() -> Iterator[None]:
    """Let damaged files that claim gigabytes fail here, and not take the machine's memory.

    Not in CI, whose examples are known to be small: there, other tests that ran before in this
    process hold an unknown share of the bound, and native code ends where memory does.
    """
    if not MANY:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


def read(directory: Path, masks: Path, options: Data) -> Given:
    """Read all images and their annotations as the package does."""
    found = find_records(directory / "images", masks, options)
    result = Given(problems=list(found.problems))
    for record in found.records:
        facts = check_image(record.image_path, options)
        annotations = read_annotations(record, facts, options)
        result.problems += annotations.problems
        result.segments[record.image_id] = annotations.segments
    return result


def check(directory: Path, masks: Path, reading: Reading, case: "Case") -> None:
    """Compare what the package reads with an independent reading."""
    result = read(directory, masks, case.options)
    for problem in result.problems:
        assert problem.strip() and len(problem.splitlines()) == 1, f"no sentence: {problem!r}"
        assert str(directory) in problem, f"no file is named: {problem!r}"
    difference = disagreement(result, reading, case.unmutated)
    assert difference is None, difference
    if case.indexed:
        check_index(directory, masks, result, case.options)


def check_index(directory: Path, masks: Path, result: Given, options: Data) -> None:
    """Index the same files: all is refused, or boxes and areas are those of the pixels."""
    sources = dict.fromkeys(("train", "val"), (directory / "images", masks))
    try:
        same = options.model_copy(update={"duplicates": "allow"})
        count = index_dataset(sources, directory / "index.parquet", same)
    except DatasetError as error:
        assert result.problems or not any(result.segments.values()) or "no image" in str(error)
        return
    assert not result.problems
    index = Index(directory / "index.parquet", "train")
    images = [index[n] for n in range(len(index))]
    assert count == 2 * sum(len(image.segments) for image in images)
    for image in images:
        for segment in image.segments:
            code = {"size": list(image.size), "counts": segment.rle}
            rows, columns = np.nonzero(coco.decode(code))
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert (segment.area, tuple(segment.box)) == (len(rows), box), segment


@dataclass(frozen=True)
class Case:
    """Files of an example. sizes: (H, W) of each image by name; masks: bytes by name.

    unmutated: whether the annotations are sound. indexed: whether they are indexed, too.
    """

    sizes: dict[str, Size]
    masks: dict[str, bytes]
    unmutated: bool
    indexed: bool
    options: Data = field(default_factory=Data)

    @contextmanager
    def written(self) -> Iterator[Path]:
        """Write the files into a directory of their own: class names are kept by directory."""
        directory = Path(tempfile.mkdtemp(prefix="fuzz"))
        try:
            for name in ("images", "masks/a"):
                (directory / name).mkdir(parents=True)
            for name, size in self.sizes.items():
                (directory / "images" / name).write_bytes(small_files.image_of(size))
            for name, content in self.masks.items():
                (directory / "masks" / name).write_bytes(content)
            if not any(name.startswith("a/") for name in self.masks):
                (directory / "masks" / "a").rmdir()
            yield directory
        finally:
            shutil.rmtree(directory)


def drawn_case(draw: Draw, masks: dict[str, bytes], unmutated: bool, **facts: Any) -> Case:
    """Return a case; one of some is indexed."""
    return Case(
        masks=masks, unmutated=unmutated, indexed=not draw(st.integers(0, INDEXED)), **facts
    )


@st.composite
def coco_cases(draw: Draw) -> Case:
    """Up to three images and a file of COCO's form for all of them, or for the only one."""
    names = small_files.NAMES[: draw(st.integers(1, 3))]
    sizes = {name: small_files.drawn_size(draw) for name in names}
    content = small_files.coco_content(draw, sizes)
    name = "a.json" if len(sizes) == 1 and draw(st.booleans()) else "all.json"
    text, unmutated = small_files.coco_bytes(draw, content)
    return drawn_case(draw, {name: text}, unmutated, sizes=sizes)


@fuzz
@given(coco_cases())
def test_coco_gives_the_segments_of_pycocotools_or_sentences(case: Case) -> None:
    ((name, text),) = case.masks.items()
    shared = name == "all.json"
    reading = read_coco(text, case.sizes, None if shared else "a.png")
    with case.written() as directory:
        masks = directory / "masks" / name if shared else directory / "masks"
        check(directory, masks, reading, case)


@st.composite
def labelme_cases(draw: Draw) -> Case:
    """One image and its file of LabelMe."""
    size = small_files.drawn_size(draw)
    text, unmutated = small_files.labelme_bytes(draw, size)
    return drawn_case(draw, {"a.json": text}, unmutated, sizes={"a.png": size})


@fuzz
@given(labelme_cases())
def test_labelme_gives_the_segments_of_its_shapes_or_sentences(case: Case) -> None:
    reading = read_labelme(case.masks["a.json"], "a", case.sizes["a.png"])
    with case.written() as directory:
        check(directory, directory / "masks", reading, case)


@st.composite
def yolo_cases(draw: Draw) -> Case:
    """One image, its labels, and names of two classes or none."""
    size = small_files.drawn_size(draw)
    text, unmutated = small_files.yolo_bytes(draw, size)
    names = draw(st.sampled_from([None, b"cat\ndog\n", b"\xef\xbb\xbfcat\r\ndog"]))
    masks = {"a.txt": text} | ({} if names is None else {"classes.txt": names})
    return drawn_case(draw, masks, unmutated, sizes={"a.png": size})


@fuzz
@given(yolo_cases())
def test_yolo_gives_the_segments_of_its_lines_or_sentences(case: Case) -> None:
    names = ["cat", "dog"] if "classes.txt" in case.masks else []
    reading = read_yolo(case.masks["a.txt"], names, "a", case.sizes["a.png"])
    with case.written() as directory:
        check(directory, directory / "masks", reading, case)


@st.composite
def mask_cases(draw: Draw, suffix: str) -> Case:
    """One image with a label map, or with up to three masks of one object each."""
    size = small_files.drawn_size(draw)
    bytes_of = small_masks.png_bytes if suffix == ".png" else small_masks.tiff_bytes
    count = draw(st.sampled_from([0, 0, 1, 1, 2, 3]))
    names = [f"a/{n}{suffix}" for n in range(count)] or [f"a{suffix}"]
    drawn = {name: bytes_of(draw, size, count > 0) for name in names}
    return drawn_case(
        draw,
        {name: content for name, (content, _) in drawn.items()},
        all(unmutated for _, unmutated in drawn.values()),
        sizes={"a.png": size},
        options=small_masks.drawn_options(draw),
    )


def check_masks(case: Case) -> None:
    """Compare masks with what Pillow, tifffile and scipy read."""
    size = case.sizes["a.png"]
    with case.written() as directory:
        paths = [directory / "masks" / name for name in case.masks]
        if paths[0].parent.name == "a":
            reading = mask_readers.read_mask_files(paths, "a", size, case.options)
        else:
            reading = mask_readers.read_label_map(paths[0], "a", size, case.options)
        check(directory, directory / "masks", reading, case)


@fuzz
@given(mask_cases(".png"))
def test_png_masks_give_the_segments_of_pillow_or_sentences(case: Case) -> None:
    check_masks(case)


@fuzz
@given(mask_cases(".tif"))
def test_tiff_masks_give_the_segments_of_tifffile_or_sentences(case: Case) -> None:
    check_masks(case)


# What the fuzz has found ------------------------------------------------------------------------

SIZE = (4, 6)
SQUARE = [[1, 1, 4, 1, 4, 3]]


def coco_of(image: dict[str, Any], annotation: dict[str, Any]) -> dict[str, bytes]:
    """A COCO file of one image and one annotation, with these values."""
    images = [{"id": 1, "file_name": "a.png"} | image]
    annotations = [{"id": 7, "image_id": 1, "segmentation": SQUARE} | annotation]
    return {"all.json": json.dumps({"images": images, "annotations": annotations}).encode()}


def tiff_of(pixels: np.ndarray, **more: Any) -> bytes:
    """A TIFF of these pixels."""
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **({"photometric": "minisblack"} | more))
    return file.getvalue()


def with_tag(tiff: bytes, code: int, value: int) -> bytes:
    """A TIFF, little-endian, of which one value of a tag is another."""
    place = tiff.index(struct.pack("<HH", code, 4)) + 8
    return tiff[:place] + struct.pack("<I", value) + tiff[place + 4 :]


def ring(tiff: bytes) -> bytes:
    """A TIFF with a second page without tags, which is followed by itself."""
    start = struct.unpack("<I", tiff[4:8])[0]
    end = start + 2 + 12 * struct.unpack("<H", tiff[start : start + 2])[0]
    second = struct.pack("<I", len(tiff))
    return tiff[:end] + second + tiff[end + 4 :] + bytes(2) + second


LABELS = np.pad(np.ones((2, 2), dtype=np.uint8), ((1, 1), (1, 3)))
DAMAGED = tiff_of(LABELS.astype(np.int64))
RECTANGLE = {"shape_type": "rectangle", "points": [[1, 1], [4, 2], [3, 3], [0, 2]]}
CIRCLE = {"shape_type": "circle", "points": [[1e308, 1e308], [-1e308, 0]]}
HUGE = np.where(LABELS > 0, 5e21, 0).astype(np.float32)
NAN = np.where(LABELS > 0, np.nan, 0).astype(np.float32)
FOUND: dict[str, tuple[dict[str, bytes], str]] = {
    "ids that are true": (coco_of({}, {"image_id": True}), "got `bool`|got 'bool'"),
    "sizes of 400 digits": (coco_of({"width": 10**400, "height": 4}, {}), "not a number of pixels"),
    "names with a line feed": (coco_of({"file_name": "a\nb.png"}, {}), "control character"),
    "names of 300 letters": (coco_of({"file_name": "d" * 300 + ".png"}, {}), "no image"),
    "ids with a line feed": (coco_of({}, {"id": "a\nb", "iscrowd": 2}), r"annotation 'a\\nb'"),
    "a part of a mark": ({"a.txt": b"\xef"}, "save it as UTF-8"),
    "a rectangle that is none": (
        {"a.json": json.dumps({"shapes": [RECTANGLE]}).encode()},
        "are not its corners",
    ),
    "a size of halves": (
        {"a.json": b'{"shapes": [], "imageHeight": 4.5, "imageWidth": 6}'},
        "6x4.5 pixels",
    ),
    "a circle beyond all numbers": (
        {"a.json": json.dumps({"shapes": [CIRCLE]}).encode()},
        "far from its image",
    ),
    "masks of numbers beyond 64 bits": ({"a.tif": tiff_of(HUGE)}, "save integers"),
    "masks of NaN": ({"a/0.tif": tiff_of(NAN)}, "NaN or infinite"),
    "a label map that is white at 0": (
        {"a.tif": tiff_of(LABELS, photometric="miniswhite")},
        "an inverted scale",
    ),
    "a mask that its tag turns": (
        {"a/0.tif": tiff_of(LABELS, extratags=[(274, "H", 1, 3, True)])},
        r"orientation tag \(3\)",
    ),
    "a TIFF that claims terabytes": ({"a.tif": with_tag(DAMAGED, 257, 2**31)}, "megapixels"),
    "a TIFF whose pages form a ring": ({"a.tif": ring(DAMAGED)}, "cannot be read|pages"),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_the_fuzz_has_found_is_a_sentence(name: str) -> None:
    masks, message = FOUND[name]
    case = Case({"a.png": SIZE}, masks, False, False)
    with case.written() as directory:
        place = directory / "masks"
        result = read(directory, place / "all.json" if "all.json" in masks else place, case.options)
    (problem,) = result.problems
    assert re.search(message, problem), problem
    assert not any(result.segments.values())


def test_values_of_masks_of_one_bit_are_numbers() -> None:
    mask = tiff_of(LABELS > 0)
    for options, value in (
        (Data(split_components=True), "1"),
        (Data(soft_masks=0.5, split_components=True), "1"),
        (Data(read_masks_by="colour"), "#ffffff"),
    ):
        case = Case({"a.png": SIZE}, {"a.tif": mask}, True, False, options)
        with case.written() as directory:
            result = read(directory, directory / "masks", options)
        assert [segment.value for segment in result.segments["a"]] == [value]
