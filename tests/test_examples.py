"""The examples run: the pytest example by pytest, and of the workflow every line that does not install."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from judging import statistical

HERE = Path(__file__).parent.parent
EXAMPLES = HERE / "examples"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the example, and the two commands as they are after an installation."""
    for path in (EXAMPLES / "pytest").glob("*.py"):
        shutil.copy(path, tmp_path)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, module in (("precision-lab", "precision_lab"), ("pytest", "pytest -p precision_lab.testing")):
        path = commands / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m {module} "$@"\n')
        path.chmod(0o755)
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    summary = str(folder / "summary.md")
    paths = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(HERE)}
    return os.environ | paths | {"GITHUB_STEP_SUMMARY": summary, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def run_lines(workflow: str) -> list[str]:
    return re.findall(r"^ *- run: (.*)$", workflow, re.MULTILINE)


@statistical(false_fail=2e-6 + 1e-8)
def test_the_lines_of_the_workflow(folder):
    """The check, here at 1e-8, and two tests, each failed with 1e-6 at most over seeds; they see T off by 0.02 and 0.05."""
    lines = run_lines((EXAMPLES / "github_actions.yml").read_text())
    installs = [line for line in lines if line.startswith("pip install")]
    others = [line for line in lines if line not in installs]
    assert any("git+" in line for line in installs)
    assert [line.split()[0] for line in others] == ["precision-lab", "pytest"]
    for line in others:
        line = line.replace(" check ", " check --false-fail 1e-8 ")
        done = subprocess.run(
            ["bash", "-e", "-c", line],
            cwd=folder,
            env=environment(folder),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "summary.md").read_text().startswith("**PASS: mylib.py:sample")
    assert "2 passed" in done.stdout


def test_a_faulty_library_fails_the_workflow(folder):
    """One token too many of the 20 are kept: the example's own test says so, and the job fails."""
    path = folder / "mylib.py"
    path.write_text(
        path.read_text().replace("logits.topk(top_k)", "logits.topk(min(top_k + 1, logits.shape[-1]))")
    )
    done = subprocess.run(
        ["bash", "-e", "-c", "pytest test_mylib.py -k top_k"],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "FAIL: mylib.sample" in done.stdout
