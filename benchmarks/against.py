"""This checkout against another one: speed and memory of training steps and inference on a CPU, row by row.

    git worktree add ../base 17424d5
    python benchmarks/against.py --base ../base                 # every row, about an hour
    python benchmarks/against.py --base ../base --rows 'pretrain vit_b16 *' 'inference * bf16 *' --pairs 3
    python benchmarks/against.py --base ../base --list

The rows are those of `pretrain_step.py`, `finetune_step.py` and `inference.py`, ours only. Of each row both
checkouts run in turn, A B A B, each in a process of its own that imports its own package and its own
`networks.py`. A ratio above 1 is faster, or larger, than the other checkout; the targets are at least 0.97 of
its speed and at most 1.03 of its memory.
"""

import argparse
import fnmatch
import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import processor, save_result
from pairs import PAIRS, Turn, medians, ratio, spread, take_turns
from table import show

HERE = Path(__file__).parent
SLOWEST, LARGEST = 0.97, 1.03

MODELS, PRECISIONS = ("vit_s16", "vit_b16"), ("fp32", "bf16")
MASKS: dict[str, dict[str, Any]] = {
    "none": {"decoder": "none"},
    "released": {"membership": "released"},
    "unseen": {"membership": "unseen"},
}


@dataclass(frozen=True)
class Row:
    """A row's name, and the fields of `networks.Work` as JSON can hold them."""

    name: str
    work: dict[str, Any] = field(hash=False)


def rows() -> list[Row]:
    """All rows in the order of the benchmarks."""
    found = []
    for model in MODELS:
        for precision in PRECISIONS:
            work = {"model": model, "precision": precision}
            for mask, settings in MASKS.items():
                found.append(
                    Row(
                        f"pretrain {model} {precision} {mask} 4",
                        {**work, "task": "pretrain", "batch": 4, "mask": settings},
                    )
                )
            for kind, mlps in (("keeping", False), ("mlps", True)):
                for batch in (2, 8):  # the larger is the one whose memory the benchmark reports
                    more = {"task": "finetune", "batch": batch, "mlp_checkpointing": mlps}
                    found.append(Row(f"finetune {model} {precision} {kind} {batch}", {**work, **more}))
            for batch in (1, 4):
                found.append(
                    Row(
                        f"inference {model} {precision} - {batch}",
                        {**work, "task": "inference", "batch": batch},
                    )
                )
    return found


class Side:
    """One checkout's process for one row; it can take turns as a `pairs.Program` does."""

    def __init__(self, checkout: Path, row: Row) -> None:
        paths = os.pathsep.join(str(checkout / folder) for folder in ("src", "benchmarks"))
        # Without -P Python would look for `networks` beside the script first, and find ours.
        command = [sys.executable, "-P", str(HERE / "one_checkout.py"), json.dumps(row.work)]
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def turn(self) -> Turn:
        """One step or forward; SystemExit where the process died, whose own message stands above."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(
                "a checkout's process died; its message stands above, or there was too little memory"
            )
        return Turn(**json.loads(answer))

    def stop(self) -> None:
        """End the process."""
        self._process.communicate()


def measure(base: Path, row: Row, pairs: int) -> dict[str, Any]:
    """Both checkouts in turn: medians of each, and the ratios of speed and of memory."""
    with ExitStack() as running:
        sides = []
        for checkout in (base, HERE.parent):
            sides.append(Side(checkout, row))
            running.callback(sides[-1].stop)
        # The two steps in which live bytes are counted have warmed both sides up.
        theirs, ours = take_turns(sides, pairs, warm_up=0)
    memory = {
        kind: _most(ours, kind) / max(1.0, _most(theirs, kind)) for kind in ("peak_bytes", "live_bytes")
    }
    return {
        "row": row.name,
        "base": medians(theirs),
        "here": medians(ours),
        "speed": ratio(theirs, ours),
        "core_speed": ratio(theirs, ours, "cpu"),
        "process_memory": round(memory["peak_bytes"], 3),
        "tensor_memory": round(memory["live_bytes"], 3),
    }


def _most(turns: list[Turn], kind: str) -> float:
    return max(turn.reported[kind] for turn in turns)


def verdict(found: dict[str, Any]) -> str:
    """Which targets a row misses, in words; "ok" for none."""
    misses = []
    if found["speed"]["median"] < SLOWEST:
        misses.append("slower")
    if max(found["process_memory"], found["tensor_memory"]) > LARGEST:
        misses.append("larger")
    return " and ".join(misses) or "ok"


def main() -> None:
    arguments = _arguments()
    base = Path(arguments.base).resolve()
    chosen = [row for row in rows() if any(fnmatch.fnmatch(row.name, pattern) for pattern in arguments.rows)]
    if arguments.list or not chosen:
        print("\n".join(row.name for row in rows()))
        raise SystemExit(0 if arguments.list else f"none of these rows is like {' or '.join(arguments.rows)}")
    commit, here = _commit(base), _commit(HERE.parent)
    earlier = _earlier(commit, {row.name for row in chosen})
    results: list[dict[str, Any]] = []
    for row in chosen:
        measured = measure(base, row, arguments.pairs)
        # A run that adds rows to another's may be on another machine, so each row says on which it was.
        told = {"here_commit": here, "pairs": arguments.pairs, "processor": processor()}
        results.append({**measured, **told})
        _print([results[-1]])
        if not arguments.dry:  # after every row, so that a run that is cut short leaves what it has
            every = earlier + results
            save_result(f"against_{commit}", {"base": commit, **_summary(every), "rows": every})
    if len(results) > 1:
        _print(results)


def _earlier(commit: str, measured_now: set[str]) -> list[dict[str, Any]]:
    """The rows of an earlier run against the same checkout that are not measured anew."""
    path = HERE / "results" / f"against_{commit}.json"
    if not path.is_file():
        return []
    found = json.loads(path.read_text())
    then = {"processor": found["machine"]["processor"]}  # of rows that were kept before they said so
    return [{**then, **row} for row in found["rows"] if row["row"] not in measured_now]


def _summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "median_speed": round(statistics.median(found["speed"]["median"] for found in results), 3),
        "slowest": min(found["speed"]["median"] for found in results),
        "largest": max(found["process_memory"] for found in results),
        "missed": [found["row"] for found in results if verdict(found) != "ok"],
    }


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _print(results: list[dict[str, Any]]) -> None:
    columns = ["row", "s: base", "here", "speed", "core speed", "process memory", "tensors", "targets"]
    cells = [
        [
            found["row"],
            found["base"]["seconds"],
            found["here"]["seconds"],
            spread(found["speed"]),
            spread(found["core_speed"]),
            found["process_memory"],
            found["tensor_memory"],
            verdict(found),
        ]
        for found in results
    ]
    show("against the other checkout", columns, cells)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", required=True, help="the other checkout's folder")
    parser.add_argument(
        "--rows", nargs="+", default=["*"], help="names as --list prints them, with * for anything"
    )
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--list", action="store_true", help="print the rows' names and stop")
    parser.add_argument("--dry", action="store_true", help="write no result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
