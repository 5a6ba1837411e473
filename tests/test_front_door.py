"""The front door: a dozen names, each found where it says, and nothing heavy until one is used."""

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import videomae2 as vm

HEAVY = ("torch", "numpy", "av", "pyarrow", "matplotlib", "jaxtyping")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, videomae2; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_listed() -> None:
    assert all(getattr(vm, name) is not None for name in vm.__all__)
    assert set(vm.__all__) <= set(dir(vm))
    assert {"__version__", "__all__", "load"} <= set(dir(vm))


def test_the_table_says_what_type_checkers_read() -> None:
    (block,) = (node for node in ast.parse(Path(vm.__file__).read_text()).body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    read = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in imports
        for alias in node.names  # "import x as x" is what makes a name public to a type checker
    }
    assert read == {name: f"videomae2.{home}.{name}" for name, home in vm._HOMES.items()}


def test_each_name_lives_where_the_table_says() -> None:
    homes = {name: getattr(vm, name).__module__ for name in vm.__all__}
    assert homes == {name: f"videomae2.{home}" for name, home in vm._HOMES.items()}


def test_a_star_import_brings_the_public_names() -> None:
    names: dict[str, Any] = {}
    exec("from videomae2 import *", names)
    assert set(names) - {"__builtins__"} == set(vm.__all__)


def test_the_version_is_that_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert vm.__version__ == metadata.version("videomae2")

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert vm._version() == "0+unknown"


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'laod'; its names are .*load"):
        _ = vm.laod
