"""Videos a second at 5 x 3 views, data side: one decode for all views against one decode of the whole file
for each view.

    python benchmarks/evaluate_views.py

Both make the released test views, 5 clips x 3 crops of 16 frames of stride 4 at 224 x 224, on one core, in
turn, in processes of their own. The naive pipeline (naive.py) decodes the file 15 times, as the released code
does, and resizes the 16 pictures of each view with Pillow. Openings of files are counted, ours and its; ours
must be one for each video.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from clips import UCF, count_openings, manifest_of, sources
from machine import save_result
from naive import NaiveEvaluation
from pairs import PAIRS, Call, Turn, medians, programs, ratio, spread, take_turns
from table import show

from videomae2.data.clips import EvaluationClips
from videomae2.data.sampling import Dense
from videomae2.settings import EvaluateSettings

NUM_FRAMES, SIZE = 16, 224
VIDEOS = {"ucf101_10": 4, "720p_gop250": 1, "720p_gop30": 1}
"""Videos of a turn."""


def main() -> None:
    arguments = _arguments()
    paths = sources(arguments.data, arguments.work)
    rows = []
    for source in (name for name in VIDEOS if name in paths and arguments.only in name):
        print(f"{source} ...", flush=True)
        with programs((_naive, source, paths[source]), (_ours, source, paths[source])) as running:
            rows.append(_row(source, *take_turns(running, arguments.pairs, warm_up=1)))
    _print(rows)
    if not arguments.only:
        views = [EvaluateSettings().data.test_clips, EvaluateSettings().data.test_crops]
        print(
            save_result(
                "evaluate_views", {"pairs": arguments.pairs, "views": views, "size": SIZE, "rows": rows}
            )
        )


def _naive(source: str, paths: Sequence[str]) -> Call:
    torch.set_num_threads(1)
    clips = NaiveEvaluation(manifest_of(paths), EvaluateSettings().data, NUM_FRAMES, SIZE)
    return _turn(source, clips, len(paths), lambda: {"files_decoded": float(clips.files_decoded)})


def _ours(source: str, paths: Sequence[str]) -> Call:
    torch.set_num_threads(1)
    opened = count_openings()
    clips = EvaluationClips(manifest_of(paths), EvaluateSettings().data, SIZE, Dense(NUM_FRAMES))

    def counts() -> dict[str, float]:
        return {"files_decoded": float(len(opened.videos)), "frames_decoded": float(opened.frames_decoded)}

    return _turn(source, clips, len(paths), counts)


def _turn(source: str, clips: Any, num_rows: int, counts: Any) -> Call:
    """A turn reads the next videos and reports what the counters gained."""
    taken = 0

    def turn() -> dict[str, float]:
        nonlocal taken
        before = counts()
        for _ in range(VIDEOS[source]):
            assert len(clips[taken % num_rows]) == 15
            taken += 1
        return {name: (value - before[name]) / VIDEOS[source] for name, value in counts().items()}

    return turn


def _row(source: str, naive: list[Turn], ours: list[Turn]) -> dict[str, Any]:
    sides = {"naive": medians(naive), "ours": medians(ours)}
    for side in sides.values():
        side["videos_per_second"] = round(VIDEOS[source] / side["seconds"], 4)
        side["videos_per_core_second"] = round(VIDEOS[source] / side["cpu_seconds"], 4)
    gains = {"faster": ratio(naive, ours), "faster_per_core_second": ratio(naive, ours, "cpu")}
    return {"source": source, "videos": VIDEOS[source], **sides, **gains}


def _print(rows: list[dict[str, Any]]) -> None:
    columns = [
        "source",
        "naive videos/s",
        "ours",
        "faster",
        "faster per core-s",
        "files/video naive",
        "ours",
        "frames/video ours",
    ]
    show(
        "5 x 3 views, data side, one core",
        columns,
        [
            [
                row["source"],
                *(row[side]["videos_per_second"] for side in ("naive", "ours")),
                *(spread(row[gain]) for gain in ("faster", "faster_per_core_second")),
                *(row[side]["files_decoded"] for side in ("naive", "ours")),
                row["ours"]["frames_decoded"],
            ]
            for row in rows
        ],
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=UCF, help="folder of UCF101 .avi clips")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/benchmark_videos"), help="where generated videos are kept"
    )
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--only", default="", help="sources whose name holds this text; nothing is saved")
    return parser.parse_args()


if __name__ == "__main__":
    main()
