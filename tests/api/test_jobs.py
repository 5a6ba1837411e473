"""A recipe followed by its report; a run that is finished gets its report again."""

from dataclasses import replace
from pathlib import Path

import pytest

from videomae2.api import jobs
from videomae2.api.jobs import evaluate, finetune, pretrain
from videomae2.api.model import load
from videomae2.config import load_settings
from videomae2.errors import UserError
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings

from ..small_runs import SmallRuns, finetune_settings, pretrain_settings


def test_a_finished_pretraining_gets_its_report_with_reconstructions(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = tmp_path / "pretrain"
    shown.mkdir()
    for name in ("config.toml", "metrics.jsonl", "model.safetensors"):
        (shown / name).write_bytes((runs.pretrained / name).read_bytes())
    monkeypatch.setattr(jobs, "run_task", lambda _: shown)
    assert pretrain(pretrain_settings(runs.videos, shown)) == shown
    html = (shown / "report.html").read_text(encoding="utf-8")
    for expected in (
        "Pre-training: pretrain",
        "validation loss",
        "Reconstruction of 0.mp4",
        "<h3>seen by the encoder</h3>",
        "mask.encoder_ratio *",
        "<h3>true means only</h3>",
        "1 = knows nothing",
    ):
        assert expected in html
    assert html.count("<svg") == 3
    assert html.count("data:image/png;base64,") == 3 * 4 * 8  # three videos in four rows of eight frames


def test_where_targets_are_raw_pixels_nothing_is_borrowed_and_nothing_costs_one(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_bytes((runs.pretrained / "config.toml").read_bytes())
    (tmp_path / "metrics.jsonl").write_bytes((runs.pretrained / "metrics.jsonl").read_bytes())
    model = load(runs.pretrained, device="cpu")
    model.checkpoint.metadata["target"]["normalize"] = "none"
    monkeypatch.setattr(jobs, "run_task", lambda _: tmp_path)
    monkeypatch.setattr(jobs, "load", lambda *_, **__: model)
    settings = pretrain_settings(runs.videos, tmp_path)
    settings = replace(settings, target=replace(settings.target, normalize="none"))
    html = (pretrain(settings) / "report.html").read_text(encoding="utf-8")
    assert "Reconstruction of" in html
    assert "knows nothing" not in html and "true means" not in html and "taken from" not in html


def test_videos_that_are_gone_do_not_cost_the_report(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_bytes((runs.pretrained / "config.toml").read_bytes())
    monkeypatch.setattr(jobs, "run_task", lambda _: tmp_path)
    (tmp_path / "model.safetensors").write_bytes((runs.pretrained / "model.safetensors").read_bytes())
    settings = pretrain_settings(tmp_path / "gone", tmp_path)
    assert "Reconstruction" not in (pretrain(settings) / "report.html").read_text(encoding="utf-8")


def test_finetuning_writes_its_report(runs: SmallRuns, tmp_path: Path) -> None:
    settings = finetune_settings(runs.videos, tmp_path / "run")
    settings = replace(settings, optim=replace(settings.optim, length=1))
    html = (finetune(settings) / "report.html").read_text(encoding="utf-8")
    assert "Fine-tuning: run" in html and "Validation accuracy" in html
    assert "0.6931 = knows nothing" in html  # the logarithm of two classes
    assert "Confusion matrix" in html and "of 6 videos are on the diagonal" in html


@pytest.mark.usefixtures("unchecked")
def test_keywords_lie_over_a_page_and_a_page_over_a_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(jobs, "train", seen.append)
    page = tmp_path / "page.toml"
    page.write_text("[optim]\nlength = 7\nbatch_size = 5\n")
    finetune(page, preset="tiny", train="clips", batch_size=3, out=tmp_path / "run")
    words = f"--preset tiny --data.train clips --optim.batch_size 3 --out {tmp_path}/run".split()
    assert seen == [load_settings(FinetuneSettings, page, words)]
    pretrain(page)
    assert seen[1] == load_settings(PretrainSettings, page)


@pytest.mark.usefixtures("unchecked")
def test_settings_of_another_task_and_objects_with_keywords_are_refused() -> None:
    with pytest.raises(UserError, match=r"expected PretrainSettings, or keywords such as .*, got FinetuneS"):
        pretrain(FinetuneSettings())  # type: ignore[arg-type]
    with pytest.raises(
        UserError, match=r"got EvaluateSettings and keywords; change the object with dataclass"
    ):
        evaluate(EvaluateSettings(), val="clips")
    with pytest.raises(
        UserError, match=r"unknown setting epoch in the call; did you mean length \(of optim\)"
    ):
        finetune(epoch=3)
