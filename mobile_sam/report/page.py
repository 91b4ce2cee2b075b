"""The HTML page: one file without any reference to the network, its PNGs and CSVs beside it."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from mobile_sam.files import whole_files
from mobile_sam.report import behaviour, making, quality
from mobile_sam.report.blocks import Drawing, Section, Table
from mobile_sam.report.measured import Measured
from mobile_sam.report.numbers import Numbers
from mobile_sam.report.pictured import gallery
from mobile_sam.report.verdict import tiles, verdict


def write_page(measured: Measured, directory: Path) -> None:
    """Write index.html into `directory`, and beside it the PNG and CSV of each picture and table.

    Equal inputs give equal bytes.
    """
    with whole_files(directory, last="index.html") as unfinished:
        _write(Numbers(measured), unfinished)


def _write(numbers: Numbers, directory: Path) -> None:
    numbers.summary.to_csv(directory / "summary.csv", index=False)
    sections = [section for make in SECTIONS if (section := make(numbers, directory)) is not None]
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Drawing):
                block.picture.write(directory)
            elif isinstance(block, Table) and block.name:
                block.frame.to_csv(directory / f"{block.name}.csv", index=False)
    (directory / "index.html").write_text(_html(numbers, sections), encoding="utf-8")


def _html(numbers: Numbers, sections: list[Section]) -> str:
    measured = numbers.measured
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.PackageLoader("mobile_sam.report", "."),
    )
    sentences = verdict(measured, numbers.summary, numbers.differences)
    return environment.get_template("page.html").render(
        title=measured.title,
        verdict=sentences[0],
        reasons=sentences[1:],
        tiles=tiles(measured, numbers.summary, numbers.differences),
        sections=sections,
        style=_own("page.css"),
        script=_own("page.js"),
    )


def _own(name: str) -> Markup:
    """A file of this package, which is to be taken as it is."""
    return Markup(resources.files("mobile_sam.report").joinpath(name).read_text())  # noqa: S704


def _of_numbers(
    make: Callable[[Numbers], Section | None],
) -> Callable[[Numbers, Path], Section | None]:
    return lambda numbers, _: make(numbers)


# The sections in the order of the page; each is there when there is something to say in it.
SECTIONS: tuple[Callable[[Numbers, Path], Section | None], ...] = (
    _of_numbers(quality.results),
    _of_numbers(quality.differences),
    lambda numbers, directory: gallery(numbers.measured, directory),
    _of_numbers(quality.sizes),
    _of_numbers(quality.distribution),
    _of_numbers(behaviour.clicks),
    _of_numbers(behaviour.automatic),
    _of_numbers(behaviour.precision),
    _of_numbers(making.cost),
    _of_numbers(making.training),
    _of_numbers(behaviour.calibration),
    _of_numbers(behaviour.thresholds),
    _of_numbers(making.data),
    _of_numbers(making.origin),
)
