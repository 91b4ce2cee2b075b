"""The loop of one stage: from the checkpoint before it to its own, through any interruption."""

import copy
import logging
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from mobile_sam.config import RunConfig
from mobile_sam.data.dataset import Sample, ValidationSet, collate
from mobile_sam.data.index import Index
from mobile_sam.data.prompts import VALIDATION_PROMPTS
from mobile_sam.layout import RunPaths
from mobile_sam.models.sam import Sam
from mobile_sam.process import workers
from mobile_sam.stage import Stage
from mobile_sam.training.average import moving_average
from mobile_sam.training.batches import Batches, epoch_batches, of_all_ranks, steps_per_epoch
from mobile_sam.training.compiling import compile_encoder
from mobile_sam.training.frozen import frozen_encoder
from mobile_sam.training.interruption import Interruption, end_all
from mobile_sam.training.learner import validation_iou
from mobile_sam.training.optim import adamw, freeze_parts, lr_factor, set_learning_rate
from mobile_sam.training.precision import loss_scale
from mobile_sam.training.progress import NotFiniteError
from mobile_sam.training.recompute import recompute_encoder, statistics_kept
from mobile_sam.training.reproducible import same_order
from mobile_sam.training.saving import Saves, Trained
from mobile_sam.training.start import new_learner, training_set
from mobile_sam.training.teacher import online_features
from mobile_sam.training.watching import Watch

log = logging.getLogger(__name__)


class StageTraining:
    """One stage in this process; `run` ends with its checkpoints."""

    def __init__(self, config: RunConfig, stage: Stage, fabric: Fabric) -> None:
        self.config, self.stage, self.fabric = config, stage, fabric
        self.paths = RunPaths(config)
        self.train_set = training_set(config, stage)
        self.with_teacher = online_features(config, stage, fabric.device)
        self.steps_per_epoch = steps_per_epoch(
            len(self.train_set), config.batch_size, config.gradient_accumulation
        )
        self.learner = new_learner(config, stage, fabric.device)
        if config.recompute_encoder:
            recompute_encoder(self.learner.student.image_encoder)
        self.optimizer = adamw(
            self.learner, config.weight_decay, config.encoder_lr_scale, config.layer_decay
        )
        freeze_parts(self.learner, stage.freeze, config.keeps_batchnorm)
        self.model, self.wrapped_optimizer = fabric.setup(self.learner, self.optimizer)
        student = self.learner.student
        self.average = moving_average(student, config.ema_decay) if config.ema_decay else None
        self.saves = Saves(
            config, stage, Trained(self.learner, self.optimizer, self.average, fabric)
        )

    def run(self) -> None:
        """Train to the end of the stage, or to the first epoch that early stopping ends."""
        with Interruption(self.fabric) as self.interruption:
            self._begin()
            while self.progress.epoch < self.stage.end_epoch and not self._stops_early():
                self._epoch()
                self._end_epoch()
                self._save_if_due()
            self._end()

    def _begin(self) -> None:
        self.progress = progress = self.saves.begin()
        self.saved_at = time.monotonic()
        if self.config.compile and not self.stage.freeze.image_encoder:
            images = -(-self.config.batch_size // self.fabric.world_size)
            compile_encoder(self.learner.student, images, self.fabric)
        self.frozen = frozen_encoder(self.config, self.stage, self.learner.student, self.fabric)
        if self.frozen is not None:
            self.train_set.read_embedding = self.frozen.embeddings(self.interruption.end_if_asked)
        batches_per_epoch = len(self._batches())
        self.watch = Watch(self.paths, self.stage, self.fabric, batches_per_epoch, progress.step)
        log.info(
            "stage %s: epochs %d to %d, %d images, %d steps per epoch",
            self.stage.directory,
            progress.epoch,
            self.stage.end_epoch,
            len(self.train_set),
            self.steps_per_epoch,
        )

    def _end(self) -> None:
        self.watch.close()
        self.saves.finish(self.progress)
        if self.frozen is not None:
            self.frozen.discard()

    def _epoch(self) -> None:
        """The batches of the epoch that are not done yet."""
        progress, batches = self.progress, self._batches()
        self.train_set.epoch = progress.epoch
        began = time.monotonic()
        for batch in self._loader(batches):
            loss = self._learn(batch, batches)
            ends_step = batches.ends_step(progress.batch)
            if ends_step:
                self._step()
            progress.batch += 1
            now = time.monotonic()
            progress.seconds, began = progress.seconds + now - began, now
            # A group of accumulated batches is not interrupted: its gradients are not saved.
            if ends_step:
                self.watch.step(progress, loss, self.learning_rate)
                if progress.batch < len(batches):
                    self._save_if_due()

    def _batches(self) -> Batches:
        config = self.config
        return epoch_batches(
            len(self.train_set),
            config.batch_size,
            config.gradient_accumulation,
            config.seed,
            self.progress.epoch,
        )

    def _loader(self, batches: Batches) -> Iterator[Sample]:
        rank, ranks = self.fabric.global_rank, self.fabric.world_size
        numbers = range(self.progress.batch, len(batches))
        loader = DataLoader(
            self.train_set,
            batch_sampler=[batches.part(number, rank, ranks).tolist() for number in numbers],
            collate_fn=collate,
            **workers(self.config.num_workers),
        )
        return (self.with_teacher(batch.to(self.fabric.device)) for batch in loader)

    def _learn(self, batch: Sample, batches: Batches) -> float:
        """Add the gradient of a batch; returns its mean loss over all ranks."""
        fabric, progress, number = self.fabric, self.progress, self.progress.batch
        weights = batches.weights(number, fabric.global_rank, fabric.world_size)
        torch.manual_seed(progress.seed(self.config.seed, fabric.global_rank))
        with (
            fabric.no_backward_sync(self.model, enabled=not batches.ends_step(number)),
            same_order(fabric.device),
        ):
            losses = self.model(batch)
            loss = losses["loss"]
            with statistics_kept(self.learner) if self.config.recompute_encoder else nullcontext():
                fabric.backward((loss * weights.to(loss)).sum())
        positions = batches.batches[number]
        found = of_all_ranks(fabric, losses | {"labelled": batch.labelled}, len(positions))
        finite = found["loss"].isfinite()
        if not finite.all():
            wrong = positions[~finite.numpy()]
            images = [self.train_set.record(int(position)).image_id for position in wrong]
            end_all(fabric, NotFiniteError(found["loss"].sum().item(), progress, images))
        labelled = found.pop("labelled")
        progress.add(found, labelled)
        return found["loss"].mean().item()

    def _step(self) -> None:
        config, progress = self.config, self.progress
        span, first = config.num_epochs, 0
        if config.lr_scheduler_span == "stage":
            span, first = self.stage.end_epoch - self.stage.start_epoch, self.stage.start_epoch
        done = (progress.epoch - first) * self.steps_per_epoch
        done += progress.batch // config.gradient_accumulation
        factor = lr_factor(
            done, span * self.steps_per_epoch, config.warmup_steps, config.lr_scheduler
        )
        self.learning_rate = self.stage.learning_rate * factor
        set_learning_rate(self.optimizer, self.learning_rate)
        if config.gradient_clip > 0:
            self.fabric.clip_gradients(
                self.model,
                self.optimizer,
                max_norm=config.gradient_clip,
                error_if_nonfinite=False,
            )
        scale = loss_scale(self.fabric)
        self.wrapped_optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        if self.average is not None and loss_scale(self.fabric) >= scale:
            self.average.update_parameters(self.learner.student)

    def _end_epoch(self) -> None:
        progress = self.progress
        ious = self._validate()
        row = {
            "epoch": progress.epoch,
            "step": progress.step,
            **progress.losses,
            **{f"val_{kind}_iou": iou for kind, iou in ious.items()},
            "learning_rate": self.learning_rate,
            "images_per_s": progress.sums["images"] / progress.seconds,
            "seconds": progress.seconds,
        }
        mean = float(np.mean([ious[kind] for kind in VALIDATION_PROMPTS])) if ious else None
        best = progress.end_epoch(row, mean)
        self.saves.end_epoch(progress, best)
        self.watch.epoch(row, best)

    def _validate(self) -> dict[str, float]:
        """Mean IoU by kind of prompt, of what would be exported; {} without validation images."""
        if self.config.val_images == 0:
            return {}
        found: dict[str, float] = {}
        if self.fabric.is_global_zero:
            dataset = ValidationSet(
                Index(self.paths.index, "val"),
                self.config.img_size,
                self.config.objects_per_image,
                self.config.val_images,
                # An average of encoders has embeddings of its own.
                None if self.average is not None else self.train_set.read_embedding,
            )
            self.learner.eval()
            found = validation_iou(self._exported(), dataset, self.fabric.device)
            freeze_parts(self.learner, self.stage.freeze, self.config.keeps_batchnorm)
        return self.fabric.broadcast(found)

    def _exported(self) -> Sam:
        """The student as it is exported: averaged where that is asked for, in 32 bits."""
        student = self.learner.student
        if self.average is not None:
            student = cast(Sam, self.average.module)
        return copy.deepcopy(student).float() if student.dtype == torch.float64 else student

    def _stops_early(self) -> bool:
        patience = self.config.early_stopping
        stops = patience is not None and self.progress.epochs_without_gain >= patience
        if stops:
            log.info("no gain in %d epochs; the stage ends here", patience)
        return stops

    def _save_if_due(self) -> None:
        asked = self.interruption.asked_anywhere()
        if asked or time.monotonic() - self.saved_at >= 60 * self.config.save_every_minutes:
            self.watch.flush()
            self.saves.save(self.progress)
            self.saved_at = time.monotonic()
        if asked:
            self.interruption.end()
