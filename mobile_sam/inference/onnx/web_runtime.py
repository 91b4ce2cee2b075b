"""onnxruntime-web: the files that a page needs of it, from npm, the cache, or an archive."""

import shutil
import subprocess
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

from mobile_sam.faults import naming
from mobile_sam.fetch import FetchError, cache_dir
from mobile_sam.files import file_digest

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
# Of the archive, and their names beside a page: not all servers know that .mjs is a script.
FILES = {
    "package/dist/ort.wasm.min.mjs": "ort.js",
    "package/dist/ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.js",
    "package/dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
LICENCES = ("LICENSE", "ThirdPartyNotices.txt")  # the archive has none
_SECONDS = 600  # npm has for 33 MB


def runtime_archive(given: Path | None = None) -> Path:
    """The package's archive: the one given, else that of the cache, fetched by npm unless there.

    Raises FetchError when it cannot be had, or is not the very archive of VERSION.
    """
    kept = cache_dir() / f"{PACKAGE}-{VERSION}.tgz"
    if given is None and not kept.is_file():
        _fetch(kept)
    path = given or kept
    if not path.is_file():
        raise FetchError(f"--runtime {path}: there is no such file")
    _check(path, f"give that of `npm pack {PACKAGE}@{VERSION}`" if given else "delete it")
    return path


def _fetch(target: Path) -> None:
    """Have npm put the archive into the cache, checked before it is there."""
    by_hand = (
        f"run `npm pack {PACKAGE}@{VERSION}` where there is a network, and give the file with "
        "--runtime"
    )
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(f"{PACKAGE} {VERSION} is not in the cache, and there is no npm; {by_hand}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with naming(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as place:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--loglevel=error"]
        try:
            done = subprocess.run(
                command, cwd=place, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise FetchError(f"npm took more than {_SECONDS} s for {PACKAGE}; {by_hand}") from None
        packed = Path(place) / target.name
        if done.returncode != 0 or not packed.is_file():
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
            raise FetchError(f"npm cannot fetch {PACKAGE}@{VERSION} ({said}); {by_hand}")
        _check(packed, by_hand)
        packed.replace(target)


def _check(archive: Path, remedy: str) -> None:
    if file_digest(archive) != SHA256:
        raise FetchError(f"{archive}: not the archive of {PACKAGE} {VERSION}; {remedy}")


def unpack_runtime(archive: Path, directory: Path) -> None:
    """Write FILES and LICENCES into a new directory.

    archive: as `runtime_archive` gives it. Of it nothing but FILES is read, and their places are
    not the archive's to say.
    """
    directory.mkdir()
    with tarfile.open(archive, "r:gz") as content:
        for name, target in FILES.items():
            source = content.extractfile(name)
            if source is None:
                raise FetchError(f"{archive}: {name} is no file")
            with source, (directory / target).open("wb") as copy:
                shutil.copyfileobj(source, copy)
    package = find_spec("onnxruntime")  # of the same project, and exporting needs it anyway
    if package is None or package.origin is None:
        raise FetchError("onnxruntime is not installed, whose licence goes with the files")
    for name in LICENCES:
        shutil.copyfile(Path(package.origin).with_name(name), directory / name)
