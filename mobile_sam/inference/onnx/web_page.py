"""A directory with a page that runs a model in the browser, from any static server and offline.

It holds the page, the model's bundle, onnxruntime-web and a few images: all that the page asks for.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mobile_sam.config import UserError
from mobile_sam.data.images import read_image
from mobile_sam.files import write_json
from mobile_sam.inference.onnx.directory import whole_directory
from mobile_sam.inference.onnx.web_runtime import PACKAGE, VERSION, unpack_runtime

PAGE = Path(__file__).with_name("web")
_ABOUT, _MODEL, _EXAMPLES, _RUNTIME = "page.json", "model", "examples", "runtime"
_LONGEST = 1024  # pixels of an example's longer side
_LARGEST = 2**31  # bytes of a file: about what a browser gives to WebAssembly


def write_page(
    directory: Path,
    write_model: Callable[[Path], dict[str, Any]],
    runtime: Path,
    title: str,
    examples: Sequence[Path],
) -> dict[str, Any]:
    """Write the page, in place of one that is there; returns what the model's bundle.json says.

    write_model: writes a bundle into a directory, see `write_bundle`. runtime: the archive of
    onnxruntime-web. title: of the model, for who looks at it. examples: images to try it on.
    Raises UserError for a directory of something else, and for a model that no browser can hold;
    then nothing is written.
    """
    with whole_directory(directory, _ABOUT) as unfinished:
        about = write_model(unfinished / _MODEL)
        _refuse_too_large(about["bytes"])
        shutil.copytree(PAGE, unfinished, dirs_exist_ok=True)
        unpack_runtime(runtime, unfinished / _RUNTIME)
        names = [f"{_EXAMPLES}/{number}.png" for number in range(1, len(examples) + 1)]
        for path, name in zip(examples, names, strict=True):
            _write_example(path, unfinished / name)
        page = {"title": title, "examples": names, "runtime": f"{PACKAGE} {VERSION}"}
        write_json(unfinished / _ABOUT, page)
    return about


def _refuse_too_large(sizes: dict[str, int]) -> None:
    """sizes: bytes of the bundle's files by name; of a large model, weights lie in `*.data`."""
    for name, size in sizes.items():
        if size > _LARGEST or name.endswith(".data"):
            raise UserError(
                f"--web: {name} has {size / 2**30:.1f} GiB, more than a browser can hold; distil "
                "the model into a smaller one, or export it with --onnx"
            )


def _write_example(path: Path, target: Path) -> None:
    """As PNG: of JPEG, decoders differ in a bit here and there."""
    image = Image.fromarray(read_image(path))
    image.thumbnail((_LONGEST, _LONGEST))
    target.parent.mkdir(exist_ok=True)
    image.save(target)
