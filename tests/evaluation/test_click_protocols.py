"""Simulated clicks go where a person would put them, and sessions end when they should."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from mobile_sam.data.masks import Mask, encode_crop
from mobile_sam.data.sampling.click_simulation import next_click
from mobile_sam.evaluation.encoded import EncodedImage, MaskLogits, PromptResult
from mobile_sam.evaluation.protocols import click_results
from mobile_sam.metrics.mask_crop import crop_mask
from mobile_sam.models.mask_decoder import Decoded

SIZE = 32
NOTHING = np.zeros((SIZE, SIZE), dtype=bool)


def square(x0: int, y0: int, side: int) -> Mask:
    mask = NOTHING.copy()
    mask[y0 : y0 + side, x0 : x0 + side] = True
    return mask


class Obedient(EncodedImage):
    """A stand-in for a model that is right within a radius of each click, and learns no more.

    Its low_res_logits are the mask logits themselves. A prompt is of the first of its truths that
    has the first click.
    """

    def __init__(self, radius: int, truths: list[Mask]) -> None:
        self.radius, self.truths = radius, truths
        self.asked: list[tuple[int, int]] = []  # prompts and their points, of each pass

    def decode(self, prompts, masks=None, outputs=None):  # type: ignore[no-untyped-def]
        assert masks is not None
        self.asked.append((len(prompts), len(prompts[0].labels)))
        logits = masks.clone()
        y, x = np.mgrid[:SIZE, :SIZE]
        for number, prompt in enumerate(prompts):
            first = tuple(int(value) for value in prompt.points[0][::-1])
            truth = next(mask for mask in self.truths if mask[first])
            for px, py in prompt.points[prompt.labels >= 0]:
                near = (x - px) ** 2 + (y - py) ** 2 <= self.radius**2
                right = torch.from_numpy(truth[near]).float() * 2 - 1
                logits[number, 0, torch.from_numpy(near)] = right
        return Decoded(logits, torch.full((len(prompts), 1), 0.5), torch.zeros(0))

    def upscale(self, low_res_logits: Tensor, threshold: float) -> Iterator[MaskLogits]:
        return (MaskLogits(logits.numpy(), 0, 0, (SIZE, SIZE)) for logits in low_res_logits)


def first(*masks: Mask) -> tuple[Tensor, Tensor]:
    logits = torch.from_numpy(np.stack(masks)).float()[:, None] * 2 - 1
    return logits, torch.zeros(len(masks))


def session(
    image: Obedient, protocols: tuple[str, ...], start: tuple[Tensor, Tensor] | None = None
) -> dict[str, PromptResult]:
    start = start or first(*[NOTHING] * len(image.truths))
    truths = [crop_mask(mask) for mask in image.truths]
    found = click_results(image, truths, start, 0.0, protocols)  # type: ignore[arg-type]
    return {result.prompt: result for result in found}


def codes(result: PromptResult) -> list[bytes]:
    return [encode_crop(mask.prediction) for mask in result.masks]


def test_a_missed_part_is_clicked_in_its_middle() -> None:
    truth = square(4, 4, 21)
    assert next_click(square(4, 4, 4), truth, []) == pytest.approx((14, 14, True), abs=2)


def test_a_part_too_much_is_clicked_as_background() -> None:
    truth = square(2, 2, 5)
    assert next_click(truth | square(15, 15, 11), truth, [(4, 4, True)]) == (20, 20, False)


def test_the_deeper_error_is_clicked_and_of_equal_ones_what_is_too_much() -> None:
    missed, extra = square(2, 2, 7), square(20, 20, 7)
    assert next_click(extra, missed, [])[2] is False
    assert next_click(square(18, 18, 11), missed, [])[2] is False
    assert next_click(extra, square(2, 2, 9), [])[2] is True


@pytest.mark.parametrize("seed", range(5))
def test_the_click_is_the_deepest_pixel_by_another_distance_transform(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, prediction = (
        ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), 3) > 0 for _ in range(2)
    )
    x, y, on_segment = next_click(prediction, truth, [])
    errors = [truth & ~prediction, prediction & ~truth]
    depths = [ndimage.distance_transform_edt(np.pad(error, 1))[1:-1, 1:-1] for error in errors]
    chosen = depths[0 if on_segment else 1]
    assert chosen[y, x] == pytest.approx(max(depth.max() for depth in depths))


@pytest.mark.parametrize("seed", range(5))
def test_a_click_does_not_make_what_is_around_it_less_deep(seed: int) -> None:
    """As RITM's clicker: the transform of all errors, then without pixels that were clicked."""
    rng = np.random.default_rng(seed)
    truth, prediction = (
        ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), 3) > 0 for _ in range(2)
    )
    errors = (truth & ~prediction, prediction & ~truth)
    depths = [ndimage.distance_transform_edt(np.pad(error, 1))[1:-1, 1:-1] for error in errors]
    clicks: list[tuple[int, int, bool]] = []
    for _ in range(8):
        x, y, on_segment = next_click(prediction, truth, clicks)
        clicks.append((x, y, on_segment))
        assert on_segment == (depths[0].max() > depths[1].max())
        chosen = depths[0] if on_segment else depths[1]
        assert (y, x) == np.unravel_index(chosen.argmax(), truth.shape)
        depths[0][y, x] = depths[1][y, x] = 0


def test_no_pixel_is_clicked_twice_while_another_is_wrong() -> None:
    truth, prediction = square(4, 4, 8), NOTHING
    clicks: list[tuple[int, int, bool]] = []
    for _ in range(20):
        clicks.append(next_click(prediction, truth, clicks))
    assert len({(x, y) for x, y, _ in clicks}) == 20


def test_without_an_error_the_first_click_is_made_again() -> None:
    truth = square(4, 4, 8)
    assert next_click(truth, truth, [(7, 7, True), (1, 1, False)]) == (7, 7, True)


def test_rows_show_three_and_five_clicks() -> None:
    image = Obedient(2, [square(2, 2, 28), square(0, 0, 32)])
    found = session(image, ("box", "clicks"))
    assert list(found) == ["clicks_3", "clicks_5"]
    areas = [[mask.prediction.area for mask in found[name].masks] for name in found]
    assert areas[0][0] < areas[1][0]
    # The first click came with the first answer; each later pass has one point more.
    assert image.asked == [(2, 3), (2, 4), (2, 5), (2, 6)]


def test_a_session_ends_at_the_goal_and_counts_to_twenty_at_most() -> None:
    y, x = np.mgrid[:SIZE, :SIZE]
    easy, hard = (x - 9) ** 2 + (y - 9) ** 2 <= 9, square(0, 0, 32)
    image = Obedient(3, [easy, hard])
    found = session(image, ("box", "noc"))
    assert list(found) == ["noc"]
    assert found["noc"].ious is not None
    counts = [len(ious) for ious in found["noc"].ious]
    assert counts[1] == 20
    assert counts[0] < 20
    assert max(found["noc"].ious[0]) >= 0.9
    # After five clicks, which may be shown, only the other segment is asked about.
    assert counts[0] < 5
    assert image.asked == [(2, n) for n in range(3, 7)] + [(1, n) for n in range(7, 22)]


def test_both_protocols_together_give_the_same_rows_as_alone() -> None:
    truths = [square(4, 4, 5), square(2, 2, 28)]
    both = session(Obedient(3, truths), ("box", "clicks", "noc"))
    clicks = session(Obedient(3, truths), ("box", "clicks"))
    assert list(both) == ["clicks_3", "clicks_5", "noc"]
    for name in clicks:
        assert codes(both[name]) == codes(clicks[name])
    alone = session(Obedient(3, truths), ("box", "noc"))["noc"]
    assert both["noc"].ious == alone.ious
    assert codes(both["noc"]) == codes(alone)
    assert alone.ious is not None
    assert alone.ious[0][-1] >= 0.9 > max(alone.ious[0][:-1], default=0)


def test_a_session_that_has_ended_keeps_its_mask() -> None:
    """More clicks, shown to others, may make it worse again."""
    truth = square(4, 4, 8)
    image = Obedient(3, [truth, square(2, 2, 28)])

    def worse(prompts, masks=None, outputs=None):  # type: ignore[no-untyped-def]
        return Decoded(-torch.ones_like(masks), torch.full((len(prompts), 1), 0.1), torch.zeros(0))

    image.decode = worse  # type: ignore[method-assign]
    start = first(truth, NOTHING)
    by_name = session(image, ("box", "clicks", "noc"), start)
    assert by_name["clicks_5"].masks[0].prediction.area == 0
    assert by_name["noc"].masks[0].prediction.area == truth.sum()
    assert by_name["noc"].ious is not None
    assert by_name["noc"].ious[0] == (1.0,)
    assert by_name["noc"].predicted_iou[0] == 0


def test_a_session_that_is_done_at_once_asks_nothing() -> None:
    truth = square(4, 4, 8)
    image = Obedient(3, [truth])
    found = session(image, ("box", "noc"), first(truth))
    assert found["noc"].ious == ((1.0,),)
    assert image.asked == []
