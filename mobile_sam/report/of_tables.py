"""What tables of validation hold, of whatever weights."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mobile_sam.config import UserError
from mobile_sam.layout import BOX_FILLED
from mobile_sam.report.measured import Measured, What
from mobile_sam.report.reading import (
    joined,
    read_costs,
    read_objects,
    read_precision,
    read_sweep,
    table_name,
)


def measured_tables(
    tables: Sequence[Path], title: str, mask_threshold: float = 0.0, examples: int = 6
) -> Measured:
    """Tables of one data set; the page is about the first that is not the filled box.

    Costs are read from `cost.csv` beside the first table. Raises UserError for two tables of one
    name, or when there is only the filled box.
    """
    names = [table_name(path) for path in tables]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"there are several tables of {twice[0]}; give each checkpoint a name")
    whats = tuple(_what(name, path) for name, path in zip(names, tables, strict=True))
    models = [what.name for what in whats if what.kind != "baseline"]
    if not models:
        raise UserError(f"{', '.join(map(str, tables))}: no table of a model; add one")
    main, *others = models
    return Measured(
        title=title,
        whats=whats,
        main=main,
        pairs=tuple((main, name) for name in names if name != main),
        steps=tuple((main, other) for other in others),
        worse=f"Where another is better than {main}",
        objects=joined([read_objects(what.table, what.name) for what in whats]),
        sweeps=pd.concat([read_sweep(w.table, w.name) for w in whats], ignore_index=True),
        mask_threshold=mask_threshold,
        examples=examples,
        precision=read_precision({what.name: what.table for what in whats}),
        costs=read_costs(tables[0].with_name("cost.csv")),
    )


def _what(name: str, path: Path) -> What:
    if name == BOX_FILLED:
        return What(name, "baseline", "the box itself as the mask: what takes no model", path)
    return What(name, "compared", f"the table {path.name}", path)
