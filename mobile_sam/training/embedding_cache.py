"""What a frozen image encoder gives: computed once for each image, then read like features."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mobile_sam.config import RunConfig
from mobile_sam.data.digests import Digests, each_once
from mobile_sam.data.index import UNLABELLED, Index, IndexedImage
from mobile_sam.extraction.compute import fill_shards
from mobile_sam.extraction.passes import batch_size
from mobile_sam.extraction.plan import add_rows, discard_stale, wanted_digests
from mobile_sam.extraction.shards import missing_shards
from mobile_sam.features.arrays import open_arrays
from mobile_sam.features.identity import Identity
from mobile_sam.features.locks import changing, using
from mobile_sam.features.store import FeatureStore
from mobile_sam.layout import RunPaths
from mobile_sam.models.sam import Sam
from mobile_sam.models.state_files import module_digest
from mobile_sam.schedule import learns_without_masks, normalise
from mobile_sam.stage import Stage

log = logging.getLogger(__name__)

_NECK = "neck"


@dataclass(frozen=True)
class Embeddings:
    """Reads the embedding of an image: (C, S/16, S/16), float16."""

    store: FeatureStore

    def __call__(self, record: IndexedImage) -> Tensor:
        return self.store.read(record)[_NECK]


class FrozenEncoder:
    """The embeddings of a stage's images by its frozen encoder, in a store like a teacher's.

    Runs that start from the same weights share the store; the store of an encoder that an earlier
    stage has trained is the stage's own, and is removed with it.
    """

    def __init__(self, config: RunConfig, stage: Stage, encoder: nn.Module, fabric: Fabric) -> None:
        self.config, self.encoder, self.fabric = config, encoder, fabric
        self.without_masks = learns_without_masks(config, stage)
        paths = RunPaths(config)
        before = normalise(config)[: stage.index]
        self.shared = all(earlier.freeze.image_encoder for earlier in before)
        digest = module_digest(encoder)
        self.index = paths.index
        self.path = (
            paths.embeddings(digest[:16]) if self.shared else paths.state(stage) / "embeddings.zarr"
        )
        # In the words of a teacher's store; here the student's own encoder is what looked.
        self.content: Identity = {
            "format": "mobile_sam embeddings of a frozen encoder",
            "version": 1,
            "teacher_sha256": digest,
            "teacher_model_type": config.model_type,
            "levels": [_NECK],
            "img_size": config.img_size,
            "dtype": "float16",
            "views": ["identity"],
            "precision": f"{config.precision} on {fabric.device.type}",
        }

    def embeddings(self, stops: Callable[[], None]) -> Embeddings:
        """Compute what is missing; each process computes shards of its own.

        stops: is called before each batch, and raises when the process has been asked to end.
        Raises FeatureError when the disk has no room.
        """
        splits = {"train": wanted_digests(self.index, "train")}
        if self.without_masks:
            splits[UNLABELLED] = wanted_digests(self.index, UNLABELLED)
        if self.config.val_images and not self.config.ema_decay:
            splits["val"] = wanted_digests(self.index, "val", self.config.val_images)
        if self.fabric.is_global_zero:
            with changing(self.path):
                discard_stale(self.path, self.content)
                wanted = each_once(np.concatenate(list(splits.values())))
                add_rows(self.path, self.content, wanted, "cache_embeddings false")
        self.fabric.barrier()
        for split, digests in splits.items():
            self._fill(split, digests, stops)
        self.fabric.barrier()
        return Embeddings(FeatureStore(self.path, self.content, f"delete {self.path}"))

    def discard(self) -> None:
        """Remove a store that no other stage can use."""
        if not self.shared and self.fabric.is_global_zero:
            shutil.rmtree(self.path)

    def _fill(self, split: str, wanted: Digests, stops: Callable[[], None]) -> None:
        part, parts, device = self.fabric.global_rank, self.fabric.world_size, self.fabric.device
        with using(self.path), changing(self.path, f"part{part}of{parts}"):
            arrays = open_arrays(self.path, self.content, "r+")
            shards = missing_shards(arrays, wanted, part, parts)
            if shards:
                size = batch_size(self.encoder, self.config.img_size, device)
                index, workers = Index(self.index, split), self.config.num_workers
                look = partial(self._look, stops)
                fill_shards(arrays, index, shards, look, size, workers, device)

    @torch.no_grad()
    def _look(self, stops: Callable[[], None], images: Tensor) -> dict[str, Tensor]:
        stops()
        dtype = next(self.encoder.parameters()).dtype
        with self.fabric.autocast():
            return {_NECK: self.encoder(images.to(dtype))}


def frozen_encoder(
    config: RunConfig, stage: Stage, student: Sam, fabric: Fabric
) -> FrozenEncoder | None:
    """The student's encoder, where each image has the same embedding in all epochs of a stage."""
    changes = any(stage.augment.model_dump().values())
    looks = stage.distils and config.teacher == "online"  # which needs the image itself
    if not config.cache_embeddings or not stage.freeze.image_encoder or changes or looks:
        return None
    return FrozenEncoder(config, stage, student.image_encoder, fabric)
