"""Finished results: they outlive their outputs, and are those of the same settings or none."""

import os
from pathlib import Path

import pytest

from mobile_sam.system.atomic_files import link
from mobile_sam.system.finished_results import Finished, discard, discard_all


@pytest.fixture
def outputs(tmp_path: Path) -> list[Path]:
    return [tmp_path / "out" / name for name in ("table.csv", "weights.pt")]


def finished(outputs: list[Path], key: str = "same") -> Finished:
    return Finished(outputs[0].parents[1] / "places" / "one", key, outputs)


def make(results: Finished) -> None:
    with results.making() as place:
        for path in results.outputs:
            (place / path.name).write_text(f"{path.name} of {results.key}")


def remove(outputs: list[Path]) -> None:
    for path in outputs:
        path.unlink()


def test_results_are_restored_after_their_outputs_are_deleted(outputs: list[Path]) -> None:
    results = finished(outputs)
    assert not results.restore()
    make(results)
    kept = [results.place / path.name for path in outputs]
    assert [path.stat().st_ino for path in outputs] == [path.stat().st_ino for path in kept]
    for path in outputs:
        os.utime(path, (1, 1))
    remove(outputs)
    assert finished(outputs).restore()
    assert outputs[1].read_text() == "weights.pt of same"
    assert all(path.stat().st_mtime > 1 for path in outputs)
    assert finished(outputs).restore()  # in place of what is there


def test_where_links_cannot_be_results_are_copied(
    outputs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    results = finished(outputs)
    make(results)
    assert outputs[0].stat().st_ino != (results.place / outputs[0].name).stat().st_ino
    remove(outputs)
    assert results.restore()
    assert outputs[0].read_text() == "table.csv of same"


def test_results_of_another_key_are_removed(
    outputs: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    make(finished(outputs))
    remove(outputs)
    caplog.set_level("INFO")
    other = finished(outputs, "other")
    assert not other.restore()
    assert "belong to other settings or inputs; removed" in caplog.text
    assert not other.place.exists()
    make(other)
    assert outputs[1].read_text() == "weights.pt of other"


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("x")])
def test_damaged_results_are_removed(
    change: object, outputs: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    results = finished(outputs)
    make(results)
    change(results.place / "weights.pt")  # type: ignore[operator]
    caplog.set_level("INFO")
    assert not results.restore()
    assert "do not match their checksums; removed" in caplog.text
    assert not results.place.exists()


def test_results_are_finished_with_the_last_of_them(outputs: list[Path]) -> None:
    """Whatever the process that makes them has come to."""
    results = finished(outputs)
    with pytest.raises(KeyboardInterrupt), results.making() as place:
        (place / "table.csv").write_text("first")
        assert not results.restore()
        (place / "weights.pt").write_text("second")
        raise KeyboardInterrupt
    assert not outputs[0].exists()
    assert results.restore()
    assert [path.read_text() for path in outputs] == ["first", "second"]


def test_what_a_half_done_removal_has_left_is_not_taken_for_results(outputs: list[Path]) -> None:
    results = finished(outputs)
    make(results)
    (results.place / "key").unlink()
    remove(outputs)
    assert not results.restore()
    with pytest.raises(KeyboardInterrupt), results.making() as place:
        (place / "table.csv").write_text("new")
        raise KeyboardInterrupt
    assert not results.restore()


def test_only_finished_results_are_discarded(outputs: list[Path]) -> None:
    results, other = finished(outputs), Finished(outputs[0].parent / "places" / "two", "k", outputs)
    make(results)
    with other.making() as place:
        discard_all(place.parent)
        discard_all(results.place.parent)
        for path in outputs:
            (place / path.name).write_text("made")
    assert not results.place.exists()
    assert outputs[0].read_text() == "made"
    discard(other.place)
    discard(other.place)
    assert outputs[0].is_file()


def test_a_copy_leaves_other_names_of_the_file_before_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, target = (tmp_path / name for name in ("first", "second", "target"))
    first.write_text("first")
    second.write_text("second")
    os.link(first, target)

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    link(second, target)
    assert [first.read_text(), target.read_text()] == ["first", "second"]
