"""Checkpoints of the original MobileSAM and SAM are measured as they are."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from mobile_sam.evaluation.options import EvaluationOptions
from mobile_sam.evaluation.standalone import EvaluationPaths, evaluate_weights
from tests.helpers.oracle import original

HOW = EvaluationOptions(0.0, (0.0,), ("box", "point"))


def test_original_checkpoints_are_recognised_and_measured(
    tmp_path: Path, scenes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = []
    for name, state in original("states", {}, tmp_path).items():
        files.append(tmp_path / f"{name}.pth")
        torch.save(state, files[-1])
    caplog.set_level("INFO")
    data = scenes / "val" / "image", scenes / "val" / "mask"
    tables = evaluate_weights(files, *data, EvaluationPaths(tmp_path / "out"), HOW, img_size=128)
    assert [table.name for table in tables] == [
        *("box_filled.parquet", "mobile.parquet", "sam.parquet")
    ]
    assert "mobile (vit_t): " in caplog.text
    assert "sam (vit_b): " in caplog.text
    boxes, mobile, sam = (pd.read_parquet(table) for table in tables)
    assert len(mobile) == len(sam) == 2 * len(boxes) > 0
    assert mobile["iou"].tolist() != sam["iou"].tolist()
    assert mobile["predicted_iou"].notna().all()
