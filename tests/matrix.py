"""The tests of laws, atoms, sources and samplers under other versions of torch and other instruction sets:
`make test-matrix`.

Each version of torch is installed into an environment of its own, one at a time, and removed afterwards
unless KEEP=1: about 6 GB under TMPDIR, or .cache/matrix without one. The same command resumes: what was run
is kept in .cache/matrix until a file of the package or of the tests changes. Progress goes to stderr, the
table to stdout. Exit code 1 where a test failed or an environment could not be built.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
KEPT = ROOT / ".cache" / "matrix"
HERE = "development"  # the environment that runs this script
VERSIONS = [HERE, "2.9.0", "2.11.0", "2.14.1"]
NATIVE = "native"  # the widest instructions that the processor has
CAPABILITIES = {HERE: [NATIVE, "avx2", "default"]}  # every other version: NATIVE
PATTERNS = [
    "test_laws*.py",
    "test_atoms*.py",
    "test_lattice*.py",
    "test_sources*.py",
    "test_uniforms*.py",
    "test_measured*.py",
    "test_rules*.py",
    "test_traced*.py",
    "test_compare*.py",
    "test_samplers*.py",
    "test_published*.py",
    "test_process*.py",
    "test_mdm.py",
]
NEEDED = ["pytest>=8", "hypothesis>=6.100", "mpmath>=1.3"]
LONGEST = 3600  # seconds that one run of the tests may take


@dataclass
class Run:
    """One version of torch under one instruction set: how many tests ended how, and which failed."""

    torch: str
    capability: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.passed > 0 and self.failed == 0 and not self.failures


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def chosen_tests() -> list[str]:
    found = {path for pattern in PATTERNS for path in (ROOT / "tests").glob(pattern)}
    return sorted(str(path.relative_to(ROOT)) for path in found)


def digest_of_sources() -> str:
    """Of every file that a result depends on: a change makes every run anew."""
    digest = hashlib.sha256()
    files = [*(ROOT / "precision_lab").rglob("*.py"), *(ROOT / "tests").glob("*.py"), ROOT / "pyproject.toml"]
    for path in sorted(files):
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def folder_of(version: str) -> Path:
    return Path(os.environ.get("TMPDIR") or KEPT) / f"venv-{version}"


def python_of(version: str) -> Path:
    return Path(sys.executable) if version == HERE else folder_of(version) / "bin" / "python"


def build(version: str) -> None:
    """An environment with this torch and what the tests need; one that was finished before is taken as it is."""
    folder = folder_of(version)
    ready = folder / ".ready"
    if version == HERE or ready.exists():
        return
    say(f"torch {version}: building {folder}")
    venv.create(folder, with_pip=True, clear=True)
    others = [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("torch")
    ]
    limits = folder / "constraints.txt"
    limits.write_text("\n".join(others) + "\n")
    pip = [str(python_of(version)), "-m", "pip", "install", "--quiet", "-c", str(limits)]
    subprocess.run(
        [*pip, f"torch=={version}", "-e", f"{ROOT}[jax,testing]", *NEEDED], check=True, stdout=sys.stderr
    )
    ready.touch()


def remove(version: str) -> None:
    if version != HERE and os.environ.get("KEEP") != "1":
        shutil.rmtree(folder_of(version), ignore_errors=True)


def read_report(path: Path, run: Run) -> None:
    """Fill in ``run`` from pytest's own XML report."""
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        ended = {child.tag for child in case}
        if ended & {"failure", "error"}:
            run.failed += 1
            run.failures.append(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" in ended:
            run.skipped += 1
        else:
            run.passed += 1


def test(version: str, capability: str) -> Run:
    run = Run(version, capability)
    report = KEPT / f"{version}-{capability}.xml"
    report.unlink(missing_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if capability != NATIVE:
        environment["ATEN_CPU_CAPABILITY"] = capability
    pytest = [
        str(python_of(version)),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow and not gpu",
    ]
    started = time.monotonic()
    try:
        command = [*pytest, f"--junitxml={report}", *chosen_tests()]
        subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr, timeout=LONGEST, check=False)
        read_report(report, run)
    except subprocess.TimeoutExpired:
        run.failures.append(f"not done after {LONGEST} s")
    except (OSError, ElementTree.ParseError) as error:
        run.failures.append(f"no report: {error}")
    run.seconds = round(time.monotonic() - started, 1)
    return run


def kept_run(path: Path, digest: str) -> Run | None:
    """A run of the same sources that found nothing wrong; one that failed is run again."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if record.get("sources") != digest:
        return None
    run = Run(**record["run"])
    return run if run.good else None


def run_version(version: str, digest: str) -> list[Run]:
    runs = []
    for capability in CAPABILITIES.get(version, [NATIVE]):
        path = KEPT / f"{version}-{capability}.json"
        run = kept_run(path, digest)
        if run is None:
            say(f"torch {version}, {capability} instructions")
            try:
                build(version)
                run = test(version, capability)
            except (OSError, subprocess.CalledProcessError) as error:
                run = Run(version, capability, failures=[f"no environment: {error}"])
            path.write_text(json.dumps({"sources": digest, "run": asdict(run)}, indent=1))
        runs.append(run)
    remove(version)
    return runs


def table(runs: list[Run]) -> str:
    lines = [f"{'torch':<12} {'instructions':<12} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}"]
    for run in runs:
        counts = f"{run.passed:>7} {run.failed:>7} {run.skipped:>8} {run.seconds:>8.0f}"
        lines.append(f"{run.torch:<12} {run.capability:<12} {counts}")
        lines += [f"    {failure}" for failure in run.failures]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run the tests of the numbers under several versions of torch."
    )
    parser.add_argument("--torch", nargs="+", default=VERSIONS, help=f"versions, or {HERE!r}; all: {VERSIONS}")
    versions = parser.parse_args().torch
    KEPT.mkdir(parents=True, exist_ok=True)
    digest = digest_of_sources()
    runs = [run for version in versions for run in run_version(version, digest)]
    print(table(runs))
    return 0 if all(run.good for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
