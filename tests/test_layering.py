"""Who may import whom, read from the source with ``ast``: downward only, and the judge never meets the
accused."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import precision_lab

PACKAGE = Path(precision_lab.__file__).parent
LAYERS = (
    {"types", "errors", "formats", "files", "recorded", "provenance", "devices", "steps", "grammar"},
    {"atoms"},
    {"laws", "uniforms", "targets", "faithful"},
    {"statistics", "samplers"},
    {"mdm", "pipelines"},
    {"finding", "result", "study", "store", "engine"},
    {"verdict"},
    {"bench", "calibration"},
    {
        "figures",
        "report",
        "testing",
        "compare",
        "defects",
        "explain",
        "doctor",
        "measure",
        "__main__",
        "__init__",
    },
)
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}
RESULT = LEVEL["result"]


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def import_nodes(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import that can run, also inside functions; not those under ``if TYPE_CHECKING``."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    children = (
        node.orelse if isinstance(node, ast.If) and is_type_checking(node.test) else ast.iter_child_nodes(node)
    )
    for child in children:
        yield from import_nodes(child)


def imported(source: str, module: tuple[str, ...], is_package: bool) -> set[tuple[str, ...]]:
    """Dotted names that ``source`` imports, absolute, as tuples; ``from a import b`` counts as a and as a.b."""
    names = set()
    home = module if is_package else module[:-1]
    for node in import_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {tuple(alias.name.split(".")) for alias in node.names}
        else:
            base = home[: len(home) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            names |= {(*base, alias.name) for alias in node.names}
    return names


def modules(package: Path) -> dict[tuple[str, ...], tuple[str, bool]]:
    """Dotted name -> (source, whether it is a package's __init__)."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = (package.name, *path.relative_to(package).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        found[parts[:-1] if is_package else parts] = (path.read_text(), is_package)
    return found


def unit_of(name: tuple[str, ...], package: str, units: set[str]) -> str | None:
    """The top-level module or package of the house that a dotted name lies in; None for another's."""
    if name[0] != package:
        return None
    return name[1] if len(name) > 1 and name[1] in units else "__init__"


def violations(package: Path) -> list[str]:
    """Everything that the house rules forbid, one line each."""
    found = modules(package)
    units = {name[1] for name in found if len(name) > 1} | {"__init__"}
    folders = {path.name for path in package.iterdir() if path.is_dir()}
    wrong = [f"{unit} is in no layer" for unit in sorted(units - LEVEL.keys())]
    edges: dict[str, set[str]] = {}
    for name, (source, is_package) in found.items():
        where, unit = ".".join(name[1:]) or "__init__", unit_of(name, package.name, units)
        for target in sorted(imported(source, name, is_package)):
            other = unit_of(target, package.name, units)
            if other is None:
                wrong += [f"{where} imports {'.'.join(target)}" for rule in foreign(unit, target) if rule]
            elif other != unit and unit in LEVEL and other in LEVEL:
                edges.setdefault(unit, set()).add(other)
                sideways = LEVEL[other] == LEVEL[unit] and {unit, other} & folders
                if LEVEL[other] > LEVEL[unit] or sideways:
                    wrong.append(f"{where} imports {other}")
        if unit == "laws" and draws_random(source):
            wrong.append(f"{where} uses numpy's random")
    TopologicalSorter(edges).prepare()  # CycleError for modules of one layer that import each other in a ring
    return wrong


def foreign(unit: str, target: tuple[str, ...]) -> Iterator[bool]:
    """Rules about packages that are not ours."""
    yield target[0] == "pandas" and LEVEL.get(unit, 0) < RESULT
    yield target[0] == "matplotlib" and unit != "figures"
    yield unit == "laws" and (target[0] in {"torch", "random"} or target[:2] == ("numpy", "random"))


def draws_random(source: str) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr == "random" and isinstance(node.value, ast.Name)
        for node in ast.walk(ast.parse(source))
    )


def house(root: Path, **sources: str) -> Path:
    """A small package on disk; ``a__b`` is the file a/b.py."""
    for name, source in {"__init__": "", **sources}.items():
        path = root / "house" / (name if name.startswith("__") else name.replace("__", "/", 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(source)
    return root / "house"


class TestTheHouse:
    def test_imports_run_downward_only(self):
        assert violations(PACKAGE) == []

    def test_the_reader_sees_the_imports_that_exist(self):
        """A reader that found nothing would pass everything."""
        source = (PACKAGE / "samplers/rules.py").read_text()
        rules = imported(source, ("precision_lab", "samplers", "rules"), False)
        assert ("precision_lab", "laws", "argmax", "argmax_law") in rules
        assert ("torch", "Tensor") in rules
        assert ("precision_lab", "atoms", "Atoms") in rules
        weights = imported(
            (PACKAGE / "samplers/weights.py").read_text(), ("precision_lab", "samplers", "weights"), False
        )
        assert ("torch",) in weights
        inside_a_function = imported((PACKAGE / "files.py").read_text(), ("precision_lab", "files"), False)
        assert ("precision_lab", "provenance", "file_sha256") in inside_a_function

    def test_judge_and_accused_are_of_one_layer_and_cannot_meet(self):
        assert LEVEL["statistics"] == LEVEL["samplers"]


class TestTheRules:
    """Each rule, shown to fail on a house that breaks it."""

    @pytest.mark.parametrize(
        ("sources", "said"),
        [
            ({"atoms": "from .laws.law import Law", "laws__law": ""}, "atoms imports laws"),
            ({"atoms": "def f():\n    from . import laws", "laws__law": ""}, "atoms imports laws"),
            ({"statistics__a": "from ..samplers import x", "samplers__b": ""}, "statistics.a imports samplers"),
            (
                {"samplers__b": "import house.statistics.a", "statistics__a": ""},
                "samplers.b imports statistics",
            ),
            ({"laws__law": "from .. import uniforms", "uniforms": ""}, "laws.law imports uniforms"),
            ({"types": "import house"}, "types imports __init__"),
            ({"laws__law": "import torch"}, "laws.law imports torch"),
            ({"laws__law": "from torch import Tensor"}, "laws.law imports torch.Tensor"),
            ({"laws__law": "import random"}, "laws.law imports random"),
            (
                {"laws__law": "from numpy.random import default_rng"},
                "laws.law imports numpy.random.default_rng",
            ),
            ({"laws__law": "import numpy as np\nnp.random.rand()"}, "laws.law uses numpy's random"),
            ({"laws__law": "from ..samplers import x", "samplers__b": ""}, "laws.law imports samplers"),
            ({"mdm__train": "import pandas"}, "mdm.train imports pandas"),
            ({"report": "from matplotlib import pyplot"}, "report imports matplotlib.pyplot"),
            ({"surprise": ""}, "surprise is in no layer"),
            ({"cellar__wine": ""}, "cellar is in no layer"),
            (
                {"atoms": "if TYPE_CHECKING:\n    pass\nelse:\n    from .laws import law", "laws__law": ""},
                "atoms imports laws",
            ),
        ],
    )
    def test_a_breach_is_named(self, tmp_path, sources, said):
        assert violations(house(tmp_path, **sources)) == [said]

    @pytest.mark.parametrize(
        "sources",
        [
            {"result": "import pandas", "figures": "import matplotlib\nimport pandas\nfrom .result import x"},
            {
                "atoms": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .laws import law",
                "laws__law": "",
            },
            {
                "samplers__b": "from ..laws import law\nimport torch\nfrom .c import d",
                "laws__law": "",
                "samplers__c": "",
            },
            {"files": "from .errors import x", "errors": ""},
        ],
    )
    def test_what_is_allowed_passes(self, tmp_path, sources):
        assert violations(house(tmp_path, **sources)) == []

    def test_a_ring_within_a_layer_is_an_error(self, tmp_path):
        with pytest.raises(ValueError, match="cycle"):
            violations(house(tmp_path, study="from .store import x", store="from .study import y"))
