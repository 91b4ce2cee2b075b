"""Statistics of variants: means, differences, effects and interactions, by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mobile_sam.report.inputs.from_sweep import Scores, SweepData
from mobile_sam.report.page import write_sweep_page
from mobile_sam.report.sections.blocks import FigureBlock, Table
from mobile_sam.report.sections.sweep import sections
from mobile_sam.report.sweep_statistics import (
    interactions,
    main_effects,
    ranking,
    rankings,
    verdict,
)

IMAGES = np.array([-0.1, -0.05, 0.05, 0.1])  # effect of each image, of one object each
SEEDS = np.array([-0.01, 0.0, 0.01])


def sweep(means: dict[tuple[float, str], float], seeds: np.ndarray = SEEDS) -> SweepData:
    """Combinations of `rate` and `loss` with these means, and the effects above."""
    combinations = {f"{rate}-{loss}": {"rate": rate, "loss": loss} for rate, loss in means}
    scores = {
        name: Scores(mean + seeds[:, None] + IMAGES, np.ones(4))
        for name, mean in zip(combinations, means.values(), strict=True)
    }
    epochs = [
        {"combination": name, "variant": f"{name}{seed}", "epoch": epoch, "iou": 0.1 * epoch}
        for name in combinations
        for seed in range(len(seeds))
        for epoch in range(3)
    ]
    cost = [{"combination": name, "minutes": 1.0 + n} for n, name in enumerate(combinations)]
    return SweepData(
        title="a sweep",
        keys=("rate", "loss"),
        combinations=combinations,
        scores={"box": scores},
        epochs=pd.DataFrame(epochs),
        cost=pd.DataFrame(cost),
        baselines={("box_filled", "box"): 0.4},
        missing={},
        stopped=pd.DataFrame(columns=["combination", "epoch", "iou"]),
    )


ADDITIVE = {(0.1, "a"): 0.5, (0.1, "b"): 0.55, (0.2, "a"): 0.6, (0.2, "b"): 0.65}


def test_combinations_are_ranked_with_paired_differences() -> None:
    """Seeds and images have the same effect on all, so differences are exact."""
    table = ranking(sweep(ADDITIVE), "box")
    assert list(table["combination"]) == ["0.2-b", "0.2-a", "0.1-b", "0.1-a"]
    assert list(table["miou"]) == pytest.approx([0.65, 0.6, 0.55, 0.5])
    assert list(table["difference"][1:]) == pytest.approx([-0.05, -0.1, -0.15])
    assert table["low"][0] < 0.65 < table["high"][0]
    assert (table["adjusted_p"][1:] < 1e-6).all()
    assert table[["rate", "loss"]].iloc[0].tolist() == [0.2, "b"]


def test_effects_are_means_over_the_other_keys() -> None:
    effects = main_effects(sweep(ADDITIVE), "box").set_index(["key", "value"])["miou"]
    expected = {("rate", "0.1"): 0.525, ("rate", "0.2"): 0.625}
    expected |= {("loss", "a"): 0.55, ("loss", "b"): 0.6}
    assert effects.to_dict() == pytest.approx(expected)


def test_an_interaction_is_the_deviation_from_the_sum_of_effects() -> None:
    (additive,) = interactions(sweep(ADDITIVE), "box").to_dict("records")
    assert additive["deviation"] == pytest.approx(0, abs=1e-12)
    crossed = ADDITIVE | {(0.2, "b"): 0.45}  # b is better at 0.1 and worse at 0.2
    (found,) = interactions(sweep(crossed), "box").to_dict("records")
    assert found["keys"] == "rate x loss"
    assert abs(found["deviation"]) == pytest.approx(0.05)
    missing = {cell: mean for cell, mean in ADDITIVE.items() if cell != (0.2, "b")}
    assert interactions(sweep(missing), "box").empty


def test_the_verdict_says_who_wins_and_what_would_help() -> None:
    first, second = verdict(sweep(ADDITIVE), rankings(sweep(ADDITIVE)))
    assert first.startswith("0.2-b has the highest mean IoU, 0.650 with box prompts (95 % interval")
    assert second == "It is significantly better than all 3 others, by 0.050."
    noisy = sweep(ADDITIVE)
    rng = np.random.default_rng(0)
    scores = noisy.scores["box"]
    for name in scores:
        scores[name] = Scores(scores[name].sums + rng.normal(0, 0.3, (3, 1)), np.ones(4))
    sentences = verdict(noisy, rankings(noisy))
    assert "do not differ significantly from it" in sentences[1]
    assert sentences[2].startswith("More seeds would help")
    one_seed = {name: Scores(each.sums[:1], each.counts) for name, each in scores.items()}
    for each in one_seed.values():
        each.sums[:] += rng.normal(0, 0.3, (1, 4))
    scores.update(one_seed)
    assert verdict(noisy, rankings(noisy))[-1].endswith("set replicates to 3 or more.")


def test_combinations_that_were_stopped_are_counted_and_listed() -> None:
    rows = [("0.3-a", 2, 0.1), ("0.3-b", 2, np.nan), ("0.4-a", 4, 0.3)]
    stopped = pd.DataFrame(rows, columns=["combination", "epoch", "iou"])
    data = replace(sweep(ADDITIVE), stopped=stopped)
    tables = rankings(data)
    assert "3 of 7 combinations were stopped early" in verdict(data, tables)[1]
    found = {section.name: section for section in sections(data, tables)}
    (table,) = found["stopped"].blocks
    assert isinstance(table, Table)
    assert list(table.frame["combination"]) == ["0.4-a", "0.3-a", "0.3-b"]
    assert "effects" not in found, "the remaining values are not balanced"


def test_recipes_alone_have_no_effects_beside_their_ranking() -> None:
    data = sweep(ADDITIVE)
    assert "effects" in {section.name for section in sections(data, rankings(data))}
    recipes = {name: {"recipe": name} for name in data.combinations}
    data = replace(data, keys=("recipe",), combinations=recipes)
    assert "effects" not in {section.name for section in sections(data, rankings(data))}


def test_the_front_has_what_nothing_beats_in_both() -> None:
    """Minutes are 1 to 4; latency is worst for the best combination, and unknown for one."""
    data = sweep(ADDITIVE)
    data = replace(data, cost=data.cost.assign(latency_ms=[5.0, 5.0, np.nan, 9.0]))
    (cost,) = [s for s in sections(data, rankings(data)) if s.name == "cost"]
    time, latency = (block.figure.table for block in cost.blocks if isinstance(block, FigureBlock))
    assert list(time.loc[time["front"], "combination"]) == ["0.1-a", "0.1-b", "0.2-a", "0.2-b"]
    assert list(latency.loc[latency["front"], "combination"]) == ["0.1-b", "0.2-b"]
    assert "0.2-a" not in set(latency["combination"])


def test_the_page_has_its_figures_and_names_what_is_missing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = sweep(ADDITIVE)
    data.missing["0.3-a"] = "no results; its logs are below x"
    directory = tmp_path_factory.mktemp("page")
    write_sweep_page(data, rankings(data), directory)
    page = (directory / "index.html").read_text()
    for text in ("0.2-b", "Effect of each key", "Variants without results", "0.3-a", "box_filled"):
        assert text in page
    first = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert {"ranking.png", "variants.csv", "main_effects.csv", "interactions.csv"} <= first.keys()
    write_sweep_page(data, rankings(data), directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == first
