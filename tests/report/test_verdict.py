from mobile_sam.report.differences import all_differences
from mobile_sam.report.measured import Measured
from mobile_sam.report.tables import summary
from mobile_sam.report.verdict import tiles, verdict
from tests.report.objects import measured, row

IMAGES = "abcdef"
VALUES = {
    "box_filled": 0.5,
    "start": 0.1,
    "00_distill": 0.6,
    "01_finetune": 0.4,
    "teacher": 0.9,
}


def said(one: Measured) -> list[str]:
    return verdict(one, summary(one.objects), all_differences(one))


def rows_of(values: dict[str, float]) -> list[dict]:
    return [
        row(name, image, value + 0.002 * n)
        for name, value in values.items()
        for n, image in enumerate(IMAGES)
    ]


def test_the_first_sentence_is_the_answer_with_its_interval() -> None:
    rows = [*rows_of(VALUES), *(row("01_finetune", image, 0.3, "point") for image in IMAGES)]
    assert said(measured(rows))[0] == (
        "01_finetune reaches a mean IoU of 0.405 by box, 0.300 above start "
        "(0.105; +0.300 to +0.300, beyond chance), and 0.300 by point."
    )


def test_each_stage_is_given_its_part() -> None:
    words = said(measured(rows_of(VALUES)))
    assert words[1] == (
        "Step by step: 00_distill brought +0.500 (beyond chance), "
        "01_finetune brought \N{MINUS SIGN}0.200 (beyond chance)."
    )


def test_teacher_and_filled_box_are_named() -> None:
    words = said(measured(rows_of(VALUES)))
    assert any(w.startswith("By box it is 0.500 below teacher (0.905;") for w in words)
    assert any(w.startswith("It is not above the filled box (0.505)") for w in words)
    better = said(measured(rows_of(VALUES | {"01_finetune": 0.7})))
    assert any(w.startswith("It is above the filled box (0.505)") for w in better)


def test_every_teacher_and_compared_checkpoint_is_named() -> None:
    words = " ".join(said(measured(rows_of(VALUES | {"mobile_sam": 0.4}))))
    assert "level with mobile_sam (0.405; 0.000 to 0.000, could be chance)" in words


def test_a_better_step_than_the_last_is_named() -> None:
    words = said(measured(rows_of(VALUES)))
    assert words[-1] == "The best of its own steps is 00_distill with 0.605, not the last."
    words = said(measured(rows_of(VALUES | {"01_finetune": 0.7})))
    assert not any("own steps" in w for w in words)
    words = said(measured(rows_of(VALUES | {"01_finetune": 0.7, "01_finetune_best": 0.8})))
    assert "01_finetune_best with 0.805" in words[-1]


def test_a_difference_that_could_be_chance_is_called_so() -> None:
    rows = [row("start", image, 0.5) for image in IMAGES]
    rows += [row("00_distill", image, 0.5 + 0.2 * (-1) ** n) for n, image in enumerate(IMAGES)]
    assert "could be chance" in said(measured(rows))[0]


def test_one_image_gets_no_interval() -> None:
    words = said(measured([row("start", "a", 0.1), row("00_distill", "a", 0.9)]))
    assert "from one image, of which nothing follows for others" in words[0]


def test_other_runs_are_rivals() -> None:
    rows = rows_of({"start": 0.1, "00_distill": 0.6, "01_finetune": 0.4})
    one = measured(rows, chain=False, main="00_distill", pairs=(("00_distill", "01_finetune"),))
    words = said(one)
    assert words[0].startswith("Of 2, 00_distill reaches a mean IoU of 0.605 by box, 0.200 above")
    assert words[0].endswith(": it is the best.")


def test_tiles_show_the_main_numbers_and_differences() -> None:
    one = measured(rows_of(VALUES))
    found = tiles(one, summary(one.objects), all_differences(one))
    assert [(tile.number, tile.label) for tile in found] == [
        ("0.405", "mIoU by box"),
        ("+0.300", "by box against start"),
        ("\N{MINUS SIGN}0.500", "by box against teacher"),
        ("\N{MINUS SIGN}0.200", "by box against 00_distill"),
        ("\N{MINUS SIGN}0.100", "by box against box_filled"),
    ]


def test_a_difference_too_small_to_show_has_no_direction() -> None:
    rows = [row(name, i, v) for name, v in (("start", 0.5), ("00_distill", 0.4999)) for i in IMAGES]
    words = said(measured(rows))
    assert "level with start" in words[0]
    assert not any("own steps" in w for w in words)
