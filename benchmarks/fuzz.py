"""Thousands of bad inputs through the command line: lists, pages, lines, weights, runs, videos.

    python benchmarks/fuzz.py --work /tmp/fuzz                  # all cases, resumed where it was stopped
    python benchmarks/fuzz.py --work /tmp/fuzz --only weights:17   # one of them, to look at

Each case is a fresh folder, a command and what lies there for it, all drawn from (seed, kind, number). It is
run by `videomae2.cli.main` in a process that is forked from this one, which has imported everything. Right
are: exit code 0 or 2; of 2, one line; no traceback, no source line of a warning, no more than 200 characters
of what came; an end within 60 s of computing or waiting, in bounded memory; nothing executed that came in
files; nothing changed but the folder that was to be written. The counts go to
`benchmarks/results/fuzz.json`.
"""

import argparse
import faulthandler
import gc
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 60
MOST_GROWTH = 1 << 30
"""Bytes that a case may need beyond what the program itself does."""
HARD_LIMIT = 8 << 30
"""Address space beyond that of the program, after which the system refuses memory."""
LONGEST = 1500
"""Characters of a message; paths, what was expected and what to try fit."""
NO_CASE = 99
"""The exit code where making the case failed: a fault of the fuzzing."""


class Case(NamedTuple):
    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"


@dataclass
class Outcome:
    """What became of a case; `faults` names what is wrong about it, nothing where all is right."""

    case: str
    code: int
    seconds: float
    megabytes: int
    faults: list[str] = field(default_factory=list)
    argv: list[str] = field(default_factory=list)
    stderr: str = ""


@dataclass
class Running:
    """A case under way.

    One that waits for a busy machine does not hang; one hangs that computes for over a minute, or waits as
    long for anything but a processor.
    """

    case: Case
    folder: Path
    busy: float
    seconds: float = 0.0

    def hangs(self, pid: int) -> bool:
        words = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        if len(words) < 13:
            return False
        self.seconds = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
        if words[0] == "R":
            self.busy = time.monotonic()
        return self.seconds > SECONDS or time.monotonic() - self.busy > SECONDS


def kinds() -> dict[str, tuple[int, Callable[..., list[str]]]]:
    """Kind -> how many cases, and what makes one: files in a scene, and the command over them."""
    import fuzz_lines
    import fuzz_lists
    import fuzz_runs
    import fuzz_videos
    import fuzz_weights

    return {
        "lists": (2500, fuzz_lists.case),
        "pages": (1500, fuzz_lines.page),
        "lines": (2000, fuzz_lines.line),
        "weights": (2500, fuzz_weights.case),
        "runs": (1500, fuzz_runs.case),
        "videos": (2500, fuzz_videos.case),
    }


class Fuzz:
    """A run of the fuzzing in a folder of its own: good files, cases, and a line for each outcome."""

    def __init__(self, work: Path, seed: int) -> None:
        from fuzz_stock import Stock, build

        self.work, self.seed = work.resolve(), seed
        self.log = self.work / "outcomes.jsonl"
        self.stock = Stock(self.work / "stock")
        self.makers = kinds()
        self.extra: list[str] = []
        self.size = _resident()
        self.hung: set[str] = set()
        if not (self.work / "stock.ready").exists():
            shutil.rmtree(self.stock.folder, ignore_errors=True)
            self.stock.folder.mkdir(parents=True)
            self._in_a_process(lambda: build(self.stock.folder))
            (self.work / "stock.ready").touch()

    def cases(self, share: float = 1.0) -> Iterator[Case]:
        """All cases, the kinds mixed, so that a run that is stopped has seen some of each."""
        counts = {kind: max(1, round(count * share)) for kind, (count, _) in self.makers.items()}
        for number in range(max(counts.values())):
            for kind, count in counts.items():
                if number < count:
                    yield Case(kind, number)

    def run(self, cases: Iterable[Case], jobs: int = 1) -> Iterator[Outcome]:
        """Run cases, several at once; outcomes come as they end."""
        waiting, running = iter(cases), dict[int, Running]()
        while True:
            for case in islice(waiting, jobs - len(running)):
                pid = self._fork(case)
                running[pid] = Running(case, self._folder(case), time.monotonic())
            if not running:
                return
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid in running:
                code, seconds = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
                yield self._judge(running.pop(pid), code, seconds, usage.ru_maxrss << 10)
            elif not pid:
                for each, one in running.items():
                    if one.hangs(each):
                        self.hung.add(str(one.case))
                        _kill(each)
                    elif _resident(each) > self.size + 2 * MOST_GROWTH:  # it could take the machine with it
                        _kill(each)
                time.sleep(0.01)

    def _folder(self, case: Case) -> Path:
        return self.work / "cases" / f"{case.kind}-{case.number}"

    def _canary(self, case: Case) -> Path:
        return self.work / "canaries" / f"{case.kind}-{case.number}"

    def _fork(self, case: Case) -> int:
        folder = self._folder(case)
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("files", "told"):
            (folder / part).mkdir(parents=True)
        self._canary(case).parent.mkdir(exist_ok=True)
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        code = NO_CASE
        try:
            os.setpgid(0, 0)
            code = self._child(case, folder)
        except BaseException:
            traceback.print_exc()
            code = 1 if code != NO_CASE else NO_CASE
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _child(self, case: Case, folder: Path) -> int:
        from fuzz_scene import Scene, contents

        from videomae2.cli.main import main

        files, told = folder / "files", folder / "told"
        for number, name in ((0, os.devnull), (1, str(told / "stdout")), (2, str(told / "stderr"))):
            opened = os.open(name, os.O_RDWR | os.O_CREAT)
            os.dup2(opened, number)
            os.close(opened)
        os.chdir(files)
        tempfile.tempdir = str(files)  # what is left there shows
        random.seed(0)
        scene = Scene(random.Random(f"{self.seed}/{case}"), files, self.stock, self._canary(case))
        argv = self.makers[case.kind][1](scene)
        (told / "argv.json").write_text(json.dumps(argv))
        (told / "resident").write_text(str(_resident()))
        before = contents(files)
        _limit()
        try:
            code = main([*argv, *self.extra])
        except BaseException:
            traceback.print_exc()
            code = 1
        after = contents(files)
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        (told / "changed.json").write_text(json.dumps(changed))
        return code

    def _judge(self, one: Running, code: int, seconds: float, peak: int) -> Outcome:
        told = one.folder / "told"
        stderr = (
            (told / "stderr").read_bytes().decode("utf-8", "replace") if (told / "stderr").exists() else ""
        )
        argv = json.loads(_text(told / "argv.json") or "[]")
        changed = json.loads(_text(told / "changed.json") or "[]")
        growth = max(0, peak - int(_text(told / "resident") or peak))
        faults = list(_faults(code, stderr, growth))
        if str(one.case) in self.hung:
            faults = ["hang"]
        if self._canary(one.case).exists():
            faults.append("payload")
        if changed:
            faults.append("changed other files")
        if code == 0 and "--json" in argv:
            faults += _not_json(_text(told / "stdout"))
        outcome = Outcome(str(one.case), code, round(seconds, 2), growth >> 20, faults)
        if faults:
            outcome.argv, outcome.stderr = [each[:200] for each in argv], stderr[-3000:]
            if changed:
                outcome.stderr += "\nchanged: " + ", ".join(changed[:5])
        else:
            _remove(one.folder)
        return outcome

    def _in_a_process(self, work: Callable[[], Any]) -> None:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                with (self.work / "stock.log").open("w") as log:
                    os.dup2(log.fileno(), 1)
                    os.dup2(log.fileno(), 2)
                    work()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        if os.waitpid(pid, 0)[1]:
            raise SystemExit(f"the good files could not be made:\n{_text(self.work / 'stock.log')[-2000:]}")


def _faults(code: int, stderr: str, growth: int) -> Iterator[str]:
    """What is wrong about how a command ended and what it said."""
    errors = [line for line in stderr.splitlines() if line.startswith("error:")]
    if code == NO_CASE:
        yield "no case"
        return
    if code < 0:
        yield f"killed by {signal.Signals(-code).name}"
    elif code not in (0, 2):
        yield f"exit code {code}"
    if "Traceback" in stderr or "Exception ignored" in stderr:
        yield "traceback"
    if code == 2 and (len(errors) != 1 or not stderr.rstrip().splitlines()[-1].startswith("error:")):
        yield "not one line"
    if any(len(line) > LONGEST for line in stderr.splitlines()):
        yield "too long"
    if "Q" * 201 in stderr or "9" * 201 in stderr:
        yield "repeats what came"
    if re.search(r"\.py:\d+: |warnings\.warn\(", stderr):
        yield "source line"
    if growth > MOST_GROWTH:
        yield "memory"


def _not_json(stdout: str) -> list[str]:
    def refuse(word: str) -> Any:
        raise ValueError(word)

    try:
        json.loads(stdout, parse_constant=refuse)
    except ValueError:
        try:
            for line in stdout.splitlines():
                json.loads(line, parse_constant=refuse)
        except ValueError:
            return ["bad JSON"]
    return []


def _limit() -> None:
    faulthandler.enable()
    size = int(_text(Path("/proc/self/statm")).split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + HARD_LIMIT,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30,) * 2)


def _resident(process: int | str = "self") -> int:
    """Bytes of memory that a process has; 0 where it is gone."""
    words = _text(Path(f"/proc/{process}/statm")).split()
    return int(words[1]) * resource.getpagesize() if len(words) > 1 else 0


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGABRT)  # faulthandler tells where it hangs
        time.sleep(0.5)
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _remove(folder: Path) -> None:
    def unlock(_function: Any, path: str, _error: Any) -> None:
        for each in (Path(path).parent, Path(path)):
            each.chmod(0o700)

    shutil.rmtree(folder, onerror=unlock)
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def prepare() -> None:
    """Import all that commands import, once; and nothing of theirs may ask a network or start threads."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive",
                   "MPLCONFIGDIR": tempfile.gettempdir(), "COLUMNS": "100",
                   "TORCHINDUCTOR_CACHE_DIR": tempfile.gettempdir()}  # fmt: skip
    import importlib

    for name in (
        "torch",
        "pyarrow.parquet",
        "av",
        "safetensors.torch",
        "huggingface_hub",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "torch.distributed.checkpoint",
        "tomli_w",
        "videomae2.cli.main",
        "videomae2.cli.predictions",
        "videomae2.api.jobs",
        "videomae2.recipes.evaluate",
        "videomae2.recipes.finetune",
        "videomae2.recipes.pretrain",
        "videomae2.report.training",
        "videomae2.weights.describe",
        "videomae2.data.tables.inspect",
    ):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    # What is there already need not be looked at again by each process, which would copy all of its pages.
    gc.collect()
    gc.freeze()


def summary(outcomes: dict[str, dict[str, Any]], seed: int) -> dict[str, Any]:
    """Counts by kind and by what is wrong."""
    by_kind: dict[str, Counter[str]] = {}
    for case, outcome in outcomes.items():
        counts = by_kind.setdefault(case.split(":")[0], Counter())
        counts["cases"] += 1
        right = {0: "done", 2: "refused in one line"}
        counts.update(outcome["faults"] or [right[outcome["code"]]])
    faults = Counter(fault for outcome in outcomes.values() for fault in outcome["faults"])
    return {
        "seed": seed,
        "cases": len(outcomes),
        "by_kind": {kind: dict(sorted(counts.items())) for kind, counts in by_kind.items()},
        "faults": dict(faults),
        "tracebacks": faults["traceback"],
        "other_exit_codes": sum(1 for each in outcomes.values() if each["code"] not in (0, 2)),
        "hangs_over_60_s": faults["hang"],
        "payloads_run": faults["payload"],
        "most_processor_seconds": max(each["seconds"] for each in outcomes.values()),
        "most_megabytes_beyond_the_program": max(each["megabytes"] for each in outcomes.values()),
    }


def read_log(path: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in _text(path).splitlines() if line.endswith("}")]
    return {line["case"]: line for line in lines}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the cases")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9, help="after so long, report what has run")
    parser.add_argument("--only", default="", help="a kind, or one case: weights:17")
    arguments = parser.parse_args()
    prepare()
    arguments.work.mkdir(parents=True, exist_ok=True)
    fuzz = Fuzz(arguments.work, arguments.seed)
    kind, _, number = arguments.only.partition(":")
    if number:
        fuzz.extra = ["--debug"]
        for outcome in fuzz.run([Case(kind, int(number))]):
            print(json.dumps(asdict(outcome), indent=2))
        return 0
    done = read_log(fuzz.log)
    todo = [case for case in fuzz.cases(arguments.share) if str(case) not in done and kind in ("", case.kind)]
    until = time.monotonic() + 60 * arguments.minutes
    todo_in_time = (case for case in todo if time.monotonic() < until)
    with fuzz.log.open("a") as log:
        for outcome in fuzz.run(todo_in_time, arguments.jobs):
            log.write(json.dumps(asdict(outcome)) + "\n")
            log.flush()
            if outcome.faults:
                print(outcome.case, ", ".join(outcome.faults), flush=True)
    found = summary(read_log(fuzz.log), arguments.seed)
    found["planned"] = len(list(fuzz.cases()))
    print(json.dumps(found, indent=2))
    if arguments.share >= 1 and not arguments.only:
        from machine import save_result

        print(save_result("fuzz", found))
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
