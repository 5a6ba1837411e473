"""The words people bring lead to ours, and each of them leads somewhere."""

import pytest

from videomae2.bounds import (
    ALIASES,
    CHOICE_SYNONYMS,
    SYNONYMS,
    WITHOUT_SECTION,
    key_of,
    meant_choice,
    unknown,
)
from videomae2.config import known_settings
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings

COMMANDS = {"pretrain": PretrainSettings, "finetune": FinetuneSettings, "evaluate": EvaluateSettings}
KEYS = {name: list(known_settings(cls)) for name, cls in COMMANDS.items()}


def test_every_synonym_leads_to_a_setting_and_is_none_itself() -> None:
    all_keys = {key for keys in KEYS.values() for key in keys}
    assert {*SYNONYMS.values(), *ALIASES.values(), *WITHOUT_SECTION.values()} <= all_keys
    assert not set(SYNONYMS) & set(KEYS["pretrain"])
    assert set(CHOICE_SYNONYMS.values()) <= {"cuda", "bf16", "fp32"}


@pytest.mark.parametrize(
    ("command", "name", "meant"),
    [
        ("pretrain", "epochs", "optim.length"),
        ("pretrain", "lr", "optim.base_lr"),
        ("pretrain", "learning-rate", "optim.base_lr"),
        ("pretrain", "gpu", "run.device"),
        ("pretrain", "workers", "data.workers"),
        ("pretrain", "num_workers", "data.workers"),
        ("pretrain", "batch_size", "optim.batch_size"),
        ("pretrain", "wd", "optim.weight_decay"),
        ("pretrain", "frames", "model.num_frames"),
        ("pretrain", "optim.epochs", "optim.length"),
        ("pretrain", "run.lr", "optim.base_lr"),
        ("pretrain", "EPOCHS", "optim.length"),
        ("pretrain", "optim.bse_lr", "optim.base_lr"),
        ("pretrain", "dat.stride", "data.stride"),
        ("pretrain", "warmup", "optim.warmup"),
        ("pretrain", "model.stride", "data.stride"),
        ("pretrain", "rate", None),
        ("finetune", "nb_classes", "num_classes"),
        ("evaluate", "gpu", "device"),
        ("evaluate", "output_dir", "out"),
        ("evaluate", "checkpoint", "weights"),
        ("evaluate", "run.out", "out"),
        ("evaluate", "run.precision", "precision"),
        ("evaluate", "optim.batch_size", "batch_size"),
    ],
)
def test_what_was_meant(command: str, name: str, meant: str | None) -> None:
    message = str(unknown(name, KEYS[command], "here"))
    assert message.startswith(f"unknown setting {name} here; ")
    assert message.endswith(f"did you mean {meant}?" if meant else "see --help")


def test_a_section_is_told_from_an_unknown_name() -> None:
    message = str(unknown("model", KEYS["pretrain"], "on the command line"))
    assert message == "model on the command line is a section; set one of its keys, such as model.name"


def test_a_long_name_is_cut() -> None:
    assert len(str(unknown("x" * 100_000, KEYS["pretrain"], "here"))) < 400


@pytest.mark.parametrize(
    ("name", "key"),
    [("out", "run.out"), ("optim.base-lr", "optim.base_lr"), ("optim.lr", "optim.base_lr"), ("lr", "lr")],
)
def test_short_names_and_hyphens(name: str, key: str) -> None:
    assert key_of(name, KEYS["pretrain"]) == key


def test_a_commands_own_key_comes_before_a_short_name() -> None:
    assert key_of("out", KEYS["evaluate"]) == "out"


@pytest.mark.parametrize(
    ("word", "choices", "meant"),
    [
        ("gpu", ("auto", "cpu", "cuda"), "cuda"),
        ("cuda:0", ("auto", "cpu", "cuda"), "cuda"),
        ("half", ("fp32", "bf16"), "bf16"),
        ("dens", ("dense", "segments"), "dense"),
        ("zzz", ("dense", "segments"), None),
        (3, ("dense", "segments"), None),
    ],
)
def test_the_choice_that_was_meant(word: object, choices: tuple[str, ...], meant: str | None) -> None:
    assert meant_choice(word, choices) == meant
