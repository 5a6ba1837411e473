"""The pages of `docs/` name commands, settings, pages and files that exist."""

import re
from pathlib import Path

import pytest

from videomae2.bounds import ALIASES
from videomae2.cli import main as cli
from videomae2.config import flatten, from_toml, load_settings
from videomae2.settings import (
    DetectSettings,
    EvaluateSettings,
    FinetuneSettings,
    LocalizeSettings,
    PretrainSettings,
)

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "videomae2"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
SETTINGS = {
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
    "evaluate": EvaluateSettings,
    "detect-train": DetectSettings,
    "localize-train": LocalizeSettings,
}
KEYS = {key for cls in SETTINGS.values() for key in flatten(cls())} | set(ALIASES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = re.findall(
        r"(?:^|`)videomae2 ([a-z-]+)(?: (show|check|convert)\b)?", page.read_text(), re.MULTILINE
    )
    for words in set(written):
        assert cli.main([*filter(None, words), "--help"]) == 0, words
    capsys.readouterr()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_dotted_options_exist(page: Path) -> None:
    for option in re.findall(r"--([a-z]+\.[a-z0-9_-]+)", page.read_text()):
        name = option.replace("-", "_")
        assert name in KEYS or name.replace(".no_", ".") in KEYS, option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_toml_examples_are_pages(page: Path) -> None:
    for text in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL):
        from_toml(FinetuneSettings, text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_shell_examples_load_their_pages(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)).replace("\\\n", " ")
    for command, words in re.findall(
        r"^videomae2 (pretrain|finetune|evaluate) (experiments/[^#\n]*)", shell, re.MULTILINE
    ):
        path, *overrides = words.split()
        load_settings(SETTINGS[command], path, overrides)


def test_the_tree_of_the_architecture_is_the_package() -> None:
    """Every file has a line with a clause, and every line a file."""
    block = ARCHITECTURE.split("```text\nsrc/videomae2/\n", 1)[1].split("\n```", 1)[0]
    told: set[str] = set()
    folders: list[str] = []
    for line in block.splitlines():
        indent, name, clause = re.fullmatch(r"( +)(\S+) +(\S.*)", line).groups()  # type: ignore[union-attr]
        assert clause, line
        folders = [*folders[: len(indent) // 2 - 1], name]
        told.add("".join(folders))
    files = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    shown = {name for name in files if name == "__init__.py" or not name.endswith("/__init__.py")}
    rooms = {f"{path.parent.relative_to(PACKAGE).as_posix()}/" for path in PACKAGE.rglob("*/*.py")}
    rooms |= {f"{path.relative_to(PACKAGE).parts[0]}/" for path in PACKAGE.rglob("*.toml")}
    assert told == shown | rooms


def test_files_and_folders_that_the_architecture_mentions_exist() -> None:
    prose = re.sub(r"```text.*?```", "", ARCHITECTURE, flags=re.DOTALL)
    mentioned = re.findall(r"`([\w./]+(?:\.py|\.toml|/))`", prose)
    assert len(mentioned) > 20
    for name in mentioned:
        assert (PACKAGE / name).exists() or (ROOT / name).exists(), name


def test_a_line_to_add_is_where_the_architecture_says() -> None:
    """`path`: `NAME`, `NAME` in the table means that the file defines each name, at its left margin."""
    table = ARCHITECTURE.split("## To add something", 1)[1].split("\n## ", 1)[0]
    places = re.findall(r"`(src/[\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", table)
    assert len(places) > 10
    for path, names in places:
        text = (ROOT / path).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(?:def |class )?{name}\b", text, re.MULTILINE), f"{name} is not in {path}"


def test_code_names_in_the_prose_of_the_architecture_exist() -> None:
    """Words in code style that look like names of ours (CamelCase, UPPER_CASE, under_scored) are defined."""
    prose = re.sub(r"```.*?```", "", ARCHITECTURE, flags=re.DOTALL)
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    for name in set(re.findall(r"`([A-Za-z]+[A-Z_][A-Za-z_]+)`", prose)):
        assert re.search(rf"^\s*(?:def |class )?{name}\b(?:[:(= ]|$)", source, re.MULTILINE), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_pages_mention_exist(page: Path) -> None:
    places = (ROOT, ROOT / "experiments", PACKAGE)
    programs = {path.name for folder in (PACKAGE, ROOT / "benchmarks") for path in folder.rglob("*.py")}
    for name in re.findall(r"[`(]((?:\w+/)*\w+\.(?:py|json|toml|md))[`)]", page.read_text()):
        if "/" in name and "NAME" not in name and not name.startswith("runs/"):
            assert any((place / name).exists() for place in (page.parent, *places)), name
        elif name.endswith(".py"):
            assert name in programs, name
