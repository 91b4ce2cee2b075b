"""Too little memory: each verb says what to lower, and goes on when there is enough."""

from pathlib import Path

import pytest

from mobile_sam.data.synthetic import write_scenes
from tests.helpers.fault_projects import OUTPUTS, Project

pytestmark = pytest.mark.faults

# MiB of addresses beyond those of a verb that has not begun, and what the verb can do with less of.
MEMORY = {
    "index": (24, "fewer --workers"),
    "extract": (700, "lower num_workers"),  # the store is there by then
    "train": (250, "lower num_workers or set recompute_encoder to true"),
    "validate": (250, "lower num_workers, or give Snakemake fewer --cores"),
    "report": (60, "lower report_examples"),
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Few images, which a model sees at 768 pixels; one of them is large by itself."""
    directory = tmp_path_factory.mktemp("large")
    write_scenes(directory / "scenes" / "train", 1, 2048, seed=0)
    write_scenes(directory / "scenes" / "val", 1, 64, seed=1)
    project = Project(directory / "project")
    project.write(directory / "scenes", img_size=768, protocols=["box"])
    for verb in OUTPUTS:
        project.finish(verb)
    return project


@pytest.mark.parametrize("verb", MEMORY)
def test_with_too_little_memory_a_verb_says_what_to_lower(
    verb: str, large: Project, tmp_path: Path
) -> None:
    project = large.copy(tmp_path / "project", without=verb)
    others = project.files(verb)
    memory, advice = MEMORY[verb]
    sentence = project.verb(verb, memory=memory).sentence
    assert sentence.startswith("the memory of this machine is too small")
    assert advice in sentence
    assert project.differing(large, verb) == project.unfinished() == []
    project.finish(verb)
    assert project.differing(large) == project.missing(large) == []
    assert project.files(verb) == others
