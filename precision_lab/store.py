"""Measured cells on disk, one small JSON file each, so that a long run resumes by the same command."""

from __future__ import annotations

from pathlib import Path

from .errors import InputError
from .files import read_json, write_json
from .study import Cell, Row, Study


class Store:
    """``<out>/cells/<study>/<id>.json``. A file that cannot be read is measured again, not trusted."""

    def __init__(self, out: Path, study: Study, seed: int) -> None:
        self.folder, self.study, self.seed = out / "cells" / study.name, study, seed

    def path(self, cell: Cell) -> Path:
        return self.folder / f"{self.study.cell_id(cell, self.seed)}.json"

    def get(self, cell: Cell) -> dict | None:
        try:
            found = read_json(self.path(cell))
        except InputError:
            return None
        sound = isinstance(found, dict) and isinstance(found.get("rows"), list) and "seconds" in found
        return found if sound and found.get("cell") == cell else None

    def put(self, cell: Cell, rows: list[Row], seconds: float, *, commit: str | None = None) -> dict:
        """``commit``: of the code that measured the rows, if that is known."""
        record = {"cell": cell, "rows": rows, "seconds": round(seconds, 3), "commit": commit}
        write_json(self.path(cell), record, strict=False)  # a measure may be NaN or infinite
        return record
