"""Names that become paths and words of a shell, and calls that the package does not make."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mobile_sam.config.architectures import architecture
from mobile_sam.config.checkpoints import checkpoint_names
from mobile_sam.config.load import resolve
from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.evaluation import standalone
from mobile_sam.evaluation.options import evaluation_options
from mobile_sam.evaluation.validate_run import validate
from mobile_sam.paths import RunPaths, extra_checkpoints
from mobile_sam.system.errors import UserError
from mobile_sam.training.run import train_run
from tests.helpers.commands import ROOT
from tests.helpers.runs import tiny_settings

LEAVING = ["../x", "..", "/x", "a/../../x", "a/b", "a..b", ".hidden", "", "-x"]
FOR_A_SHELL = ["a b", "a\n", "$(touch x)", "a;touch x", "`touch x`", "a'b", 'a"b', "a|b", "{x}"]


@pytest.mark.parametrize("name", [*LEAVING, *FOR_A_SHELL])
@pytest.mark.parametrize("key", ["run_name", "project_name", "stage_schedule"])
def test_names_that_are_no_plain_name_are_refused(
    key: str, name: str, scenes: Path, tmp_path: Path
) -> None:
    stage = {"start_epoch": 0, "end_epoch": 1, "name": name}
    settings = tiny_settings(scenes, tmp_path) | {key: [stage] if "stage" in key else name}
    with pytest.raises(UserError, match=rf"{key}.*: use letters, digits, '_', '-' and '\.' only"):
        parse_config(settings, "test")


@pytest.mark.parametrize(
    "path", [*FOR_A_SHELL, "~/x", "-x", "#x", "a*", "a?", "[a]", "a\\b", "a&b"]
)
@pytest.mark.parametrize("key", ["output_dir", "train_img_dir_teacher_features"])
def test_paths_that_shell_commands_carry_have_no_meaning_there(
    key: str, path: str, scenes: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"{key}: .* becomes part of shell commands"):
        parse_config(tiny_settings(scenes, tmp_path) | {key: path}, "test")


@pytest.mark.parametrize("path", ["../results", "/data/Jürgen/a-b_c.d", "a=b,c+d@e%f:g~1", "."])
def test_other_paths_may_be_anywhere(path: str, scenes: Path, tmp_path: Path) -> None:
    settings = tiny_settings(scenes, tmp_path) | {"output_dir": path}
    assert RunPaths(parse_config(settings, "test")).run == Path(path) / "mobile_sam" / "tiny"


# What the commands of rules are filled with, and why it is one word that does nothing.
FILLED = {
    "log": "below output_dir, a PlainPath",
    "params.settings": "below output_dir, a PlainPath; names of stores are cleaned",
    "params.target": "below output_dir, of run names, which are SafeNames",
    "params.stage": "a number and a SafeName",
    "params.what": "a stage, a cleaned file name, or a SafeName",
    "params.manifest": "below output_dir, of a run name, which is a SafeName",
    "params.step": "written in the rule",
    "params.epoch": "a number",
    "resources.launcher": "srun with numbers, or nothing",
    "params.part": "a number",
    "params.name": "a known data set or checkpoint",
    "threads": "a number",
}


def test_commands_of_rules_are_filled_with_checked_values_alone() -> None:
    found = set()
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        commands = re.findall(r"shell:((?:\s*\"[^\"]*\")+)", path.read_text())
        assert commands
        found |= {name for text in commands for name in re.findall(r"\{([^}]*)\}", text)}
    assert found == set(FILLED)


@pytest.mark.parametrize("name", ["../x", "..", "/etc", "a/b", "", "$(touch x)"])
def test_references_to_runs_stay_in_the_project(name: str, scenes: Path, tmp_path: Path) -> None:
    taught = {"teacher_checkpoint": f"run:{name}", "teacher_model_type": "tiny_teacher_vit"}
    config = parse_config(tiny_settings(scenes, tmp_path) | taught, "test")
    with pytest.raises(UserError, match=r"'run:.*' is not the name of a run; give run:<run"):
        _ = RunPaths(config).teacher_weights
    started = tiny_settings(scenes, tmp_path, checkpoint=f"run:{name}:00_a")
    with pytest.raises(UserError, match=r"'run:.*' is not the name of a run; give run:<run"):
        _ = RunPaths(parse_config(started, "test")).start_weights
    if name:
        started = tiny_settings(scenes, tmp_path, checkpoint=f"run:x:{name}")
        with pytest.raises(UserError, match="is not the name of a stage"):
            _ = RunPaths(parse_config(started, "test")).start_weights
    config = parse_config(tiny_settings(scenes, tmp_path, compare=(f"run:{name}",)), "test")
    with pytest.raises(UserError, match=r"'run:.*' is not the name of a run; give run:<run"):
        checkpoint_names(config)


def test_weights_to_compare_get_names_without_a_path(scenes: Path, tmp_path: Path) -> None:
    weights = ("../up.pt", "/etc/$(touch x).pt", "run:other")
    config = parse_config(tiny_settings(scenes, tmp_path, compare=weights), "test")
    assert list(extra_checkpoints(config)) == ["up", "touch_x", "run_other"]
    tables = {RunPaths(config).validation(what).parent for what in checkpoint_names(config)}
    assert tables == {RunPaths(config).run / "validation"}


@pytest.mark.parametrize(
    "name", ["../configs/mobileSAM", "overlays/demo", "/etc/hostname", "schema"]
)
def test_runs_are_found_by_name_in_configs_alone(name: str) -> None:
    with pytest.raises(UserError, match=rf"run: '{name}' is unknown; known runs: "):
        resolve(name, None, {})
    with pytest.raises(UserError, match=r"overlay: .* is unknown; known overlays: "):
        resolve("mobileSAM", name, {})


def test_what_a_job_is_asked_for_is_one_of_its_run(tiny: Callable[..., RunConfig]) -> None:
    config = tiny()
    with pytest.raises(UserError, match=r"--checkpoint: there is no '\.\./x'; there are box_fi"):
        validate(config, "../x")
    with pytest.raises(UserError, match=r"--stage: there is no '\.\./x'; there are 00_"):
        train_run(config, "../x")


@pytest.mark.parametrize("name", ["../../../x", "local-dir:/x", "hf-hub:x/y", "a/b", ""])
def test_models_of_timm_come_from_timm_and_lead_to_no_path(
    name: str, scenes: Path, tmp_path: Path
) -> None:
    assert architecture("timm/resnet18.a1_in1k")["image_encoder"]["name"] == "resnet18.a1_in1k"
    for key in ("model_type", "teacher_model_type"):
        settings = tiny_settings(scenes, tmp_path) | {key: f"timm/{name}"}
        with pytest.raises(UserError, match=f"{key}: 'timm/.*' is unknown; known are "):
            parse_config(settings, "test")


def test_results_stay_below_output_dir_whatever_data_and_teacher_are_called(
    scenes: Path, tmp_path: Path
) -> None:
    hostile: dict[str, Any] = {
        "train_img_dir": "/x/$(touch x)/..;/train/image",
        "teacher_checkpoint": "../../a b/$(x)/teacher.pt",
        "data": {"subset": "../../../subset.txt"},
    }
    config = parse_config(tiny_settings(scenes, tmp_path, **hostile), "test")
    paths = RunPaths(config)
    (stage,) = normalise(config)
    places = [paths.index, paths.features, paths.features_plan, paths.shared_logs]
    places += [paths.lock(stage), paths.sweep, paths.stage_weights(stage), paths.stage_link(stage)]
    places += [paths.checkpoint(stage), paths.state(stage), paths.validation("x"), paths.weights]
    for place in places:
        below = place.relative_to(tmp_path).as_posix()
        assert re.fullmatch(r"[A-Za-z0-9_.+/-]+", below), below
        assert ".." not in below


def test_a_table_of_an_evaluation_does_not_replace_that_of_the_filled_box(
    scenes: Path, tmp_path: Path, tiny: Callable[..., RunConfig]
) -> None:
    masks, name = scenes / "val" / "mask", "box_filled.pt"
    how, places = evaluation_options(tiny()), standalone.EvaluationPaths(tmp_path / "out")
    with pytest.raises(UserError, match=rf"--weights .*{name}: .* is there already; rename"):
        standalone.evaluate_weights([tmp_path / name], masks.with_name("image"), masks, places, how)
    assert not (tmp_path / "out").exists()


# A call that could run what is in a file, and a line that shows that the pattern finds it.
CALLS = {
    r"torch\.load\((?!.*weights_only=True)": "torch.load(path)",
    r"weights_only=(?!True)": "torch.load(path, weights_only=False)",
    r"\b(c?[pP]ickle|dill|joblib|marshal|shelve)\.(loads?|open|Unpickler)\b": "pickle.load(file)",
    r"from (pickle|dill|joblib|marshal|shelve) import": "from pickle import loads",
    r"read_pickle": "pd.read_pickle(path)",
    r"np\.(load|memmap)\((?!.*allow_pickle=False)": "np.load(path)",
    r"allow_pickle=(?!False)": "np.load(path, allow_pickle=True)",
    r"(?<![\w.])(eval|exec)\(": "x = eval(text)",
    r"shell=True|os\.system|os\.popen": "subprocess.run(text, shell=True)",
    r"yaml\.(?!safe_load|dump|YAMLError)\w+\(": "yaml.load(text)",
    r"\.extract(all)?\(|unpack_archive|tarfile": "archive.extractall(place)",
    r"zarr\.(open|load)": "zarr.open(path)",
    r"hub\.load|trust_remote_code": "torch.hub.load(name)",
    r"Markup\(": "Markup(text)",
}
ALLOWED = {
    ("mobile_sam/features/arrays.py", r"zarr\.(open|load)"): "opens stores in one place",
    ("mobile_sam/data/tiff.py", r"zarr\.(open|load)"): "opens the blocks of a TIFF, no store",
    ("mobile_sam/data/ome_zarr.py", r"zarr\.(open|load)"): "refuses chunks of Python objects",
    (
        "mobile_sam/export/web_page.py",
        r"\.extract(all)?\(|unpack_archive|tarfile",
    ): "named files are read, and the archive's sha256 is known",
    ("mobile_sam/report/page.py", r"Markup\("): "files of the package",
    ("mobile_sam/report/plots/figures.py", r"Markup\("): "SVG, escaped by matplotlib",
}


def sources() -> Iterator[Path]:
    yield ROOT / "Snakefile"
    for directory, kind in (("mobile_sam", "*.py"), ("benchmarks", "*.py"), ("workflow", "*.smk")):
        yield from sorted((ROOT / directory).rglob(kind))


@pytest.mark.parametrize("call", CALLS)
def test_no_call_could_run_what_is_in_a_file(call: str) -> None:
    assert re.search(call, CALLS[call])
    found = {
        (path.relative_to(ROOT).as_posix(), call)
        for path in sources()
        if any(re.search(call, line) for line in path.read_text().splitlines())
    }
    assert found == {entry for entry in ALLOWED if entry[1] == call}


def test_tests_that_security_md_names_are_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 4
    assert all((ROOT / name).is_file() for name in named)
