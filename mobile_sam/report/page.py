"""The HTML page: one file without any reference to the network."""

import base64
import json
from importlib import resources

import jinja2
import pandas as pd

from mobile_sam.config import RunConfig
from mobile_sam.data.summary import Summary, summarise
from mobile_sam.layout import RunPaths
from mobile_sam.plan import results_table
from mobile_sam.report.data_plots import plot_data
from mobile_sam.report.plots import plot_epochs, plot_examples, plot_histogram
from mobile_sam.report.tables import epochs_table, objects_table, summary, verdict
from mobile_sam.schedule import normalise
from mobile_sam.teachers import named_teachers
from mobile_sam.training import checkpoint


def write_report(config: RunConfig) -> str:
    """Draw the report of a run whose validation tables exist; trains nothing.

    Writes index.html, summary.csv, epochs.csv and the PNGs. Returns the results for a terminal.
    """
    target = RunPaths(config).report
    target.mkdir(parents=True, exist_ok=True)
    objects, epochs = objects_table(config), epochs_table(config)
    table, data = summary(objects), summarise(RunPaths(config).index)
    epochs.to_csv(target / "epochs.csv", index=False)
    plot_data(data, target / "data.png")
    plot_epochs(epochs, target / "epochs.png")
    plot_histogram(objects, target / "iou_histogram.png")
    plot_examples(objects, config.report_examples, target / "examples.png")
    (target / "index.html").write_text(_page(config, table, epochs, objects, data))
    table.to_csv(target / "summary.csv", index=False)
    return results_table(config)


def _page(
    config: RunConfig,
    table: pd.DataFrame,
    epochs: pd.DataFrame,
    objects: pd.DataFrame,
    data: Summary,
) -> str:
    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).from_string(resources.files("mobile_sam.report").joinpath("page.html").read_text())
    stages = normalise(config)
    times = epochs.groupby("stage", sort=False)["seconds"].sum()
    target = RunPaths(config).report
    boxes = objects[objects["checkpoint"] == "box_filled"]
    return template.render(
        title=f"{config.project_name} / {config.run_name}",
        verdict=verdict(table, config),
        prompts=list(table["prompt"].unique()),
        rows=_rows(table),
        teachers=named_teachers(config),
        stages=[{"stage": stage, "seconds": times.get(stage.directory, 0.0)} for stage in stages],
        threshold=config.mask_threshold,
        images=boxes["image_id"].nunique(),
        segments=len(boxes),
        pictures={
            name: "data:image/png;base64,"
            + base64.b64encode((target / f"{name}.png").read_bytes()).decode()
            for name in ("data", "epochs", "iou_histogram", "examples")
        },
        examples=config.report_examples,
        data=data.text(),
        provenance=checkpoint.load(RunPaths(config).checkpoint(stages[-1]))["provenance"],
        settings=json.dumps(config.model_dump(), indent=2),
    )


def _rows(table: pd.DataFrame) -> list[dict[str, object]]:
    names = table["checkpoint"].unique()
    return [
        {
            "name": name,
            "cells": {
                row["prompt"]: row for _, row in table[table["checkpoint"] == name].iterrows()
            },
        }
        for name in names
    ]
