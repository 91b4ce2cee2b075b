"""Memory estimate of a training step with fake tensors, without computation or a device."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mobile_sam.config.architectures import feature_channels
from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import level_name, teacher_level
from mobile_sam.config.stage import Stage
from mobile_sam.config.teachers import teacher_configs
from mobile_sam.data.sampling.dataset import Sample, collate
from mobile_sam.data.sampling.prompts import VALIDATION_PROMPTS, num_points
from mobile_sam.models.prompt_encoder import ABSENT, FOREGROUND, PADDING
from mobile_sam.training.activation_checkpointing import recompute_encoder
from mobile_sam.training.embedding_cache import caches_embeddings
from mobile_sam.training.epoch_validation import image_iou
from mobile_sam.training.memory_meter import MemoryMeter
from mobile_sam.training.optim import freeze_parts
from mobile_sam.training.precision import resolve_precision
from mobile_sam.training.setup import new_training_module
from mobile_sam.training.teacher import online_features

_CPU = torch.device("cpu")
_MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class StageMemory:
    """Memory of a stage on one device, with its model, gradients and optimiser.

    device: `cuda` or `cpu`, whose precision differs.
    """

    def __init__(self, config: RunConfig, stage: Stage, device: str) -> None:
        self.fakes, self.meter, self.device = FakeTensorMode(), MemoryMeter(), device
        with self.fakes, self.meter, ZeroRates():
            self.training = StageStep(without_weights(config), stage)
            # AdamW has two; several devices need another one to exchange gradients.
            copies = 2 if config.devices * config.num_nodes == 1 else 3
            parameters = self.training.parameters
            self.state = [torch.zeros_like(p) for p in parameters for _ in range(copies)]

    def peak(self, images: int) -> int:
        """Return the peak bytes of tensors in a step with this number of images and in validation.

        This is the peak of the most expensive prompts: each single point gets three masks.
        """
        self.meter.peak = self.meter.bytes
        with self.fakes, self.meter:
            self.training.step(images, self.device)
            if self.device == "cuda":  # there AdamW updates all parameters at once
                updates = [torch.zeros_like(p) for p in self.training.parameters]
                del updates
            self.training.module.zero_grad(set_to_none=True)
            self.training.validate()
        return self.meter.peak


class StageStep:
    """Training step of a stage on a batch without values."""

    def __init__(self, config: RunConfig, stage: Stage) -> None:
        self.config, self.stage = config, stage
        with default_dtype(torch.float64 if config.precision == "64-true" else torch.float32):
            self.module = new_training_module(config, stage, _CPU)
        if config.recompute_encoder:
            recompute_encoder(self.module.student.image_encoder)
        freeze_parts(self.module, stage.freeze, freeze_batchnorm=False)
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        state = self.module.student.state_dict() if config.ema_decay else {}
        self.average = [torch.zeros_like(tensor) for tensor in state.values()]
        self.with_teacher = online_features(config, stage, _CPU)

    def step(self, images: int, device: str) -> None:
        """Run forward and backward in the precision of `device`."""
        batch = self.with_teacher(blank_batch(self.config, self.stage, images))
        with float32_as_on(device):
            with autocast_as_on(self.config.precision, device):
                loss = self.module(batch)["loss"]
            loss.sum().backward()

    def validate(self) -> None:
        """Measure one image, as after an epoch."""
        if self.config.val_images == 0:
            return
        image = validation_image(self.config, self.stage)
        student = self.module.student.eval()
        with torch.no_grad():
            image_iou(student, image, _CPU, self.config.decoder_chunk_size)
        freeze_parts(self.module, self.stage.freeze, freeze_batchnorm=False)


def without_weights(config: RunConfig) -> RunConfig:
    """Return the run with random weights, because memory does not depend on their values."""
    changes: dict[str, Any] = {"checkpoint": None, "decoder_from_teacher": False}
    if config.teacher_checkpoint is not None:
        extra = [t.model_copy(update={"checkpoint": "random"}) for t in config.extra_teachers]
        changes |= {"teacher_checkpoint": "random", "extra_teachers": tuple(extra)}
    return config.model_copy(update=changes)


def blank_batch(config: RunConfig, stage: Stage, images: int) -> Sample:
    """Return a batch of a stage with black images and single points as prompts."""
    side, cells = config.img_size, config.img_size // 16
    prompts = config.objects_per_image if stage.prompted else 1
    labels = [FOREGROUND, PADDING, *[ABSENT] * (num_points(stage.prompts) - 2)]
    cached = caches_embeddings(config, stage)
    neck = feature_channels(config.model_type, "neck"), cells, cells
    with_masks = stage.prompts.mask > 0
    sample = Sample(
        position=torch.tensor(0),
        image=torch.zeros(0 if cached else (3, side, side), dtype=torch.uint8),
        size=torch.tensor([side, side]),
        valid=torch.ones(side, side, dtype=torch.bool),
        masks=torch.zeros(prompts, side, side, dtype=torch.bool),
        points=torch.zeros(prompts, len(labels), 2),
        labels=torch.tensor(labels).repeat(prompts, 1),
        teacher=_blank_features(config, stage),
        embedding=torch.zeros(neck, dtype=torch.float16) if cached else torch.zeros(0),
        mask_prompts=torch.zeros((prompts, 1, side // 4, side // 4) if with_masks else 0),
        has_mask=torch.zeros(prompts, dtype=torch.bool) if with_masks else torch.zeros(0),
        seed=torch.tensor(0),
        labelled=torch.tensor(True),
        per_labelled=torch.tensor(1.0),
    )
    return collate([sample] * images)


def validation_image(config: RunConfig, stage: Stage) -> Sample:
    """Return a black image for validation after an epoch, with a box and a point of each object."""
    image = blank_batch(config, stage, 1)
    kinds = len(VALIDATION_PROMPTS)
    return image._replace(
        points=image.points[:, :, :2].repeat(1, kinds, 1, 1),
        labels=image.labels[:, :, :2].repeat(1, kinds, 1),
        mask_prompts=torch.zeros(1, 0),
        has_mask=torch.zeros(1, 0),
    )


def _blank_features(config: RunConfig, stage: Stage) -> dict[str, Tensor]:
    if not stage.distillation or config.teacher_features == "online":
        return {}
    cells = config.img_size // 16
    return {
        teacher_level(number, level_name(level)): torch.zeros(
            (feature_channels(teacher.teacher_model_type or "", level), cells, cells),
            dtype=torch.float16,
        )
        for number, teacher in enumerate(teacher_configs(config))
        for level in teacher.distill_levels
    }


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set the default data type of new tensors."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class ZeroRates(TorchDispatchMode):
    """Mode that gives 0 if a model under construction reads a number, such as a dropout rate."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return 0 for a read number, or run the operation."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0
        return func(*args, **(kwargs or {}))


def autocast_as_on(precision: str, device: str) -> AbstractContextManager[object]:
    """Return the autocast of CPU tensors to the 16-bit format of `device`, if it has one.

    If `precision` is `auto` and there is no GPU, bfloat16 is assumed.
    """
    known = device == "cpu" or torch.cuda.is_available() or precision != "auto"
    dtype = _MIXED.get(resolve_precision(precision, device) if known else "bf16-mixed")
    if dtype is None:
        return nullcontext()
    return torch.autocast("cpu", dtype)


@contextmanager
def float32_as_on(device: str) -> Iterator[None]:
    """Make autocast on the CPU use float32 for the operations that use it on a GPU."""
    if device != "cuda":
        yield
        return
    # In the dispatcher, so that it also applies when a backward pass computes activations again.
    with torch.library._scoped_library("aten", "IMPL") as library:
        for name, operation in _FLOAT32_ON_CUDA.items():
            library.impl(name, _in_float32(operation), "AutocastCPU")
        yield


def _in_float32(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*args: Any, **kwargs: Any) -> Tensor:
        args = tree_map_only(Tensor, lambda x: x.float() if x.is_floating_point() else x, args)
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            return operation(*args, **kwargs)

    return run


_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
_FLOAT32_ON_CUDA: dict[str, Callable[..., Tensor]] = {
    "layer_norm": torch.ops.aten.layer_norm.default,
    "softmax.int": torch.ops.aten.softmax.int,
    "softplus": torch.ops.aten.softplus.default,
}
