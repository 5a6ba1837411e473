"""How long a user waits: `videomae2 --help`, `import videomae2`, and from the start of a process to its first
batch.

    python benchmarks/startup.py

Each is a process of its own, started in turn, A B C A B C, after one of each that warms the page cache and
the compiled modules; `python -c pass` and `import torch` stand beside them as what no program of this kind
can undercut. The first batch is of pre-training, 4 videos x 4 views at 16 x 224 x 224, from real clips (or
generated ones where there are none), with no loader process and with two.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from clips import UCF, sources
from machine import save_result
from pairs import PAIRS
from table import show

from videomae2.data.tables.manifest import write_manifest

FIRST_BATCH = """
from videomae2.recipes.feed import training_feed
from videomae2.settings import ModelSettings, OptimSettings, PretrainSettings, RunSettings
from dataclasses import replace
data = replace(PretrainSettings().data, train={manifest!r}, workers={workers})
batches = training_feed(data, ModelSettings(), OptimSettings(batch_size=4), RunSettings(), "pretrain")(0)
assert next(batches).frames.shape == (16, 16, 3, 224, 224)
batches.close()
"""


def main() -> None:
    arguments = _arguments()
    commands = _commands(arguments)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(arguments.pairs + 1):
        for name, command in commands.items():
            taken = _time(command)
            if number:
                seconds[name].append(taken)
    rows = [_row(name, taken) for name, taken in seconds.items()]
    heads = ["from the start of a process", "wall s", "low", "high", "processor s"]
    show(
        "start-up",
        heads,
        [[row["what"], *(row[key] for key in ("seconds", "low", "high", "cpu_seconds"))] for row in rows],
    )
    print(save_result("startup", {"turns": arguments.pairs, "rows": rows}))


def _commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    python = sys.executable
    script = str(Path(python).parent / "videomae2")
    manifest = str(_manifest(arguments))
    batch = [FIRST_BATCH.format(manifest=manifest, workers=workers) for workers in (0, 2)]
    return {
        "python -c pass": [python, "-c", "pass"],
        "import torch": [python, "-c", "import torch"],
        "import videomae2": [python, "-c", "import videomae2"],
        "videomae2 --help": [script, "--help"],
        "videomae2 pretrain --help": [script, "pretrain", "--help"],
        "first batch, no loader process": [python, "-c", batch[0]],
        "first batch, two loader processes": [python, "-c", batch[1]],
    }


def _time(command: list[str]) -> tuple[float, float]:
    """Seconds by the clock and of processors, of a process and its children."""
    before, began = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def _row(name: str, taken: list[tuple[float, float]]) -> dict[str, Any]:
    walls = [wall for wall, _ in taken]
    summary = {"seconds": statistics.median(walls), "low": min(walls), "high": max(walls)}
    summary["cpu_seconds"] = statistics.median(cpu for _, cpu in taken)
    return {"what": name, **{key: round(value, 3) for key, value in summary.items()}}


def _manifest(arguments: argparse.Namespace) -> Path:
    clips = next(iter(sources(arguments.data, arguments.videos).values()))
    return write_manifest(
        arguments.work / "clips.csv", {"path": [str(Path(clip).resolve()) for clip in clips]}
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=UCF, help="folder of UCF101 .avi clips")
    parser.add_argument(
        "--videos", type=Path, default=Path("runs/benchmark_videos"), help="where generated videos are kept"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/benchmark_manifests"), help="where the list is kept"
    )
    parser.add_argument("--pairs", type=int, default=PAIRS, help="turns of each")
    return parser.parse_args()


if __name__ == "__main__":
    main()
