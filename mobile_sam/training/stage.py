"""The loop of one stage: from the checkpoint before it to its own, through any interruption."""

import logging
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.data.dataset import Sample, ValidationSet, collate
from mobile_sam.data.index import Index
from mobile_sam.data.prompts import VALIDATION_PROMPTS
from mobile_sam.layout import RunPaths
from mobile_sam.schedule import Stage, canonical, normalise
from mobile_sam.training import checkpoint
from mobile_sam.training.frozen import frozen_encoder
from mobile_sam.training.learner import validation_iou
from mobile_sam.training.optim import (
    adamw,
    clip_gradients,
    freeze_parts,
    lr_factor,
    set_learning_rate,
)
from mobile_sam.training.progress import NotFiniteError, Progress, epoch_batches, minutes
from mobile_sam.training.start import new_learner, state_key, training_set
from mobile_sam.training.teacher import online_features

log = logging.getLogger(__name__)

_LOG_SECONDS = 5.0
# What schedulers and Ctrl-C send; SIGUSR1 is SLURM's warning before the time limit.
_SAVE_AND_END = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupted(SystemExit):
    """The process was asked to end, and has saved its state."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class StageTraining:
    """One stage in this process; `run` ends with its checkpoint."""

    def __init__(self, config: RunConfig, stage: Stage, fabric: Fabric) -> None:
        self.config, self.stage, self.fabric = config, stage, fabric
        self.paths = RunPaths(config)
        self.train_set = training_set(config, stage)
        self.with_teacher = online_features(config, stage, fabric.device)
        self.batches_per_epoch = -(-len(self.train_set) // (config.batch_size * config.devices))
        self.steps_per_epoch = -(-self.batches_per_epoch // config.gradient_accumulation)
        self.learner = new_learner(config, stage, fabric.device)
        self.optimizer = adamw(self.learner, config.weight_decay, config.encoder_lr_scale)
        self.progress = Progress(epoch=stage.start_epoch)
        self.interrupted = False
        self.saved_at = time.monotonic()

    def run(self) -> None:
        key = self._load()
        freeze_parts(self.learner, self.stage.freeze, self.config.keeps_batchnorm)
        self.model, self.wrapped_optimizer = self.fabric.setup(self.learner, self.optimizer)
        self._on_signals()
        frozen = frozen_encoder(self.config, self.stage, self.learner.student, self.fabric)
        if frozen is not None:
            self.train_set.read_embedding = frozen.embeddings(self._end_if_asked)
        progress = self.progress
        log.info(
            "stage %s: epochs %d to %d, %d images, %d steps per epoch",
            self.stage.directory,
            progress.epoch,
            self.stage.end_epoch,
            len(self.train_set),
            self.steps_per_epoch,
        )
        while progress.epoch < self.stage.end_epoch:
            self._epoch(key)
            self._end_epoch()
            if self._stops_early():
                break
            self._maybe_save(key)
        self._finish()
        if frozen is not None:
            frozen.discard()

    def _end_if_asked(self) -> None:
        if self.interrupted:
            log.info("asked to end; the same command goes on from here")
            raise Interrupted

    def _load(self) -> str:
        """Load the resume state, or else the checkpoint of the stage before; returns the key."""
        previous = None
        if self.stage.index > 0:
            before = normalise(self.config)[self.stage.index - 1]
            previous = self.paths.checkpoint(before)
            if not previous.is_file():
                raise ConfigError(f"{previous}: missing; train stage {before.directory} first")
        key = state_key(self.config, self.stage, self.paths.index, previous)
        resume = self._resume_path
        if resume.is_file():
            content = checkpoint.load(resume)
            if content["key"] == key:
                self._restore(content)
                self.progress = Progress(**content["progress"])
                log.info("resuming at epoch %d, batch %d", self.progress.epoch, self.progress.batch)
                return key
            log.info("%s belongs to other settings or inputs; starting anew", resume)
        if previous is not None:
            content = checkpoint.load(previous)
            self._restore(content)
            self.progress.step = content["step"]
        return key

    @property
    def _resume_path(self) -> Path:
        return self.paths.state(self.stage) / "resume.pt"

    def _restore(self, content: dict[str, Any]) -> None:
        self.learner.load_state_dict(content["learner"])
        self.optimizer.load_state_dict(content["optimizer"])

    def _epoch(self, key: str) -> None:
        progress = self.progress
        accumulation = self.config.gradient_accumulation
        self.train_set.epoch = progress.epoch
        began, logged = time.monotonic(), time.monotonic()
        seconds_before = progress.seconds
        for batch in self._loader():
            group_size = min(
                accumulation,
                self.batches_per_epoch - progress.batch // accumulation * accumulation,
            )
            last_of_group = (progress.batch + 1) % accumulation == 0 or (
                progress.batch + 1 == self.batches_per_epoch
            )
            torch.manual_seed(progress.seed(self.config.seed, self.fabric.global_rank))
            with self.fabric.no_backward_sync(self.model, enabled=not last_of_group):
                losses = {name: loss.mean() for name, loss in self.model(batch).items()}
                loss = losses["loss"]
                self.fabric.backward(loss / group_size)
            if not math.isfinite(loss.item()):
                images = [self.train_set.record(int(i)).image_id for i in batch.position]
                raise NotFiniteError(loss.item(), progress, images)
            progress.add(losses, len(batch.image))
            if last_of_group:
                self._step()
            progress.batch += 1
            progress.seconds = seconds_before + time.monotonic() - began
            if time.monotonic() - logged > _LOG_SECONDS:
                logged = time.monotonic()
                self._log_step(loss.item())
            # A group of accumulated batches is not interrupted: its gradients are not saved.
            if last_of_group and progress.batch < self.batches_per_epoch:
                self._maybe_save(key)

    def _loader(self) -> Iterator[Sample]:
        batches = epoch_batches(
            len(self.train_set),
            self.config.batch_size,
            self.fabric.world_size,
            self.config.seed,
            self.progress.epoch,
        )[self.progress.batch :]
        rank = self.fabric.global_rank
        loader = DataLoader(
            self.train_set,
            batch_sampler=[batch[rank :: self.fabric.world_size].tolist() for batch in batches],
            num_workers=self.config.num_workers,
            collate_fn=collate,
        )
        return (self.with_teacher(batch.to(self.fabric.device)) for batch in loader)

    def _step(self) -> None:
        config, progress = self.config, self.progress
        if config.lr_scheduler_span == "run":
            step, steps = progress.step, config.num_epochs * self.steps_per_epoch
        else:
            done = (progress.epoch - self.stage.start_epoch) * self.steps_per_epoch
            step = done + progress.batch // config.gradient_accumulation
            steps = (self.stage.end_epoch - self.stage.start_epoch) * self.steps_per_epoch
        factor = lr_factor(step, steps, config.warmup_steps, config.lr_scheduler)
        self.learning_rate = self.stage.learning_rate * factor
        set_learning_rate(self.optimizer, self.learning_rate)
        clip_gradients(self.learner.parameters(), config.gradient_clip)
        self.wrapped_optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1

    def _log_step(self, loss: float) -> None:
        progress = self.progress
        done = (progress.epoch - self.stage.start_epoch) * self.batches_per_epoch + progress.batch
        total = (self.stage.end_epoch - self.stage.start_epoch) * self.batches_per_epoch
        spent = progress.seconds + sum(row["seconds"] for row in progress.rows)
        log.info(
            "epoch %d/%d  step %d/%d  loss %.4f  %.1f img/s  %s left",
            progress.epoch + 1,
            self.stage.end_epoch,
            progress.batch,
            self.batches_per_epoch,
            loss,
            progress.sums["images"] * self.fabric.world_size / progress.seconds,
            minutes(spent / done * (total - done)),
        )

    def _end_epoch(self) -> None:
        progress = self.progress
        images = progress.sums.pop("images")
        row = {
            "epoch": progress.epoch,
            "step": progress.step,
            **{name: value / images for name, value in progress.sums.items()},
            **self._validate(),
            "learning_rate": self.learning_rate,
            "images_per_s": images * self.fabric.world_size / progress.seconds,
            "seconds": progress.seconds,
        }
        progress.end_epoch(row)
        seen = "  ".join(
            f"{k} {v:.3f}"
            for k, v in row.items()
            if k.endswith(("loss", "iou")) or k.startswith("val_")
        )
        log.info("epoch %d done in %.0f s  %s", row["epoch"] + 1, row["seconds"], seen)

    def _validate(self) -> dict[str, float]:
        if self.config.val_images == 0:
            return {}
        dataset = ValidationSet(
            Index(self.paths.index, "val"),
            self.config.img_size,
            self.config.objects_per_image,
            self.config.val_images,
            self.train_set.read_embedding,
        )
        self.learner.eval()
        found = validation_iou(self.learner.student, dataset, self.fabric.device)
        freeze_parts(self.learner, self.stage.freeze, self.config.keeps_batchnorm)
        return {f"val_{kind}_iou": iou for kind, iou in found.items()}

    def _stops_early(self) -> bool:
        patience, row = self.config.early_stopping, self.progress.rows[-1]
        if patience is None:
            return False
        iou = float(np.mean([row[f"val_{kind}_iou"] for kind in VALIDATION_PROMPTS]))
        stops = self.progress.stops_early(iou, patience)
        if stops:
            log.info("no gain in %d epochs; the stage ends here", patience)
        return stops

    def _on_signals(self) -> None:
        def remember(number: int, frame: FrameType | None) -> None:
            self.interrupted = True

        for number in _SAVE_AND_END:
            signal.signal(number, remember)

    def _maybe_save(self, key: str) -> None:
        due = time.monotonic() - self.saved_at >= 60 * self.config.save_every_minutes
        if not (due or self.interrupted):
            return
        if self.fabric.is_global_zero:
            content = {"key": key, "progress": asdict(self.progress)}
            checkpoint.save(self._resume_path, self._content() | content)
        self.saved_at = time.monotonic()
        self._end_if_asked()

    def _content(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.progress.step,
            "epoch": self.progress.epoch,
            "settings": canonical(self.config, self.stage),
            "model_type": self.config.model_type,
            "provenance": checkpoint.provenance(),
        }

    def _finish(self) -> None:
        self.fabric.barrier()
        if not self.fabric.is_global_zero:
            return
        metrics = self.paths.metrics(self.stage)
        metrics.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(self.progress.rows).to_csv(metrics, index=False)
        checkpoint.save(self.paths.checkpoint(self.stage), self._content())
        self._resume_path.unlink(missing_ok=True)
        log.info(
            "stage %s is finished: %s", self.stage.directory, self.paths.checkpoint(self.stage)
        )
