"""From a study to what people look at: the engine's table and manifest, and the figure drawn from that table."""

from __future__ import annotations

from pathlib import Path

from . import engine, figures
from .result import Result
from .types import Profile


def run(
    name: str, profile: Profile, out: Path, *, seed: int = 0, jobs: int = 1, folder: Path = engine.FOLDER
) -> tuple[Result, list[Path]]:
    """:func:`engine.run`, then the figure. Returns the result and the files: table, manifest, SVG and PNG."""
    result, files = engine.run(name, profile, out, seed=seed, jobs=jobs, folder=folder)
    with figures.style():
        files += figures.save(engine.load_study(name, folder).draw(result.frame), out / name)
    return result, files
