"""Folds: parts of the images that take turns in validation."""

import re
from pathlib import Path

import pytest

from mobile_sam.config.sections import Data
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import DatasetError, Index
from mobile_sam.data.synthetic import write_scenes


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("folds")
    write_scenes(directory, 11, 32, seed=0)
    return directory


def folds(
    images: Path, target: Path, of: int, **options: object
) -> list[tuple[set[str], set[str]]]:
    """Ids of training and validation images of each fold."""
    found = []
    for number in range(of):
        data = Data.model_validate({"fold": {"number": number, "of": of}, **options})
        index = target / f"{number}.parquet"
        index_dataset({"train": (images / "image", images / "mask")}, index, data)
        train, val = (Index(index, split) for split in ("train", "val"))
        found.append(tuple({i[n].image_id for n in range(len(i))} for i in (train, val)))
    return found  # type: ignore[return-value]


def test_each_image_is_validated_in_one_fold_and_trained_in_the_others(
    images: Path, tmp_path: Path
) -> None:
    parts = folds(images, tmp_path, 4)
    everything = parts[0][0] | parts[0][1]
    assert len(everything) == 11
    assert sorted(len(val) for _, val in parts) == [2, 3, 3, 3]
    assert set.union(*(val for _, val in parts)) == everything
    assert all(train == everything - val for train, val in parts)
    assert folds(images, tmp_path, 4, split_seed=1) != parts


def test_a_group_is_in_one_fold(images: Path, tmp_path: Path) -> None:
    """Groups of 10 images and of 1, by the last digit but one."""
    parts = folds(images, tmp_path, 2, groups=r"scene_000(\d)")
    assert sorted(len(val) for _, val in parts) == [1, 10]
    for train, val in parts:
        groups = [{re.findall(r"scene_000(\d)", name)[0] for name in ids} for ids in (train, val)]
        assert not groups[0] & groups[1]


def test_more_folds_than_groups_are_an_error(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"data\.fold: of: 3, but there are 2 images or groups"):
        folds(images, tmp_path, 3, groups=r"scene_000(\d)")


def test_the_number_of_a_fold_counts_from_0() -> None:
    with pytest.raises(ValueError, match="number must be less than 3"):
        Data.model_validate({"fold": {"number": 3, "of": 3}})
