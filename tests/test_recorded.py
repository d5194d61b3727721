"""One reader for every file of logits and tokens: the same numbers from all formats, and every bad file one
clear error."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from precision_lab.errors import InputError
from precision_lab.files import read_json
from precision_lab.recorded import WIDEST, Recorded
from precision_lab.targets import Capture, load_capture, load_row, save_capture
from precision_lab.types import Budget
from precision_lab.verdict.check import targets_of

# whole numbers below 128 are bfloat16 values
ROWS = np.arange(-8.0, 4.0, dtype=np.float32).reshape(3, 4)
IDS = np.array([2, 0, 3])
KINDS = ("bf16.safetensors", "f16.safetensors", "f32.safetensors", "npz", "npy", "parquet", "json", "jsonl")


def saved(folder: Path, kind: str, logits: np.ndarray = ROWS, tokens: np.ndarray | None = IDS) -> Path:
    """A file of logits, and of tokens where the format can hold both."""
    path = folder / f"file.{kind}"
    held = {"logits": logits} | ({} if tokens is None else {"tokens": tokens})
    if path.suffix == ".safetensors":
        dtype = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[kind.partition(".")[0]]
        tensors = {name: torch.from_numpy(array) for name, array in held.items()}
        save_file({n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}, str(path))
    elif kind == "npz":
        np.savez_compressed(path, **held)
    elif kind == "npy":
        np.save(path, logits)
    elif kind == "parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table({name: pa.array(list(array)) for name, array in held.items()}), path)
    elif kind == "json":
        path.write_text(json.dumps({name: array.tolist() for name, array in held.items()}))
    else:
        lines = [{name: array[i].tolist() for name, array in held.items()} for i in range(len(logits))]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


class TestAllFormats:
    @pytest.mark.parametrize("kind", KINDS)
    def test_rows_and_tokens_are_alike(self, tmp_path, kind):
        path = saved(tmp_path, kind)
        found = Recorded(path, "logits")
        assert (found.shape, found.dtype.kind) == ((3, 4), "f")
        np.testing.assert_array_equal(found.whole(), ROWS)
        np.testing.assert_array_equal(found.row(1), ROWS[1])
        np.testing.assert_array_equal(np.concatenate(list(found.chunks(2))), ROWS[2:])
        if kind != "npy":
            np.testing.assert_array_equal(Recorded(path, "tokens").whole(), IDS)

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_door_reads_them(self, tmp_path, kind):
        """The targets of ``check`` and of ``law``, and captures; a path may be text."""
        path = saved(tmp_path, kind)
        rows = targets_of([str(path)], Budget.SMOKE)
        assert len(rows) == 3
        one = targets_of([f"{path}:2"], Budget.SMOKE)
        for row in (rows[2], one[0], load_row(str(path), 2), load_capture(str(path)).row(2)):
            np.testing.assert_array_equal(row.logits, ROWS[2])
            assert row.name.endswith("row 2")

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_a_dead_row_spoils_itself_alone(self, tmp_path, kind, bad):
        logits = ROWS.copy()
        logits[1] = -np.inf
        logits[1, 2] = bad
        path = saved(tmp_path, kind, logits)
        np.testing.assert_array_equal(targets_of([f"{path}:0"], Budget.SMOKE)[0].logits, ROWS[0])
        for spec in (f"{path}:1", str(path)):
            with pytest.raises(InputError, match=f"row 1 of .*with maximum {bad}"):
                targets_of([spec], Budget.SMOKE)

    def test_the_only_array_needs_no_name(self, tmp_path):
        path = tmp_path / "x.npz"
        np.savez(path, scores=ROWS)
        np.testing.assert_array_equal(Recorded(path, "logits").whole(), ROWS)
        np.savez(path, scores=ROWS, ids=IDS)
        with pytest.raises(
            InputError, match=r"no array 'logits' in .*holds 'ids', 'scores'.*save it under the name 'logits'"
        ):
            Recorded(path, "logits")

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("x.json", "[2, 0, 3]"),
            ("x.json", '{"tokens": [2, 0, 3], "n": 3}'),
            ("x.json", '[{"id": 7, "token": 2}, {"id": 8, "token": 0}, {"id": 9, "token": 3}]'),
            ("x.jsonl", "2\n0\n\n3\n"),
            ("x.jsonl", "[2, 0, 3]\n"),
            ("x.jsonl", '{"token_id": 2}\n{"token_id": 0}\n{"token_id": 3}'),
        ],
    )
    def test_json_of_ids(self, tmp_path, name, text):
        (tmp_path / name).write_text(text)
        found = Recorded(tmp_path / name, "tokens").whole()
        np.testing.assert_array_equal(found, IDS)
        assert found.dtype.kind == "i"

    def test_a_capture_by_a_path_as_text(self, tmp_path):
        path = str(tmp_path / "c.safetensors")
        save_capture(path, Capture(ROWS, np.zeros(3), IDS, {"model": "\x1b[31mred"}))
        assert load_capture(path).row(0).name == "?[31mred row 0"

    def test_other_json_beside_a_file_is_no_manifest(self, tmp_path):
        path = saved(tmp_path, "f32.safetensors")
        path.with_suffix(".json").write_text('{"epochs": 3}')
        assert load_row(path, 0).name == "file.f32 row 0"


class TestBadFiles:
    @pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl", ".PT"])
    def test_pickles_are_refused_with_the_lines_that_convert_them(self, tmp_path, suffix):
        path = tmp_path / f"x{suffix}"
        torch.save({"logits": torch.from_numpy(ROWS)}, path)
        if suffix == ".pkl":
            path.write_bytes(pickle.dumps({"logits": ROWS}))
        with pytest.raises(InputError, match="a pickle, which runs code") as caught:
            load_capture(path)
        lines = [line.strip() for line in caught.value.remedy.splitlines()[1:]]
        assert len(lines) == 2
        source = "\n".join(lines).replace(repr(path.name), repr(str(path)))
        for made in ("x.safetensors", "x.npz"):
            source = source.replace(repr(made), repr(str(tmp_path / made)))
        exec(source, {})  # our own lines, on our own file
        made = next(iter(sorted(tmp_path.glob("x.safetensors"))), tmp_path / "x.npz")
        np.testing.assert_array_equal(load_capture(made).logits, ROWS)

    def test_float8_is_refused_as_what_it_is(self, tmp_path):
        path = tmp_path / "x.safetensors"
        save_file({"logits": torch.from_numpy(ROWS).to(torch.float8_e4m3fn)}, str(path))
        with pytest.raises(InputError, match=r"dtype F8_E4M3.*widen it first: tensor.float\(\)"):
            load_row(path)

    def test_a_huge_file_is_judged_by_its_header(self, tmp_path):
        """100 GB that are not there: nothing of them is read."""
        path = tmp_path / "x.safetensors"
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", 10**11))
            file.truncate(10**11)
        with pytest.raises(InputError, match="header of 100000000000 bytes"):
            load_capture(path)
        header = b'{"logits":{"dtype":"F32","shape":[1,25000000000],"data_offsets":[0,100000000000]}}'
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(len(header) + 8 + 10**11)
        with pytest.raises(InputError, match=f"at most {WIDEST:,} numbers a row"):
            load_capture(path)

    @pytest.mark.parametrize(
        "header",
        [
            b"[]",
            b'{"logits":3}',
            b'{"logits":{"dtype":"F32","shape":[-3,4],"data_offsets":[0,48]}}',
            b'{"logits":{"dtype":"F32","shape":[3,4],"data_offsets":[0,47]}}',
            b'{"logits":{"dtype":"F32","shape":[3,4],"data_offsets":[960,1008]}}',
            b'{"logits":{"dtype":"F32","shape":[3,4.0],"data_offsets":[0,48]}}',
            b'{"logits":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,48]}}',
            b"[" * 100_000,
        ],
    )
    def test_hostile_headers(self, tmp_path, header):
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(48))
        with pytest.raises(InputError):
            load_row(path)

    @pytest.mark.parametrize("shape", [(-5,), (5, -1), (1 << 40,), (1, 1 << 30), (1 << 62, 4)])
    def test_hostile_shapes(self, tmp_path, shape):
        member = io.BytesIO()
        np.lib.format.write_array_header_1_0(member, {"descr": "<i8", "fortran_order": False, "shape": shape})
        member.write(bytes(40))
        for path in (tmp_path / "x.npy", tmp_path / "x.npz"):
            if path.suffix == ".npy":
                path.write_bytes(member.getvalue())
            else:
                with zipfile.ZipFile(path, "w") as archive:
                    archive.writestr("tokens.npy", member.getvalue())
            with pytest.raises(InputError):
                Recorded(path, "tokens")

    def test_a_bomb_is_refused_unread(self, tmp_path):
        """1 GiB of zeros in a row of a megabyte, packed: refused by the width of the row."""
        path = tmp_path / "bomb.npz"
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": (1, 1 << 28)}
        )
        packed = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
        with packed as archive, archive.open("logits.npy", "w", force_zip64=True) as file:
            file.write(header.getvalue())
            for _ in range(64):
                file.write(bytes(1 << 24))
        assert path.stat().st_size < 1 << 21
        with pytest.raises(InputError, match="numbers a row"):
            load_row(path)

    @pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "{", "\ud800"])
    def test_hostile_json(self, tmp_path, text):
        for name in ("x.json", "x.jsonl"):
            (tmp_path / name).write_text(text, errors="surrogatepass")
            with pytest.raises(InputError):
                Recorded(tmp_path / name, "tokens")
        with pytest.raises(InputError):
            read_json(tmp_path / "x.json")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (
                '{"token_ids": [1, 2]}\n{"token_ids": [1]}\n',
                "item 1 .* with a list of 1, after items with a list of 2",
            ),
            ('["Once upon a time"]', "no numbers"),
            ('{"a": [1], "b": [2]}', "with 'a', 'b'; expected one named 'tokens'"),
            ("[]", "one row or more"),
            ("[[1, 2], 3]", "item 1 .* with one number"),
        ],
    )
    def test_json_that_holds_something_else(self, tmp_path, text, says):
        path = tmp_path / ("x.jsonl" if "\n" in text else "x.json")
        path.write_text(text)
        with pytest.raises(InputError, match=says):
            Recorded(path, "tokens")
