from pathlib import Path

import pytest

from mobile_sam.report.differences import compare_checkpoints
from mobile_sam.report.inputs.report_data import Checkpoint, ReportData
from mobile_sam.report.sections.verdict import tiles, verdict
from mobile_sam.report.tables import ReportTables, summary
from tests.helpers.report_objects import report, row

IMAGES = "abcdefghijkl"
VALUES = {
    "box_filled": 0.5,
    "start": 0.1,
    "00_distill": 0.6,
    "01_finetune": 0.4,
    "teacher": 0.9,
}


def sentences(one: ReportData) -> list[str]:
    return verdict(one, summary(one.objects), compare_checkpoints(one))


def rows_of(values: dict[str, float]) -> list[dict[str, object]]:
    return [
        row(name, image, value + 0.01 * n / 11)
        for name, value in values.items()
        for n, image in enumerate(IMAGES)
    ]


def test_the_first_sentence_is_the_answer_with_its_interval() -> None:
    rows = [*rows_of(VALUES), *(row("01_finetune", image, 0.3, "point") for image in IMAGES)]
    assert sentences(report(rows))[0] == (
        "01_finetune reaches a mean IoU of 0.405 with box prompts, 0.300 above start "
        "(0.105; 95 % interval +0.300 to +0.300, significant), and 0.300 with point prompts."
    )


def test_each_stage_is_given_its_part() -> None:
    printed = sentences(report(rows_of(VALUES)))
    assert printed[1] == (
        "Change by stage: 00_distill +0.500 (significant), "
        "01_finetune \N{MINUS SIGN}0.200 (significant)."
    )


def test_teacher_and_filled_box_are_named() -> None:
    printed = sentences(report(rows_of(VALUES)))
    assert any(w.startswith("With box prompts it is 0.500 below teacher (0.905;") for w in printed)
    assert any(w.startswith("It is not above the filled box (0.505)") for w in printed)
    better = sentences(report(rows_of(VALUES | {"01_finetune": 0.7})))
    assert any(w.startswith("It is above the filled box (0.505)") for w in better)


def test_every_teacher_and_compared_checkpoint_is_named() -> None:
    printed = " ".join(sentences(report(rows_of(VALUES | {"mobile_sam": 0.4}))))
    assert "equal to mobile_sam (0.405; 95 % interval 0.000 to 0.000, not significant)" in printed


def test_a_better_step_than_the_last_is_named() -> None:
    printed = sentences(report(rows_of(VALUES)))
    assert printed[-1] == "The best checkpoint of the run is 00_distill (0.605), not 01_finetune."
    printed = sentences(report(rows_of(VALUES | {"01_finetune": 0.7})))
    assert not any("best checkpoint of the run" in w for w in printed)
    printed = sentences(report(rows_of(VALUES | {"01_finetune": 0.7, "01_finetune_best": 0.8})))
    assert "01_finetune_best (0.805)" in printed[-1]


def test_a_difference_that_is_not_significant_is_called_so() -> None:
    rows = [row("start", image, 0.5) for image in IMAGES]
    rows += [row("00_distill", image, 0.5 + 0.2 * (-1) ** n) for n, image in enumerate(IMAGES)]
    assert "not significant" in sentences(report(rows))[0]


@pytest.mark.parametrize("images", ["a", "abcde"])
def test_few_images_get_no_verdict(images: str) -> None:
    rows = [row(name, i, v) for name, v in (("start", 0.1), ("00_distill", 0.9)) for i in images]
    assert "0.800 above start (0.100; too few images)" in sentences(report(rows))[0]


def test_an_epoch_that_was_chosen_on_these_images_carries_a_note() -> None:
    rows = rows_of({"start": 0.1, "00_distill": 0.6, "01_finetune_best": 0.8})
    one = report(rows, main="01_finetune_best")
    assert "(epoch selected on these images; overestimates accuracy)" in sentences(one)[0]
    notes = ReportTables(one).summary.set_index("checkpoint")["note"]
    assert [bool(notes[name]) for name in one.names] == [False, False, True]


def test_other_runs_are_rivals() -> None:
    rows = rows_of({"start": 0.1, "00_distill": 0.6, "01_finetune": 0.4})
    one = report(rows, chain=False, main="00_distill", pairs=(("00_distill", "01_finetune"),))
    printed = sentences(one)
    assert printed[0].startswith(
        "Of 2 checkpoints, 00_distill reaches a mean IoU of 0.605 with box"
    )
    assert printed[0].endswith(": it is significantly better than all others.")


def test_the_highest_number_is_not_called_better_if_it_is_not_significant() -> None:
    rows = [row(name, i, 0.5) for name in ("start", "01_finetune") for i in IMAGES]
    rows += [row("00_distill", i, 0.5 + 0.1 * (-1) ** n + 0.01) for n, i in enumerate(IMAGES)]
    one = report(rows, chain=False, main="00_distill", pairs=(("00_distill", "01_finetune"),))
    assert sentences(one)[0].endswith("not significant): it has the highest mean IoU.")


def test_all_pairs_of_rivals_count_where_the_main_one_was_chosen_among_them() -> None:
    rows = rows_of({"start": 0.1, "00_distill": 0.6, "01_finetune": 0.4})
    rows += [row("02_more", i, 0.3) for i in IMAGES]
    names = ("00_distill", "01_finetune", "02_more")
    checkpoints = tuple(Checkpoint(name, "stage", name, Path(name)) for name in names)
    pairs = tuple((names[0], other) for other in names[1:])
    found = compare_checkpoints(
        report(rows, chain=False, main=names[0], pairs=pairs, checkpoints=checkpoints)
    )
    assert [(d.checkpoint, d.against) for d in found] == list(pairs)
    # Of 12 images the smallest p-value is 2 / 4096, and three pairs are compared.
    assert [d.adjusted_p for d in found] == pytest.approx([3 * 2 / 4096] * 2)


def test_tiles_show_the_main_numbers_and_differences() -> None:
    one = report(rows_of(VALUES))
    found = tiles(one, summary(one.objects), compare_checkpoints(one))
    assert [(tile.number, tile.label) for tile in found] == [
        ("0.405", "mean IoU, box prompts"),
        ("+0.300", "vs. start, box prompts"),
        ("\N{MINUS SIGN}0.500", "vs. teacher, box prompts"),
        ("\N{MINUS SIGN}0.200", "vs. 00_distill, box prompts"),
        ("\N{MINUS SIGN}0.100", "vs. box_filled, box prompts"),
    ]


def test_a_difference_too_small_to_show_has_no_direction() -> None:
    rows = [row(name, i, v) for name, v in (("start", 0.5), ("00_distill", 0.4999)) for i in IMAGES]
    printed = sentences(report(rows))
    assert "equal to start" in printed[0]
    assert not any("best checkpoint of the run" in w for w in printed)
