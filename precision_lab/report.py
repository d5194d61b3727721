"""From a study to what people look at: the engine's table and manifest, a summary, and the figure drawn
from that table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import engine, figures
from .files import atomic, write_json
from .result import Result, load_result
from .study import Analysis, Study
from .types import Profile


def run(
    name: str, profile: Profile, out: Path, *, seed: int = 0, jobs: int = 1, folder: Path = engine.FOLDER
) -> tuple[Result, list[Path]]:
    """:func:`engine.run`, then the figure. Returns the result and the files: table, manifest, summary, SVG
    and PNG."""
    result, files = engine.run(name, profile, out, seed=seed, jobs=jobs, folder=folder)
    assert result.analysis is not None
    return result, files + _shown(engine.load_study(name, folder), result.rows, result.analysis, out)


def remake(name: str, out: Path, *, folder: Path = engine.FOLDER) -> list[Path]:
    """Verdict, findings, summary and figure made again from the table in ``out``, which stays as it is.

    For a change of wording or of drawing: nothing is measured. Returns the files written. Raises InputError
    where the table or its manifest is missing.
    """
    study, found = engine.load_study(name, folder), load_result(out, name)
    rows, analysis = engine.analysed(study, found.frame, found.manifest["seed"], folder)
    findings = [finding.record() for finding in analysis.findings]
    fresh = {"question": study.question, "verdict": analysis.text(), "findings": findings}
    manifest: dict[str, Any] = {}
    for key, value in found.manifest.items():
        manifest[key] = fresh.pop(key, value)
        if key == "verdict" and "findings" in fresh:
            manifest["findings"] = fresh.pop("findings")
    write_json(out / f"{name}.json", manifest)
    return [out / f"{name}.json", *_shown(study, rows, analysis, out)]


def _shown(study: Study, rows: Any, analysis: Analysis, out: Path) -> list[Path]:
    """The summary, if there is one, and the figure."""
    files = []
    if analysis.summary is not None:
        path = out / f"{study.name}_summary.csv"
        with atomic(path) as partial:
            analysis.summary.to_csv(partial, index=False, float_format="%.4g", lineterminator="\n")
        files.append(path)
    with figures.style():
        return files + figures.save(study.figure(rows, analysis), out / study.name)
