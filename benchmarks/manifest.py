"""A manifest of a million rows: time to load it, time to the first shuffled batch, memory that it adds to a
loader process.

    python benchmarks/manifest.py

Rows name the same real clips over and over (or large generated ones where there are none), each with a label.
Every number comes from a process of its own that has imported the package but has seen no manifest: it reads
the manifest, makes the data set and its two loader processes, shuffles the epoch and waits for the first
pre-training batch (8 videos x 4 views). Then two loader processes read some 60,000 shuffled rows, which
touches nearly every page of the table, but no pixels, whose memory comes and goes. What belongs to one
process alone (private) and its share of what it maps together with others (Pss: anonymous memory, and all,
which counts pages of the file that the system can drop at any time) are read while they live, each less the
same with a manifest of a thousand rows. The files lie in the page cache.
"""

import argparse
import itertools
import multiprocessing
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from clips import UCF, sources
from machine import save_result
from pairs import PAIRS, Call, programs, take_turns
from table import show

from videomae2.data.batches import training_batches
from videomae2.data.clips import TrainingClips
from videomae2.data.sampling import RandomWindow
from videomae2.data.tables.manifest import Manifest, read_manifest, write_manifest
from videomae2.labels import Classes
from videomae2.records import Clip
from videomae2.settings import PretrainSettings

ROWS = 1_000_000
MEMORY = ("private_mb", "pss_anonymous_mb", "pss_mb")
BATCHES, ROWS_OF_BATCH = 60, 1000
"""What loader processes read before their memory is looked at."""


def main() -> None:
    arguments = _arguments()
    files = _files(arguments)
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in files}
    for number in range(arguments.pairs):
        print(f"turn {number + 1} of {arguments.pairs} ...", flush=True)
        for name, path in files.items():
            with programs((_first_batch, str(path))) as running:
                turns[name].append(take_turns(running, 1, warm_up=0)[0][0].reported)
    rows = [_row(name, path, turns[name], turns["control"]) for name, path in files.items()]
    _print(rows)
    result = {
        "rows": ROWS,
        "turns": arguments.pairs,
        "workers": 2,
        "batch": "8 videos x 4 views",
        "manifests": rows,
    }
    print(save_result("manifest", result))


def _first_batch(path: str) -> Call:
    """One turn in a fresh process: from the manifest's file to the first batch, then the memory of the
    loaders.
    """
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)

    def turn() -> dict[str, float]:
        began = time.perf_counter()
        manifest = read_manifest(path)
        loaded = time.perf_counter()
        clips = TrainingClips(manifest, PretrainSettings().data, 224, RandomWindow(16))
        batches = training_batches(clips, batch_size=8, seed=0, workers=2)
        next(batches)
        first = time.perf_counter()
        batches.close()  # type: ignore[attr-defined]
        return {
            "load_seconds": loaded - began,
            "first_batch_seconds": first - began,
            **_loader_memory(manifest),
        }

    return turn


@dataclass(frozen=True)
class _Rows:
    """Rows without their pixels."""

    manifest: Manifest
    max_broken: float = 0.0

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, place: tuple[int, int]) -> list[Clip]:
        row = self.manifest.row(place[1])
        return [Clip(torch.zeros((1, 1, 1, 1), dtype=torch.uint8), place[1], target=Classes.one(row.label))]


def _loader_memory(manifest: Manifest) -> dict[str, float]:
    """Mean memory of the two loader processes once they have read rows from all over the manifest."""
    batches = training_batches(_Rows(manifest), batch_size=ROWS_OF_BATCH, seed=0, workers=2)
    for _ in itertools.islice(batches, BATCHES):
        pass
    kept = [_memory(child.pid) for child in multiprocessing.active_children()]
    batches.close()  # type: ignore[attr-defined]
    return {name: statistics.mean(each[name] for each in kept) for name in kept[0]}


def _memory(process: int | None) -> dict[str, float]:
    """MB that belong to one process alone, and its share of all it maps: what only swap could take, and with
    mapped files.
    """
    kilobytes = {}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        kilobytes[name] = int(value.split()[0])
    private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return {
        "private_mb": private / 1000,
        "pss_anonymous_mb": kilobytes["Pss_Anon"] / 1000,
        "pss_mb": kilobytes["Pss"] / 1000,
    }


def _row(
    name: str, path: Path, turns: list[dict[str, float]], control: list[dict[str, float]]
) -> dict[str, Any]:
    row: dict[str, Any] = {"manifest": name, "file_mb": round(path.stat().st_size / 1e6, 1)}
    for key in ("load_seconds", "first_batch_seconds"):
        row[key] = _spread([turn[key] for turn in turns])
    for key in MEMORY:
        base = statistics.median(turn[key] for turn in control)
        row[key], row[f"added_{key}"] = (
            _spread([turn[key] for turn in turns]),
            _spread([turn[key] - base for turn in turns]),
        )
    return row


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "low": round(min(values), 3),
        "high": round(max(values), 3),
    }


def _print(rows: list[dict[str, Any]]) -> None:
    keys = ["load_seconds", "first_batch_seconds", "private_mb", *(f"added_{key}" for key in MEMORY)]
    heads = [
        "manifest",
        "file MB",
        "load s",
        "first batch s",
        "loader's private MB",
        "added",
        "added, Pss",
        "added, Pss + files",
    ]
    cells = [[row["manifest"], row["file_mb"], *(_text(row[key]) for key in keys)] for row in rows]
    show("a million rows (control: a thousand)", heads, cells)


def _text(value: dict[str, float]) -> str:
    return f"{value['median']:.2f} ({value['low']:.2f} - {value['high']:.2f})"


def _files(arguments: argparse.Namespace) -> dict[str, Path]:
    """Manifests of a million rows in every format, and one of a thousand; written where they are missing."""
    clips = next(iter(sources(arguments.data, arguments.videos).values()))
    files = {suffix: arguments.work / f"million.{suffix}" for suffix in ("arrow", "parquet", "csv")}
    files["control"] = arguments.work / "thousand.arrow"
    for name, path in files.items():
        if not path.exists():
            count = 1000 if name == "control" else ROWS
            paths = pa.array(str(Path(clips[number % len(clips)]).resolve()) for number in range(count))
            write_manifest(path, {"path": paths, "label": [number % 400 for number in range(count)]})
    return files


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=UCF, help="folder of UCF101 .avi clips")
    parser.add_argument(
        "--videos", type=Path, default=Path("runs/benchmark_videos"), help="where generated videos are kept"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/benchmark_manifests"), help="where manifests are kept"
    )
    parser.add_argument("--pairs", type=int, default=PAIRS, help="turns of each")
    return parser.parse_args()


if __name__ == "__main__":
    main()
