"""What every run does around its task: the network of its weights, the identity of its data, its folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from safetensors.torch import load_file

from videomae2.config import from_toml
from videomae2.data.tables.manifest import Manifest, write_manifest
from videomae2.engine import checkpoint
from videomae2.errors import UserError
from videomae2.recipes.evaluate import run_evaluation
from videomae2.recipes.feed import hash_of_rows
from videomae2.recipes.train import inherited, run_task
from videomae2.settings import (
    DataSettings,
    EvaluateSettings,
    FinetuneModel,
    FinetuneSettings,
    PretrainSettings,
)
from videomae2.weights import read_checkpoint

from ..engine.toys import sum_again
from ..small_runs import MODEL, SmallRuns, as_before_its_end, finetune_settings, pretrain_settings

# ---- the network of the weights


def test_a_run_takes_the_network_of_its_initial_weights(runs: SmallRuns, tmp_path: Path) -> None:
    settings = finetune_settings(runs.videos, tmp_path / "run", str(runs.pretrained))
    settings = replace(settings, model=FinetuneModel(drop_path=0.2))
    found = inherited(settings).model
    assert (found.width, found.native_frames, found.decoder_width) == (MODEL.width, MODEL.native_frames, 24)
    assert (found.num_frames, found.size, found.drop_path) == (MODEL.num_frames, MODEL.size, 0.2)
    run_task(settings)
    ours, theirs = (
        load_file(run / "model_without_ema.safetensors") for run in (tmp_path / "run", runs.finetuned)
    )
    assert ours.keys() == theirs.keys()
    page = from_toml(FinetuneSettings, (tmp_path / "run" / "config.toml").read_text())
    assert page.model.width == MODEL.width  # the page replays the run without the weights' help


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("positions", "axes"),
        ("native_size", 64),
        ("patch", 4),
        ("width", 96),
        ("tubelet", 4),
        ("cosine_attention", True),
    ],
)
def test_a_setting_that_contradicts_the_weights_is_refused_by_name(
    runs: SmallRuns, tmp_path: Path, name: str, value: Any
) -> None:
    settings = finetune_settings(runs.videos, tmp_path / "run", str(runs.pretrained))
    settings = replace(settings, model=replace(settings.model, **{name: value}))
    with pytest.raises(UserError, match=rf"expected model.{name} .*, as in the weights .*, got"):
        run_task(settings)
    assert not (tmp_path / "run").exists()


def test_other_clips_than_those_of_the_weights_are_allowed(runs: SmallRuns, tmp_path: Path) -> None:
    settings = finetune_settings(runs.videos, tmp_path / "run", str(runs.pretrained))
    settings = replace(settings, model=replace(settings.model, size=48))
    assert inherited(settings).model.size == 48


def test_a_decoder_is_inherited_by_pretraining_only(runs: SmallRuns, tmp_path: Path) -> None:
    settings = pretrain_settings(runs.videos, tmp_path / "run", init=str(runs.pretrained))
    with pytest.raises(UserError, match=r"expected model.decoder_width 24, as in .*, got 48"):
        inherited(replace(settings, model=replace(settings.model, decoder_width=48)))
    assert inherited(PretrainSettings(init=str(runs.pretrained))).model == MODEL


# ---- the identity of the data


def stopped_after_one_step(run: Path, folder: Path) -> Path:
    """A run as it was before its end, with nothing but its first checkpoint."""
    copy = as_before_its_end(run, folder)
    path = checkpoint.find(copy)
    state = json.loads((path / "state.json").read_text())
    state["step"] = 1
    (path / "state.json").write_text(json.dumps(state))
    sum_again(path)
    path.rename(path.with_name("step-1"))
    return copy


def test_a_renamed_class_is_refused_on_resume(runs: SmallRuns, tmp_path: Path) -> None:
    copy = stopped_after_one_step(runs.finetuned, tmp_path / "run")
    videos = tmp_path / "videos"
    shutil.copytree(runs.videos, videos)
    (videos / "left").rename(videos / "zleft")
    settings = finetune_settings(videos, copy, str(runs.pretrained))
    with pytest.raises(UserError, match=r"trained on other data: expected classes 'left', got 'right'"):
        run_task(settings)


def test_a_moved_data_set_is_the_same_one(runs: SmallRuns, tmp_path: Path) -> None:
    copy = stopped_after_one_step(runs.finetuned, tmp_path / "run")
    videos = tmp_path / "moved"
    shutil.copytree(runs.videos, videos)
    run_task(finetune_settings(videos, copy, str(runs.pretrained)))
    assert (copy / "model.safetensors").is_file()
    with pytest.raises(UserError, match=r"holds another run: expected data.train .* got"):
        run_task(
            finetune_settings(runs.videos, copy, str(runs.pretrained))
        )  # finished, so nothing is checked


@pytest.mark.parametrize("change", ["training", "held out"])
def test_another_data_set_under_the_same_settings_is_refused(
    runs: SmallRuns, tmp_path: Path, change: str
) -> None:
    copy = stopped_after_one_step(runs.finetuned, tmp_path / "run")
    other = tmp_path / "other"
    shutil.copytree(runs.videos, other)
    (other / "left" / "2.mp4").rename(other / "left" / "3.mp4")
    settings = finetune_settings(runs.videos, copy, str(runs.pretrained))
    data: dict[str, Any] = {"train": str(other)} if change == "training" else {"val": str(other)}
    with pytest.raises(UserError, match=r"trained on other data: expected (held-out )?rows .SHA-256.* got"):
        run_task(replace(settings, data=replace(settings.data, **data)))
    with pytest.raises(UserError, match=r"expected data.val .* got ''"):
        run_task(replace(settings, data=replace(settings.data, val="")))


def test_rows_are_hashed_alike_in_every_form_of_a_list(tmp_path: Path) -> None:
    table = pa.table({"path": ["a/1.mp4", "b/2.mp4"], "label": [0, 1]})
    manifest = Manifest(table, "/data")
    assert hash_of_rows(manifest) == hash_of_rows(Manifest(table, "/elsewhere"))
    in_pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 1)])
    assert hash_of_rows(manifest) == hash_of_rows(Manifest(in_pieces, "/data"))
    spelt_out = {"start": [0, 0], "end": [-1, -1], "stride": [0, 0], "source": ["", ""], "pattern": ["", ""]}
    whole = pa.table({**table.to_pydict(), **spelt_out})
    assert hash_of_rows(manifest) == hash_of_rows(Manifest(whole, "/data"))
    as_bytes = pa.table({"path": [b"a/1.mp4", b"b/2.mp4"], "label": [0, 1]})
    assert hash_of_rows(manifest) == hash_of_rows(Manifest(as_bytes, "/data"))
    for changed in (
        {"path": ["a/1.mp4", "b/2.mp4"], "label": [0, 1], "start": [0, 3]},
        {"path": ["a/1.mp4", "b/3.mp4"], "label": [0, 1]},
        {"path": ["a/1.mp4", "b/2.mp4"], "label": [1, 0]},
    ):
        assert hash_of_rows(manifest) != hash_of_rows(Manifest(pa.table(changed), "/data"))
    assert write_manifest(tmp_path / "list.arrow", table).is_file()


# ---- moved runs


def test_a_run_that_was_moved_goes_on_where_it_lies(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = stopped_after_one_step(runs.finetuned, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)  # and from another working directory
    from videomae2.cli.main import main

    assert main(["finetune", "moved"]) == 0
    assert (copy / "model.safetensors").is_file() and read_checkpoint(copy).num_classes == 2


# ---- evaluations


def evaluation(weights: Path, videos: Path, out: Path) -> EvaluateSettings:
    data = DataSettings(val=str(videos), workers=0, stride=1, test_clips=1, test_crops=1)
    return EvaluateSettings(weights=str(weights), data=data, device="cpu", precision="fp32", out=str(out))


def test_an_evaluation_replaces_nothing_but_itself(runs: SmallRuns, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds a training run, whose report an evaluation would replace"):
        run_evaluation(evaluation(runs.finetuned, runs.videos, runs.finetuned))
    out = tmp_path / "out"
    run_evaluation(evaluation(runs.finetuned, runs.videos, out))
    run_evaluation(evaluation(runs.finetuned, runs.videos, out))  # again: the same
    with pytest.raises(UserError, match=r"holds another evaluation: expected data.val .* give another --out"):
        run_evaluation(evaluation(runs.finetuned, runs.videos / "left", out))
    with pytest.raises(UserError, match="holds another evaluation: expected use_ema True, got False"):
        run_evaluation(replace(evaluation(runs.finetuned, runs.videos, out), use_ema=False))
    before = (out / "summary.json").read_text()
    run_evaluation(replace(evaluation(runs.finetuned, runs.videos, out), batch_size=3))
    assert (out / "summary.json").read_text() == before, "how it runs changes nothing"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"is not empty and holds no evaluation"):
        run_evaluation(evaluation(runs.finetuned, runs.videos, tmp_path / "notes"))


def test_an_evaluation_without_a_single_score_is_an_error(runs: SmallRuns, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for name in ("left", "right"):
        (videos / name).mkdir(parents=True)
        (videos / name / "0.mp4").write_bytes(b"no video")
    with pytest.raises(
        UserError, match=r"expected videos to evaluate, got 2 of which none could be read; row 0"
    ):
        run_evaluation(evaluation(runs.finetuned, videos, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_label_map_that_would_be_ignored_is_refused(runs: SmallRuns, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text("[1]")
    settings = finetune_settings(runs.videos, tmp_path / "run")
    with pytest.raises(UserError, match=r"expected --init with --label_map"):
        run_task(replace(settings, label_map=str(tmp_path / "map.json")))
    with pytest.raises(UserError, match=r"expected a label map that gives the 2 classes .* got 1 classes"):
        run_task(replace(settings, init=str(runs.finetuned), label_map=str(tmp_path / "map.json")))
    assert not (tmp_path / "run").exists()


def test_initial_weights_are_read_once(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videomae2.recipes import weights

    asked: list[str] = []
    whole = weights.read_checkpoint  # type: ignore[attr-defined]

    def counting(name: str | Path) -> Any:
        asked.append(str(name))
        return whole(name)

    monkeypatch.setattr(weights, "read_checkpoint", counting)
    run_task(finetune_settings(runs.videos, tmp_path / "run", str(runs.pretrained)))
    assert asked == [str(runs.pretrained / "model.safetensors")]
    weights.read_weights(str(runs.pretrained))
    assert len(asked) == 2  # and nothing is held afterwards
