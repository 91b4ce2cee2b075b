"""Cache of the embeddings of a frozen image encoder: computed once per image, then read."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import learns_without_masks, normalise
from mobile_sam.config.stage import Stage
from mobile_sam.data.index.digest_lookup import Digests, unique_digests
from mobile_sam.data.index.table import UNLABELLED, Index, IndexedImage
from mobile_sam.data.sampling.dataset import validation_positions
from mobile_sam.extraction.compute import fill_shards
from mobile_sam.extraction.passes import batch_size
from mobile_sam.extraction.plan import add_rows, discard_stale, image_digests
from mobile_sam.extraction.shards import missing_shards
from mobile_sam.features.arrays import open_arrays
from mobile_sam.features.identity import Identity
from mobile_sam.features.locks import shared_lock, write_lock
from mobile_sam.features.store import FeatureStore
from mobile_sam.models.safe_load import module_digest
from mobile_sam.models.sam import Sam
from mobile_sam.paths import RunPaths
from mobile_sam.system.cpus import reading_processes
from mobile_sam.training.precision import resolve_precision

log = logging.getLogger(__name__)

_NECK = "neck"


@dataclass(frozen=True)
class Embeddings:
    """Reader of the embedding of an image: (C, S/16, S/16), float16."""

    store: FeatureStore

    def __call__(self, record: IndexedImage) -> Tensor:
        return self.store.read(record)[_NECK]


class EmbeddingCache:
    """Store of the embeddings of a stage's images by its frozen encoder.

    Runs with the same start weights and precision share the store. If an earlier stage has trained
    the encoder, the store belongs to the stage and is removed with its resume state.
    """

    def __init__(self, config: RunConfig, stage: Stage, encoder: nn.Module, fabric: Fabric) -> None:
        self.config, self.encoder, self.fabric = config, encoder, fabric
        self.without_masks = learns_without_masks(config, stage)
        paths = RunPaths(config)
        before = normalise(config)[: stage.index]
        self.shared = all(earlier.freeze.image_encoder for earlier in before)
        digest, device = module_digest(encoder), fabric.device.type
        precision = resolve_precision(config.precision, device)
        self.index = paths.index
        self.path = (
            paths.embeddings(digest[:16], f"{precision}-{device}")
            if self.shared
            else paths.state(stage) / "embeddings.zarr"
        )
        # The keys are those of a teacher's store; the values describe the student's encoder.
        self.content: Identity = {
            "format": "mobile_sam embeddings of a frozen encoder",
            "version": 1,
            "teacher_sha256": digest,
            "teacher_model_type": config.model_type,
            "levels": [_NECK],
            "img_size": config.img_size,
            "dtype": "float16",
            "views": ["identity"],
            "precision": f"{precision} on {device}",
        }

    def embeddings(self, stops: Callable[[], None]) -> Embeddings:
        """Compute the missing embeddings; each process computes its own shards.

        stops: called before each batch; raises if the process must end.
        Raises FeatureError if the disk is full.
        """
        splits = {"train": image_digests(self.index, "train")}
        if self.without_masks:
            splits[UNLABELLED] = image_digests(self.index, UNLABELLED)
        if self.config.val_images and not self.config.ema_decay:
            digests = Index(self.index, "val").digests()
            count, seed = self.config.val_images, self.config.seed
            splits["val"] = unique_digests(digests[validation_positions(len(digests), count, seed)])
        if self.fabric.is_global_zero:
            with write_lock(self.path):
                discard_stale(self.path, self.content)
                digests = unique_digests(np.concatenate(list(splits.values())))
                add_rows(self.path, self.content, digests, "cache_embeddings false")
        self.fabric.barrier()
        for split, digests in splits.items():
            self._fill(split, digests, stops)
        self.fabric.barrier()
        return Embeddings(FeatureStore(self.path, self.content, f"delete {self.path}"))

    def _fill(self, split: str, digests: Digests, stops: Callable[[], None]) -> None:
        part, parts, device = self.fabric.global_rank, self.fabric.world_size, self.fabric.device
        with shared_lock(self.path), write_lock(self.path, f"part{part}of{parts}"):
            arrays = open_arrays(self.path, self.content, "r+")
            shards = missing_shards(arrays, digests, part, parts)
            if shards:
                index, config = Index(self.index, split), self.config
                workers = reading_processes(config.num_workers, device.type, config.devices)
                encode = partial(self._encode, stops)
                size = batch_size(self.encoder, encode, config.img_size, device)
                fill_shards(arrays, index, shards, encode, size, workers, device)

    @torch.no_grad()
    def _encode(self, stops: Callable[[], None], images: Tensor) -> dict[str, Tensor]:
        stops()
        dtype = next(self.encoder.parameters()).dtype
        with self.fabric.autocast():
            return {_NECK: self.encoder(images.to(dtype))}


def caches_embeddings(config: RunConfig, stage: Stage) -> bool:
    """Return whether each image has the same embedding in all epochs of a stage."""
    augments = any(stage.augment.model_dump().values())
    needs_images = stage.distillation and config.teacher_features == "online"
    frozen = config.cache_embeddings and stage.freeze.image_encoder
    return frozen and not augments and not needs_images


def stage_embedding_cache(
    config: RunConfig, stage: Stage, student: Sam, fabric: Fabric
) -> EmbeddingCache | None:
    """Return the cache of a stage; None if the stage does not cache embeddings."""
    if not caches_embeddings(config, stage):
        return None
    return EmbeddingCache(config, stage, student.image_encoder, fabric)
