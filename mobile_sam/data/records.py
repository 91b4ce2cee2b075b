"""Records of a data set: the images and the annotations that belong to them, in any format.

The format of a record is detected from the files in the two directories of a data set:

- `mask_directory`: `<masks>/<id>/*.png`, one file for each segment.
- `label_map`: `<masks>/<id>.png`, `.tif` or `.npy`; each value but 0, or each colour but black, is
  a segment. A binary mask is a label map with one value.
- `yolo`: `<masks>/<id>.txt`, one polygon per line.
- `json`: `<masks>/<id>.json` or `.geojson`: SA-1B, LabelMe, ISAT, GeoJSON, COCO of one image.
- `coco`, `label_studio`: `<masks>` is a JSON file for all images.
- `bbbc038`: `<images>/<id>/images/*` next to `<images>/<id>/masks/*`; `<images>` and `<masks>` are
  the same directory.

Images may lie in subdirectories, with their masks in subdirectories of the same names: their ids
have slashes. Images without masks are records of the format `unlabelled`.
"""

from collections.abc import Iterator
from os.path import realpath
from pathlib import Path, PurePosixPath

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.mask_files import MASK_SUFFIXES
from mobile_sam.data.formats.registry import FORMAT_OF_SUFFIX, FORMATS, JSON
from mobile_sam.data.images import IMAGE_SUFFIXES
from mobile_sam.data.index.table import UNLABELLED
from mobile_sam.data.listed_records import find_listed_records
from mobile_sam.data.record import Record, Search, SearchResult, normalise_name
from mobile_sam.system.directories import CLASS_NAMES, COLOUR_NAMES, naming_files

# Endings that tools append to the name of an image to name its mask.
_MASK_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_seg")
# Files next to annotations that are no annotations: names of classes, texts.
_AUXILIARY_FILES = frozenset({CLASS_NAMES, COLOUR_NAMES, "readme.txt", "license.txt"})


def find_records(image_dir: Path, mask_dir: Path, options: Data | None = None) -> SearchResult:
    """Find all images of `image_dir` with their annotations in `mask_dir`.

    mask_dir: a directory, or a file for all images, of COCO or of Label Studio.
    Raises UserError for a directory that cannot be read.
    """
    search = Search(options or Data(), (image_dir, mask_dir))
    if mask_dir.suffix.lower() == ".json" and mask_dir.is_file():
        find_listed_records(search, image_dir, mask_dir)
        return search.finished()
    folders = _bbbc038_folders(search, image_dir) if image_dir == mask_dir else []
    if folders:
        _add_bbbc038_records(search, folders)
        return search.finished()
    if not mask_dir.is_dir() and image_dir.is_dir() and mask_dir.exists():
        search.result.problems.append(
            f"{mask_dir}: neither a directory of masks nor a JSON file of annotations; check the "
            "path"
        )
        return search.finished()
    _match_directory(search, image_dir, mask_dir, "", ())
    if not (search.result.records or search.result.problems):
        search.result.problems.append(_no_images_message(image_dir, search))
    return search.finished()


def find_unlabelled(image_dir: Path) -> SearchResult:
    """Find all images below `image_dir`; an image's id is its path there, without the suffix.

    Raises UserError for a directory that cannot be read.
    """
    search = Search(Data(), (image_dir,))

    def visit(directory: Path, prefix: str, above: tuple[str, ...]) -> None:
        if search.is_loop(directory, above):
            return
        files, directories = search.entries(directory)
        search.unread += [p for p in files if p.suffix.lower() in _OTHER_IMAGES]
        for image_id, path in search.images(files, prefix).items():
            search.result.records.append(Record(image_id, path, UNLABELLED, ()))
        for below in directories:
            visit(below, f"{prefix}{normalise_name(below.name)}/", (*above, realpath(directory)))

    visit(image_dir, "", ())
    if not search.result.records:
        search.result.problems.append(_no_images_message(image_dir, search))
    return search.finished()


_OTHER_IMAGES = frozenset(
    {".heic", ".heif", ".avif", ".svg", ".dcm", ".czi", ".nd2", ".svs", ".dng"}
)


def _no_images_message(image_dir: Path, search: Search) -> str:
    others = [path for path in search.unread if path.is_file()]
    other = f", only files such as {others[0].name}" if others else ""
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    return f"{image_dir}: there is no image{other}; add images ({suffixes}), or check the path"


# Format and files of one image's annotations.
_Entry = tuple[str, tuple[Path, ...]]


def _match_directory(
    search: Search, image_dir: Path, mask_dir: Path, prefix: str, above: tuple[str, ...]
) -> None:
    """Find the records of one directory of images, and of its subdirectories that have masks.

    prefix: prefix of the ids. above: real paths of the directories of images above this one.
    """
    if search.is_loop(image_dir, above):
        return
    files, directories = search.entries(image_dir)
    is_shared = image_dir == mask_dir
    mask_files, mask_directories = (files, directories) if is_shared else search.entries(mask_dir)
    images = search.images(_exclude_masks(files) if is_shared else files, prefix)
    names = {path.name for path in directories}
    entries: list[tuple[Path, str, _Entry]] = []
    below = []
    for path in mask_directories:
        image_id = _match_image(path.name, prefix, images, search)
        if image_id not in images and path.name in names and path not in search.roots:
            below.append(path.name)
        elif path not in search.roots:
            entries.append((path, image_id, _mask_directory_entry(path, search)))
    image_paths = set(images.values())
    class_files = {
        name: naming_files(mask_dir, row.class_files)
        for name, row in FORMATS.items()
        if row.class_files
    }
    for path in mask_files:
        format_ = FORMAT_OF_SUFFIX.get(path.suffix.lower())
        if path in image_paths or _is_auxiliary(path):
            continue
        if format_ is None:
            search.unread.append(path)
        else:
            image_id = _match_image(path.stem, prefix, images, search)
            entries.append((path, image_id, (format_, (path, *class_files.get(format_, ())))))
    if not is_shared:
        search.unread += [p for p in files if not (_is_image(p) or _is_auxiliary(p))]
        search.unread += [p for p in directories if p.name not in below and p not in search.roots]
    _add_records(
        search, images, _annotations_by_image(entries, images, search), image_dir, mask_dir
    )
    for name in below:
        lower = f"{prefix}{normalise_name(name)}/", (*above, realpath(image_dir))
        _match_directory(search, image_dir / name, mask_dir / name, *lower)


def _annotations_by_image(
    entries: list[tuple[Path, str, _Entry]], images: dict[str, Path], search: Search
) -> dict[str, _Entry]:
    """Return the annotations of each image by its id; two entries for one image are a problem."""
    annotations: dict[str, _Entry] = {}
    for path, image_id, entry in entries:
        if entry[0] == "empty" and image_id not in images:
            search.unread.append(path)
        elif image_id in annotations:
            search.result.problems.append(
                f"{path}: {_entry_path(annotations[image_id])} has masks of the same image; "
                "keep one"
            )
        else:
            annotations[image_id] = entry
    return annotations


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _is_auxiliary(path: Path) -> bool:
    return path.name.lower() in _AUXILIARY_FILES or path.suffix.lower() in {".yaml", ".yml"}


def _exclude_masks(files: list[Path]) -> list[Path]:
    """Return the files without masks: `a_mask.png` next to `a.png` is a mask, not an image."""
    stems = {path.stem for path in files if _is_image(path)}
    return [
        path for path in files if not any(stem in stems for stem, _ in _stripped_names(path.stem))
    ]


def _stripped_names(stem: str) -> Iterator[tuple[str, str]]:
    """Yield names that the image of an annotation may have, each with the ending it lacks."""
    for ending in _MASK_ENDINGS:
        if stem.endswith(ending) and len(stem) > len(ending):
            yield stem.removesuffix(ending), ending
    suffix = Path(stem).suffix
    if suffix.lower() in IMAGE_SUFFIXES:
        yield stem.removesuffix(suffix), suffix


def _match_image(name: str, prefix: str, images: dict[str, Path], search: Search) -> str:
    """Return the id of the image that belongs to annotations. name: theirs, without suffix."""
    stem = normalise_name(name)
    if prefix + stem not in images:
        for shorter, ending in _stripped_names(stem):
            if prefix + shorter in images:
                search.by_ending[ending] += 1
                return prefix + shorter
    return prefix + stem


def _mask_directory_entry(path: Path, search: Search) -> _Entry:
    """Return the masks in a directory; an empty directory declares an image without objects."""
    files, directories = search.entries(path)
    masks = tuple(p for p in files if p.suffix.lower() in MASK_SUFFIXES)
    others = [p for p in [*files, *directories] if p not in masks]
    search.unread += others
    if others and not masks:
        search.result.problems.append(
            f"{path}: there is no mask ({', '.join(sorted(MASK_SUFFIXES))}) next to "
            f"{others[0].name}; add one file per object"
        )
    return ("mask_directory", masks) if masks else ("empty", (path,))


def _entry_path(entry: _Entry) -> Path:
    format_, files = entry
    return files[0].parent if format_ == "mask_directory" else files[0]


def _add_records(
    search: Search,
    images: dict[str, Path],
    annotations: dict[str, _Entry],
    image_dir: Path,
    mask_dir: Path,
) -> None:
    """Add records of one directory, and a problem for each file without a counterpart."""
    for image_id, path in images.items():
        if image_id in annotations:
            format_, files = annotations.pop(image_id)
            search.result.records.append(Record(image_id, path, format_, files))
        elif search.options.unannotated == "empty":
            search.result.records.append(Record(image_id, path, "empty", ()))
        else:
            target = mask_dir / path.stem
            search.result.problems.append(
                f"{path}: the image has no masks; put them into {target}/ or {target}.png (for an "
                f"image without objects: an empty directory or a black {target.name}.png; for all "
                "such images: set data.unannotated to 'empty')"
            )
    unread = {path.stem: path for path in search.unread if path.parent == image_dir}
    for image_id, entry in annotations.items():
        search.result.problems.append(_no_image_message(entry, image_id, image_dir, unread, images))


def _no_image_message(
    entry: _Entry,
    image_id: str,
    image_dir: Path,
    unread: dict[str, Path],
    images: dict[str, Path],
) -> str:
    path, name = _entry_path(entry), PurePosixPath(image_id).name
    if name in unread:
        return (
            f"{path}: the masks have no image; the format of {unread[name]} is not supported; save "
            f"it as {name}.png or .jpg"
        )
    alike = [other for other in images if other.casefold() == image_id.casefold()]
    if alike:
        return f"{path}: the masks have no image; {images[alike[0]]} differs in case; rename one"
    if entry[0] == JSON:
        return (
            f"{path}: there is no image {image_id} in {image_dir}/; if the file is a COCO file for "
            "all images, give its path instead of its directory's"
        )
    return f"{path}: the masks have no image; put {name}.png or .jpg into {image_dir}/"


def _bbbc038_folders(search: Search, image_dir: Path) -> list[Path]:
    files, directories = search.entries(image_dir)
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in files):
        return []
    folders = [path for path in directories if (path / "images").is_dir()]
    if not folders:
        search.hidden.clear()
        search.result.problems.clear()
    return folders


def _add_bbbc038_records(search: Search, folders: list[Path]) -> None:
    result = search.result
    for folder in folders:
        files, others = search.entries(folder / "images")
        images = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
        masks = folder / "masks"
        mask_files, below = search.entries(masks) if masks.is_dir() else ([], [])
        sources = tuple(p for p in mask_files if p.suffix.lower() in MASK_SUFFIXES)
        search.unread += [*others, *below]
        search.unread += [p for p in [*files, *mask_files] if p not in images and p not in sources]
        if len(images) != 1:
            result.problems.append(f"{folder / 'images'}: there are {len(images)} images; keep one")
        elif not masks.is_dir() and search.options.unannotated == "refuse":
            result.problems.append(
                f"{images[0]}: the image has no masks; put them into {masks}/ (for an image "
                "without objects: an empty directory)"
            )
        else:
            name = normalise_name(folder.name)
            result.records.append(Record(name, images[0], "bbbc038", sources))
