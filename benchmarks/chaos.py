"""Kills at random instants: a run that is started again ends with the same bits, and leaves nothing behind.

    python benchmarks/chaos.py [--kills 100] [--seed 0] [--minutes 60] [--work FOLDER]

A small fine-tuning, averaged, evaluated and saved often, read by loader processes from a list with a broken
video, is started with one command line, killed up to four times at instants that the seed chooses, started
again with the same line each time, and compared with a quiet run: final weights to the byte, the log but for
times, the recorded failures, the names of all files; no temporary, no process, no traceback is left.

KINDS says what is killed and how. Kills that came too late, after the end of the run, are not counted. What
was done is kept in FOLDER after each run, from which the next start goes on. Processes are forked, so that
torch and the like are imported once.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from machine import save_result

from videomae2.cli.main import main as command_line
from videomae2.data.sprites.draw import write_sprites
from videomae2.data.sprites.scene import SpriteSettings
from videomae2.engine import checkpoint, loop
from videomae2.engine.log import read_lines
from videomae2.files import write_atomically

LINE = """
    --data.train LIST --data.val LIST --data.workers 2 --data.stride 1 --data.max_broken 0.5
    --model.name vit_ti16 --model.depth 2 --model.width 48 --model.num_heads 3 --model.num_frames 8
    --model.size 32 --model.patch 8 --model.native_frames 8 --model.native_size 32
    --optim.batch_size 2 --optim.accumulate 2 --optim.length 12 --optim.warmup 2 --optim.ema_decay 0.9
    --optim.clip_grad 1.0 --run.checkpoint_every 2 --run.evaluate_every 4 --run.log_every 1
    --run.device cpu --run.precision fp32
"""
PRELOADED = (
    "videomae2.api.jobs", "matplotlib.pyplot", "matplotlib.backends.backend_agg", "jinja2", "PIL.Image",
    "tensorboard.compat.proto.event_pb2", "tensorboard.summary.writer.record_writer", "torch._dynamo",
)  # fmt: skip
"""Modules that a run imports when it needs them."""
HANG_SECONDS = 300.0
"""A start that takes longer hangs."""
MOST_KILLS = 4
"""Kills of one run, at most."""


@dataclass
class Start:
    """One start of the command, in a process of its own; `words` is what it reports of its moments."""

    pid: int
    words: int
    began: float = field(default_factory=time.monotonic)
    code: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def passed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def workers(self) -> list[int]:
        """Its loader processes."""
        try:
            return [
                int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            ]
        except OSError:
            return []


# ---- what is killed, and how: a function that waits for its moment, and kills; False where it came too late


def kill_process(start: Start, chance: random.Random, seconds: float) -> bool:
    """The whole process, at any instant."""
    return _wait(start, chance.uniform(0, seconds)) and _kill(start.pid)


def kill_worker(start: Start, chance: random.Random, seconds: float) -> bool:
    """One loader process, at any instant."""
    if not _wait(start, chance.uniform(0, seconds)):
        return False
    while start.poll() is None:  # between an evaluation and training there may be none
        if workers := start.workers():
            return _kill(chance.choice(workers))
        time.sleep(0.002)
    return False


def kill_in_save(start: Start, chance: random.Random, seconds: float) -> bool:
    """The whole process, while it writes a checkpoint."""
    return _wait_for(start, "s", chance.randrange(1, 6)) and kill_process(start, chance, 0.03)


def kill_in_evaluation(start: Start, chance: random.Random, seconds: float) -> bool:
    """The whole process, while it evaluates."""
    return _wait_for(start, "e", chance.randrange(1, 4)) and kill_process(start, chance, 0.2)


KINDS: dict[str, Callable[[Start, random.Random, float], bool]] = {
    "process": kill_process,
    "worker": kill_worker,
    "save": kill_in_save,
    "evaluation": kill_in_evaluation,
}
CODES = {"worker": 2}
"""How the command ends then, where it is not killed itself."""


def _wait(start: Start, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if start.poll() is not None:
            return False
        time.sleep(0.001)
    return start.poll() is None


def _wait_for(start: Start, word: str, count: int) -> bool:
    """Wait until the process has begun something for the `count`th time."""
    while start.poll() is None and start.passed() < HANG_SECONDS:
        try:
            count -= os.read(start.words, 1) == word.encode()
        except BlockingIOError:
            time.sleep(0.0005)
        if count <= 0:
            return True
    return False


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


# ---- the command


def start_command(line: list[str], told: Path) -> Start:
    """Start the command in a fork; what it prints goes to the file `told`."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    if pid := os.fork():
        os.close(writer)
        return Start(pid, reader)
    output = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # Not those of a test run, which lead elsewhere.
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    checkpoint.save_checkpoint = _announced(checkpoint.save_checkpoint, writer, b"s")
    loop._Trainer._evaluate = _announced(loop._Trainer._evaluate, writer, b"e")  # type: ignore[method-assign]
    code = command_line(["finetune", *line])
    sys.stdout.flush()
    os._exit(code)


def _announced(function: Callable[..., Any], writer: int, word: bytes) -> Any:
    def announcing(*arguments: Any, **others: Any) -> Any:
        os.write(writer, word)
        return function(*arguments, **others)

    return announcing


def run_with_kills(
    line: list[str], told: Path, kinds: list[str], chance: random.Random, seconds: float
) -> tuple[list[str], list[str]]:
    """Start a run until it ends, killed as each kind says in turn; kills that came in time, and faults."""
    done: list[str] = []
    faults: list[str] = []
    seen: set[int] = set()
    for kind in [*kinds, None]:
        start = start_command(line, told)
        killed = kind is not None and KINDS[kind](start, chance, seconds)
        seen |= set(start.workers())
        while start.poll() is None and start.passed() < HANG_SECONDS:
            time.sleep(0.005)
        if start.poll() is None:
            _kill(start.pid)
            faults.append(f"{kind}: still running after {HANG_SECONDS:.0f} s")
            start.code = os.waitpid(start.pid, 0)[1]
        os.close(start.words)
        text = told.read_text(errors="replace")
        expected = CODES.get(kind or "", -signal.SIGKILL) if killed else 0
        # A worker may be killed when nobody waits for it any more.
        if start.code != expected and not (kind in CODES and start.code == 0):
            faults.append(f"{kind}: exit code {start.code}, not {expected}: {text[-300:]}")
        if start.code == 2 and "error: a loader process was killed (SIGKILL)" not in text:
            faults.append(f"{kind}: the error does not name the killed process: {text[-300:]}")
        if "Traceback" in text:
            faults.append(f"{kind}: a traceback: {text[-1000:]}")
        if killed and kind is not None:
            done.append(kind)
    faults += _still_there(seen)
    return done, faults


def _still_there(pids: set[int]) -> list[str]:
    """Loader processes that outlive their run; they look for it every five seconds."""
    until = time.monotonic() + 20
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > until:
            return [f"{len(left)} loader processes are left"]
        time.sleep(0.1)
    return []


def differences(quiet: Path, run: Path) -> list[str]:
    """What of a run is not as in the quiet one."""
    names = [sorted(str(path.relative_to(each)) for path in each.rglob("*")) for each in (quiet, run)]
    # One file of events a start, named by its time.
    kept = [[name for name in each if not name.startswith("events")] for each in names]
    found = [f"{name} is in one of them alone" for name in sorted(set(kept[0]) ^ set(kept[1]))]
    weights = ("model.safetensors", "model_without_ema.safetensors")
    found += [f"other bytes in {name}" for name in weights if not _same_bytes(quiet / name, run / name)]
    for name in ("metrics.jsonl", "failures.jsonl"):
        logs = [[_untimed(line) for line in read_lines(each / name)] for each in (quiet, run)]
        if logs[0] != logs[1]:
            found.append(f"other lines in {name}: {len(logs[0])} and {len(logs[1])}")
    return found


def _same_bytes(first: Path, second: Path) -> bool:
    return first.is_file() and second.is_file() and first.read_bytes() == second.read_bytes()


def _untimed(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if "second" not in key}


# ---- all of it


def prepare(work: Path, warm: bool = True) -> tuple[list[str], float]:
    """Videos, a list with a broken one, and the quiet run: the command without --out, and its seconds."""
    videos = work / "videos"
    if not (videos / "manifest.csv").exists():
        shutil.rmtree(videos, ignore_errors=True)
        write_sprites(videos, num_videos=12, seed=0, settings=SpriteSettings(size=32, num_frames=12))
    listed = work / "list.csv"
    (videos / "broken.mp4").write_text("no video")
    rows = (videos / "manifest.csv").read_text()
    listed.write_text(rows.replace("videos/", f"{videos}/videos/") + f"{videos}/broken.mp4,0,left\n")
    line = LINE.replace("LIST", str(listed)).split()
    for name in ("warm", "quiet") if warm else ("quiet",):  # the first fills caches, the second is timed
        shutil.rmtree(work / name, ignore_errors=True)
        start = start_command([*line, "--out", str(work / name)], work / "told.txt")
        while start.poll() is None:
            time.sleep(0.01)
        if start.code:
            raise SystemExit(f"the quiet run failed: {(work / 'told.txt').read_text()[-600:]}")
        seconds = start.passed()
    return line, seconds


def main() -> None:
    """Kill, compare, and keep the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "videomae2_chaos")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/chaos.json")
    asked = parser.parse_args()
    for name in PRELOADED:
        import_module(name)
    asked.work.mkdir(parents=True, exist_ok=True)
    state = asked.work / f"state-{asked.seed}.json"
    kept: dict[str, Any] = {"runs": 0, "kills": [], "faults": []}
    if state.is_file():
        kept = json.loads(state.read_text())
    until = time.monotonic() + 60 * asked.minutes
    line, seconds = prepare(asked.work)
    print(f"the quiet run takes {seconds:.1f} s; {len(kept['kills'])} kills are done", flush=True)
    while len(kept["kills"]) < asked.kills and time.monotonic() < until:
        # Of the run's number, so that a chaos that was stopped goes on with the kills that were to come.
        chance = random.Random(f"{asked.seed} {kept['runs']}")
        kinds = chance.choices(asked.kinds, k=chance.randint(1, MOST_KILLS))[
            : asked.kills - len(kept["kills"])
        ]
        out = asked.work / "run"
        shutil.rmtree(out, ignore_errors=True)
        done, faults = run_with_kills(
            [*line, "--out", str(out)], asked.work / "told.txt", kinds, chance, seconds
        )
        faults += differences(asked.work / "quiet", out)
        if faults:  # kept, to be looked at
            shutil.copytree(out, asked.work / f"fault-{kept['runs']}", dirs_exist_ok=True)
        kept["faults"] += [f"run {kept['runs']} ({', '.join(kinds)}): {fault}" for fault in faults]
        kept["kills"] += done
        kept["runs"] += 1
        write_atomically(state, json.dumps(kept))
        print(
            f"run {kept['runs']}: {', '.join(done) or 'no kill'}; {'; '.join(faults) or 'equal'}", flush=True
        )
    counts = dict(sorted(Counter(kept["kills"]).items()))
    result = {"seed": asked.seed, "runs": kept["runs"], "kills": counts, "total": len(kept["kills"])}
    result["faults"] = kept["faults"]
    print(json.dumps(result, indent=2))
    if asked.save:
        print(save_result("chaos", result))


if __name__ == "__main__":
    main()
