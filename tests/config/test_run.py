import json
import re
import subprocess
import sys
from typing import Any

import pytest

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.reference import json_schema, reference
from mobile_sam.config.run import RunConfig
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.package_data import CONFIG_DIR
from tests.helpers.commands import ROOT


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rat": 1}, "my.json: unknown key 'learning_rat'"),
        ({"num_epochs": 0}, r"my.json: num_epochs: .* greater than or equal to 1 \(it is 0\)"),
        ({"img_size": 1000}, "img_size: 1000 is not a multiple of 64; set it to 1024"),
        ({"model_type": "vit_x"}, "model_type: 'vit_x' is unknown; known are .*vit_t"),
        ({"run_name": "../x"}, "run_name: '../x' becomes a directory name"),
        ({"run_name": "a/b"}, "run_name: 'a/b' becomes a directory name"),
        ({"train_img_dir": None}, "go together"),
        ({"loss_weights": {"focal": -1}}, r"loss_weights.focal: .*\(it is -1\)"),
        ({"decoder_from_teacher": True}, "decoder_from_teacher: true needs a teacher_checkpoint"),
        ({"teacher_checkpoint": "random"}, "'random' needs a teacher_model_type"),
        (
            {"distill_feature_level": [2, 2]},
            "distill_feature_level.*: list each level once",
        ),
        (
            {"synthetic": {"objects": "x"}},
            r"synthetic.objects: .*'shapes' or 'cells' \(it is \"x\"",
        ),
        ({"distill_feature_level": []}, "list each level once, and at least one"),
        ({"distill_feature_level": "nek"}, r"level: give 'neck', .* or a list of these \(it is "),
        ({"distill_feature_level": ["neck", -1]}, "level: give 'neck', the number of a block"),
        ({"feature_views": ["hflip"]}, "feature_views: .*and include `identity`"),
        ({"early_stopping": 3, "val_images": 0}, "early_stopping: 3 needs val_images"),
        ({"selection_metric": "clicks", "val_images": 0}, "selection_metric: 'clicks' needs val_i"),
        ({"selection_metric": "centre"}, r"selection_metric: .*'box', 'point'.*\(it is \"centre\""),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(settings, "my.json")


def test_all_wrong_keys_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"seed: .*; batch_size|batch_size: .*; seed"):
        parse_config({"batch_size": 0, "seed": -1}, "my.json")


@pytest.mark.parametrize(
    ("given", "kept"),
    [(8, 8), ([8], 8), (["neck"], "neck"), ([8, "neck", 2], ("neck", 2, 8))],
)
def test_equal_lists_of_levels_are_one_setting(given: object, kept: object) -> None:
    config = parse_config({"run_name": "x", "distill_feature_level": given}, "my.json")
    assert config.distill_feature_level == kept
    again = parse_config(json.loads(config.model_dump_json(exclude={"schema_file"})), "run.json")
    assert again == config


def test_null_directories_need_synthetic_data() -> None:
    nothing = dict.fromkeys(["train_img_dir", "train_mask_dir", "val_img_dir", "val_mask_dir"])
    with pytest.raises(ConfigError, match="train_img_dir is null; set it, or `synthetic`"):
        parse_config(nothing, "my.json")
    assert parse_config(nothing | {"synthetic": {}}, "my.json").synthetic is not None


def test_schema_and_reference_are_current() -> None:
    assert (CONFIG_DIR / "schema.json").read_text() == json_schema(), "run `make reference`"
    assert (CONFIG_DIR / "README.md").read_text() == reference(), "run `make reference`"


def test_every_key_is_described() -> None:
    assert all(field.description for field in RunConfig.model_fields.values())


def test_reading_settings_imports_no_torch() -> None:
    modules = "mobile_sam.config.load, mobile_sam.pipeline.inputs"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_examples_of_data_are_valid() -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    blocks = re.findall(r"^    ({\"train(?:.*\n)+?)\n", page, re.M)
    assert len(blocks) == 10
    for block in blocks:
        config = parse_config({"run_name": "x"} | json.loads(block), "docs/data.md")
        assert set(RunPaths(config).sources) >= {"train"}
