"""Tables in text that a report is drawn from: those of another form are refused in a sentence."""

from pathlib import Path

import pandas as pd
import pytest

from mobile_sam.config.schedule import normalise
from mobile_sam.paths import RunPaths
from mobile_sam.report.write import write_report
from mobile_sam.system.errors import UserError
from tests.helpers.report_runs import write_extras, write_run


@pytest.mark.parametrize(
    ("name", "column", "remedy"),
    [("metrics.csv", "seconds", "train the stage again"), ("cost.csv", "img_size", "measure it")],
)
def test_tables_of_another_form_are_refused(
    name: str, column: str, remedy: str, six_scenes: Path, tmp_path: Path
) -> None:
    config = write_run(six_scenes, tmp_path)
    write_extras(config)
    paths = RunPaths(config)
    path = {"metrics.csv": paths.metrics(normalise(config)[0]), "cost.csv": paths.cost}[name]
    table = pd.read_csv(path)
    table.drop(columns=column).to_csv(path, index=False)
    with pytest.raises(UserError, match=rf"{name}: the table has no column {column}: .*{remedy}"):
        write_report(config)
    for content in ("", "a,b\n1,2,3,4\n5\n"):
        path.write_text(content)
        with pytest.raises(UserError, match=rf"{name}: .*; delete it and {remedy}"):
            write_report(config)
