"""Every page of `experiments/` loads, says what it is, and gives the batch and learning rate it states."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from videomae2.architecture import decoder_config, encoder_config, token_grid
from videomae2.config import flatten, load_settings
from videomae2.engine.schedule import make_plan
from videomae2.settings import (
    DetectSettings,
    EvaluateSettings,
    FinetuneSettings,
    LocalizeSettings,
    PretrainSettings,
)

FOLDER = Path(__file__).parents[1] / "experiments"
KINDS: dict[str, type[Any]] = {
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
    "evaluate": EvaluateSettings,
    "detect-train": DetectSettings,
}
PAPER_PAGES = sorted(page for kind in KINDS for page in FOLDER.glob(f"{kind}/*.toml"))
LOCALIZE_PAGES = sorted(FOLDER.glob("localize-train/*.toml"))
OWN_PAGES = sorted(
    page for page in FOLDER.glob("*/*.toml") if page.parent.name not in (*KINDS, "localize-train")
)

# Rows of paper.md 3.1 to 3.4 that must not be lost, by page.
SCRIPTS = {
    "pretrain": "b_script l_script h_script g_script",
    "finetune": "g_k400 g_k710 g_k710_k400 g_k710_k600 g_ssv2 g_ucf101 g_hmdb51 h_k400 h_k600 h_k710 h_ssv2 "
    "l_k400 l_ssv2 b_k400 b_k710 b_ssv2",
}
TABLES = {
    "pretrain": "g_paper h_paper table1_none table1_frame table1_random table1_cell_all table1_cell_25 "
    "table1_cell_50 table1_cell_75 table2_g_encoder_only image_mae",
    "finetune": "g_k710_paper h_k710_paper g_k710_k400_paper g_k710_k600_paper g_k400_64x266 g_k600_64x266 "
    "g_ssv2_paper g_ssv1_paper g_ucf101_paper g_hmdb51_paper h_k710_k400 h_k710_k600 h_k400_64x288 "
    "h_k600_32x384 h_ssv1",
    "detect-train": "g_ava_paper g_ava_kinetics_paper s_ava_v1 b_ava_v1 l_ava_v1 h_ava_v1",
    "evaluate": "kinetics_5x3 hmdb51_5x3 ssv2_2x3 ssv1_2x3 single_view_dense single_view_segments "
    "kinetics_64x266_2x3 kinetics_large_4x3 distilled_7x3",
}


def header(page: Path) -> dict[str, str]:
    """The `# name: value` lines at the top of a page; a value may go on in the lines below it."""
    found: dict[str, str] = {}
    name = ""
    for line in page.read_text().splitlines():
        if not line.startswith("#"):
            break
        match = re.fullmatch(r"# ([a-z_]+):\s+(.*)", line)
        if match:
            name = match[1]
            found[name] = match[2]
        elif name:
            found[name] += " " + line.lstrip("# ")
    return found


def name(page: Path) -> str:
    return f"{page.parent.name}/{page.stem}"


def test_no_script_and_no_table_row_is_missing() -> None:
    expected = {
        f"{kind}/{stem}"
        for rows in (SCRIPTS, TABLES)
        for kind, stems in rows.items()
        for stem in stems.split()
    }
    assert expected == {name(page) for page in PAPER_PAGES}


@pytest.mark.parametrize("page", PAPER_PAGES, ids=name)
def test_a_page_says_what_it_is(page: Path) -> None:
    stated = header(page)
    assert {"paper", "command", "expected", "processes"} <= set(stated)
    assert stated["command"].startswith(f"videomae2 {page.parent.name} experiments/{name(page)}.toml ")
    if page.parent.name != "evaluate":
        assert {"batch", "peak_lr", "hardware", "differs"} <= set(stated)
    if page.stem in SCRIPTS.get(page.parent.name, "").split():
        assert "script" in stated


@pytest.mark.parametrize("page", [page for page in PAPER_PAGES if page.parent.name != "evaluate"], ids=name)
def test_a_training_page_gives_the_batch_and_peak_learning_rate_it_states(page: Path) -> None:
    settings = load_settings(KINDS[page.parent.name], page)
    stated = header(page)
    processes = int(stated["processes"].split(";")[0])
    views = settings.data.repeated_views
    plan = make_plan(settings.optim, settings.run, num_rows=1_000_000, views=views, world_size=processes)
    assert plan.effective_batch == int(stated["batch"])
    assert plan.peak_lr == pytest.approx(float(stated["peak_lr"]), rel=1e-12)
    assert settings.run.out == settings.data.train == settings.init == ""
    encoder_config(settings.model)
    decoder_config(settings.model)


@pytest.mark.parametrize("page", [page for page in PAPER_PAGES if page.parent.name == "pretrain"], ids=name)
def test_pretraining_ends_at_the_learning_rate_of_the_scripts(page: Path) -> None:
    # V1's and V2's run_mae_pretraining.py scale --min_lr 1e-5 by videos / 256; image MAE ends at 0.
    settings = load_settings(PretrainSettings, page)
    processes = int(header(page)["processes"].split(";")[0])
    views = settings.data.repeated_views
    plan = make_plan(settings.optim, settings.run, num_rows=1_000_000, views=views, world_size=processes)
    scaled = 0.0 if page.stem == "image_mae" else 1e-5 * plan.videos_per_step / 256
    assert plan.final_lr == pytest.approx(scaled, rel=1e-12)


@pytest.mark.parametrize("page", [page for page in PAPER_PAGES if page.parent.name != "evaluate"], ids=name)
def test_one_process_with_accumulation_does_the_same(page: Path) -> None:
    advice = re.search(r"--optim\.accumulate \d+", header(page)["processes"])
    settings = load_settings(KINDS[page.parent.name], page, advice[0].split() if advice else [])
    plan = make_plan(settings.optim, settings.run, num_rows=1_000_000, views=settings.data.repeated_views)
    assert plan.effective_batch == int(header(page)["batch"])


@pytest.mark.parametrize("page", [page for page in PAPER_PAGES if "ssv" in page.stem], ids=name)
def test_something_something_is_sampled_in_segments_and_never_flipped(page: Path) -> None:
    settings = load_settings(KINDS[page.parent.name], page)
    assert settings.data.sampling == "segments"
    assert (settings.data.test_clips, settings.data.test_crops) == (2, 3)
    if page.parent.name == "finetune":
        assert not settings.data.flip


@pytest.mark.parametrize("page", [page for page in PAPER_PAGES if page.parent.name == "finetune"], ids=name)
def test_classes_and_flip_follow_the_data_set(page: Path) -> None:
    settings = load_settings(FinetuneSettings, page)
    target = re.findall(r"k400|k600|k710|ssv[12]|ucf101|hmdb51", page.stem)[-1]
    classes = {"k400": 400, "k600": 600, "k710": 710, "ssv1": 174, "ssv2": 174, "ucf101": 101, "hmdb51": 51}
    assert settings.num_classes == classes[target]
    assert settings.data.flip == (not target.startswith("ssv"))
    assert settings.data.stride == (2 if target == "hmdb51" else 4)


def test_a_page_holds_only_what_differs_from_the_defaults() -> None:

    stated_anyway = {
        "data.test_clips",
        "data.test_crops",
        "data.stride",
    }  # protocols name their views even where default
    for page in PAPER_PAGES:
        defaults = flatten(KINDS[page.parent.name]())
        for section, values in tomllib.loads(page.read_text()).items():
            for key, value in values.items() if isinstance(values, dict) else [("", values)]:
                dotted = f"{section}.{key}".rstrip(".")
                same = defaults[dotted] == (tuple(value) if isinstance(value, list) else value)
                assert not same or (page.parent.name == "evaluate" and dotted in stated_anyway), (
                    f"{name(page)}: {dotted}"
                )


def test_table_1_rows_differ_only_in_the_decoder_mask() -> None:
    pages = [load_settings(PretrainSettings, page) for page in PAPER_PAGES if page.stem.startswith("table1_")]
    assert len({(each.model, each.data, each.target, each.optim, each.run) for each in pages}) == 1
    assert len({each.mask for each in pages}) == 7


def test_the_large_input_grid_is_odd_and_still_loads() -> None:
    settings = load_settings(FinetuneSettings, FOLDER / "finetune" / "g_k400_64x266.toml")
    assert token_grid(settings.model).shape == (32, 19, 19)


def test_image_mae_is_one_step_of_time() -> None:
    settings = load_settings(PretrainSettings, FOLDER / "pretrain" / "image_mae.toml")
    assert token_grid(settings.model).shape == (1, 14, 14)
    assert encoder_config(settings.model).native == token_grid(settings.model)


@pytest.mark.parametrize("page", OWN_PAGES, ids=name)
def test_our_own_small_pages_load(page: Path) -> None:
    kind = next((cls for word, cls in KINDS.items() if word in page.stem), None)
    assert kind is not None, (
        f"name {page.name} after the command that reads it: pretrain, finetune or evaluate"
    )
    settings = load_settings(kind, page)
    if kind is not EvaluateSettings:
        encoder_config(settings.model)


def test_temporal_detection_has_the_pages_of_the_paper() -> None:
    assert [page.stem for page in LOCALIZE_PAGES] == ["fineaction", "thumos14"]


@pytest.mark.parametrize("page", LOCALIZE_PAGES, ids=name)
def test_a_page_of_temporal_detection(page: Path) -> None:
    stated, settings = header(page), load_settings(LocalizeSettings, page)
    assert {"paper", "command", "expected", "processes", "hardware", "differs"} <= set(stated)
    assert stated["command"].startswith(f"videomae2 localize-train experiments/{name(page)}.toml ")
    load_settings(LocalizeSettings, page, stated["command"].split()[3:])  # every option of the line is known
    plan = make_plan(settings.optim, settings.run, num_rows=100_000)
    assert plan.effective_batch == int(stated["batch"])
    assert plan.peak_lr == pytest.approx(float(stated["peak_lr"]), rel=1e-12)
    defaults = flatten(LocalizeSettings())
    for section, values in tomllib.loads(page.read_text()).items():
        for key, value in values.items():
            assert defaults[f"{section}.{key}"] != value, f"{section}.{key} is the default"
