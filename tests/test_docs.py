"""The pages of `docs/` name commands, settings, pages and files that exist."""

import re
from pathlib import Path

import pytest

from videomae2.cli import main as cli
from videomae2.config import flatten, from_toml, load_settings
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings
from videomae2.spelling import ALIASES

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
SETTINGS = {"pretrain": PretrainSettings, "finetune": FinetuneSettings, "evaluate": EvaluateSettings}
KEYS = {key for cls in SETTINGS.values() for key in flatten(cls())} | set(ALIASES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = re.findall(
        r"(?:^|`)videomae2 ([a-z]+)(?: (show|check|convert)\b)?", page.read_text(), re.MULTILINE
    )
    for words in set(written):
        assert cli.main([*filter(None, words), "--help"]) == 0, words
    capsys.readouterr()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_dotted_options_exist(page: Path) -> None:
    for option in re.findall(r"--([a-z]+\.[a-z_-]+)", page.read_text()):
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
