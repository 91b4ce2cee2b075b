"""State of a visitor's session, and the cards of results that are shown."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from mobile_sam.app.cards import Card, RenderedImage, label_file, mask_file, milliseconds
from mobile_sam.app.images import AppImage
from mobile_sam.app.predictor_cache import PredictorCache
from mobile_sam.app.prompts import match_segment, measured_iou
from mobile_sam.data.masks import EncodedMasks, Mask
from mobile_sam.inference.drawing import MAX_LABELS
from mobile_sam.inference.prompt import Prompt
from mobile_sam.inference.proposals import AutomaticOptions
from mobile_sam.system.errors import UserError

TRUTH = "ground truth"


@dataclass
class RequestCounter:
    """Number of a visitor's newest request on an image; it makes earlier requests outdated."""

    newest: int = 0


@dataclass(frozen=True)
class Session:
    """Image of a visitor, with the prompt on it, if any.

    number: of the image, among all that this server showed. request: the visitor's request that
    this state belongs to.
    """

    image: AppImage
    rendered: RenderedImage
    number: int = 0
    prompt: Prompt | None = None
    request: int = 0
    requests: RequestCounter = field(default_factory=RequestCounter)

    @property
    def is_outdated(self) -> bool:
        """True if the visitor has made a newer request."""
        return self.requests.newest > self.request

    def as_newest(self) -> "Session":
        """Return the same state as part of the newest request."""
        return replace(self, request=self.requests.newest)


def encoding_cards(
    predictors: PredictorCache, session: Session, names: Sequence[str]
) -> Iterator[list[Card]]:
    """Yield the cards of a new image, while one model after another encodes it."""

    def card_of(name: str) -> Card:
        encoder_ms = predictors.encode(name, session.image)
        return Card(name, session.rendered.uri(), (("encoder", milliseconds(encoder_ms)),))

    return _cards_by_model(predictors, session, names, card_of)


def prompt_cards(
    predictors: PredictorCache,
    session: Session,
    prompt: Prompt,
    names: Sequence[str],
    best_of_three: bool,
) -> Iterator[list[Card]]:
    """Yield the cards with the masks of a prompt; the ground truth comes first, if it is known."""
    image, record = session.image, session.image.record
    segment = None if record is None else match_segment(record, prompt)
    truth = None if record is None or segment is None else record.mask(segment)

    def card_of(name: str) -> Card:
        result = predictors.predict(name, image, prompt, best_of_three)
        facts = [("predicted IoU", f"{result.predicted_iou:.3f}")]
        if record is not None and segment is not None:
            facts.append(("measured IoU", f"{measured_iou(record, segment, result.mask):.3f}"))
        return Card(
            name,
            session.rendered.highlight(result.mask, truth),
            (
                *facts,
                ("encoder", milliseconds(result.encoder_ms)),
                ("decoder", milliseconds(result.decoder_ms)),
                ("area", _pixels(result.mask)),
            ),
            download=mask_file(result.mask, f"{image.name}_{name}.png"),
        )

    first = [] if truth is None else [_truth_card(session, truth)]
    return _cards_by_model(predictors, session, names, card_of, first)


def automatic_cards(
    predictors: PredictorCache, session: Session, names: Sequence[str], options: AutomaticOptions
) -> Iterator[list[Card]]:
    """Yield the cards with the automatic masks of an image."""
    image = session.image

    def card_of(name: str) -> Card:
        result = predictors.automatic_masks(name, image, options)
        masks = EncodedMasks((mask.code for mask in result.masks[:MAX_LABELS]), image.size)
        facts = (
            ("masks", str(len(result.masks))),
            ("encoder", milliseconds(result.encoder_ms)),
            ("grid", milliseconds(result.grid_ms)),
        )
        if not len(masks):
            note = "No mask reaches both thresholds: lower them, or use more points."
            return Card(name, session.rendered.uri(), facts, note=note)
        file = label_file(masks, f"{image.name}_{name}_labels.png")
        return Card(name, session.rendered.with_masks(masks), facts, download=file)

    return _cards_by_model(predictors, session, names, card_of, slow=True)


def _cards_by_model(
    predictors: PredictorCache,
    session: Session,
    names: Sequence[str],
    card_of: Callable[[str], Card],
    first: Sequence[Card] = (),
    slow: bool = False,
) -> Iterator[list[Card]]:
    """Yield all cards repeatedly, each time with one more model finished.

    Models that have already encoded the image take no step of their own, so that the page does not
    flicker. Stops early when the session is outdated.
    """
    done = list(first)
    for i, name in enumerate(names):
        if session.is_outdated:
            return
        if slow or not predictors.is_encoded(name, session.image):
            uri = session.rendered.uri()
            labels = ["running …", *["waiting"] * (len(names) - i - 1)]
            waiting = [
                Card(pending, uri, about=label, kind="waiting")
                for pending, label in zip(names[i:], labels, strict=True)
            ]
            yield [*done, *waiting]
        try:
            done.append(replace(card_of(name), about=predictors.models.about(name)))
        except UserError as error:
            done.append(Card(name, session.rendered.uri(), note=str(error), kind="error"))
    yield done


def _truth_card(session: Session, truth: Mask) -> Card:
    file = mask_file(truth, f"{session.image.name}_truth.png")
    facts = (("area", _pixels(truth)),)
    image = session.rendered.highlight(truth)
    return Card(TRUTH, image, facts, "from the data set", download=file, kind="truth")


def _pixels(mask: Mask) -> str:
    return f"{int(mask.sum()):,} px"
