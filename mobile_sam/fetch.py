"""Files from the network: known checkpoints, with their checksums, in the user's cache."""

import fcntl
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

from mobile_sam.config import UserError
from mobile_sam.faults import fault, naming

_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"


class FetchError(UserError):
    """A file that cannot be had; the message says from where it comes and where to put it."""


@dataclass(frozen=True)
class KnownCheckpoint:
    """Published weights. `sha256` is that of the file as its authors host it."""

    model_type: str
    url: str
    sha256: str

    @property
    def filename(self) -> str:
        return self.url.rsplit("/", 1)[1]


KNOWN_CHECKPOINTS = {
    "mobile_sam": KnownCheckpoint(
        "vit_t",
        "https://github.com/ChaoningZhang/MobileSAM/raw/"
        "f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt",
        "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    ),
    "sam_vit_h": KnownCheckpoint(
        "vit_h",
        _SAM + "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    "sam_vit_l": KnownCheckpoint(
        "vit_l",
        _SAM + "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "sam_vit_b": KnownCheckpoint(
        "vit_b",
        _SAM + "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
}


def cache_dir() -> Path:
    """Where fetched files are kept: $MOBILE_SAM_CACHE, or the user's cache directory."""
    return Path(os.environ.get("MOBILE_SAM_CACHE") or pooch.os_cache("mobile_sam"))


def checkpoint_path(name: str) -> Path:
    """The place of a known checkpoint, whether or not it has been fetched."""
    return cache_dir() / KNOWN_CHECKPOINTS[name].filename


def weights_path(checkpoint: str) -> Path:
    """The file behind a `checkpoint` setting that is a path or a known name."""
    return checkpoint_path(checkpoint) if checkpoint in KNOWN_CHECKPOINTS else Path(checkpoint)


def fetch_checkpoint(name: str) -> Path:
    """Download a known checkpoint unless it is there. Raises FetchError when that fails."""
    known = KNOWN_CHECKPOINTS[name]
    return fetch_file(known.url, known.sha256, checkpoint_path(name), f"checkpoint {name!r}")


def fetched_weights(checkpoint: str | Path) -> Path:
    """As `weights_path`, and a known checkpoint is fetched."""
    known = str(checkpoint) in KNOWN_CHECKPOINTS
    return fetch_checkpoint(str(checkpoint)) if known else Path(checkpoint)


def fetch_file(url: str, sha256: str, target: Path, what: str) -> Path:
    """Download a file unless it is there, checked by sha256 before it is kept.

    An interrupted download goes on where it stopped; of several processes one downloads, and the
    others wait. Raises FetchError with the address and the target path when that fails.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f".{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            pooch.retrieve(
                url,
                known_hash=f"sha256:{sha256}",
                fname=target.name,
                path=target.parent,
                downloader=_download,
            )
    except (OSError, ValueError) as error:
        if fault(error):
            raise
        raise FetchError(
            f"{what} cannot be fetched from {url} ({error}); put the file at {target} yourself"
        ) from error
    return target


def _download(url: str, output_file: str, pooch: object) -> None:
    """Download to `output_file`, by way of a part that outlives an interruption.

    The part is named by the address, and pooch checks the hash of the whole: a part that was
    wrong is gone with the first attempt that completes it.
    """
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    part = Path(output_file).parent / f".{name}.part"
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        left = int(response.headers.get("Content-Length", 0))
        progress = tqdm(
            total=left + have * resumed or None,
            initial=have * resumed,
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
    if received < left:
        raise OSError(f"the connection ended after {received} of {left} bytes; try again")
    part.replace(output_file)


def check_reachable(name: str) -> None:
    """Raise FetchError unless the checkpoint is cached or its host answers."""
    target = checkpoint_path(name)
    if not target.is_file():
        check_answers(KNOWN_CHECKPOINTS[name].url, f"checkpoint {name!r}", target)


def check_answers(url: str, what: str, target: Path, timeout: float = 5.0) -> None:
    """Raise FetchError unless the host of `url` answers within `timeout` seconds."""
    try:
        requests.head(url, timeout=timeout, allow_redirects=True).raise_for_status()
    except requests.RequestException as error:
        raise FetchError(
            f"{what} is not in the cache and {url} does not answer "
            f"({type(error).__name__}); put the file at {target} yourself"
        ) from error
