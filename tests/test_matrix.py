"""The matrix script: what it reads, keeps, prints and returns, without an environment."""

from __future__ import annotations

import subprocess

import matrix
import pytest
from matrix import Run

CASES = {
    "a": "",
    "b": "<skipped/>",
    "c": "<failure>wrong</failure>",
    "d": "<error>broken</error>",
    "e": "<system-out>text</system-out>",
}
REPORT = "".join(f'<testcase classname="t" name="{name}">{inside}</testcase>' for name, inside in CASES.items())


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Environments that build at once and tests that end as ``fake[version]``; the runs made are listed."""
    ends: dict[str, Run | Exception] = {}
    made: list[tuple[str, str]] = []

    def test(version, capability):
        made.append((version, capability))
        found = ends.get(version, Run(version, capability, passed=7, seconds=1.0))
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(matrix, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(matrix, "build", lambda version: None)
    monkeypatch.setattr(matrix, "remove", lambda version: None)
    monkeypatch.setattr(matrix, "test", test)
    monkeypatch.setattr("sys.argv", ["matrix"])
    return ends, made


def test_a_report_is_counted(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text(f"<testsuites><testsuite>{REPORT}</testsuite></testsuites>")
    run = Run("2.11.0", "native")
    matrix.read_report(path, run)
    assert (run.passed, run.failed, run.skipped, run.failures) == (2, 2, 1, ["t::c", "t::d"])
    assert not run.good


def test_every_version_runs_and_a_good_run_is_not_made_again(fake, capsys):
    _, made = fake
    assert matrix.main() == 0
    first = [("development", "native"), ("development", "avx2"), ("development", "default")]
    assert made[:3] == first
    assert [version for version, _ in made[3:]] == matrix.VERSIONS[1:]
    table = capsys.readouterr().out
    assert len(table.splitlines()) == 1 + len(made)
    made.clear()
    assert matrix.main() == 0
    assert made == []
    assert capsys.readouterr().out == table


def test_a_failed_run_is_named_fails_the_whole_and_is_made_again(fake, capsys):
    ends, made = fake
    ends["2.11.0"] = Run("2.11.0", "native", passed=6, failed=1, failures=["tests.test_x::test_y"])
    assert matrix.main() == 1
    assert "tests.test_x::test_y" in capsys.readouterr().out
    made.clear()
    assert matrix.main() == 1
    assert made == [("2.11.0", "native")]


def test_other_sources_are_run_anew(fake, monkeypatch):
    _, made = fake
    matrix.main()
    number = len(made)
    monkeypatch.setattr(matrix, "digest_of_sources", lambda: "other")
    matrix.main()
    assert len(made) == 2 * number


def test_an_environment_that_cannot_be_built_is_a_failure(fake, capsys):
    ends, _ = fake
    ends["2.9.0"] = subprocess.CalledProcessError(1, "pip")
    assert matrix.main() == 1
    assert "no environment" in capsys.readouterr().out


def test_no_test_run_is_no_success():
    assert not Run("2.9.0", "native", skipped=5).good


def test_the_tests_are_those_of_the_numbers():
    chosen = matrix.chosen_tests()
    for name in ("laws", "atoms", "samplers", "published", "published_jax", "published_vllm", "sources_cuda"):
        assert f"tests/test_{name}.py" in chosen
    assert len(chosen) == len(set(chosen))


@pytest.mark.parametrize(("keep", "left"), [("1", True), ("", False)])
def test_an_environment_is_removed_unless_kept(keep, left, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("KEEP", keep)
    folder = matrix.folder_of("2.9.0")
    folder.mkdir()
    matrix.remove("2.9.0")
    assert folder.exists() == left
