"""What `SamPredictor` offers beyond the original, and what it refuses."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from mobile_sam.inference.predictor import Prediction, SamPredictor
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam

BOX = np.array([10, 10, 70, 60])
SIZES = ((90, 120), (64, 64), (150, 50))


@pytest.fixture(scope="module")
def model() -> Sam:
    return build_sam_model("tiny_sam", 64, seed=3).eval()


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def logits(predictor: SamPredictor, **options: Any) -> np.ndarray:
    return predictor.predict(box=BOX, return_logits=True, **options).masks


def test_images_of_one_pass_are_prompted_as_one_by_one(
    model: Sam, images: list[np.ndarray]
) -> None:
    batches = []
    hook = model.image_encoder.register_forward_hook(lambda *a: batches.append(len(a[2])))
    together, alone = SamPredictor(model), SamPredictor(model)
    together.set_images(images)
    for number, (image, size) in enumerate(zip(images, SIZES, strict=True)):
        alone.set_image(image)
        assert number == 0 or not np.allclose(logits(together)[0, 0, 0], logits(alone)[0, 0, 0])
        together.select_image(number)
        assert together.original_size == size
        assert together.get_image_embedding().shape == (1, 32, 4, 4)
        assert logits(together).shape == (3, *size)
        np.testing.assert_allclose(logits(together), logits(alone), atol=1e-5)
    hook.remove()
    assert batches == [3, 1, 1, 1]


def test_answers_have_names_and_unpack(model: Sam, images: list[np.ndarray]) -> None:
    predictor = SamPredictor(model)
    predictor.set_image(images[0])
    found = predictor.predict(box=BOX)
    assert isinstance(found, Prediction)
    masks, scores, low_res_logits = found
    assert masks is found.masks
    assert scores is found.predicted_iou
    assert low_res_logits is found.low_res_logits
    assert (masks.shape, scores.shape, low_res_logits.shape) == ((3, 90, 120), (3,), (3, 16, 16))


def test_a_resized_image_is_that_of_its_pixels(model: Sam, images: list[np.ndarray]) -> None:
    whole, resized = SamPredictor(model), SamPredictor(model)
    whole.set_image(images[0])
    pixels = torch.from_numpy(resized.transform.apply_image(images[0]))
    resized.set_torch_image(pixels.permute(2, 0, 1)[None], images[0].shape[:2])
    assert (resized.original_size, resized.input_size) == ((90, 120), (48, 64))
    assert np.array_equal(logits(whole), logits(resized))


def test_colours_of_the_other_order_are_turned(model: Sam, images: list[np.ndarray]) -> None:
    first, second = SamPredictor(model), SamPredictor(model)
    first.set_image(images[0])
    second.set_image(images[0][..., ::-1], image_format="BGR")
    assert np.array_equal(logits(first), logits(second))
    second.set_image(images[0], image_format="BGR")
    assert not np.allclose(logits(first), logits(second))


def test_a_stored_embedding_can_be_put_back(model: Sam, images: list[np.ndarray]) -> None:
    """As code for the original does it, by its attributes."""
    first, second = SamPredictor(model), SamPredictor(model)
    first.set_image(images[2])
    for name in ("features", "original_size", "input_size", "is_image_set"):
        setattr(second, name, getattr(first, name))
    assert np.array_equal(logits(first), logits(second))


def test_the_threshold_is_the_models_or_ones_own(model: Sam, images: list[np.ndarray]) -> None:
    plain, own = SamPredictor(model), SamPredictor(model, 0.05)
    for predictor in (plain, own):
        predictor.set_image(images[0])
    try:
        for threshold in (0.0, -0.1):
            model.mask_threshold = threshold
            assert np.array_equal(plain.predict(box=BOX).masks, logits(plain) > threshold)
            assert np.array_equal(own.predict(box=BOX).masks, logits(own) > 0.05)
    finally:
        del model.mask_threshold
    shares = [(logits(plain) > threshold).mean() for threshold in (-0.1, 0.0, 0.05)]
    assert shares[0] > shares[1] > shares[2]


def test_a_model_of_half_precision_answers_nearly_the_same(images: list[np.ndarray]) -> None:
    whole = build_sam_model("tiny_sam", 64, seed=3).eval()
    first, second = SamPredictor(whole), SamPredictor(copy.deepcopy(whole).half())
    for predictor in (first, second):
        predictor.set_image(images[0])
    assert second.get_image_embedding().dtype == torch.float16
    assert logits(second).dtype == np.float16
    np.testing.assert_allclose(logits(second), logits(first), atol=0.02)
    assert np.abs(logits(first)).max() > 0.1


@pytest.mark.parametrize(
    ("dtype", "given"), [(torch.float16, np.float16), (torch.bfloat16, np.float32)]
)
def test_models_of_16_bits_take_all_prompts(
    images: list[np.ndarray], dtype: torch.dtype, given: type
) -> None:
    """numpy has no bfloat16: its results are float32."""
    whole = build_sam_model("tiny_sam", 64, seed=3).eval()
    first, second = SamPredictor(whole), SamPredictor(copy.deepcopy(whole).to(dtype))
    prompt = {"point_coords": np.array([[30, 40]]), "point_labels": np.array([1]), "box": BOX}
    mask = np.random.default_rng(0).normal(0, 4, (1, 16, 16)).astype(np.float32)
    found = []
    for predictor in (first, second):
        predictor.set_image(images[0])
        found.append(predictor.predict(**prompt, mask_input=mask, return_logits=True))
    assert [array.dtype for array in found[1]] == [given] * 3
    for ours, exact in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(ours, exact, atol=0.1)
    again = second.predict(mask_input=found[1].low_res_logits[:1], multimask_output=False)
    assert again.masks.dtype == bool
    second.set_image_embedding(first.get_image_embedding(), SIZES[0])  # of 32 bits
    assert second.predict(box=BOX).masks.shape == (3, *SIZES[0])
    pixels = torch.from_numpy(first.transform.apply_image(images[0])).permute(2, 0, 1).float()
    second.set_torch_image(pixels[None], SIZES[0])
    answer = second.model(
        [{"image": pixels, "original_size": SIZES[0], "mask_inputs": torch.from_numpy(mask)[None]}],
        multimask_output=False,
    )
    assert answer[0]["masks"].shape == (1, 1, *SIZES[0])


@pytest.mark.filterwarnings("ignore:.*autocast:UserWarning")
def test_results_under_autocast_are_arrays(model: Sam, images: list[np.ndarray]) -> None:
    predictor = SamPredictor(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictor.set_image(images[0])
        found = predictor.predict(box=BOX, return_logits=True)
    predictor.set_image(images[0])
    np.testing.assert_allclose(found.masks, logits(predictor), atol=0.1)


def test_without_an_image_nothing_is_predicted(model: Sam, images: list[np.ndarray]) -> None:
    predictor = SamPredictor(model)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no image is set"):
            predictor.predict(box=BOX)
        with pytest.raises(ValueError, match="0 images are set"):
            predictor.select_image(0)
        predictor.set_images(images)
        predictor.reset_image()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, i: p.set_image(i[..., 0]), r"image: uint8 of shape \(90, 120\)"),
        (lambda p, i: p.set_images([i, i / 2]), r"image: float64 of shape \(90, 120, 3\)"),
        (lambda p, i: p.set_images([]), "images: empty"),
        (lambda p, i: p.set_image(i, "GRAY"), "image_format: 'GRAY'"),
        (lambda p, i: p.select_image(1), "number: 1, but 1 images are set"),
        (lambda p, i: p.predict(box=np.zeros((2, 4))), r"box: of shape \(2, 4\)"),
        (lambda p, i: p.predict(point_labels=np.array([1])), "go together"),
        (
            lambda p, i: p.predict(point_coords=np.array([[1, 2]]), point_labels=np.array([5])),
            "labels: 5 is not valid",
        ),
        (
            lambda p, i: p.predict(point_coords=np.array([[1, 2]]), point_labels=np.array([1, 0])),
            r"labels: of shape \(1, 2\)",
        ),
        (lambda p, i: p.set_torch_image(torch.zeros(2, 3, 48, 64), (90, 120)), "set_images"),
        (lambda p, i: p.set_torch_image(torch.zeros(1, 3, 90, 120), (90, 120)), "64 pixels"),
    ],
)
def test_what_cannot_be_meant_is_an_error_and_keeps_the_image(
    model: Sam, images: list[np.ndarray], call: Any, message: str
) -> None:
    predictor = SamPredictor(model)
    predictor.set_image(images[0])
    before = logits(predictor)
    with pytest.raises(ValueError, match=message):
        call(predictor, images[0])
    assert np.array_equal(logits(predictor), before)


def test_an_image_larger_than_the_model_frame_is_an_error(model: Sam) -> None:
    with pytest.raises(ValueError, match="image: 48 x 65 pixels; resize its longest side to 64"):
        model([{"image": torch.zeros(3, 48, 65), "original_size": (48, 65)}], False)
