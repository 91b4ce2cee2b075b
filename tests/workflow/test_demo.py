"""The demo itself, at its full size: minutes, so `make test-long` runs it."""

from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.commands import snakemake
from tests.helpers.fork_server import real_processes


@pytest.mark.long
def test_every_stage_of_the_demo_helps(tmp_path: Path) -> None:
    with real_processes():
        result = snakemake(tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "img/s" in result.stderr + result.stdout
    assert "left" in result.stderr + result.stdout
    run = tmp_path / "results/mobile_sam/distill_then_finetune-demo"
    table = pd.read_csv(run / "report/summary.csv")
    boxes = table[table["prompt"] == "box"].set_index("checkpoint")["miou"]
    assert boxes["00_distill"] >= boxes["start"] + 0.15
    assert boxes["00_distill"] >= boxes["box_filled"] + 0.05
    assert boxes["01_finetune"] >= boxes["00_distill"]
    assert boxes["01_finetune"] >= boxes["box_filled"] + 0.1
    assert str(Path("distill_then_finetune-demo/report/index.html")) in result.stdout
