"""Quality of spatial detection: sprites that move each its own way, and who hits in a game of badminton.

    python benchmarks/detect_quality.py sprites --out runs/detect_sprites
    python benchmarks/detect_quality.py badminton --data BADMINTON --out runs/detect_badminton

sprites: pre-train an encoder on unlabelled videos, then train a detector on annotated boxes: from that
encoder, from scratch, and with one feature for the whole clip in place of a box's. Frame mAP on held-out
videos with given boxes, and with boxes found by motion. badminton: boxes at hits of two players, one of whom
hits; train on sets 1 and 2, test on set 3, boxes given; `hits` has a chance AP of 0.497, motion inside boxes
reaches 0.597.
Both print a table and write benchmarks/results/detect_NAME.json with settings and minutes.
"""

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import save_result

from videomae2.api.detectors import Moment, MotionDetector
from videomae2.config import differences
from videomae2.data.key_frames import KeyFrameViews, read_key_frames
from videomae2.data.sprites.draw import write_sprites
from videomae2.data.sprites.scene import SpriteSettings
from videomae2.engine.log import read_lines
from videomae2.metrics.boxes import BoxReport
from videomae2.recipes.detect import key_frame_feed, score_key_frames
from videomae2.recipes.train import run_task
from videomae2.recipes.weights import read_detector
from videomae2.settings import (
    DetectData,
    DetectModel,
    DetectOptim,
    DetectSettings,
    MaskSettings,
    ModelSettings,
    OptimSettings,
    PretrainData,
    PretrainSettings,
    RunSettings,
    SpatialHead,
)

SPRITES = SpriteSettings(
    size=48,
    num_frames=20,
    objects=3,
    classes=("left", "right", "up", "down", "left_fast", "right_fast", "up_fast", "down_fast"),
    sizes=(0.3, 0.45),
    beat=(16.0, 16.0),
    contrast=0.35,
)
SMALL = ModelSettings(
    name="vit_ti16", num_frames=16, size=48, tubelet=4, patch=8, width=96, depth=4, num_heads=3,
    decoder_depth=1, decoder_width=96, decoder_heads=3, native_frames=16, native_size=48, positions="axes",
)  # fmt: skip
COURT = ModelSettings(
    name="vit_ti16", num_frames=16, size=96, tubelet=2, patch=8, width=96, depth=4, num_heads=3,
    decoder_depth=1, decoder_width=96, decoder_heads=3, native_frames=16, native_size=96, positions="axes",
)  # fmt: skip
RUN = RunSettings(precision="fp32", checkpoint_every="50%", log_every=20, tensorboard=False)
KEPT: dict[str, Any] = {"rand_augment": "", "erasing": 0.0, "workers": 1, "stride": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("what", choices=["sprites", "badminton"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/badminton"))
    parser.add_argument("--pretraining", type=int, default=1500, help="optimizer steps")
    parser.add_argument("--steps", type=int, default=1200, help="optimizer steps of each detector")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    (sprites if arguments.what == "sprites" else badminton)(arguments)


def timed(work: Callable[[], Path]) -> tuple[Path, float]:
    began = time.perf_counter()
    return work(), (time.perf_counter() - began) / 60


def pretrained(manifest: Path, out: Path, model: ModelSettings, steps: int, seed: int) -> tuple[Path, float]:
    """Masked autoencoding as the quickstart does it: whole steps hidden, so that what moves is followed."""
    data = PretrainData(
        **KEPT, train=str(manifest), repeated_views=2, crop="random_resized", crop_scale=(0.5, 1.0)
    )
    settings = PretrainSettings(
        model=model,
        data=replace(data, crop="center", crop_scale=(0.08, 1.0)) if model is SMALL else data,
        mask=MaskSettings(encoder="frame", encoder_ratio=0.5, decoder="running_cell", membership="unseen"),
        optim=OptimSettings(
            base_lr=1.6e-2, min_lr=1.6e-4, batch_size=16, length=steps, warmup="10%", clip_grad=1.0
        ),
        run=replace(RUN, out=str(out), seed=seed),
    )
    return timed(lambda: run_task(settings))


def detector(
    annotations: Path, out: Path, model: ModelSettings, steps: int, **changes: Any
) -> DetectSettings:
    data = DetectData(**KEPT, train=str(annotations), flip=False, crop="center")
    optim = DetectOptim(
        base_lr=8e-3, min_lr=8e-5, layer_decay=1.0, clip_grad=1.0, batch_size=16, length=steps, warmup="10%"
    )
    settings = DetectSettings(
        model=DetectModel(**{**vars(model), "drop_path": 0.0}),
        data=data,
        head=SpatialHead(roi_size=3),
        optim=optim,
        run=replace(RUN, out=str(out), seed=changes.pop("seed", 0)),
    )
    return replace(settings, **changes)


def judged(run: Path, annotations: Path, data: DetectData, **changes: Any) -> BoxReport:
    """The report of a run on annotations, with given boxes or with `proposals`."""
    found = read_detector(str(run))
    feed = key_frame_feed(
        replace(data, val=str(annotations), **changes),
        found.settings,
        found.checkpoint.class_names,
        16,
        "cpu",
    )
    assert feed is not None
    return score_key_frames(found.module, feed, found.module.num_classes).report()


# ---- sprites


def sprites(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    folders = {"unlabelled": (2000, 1), "labelled": (600, 2), "held_out": (300, 3)}
    for name, (count, seed) in folders.items():
        if not (out / name / "manifest.csv").exists():
            write_sprites(out / name, num_videos=count, seed=seed, settings=SPRITES)
    train, test = (out / name / "key_frames.csv" for name in ("labelled", "held_out"))
    moving = by_motion(test, out / "motion.csv")
    whole = {path: as_whole_frames(path, path.with_name("whole_frames.csv")) for path in (train, test)}
    seeds = []
    for seed in range(arguments.seeds):
        folder = out / f"seed{seed}"
        encoder, minutes = pretrained(
            out / "unlabelled" / "manifest.csv", folder / "pretrain", SMALL, arguments.pretraining, seed
        )
        values: dict[str, Any] = {"pretraining_minutes": round(minutes, 1)}
        arms = {
            "pretrained": (train, str(encoder)),
            "scratch": (train, ""),
            "whole_clip": (whole[train], str(encoder)),
        }
        for arm, (boxes, init) in arms.items():
            settings = detector(boxes, folder / arm, SMALL, arguments.steps, init=init, seed=seed)
            run, minutes = timed(lambda settings=settings: run_task(settings))  # type: ignore[misc]
            # The whole clip's features give every actor of a video the same scores.
            report = judged(run, whole[test] if arm == "whole_clip" else test, settings.data)
            values[arm] = {"given_boxes": round(report.mean, 4), "minutes": round(minutes, 1)}
            if arm != "whole_clip":
                found = judged(run, test, settings.data, proposals=str(moving), min_score=0.0)
                values[arm] |= {"motion_boxes": round(found.mean, 4), "motion_recall": round(found.recall, 4)}
            values[arm]["last_loss"] = round(last_loss(run), 4)
            print(seed, arm, values[arm], flush=True)
        seeds.append(values)
    result = {"videos": {name: count for name, (count, _) in folders.items()}, "seeds": seeds}
    steps = {"pretraining": arguments.pretraining, "detector": arguments.steps, "threads": arguments.threads}
    print(save_result("detect_sprites", result | {"steps": steps, "settings": changed(settings)}))


def as_whole_frames(annotations: Path, path: Path) -> Path:
    """The same actors and actions, each with the whole frame as its box."""
    rows = list(csv.DictReader(annotations.open()))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        corners = {"x1": 0, "y1": 0, "x2": SPRITES.size, "y2": SPRITES.size}
        writer.writerows([{**row, **corners} for row in rows])
    return path


def by_motion(annotations: Path, path: Path) -> Path:
    """Boxes that motion finds at the key frames of an annotation file."""
    data = DetectData(**KEPT)
    manifest = read_key_frames(str(annotations), data)
    views, find = KeyFrameViews(manifest, data, SMALL.num_frames, SMALL.size), MotionDetector()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "frame", "x1", "y1", "x2", "y2", "score"])
        for number in range(len(manifest)):
            clips = views[number]
            assert isinstance(clips, list), clips
            clip, row = clips[0].frames, manifest.row(number)
            (found,) = find([Moment(0.0, clip[len(clip) // 2], clip)])
            assert found.scores is not None
            for box, score in zip(found.xyxy.tolist(), found.scores.tolist(), strict=True):
                writer.writerow([f"videos/{Path(row.path).name}", row.key_frame, *box, score])
    return path


# ---- badminton


def badminton(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    videos = arguments.data / "clips_320x180"
    rows = list(csv.DictReader((arguments.data / "ava_like.csv").open()))
    parts = {}
    for part in ("train", "test"):
        parts[part] = out / f"{part}.csv"
        chosen = [row for row in rows if row["subset"] == part]
        with parts[part].open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(chosen)
    # Unlabelled: the rallies of the training sets, each several times an epoch by their crops.
    names = sorted({row["video"] for row in rows if row["subset"] == "train"})
    listed = out / "rallies.csv"
    listed.write_text("path\n" + "".join(f"{(videos / name).resolve()}.mp4\n" for name in names))
    encoder, minutes = pretrained(listed, out / "pretrain", COURT, arguments.pretraining, 0)
    values: dict[str, Any] = {"pretraining_minutes": round(minutes, 1)}
    for seed in range(arguments.seeds):
        data = DetectData(
            **KEPT, train=str(parts["train"]), root=str(videos), flip=True, crop="random_scale",
            crop_scale=(0.6, 0.8), box_jitter=(0.1, 0.1), test_size=128, box_growth=(0.2, 0.1),
        )  # fmt: skip
        settings = detector(
            parts["train"], out / f"seed{seed}", COURT, arguments.steps, seed=seed, init=str(encoder)
        )
        settings = replace(settings, data=data, optim=replace(settings.optim, batch_size=8, base_lr=6e-3))
        run, minutes = timed(lambda settings=settings: run_task(settings))  # type: ignore[misc]
        report = judged(run, parts["test"], data)
        table = {
            name: report.classes[number].ap
            for number, name in enumerate(read_detector(str(run)).checkpoint.class_names)
        }
        values[f"seed {seed}"] = {
            "ap": table,
            "minutes": round(minutes, 1),
            "last_loss": round(last_loss(run), 4),
        }
        print(values, flush=True)
    hits = [values[f"seed {seed}"]["ap"]["hits"] for seed in range(arguments.seeds)]
    baselines = {"chance": 0.497, "motion_in_boxes": 0.597}
    result = {
        "key_frames": {"train": 201, "test": 84},
        "hits_ap": float(np.mean(hits)),
        "baselines": baselines,
    }
    steps = {"pretraining": arguments.pretraining, "detector": arguments.steps, "threads": arguments.threads}
    print(save_result("detect_badminton", result | values | {"steps": steps, "settings": changed(settings)}))


def last_loss(run: Path) -> float:
    """The mean loss of a run's last twenty logged lines."""
    losses = [line["loss"] for line in read_lines(run / "metrics.jsonl") if "loss" in line]
    return float(np.mean(losses[-20:]))


def changed(settings: DetectSettings) -> dict[str, Any]:
    """Settings that differ from the command's defaults, without names of files."""
    files = ("data.train", "data.val", "data.root", "run.out", "init")
    return {
        each.key: each.second for each in differences(DetectSettings(), settings) if each.key not in files
    }


if __name__ == "__main__":
    main()
