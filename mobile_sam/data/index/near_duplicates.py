"""Near-duplicates: validation images that look like training images.

They are found by perceptual hashes. Decoding all images takes longer than the rest of the index,
and training does not wait for it: the report looks for them, or `index --near-duplicates`.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm import tqdm

from mobile_sam.data.images import NO_HASH, RecordError, hash_verified
from mobile_sam.data.index.digest_lookup import as_digests, from_hex, to_hex
from mobile_sam.data.index.table import SPLITS, image_options, open_index, tile_cache
from mobile_sam.system.atomic_files import atomic_write

log = logging.getLogger(__name__)

Hashes = NDArray[np.uint64]  # see `images.perceptual_hash`
_MAX_DIFFERING_BITS = 3  # between the hashes of images that look alike
_BLOCKS = 4  # one more than differing bits: two such hashes agree in at least one block
_SHOWN_PAIRS = 3
_IMAGES_PER_SAVE = 1 << 14


def near_duplicate_notes(index: Path, num_workers: int = 1) -> list[str]:
    """Return a sentence on the validation images that look like training images; none if none do.

    Hashes are kept next to the index, so that each image is read once. A further sentence counts
    images that cannot be read as they were indexed; they are not compared.
    num_workers: threads that read images. Raises DatasetError if the index cannot be read.
    """
    images = _images_in_use(index)
    train, val = (images[images["split"] == split] for split in SPLITS)
    if not (len(train) and len(val)):
        return []
    hashes, problems = _hashes_by_digest(index, pd.concat([train, val]), num_workers)
    alike = near_duplicates(*(_hashes_of(split, hashes) for split in (train, val)))
    notes = []
    if len(alike) > val["image_digest"].isin(train["image_digest"]).sum():
        shown = ", ".join(
            f"{val['image_id'].iloc[v]} and {train['image_id'].iloc[t]}"
            for v, t in islice(alike.items(), _SHOWN_PAIRS)
        )
        notes.append(
            f"{len(alike)} of {len(val)} validation images look like a training image ({shown}"
            f"{', ...' if len(alike) > _SHOWN_PAIRS else ''}); if they show the same object, keep "
            "them together with data.groups"
        )
    if problems:
        notes.append(f"{len(problems)} images were not searched for near-duplicates: {problems[0]}")
    return notes


def _images_in_use(index: Path) -> pd.DataFrame:
    """Return one row for each training and validation image in use, in order."""
    columns = ["split", "image", "image_id", "image_path", "image_digest"]
    file = open_index(index)
    if tile_cache(file, index) is not None:
        return pd.DataFrame(columns=columns)  # tiles that overlap would look alike
    table = file.read(columns=columns, use_threads=False)
    images = table.filter(pc.is_valid(table["image"])).to_pandas()
    return images.drop_duplicates(["split", "image"])


def _hashes_of(images: pd.DataFrame, hashes: dict[str, int]) -> Hashes:
    found = (hashes.get(digest, NO_HASH) for digest in images["image_digest"])
    return np.fromiter(found, dtype=np.uint64, count=len(images))


def _hashes_by_digest(
    index: Path, images: pd.DataFrame, num_workers: int
) -> tuple[dict[str, int], list[str]]:
    """Return the hash of each image by its digest, and a sentence for each that cannot be read."""
    path, options = index.with_suffix(".hashes.npz"), image_options(open_index(index))
    images = images.drop_duplicates("image_digest")
    kept = _read_hashes(path)
    hashes = {digest: kept[digest] for digest in images["image_digest"] if digest in kept}
    images = images[~images["image_digest"].isin(list(hashes))]
    problems: list[str] = []

    def hash_image(image_path: str, digest: str) -> int | None:
        try:
            return hash_verified(Path(image_path), options, digest)
        except RecordError as error:
            problems.append(str(error))
            return None

    with (
        ThreadPoolExecutor(max(num_workers, 1)) as pool,
        tqdm(total=len(images), unit="image", disable=None, mininterval=1) as bar,
    ):
        for start in range(0, len(images), _IMAGES_PER_SAVE):
            part = images.iloc[start : start + _IMAGES_PER_SAVE]
            values = pool.map(hash_image, part["image_path"], part["image_digest"])
            for digest, value in zip(part["image_digest"], values, strict=True):
                if value is not None:
                    hashes[digest] = value
                bar.update()
            _save_hashes(path, hashes)
    return hashes, problems


def _read_hashes(path: Path) -> dict[str, int]:
    """Return the kept hashes by digest; none if there is no file, or a damaged one."""
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as content:
            digests = map(to_hex, as_digests(content["digests"].tobytes()).tolist())
            return dict(zip(digests, content["hashes"].tolist(), strict=True))
    except (OSError, ValueError, LookupError, AttributeError, TypeError, BadZipFile) as error:
        log.info("reading all images: %s is damaged (%s)", path, error)
        return {}


def _save_hashes(path: Path, hashes: dict[str, int]) -> None:
    # An open file, because NumPy appends a suffix to a name.
    with atomic_write(path) as unfinished, unfinished.open("wb") as file:
        np.savez(
            file,
            digests=np.frombuffer(from_hex(hashes).tobytes(), dtype=np.uint8),
            hashes=np.fromiter(hashes.values(), dtype=np.uint64, count=len(hashes)),
        )


def near_duplicates(train: Hashes, val: Hashes) -> dict[int, int]:
    """Return the position of a similar training image, by position of the validation image.

    Hashes of similar images differ in at most 3 of 64 bits. Images without a hash are left out.
    """
    similar: dict[int, int] = {}
    for block in range(_BLOCKS):
        parts = _hash_block(train, block)
        order = np.argsort(parts, kind="stable")
        ordered = parts[order]
        for position, value in enumerate(val.tolist()):
            if position in similar or value == NO_HASH:
                continue
            part = _hash_block(np.array([value], dtype=np.uint64), block)[0]
            first, last = np.searchsorted(ordered, [part, part + 1])
            candidates = order[first:last]
            bits = np.bitwise_count(train[candidates] ^ np.uint64(value))
            bits[train[candidates] == NO_HASH] = 64
            if len(bits) and bits.min() <= _MAX_DIFFERING_BITS:
                similar[position] = int(candidates[bits.argmin()])
    return dict(sorted(similar.items()))


def _hash_block(hashes: Hashes, block: int) -> NDArray[np.int64]:
    return (hashes >> np.uint64(16 * block) & np.uint64(0xFFFF)).astype(np.int64)
