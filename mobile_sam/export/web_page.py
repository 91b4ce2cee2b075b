"""A directory with a web page that runs a model in the browser, from any static server and offline.

It holds the page, the model's bundle, onnxruntime-web and a few images: everything the page loads.
"""

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from mobile_sam.download.files import FetchError, cache_dir, writable_cache
from mobile_sam.export.atomic_directory import atomic_directory
from mobile_sam.export.calibration import EvaluationImage
from mobile_sam.system.atomic_files import file_digest, write_json
from mobile_sam.system.errors import UserError
from mobile_sam.system.machine_errors import naming
from mobile_sam.system.paths import existing_file

PAGE = Path(__file__).with_name("web")
_DESCRIPTION, _MODEL, _EXAMPLES, _RUNTIME = "page.json", "model", "examples", "runtime"
_EXAMPLE_SIDE = 1024  # pixels of an example's longer side
_MAX_BYTES = 2**31  # of a file: about as much as browsers allow WebAssembly

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
# Names in the archive and beside the page: some servers do not serve .mjs as a script.
FILES = {
    "package/dist/ort.wasm.min.mjs": "ort.js",
    "package/dist/ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.js",
    "package/dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
LICENCES = ("LICENSE", "ThirdPartyNotices.txt")  # missing from the archive
_NPM_TIMEOUT = 600  # seconds for 33 MB


def write_page(
    directory: Path,
    write_model: Callable[[Path], dict[str, Any]],
    runtime: Path,
    title: str,
    examples: Sequence[EvaluationImage],
) -> dict[str, Any]:
    """Write the page, replacing an earlier one; return the content of the model's bundle.json.

    write_model: writes a bundle into a directory, see `write_bundle`. runtime: the archive of
    onnxruntime-web. title: the model's name on the page. examples: images on the page.
    Raises UserError for a directory with other contents, and for a model that is too large for a
    browser; then nothing is written.
    """
    with atomic_directory(directory, _DESCRIPTION) as unfinished:
        bundle = write_model(unfinished / _MODEL)
        _refuse_too_large(bundle["bytes"])
        shutil.copytree(PAGE, unfinished, dirs_exist_ok=True)
        unpack_runtime(runtime, unfinished / _RUNTIME)
        names = [f"{_EXAMPLES}/{number}.png" for number in range(1, len(examples) + 1)]
        for example, name in zip(examples, names, strict=True):
            _write_example(example, unfinished / name)
        page = {"title": title, "examples": names, "runtime": f"{PACKAGE} {VERSION}"}
        write_json(unfinished / _DESCRIPTION, page)
    return bundle


def _refuse_too_large(sizes: dict[str, int]) -> None:
    """Raise UserError for a model that is too large for a browser.

    sizes: bytes of the bundle's files by name; the weights of large models are in `*.data`.
    """
    for name, size in sizes.items():
        if size > _MAX_BYTES or name.endswith(".data"):
            raise UserError(
                f"--web: {name} has {size / 2**30:.1f} GiB, more than a browser can hold; distil "
                "the model into a smaller one, or export it with --onnx"
            )


def _write_example(example: EvaluationImage, target: Path) -> None:
    """Write an example as PNG: decoders of JPEG differ slightly from one another."""
    image = Image.fromarray(example.pixels())
    image.thumbnail((_EXAMPLE_SIDE, _EXAMPLE_SIDE))
    target.parent.mkdir(exist_ok=True)
    image.save(target)


def runtime_archive(archive: Path | None = None) -> Path:
    """Return the archive of onnxruntime-web: the given one, or the cached one, which npm downloads.

    Raises FetchError if it is unavailable, or is not the archive of VERSION.
    """
    cached = cache_dir() / f"{PACKAGE}-{VERSION}.tgz"
    if archive is None and not cached.is_file():
        _download(cached)
    path = cached if archive is None else existing_file(archive, "--runtime")
    _check_digest(path, f"give that of `npm pack {PACKAGE}@{VERSION}`" if archive else "delete it")
    return path


def _download(target: Path) -> None:
    """Download the archive into the cache with npm; check it before it is moved there."""
    by_hand = (
        f"run `npm pack {PACKAGE}@{VERSION}` where there is a network, and give the file with "
        "--runtime"
    )
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(f"{PACKAGE} {VERSION} is not in the cache, and there is no npm; {by_hand}")
    writable_cache(target.parent).mkdir(parents=True, exist_ok=True)
    with naming(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as directory:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--loglevel=error"]
        try:
            result = subprocess.run(
                command,
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=_NPM_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FetchError(
                f"npm took more than {_NPM_TIMEOUT} s for {PACKAGE}; {by_hand}"
            ) from None
        packed = Path(directory) / target.name
        if result.returncode != 0 or not packed.is_file():
            message = (result.stderr.strip().splitlines() or ["no error message"])[0]
            raise FetchError(f"npm cannot fetch {PACKAGE}@{VERSION} ({message}); {by_hand}")
        _check_digest(packed, by_hand)
        packed.replace(target)


def _check_digest(archive: Path, remedy: str) -> None:
    if file_digest(archive) != SHA256:
        raise FetchError(f"{archive}: not the archive of {PACKAGE} {VERSION}; {remedy}")


def unpack_runtime(archive: Path, directory: Path) -> None:
    """Write FILES and LICENCES into a new directory.

    archive: from `runtime_archive`. Only FILES are read from it, and written under our own names.
    """
    directory.mkdir()
    with tarfile.open(archive, "r:gz") as content:
        for name, target in FILES.items():
            source = content.extractfile(name)
            if source is None:
                raise FetchError(f"{archive}: {name} is not a file")
            with source, (directory / target).open("wb") as copy:
                shutil.copyfileobj(source, copy)
    package = find_spec("onnxruntime")  # the same project, and export needs it anyway
    if package is None or package.origin is None:
        raise FetchError("onnxruntime is not installed, and its licence belongs to the files")
    for name in LICENCES:
        shutil.copyfile(Path(package.origin).with_name(name), directory / name)
