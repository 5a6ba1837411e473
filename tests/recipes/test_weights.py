"""Weights by name: finished runs, unfinished ones, single checkpoints, files."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from videomae2.errors import UserError
from videomae2.recipes.tasks import run_settings
from videomae2.recipes.weights import read_weights
from videomae2.settings import FinetuneSettings, PretrainSettings

from ..small_runs import MODEL, SmallRuns, as_before_its_end


@pytest.fixture
def unfinished(runs: SmallRuns, tmp_path: Path) -> Path:
    """The fine-tuning run as it was before its end."""
    return as_before_its_end(runs.finetuned, tmp_path / "run")


@pytest.mark.parametrize(
    ("use_ema", "file"), [(True, "model.safetensors"), (False, "model_without_ema.safetensors")]
)
def test_an_unfinished_run_gives_the_weights_of_its_newest_checkpoint(
    runs: SmallRuns, unfinished: Path, use_ema: bool, file: str
) -> None:
    expected = load_file(runs.finetuned / file)
    for name in (unfinished, unfinished / "checkpoints" / "step-2"):
        found = read_weights(str(name), use_ema)
        assert (found.kind, found.num_classes, found.class_names) == ("classifier", 2, ("left", "right"))
        assert found.state.keys() == expected.keys()
        assert all(torch.equal(found.state[key], expected[key]) for key in expected)
        assert "weights after step 2" in found.notes[0]


def test_a_finished_run_gives_its_final_weights_under_its_own_name(runs: SmallRuns) -> None:
    found = read_weights(str(runs.pretrained))
    assert (found.source, found.kind, found.settings) == (str(runs.pretrained), "pretrain", MODEL)


def test_a_head_of_an_unfinished_run_is_sliced_too(unfinished: Path) -> None:
    assert read_weights(str(unfinished), label_map=[1]).class_names == ("right",)


def test_a_run_without_any_checkpoint_is_refused(unfinished: Path) -> None:
    shutil.rmtree(unfinished / "checkpoints")
    (unfinished / "checkpoints").mkdir()
    with pytest.raises(UserError, match="checkpoint"):
        read_weights(str(unfinished))


def test_the_settings_of_a_run(runs: SmallRuns, tmp_path: Path) -> None:
    assert isinstance(run_settings(runs.pretrained), PretrainSettings)
    assert isinstance(run_settings(runs.finetuned), FinetuneSettings)
    with pytest.raises(UserError, match="holds no run"):
        run_settings(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("settings", {"depth": "a"}), ("settings", 3), ("class_names", 5), ("extra", "a")]
)
def test_what_a_checkpoint_says_of_its_network_is_checked(unfinished: Path, key: str, value: object) -> None:
    path = unfinished / "checkpoints" / "step-2" / "state.json"
    state = json.loads(path.read_text())
    state["about"][key] = value
    path.write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"does not say which network|depth in the metadata of .*: expected"):
        read_weights(str(path.parent))


def test_pipes_and_devices_in_a_checkpoint_are_damage(unfinished: Path) -> None:
    for name, link in (("SHA256SUMS", ""), ("__0_0.distcp", ""), (".metadata", "/dev/zero")):
        path = unfinished / "checkpoints" / "step-2" / name
        kept = path.read_bytes()
        path.unlink()
        if link:
            path.symlink_to(link)
        else:
            os.mkfifo(path)
        with pytest.raises(UserError, match=r"is damaged: .*is no file"):
            read_weights(str(unfinished))
        path.unlink()
        path.write_bytes(kept)
    read_weights(str(unfinished))


def test_checkpoints_of_a_run_have_names(runs: SmallRuns) -> None:
    run, step = str(runs.finetuned), str(runs.finetuned / "checkpoints" / "step-2")
    expected = read_weights(step)
    for name in (f"{run}@best", f"{run}@last", f"{run}@step-2"):
        found = read_weights(name)
        assert found.source == name
        assert all(torch.equal(found.state[key], expected.state[key]) for key in expected.state)
        assert "weights after step 2" in found.notes[0]
    plain = read_weights(f"{run}@best", use_ema=False)
    assert any(not torch.equal(plain.state[key], expected.state[key]) for key in expected.state)


def test_a_checkpoint_that_is_not_there_lists_those_that_are(runs: SmallRuns, tmp_path: Path) -> None:
    run = runs.finetuned
    with pytest.raises(UserError, match=r"got @step-9; it has .*@step-2, .*@last, .*@best"):
        read_weights(f"{run}@step-9")
    with pytest.raises(UserError, match="there are no weights at"):
        read_weights(f"{tmp_path}@best")
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert read_weights(f"{tmp_path}/run@last").kind == "classifier"
    with pytest.raises(UserError, match=r"got @best; it has .*@last \(@best needs evaluations: --data.val\)"):
        read_weights(f"{tmp_path}/run@best")
