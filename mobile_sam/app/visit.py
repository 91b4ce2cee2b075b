"""What a visitor of the page has before them, and the cards that models answer with."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from mobile_sam.app.asking import Asker
from mobile_sam.app.cards import Card, Shown, label_file, mask_file, milliseconds
from mobile_sam.app.pictures import Picture
from mobile_sam.app.prompts import meant, measured_iou
from mobile_sam.config import UserError
from mobile_sam.data.masks import Mask, decode
from mobile_sam.inference.drawing import MOST_MASKS
from mobile_sam.inference.prompt import Prompt
from mobile_sam.inference.proposals import AutomaticOptions

TRUTH = "ground truth"


@dataclass
class Turns:
    """Of all that a visitor does with a picture the number of the newest, which ends all before."""

    newest: int = 0


@dataclass(frozen=True)
class Visit:
    """A picture, how it is shown, and what is asked about it, if anything.

    number: of the picture, among all that are shown. turn: the number of what the visitor does.
    """

    picture: Picture
    shown: Shown
    number: int = 0
    prompt: Prompt | None = None
    turn: int = 0
    turns: Turns = field(default_factory=Turns)

    @property
    def overtaken(self) -> bool:
        """Whether the visitor has gone on."""
        return self.turns.newest > self.turn

    def renewed(self) -> "Visit":
        """The same, as the newest."""
        return replace(self, turn=self.turns.newest)


def beginning(asker: Asker, visit: Visit, names: Sequence[str]) -> Iterator[list[Card]]:
    """Cards of a picture that is new, while the models encode it one after another."""

    def card_of(name: str) -> Card:
        spent = asker.encode(name, visit.picture)
        return Card(name, visit.shown.plain(), (("encoder", milliseconds(spent)),))

    return _in_turn(asker, visit, names, card_of)


def answers(
    asker: Asker, visit: Visit, prompt: Prompt, names: Sequence[str], of_three: bool
) -> Iterator[list[Card]]:
    """Cards with the answers to a prompt; where the truth is known, it comes first."""
    picture, record = visit.picture, visit.picture.record
    segment = None if record is None else meant(record, prompt)
    truth = None if record is None or segment is None else record.mask(segment)

    def card_of(name: str) -> Card:
        answer = asker.answer(name, picture, prompt, of_three)
        facts = [("predicted IoU", f"{answer.predicted_iou:.3f}")]
        if record is not None and segment is not None:
            facts.append(("measured IoU", f"{measured_iou(record, segment, answer.mask):.3f}"))
        return Card(
            name,
            visit.shown.lit(answer.mask, truth),
            (
                *facts,
                ("encoder", milliseconds(answer.encoder_ms)),
                ("decoder", milliseconds(answer.decoder_ms)),
                ("area", _pixels(answer.mask)),
            ),
            download=mask_file(answer.mask, f"{picture.name}_{name}.png"),
        )

    first = [] if truth is None else [_truth(visit, truth)]
    return _in_turn(asker, visit, names, card_of, first)


def everything(
    asker: Asker, visit: Visit, names: Sequence[str], options: AutomaticOptions
) -> Iterator[list[Card]]:
    """Cards with all that the models find without a prompt."""
    picture = visit.picture

    def card_of(name: str) -> Card:
        found = asker.everything(name, picture, options)
        masks = [decode(mask.code, picture.size) for mask in found.masks[:MOST_MASKS]]
        facts = (
            ("masks", str(len(found.masks))),
            ("encoder", milliseconds(found.encoder_ms)),
            ("grid", milliseconds(found.grid_ms)),
        )
        if not masks:
            note = "Nothing passes: lower the two limits, or ask more points."
            return Card(name, visit.shown.plain(), facts, note=note)
        file = label_file(masks, picture.size, f"{picture.name}_{name}_labels.png")
        return Card(name, visit.shown.under(masks), facts, download=file)

    return _in_turn(asker, visit, names, card_of, slow=True)


def _in_turn(
    asker: Asker,
    visit: Visit,
    names: Sequence[str],
    card_of: Callable[[str], Card],
    first: Sequence[Card] = (),
    slow: bool = False,
) -> Iterator[list[Card]]:
    """All cards, again and again, with one more model done each time.

    Models that answer at once do so without a step of their own, lest the page should flicker.
    Ends before its time when the visitor goes on.
    """
    done = list(first)
    for place, name in enumerate(names):
        if visit.overtaken:
            return
        if slow or not asker.has_encoded(name, visit.picture):
            plain = visit.shown.plain()
            words = ["at work …", *["waiting"] * (len(names) - place - 1)]
            waiting = [
                Card(one, plain, about=said, kind="waiting")
                for one, said in zip(names[place:], words, strict=True)
            ]
            yield [*done, *waiting]
        try:
            done.append(replace(card_of(name), about=asker.models.about(name)))
        except UserError as error:
            done.append(Card(name, visit.shown.plain(), note=str(error), kind="error"))
    yield done


def _truth(visit: Visit, truth: Mask) -> Card:
    file = mask_file(truth, f"{visit.picture.name}_truth.png")
    facts = (("area", _pixels(truth)),)
    return Card(TRUTH, visit.shown.lit(truth), facts, "of the dataset", download=file, kind="truth")


def _pixels(mask: Mask) -> str:
    return f"{int(mask.sum()):,} px"
