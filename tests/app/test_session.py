"""Cards come model by model: waiting ones first, the truth before all, errors in their place."""

from collections.abc import Callable

import pytest

from mobile_sam.app.cards import Card, RenderedImage
from mobile_sam.app.images import AppImage
from mobile_sam.app.models import Models
from mobile_sam.app.predictor_cache import PredictorCache
from mobile_sam.app.prompts import measured_iou
from mobile_sam.app.session import Session, automatic_cards, encoding_cards, prompt_cards
from mobile_sam.inference.prompt import Prompt
from mobile_sam.inference.proposals import AutomaticOptions
from mobile_sam.models.sam import Sam
from mobile_sam.system.errors import ConfigError
from tests.helpers.images import pixels_of

NAMES = ["start", "teacher"]


@pytest.fixture
def session(image: AppImage) -> Session:
    return Session(image, RenderedImage(image.pixels))


@pytest.fixture
def prompt(image: AppImage) -> Prompt:
    """The box of the second segment."""
    assert image.record is not None
    return Prompt(image.record.segments[1].box)


def facts(card: Card) -> dict[str, str]:
    return dict(card.facts)


def test_models_that_have_to_encode_are_waited_for_one_by_one(
    predictors: PredictorCache, session: Session, prompt: Prompt
) -> None:
    steps = [
        [(c.title, c.kind) for c in step] for step in encoding_cards(predictors, session, NAMES)
    ]
    assert steps == [
        [("start", "waiting"), ("teacher", "waiting")],
        [("start", "answer"), ("teacher", "waiting")],
        [("start", "answer"), ("teacher", "answer")],
    ]
    assert len(list(prompt_cards(predictors, session, prompt, NAMES, False))) == 1


def test_answers_come_with_the_truth_and_with_measured_iou(
    predictors: PredictorCache, session: Session, prompt: Prompt
) -> None:
    *_, cards = prompt_cards(predictors, session, prompt, NAMES, False)
    record = session.image.record
    assert record is not None
    assert [card.title for card in cards] == ["ground truth", *NAMES]
    assert cards[0].kind == "truth"
    assert cards[0].download is not None
    truth = pixels_of(cards[0].download.uri) > 0
    assert (truth == record.mask(record.segments[1])).all()
    for card in cards[1:]:
        answer = predictors.predict(card.title, session.image, prompt)
        assert facts(card)["predicted IoU"] == f"{answer.predicted_iou:.3f}"
        wanted = measured_iou(record, record.segments[1], answer.mask)
        assert facts(card)["measured IoU"] == f"{wanted:.3f}"
        assert card.download is not None
        assert card.download.file_name == f"{session.image.name}_{card.title}.png"
        assert ((pixels_of(card.download.uri) > 0) == answer.mask).all()
        assert "parameters" in card.about


def test_a_picture_of_no_dataset_has_no_truth(
    predictors: PredictorCache, session: Session, prompt: Prompt
) -> None:
    own = AppImage("own", session.image.pixels, "own")
    *_, cards = prompt_cards(predictors, Session(own, session.rendered), prompt, NAMES, False)
    assert [card.title for card in cards] == NAMES
    assert all("measured IoU" not in facts(card) for card in cards)


def test_everything_is_counted_and_numbered(predictors: PredictorCache, session: Session) -> None:
    options = AutomaticOptions(4, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    *_, cards = automatic_cards(predictors, session, NAMES, options)
    for card in cards:
        found = predictors.automatic_masks(card.title, session.image, options).masks
        assert facts(card)["masks"] == str(len(found))
        assert card.download is not None
        assert 0 < pixels_of(card.download.uri).max() <= len(found)


def test_where_nothing_is_found_the_card_says_what_to_do(
    predictors: PredictorCache, session: Session
) -> None:
    options = AutomaticOptions(4, pred_iou_thresh=1e9)
    *_, (card,) = automatic_cards(predictors, session, ["start"], options)
    assert facts(card)["masks"] == "0"
    assert "lower them" in card.note
    assert card.download is None


def test_a_model_that_cannot_be_loaded_says_so_and_the_others_answer(
    models: Models, session: Session, prompt: Prompt
) -> None:
    def broken() -> Sam:
        raise ConfigError("weights.pt: not a file of weights")

    loaders: dict[str, Callable[[], Sam]] = {
        "broken": broken,
        "start": lambda: models["start"].model,
    }
    *_, cards = prompt_cards(
        PredictorCache(Models(loaders)), session, prompt, ["broken", "start"], False
    )
    assert [(card.title, card.kind) for card in cards[1:]] == [
        ("broken", "error"),
        ("start", "answer"),
    ]
    assert cards[1].note == "weights.pt: not a file of weights"


def test_what_is_overtaken_ends_before_the_next_model(
    predictors: PredictorCache, session: Session
) -> None:
    steps = encoding_cards(predictors, session, NAMES)
    assert [card.kind for card in next(steps)] == ["waiting", "waiting"]
    session.requests.newest = 1
    assert list(steps) == []
    assert predictors.is_encoded("start", session.image)
    assert not predictors.is_encoded("teacher", session.image)
    *_, cards = encoding_cards(predictors, session.as_newest(), NAMES)
    assert [card.kind for card in cards] == ["answer", "answer"]
