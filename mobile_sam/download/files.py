"""Download of files, such as known checkpoints, into the user's cache, with checksums."""

import fcntl
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from mobile_sam.config.catalog import KNOWN_CHECKPOINTS
from mobile_sam.system.atomic_files import file_digest, link
from mobile_sam.system.errors import ConfigError, UserError
from mobile_sam.system.locking import acquire, open_lock
from mobile_sam.system.machine_errors import machine_fault, naming
from mobile_sam.system.paths import existing_path, output_problem

# Imports of libraries for downloads are inside the functions, so that all commands start faster.


class FetchError(UserError):
    """Failed download; the message names the address and the path for a manual download."""


def cache_dir() -> Path:
    """Return the directory of downloaded files: $MOBILE_SAM_CACHE, or the user's cache directory.

    Raises FetchError for a user without a home directory.
    """
    import pooch

    directory = Path(os.environ.get("MOBILE_SAM_CACHE") or pooch.os_cache("mobile_sam"))
    if directory.parts[:1] == ("~",):
        raise FetchError(
            "this user has no home directory for the cache; set MOBILE_SAM_CACHE to a writable "
            "directory"
        )
    return directory


def writable_cache(directory: Path) -> Path:
    """Return a directory of the cache, which need not exist yet.

    Raises FetchError, which names the variable to set, unless it is writable.
    """
    problem = output_problem(directory)
    if problem:
        raise FetchError(
            f"{directory}: the cache cannot be written to ({problem.split(';')[0]}); set "
            "MOBILE_SAM_CACHE to a writable directory"
        )
    return directory


def checkpoint_path(name: str) -> Path:
    """Return the path of a known checkpoint in the cache."""
    return cache_dir() / KNOWN_CHECKPOINTS[name].filename


def weights_path(checkpoint: str) -> Path:
    """Return the file of a `checkpoint` setting, which is a path or a known name."""
    return checkpoint_path(checkpoint) if checkpoint in KNOWN_CHECKPOINTS else Path(checkpoint)


def fetch_checkpoint(name: str) -> Path:
    """Download a known checkpoint unless it is in the cache. Raises FetchError if that fails."""
    known, target = KNOWN_CHECKPOINTS[name], checkpoint_path(name)
    second = _second_name(target)
    if second.is_file() and not target.exists():
        link(second, target)
    fetch_file(known.url, known.sha256, target, f"checkpoint {name!r}")
    if "MOBILE_SAM_JOB" in os.environ and os.access(target.parent, os.W_OK):
        link(target, second)
    return target


def fetched_weights(checkpoint: str | Path, name: str = "") -> Path:
    """Return the file of weights, given as a path or as a known name, which is downloaded.

    name: name of the argument, for messages. Raises ConfigError for a path that cannot be read.
    """
    if str(checkpoint) in KNOWN_CHECKPOINTS:
        return fetch_checkpoint(str(checkpoint))
    if not os.path.lexists(checkpoint):
        raise ConfigError(
            f"{name} {checkpoint}: there is no such file; give a path or one of ".lstrip()
            + ", ".join(KNOWN_CHECKPOINTS)
        )
    return existing_path(Path(checkpoint), name)


def fetch_file(url: str, sha256: str, target: Path, title: str) -> Path:
    """Download a file unless it exists, and verify its SHA-256.

    An interrupted download is resumed. If several processes need the file, one downloads it and the
    others wait. title: name of the file, for messages. Raises FetchError with the address and the
    target path.
    """
    import pooch

    if target.is_file() and not os.access(target.parent, os.W_OK):
        _check_cached(target, sha256, title)
        return target
    writable_cache(target.parent)
    try:
        with open_lock(target.with_name(f".{target.name}.lock")) as lock:
            acquire(fcntl.flock, lock, fcntl.LOCK_EX)
            pooch.retrieve(
                url,
                known_hash=f"sha256:{sha256}",
                fname=target.name,
                path=target.parent,
                downloader=_download,
            )
    except (OSError, ValueError) as error:
        if machine_fault(error):
            raise
        raise FetchError(
            f"{title} cannot be fetched from {url} ({error}); put the file at {target} yourself"
        ) from error
    return target


def _second_name(target: Path) -> Path:
    """Return the second name of a file, which stays if Snakemake deletes the file."""
    return target.with_name(f".{target.name}.fetched")


def forget_second_names(checkpoints: Iterable[str]) -> None:
    """Remove the second names of known checkpoints after their jobs have succeeded."""
    for name in checkpoints:
        second = _second_name(checkpoint_path(name))
        if second.is_file():
            second.unlink()


def _check_cached(target: Path, sha256: str, title: str) -> None:
    """Raise FetchError for a wrong file in a cache that this user cannot write to."""
    if file_digest(target) != sha256:
        raise FetchError(
            f"{target}: not {title}, or a damaged copy, and this user cannot replace it; set "
            "MOBILE_SAM_CACHE to a writable directory"
        )


def _download(url: str, output_file: str, pooch: object) -> None:
    """Download to `output_file` through a partial file that remains after an interruption.

    The name of the partial file depends on the address. Pooch verifies the complete file and
    removes a wrong one, so that the next attempt starts again.
    """
    import requests
    from tqdm import tqdm

    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    part = Path(output_file).parent / f".{name}.part"
    existing = part.stat().st_size if part.is_file() else 0  # bytes
    headers = {"Range": f"bytes={existing}-"} if existing else {}
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        expected = int(response.headers.get("Content-Length", 0))
        progress = tqdm(
            total=expected + existing * resumed or None,
            initial=existing * resumed,
            unit="B",
            unit_scale=True,
            desc=url.rsplit("/", 1)[1],
        )
        with naming(part), part.open("ab" if resumed else "wb") as file, progress:
            received = 0
            for block in response.iter_content(1 << 20):
                file.write(block)
                received += len(block)
                progress.update(len(block))
    if received < expected:
        raise OSError(f"the connection ended after {received} of {expected} bytes; try again")
    part.replace(output_file)


def check_reachable(name: str) -> None:
    """Raise FetchError unless the checkpoint is cached or its host answers."""
    target = checkpoint_path(name)
    if not target.is_file():
        writable_cache(target.parent)
        check_host(KNOWN_CHECKPOINTS[name].url, f"checkpoint {name!r}", target)


def check_host(url: str, title: str, target: Path, timeout: float = 5.0) -> None:
    """Raise FetchError unless the host of `url` answers within `timeout` seconds."""
    import requests

    try:
        requests.head(url, timeout=timeout, allow_redirects=True).raise_for_status()
    except requests.RequestException as error:
        raise FetchError(
            f"{title} is not in the cache and {url} does not answer "
            f"({type(error).__name__}); put the file at {target} yourself"
        ) from error
