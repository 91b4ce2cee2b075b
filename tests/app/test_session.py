"""Cards come model by model: waiting ones first, the truth before all, errors in their place."""

from collections.abc import Callable

import pytest

from mobile_sam.app.asking import Asker
from mobile_sam.app.cards import Card, Shown
from mobile_sam.app.models import Models
from mobile_sam.app.pictures import Picture
from mobile_sam.app.prompts import measured_iou
from mobile_sam.app.visit import Visit, answers, beginning, everything
from mobile_sam.config import ConfigError
from mobile_sam.inference.prompt import Prompt
from mobile_sam.inference.proposals import AutomaticOptions
from mobile_sam.models.sam import Sam
from tests.app.test_cards import pixels_of

NAMES = ["start", "teacher"]


@pytest.fixture
def visit(picture: Picture) -> Visit:
    return Visit(picture, Shown(picture.pixels))


@pytest.fixture
def prompt(picture: Picture) -> Prompt:
    """The box of the second segment."""
    assert picture.record is not None
    return Prompt(picture.record.segments[1].box)


def facts(card: Card) -> dict[str, str]:
    return dict(card.facts)


def test_models_that_have_to_encode_are_waited_for_one_by_one(
    asker: Asker, visit: Visit, prompt: Prompt
) -> None:
    steps = [[(c.title, c.kind) for c in step] for step in beginning(asker, visit, NAMES)]
    assert steps == [
        [("start", "waiting"), ("teacher", "waiting")],
        [("start", "answer"), ("teacher", "waiting")],
        [("start", "answer"), ("teacher", "answer")],
    ]
    assert len(list(answers(asker, visit, prompt, NAMES, False))) == 1


def test_answers_come_with_the_truth_and_with_measured_iou(
    asker: Asker, visit: Visit, prompt: Prompt
) -> None:
    *_, cards = answers(asker, visit, prompt, NAMES, False)
    record = visit.picture.record
    assert record is not None
    assert [card.title for card in cards] == ["ground truth", *NAMES]
    assert cards[0].kind == "truth"
    assert cards[0].download is not None
    truth = pixels_of(cards[0].download.uri) > 0
    assert (truth == record.mask(record.segments[1])).all()
    for card in cards[1:]:
        answer = asker.answer(card.title, visit.picture, prompt)
        assert facts(card)["predicted IoU"] == f"{answer.predicted_iou:.3f}"
        wanted = measured_iou(record, record.segments[1], answer.mask)
        assert facts(card)["measured IoU"] == f"{wanted:.3f}"
        assert card.download is not None
        assert card.download.file_name == f"{visit.picture.name}_{card.title}.png"
        assert ((pixels_of(card.download.uri) > 0) == answer.mask).all()
        assert "parameters" in card.about


def test_a_picture_of_no_dataset_has_no_truth(asker: Asker, visit: Visit, prompt: Prompt) -> None:
    own = Picture("own", visit.picture.pixels, "own")
    *_, cards = answers(asker, Visit(own, visit.shown), prompt, NAMES, False)
    assert [card.title for card in cards] == NAMES
    assert all("measured IoU" not in facts(card) for card in cards)


def test_everything_is_counted_and_numbered(asker: Asker, visit: Visit) -> None:
    options = AutomaticOptions(4, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    *_, cards = everything(asker, visit, NAMES, options)
    for card in cards:
        found = asker.everything(card.title, visit.picture, options).masks
        assert facts(card)["masks"] == str(len(found))
        assert card.download is not None
        assert 0 < pixels_of(card.download.uri).max() <= len(found)


def test_where_nothing_is_found_the_card_says_what_to_do(asker: Asker, visit: Visit) -> None:
    options = AutomaticOptions(4, pred_iou_thresh=1e9)
    *_, (card,) = everything(asker, visit, ["start"], options)
    assert facts(card)["masks"] == "0"
    assert "lower the two limits" in card.note
    assert card.download is None


def test_a_model_that_cannot_be_loaded_says_so_and_the_others_answer(
    models: Models, visit: Visit, prompt: Prompt
) -> None:
    def broken() -> Sam:
        raise ConfigError("weights.pt: not a file of weights")

    loaders: dict[str, Callable[[], Sam]] = {
        "broken": broken,
        "start": lambda: models["start"].model,
    }
    *_, cards = answers(Asker(Models(loaders)), visit, prompt, ["broken", "start"], False)
    assert [(card.title, card.kind) for card in cards[1:]] == [
        ("broken", "error"),
        ("start", "answer"),
    ]
    assert cards[1].note == "weights.pt: not a file of weights"


def test_what_is_overtaken_ends_before_the_next_model(asker: Asker, visit: Visit) -> None:
    steps = beginning(asker, visit, NAMES)
    assert [card.kind for card in next(steps)] == ["waiting", "waiting"]
    visit.turns.newest = 1
    assert list(steps) == []
    assert asker.has_encoded("start", visit.picture)
    assert not asker.has_encoded("teacher", visit.picture)
    *_, cards = beginning(asker, visit.renewed(), NAMES)
    assert [card.kind for card in cards] == ["answer", "answer"]
