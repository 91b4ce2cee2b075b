"""Masks of a large image: segmented tile by tile, and merged across the seams."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from mobile_sam.data.masks import Mask, Size, boxes_and_areas, decode_crop, encode_crop
from mobile_sam.data.tiles import Window
from mobile_sam.inference.mask_sources import MaskRecords
from mobile_sam.metrics.mask_crop import Box, MaskCrop, common_box, common_pixels
from mobile_sam.metrics.overlap import iou

_SAME = 0.5  # least IoU of two masks of one object
_COVERED = 0.7  # least fraction of a cut mask that lies in the whole mask of its object
_CELL = 512  # side of the cells, in pixels, in which masks look for others
_BLOCK = 512  # side of the blocks of a label map


class Piece(NamedTuple):
    """Mask that was found in a tile.

    crop: its pixels, in the image. record: the other values of its record, in the image. cut:
    whether it reaches a border of its tile within the image, so that the object may go on there.
    """

    crop: MaskCrop
    record: dict[str, Any]
    window: Window
    cut: bool


def pieces_of_tile(records: MaskRecords, window: Window, size: Size) -> list[Piece]:
    """Return the masks of a tile, of an image (H, W). records: as `MaskSource.records` has them."""
    codes = [record["segmentation"]["counts"].encode() for record in records]
    boxes, _ = boxes_and_areas(codes, window.size)
    pieces = []
    for record, code, box in zip(records, codes, boxes.tolist(), strict=True):
        inside = decode_crop(code, window.size, tuple(box))
        crop = MaskCrop(inside.pixels, window.x + inside.x0, window.y + inside.y0, size)
        x0, y0, width, height = record["crop_box"]
        moved = {
            "predicted_iou": record["predicted_iou"],
            "stability_score": record["stability_score"],
            "point_coords": [[x + window.x, y + window.y] for x, y in record["point_coords"]],
            "crop_box": [x0 + window.x, y0 + window.y, width, height],
        }
        pieces.append(Piece(crop, moved, window, _is_cut(crop.box, window, size)))
    return pieces


def _is_cut(box: Box, window: Window, size: Size) -> bool:
    left, top, right, bottom = window.box
    return (
        (left > 0 and box[0] == left)
        or (top > 0 and box[1] == top)
        or (right < size[1] and box[2] == right)
        or (bottom < size[0] and box[3] == bottom)
    )


def merge_pieces(pieces: Sequence[Piece], size: Size) -> MaskRecords:
    """Return one record for each object of an image (H, W), by falling predicted_iou.

    A mask that is whole in its tile is kept once, by the tile with the highest predicted_iou. A cut
    mask is dropped if most of it lies in a whole one. The others are joined with the masks of other
    tiles that have the same pixels where the tiles overlap.
    """
    whole = _without_copies([piece for piece in pieces if not piece.cut])
    covering = _Neighbours(whole)
    cut = [
        piece
        for piece in pieces
        if piece.cut
        and not any(
            common_pixels(piece.crop, other.crop) >= _COVERED * piece.crop.area
            for other in covering.of(piece)
        )
    ]
    joined = _without_copies([_join(group) for group in _groups(cut)])
    merged = sorted([*whole, *joined], key=_score, reverse=True)
    return [_record(piece, size) for piece in merged]


def _score(piece: Piece) -> float:
    return float(piece.record["predicted_iou"])


def _without_copies(pieces: Iterable[Piece]) -> list[Piece]:
    kept = _Neighbours([])
    for piece in sorted(pieces, key=_score, reverse=True):
        if all(iou(piece.crop, other.crop) < _SAME for other in kept.of(piece)):
            kept.add(piece)
    return kept.pieces


def _groups(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """Yield the pieces of each object: of two tiles, each piece has one partner at most."""
    neighbours, pairs = _Neighbours(pieces), []
    for number, piece in enumerate(pieces):
        for other_number in neighbours.numbers(piece):
            other = pieces[other_number]
            if other_number > number and other.window != piece.window:
                common = _iou_where_both_are(piece, other)
                if common >= _SAME:
                    pairs.append((common, number, other_number))
    sets, taken = DisjointSet(range(len(pieces))), set[tuple[int, Window]]()
    for _, first, second in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:])):
        ends = {(first, pieces[second].window), (second, pieces[first].window)}
        if not ends & taken:
            taken |= ends
            sets.merge(first, second)
    for members in sets.subsets():
        yield [pieces[number] for number in sorted(members)]


def _iou_where_both_are(first: Piece, second: Piece) -> float:
    """Return the IoU of two masks within the pixels that both tiles show; 0 if neither is there."""
    box = common_box(first.window.box, second.window.box)
    one, other = first.crop.within(box), second.crop.within(box)
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 0.0


def _join(pieces: Sequence[Piece]) -> Piece:
    """Return the union of masks; scores are means, weighted by area."""
    if len(pieces) == 1:
        return pieces[0]
    boxes = np.array([piece.crop.box for piece in pieces])
    (x0, y0), (x1, y1) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
    pixels: Mask = np.zeros((y1 - y0, x1 - x0), dtype=bool)
    for piece in pieces:
        left, top, right, bottom = piece.crop.box
        pixels[top - y0 : bottom - y0, left - x0 : right - x0] |= piece.crop.pixels
    areas = [piece.crop.area for piece in pieces]
    largest = pieces[int(np.argmax(areas))]
    scores = {
        name: float(np.average([piece.record[name] for piece in pieces], weights=areas))
        for name in ("predicted_iou", "stability_score")
    }
    crop = MaskCrop(pixels, x0, y0, largest.crop.size)
    return largest._replace(crop=crop, record=largest.record | scores)


def _record(piece: Piece, size: Size) -> dict[str, Any]:
    x0, y0, x1, y1 = piece.crop.box
    code = encode_crop(piece.crop).decode("ascii")
    return {
        "segmentation": {"size": list(size), "counts": code},
        "area": piece.crop.area,
        "bbox": [x0, y0, x1 - x0 - 1, y1 - y0 - 1],  # to the last pixel, as SAM's
        **piece.record,
    }


class _Neighbours:
    """Pieces by the cells of the image that their boxes touch."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self.pieces: list[Piece] = []
        self._cells: dict[tuple[int, int], list[int]] = defaultdict(list)
        for piece in pieces:
            self.add(piece)

    def add(self, piece: Piece) -> None:
        for cell in _cells(piece.crop.box, _CELL):
            self._cells[cell].append(len(self.pieces))
        self.pieces.append(piece)

    def numbers(self, piece: Piece) -> list[int]:
        """Return the numbers of the pieces whose boxes share a cell with this one."""
        return sorted({n for cell in _cells(piece.crop.box, _CELL) for n in self._cells[cell]})

    def of(self, piece: Piece) -> list[Piece]:
        """Return the pieces whose boxes share a cell with this one."""
        return [self.pieces[number] for number in self.numbers(piece)]


def _cells(box: Box, side: int) -> list[tuple[int, int]]:
    x0, y0, x1, y1 = box
    return [
        (row, column)
        for row in range(y0 // side, (y1 - 1) // side + 1)
        for column in range(x0 // side, (x1 - 1) // side + 1)
    ]


def write_large_label_map(target: Path, records: MaskRecords, size: Size) -> None:
    """Write a label map (H, W) of 32 bits as a BigTIFF, block by block.

    The number of a mask is its place in `records`, from 1 on. Smaller masks are drawn over larger
    ones.
    """
    crops = [_crop(record, size) for record in records]
    by_block: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place in sorted(range(len(crops)), key=lambda place: -crops[place].area):
        for block in _cells(crops[place].box, _BLOCK):
            by_block[block].append(place)

    def blocks() -> Iterator[NDArray[np.uint32]]:
        for row in range(-(-size[0] // _BLOCK)):
            for column in range(-(-size[1] // _BLOCK)):
                labels = np.zeros((_BLOCK, _BLOCK), dtype=np.uint32)
                x, y = column * _BLOCK, row * _BLOCK
                for place in by_block[row, column]:
                    labels[crops[place].within((x, y, x + _BLOCK, y + _BLOCK))] = place + 1
                yield labels

    tifffile.imwrite(
        target,
        blocks(),
        shape=size,
        dtype=np.uint32,
        tile=(_BLOCK, _BLOCK),
        compression="zlib",
        bigtiff=True,
        photometric="minisblack",
    )


def _crop(record: dict[str, Any], size: Size) -> MaskCrop:
    x, y, width, height = record["bbox"]
    box = (x, y, x + width + 1, y + height + 1)
    return decode_crop(record["segmentation"]["counts"].encode(), size, box)
