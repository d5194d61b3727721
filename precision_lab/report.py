"""From a study to what people look at: the engine's table and manifest, a summary, and the figure drawn from that table."""

from __future__ import annotations

from pathlib import Path

from . import engine, figures
from .files import atomic
from .result import Result
from .types import Profile


def run(
    name: str, profile: Profile, out: Path, *, seed: int = 0, jobs: int = 1, folder: Path = engine.FOLDER
) -> tuple[Result, list[Path]]:
    """:func:`engine.run`, then the figure. Returns the result and the files: table, manifest, summary, SVG and PNG."""
    result, files = engine.run(name, profile, out, seed=seed, jobs=jobs, folder=folder)
    study = engine.load_study(name, folder)
    if study.summary is not None:
        path = out / f"{name}_summary.csv"
        with atomic(path) as partial:
            study.summary(result.frame).to_csv(partial, index=False, float_format="%.4g", lineterminator="\n")
        files.append(path)
    with figures.style():
        files += figures.save(study.draw(result.frame), out / name)
    return result, files
