"""The training loop of one stage, from the checkpoint before it to its own, with resuming."""

import copy
import logging
import time
from contextlib import closing, nullcontext
from itertools import islice
from typing import cast

import torch
from lightning_fabric import Fabric
from timm.layers import convert_sync_batchnorm
from torch import Tensor

from mobile_sam.config.run import RunConfig
from mobile_sam.config.stage import Stage
from mobile_sam.data.index.table import Index
from mobile_sam.data.sampling.dataset import Sample, ValidationSet
from mobile_sam.models.sam import Sam
from mobile_sam.paths import RunPaths
from mobile_sam.system.cpus import reading_processes
from mobile_sam.system.finished_results import Finished
from mobile_sam.training.activation_checkpointing import keep_statistics, recompute_encoder
from mobile_sam.training.batches import (
    Batches,
    Positions,
    batches_of,
    gather_from_ranks,
    loaded_batches,
)
from mobile_sam.training.compiling import compile_encoder
from mobile_sam.training.cpu import same_order
from mobile_sam.training.embedding_cache import stage_embedding_cache
from mobile_sam.training.epoch_validation import selection_iou, validation_iou
from mobile_sam.training.optim import (
    adamw,
    batchnorm_statistics,
    batchnorms,
    drop_unused_gradients,
    freeze_parts,
    keep_unreached_rows,
    largest_gradients,
    lr_factor,
    moving_average,
    set_learning_rate,
)
from mobile_sam.training.out_of_memory import with_smaller_passes
from mobile_sam.training.precision import loss_scale, skips_overflow
from mobile_sam.training.progress import NotFiniteError, Progress, ProgressLogger
from mobile_sam.training.setup import new_training_module, training_set
from mobile_sam.training.signals import SignalHandler, end_all
from mobile_sam.training.stage_checkpoints import StageCheckpoints, TrainingState
from mobile_sam.training.step import Losses
from mobile_sam.training.teacher import online_features

log = logging.getLogger(__name__)


class StageTraining:
    """Training of one stage in this process; `run` ends with its checkpoints."""

    def __init__(self, config: RunConfig, stage: Stage, fabric: Fabric, results: Finished) -> None:
        self.config, self.stage, self.fabric = config, stage, fabric
        self.paths = RunPaths(config)
        self.train_set = training_set(config, stage)
        self.with_teacher = online_features(config, stage, fabric.device)
        self.steps_per_epoch = batches_of(config, self.train_set, stage.start_epoch).steps
        self.module = new_training_module(config, stage, fabric.device)
        if config.sync_batchnorm and fabric.world_size > 1:
            convert_sync_batchnorm(self.module)  # in place
        if config.recompute_encoder:
            recompute_encoder(self.module.student.image_encoder)
        self.optimizer = adamw(
            self.module, config.weight_decay, config.encoder_lr_scale, config.layer_decay
        )
        freeze_parts(self.module, stage.freeze, config.keeps_batchnorm)
        self.model, self.wrapped_optimizer = fabric.setup(self.module, self.optimizer)
        student = self.module.student
        self.average = moving_average(student, config.ema_decay) if config.ema_decay else None
        state = TrainingState(self.module, self.optimizer, self.average, fabric)
        self.checkpoints = StageCheckpoints(config, stage, state, results)

    def run(self, until: int | None = None) -> Progress:
        """Train to the end of the stage, or until early stopping ends it.

        until: epoch at which training pauses instead. The stage then has a resume state, but no
        checkpoints.
        """
        end = self.stage.end_epoch if until is None else until
        with SignalHandler(self.fabric) as self.signals:
            self._begin()
            with closing(self.batches):
                while self.progress.epoch < end and not self._stops_early():
                    self._epoch()
                    self._end_epoch()
                    self._save_if_due()
            self.logger.close()
            if until is None:
                self.checkpoints.finish(self.progress)
            else:
                self.checkpoints.pause(self.progress)
        return self.progress

    def _begin(self) -> None:
        self.progress = progress = self.checkpoints.begin()
        self.saved_at = time.monotonic()
        if self.config.compile and not self.stage.freeze.image_encoder:
            images = -(-self.config.images_per_batch // self.fabric.world_size)
            compile_encoder(self.module.student, images, self.fabric)
        cache = stage_embedding_cache(self.config, self.stage, self.module.student, self.fabric)
        if cache is not None:
            self.train_set.read_embedding = cache.embeddings(self.signals.end_if_requested)
        self.batches = loaded_batches(
            self.config,
            self.train_set,
            self.fabric,
            progress.epoch,
            progress.batch,
            self.stage.end_epoch,
        )
        batches_per_epoch = len(batches_of(self.config, self.train_set, progress.epoch))
        self.logger = ProgressLogger(
            self.paths, self.stage, self.fabric, batches_per_epoch, progress.step
        )
        log.info(
            "stage %s: epochs %d to %d, %d images, %d steps per epoch",
            self.stage.directory,
            progress.epoch,
            self.stage.end_epoch,
            len(self.train_set),
            self.steps_per_epoch,
        )
        if any(batchnorms(self.module)):
            log.info("BatchNorm statistics: %s", batchnorm_statistics(self.config, self.stage))

    def _epoch(self) -> None:
        """Train on the remaining batches of the epoch."""
        progress = self.progress
        batches = batches_of(self.config, self.train_set, progress.epoch)
        began = time.monotonic()
        for batch in islice(self.batches, len(batches) - progress.batch):
            loss = self._learn(self.with_teacher(batch), batches)
            ends_step = batches.ends_step(progress.batch)
            if ends_step:
                self._step()
            progress.batch += 1
            now = time.monotonic()
            progress.seconds, began = progress.seconds + now - began, now
            # A group of accumulated batches is not interrupted: its gradients are not saved.
            if ends_step:
                self.logger.step(progress, loss, self.learning_rate)
                self._save_if_due()

    def _learn(self, batch: Sample, batches: Batches) -> float:
        """Add the gradient of a batch; return its mean loss over all ranks."""
        fabric, progress, number = self.fabric, self.progress, self.progress.batch
        weights = batches.weights(number, fabric.global_rank, fabric.world_size)
        share = batches.per_labelled(number)
        batch = batch._replace(per_labelled=torch.full_like(weights, share).to(fabric.device))

        def attempt() -> Losses:
            torch.manual_seed(progress.seed(self.config.seed, fabric.global_rank))
            with (
                fabric.no_backward_sync(self.model, enabled=not batches.ends_step(number)),
                same_order(fabric.device),
            ):
                losses: Losses = self.model(batch)
                loss = losses["loss"]
                recompute = self.config.recompute_encoder
                with keep_statistics(self.module) if recompute else nullcontext():
                    fabric.backward((loss * weights.to(loss)).sum())
            return losses

        # Ranks wait for each other within a step, so one rank cannot repeat it.
        alone = fabric.world_size == 1
        losses = with_smaller_passes(self.module, batch, attempt) if alone else attempt()
        loss = losses["loss"]
        gradient = largest_gradients(self.module)[1].max().expand_as(loss)
        local = losses | {"labelled": batch.labelled, "gradient": gradient}
        values = gather_from_ranks(fabric, local, len(batches.batches[number]))
        self._check_finite(values["loss"], values.pop("gradient"), batches.batches[number])
        labelled = values.pop("labelled")
        progress.add(values, labelled)
        return values["loss"].mean().item()

    def _check_finite(self, losses: Tensor, gradients: Tensor, positions: Positions) -> None:
        """End all ranks if a step would learn from NaN or infinite values.

        losses, gradients: (images,) of a batch; the images of a rank share its largest gradient.
        """
        invalid, value = ~losses.isfinite(), f"the loss is {losses.sum().item()}"
        if not invalid.any() and not skips_overflow(self.fabric):
            invalid, value = ~gradients.isfinite(), f"a gradient is {gradients.max().item()}"
        if invalid.any():
            records = map(self.train_set.record, positions[invalid.numpy()].tolist())
            images = [record.image_id for record in records]
            end_all(self.fabric, NotFiniteError(value, self.progress, images))

    def _learning_rate(self, step: int) -> float:
        """Return the learning rate of an optimiser step of the epoch, counted from 0."""
        config = self.config
        span, first = config.num_epochs, 0
        if config.lr_scheduler_span == "stage":
            span, first = self.stage.end_epoch - self.stage.start_epoch, self.stage.start_epoch
        done = (self.progress.epoch - first) * self.steps_per_epoch + step
        steps = span * self.steps_per_epoch
        factor = lr_factor(done, steps, config.steps_of_warmup(steps), config.lr_scheduler)
        return self.stage.learning_rate * factor

    def _step(self) -> None:
        config, progress = self.config, self.progress
        self.learning_rate = self._learning_rate(progress.batch // config.gradient_accumulation)
        set_learning_rate(self.optimizer, self.learning_rate)
        scale = loss_scale(self.fabric)
        if drop_unused_gradients(self.module):
            self._update()
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        if self.average is not None and loss_scale(self.fabric) >= scale:
            self.average.update_parameters(self.module.student)

    def _update(self) -> None:
        if self.config.gradient_clip > 0:
            self.fabric.clip_gradients(
                self.model,
                self.optimizer,
                max_norm=self.config.gradient_clip,
                error_if_nonfinite=False,
            )
        with keep_unreached_rows(self.module.student.mask_decoder):
            self.wrapped_optimizer.step()

    def _end_epoch(self) -> None:
        progress = self.progress
        ious = self._validate()
        row = {
            "epoch": progress.epoch,
            "step": progress.step,
            **progress.losses,
            **{f"val_{kind}_iou": iou for kind, iou in ious.items()},
            # That of the last step, which an earlier process may have run.
            "learning_rate": self._learning_rate(self.steps_per_epoch - 1),
            "images_per_s": progress.sums["images"] / progress.seconds,
            "seconds": progress.seconds,
        }
        iou = selection_iou(row, self.config.selection_metric) if ious else None
        best = progress.end_epoch(row, iou)
        self.checkpoints.end_epoch(progress, best)
        self.logger.epoch(row, best)

    def _validate(self) -> dict[str, float]:
        """Return the mean IoU of the exported weights by prompt; {} without validation images."""
        config = self.config
        if config.val_images == 0:
            return {}
        dataset = ValidationSet(
            Index(self.paths.index, "val"),
            config.img_size,
            config.objects_per_image,
            config.val_images,
            config.seed,
            # The averaged encoder has other embeddings than those in the cache.
            None if self.average is not None else self.train_set.read_embedding,
        )
        self.module.eval()
        ious = validation_iou(
            self._exported(),
            dataset,
            self.fabric,
            config.decoder_chunk_size,
            config.selection_metric == "clicks",
            reading_processes(config.num_workers, self.fabric.device.type, config.devices),
            self._end_if_requested,
        )
        freeze_parts(self.module, self.stage.freeze, config.keeps_batchnorm)
        return ious

    def _exported(self) -> Sam:
        """Return the student that is exported: the moving average if there is one, in 32 bits."""
        student = self.module.student
        if self.average is not None:
            student = cast(Sam, self.average.module)
        return copy.deepcopy(student).float() if student.dtype == torch.float64 else student

    def _stops_early(self) -> bool:
        patience = self.config.early_stopping
        stops = patience is not None and self.progress.epochs_without_gain >= patience
        if stops:
            log.info("no better epoch in %d epochs; the stage ends early", patience)
        return stops

    def _save_if_due(self) -> None:
        self._end_if_requested()
        if time.monotonic() - self.saved_at >= 60 * self.config.save_every_minutes:
            self._save()

    def _end_if_requested(self) -> None:
        """End all ranks if any received a signal; the resumed stage validates a pending epoch."""
        if self.signals.requested_anywhere():
            self._save()
            self.signals.end()

    def _save(self) -> None:
        self.logger.flush()
        self.checkpoints.save(self.progress)
        self.saved_at = time.monotonic()
