"""Ten classes of real UCF101: pre-train on the training clips, fine-tune, evaluate 2 x 3 views; against from
scratch.

    python benchmarks/real_ucf.py --data ../shared/data/ucf101_10

The folder holds `lowres_all/*.mp4` and `annotations/{train,test}list01.csv` (video,label_id,label). Runs live
in `--work` and resume where they stopped; the result, with every setting, goes to
`benchmarks/results/real_ucf.json`.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from machine import save_result

from videomae2.config import flatten, load_settings
from videomae2.data.tables.manifest import Manifest, read_manifest
from videomae2.data.video.decode import open_video
from videomae2.engine.log import read_lines
from videomae2.recipes.evaluate import run_evaluation
from videomae2.recipes.train import run_task
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings

PAGES = Path(__file__).parents[1] / "experiments" / "small"


def main() -> None:
    arguments = _arguments()
    lists = {part: _write_manifest(arguments.data, part, arguments.work) for part in ("train", "test")}
    videos = {part: len(read_manifest(str(path))) for part, path in lists.items()}
    result: dict[str, Any] = {"dataset": "UCF101, 10 classes, 160x120, split 1", "videos": videos}
    result["largest_class"] = _majority_share(lists["train"], lists["test"])
    result["baselines"] = baselines(lists["train"], lists["test"])
    settings: dict[str, Any] = {"pretrain": _pretraining(lists, arguments)}
    pretrained = run_task(settings["pretrain"])
    result["pretrain"] = _training(pretrained, settings["pretrain"])
    for arm, init in (("pretrained", str(pretrained)), ("scratch", "")):
        settings[arm] = _finetuning(lists, arguments, arm, init)
        run = run_task(settings[arm])
        result[arm] = _training(run, settings[arm]) | _evaluate(
            run, lists["test"], arguments.work / f"evaluate_{arm}"
        )
    result["settings"] = {name: _portable(each) for name, each in settings.items()}
    path = save_result("real_ucf", result)
    print(_table(result))
    print(path)


def baselines(train: Path, test: Path) -> dict[str, float]:
    """Top-1 of logistic regressions on the middle frame and on motion energy: what needs no video model."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts = {part: read_manifest(str(path)) for part, path in (("train", train), ("test", test))}
    features = {
        part: [_trivial_features(manifest, row) for row in range(len(manifest))]
        for part, manifest in parts.items()
    }
    scores = {}
    for number, name in enumerate(("middle_frame", "motion_energy")):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.01))
        model.fit(np.stack([pair[number] for pair in features["train"]]), parts["train"].labels())
        scores[name] = round(
            float(model.score(np.stack([pair[number] for pair in features["test"]]), parts["test"].labels())),
            4,
        )
    return scores


def _trivial_features(manifest: Manifest, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The middle frame at 32 x 32, and the mean absolute frame difference of four equal parts at 16 x 16."""
    with open_video(manifest.row(number).path) as video:
        total = video.info.num_frames
        starts = np.linspace(0, max(total - 3, 0), 5).astype(int)[:4]
        wanted = sorted({total // 2, *starts.tolist(), *(np.minimum(starts + 2, total - 1)).tolist()})
        frames = dict(zip(wanted, video.read(wanted).float().numpy() / 255, strict=True))
    middle = _shrink(frames[total // 2], 32)
    motion = [
        _shrink(np.abs(frames[min(s + 2, total - 1)] - frames[s]).mean(0, keepdims=True), 16)
        for s in starts.tolist()
    ]
    return middle, np.concatenate(motion)


def _shrink(image: np.ndarray, size: int) -> np.ndarray:
    import torch
    from torch.nn.functional import interpolate

    return interpolate(torch.from_numpy(image)[None], (size, size), mode="area")[0].flatten().numpy()


def _write_manifest(data: Path, part: str, work: Path) -> Path:
    """The official split list as a CSV manifest over the low-resolution files."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{part}.csv"
    with (data / "annotations" / f"{part}list01.csv").open() as source, path.open("w", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["path", "label"])
        writer.writerows(
            [(data / "lowres_all" / f"{row['video']}.mp4").resolve(), row["label"]]
            for row in csv.DictReader(source)
        )
    return path


def _pretraining(lists: dict[str, Path], arguments: argparse.Namespace) -> PretrainSettings:
    tokens = [
        "--data.train",
        str(lists["train"]),
        "--run.out",
        str(arguments.work / "pretrain"),
        *arguments.pretrain,
    ]
    return load_settings(PretrainSettings, PAGES / "ucf101_10_pretrain.toml", tokens)


def _finetuning(
    lists: dict[str, Path], arguments: argparse.Namespace, arm: str, init: str
) -> FinetuneSettings:
    tokens = ["--data.train", str(lists["train"]), "--data.val", str(lists["test"])]
    tokens += ["--run.out", str(arguments.work / f"finetune_{arm}")]
    # A lower rate for early layers is for weights that are already good: the arm from scratch is better
    # without.
    tokens += ["--init", init] if init else ["--optim.layer-decay", "1.0"]
    return load_settings(FinetuneSettings, PAGES / "ucf101_10_finetune.toml", [*tokens, *arguments.finetune])


def _evaluate(run: Path, test: Path, out: Path) -> dict[str, Any]:
    """Top-1 and top-5 over 2 x 3 views, from the summary of an earlier evaluation where there is one."""
    if not (out / "summary.json").exists():
        tokens = ["--weights", str(run), "--data.val", str(test), "--out", str(out)]
        run_evaluation(
            load_settings(
                EvaluateSettings, None, [*tokens, "--data.test-clips", "2", "--data.test-crops", "3"]
            )
        )
    summary = json.loads((out / "summary.json").read_text())
    return {
        name: summary[name]
        for name in ("top1", "top5", "mean_class", "evaluated", "failed", "listed", "views")
    }


def _training(run: Path, settings: PretrainSettings | FinetuneSettings) -> dict[str, Any]:
    """Steps, last loss, and minutes of training from the logged speed, so that interruptions do not count."""
    lines = [line for line in read_lines(run / "metrics.jsonl") if "evaluation" not in line]
    clips = settings.optim.batch_size * settings.optim.accumulate * settings.data.repeated_views
    steps = [
        line["step"] - before
        for line, before in zip(lines, [0, *(line["step"] for line in lines)], strict=False)
    ]
    seconds = sum(count * clips / line["clips_per_second"] for count, line in zip(steps, lines, strict=True))
    return {
        "steps": lines[-1]["step"],
        "last_loss": round(lines[-1]["loss"], 4),
        "minutes": round(seconds / 60, 1),
    }


def _portable(settings: PretrainSettings | FinetuneSettings) -> dict[str, Any]:
    """The settings without the paths of this machine."""
    paths = ("data.train", "data.val", "data.root", "run.out", "init")
    return {key: value for key, value in flatten(settings).items() if key not in paths}


def _majority_share(train: Path, test: Path) -> float:
    majority = np.bincount(read_manifest(str(train)).labels()).argmax()
    return round(float((np.asarray(read_manifest(str(test)).labels()) == majority).mean()), 4)


def _table(result: dict[str, Any]) -> str:
    rows = [("largest class", result["largest_class"]), *result["baselines"].items()]
    rows += [(arm, result[arm]["top1"]) for arm in ("scratch", "pretrained")]
    return "\n".join(f"{name:16s} {value:.3f}" for name, value in rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "ucf101_10"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/real_ucf"))
    parser.add_argument("--pretrain", nargs="*", default=[], help="overrides of the pre-training page")
    parser.add_argument("--finetune", nargs="*", default=[], help="overrides of the fine-tuning page")
    arguments = parser.parse_args()
    if not (arguments.data / "annotations").is_dir():
        parser.error(f"no UCF101 clips at {arguments.data}; name their folder with --data")
    return arguments


if __name__ == "__main__":
    main()
