"""Answers are those of `SamPredictor`; a picture is encoded once by each model."""

import numpy as np
import pytest
import torch

from mobile_sam.app.images import AppImage, uploaded_image
from mobile_sam.app.models import Models
from mobile_sam.app.predictor_cache import PredictorCache
from mobile_sam.config.run import RunConfig
from mobile_sam.evaluation.from_run import load_checkpoint_model
from mobile_sam.inference.automatic_masks import automatic_masks
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.inference.prompt import Prompt
from mobile_sam.inference.proposals import AutomaticOptions

PROMPTS = [
    Prompt(None, ((20, 30), (50, 10)), (1, 0)),
    Prompt((10, 12, 40, 50)),
    Prompt((10, 12, 40, 50), ((20, 30),), (1,)),
]
EVERYTHING = AutomaticOptions(4, pred_iou_thresh=0.0, stability_score_thresh=0.0)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", ["01_finetune", "teacher"])
def test_an_answer_is_that_of_the_predictor(
    predictors: PredictorCache, image: AppImage, trained: RunConfig, name: str, prompt: Prompt
) -> None:
    predictor = SamPredictor(load_checkpoint_model(trained, name), trained.mask_threshold)
    predictor.set_image(image.pixels)
    for of_three in (False, True):
        found = predictor.predict(**prompt.arguments(), multimask_output=of_three)
        best = found.predicted_iou.argmax()
        answer = predictors.predict(name, image, prompt, of_three)
        assert np.array_equal(answer.mask, found.masks[best])
        assert 0 < answer.mask.sum() < answer.mask.size
        assert answer.predicted_iou == found.predicted_iou[best]
        assert min(answer.encoder_ms, answer.decoder_ms) > 0


def test_everything_is_that_of_automatic_masks(
    predictors: PredictorCache, image: AppImage, trained: RunConfig
) -> None:
    model = load_checkpoint_model(trained, "01_finetune")
    options = AutomaticOptions(
        4,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        mask_threshold=trained.mask_threshold,
    )
    with torch.no_grad():
        wanted = automatic_masks(model, image.pixels, options)
    found = predictors.automatic_masks("01_finetune", image, EVERYTHING)
    assert [mask.code for mask in found.masks] == [mask.code for mask in wanted]
    assert len(wanted) > 0


def count_passes(models: Models, name: str) -> list[int]:
    passes: list[int] = []
    models[name].model.image_encoder.register_forward_hook(lambda *_: passes.append(1))
    return passes


def test_a_picture_is_encoded_once_and_the_oldest_forgotten(
    trained: RunConfig, image: AppImage, models: Models
) -> None:
    other = AppImage("other", image.pixels[::-1].copy(), "other")
    predictors = PredictorCache(models, capacity=2)
    passes = count_passes(models, "start")
    for prompt in PROMPTS:
        predictors.predict("start", image, prompt)
        predictors.automatic_masks("start", image, EVERYTHING)
    spent = predictors.encode("start", image)
    assert len(passes) == 1
    assert predictors.predict("start", image, PROMPTS[0]).encoder_ms == spent
    predictors.encode("00_distill", image)
    predictors.encode("start", image)  # now the oldest is that of the other model
    predictors.encode("start", other)
    assert predictors.is_encoded("start", image)
    assert not predictors.is_encoded("00_distill", image)
    assert len(passes) == 2


def test_pictures_in_turn_keep_their_own_answers(
    predictors: PredictorCache, image: AppImage
) -> None:
    other = AppImage("other", image.pixels[::-1, :48].copy(), "other")
    first = predictors.predict("teacher", image, PROMPTS[0]).mask
    assert predictors.predict("teacher", other, PROMPTS[0]).mask.shape == (64, 48)
    assert np.array_equal(predictors.predict("teacher", image, PROMPTS[0]).mask, first)


def test_equal_pixels_have_one_key(image: AppImage, trained: RunConfig) -> None:
    assert image.record is not None
    again = uploaded_image(image.record.path, "a name.of mine.png")
    assert (again.key, again.name, again.record) == (image.key, "a name.of mine", None)
