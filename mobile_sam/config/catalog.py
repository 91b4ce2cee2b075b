"""Known checkpoints and data sets, with their addresses and checksums."""

from dataclasses import dataclass
from pathlib import Path

from mobile_sam.config.run import DIRECTORY_KEYS, RunConfig

_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True)
class KnownCheckpoint:
    """Published weights. sha256: checksum of the file that its authors host."""

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


@dataclass(frozen=True)
class KnownDataset:
    """Archive of `<id>/images/<id>.png` and `<id>/masks/*.png`, and its directory.

    val_share: fraction of validation images, chosen by a digest of their ids.
    """

    name: str
    url: str
    sha256: str
    directory: str
    val_share: float = 0.15

    @property
    def manifest(self) -> Path:
        """File that marks the data set as complete."""
        return Path(self.directory) / "dataset.txt"

    @property
    def complete(self) -> Path:
        """Second mark, which Snakemake does not delete with an interrupted job."""
        return Path(self.directory) / ".complete"

    def directories(self) -> dict[str, str]:
        """Return the settings of a run on this data set."""
        parts = (f"{split}/{part}" for split in ("train", "val") for part in ("image", "mask"))
        return dict(
            zip(DIRECTORY_KEYS, (f"{self.directory}/{part}" for part in parts), strict=True)
        )


# BBBC038 (2018 Data Science Bowl, stage 1 train, CC0), with the corrected annotations that its
# own page recommends. The hash is the one that torch-em publishes.
KNOWN_DATASETS = {
    "nuclei": KnownDataset(
        "nuclei",
        "https://github.com/ibmua/data-science-bowl-2018-train-set/raw/master/train-hand.zip",
        "d218b8706cd7b9a2d7171268a6e99c7b0e94605af46521ff2ffd5a17708b1af6",
        "data/nuclei",
    ),
}


def known_dataset(config: RunConfig) -> KnownDataset | None:
    """Return the public data set in the run's directories; None if there is none."""
    given = {key: getattr(config, key) for key in DIRECTORY_KEYS}
    return next((d for d in KNOWN_DATASETS.values() if d.directories() == given), None)
