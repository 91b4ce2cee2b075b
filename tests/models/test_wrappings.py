"""Weights as other trainers wrap them load; anything else is refused with what it holds."""

import argparse
import gzip
import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mobile_sam.config.run import RunConfig
from mobile_sam.evaluation.cost import read_model_spec
from mobile_sam.models import wrappings
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.detect_architecture import load_any
from mobile_sam.models.safe_load import load_file, load_state_file
from mobile_sam.models.sam import Sam
from mobile_sam.models.student_teacher import load_teacher, start_student
from mobile_sam.models.weights import to_original
from mobile_sam.system.errors import ConfigError
from mobile_sam.training import checkpoint
from tests.helpers.equality import equal_states

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> Sam:
    return build_sam_model("tiny_sam", 64, seed=4)


@pytest.fixture(scope="module")
def state(model: Sam) -> State:
    return to_original(model)


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def compiled_encoder(state: State) -> State:
    return {
        key.replace("image_encoder.", "image_encoder._orig_mod."): value
        for key, value in state.items()
    }


# What is saved, and what the log says was done.
WRAPPED: dict[str, tuple[Callable[[State], Any], str]] = {
    "MedSAM": (
        lambda s: {"model": s, "optimizer": {"state": {}}, "epoch": 7},
        "unwrapped 'model' (left out optimizer, epoch)",
    ),
    "Lightning": (
        lambda s: {"state_dict": under("model.", s), "pytorch-lightning_version": "2.2"},
        "unwrapped 'state_dict' (left out pytorch-lightning_version), removed the prefix 'model.'",
    ),
    "micro-sam": (
        lambda s: {"model_state": under("sam.", s), "decoder_state": {"a": torch.zeros(1)}},
        "unwrapped 'model_state' (left out decoder_state), removed the prefix 'sam.'",
    ),
    "micro-sam on several GPUs": (
        lambda s: {"model_state": under("module.sam.", s)},
        "unwrapped 'model_state', removed the prefix 'module.sam.'",
    ),
    "a tutorial": (lambda s: {"model_state_dict": s}, "unwrapped 'model_state_dict'"),
    "wrapped twice": (
        lambda s: {"state_dict": {"model": s}},
        "unwrapped 'state_dict', unwrapped 'model'",
    ),
    "DistributedDataParallel": (lambda s: under("module.", s), "removed the prefix 'module.'"),
    "torch.compile": (lambda s: under("_orig_mod.", s), "removed the prefix '_orig_mod.'"),
    "both": (
        lambda s: under("module._orig_mod.", s),
        "removed the prefix 'module._orig_mod.'",
    ),
    "a compiled encoder": (compiled_encoder, "removed '_orig_mod.' or 'module.' inside of names"),
    "a moving average": (
        lambda s: under("module.", s) | {"n_averaged": torch.tensor(3)},
        "left out 'n_averaged', removed the prefix 'module.'",
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_weights_load_out_of_their_wrapping_and_the_log_says_so(
    name: str, model: Sam, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrap, done = WRAPPED[name]
    path = tmp_path / "x.pt"
    torch.save(wrap(state), path)
    with caplog.at_level("INFO"):
        found = load_any(path, 64)
    assert equal_states(found.state_dict(), model.state_dict())
    assert [record.getMessage() for record in caplog.records] == [f"{path}: {done}"]


FORMS: dict[str, Callable[[State, Path], None]] = {
    "zip": torch.save,
    "legacy": lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False),
    "safetensors": lambda s, p: save_file({k: v.contiguous() for k, v in s.items()}, p),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_file_is_read_off_its_content(
    form: str, suffix: str, model: Sam, state: State, tmp_path: Path
) -> None:
    path = tmp_path / f"x{suffix}"
    FORMS[form](state, path)
    assert equal_states(load_any(path, 64).state_dict(), model.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("form", ["zip", "safetensors"])
def test_weights_of_any_precision_load_as_float32(
    form: str, dtype: torch.dtype, state: State, tmp_path: Path
) -> None:
    other = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    FORMS[form](other, tmp_path / "x.pt")
    found = load_any(tmp_path / "x.pt", 64)
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    name = "mask_decoder.iou_token.weight"
    assert torch.equal(found.state_dict()[name], other[name].float())


@pytest.mark.parametrize("name", ["vit_b", "vit_t"])
def test_weights_of_medsam_and_tinysam_load(name: str, tmp_path: Path) -> None:
    """MedSAM is SAM ViT-B; TinySAM is MobileSAM's architecture, saved with caches of its biases."""
    model = build_sam_model(name, 1024, seed=2)
    state = to_original(model)
    if name == "vit_t":
        attention = "image_encoder.layers.1.blocks.0.attn."
        state |= {f"{attention}ab": torch.zeros(4, 49, 49)}
        state |= {f"{attention}attention_bias_idxs": torch.zeros(49, 49, dtype=torch.int64)}
    torch.save({"model": state, "epoch": 1}, tmp_path / "x.pth")
    assert equal_states(load_any(tmp_path / "x.pth", 1024).state_dict(), model.state_dict())


def test_every_reader_unwraps(
    tiny: Callable[..., RunConfig], model: Sam, state: State, tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    torch.save({"model_state": under("sam.", state)}, path)
    student = start_student(tiny(checkpoint=str(path)))
    teacher = load_teacher(tiny(teacher_checkpoint=str(path), teacher_model_type="tiny_sam"))
    for found in (student, teacher, load_any(path, 64)):
        assert equal_states(found.state_dict(), model.state_dict())
    assert read_model_spec(path, 64).model_type == "tiny_sam"


def zipped(names: list[str]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return target.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 40728226\n"
# Bytes of a file, and the sentence about it.
NO_WEIGHTS: dict[str, tuple[bytes, str]] = {
    "Git LFS": (LFS, r"is a Git LFS pointer, not the weights: run `git lfs pull`"),
    "web page": (
        b"\n<!DOCTYPE html><html><title>Virus scan</title></html>",
        "is a web page, which",
    ),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
    "page with a mark": (b"\xef\xbb\xbf<html></html>", "is a web page, which a download saved"),
    "empty": (b"", "is empty; copy or download it again"),
    "text": (
        b'{"error": "not found"}',
        r"is a text file, not weights; it begins with '\{\"error\"",
    ),
    "escape codes": (b"\x1b[31mred\x1b[0m", "not a file of torch.save, or a damaged one"),
    "gzip": (gzip.compress(b"x"), "is a gzip archive; unpack it"),
    "zip": (
        zipped(["sam/weights.pt"]),
        r"a ZIP archive that torch.save did not write .*weights\.pt",
    ),
    "TorchScript": (zipped(["m/constants.pkl", "m/data.pkl"]), "is a TorchScript program"),
    "random bytes": (bytes(range(128, 256)) * 9, "not a file of torch.save, or a damaged one"),
    "zeros": (bytes(999), "not a file of torch.save, or a damaged one"),
    "cut zip": (b"PK\x03\x04" + bytes(99), r"damaged one \(its end is missing\); copy or download"),
}


def refused(path: Path, model_type: str | None = None, length: int = 1000) -> str:
    """The message about a file, after its name; it is printable and advises nothing harmful."""
    with pytest.raises(ConfigError) as caught:
        load_any(path, 64, model_type)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert "weights_only" not in message
    assert "delete" not in message
    assert len(message) < length
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", NO_WEIGHTS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_of_another_kind_are_recognised(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    content, sentence = NO_WEIGHTS[name]
    path.write_bytes(content)
    said = refused(path)
    if suffix == ".safetensors":
        sentence = sentence.replace("file of torch.save", "file of (torch.save|safetensors)")
    assert re.search(sentence, said), said


def test_files_that_are_cut_off_are_named(state: State, tmp_path: Path) -> None:
    for form, save in FORMS.items():
        path = tmp_path / form
        save(state, path)
        path.write_bytes(path.read_bytes()[:20000])
        said = refused(path)
        kind = "safetensors" if form == "safetensors" else r"torch\.save"
        assert re.match(rf"not a file of {kind}, or a damaged one \(.+\); copy or download", said)


def test_a_directory_names_the_file_to_give(tmp_path: Path) -> None:
    assert refused(tmp_path).startswith("is a directory; it holds no file of weights (*.pt, ")
    for name in ("a.pth", "pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(b"x")
        assert refused(tmp_path).endswith(
            f"give a file of weights in it, such as {tmp_path / name}"
        )
    with pytest.raises(ConfigError, match="is a directory; a file is needed"):
        load_file(tmp_path)


class Trainer:
    """Stands for an object of another program."""


OBJECTS: dict[str, tuple[Any, str]] = {
    "a whole model": (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    "settings": ({"model": {}, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
    "a number of NumPy": (
        {"model_state": {}, "loss": np.float64(1)},
        r"numpy.\w+.multiarray.scalar",
    ),
    "a class of its own": ({"trainer": Trainer()}, r"tests.models.test_wrappings.Trainer"),
}


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_objects_besides_tensors_are_named_with_a_way_out(
    name: str, form: str, tmp_path: Path
) -> None:
    content, class_name = OBJECTS[name]
    FORMS[form](content, tmp_path / "x.pt")
    said = refused(tmp_path / "x.pt")
    assert re.match(rf"refused, because it holds Python objects .*\({class_name}\)", said)
    assert "by torch.save(x, 'weights.pt'), where x is model.state_dict()" in said


def test_a_pickle_without_torch_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": Trainer()}))
    assert re.match(r"refused|not a file of torch\.save", refused(tmp_path / "x.pkl"))


def holding_itself() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


# Contents that need a state dict, and what is said of them.
CONTENTS: dict[str, tuple[Callable[[State], Any], str]] = {
    "list": (lambda s: list(s.values()), "not a weights file; it holds a list"),
    "empty": (lambda s: {}, "not a weights file; it holds an empty dict"),
    "an optimizer": (
        lambda s: {"optimizer": {"state": {}}, "epoch": 3},
        r"a dict of 2 entries, 0 of them tensors: optimizer \(dict with 0 tensors\), epoch \(int\)",
    ),
    "more than tensors": (
        lambda s: s | {"epoch": 3},
        r"a dict of \d+ entries, \d+ of them tensors: .*, and \d+ more",
    ),
    "numbers as names": (lambda s: dict(enumerate(s.values())), "not a weights file; it holds a d"),
    "two models": (
        lambda s: {"model": s, "state_dict": s},
        "there are weights under 'model' and 'state_dict'; save the ones to use",
    ),
    "itself": (lambda s: holding_itself(), "not a weights file; it holds a dict of 1 entries"),
    "another model": (
        lambda s: nn.Linear(2, 2).state_dict(),
        r"not the weights of a SAM; none of its 2 tensors \(weight, bias\) belongs to image_en",
    ),
    "escape codes": (lambda s: {"\x1b[31mred": torch.zeros(1)}, r"\(\\x1b\[31mred\) belongs"),
    "a decoder": (
        lambda s: {k: v for k, v in s.items() if k.startswith("mask_decoder")},
        r"incomplete weights of a SAM; the file holds (\d+) tensors: \1 of mask_decoder, but none "
        "of image_encoder, prompt_encoder",
    ),
    "names of half": (
        lambda s: {k.replace("image_encoder.", "vision_encoder."): v for k, v in s.items()},
        r"incomplete weights of a SAM; .* others \(vision_encoder\..* none of image_encoder;",
    ),
    "another head": (
        lambda s: {k: v for k, v in s.items() if "iou_prediction_head" not in k},
        r"incomplete weights of a SAM; .* none of mask_decoder\.iou_prediction_head\.layers",
    ),
    "a loss beside": (
        lambda s: {"state_dict": under("model.", s) | {"loss.weight": torch.ones(3)}},
        r"differ in their prefix: \d+ begin with 'model\.', 1 belong to no part of a SAM "
        r"\(loss\.weight\)\. Save those of one model only: torch\.save\(\{k\.removeprefix\('model",
    ),
    "teacher and student": (
        lambda s: under("student.", s) | under("teacher.", s),
        r"differ in their prefix: \d+ begin with 'student\.', \d+ begin with 'teacher\.'",
    ),
    "half of a prefix": (
        lambda s: s | under("module.", {"mask_decoder.iou_token.weight": torch.zeros(1, 32)}),
        r"differ in their prefix: \d+ have no prefix, 1 begin with 'module\.'",
    ),
    "quantised": (
        lambda s: s | {"mask_decoder.iou_token.weight": torch.zeros(1, 32, dtype=torch.int8)},
        r"mask_decoder\.iou_token\.weight holds int8; give floating-point weights",
    ),
    "complex": (
        lambda s: s | {"mask_decoder.iou_token.weight": torch.zeros(1, 32, dtype=torch.cfloat)},
        r"mask_decoder\.iou_token\.weight holds complex64",
    ),
    "no values": (
        lambda s: s | {"mask_decoder.iou_token.weight": torch.zeros(1, 32, device="meta")},
        r"mask_decoder\.iou_token\.weight has a shape and no values",
    ),
    "sparse": (
        lambda s: s | {"mask_decoder.iou_token.weight": torch.eye(32).to_sparse()},
        r"mask_decoder\.iou_token\.weight is not a dense tensor \(torch\.sparse_coo\)",
    ),
    "an adapter": (
        lambda s: s | {"image_encoder.layers.0.lora_a": torch.zeros(1)},
        r"match no architecture .* nearest architecture is 'tiny_sam', where 1 tensors differ "
        r"\(image_encoder\.layers\.0\.lora_a\)",
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_anything_else_is_refused_with_what_it_holds(
    name: str, state: State, tmp_path: Path
) -> None:
    make, sentence = CONTENTS[name]
    torch.save(make(state), tmp_path / "x.pt")
    said = refused(tmp_path / "x.pt")
    assert re.search(sentence, said), said


def test_a_missing_part_is_one_entry_of_what_does_not_fit(
    tiny: Callable[..., RunConfig], state: State, tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    torch.save({k: v for k, v in state.items() if not k.startswith("image_")}, path)
    with pytest.raises(ConfigError, match=r"missing: all \d+ tensors of image_encoder$"):
        start_student(tiny(checkpoint=str(path)))


def test_weights_of_another_architecture_are_refused_in_a_message_that_can_be_read(
    tmp_path: Path,
) -> None:
    torch.save(to_original(build_sam_model("vit_t", 64)), tmp_path / "x.pt")
    said = refused(tmp_path / "x.pt", model_type="tiny_teacher_vit", length=6000)
    assert re.match(
        r"the weights do not fit the model; missing: .*, and \d+ more; unexpected: .*, and "
        r"\d+ more; wrong shape: .* is \(256, 320, 1, 1\) instead of \(32, 48, 1, 1\)",
        said,
    ), said


def test_a_checkpoint_of_this_package_names_the_weights_of_its_run(tmp_path: Path) -> None:
    assert checkpoint.FORMAT.startswith(wrappings.OWN_CHECKPOINT)
    path = tmp_path / "stages" / "00_finetune" / "checkpoint.pt"
    checkpoint.save(path, {"learner": {"student.a": torch.zeros(1)}})
    said = refused(path)
    assert "it is a checkpoint of a stage of this package. Give the weights.pt of the run" in said
    (tmp_path / "weights.pt").write_bytes(b"x")
    assert refused(path).endswith(f"Give {tmp_path / 'weights.pt'}")


def test_plain_weights_log_nothing(
    state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(state, tmp_path / "x.pt")
    with caplog.at_level("INFO"):
        found = load_state_file(tmp_path / "x.pt")
    assert equal_states(found, state)
    assert not caplog.records


def test_a_moving_average_of_torch_loads(model: Sam, tmp_path: Path) -> None:
    """Saved with our own names of the mask decoder and prompt encoder, which are the original's."""
    average = AveragedModel(nn.ModuleDict(dict(model.named_children()))).state_dict()
    torch.save(average, tmp_path / "x.pt")
    found = load_state_file(tmp_path / "x.pt")
    assert equal_states(found, model.state_dict())
