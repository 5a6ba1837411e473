"""A newcomer's first hour: from `git clone` and an empty environment to a fine-tuned network on own videos.

    python benchmarks/newcomer.py --data FOLDER      # its train/ and val/ hold a folder for each class
    python benchmarks/newcomer.py --ucf UCF101_10    # 160 clips of that set (see real_ucf.py), laid out so

Only commands of README.md are run: the lines of its `sh` blocks under two of its headings, in order, in a
clone of this checkout with a new virtual environment, where `train/` and `val/` are copies of yours. The
commands, their minutes, the accuracy, and what chance and a linear model reach on the same videos go to
`benchmarks/results/newcomer.json`.
"""

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

from machine import save_result
from real_ucf import baselines

from videomae2.data.tables.manifest import read_manifest

ROOT = Path(__file__).parents[1]
HEADINGS = ("## Install", "## Ten minutes on your own videos")
TRAIN, VAL = 11, 5
"""Clips of each class that are taken of UCF101_10: 160 in all."""


def main() -> None:
    arguments = _arguments()
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    clone = arguments.work.resolve() / "videomae2"
    steps = [_timed(f"git clone {ROOT} videomae2", arguments.work.resolve())]
    data = _of_ucf(arguments.ucf, arguments.work) if arguments.ucf else arguments.data
    for part in ("train", "val"):
        shutil.copytree(data / part, clone / part)
    steps += [_timed(command, clone) for command in commands((clone / "README.md").read_text())]
    evaluation = json.loads((clone / "runs" / "evaluate" / "summary.json").read_text())
    train, val = (read_manifest(str(clone / part)) for part in ("train", "val"))
    labels = Counter(int(label) for label in val.labels())
    result = {
        "dataset": "UCF101, 10 classes, 160x120, split 1" if arguments.ucf else data.name,
        "videos": {"train": len(train), "val": len(val), "classes": train.num_classes},
        "commands": [step | {"command": step["command"].replace(str(ROOT), "REPOSITORY")} for step in steps],
        "minutes": round(sum(step["minutes"] for step in steps), 1),
        "top1": evaluation["top1"],
        "chance": round(1 / train.num_classes, 4),
        "largest_class": round(max(labels.values()) / len(val), 4),
        "baselines": baselines(clone / "train", clone / "val"),
    }
    path = save_result("newcomer", result)
    print(path.read_text())
    print(path)


def commands(readme: str) -> list[str]:
    """The commands under the headings, without comments; a line that ends in a backslash goes on."""
    found = []
    for heading in HEADINGS:
        section = re.split(r"^## ", readme.split(f"{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
        for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.sub(r"\s+#.*", "", line).strip()
                if command:
                    found.append(command)
    return found


def _timed(command: str, folder: Path) -> dict[str, Any]:
    """Run one command as a shell of the user would: what earlier ones exported still holds."""
    print(f"$ {command}", flush=True)
    state = folder.parent / f"{folder.name}.environment"
    script = f"[ ! -f {state} ] || . {state}\n{command}\ncode=$?\ndeclare -px > {state}\nexit $code"
    # Not this checkout by way of PYTHONPATH, where the clone is to be installed.
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    start = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, check=False, text=True, capture_output=True, env=clean
    )
    minutes = (time.monotonic() - start) / 60
    print(f"{done.stdout[-1500:]}{done.stderr[-1500:]}[{minutes:.1f} min]", flush=True)
    if done.returncode:
        raise SystemExit(f"{command} ended with exit code {done.returncode}")
    return {"command": command, "minutes": round(minutes, 2)}


def _of_ucf(folder: Path, work: Path) -> Path:
    """Class folders of the first clips of each class, groups in turn, from the official split 1."""
    for part, count in (("train", TRAIN), ("val", VAL)):
        which = {"train": "train", "val": "test"}[part]
        rows = list(csv.DictReader((folder / "annotations" / f"{which}list01.csv").open()))
        # First clips first, so that a class is of many groups: clips of one group show one scene.
        rows.sort(key=lambda row: (row["video"].rsplit("_", 1)[1], row["video"]))
        taken: Counter[str] = Counter()
        for row in rows:
            if taken[row["label"]] < count:
                taken[row["label"]] += 1
                target = work / "videos" / part / row["label"] / f"{row['video']}.mp4"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / "lowres_all" / target.name, target)
    return work / "videos"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", type=Path)
    given.add_argument("--ucf", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/newcomer"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
