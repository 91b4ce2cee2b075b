"""What several sections draw from, computed once."""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from mobile_sam.report.differences import Difference, all_differences
from mobile_sam.report.measured import Measured
from mobile_sam.report.tables import by_size, summary


@dataclass(frozen=True)
class Numbers:
    """Tables of what was measured, each computed at its first use."""

    measured: Measured

    @cached_property
    def summary(self) -> pd.DataFrame:
        return summary(self.measured.objects)

    @cached_property
    def sizes(self) -> pd.DataFrame:
        return by_size(self.measured.objects)

    @cached_property
    def differences(self) -> list[Difference]:
        return all_differences(self.measured)
