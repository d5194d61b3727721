"""The Triton kernels, each part in a process of its own: in the interpreter, built for a card, and on one.

Where triton is not installed these are skipped, and say so: it is the extra ``triton``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from precision_lab.errors import InputError
from precision_lab.faithful import categorical, kernels

HERE = Path(__file__).parent
with_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="no package triton: pip install 'precision-lab[triton]'"
)


def outcomes(file: str, folder: Path, workers: int = 0, **settings: str) -> dict[str, str]:
    """Test -> passed, skipped or failed, of pytest on the file in a process with these environment
    variables."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(workers)]
    quiet = ["-W", "ignore::RuntimeWarning:triton.runtime.interpreter"]  # overflow to -inf is meant
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder / "cache"), **settings}
    environment.pop("PYTEST_ADDOPTS", None)
    ended = subprocess.run(
        [*command, *quiet, f"--junitxml={report}", str(HERE / file)],
        cwd=HERE.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert report.exists(), ended.stdout + ended.stderr
    found = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        states = {child.tag for child in case}
        name = f"{case.get('classname')}::{case.get('name')}"
        found[name] = (
            "skipped" if "skipped" in states else "failed" if states & {"failure", "error"} else "passed"
        )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-1000:]
    return found


@with_triton
def test_word_for_word_in_the_interpreter(tmp_path):
    found = outcomes("kernel_words.py", tmp_path, TRITON_INTERPRET="1", KERNEL_DEVICE="cpu")
    skipped = [name for name, outcome in found.items() if outcome == "skipped"]
    assert all("on_the_card" in name for name in skipped)
    assert len(found) - len(skipped) >= 50


@with_triton
def test_built_for_a_card(tmp_path):
    found = outcomes("kernel_builds.py", tmp_path, TRITON_INTERPRET="0")
    assert set(found.values()) == {"passed"}
    assert len(found) == 10


@with_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_word_for_word_on_the_card(tmp_path):
    """Eight at a time, as each variant of a kernel takes a second or two to compile."""
    found = outcomes("kernel_words.py", tmp_path, 8, TRITON_INTERPRET="0", KERNEL_DEVICE="cuda")
    assert set(found.values()) == {"passed"}
    assert len(found) >= 54


class TestWithoutTriton:
    @pytest.fixture(autouse=True)
    def absent(self, monkeypatch):
        monkeypatch.setattr(kernels, "find_spec", lambda name: None)
        kernels.available.cache_clear()
        yield
        kernels.available.cache_clear()

    def test_kernels_name_the_package_and_the_remedy(self):
        with pytest.raises(InputError, match=r"triton.*precision-lab\[triton\]"):
            kernels.require()

    def test_categorical_draws_all_the_same(self):
        assert not kernels.available()
        logits = torch.zeros(2, 5)
        assert categorical(logits, generator=torch.Generator().manual_seed(0)).shape == (1, 2)

    def test_nothing_of_triton_is_imported_by_the_library(self):
        code = "import sys, precision_lab.faithful.kernels; sys.exit('triton' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
