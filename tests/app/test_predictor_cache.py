"""Answers are those of `SamPredictor`; a picture is encoded once by each model."""

import numpy as np
import pytest
import torch

from mobile_sam.app.asking import Asker
from mobile_sam.app.models import Models
from mobile_sam.app.pictures import Picture, opened
from mobile_sam.config import RunConfig
from mobile_sam.evaluation.of_run import validated_model
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
    asker: Asker, picture: Picture, trained: RunConfig, name: str, prompt: Prompt
) -> None:
    predictor = SamPredictor(validated_model(trained, name), trained.mask_threshold)
    predictor.set_image(picture.pixels)
    for of_three in (False, True):
        found = predictor.predict(**prompt.arguments(), multimask_output=of_three)
        best = found.predicted_iou.argmax()
        answer = asker.answer(name, picture, prompt, of_three)
        assert np.array_equal(answer.mask, found.masks[best])
        assert 0 < answer.mask.sum() < answer.mask.size
        assert answer.predicted_iou == found.predicted_iou[best]
        assert min(answer.encoder_ms, answer.decoder_ms) > 0


def test_everything_is_that_of_automatic_masks(
    asker: Asker, picture: Picture, trained: RunConfig
) -> None:
    model = validated_model(trained, "01_finetune")
    options = AutomaticOptions(
        4,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        mask_threshold=trained.mask_threshold,
    )
    with torch.no_grad():
        wanted = automatic_masks(model, picture.pixels, options)
    found = asker.everything("01_finetune", picture, EVERYTHING)
    assert [mask.code for mask in found.masks] == [mask.code for mask in wanted]
    assert len(wanted) > 0


def count_passes(models: Models, name: str) -> list[int]:
    passes: list[int] = []
    models[name].model.image_encoder.register_forward_hook(lambda *_: passes.append(1))
    return passes


def test_a_picture_is_encoded_once_and_the_oldest_forgotten(
    trained: RunConfig, picture: Picture, models: Models
) -> None:
    other = Picture("other", picture.pixels[::-1].copy(), "other")
    asker = Asker(models, kept=2)
    passes = count_passes(models, "start")
    for prompt in PROMPTS:
        asker.answer("start", picture, prompt)
        asker.everything("start", picture, EVERYTHING)
    spent = asker.encode("start", picture)
    assert len(passes) == 1
    assert asker.answer("start", picture, PROMPTS[0]).encoder_ms == spent
    asker.encode("00_distill", picture)
    asker.encode("start", picture)  # now the oldest is that of the other model
    asker.encode("start", other)
    assert asker.has_encoded("start", picture)
    assert not asker.has_encoded("00_distill", picture)
    assert len(passes) == 2


def test_pictures_in_turn_keep_their_own_answers(asker: Asker, picture: Picture) -> None:
    other = Picture("other", picture.pixels[::-1, :48].copy(), "other")
    first = asker.answer("teacher", picture, PROMPTS[0]).mask
    assert asker.answer("teacher", other, PROMPTS[0]).mask.shape == (64, 48)
    assert np.array_equal(asker.answer("teacher", picture, PROMPTS[0]).mask, first)


def test_equal_pixels_have_one_key(picture: Picture, trained: RunConfig) -> None:
    assert picture.record is not None
    again = opened(picture.record.path, "a name.of mine.png")
    assert (again.key, again.name, again.record) == (picture.key, "a name.of mine", None)
