"""CONTRIBUTING.md is true: each of its recipes is carried out in a copy of the repository. ARCHITECTURE.md lists
the floors that the imports keep."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_layering import LAYERS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
BLOCK = re.compile(r"```(python|console)([^\n]*)\n(.*?)```", re.DOTALL)
COPIED = ("precision_lab", "experiments", "tests")
SECONDS = 300


@dataclass(frozen=True)
class Step:
    """A fenced block: a file to write, lines to put after (or before) a line, or commands to run."""

    kind: str
    where: str
    text: str

    def apply(self, folder: Path) -> None:
        if self.kind == "console":
            for line in self.text.strip().splitlines():
                run(line, folder)
            return
        if new := re.fullmatch(r"new (\S+)", self.where):
            path = folder / new[1]
            assert not path.exists(), f"{new[1]} is there already"
            path.write_text(self.text)
            return
        found = re.fullmatch(r'(after|before) "(.*)" in (\S+)', self.where)
        assert found, f"a block that says {self.where!r}"
        side, line, name = found.groups()
        insert(folder / name, line, self.text, before=side == "before")


def insert(path: Path, line: str, text: str, *, before: bool) -> None:
    """``text`` below, or above, the only line of the file that equals ``line``."""
    lines = path.read_text().splitlines(keepends=True)
    at = [k for k, each in enumerate(lines) if each.rstrip("\n") == line]
    assert len(at) == 1, f"{path.name} has the line {line!r} {len(at)} times"
    place = at[0] + (0 if before else 1)
    path.write_text("".join([*lines[:place], text, *lines[place:]]))


def run(command: str, folder: Path) -> None:
    words = shlex.split(command)
    assert words[0] == "python"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def recipes() -> dict[str, list[Step]]:
    """Title -> its steps, in order."""
    found = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        found[title] = [Step(kind, where.strip(), text) for kind, where, text in BLOCK.findall(body)]
    return found


@pytest.fixture
def copy(tmp_path):
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    return tmp_path


@pytest.mark.parametrize("title", recipes())
def test_recipe(title, copy):
    steps = recipes()[title]
    assert [step.kind for step in steps].count("console") >= 1
    for step in steps:
        step.apply(copy)


class TestTheTestItself:
    def test_a_line_that_is_not_there_is_seen(self, tmp_path):
        (tmp_path / "a.py").write_text("one\ntwo\n")
        with pytest.raises(AssertionError, match="0 times"):
            insert(tmp_path / "a.py", "three", "x\n", before=False)

    def test_lines_go_below_or_above(self, tmp_path):
        (tmp_path / "a.py").write_text("one\ntwo\n")
        insert(tmp_path / "a.py", "two", "x\n", before=True)
        insert(tmp_path / "a.py", "two", "y\n", before=False)
        assert (tmp_path / "a.py").read_text() == "one\nx\ntwo\ny\n"

    def test_a_command_that_fails_is_seen(self, tmp_path):
        with pytest.raises(AssertionError, match="raise SystemExit"):
            run("python -c 'raise SystemExit(3)'", tmp_path)


def test_the_floors_are_those_of_the_imports():
    rows = re.findall(r"^\| (\d) \| `(\w+)` \|", (ROOT / "ARCHITECTURE.md").read_text(), flags=re.MULTILINE)
    written = [set() for _ in LAYERS]
    for floor, room in rows:
        written[int(floor) - 1].add(room)
    assert written == [set(floor) for floor in LAYERS]
