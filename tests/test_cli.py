"""The command line: data on stdout, everything else on stderr, exit codes, and nothing heavy for ``--help``.

Most commands run in this process through ``main``; what must be seen from outside runs in a process of its own.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import signal
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
import torch

import precision_lab.samplers
from precision_lab import __main__ as command_line
from precision_lab import doctor, engine, report
from precision_lab.errors import InputError
from precision_lab.files import read_json
from precision_lab.mdm import corpus as corpora
from precision_lab.mdm.corpus import Corpus
from precision_lab.mdm.denoiser import DenoiserConfig
from precision_lab.mdm.train import TrainConfig, load_model, train
from precision_lab.provenance import versions
from precision_lab.samplers import SAMPLERS
from precision_lab.targets import TARGETS, Capture, load_capture, save_capture
from precision_lab.uniforms import agreement, measured
from precision_lab.verdict.report import Fault, Report

COMMANDS = [
    "run",
    "law",
    "explain",
    "ls",
    "train",
    "capture",
    "bench",
    "bound",
    "choose",
    "overhead",
    "gallery",
    "measure",
    "doctor",
    "check",
    "audit",
    "perplexity",
]
HEAVY = ["torch", "numpy", "scipy", "pandas", "matplotlib"]


@pytest.fixture
def cli(monkeypatch, capsys):
    """``cli("law", ...)`` -> (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["precision-lab", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            command_line.main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


def strict(text: str):
    """JSON as the standard has it: NaN and Infinity are errors."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def one_line(err: str) -> str:
    assert err.count("\n") == 1, err
    assert err.startswith("error: got ")
    return err


class TestHelp:
    def test_help_of_every_command_imports_nothing_heavy(self):
        """One process: after all the help texts none of the slow packages may be loaded."""
        done = python(
            f"""
import sys
from precision_lab.__main__ import main
for command in [[]] + [[name] for name in {COMMANDS}]:
    sys.argv = ["precision-lab", *command, "--help"]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, (command, stop.code)
print("loaded:", *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == "loaded:\n"
        assert all(f" {name} " in done.stdout for name in COMMANDS)
        assert done.stdout.count("Usage:") == 1 + len(COMMANDS)
        assert "--format" in done.stdout

    def test_listing_targets_needs_no_torch(self):
        done = python(
            """
import sys
from precision_lab.__main__ import main
sys.argv = ["precision-lab", "ls", "targets"]
try:
    main()
except SystemExit:
    print("loaded:", *[name for name in ("torch", "pandas", "matplotlib") if name in sys.modules], file=sys.stderr)
"""
        )
        assert done.stderr == "loaded:\n"
        assert "zipf" in done.stdout

    def test_no_command_is_a_usage_error_with_the_help(self, cli):
        code, out, err = cli()
        assert code == 2
        assert "Usage:" in out + err

    @pytest.mark.parametrize(
        "arguments", [["nonsense"], ["law", "--target", "zipf"], ["ls", "things"], ["law", "--what"]]
    )
    def test_usage_errors(self, cli, arguments):
        code, out, err = cli(*arguments)
        assert code == 2
        assert out == ""
        assert "Error" in err
        assert "Traceback" not in err


KEYS = {
    "total_variation", "kl_divergence", "effective_temperature", "temperature_share", "suppressed_mass", "ceiling",
    "error", "guarantee",
}  # fmt: skip


class TestLaw:
    def law(self, cli, *arguments, sampler="gumbel_max_fp64", target="zipf[vocab=20]"):
        code, out, err = cli("law", "--sampler", sampler, "--target", target, *arguments)
        assert (code, err) == (0, "")
        return out

    def test_json(self, cli):
        found = strict(self.law(cli, "--format", "json"))
        assert found.keys() >= KEYS
        assert (found["sampler"], found["target"], found["vocab"]) == ("gumbel_max_fp64", "zipf[vocab=20]", 20)
        assert found["guarantee"] == "certified"
        assert found["total_variation"] <= found["error"] * 20 + 1e-12
        assert found["ceiling"] == pytest.approx(36.7368, abs=1e-4)

    @pytest.mark.parametrize(
        ("sampler", "ceiling"),
        [("torch_multinomial_fp16", "inf"), ("inverse_cdf_fp16", None), ("gumbel_max_bf16", 5.53125)],
    )
    def test_json_is_strict_for_any_number(self, cli, sampler, ceiling):
        """Infinite and absent ceilings, and a law that misses tokens: infinite divergences."""
        found = strict(self.law(cli, "-f", "json", sampler=sampler, target="geometric[vocab=60,ratio=0.5]"))
        assert found.keys() >= KEYS
        assert found["ceiling"] == ceiling
        if found["unreachable_tokens"]:
            assert "inf" in (found["kl_divergence"], found["max_log_ratio"])

    def test_a_recipe_of_another_machine_is_emulated(self, cli):
        found = strict(self.law(cli, "-f", "json", sampler="jax_low_bf16"))
        assert found["guarantee"] == "emulated"
        assert "emulated" in found["how"]

    def test_some_law_really_misses_tokens(self, cli):
        found = strict(
            self.law(cli, "-f", "json", sampler="inverse_cdf_fp16", target="geometric[vocab=60,ratio=0.5]")
        )
        assert found["unreachable_tokens"] > 10
        assert found["suppressed_mass"] > 0

    def test_csv(self, cli):
        (row,) = csv.DictReader(io.StringIO(self.law(cli, "-f", "csv")))
        found = strict(self.law(cli, "-f", "json"))
        assert list(row) == list(found)
        for name in ("total_variation", "effective_temperature", "ceiling"):
            assert float(row[name]) == found[name]  # every digit

    def test_markdown(self, cli):
        head, rule, row = self.law(cli, "-f", "md").splitlines()
        assert rule == "|" + "---|" * (head.count("|") - 1)
        assert head.count("|") == row.count("|")
        assert "| zipf[vocab=20] |" in row

    def test_table(self, cli):
        """Square brackets are text: rich would take [vocab=20] for a tag and drop it."""
        lines = [line.split() for line in self.law(cli).splitlines()]
        assert lines[0] == ["quantity", "value"]
        assert ["target", "zipf[vocab=20]"] in lines
        assert {line[0] for line in lines} >= KEYS

    def test_the_default_parameters_of_a_target(self, cli):
        assert strict(self.law(cli, "-f", "json", target="geometric"))["vocab"] == 1000

    def test_a_row_of_a_recorded_file(self, cli, tmp_path):
        path = tmp_path / "logits.safetensors"
        logits = np.array([[0, -1, -2], [0, -8, -9]], dtype=np.float16)
        save_capture(path, Capture(logits, np.zeros(2), np.zeros(2, dtype=int), {"model": "toy"}))
        first, second = (strict(self.law(cli, "-f", "json", "--row", row, target=str(path))) for row in "01")
        assert (first["target"], second["target"]) == ("toy row 0", "toy row 1")
        assert strict(self.law(cli, "-f", "json", target=str(path))) == first
        code, out, err = cli("law", "--sampler", "gumbel_max_fp64", "--target", str(path), "--row", "2")
        assert (code, out) == (2, "")
        assert "row 2 of " in one_line(err)
        assert "expected 0..1" in one_line(err)

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--sampler", "gumbel_max_fp23", "--target", "zipf"], "did you mean gumbel_max_fp"),
            (["--sampler", "qqqqqqq", "--target", "zipf"], "precision-lab ls samplers"),
            (["--sampler", "gumbel_max_fp64", "--target", "zpf[vocab=3]"], "did you mean zipf?"),
            (["--sampler", "gumbel_max_fp64", "--target", "zipf[size=3]"], "expected vocab or exponent"),
            (["--sampler", "gumbel_max_fp64", "--target", "zipf[vocab=x]"], "a number"),
            (["--sampler", "gumbel_max_fp64", "--target", "head_and_tail[gap=1000]"], "tail tokens"),
            (["--sampler", "gumbel_max_fp64", "--target", "normal[seed=-1]"], "seed = -1"),
            (["--sampler", "gumbel_max_fp64", "--target", "none.safetensors"], "no file none.safetensors"),
            (["--sampler", "gumbel_max_fp64", "--target", "zipf", "--row", "1"], "leave --row out"),
            (["--sampler", "gumbel_max_fp64", "--target", __file__], "a file ending in .safetensors"),
            (["--sampler", "none.py:sample", "--target", "zipf"], "no file none.py"),
            (["--sampler", "no.such.module:sample", "--target", "zipf"], "no.such.module"),
        ],
    )
    def test_what_the_user_can_mend_is_one_line_and_exit_2(self, cli, arguments, says):
        code, out, err = cli("law", *arguments)
        assert (code, out) == (2, "")
        assert says in one_line(err)

    def test_a_function_that_does_not_draw_has_no_law(self, cli, tmp_path):
        path = tmp_path / "mine.py"
        path.write_text("def sample(logits, n, *, generator):\n    return logits.argmax(-1).expand(n, -1)\n")
        code, out, err = cli("law", "--sampler", f"{path}:sample", "--target", "zipf[vocab=5]")
        assert (code, out) == (2, "")
        assert "a function without a random operation of torch: greedy, or drawn with NumPy" in one_line(err)
        code, out, err = cli("law", "--sampler", f"{path}:smaple", "--target", "zipf[vocab=5]")
        assert (code, out) == (2, "")
        assert "no function 'smaple'" in one_line(err)

    def test_a_declared_sampler_in_a_file_has_one(self, cli, tmp_path):
        path = tmp_path / "mine.py"
        path.write_text(
            "from dataclasses import replace\nfrom precision_lab import SAMPLERS\n"
            "MINE = replace(SAMPLERS['gumbel_max_fp64'], name='mine')\n"
        )
        assert strict(self.law(cli, "-f", "json", sampler=f"{path}:MINE"))["sampler"] == "mine"

    def test_a_file_that_does_not_import(self, cli, tmp_path):
        path = tmp_path / "broken.py"
        path.write_text("import nothing_of_this_name\n")
        code, _, err = cli("law", "--sampler", f"{path}:sample", "--target", "zipf")
        assert code == 2
        assert "nothing_of_this_name" in one_line(err)

    @pytest.mark.parametrize("code", ["sys.exit()", "sys.exit(7)"])
    @pytest.mark.parametrize("place", ["import sys; {code}", "import sys\ndef sample(logits): {code}"])
    def test_a_function_that_ends_the_process(self, cli, tmp_path, code, place):
        path = tmp_path / "ends.py"
        path.write_text(place.format(code=code))
        code, out, err = cli("law", "--sampler", f"{path}:sample", "--target", "zipf[vocab=5]")
        assert (code, out) == (2, "")
        assert "SystemExit" in one_line(err)

    @pytest.mark.parametrize("arguments", [["law", "--target", "zipf[vocab=5]", "--sampler"], ["explain"]])
    @pytest.mark.parametrize(
        "raised",
        [
            "sys.exit(0)",
            "raise KeyboardInterrupt",
            "raise GeneratorExit",
            "raise type('E', (BaseException,), {})",
        ],
    )
    def test_an_import_that_raises_whatever_is_bad_input(self, cli, tmp_path, monkeypatch, arguments, raised):
        """A file, and an entry point: each is one line and exit 2, never the exit code of the sampler's
        choice."""
        (tmp_path / "hostile_import.py").write_text(f"import sys\n{raised}\n")
        monkeypatch.syspath_prepend(tmp_path)
        entry = metadata.EntryPoint("hostile", "hostile_import:sample", "precision_lab.samplers")
        monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [entry])
        for spec in (f"{tmp_path / 'hostile_import.py'}:sample", "hostile"):
            code, out, err = cli(*arguments, spec)
            assert (code, out) == (2, "")
            assert "code that imports" in one_line(err)

    def test_ctrl_c_during_an_import_is_no_bad_input(self, cli, tmp_path):
        (tmp_path / "slow.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
        code, out, err = cli("law", "--target", "zipf", "--sampler", f"{tmp_path / 'slow.py'}:sample")
        assert (code, out) == (130, "")
        assert "interrupted" in err
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_an_error_of_several_lines_is_one_line(self, cli, tmp_path):
        path = tmp_path / "raises.py"
        path.write_text("def sample(logits):\n    raise ValueError('one\\ntwo')\n")
        code, out, err = cli("law", "--sampler", f"{path}:sample", "--target", "zipf[vocab=5]")
        assert (code, out) == (2, "")
        assert "one two" in one_line(err)

    @pytest.mark.parametrize("arguments", [["law", "--target", "zipf[vocab=5]", "--sampler"], ["explain"]])
    def test_what_a_function_prints_is_not_data(self, cli, tmp_path, arguments):
        path = tmp_path / "prints.py"
        path.write_text(
            "import torch\nprint('imported')\n"
            "def sample(logits):\n    print('called')\n    return torch.multinomial(logits.softmax(-1), 1)\n"
        )
        code, out, err = cli(*arguments, f"{path}:sample", "-f", "json")
        assert code == 0
        assert strict(out)
        assert "imported" in err
        assert "called" in err

    def test_from_outside(self):
        """Exit code, one line, no traceback, as a shell sees it."""
        done = subprocess.run(
            [sys.executable, "-m", "precision_lab", "law", "--sampler", "gumbel_max_f32", "--target", "zipf"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "")
        assert "did you mean" in one_line(done.stderr)


@pytest.fixture
def unknown_torch(monkeypatch, tmp_path):
    """A torch whose draws no known word map makes: every uniform is a half, every exponential 1/2 too."""
    monkeypatch.setenv("PRECISION_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(
        agreement, "native_draws", lambda op, dtype, device, shape, *, rng: torch.full(shape, 0.5, dtype=dtype)
    )
    agreement.word_map_here.cache_clear()
    yield
    agreement.word_map_here.cache_clear()


class TestFilesThatFail:
    """An OSError is one line and exit 2, whatever the command."""

    @pytest.mark.parametrize(
        "error",
        [
            OSError(28, "No space left on device", "a\x1b[31mb.csv"),
            PermissionError(13, "Permission denied", "x"),
            NotADirectoryError(20, "Not a directory", "x"),
        ],
    )
    def test_is_one_line_and_exit_2(self, cli, monkeypatch, error):
        def fails(*_, **__):
            raise error

        monkeypatch.setattr(engine, "load_study", fails)
        code, out, err = cli("run", "anything")
        assert (code, out) == (2, "")
        assert error.strerror in one_line(err)
        assert "\x1b" not in err

    def test_a_file_where_a_folder_should_be(self, cli, tmp_path):
        (tmp_path / "file").write_text("")
        code, out, err = cli("run", "noise_ceiling", "--profile", "smoke", "-o", str(tmp_path / "file"))
        assert (code, out) == (2, "")
        assert "file" in one_line(err)


class TestUnknownTorch:
    """What can be said of the recipes is still said; the laws of those that torch's own draws feed are
    refused."""

    @pytest.mark.parametrize("arguments", [["ls", "samplers"], ["gallery"]], ids=" ".join)
    def test_lists_are_still_to_be_had(self, cli, unknown_torch, arguments):
        code, out, err = cli(*arguments, "-f", "json")
        assert (code, err) == (0, "")
        rows = {row["name"]: row for row in strict(out)}
        assert rows["llada_fp64"]["ceiling"] is None
        assert rows["llada_fp64"]["emulated"] == "yes"
        assert rows["tl_rand"]["ceiling"] == pytest.approx(16.6355, abs=1e-4)  # words of Triton, not of torch

    def test_explain_and_law(self, cli, unknown_torch):
        code, out, _ = cli("explain", "gumbel_max_fp32", "-f", "json")
        assert code == 0
        row = strict(out)
        assert row["ceiling"] is None
        assert "unknown" in row["arithmetic"]
        code, out, err = cli("law", "--sampler", "gumbel_max_fp32", "--target", "zipf")
        assert (code, out) == (2, "")
        assert "no known word map" in one_line(err)


class TestLs:
    def test_samplers(self, cli):
        code, out, err = cli("ls", "samplers", "--format", "json")
        assert (code, err) == (0, "")
        rows = strict(out)
        assert [row["name"] for row in rows] == list(SAMPLERS)
        assert all(row["publisher"] and row["dtypes"] and row["source"] for row in rows)
        emulated = {row["name"] for row in rows if row["emulated"] == "yes"}
        assert emulated == {name for name, sampler in SAMPLERS.items() if sampler.emulated is not None}
        assert "jax_low_bf16" in emulated

    @pytest.mark.parametrize("format", ["table", "md", "csv"])
    def test_no_name_and_no_source_is_cut_off(self, cli, format):
        _, out, _ = cli("ls", "samplers", "-f", format)
        out = out.replace('""', '"')  # as CSV writes a quotation mark
        for sampler in SAMPLERS.values():
            assert sampler.name in out
            shown = sampler.source_ref.replace("<", "&lt;") if format == "md" else sampler.source_ref
            assert shown in out

    def test_targets(self, cli):
        code, out, err = cli("ls", "targets", "-f", "json")
        assert (code, err) == (0, "")
        rows = {row["name"]: row for row in strict(out)}
        assert rows.keys() == TARGETS.keys()
        assert rows["zipf"]["parameters"] == "vocab=50257, exponent=1.0"
        assert all(row["formula"] for row in rows.values())

    def test_experiments(self, cli):
        code, out, err = cli("ls", "experiments", "-f", "json")
        assert (code, err) == (0, "")
        assert {row["name"] for row in strict(out)} == set(engine.experiments())
        assert all(row["question"].endswith("?") for row in strict(out))


class TestEmit:
    rows = ({"a": math.nan, "b": "x|y", "c": None}, {"a": -math.inf, "b": "[bold]:smile:", "c": 1 / 3})

    def emit(self, format, capsys, rows=None):
        command_line.emit(list(self.rows) if rows is None else rows, command_line.Format(format))
        return capsys.readouterr().out

    def test_json(self, capsys):
        assert strict(self.emit("json", capsys)) == [
            {"a": None, "b": "x|y", "c": None},
            {"a": "-inf", "b": "[bold]:smile:", "c": 1 / 3},
        ]
        assert strict(self.emit("json", capsys, [])) == []

    def test_markdown(self, capsys):
        assert self.emit("md", capsys).splitlines()[2:] == [
            "|  | x\\|y |  |",
            "| -inf | [bold]:smile: | 0.333333 |",
        ]

    HOSTILE = "a|b\\|c\n| PASS | <img src=x> [x](http://y) ![](z) &lt; & p \x1b[31mred\x1b]0;t\x07"

    def test_hostile_text_stays_in_its_cell(self, capsys):
        """GitHub's tables split at a bar that has an even number of backslashes before it."""
        lines = self.emit("md", capsys, [{"a|<b>\n": self.HOSTILE, "c": "d"}]).splitlines()
        assert len(lines) == 3
        for line in lines:
            bars = [len(line[:at]) - len(line[:at].rstrip("\\")) for at, char in enumerate(line) if char == "|"]
            assert sum(backslashes % 2 == 0 for backslashes in bars) == 3
        assert not set(lines[2]) & set("<\x1b\x07")
        assert "](" not in lines[2]
        assert "&lt;img src=x>" in lines[2]
        assert "&amp;lt; & p " in lines[2]
        assert "\\x1b[31mred" in lines[2]

    def test_hostile_text_gives_a_terminal_no_orders(self, capsys):
        out = self.emit("table", capsys, [{"a": self.HOSTILE, "b": 1}, {"a": "x", "b": 2}])
        assert len(out.splitlines()) == 3
        assert "\x1b" not in out
        assert "<img src=x>" in out

    @pytest.mark.parametrize("format", ["md", "table"])
    def test_a_hostile_report(self, capsys, format):
        """A name and an exception that try to end the line, the code span and the bold."""
        text = "x`y`` <b> \x1b[0m\n\nPASS: all is well"
        found = Report(text, fault=Fault("raises", text, text), command=text)
        with pytest.raises(command_line.typer.Exit):
            command_line.show(found, command_line.Format(format))
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert not any(line.startswith("PASS") for line in out.splitlines())
        again = out.splitlines()[-1]
        assert again == "again: ``` x`y`` <b> \\x1b[0m\\n\\nPASS: all is well ```"
        if format == "md":
            assert "<b>" not in out.replace(again, "")
        assert "\x1b" not in found.text()

    def test_csv(self, capsys):
        assert self.emit("csv", capsys) == "a,b,c\nnan,x|y,\n-inf,[bold]:smile:,0.3333333333333333\n"

    def test_table(self, capsys):
        assert [line.split() for line in self.emit("table", capsys).splitlines()] == [
            ["a", "b", "c"], ["x|y"], ["-inf", "[bold]:smile:", "0.333333"],
        ]  # fmt: skip


FAKE = """
from precision_lab import figures
from precision_lab.study import Analysis, Study


def cells(profile):
    return [{"profile": str(profile)}]


def measure(cell, rng):
    return [cell | {"x": rng.random()}]


def analyse(rows):
    return Analysis(notes=["It is"])


def figure(rows, analysis):
    return figures.canvas()[0]


STUDY = Study("fake", "Is it?", cells, measure, analyse=analyse, figure=figure)
"""


class TestRun:
    @pytest.fixture
    def fake(self, tmp_path, monkeypatch):
        """An experiments folder with one fake, in the place of the real one."""
        folder = tmp_path / "experiments"
        folder.mkdir()
        (folder / "fake.py").write_text(FAKE)
        experiments, load_study, run = engine.experiments, engine.load_study, report.run
        monkeypatch.setattr(engine, "experiments", lambda at=folder: experiments(at))
        monkeypatch.setattr(engine, "load_study", lambda name, at=folder: load_study(name, at))
        monkeypatch.setattr(report, "run", functools.partial(run, folder=folder))
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_a_real_experiment(self, cli, tmp_path):
        code, out, err = cli("run", "noise_ceiling", "--profile", "smoke", "-o", str(tmp_path), "--seed", "3")
        assert code == 0, err
        assert out.splitlines() == [
            "Look at:",
            f"  {tmp_path / 'noise_ceiling.csv'}",
            f"  {tmp_path / 'noise_ceiling.png'}",
        ]
        manifest = read_json(tmp_path / "noise_ceiling.json")
        assert (manifest["profile"], manifest["seed"]) == ("smoke", 3)
        assert f"noise_ceiling: {manifest['verdict']}" in err

    def test_all_experiments_and_the_folders_of_the_profiles(self, cli, fake):
        for arguments, folder in (([], "results"), (["--profile", "full"], "results/full"), (["-o", "o"], "o")):
            code, out, _ = cli("run", *arguments)
            assert code == 0
            assert out.split() == ["Look", "at:", f"{folder}/fake.csv", f"{folder}/fake.png"]
            assert (fake / folder / "fake.svg").is_file()

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["fkae"], "did you mean fake?"),
            (["fake", "other"], "precision-lab ls experiments"),
            pytest.param(
                ["fake", "--device", "cuda"],
                "a CUDA device that torch sees",
                marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there"),
            ),
            (["fake", "-j", "0"], "use -j 1"),
        ],
    )
    def test_bad_input_fails_before_any_work(self, cli, fake, arguments, says):
        code, out, err = cli("run", *arguments)
        assert (code, out) == (2, "")
        assert says in one_line(err)
        assert not (fake / "results").exists()

    def test_a_negative_seed(self, cli, fake):
        code, out, err = cli("run", "fake", "--seed", "-1")
        assert (code, out) == (2, "")
        assert "--seed" in err
        assert "Traceback" not in err

    def test_ctrl_c_is_130_and_says_how_to_go_on(self, cli, fake, monkeypatch):
        def interrupted(*arguments, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr(engine, "run", interrupted)
        code, out, err = cli("run", "fake")
        assert (code, out) == (130, "")
        assert err.strip() == "interrupted; run the same command again to resume"

    def test_a_bug_is_not_dressed_up_as_bad_input(self, fake, monkeypatch):
        def broken(*arguments, **options):
            raise ZeroDivisionError

        monkeypatch.setattr(engine, "run", broken)
        monkeypatch.setattr(sys, "argv", ["precision-lab", "run", "fake"])
        with pytest.raises(ZeroDivisionError):
            command_line.main()


class TestDoctor:
    @pytest.fixture
    def two_samplers(self, monkeypatch):
        """One whose atoms can be listed and one whose cannot: the real table takes half a minute."""
        few = {name: SAMPLERS[name] for name in ("gumbel_max_bf16", "gumbel_max_fp64")}
        monkeypatch.setattr(precision_lab.samplers, "SAMPLERS", few)

    def test_rows(self, cli, two_samplers):
        code, out, err = cli("doctor", "-f", "json")
        assert (code, err) == (0, "")
        rows = {row["what"]: row for row in strict(out)}
        assert rows["torch"]["value"] == versions()["torch"]
        assert (
            rows["noise atoms of gumbel_max_bf16"]["value"]
            == SAMPLERS["gumbel_max_bf16"].noise_atoms().sha256()[:16]
        )
        assert "noise atoms of gumbel_max_fp64" not in rows
        assert {"python", "numpy", "scipy", "precision-lab", "processor", "commit"} <= rows.keys()
        assert rows["vector capability"]["value"] == torch.backends.cpu.get_cpu_capability()
        for call in ("rand", "exponential_"):
            for dtype in ("float16", "bfloat16", "float32", "float64"):
                assert rows[f"{call} {dtype} on cpu"]["state"] == "confirmed"

    def test_a_difference_is_information(self, cli, monkeypatch):
        monkeypatch.setattr(doctor, "checks", lambda: [{"what": "noise", "value": "x", "state": "differs"}])
        code, out, _ = cli("doctor", "-f", "csv")
        assert code == 0
        assert out == "what,value,state\nnoise,x,differs\n"

    def test_an_unknown_word_map_is_exit_1(self, cli, two_samplers, monkeypatch):
        def refuse(op, dtype):
            raise InputError(f"{op} of another torch", "a known word map", "use another")

        monkeypatch.setattr(measured, "word_map_here", refuse)
        code, out, _ = cli("doctor", "-f", "json")
        rows = {row["what"]: row for row in strict(out)}
        assert code == 1
        assert rows["rand float16 on cpu"]["state"] == "unusable"
        assert "rand of another torch" in rows["rand float16 on cpu"]["value"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("model"), np.random.default_rng(0)
    config = TrainConfig(model=DenoiserConfig(12, 1, 2, 64), steps=1, batch=2, length=16)
    train(config, Corpus(rng.integers(0, 12, 300, np.uint16), rng.integers(0, 12, 165, np.uint16), {}), folder)
    return folder


class TestCapture:
    def test_rows_of_a_trained_model(self, cli, model_folder, tmp_path):
        path = tmp_path / "new" / "logits.safetensors"
        code, out, err = cli(
            "capture", "--folder", str(model_folder), "-o", str(path), "--rows", "5", "--seed", "2"
        )
        assert (code, err) == (0, "")
        assert out == f"5 rows of 12 logits -> {path}\n"
        found = load_capture(path)
        assert found.logits.shape == (5, 12)
        assert found.manifest["weights_sha256"] == read_json(model_folder / "manifest.json")["weights_sha256"]
        assert found.manifest["seed"] == 2
        again = tmp_path / "again.safetensors"
        cli("capture", "--folder", str(model_folder), "-o", str(again), "--rows", "5", "--seed", "2")
        assert again.read_bytes() == path.read_bytes()
        code, out, _ = cli(
            "law", "--sampler", "gumbel_max_fp64", "--target", str(path), "--row", "4", "-f", "json"
        )
        assert strict(out)["target"] == "mdm row 4"

    @pytest.mark.parametrize(
        ("damage", "says"),
        [
            (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
            (lambda folder: (folder / "manifest.json").write_text("{}"), "manifest.json with no model"),
            (lambda folder: (folder / "validation.npy").unlink(), "restore the file or train again"),
            (
                lambda folder: (folder / "validation.npy").write_bytes(b"junk"),
                "restore the file or train again",
            ),
            (lambda folder: (folder / "model.safetensors").write_bytes(b"junk"), "as its manifest says"),
        ],
    )
    def test_a_damaged_folder(self, cli, model_folder, tmp_path, damage, says):
        for path in model_folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        damage(tmp_path)
        code, out, err = cli("capture", "--folder", str(tmp_path), "-o", str(tmp_path / "logits.safetensors"))
        assert (code, out) == (2, "")
        assert says in one_line(err)
        assert not (tmp_path / "logits.safetensors").exists()

    def test_more_rows_than_windows(self, cli, model_folder, tmp_path):
        code, _, err = cli("capture", "--folder", str(model_folder), "-o", str(tmp_path / "x.safetensors"))
        assert code == 2
        assert "rows = 25 from 10 windows" in one_line(err)


@pytest.fixture(scope="module")
def rival(tmp_path_factory):
    """A causal model of 12 tokens."""
    out, rng = tmp_path_factory.mktemp("rival"), np.random.default_rng(0)
    text = Corpus(rng.integers(0, 12, 600, np.uint16), rng.integers(0, 12, 400, np.uint16), {})
    train(TrainConfig(model=DenoiserConfig(12, 1, 2, 64, causal=True), steps=1, batch=2, length=16), text, out)
    return out


class TestPerplexity:
    def test_samples_under_a_causal_model(self, cli, rival, tmp_path):
        tokens = np.random.default_rng(1).integers(1, 12, (10, 16))  # no end of text: id 0
        np.savez(tmp_path / "samples.npz", tokens=tokens)
        code, out, err = cli("perplexity", str(tmp_path / "samples.npz"), "--judge", str(rival), "-f", "json")
        assert (code, err) == (0, "")
        rows = {row["quantity"]: row for row in strict(out)}
        assert {
            "perplexity, mdlm",
            "perplexity, hf_evaluate",
            "entropy_nats",
            "entropy_bits",
            "repetition_4",
        } <= set(rows)
        model = load_model(rival)
        log_p = model.log_probs(model.hidden(torch.from_numpy(tokens))).gather(
            -1, torch.from_numpy(tokens)[..., None]
        )
        each = -log_p[:, 1:, 0].double().numpy()
        assert rows["perplexity, mdlm"]["value"] == pytest.approx(np.exp(each.mean()), rel=1e-5)
        assert rows["perplexity, sedd"]["value"] == pytest.approx(np.exp(each.mean(1)).mean(), rel=1e-5)
        assert (
            rows["perplexity, mdlm"]["low"]
            < rows["perplexity, mdlm"]["value"]
            < rows["perplexity, mdlm"]["high"]
        )
        assert rows["entropy_bits"]["value"] == pytest.approx(rows["entropy_nats"]["value"] / np.log(2))

    @pytest.mark.parametrize(
        ("tokens", "arguments", "says"),
        [
            (np.zeros((2, 4), int), [], "no --tokenizer"),
            (np.zeros((2, 4), int), ["--tokenizer", "nowhere.json"], "no file nowhere.json"),
            (np.zeros(4, int), ["--judge", "RIVAL"], "tokens of shape (4,)"),
            (np.full((2, 4), 12), ["--judge", "RIVAL"], "ids from 12 to 12"),
            (np.zeros((2, 4)), ["--judge", "RIVAL"], "expected"),
            (np.zeros((2, 4), int), ["--judge", "nowhere"], "no --tokenizer"),
            (
                np.zeros((2, 4), int),
                ["--judge", "nowhere", "--tokenizer", "nowhere.json"],
                "no file nowhere.json",
            ),
        ],
    )
    def test_bad_input(self, cli, rival, tmp_path, tokens, arguments, says):
        np.savez(tmp_path / "samples.npz", tokens=tokens)
        arguments = [str(rival) if word == "RIVAL" else word for word in arguments]
        code, out, err = cli("perplexity", str(tmp_path / "samples.npz"), *arguments)
        assert (code, out) == (2, "")
        assert says in one_line(err)


class TestTrain:
    def test_one_step(self, cli, tmp_path, monkeypatch):
        rng = np.random.default_rng(0)
        text = Corpus(rng.integers(0, 300, 400, np.uint16), rng.integers(0, 300, 260, np.uint16), {})
        asked = []
        monkeypatch.setattr(corpora, "load", lambda *a, **k: (asked.append((a, k)), text)[1])
        code, out, err = cli(
            "train",
            "-o",
            str(tmp_path),
            "--steps",
            "1",
            "--vocab",
            "300",
            "--width",
            "64",
            "--layers",
            "1",
            "--threads",
            "1",
        )
        assert code == 0, err
        assert asked == [((tmp_path / "tokenizer.json", 300), {"sources": ("chitchat", "wikipedia")})]
        assert "bound" in out
        assert "step 1/1" in err
        manifest = read_json(tmp_path / "manifest.json")
        assert manifest["config"]["model"] == {
            "vocab": 300,
            "layers": 1,
            "heads": 1,
            "width": 64,
            "causal": False,
            "timed": False,
        }

    def test_the_rival_with_every_option(self, cli, tmp_path, monkeypatch):
        rng, asked = np.random.default_rng(0), []
        text = Corpus(rng.integers(0, 300, 400, np.uint16), rng.integers(0, 300, 260, np.uint16), {})
        monkeypatch.setattr(corpora, "load", lambda *a, **k: (asked.append(k), text)[1])
        options = "--kind ar --sources all --steps 1 --vocab 300 --width 64 --layers 1 --length 64 --batch 3 --threads 1"
        code, out, err = cli(
            "train", "-o", str(tmp_path), *options.split(), "--save-every", "1", "--device", "cpu"
        )
        assert code == 0, err
        assert asked == [{"sources": None}]
        assert "cross_entropy" in out
        config = read_json(tmp_path / "manifest.json")["config"]
        assert config["model"]["causal"]
        assert (config["length"], config["batch"], config["evaluate_every"], config["device"]) == (
            64,
            3,
            1,
            "cpu",
        )

    @pytest.mark.parametrize(
        ("options", "says"), [(["--width", "100"], "a multiple of 64"), (["--device", "cuda"], "a CUDA device")]
    )
    def test_what_cannot_be_trained(self, cli, monkeypatch, options, says):
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        code, out, err = cli("train", *options)
        assert (code, out) == (2, "")
        assert says in one_line(err)

    @pytest.mark.parametrize("vocab", ["256", "70000"])
    def test_a_vocabulary_that_does_not_fit(self, cli, vocab):
        code, out, err = cli("train", "--vocab", vocab)
        assert (code, out) == (2, "")
        assert "257 to 65,536" in one_line(err)
