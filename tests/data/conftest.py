"""Fixtures that tests of data share."""

from typing import Any

import pytest

from mobile_sam.data.index import build
from mobile_sam.data.record import Record


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the images that are read."""
    read: list[str] = []
    original = build.read_rows

    def spy(records: list[Record], *arguments: Any) -> Any:
        read.extend(record.image_id for record in records)
        return original(records, *arguments)

    monkeypatch.setattr(build, "read_rows", spy)
    return read
