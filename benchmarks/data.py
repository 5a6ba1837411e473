"""Training clips a second and a core-second: this loader against the naive pipeline, on real and on large
generated videos.

    python benchmarks/data.py

Recipes as released: pre-training (multi-scale crop; 1 and 4 views of a video) and fine-tuning (RandAugment,
random resized crop, flip, erasing; 1 and 2 views), 16 frames of stride 4 at 224 x 224. The naive pipeline
(naive.py) decodes the whole file for each view and works picture by picture with Pillow; it makes the same
clips. The column `one decode` supposes that it decoded once for all views of a video: its decoding time
divided by the views, from the same runs. `all else free` is what would be reached if our pipeline did nothing
but decode. Both run on one core, in turn, in processes of their own; the last rows run two loader processes
each. Clips a core-second divide by processor time.
"""

import argparse
import itertools
import multiprocessing
import resource
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from clips import UCF, count_openings, manifest_of, sources
from machine import save_result
from naive import NaiveTraining
from pairs import PAIRS, Call, Turn, medians, programs, ratio, spread, take_turns
from table import show
from torch.utils.data import DataLoader

from videomae2.data.batches import TrainingOrder, training_batches
from videomae2.data.clips import TrainingClips, no_target, read_class
from videomae2.data.sampling import Dense, RandomWindow
from videomae2.settings import DataSettings, FinetuneSettings, PretrainSettings

NUM_FRAMES, SIZE = 16, 224


@dataclass(frozen=True)
class Case:
    """One row of the table; a turn makes `batches` batches of `videos` videos."""

    source: str
    recipe: Literal["pretrain", "finetune"]
    views: int
    videos: int
    batches: int = 1
    workers: int = 0

    @property
    def settings(self) -> DataSettings:
        """The recipe's settings for data."""
        recipe = PretrainSettings if self.recipe == "pretrain" else FinetuneSettings
        return replace(recipe().data, repeated_views=self.views)

    @property
    def clips(self) -> int:
        """Clips made in a turn."""
        return self.videos * self.views * self.batches


CASES = (
    *(Case("ucf101_10", "pretrain", views, 8) for views in (1, 4)),
    *(Case("ucf101_10", "finetune", views, 8) for views in (1, 2)),
    *(Case("720p_gop250", "pretrain", views, videos) for views, videos in ((1, 4), (4, 1))),
    *(Case("720p_gop250", "finetune", views, videos) for views, videos in ((1, 2), (2, 1))),
    *(Case("720p_gop30", "pretrain", views, videos) for views, videos in ((1, 4), (4, 1))),
    Case("ucf101_10", "pretrain", 4, 4, batches=8, workers=2),
    Case("ucf101_10", "finetune", 2, 4, batches=4, workers=2),
    Case("720p_gop250", "pretrain", 4, 1, batches=2, workers=2),
)


def main() -> None:
    arguments = _arguments()
    paths = sources(arguments.data, arguments.work)
    cases = [
        case for case in CASES if case.source in paths and arguments.only in f"{case.source} {case.recipe}"
    ]
    measured = []
    for case in cases:
        print(
            f"{case.source}, {case.recipe}, {case.views} views, {case.workers} loader processes ...",
            flush=True,
        )
        with programs((_naive, case, paths[case.source]), (_ours, case, paths[case.source])) as running:
            measured.append(_row(case, *take_turns(running, arguments.pairs, warm_up=1)))
    _print(measured)
    result = {
        "pairs": arguments.pairs,
        "frames": NUM_FRAMES,
        "size": SIZE,
        "videos": {n: len(p) for n, p in paths.items()},
    }
    if not arguments.only:
        print(save_result("data", {**result, "rows": measured}))


def _naive(case: Case, paths: Sequence[str]) -> Call:
    torch.set_num_threads(1)
    clips = NaiveTraining(manifest_of(paths), case.settings, NUM_FRAMES, SIZE, case.recipe)
    multiprocessing.set_start_method("fork", force=True)
    order = TrainingOrder(len(paths), case.videos, seed=0)
    places = iter(order)

    def turn() -> dict[str, float]:
        before = clips.decode_seconds, _children()
        if case.workers:
            _take(iter(DataLoader(clips, batch_sampler=order, num_workers=case.workers)), case.batches)  # type: ignore[arg-type]
        else:
            for place in itertools.chain.from_iterable(itertools.islice(places, case.batches)):
                clips[place]
        return {
            "decode_seconds": clips.decode_seconds - before[0],
            "children_seconds": _children() - before[1],
        }

    return turn


def _ours(case: Case, paths: Sequence[str]) -> Call:
    torch.set_num_threads(1)
    opened = count_openings()
    pretraining = case.recipe == "pretrain"
    sampler, read = (RandomWindow, no_target) if pretraining else (Dense, read_class)
    clips = TrainingClips(manifest_of(paths), case.settings, SIZE, sampler(NUM_FRAMES), read)

    def batches() -> Iterator[Any]:
        return training_batches(clips, batch_size=case.videos, seed=0, workers=case.workers)

    multiprocessing.set_start_method("fork", force=True)  # as in a run; this process itself was spawned
    endless = None if case.workers else batches()

    def turn() -> dict[str, float]:
        opened.clear()
        before = _children()
        _take(endless or batches(), case.batches, close=bool(case.workers))
        found = {"frames_decoded": float(opened.frames_decoded), "decode_seconds": opened.decode_seconds}
        return {**found, "children_seconds": _children() - before}

    return turn


def _take(batches: Iterator[Any], count: int, close: bool = False) -> None:
    for _ in range(count):
        next(batches)
    if close:
        batches.close()  # type: ignore[attr-defined]


def _row(case: Case, naive: list[Turn], ours: list[Turn]) -> dict[str, Any]:
    naive, ours = _with_children(naive), _with_children(ours)
    sides = {"naive": medians(naive), "ours": medians(ours)}
    for side in sides.values():
        side["clips_per_second"] = round(case.clips / side["seconds"], 3)
        side["clips_per_core_second"] = round(case.clips / side["cpu_seconds"], 3)
    row: dict[str, Any] = {**asdict(case), "clips": case.clips, **sides}
    row["faster_per_core_second"], row["faster"] = ratio(naive, ours, "cpu"), ratio(naive, ours)
    if not case.workers:
        spared = [turn.reported["decode_seconds"] * (1 - 1 / case.views) for turn in naive]
        once = [replace(turn, cpu=turn.cpu - less) for turn, less in zip(naive, spared, strict=True)]
        row["faster_than_one_decode"] = ratio(once, ours, "cpu")
        row["decode_share"] = round(sides["ours"]["decode_seconds"] / sides["ours"]["cpu_seconds"], 3)
        bare = [replace(turn, cpu=turn.reported["decode_seconds"]) for turn in ours]
        row["faster_if_all_else_were_free"] = ratio(naive, bare, "cpu")
        row["frames_decoded_per_clip"] = round(sides["ours"]["frames_decoded"] / case.clips, 2)
    return row


def _with_children(turns: list[Turn]) -> list[Turn]:
    """Turns whose processor time holds that of the loader processes, which ended within the turn."""
    return [replace(turn, cpu=turn.cpu + turn.reported["children_seconds"]) for turn in turns]


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _print(rows: list[dict[str, Any]]) -> None:
    columns = ["source", "recipe", "views", "processes", "naive clips/s", "ours clips/s"]
    columns += [
        "naive /core-s",
        "ours /core-s",
        "faster per core-s",
        "one decode",
        "all else free",
        "decoded/clip",
    ]
    show(
        "training clips",
        columns,
        [
            [row["source"], row["recipe"], str(row["views"]), str(row["workers"])]
            + [
                row[side][name]
                for name in ("clips_per_second", "clips_per_core_second")
                for side in ("naive", "ours")
            ]
            + [spread(row["faster_per_core_second"])]
            + (_alone(row) if not row["workers"] else ["", "", ""])
            for row in rows
        ],
    )


def _alone(row: dict[str, Any]) -> list[Any]:
    gains = [spread(row[name]) for name in ("faster_than_one_decode", "faster_if_all_else_were_free")]
    return [*gains, row["frames_decoded_per_clip"]]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=UCF, help="folder of UCF101 .avi clips")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/benchmark_videos"), help="where generated videos are kept"
    )
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument(
        "--only", default="", help="rows whose source and recipe hold this text; nothing is saved"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
