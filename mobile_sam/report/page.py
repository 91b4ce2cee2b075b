"""HTML page: one file that needs no network, with its PNG and CSV files beside it."""

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from mobile_sam.report.inputs.from_sweep import SweepData
from mobile_sam.report.inputs.report_data import ReportData
from mobile_sam.report.sections import accuracy, prompts, training_cost_data
from mobile_sam.report.sections.blocks import FigureBlock, Section, Table
from mobile_sam.report.sections.gallery import gallery
from mobile_sam.report.sections.sweep import sections as sweep_sections
from mobile_sam.report.sections.verdict import Tile, tiles, verdict
from mobile_sam.report.sweep_statistics import Rankings
from mobile_sam.report.sweep_statistics import verdict as sweep_verdict
from mobile_sam.report.tables import ReportTables
from mobile_sam.system.atomic_files import atomic_write_files


def write_page(report: ReportData, directory: Path) -> None:
    """Write index.html into `directory`, and the PNG and CSV of each figure and table beside it.

    Equal inputs give equal bytes.
    """
    with atomic_write_files(directory, last="index.html") as unfinished:
        _write(ReportTables(report), unfinished)


def write_sweep_page(sweep: SweepData, tables: Rankings, directory: Path) -> None:
    """Write the page about the variants of a run, like `write_page`."""
    with atomic_write_files(directory, last="index.html") as unfinished:
        sections = sweep_sections(sweep, tables)
        _write_files(sections, unfinished)
        page = _html(sweep.title, sweep_verdict(sweep, tables), (), sections)
        (unfinished / "index.html").write_text(page, encoding="utf-8")


def _write(tables: ReportTables, directory: Path) -> None:
    report, summary = tables.report, tables.summary
    summary.to_csv(directory / "summary.csv", index=False)
    sections = [section for make in SECTIONS if (section := make(tables, directory)) is not None]
    _write_files(sections, directory)
    sentences = verdict(report, summary, tables.differences)
    page = _html(report.title, sentences, tiles(report, summary, tables.differences), sections)
    (directory / "index.html").write_text(page, encoding="utf-8")


def _write_files(sections: Sequence[Section], directory: Path) -> None:
    """Write the CSV and PNG files of sections."""
    for section in sections:
        for block in section.blocks:
            if isinstance(block, FigureBlock):
                block.figure.write(directory)
            elif isinstance(block, Table) and block.name:
                block.frame.to_csv(directory / f"{block.name}.csv", index=False)


def _html(
    title: str, sentences: Sequence[str], numbers: Sequence[Tile], sections: Sequence[Section]
) -> str:
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.PackageLoader("mobile_sam.report", "."),
    )
    return environment.get_template("page.html").render(
        title=title,
        verdict=sentences[0],
        reasons=sentences[1:],
        tiles=numbers,
        sections=sections,
        style=_own("page.css"),
        script=_own("page.js"),
    )


def _own(name: str) -> Markup:
    """Read a file of this package that is inserted without escaping."""
    return Markup(resources.files("mobile_sam.report").joinpath(name).read_text(encoding="utf-8"))  # noqa: S704


def _from_tables(
    make: Callable[[ReportTables], Section | None],
) -> Callable[[ReportTables, Path], Section | None]:
    return lambda tables, _: make(tables)


# Sections in the order of the page; a section without data is left out.
SECTIONS: tuple[Callable[[ReportTables, Path], Section | None], ...] = (
    _from_tables(accuracy.results),
    _from_tables(accuracy.differences),
    lambda tables, directory: gallery(tables.report, directory),
    _from_tables(accuracy.sizes),
    _from_tables(accuracy.distribution),
    _from_tables(prompts.clicks),
    _from_tables(prompts.automatic),
    _from_tables(prompts.precision),
    _from_tables(training_cost_data.cost),
    _from_tables(training_cost_data.training),
    _from_tables(prompts.calibration),
    _from_tables(prompts.thresholds),
    _from_tables(training_cost_data.data),
    _from_tables(training_cost_data.origin),
)
