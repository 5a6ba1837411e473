"""One row of `against.py` in one checkout: a step or a forward for every line on standard input.

Run by path, without the path of this file (`python -P`), with a checkout's `src` and `benchmarks` as
PYTHONPATH: `networks` and the package are that checkout's, whatever this file's is.
"""

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    # Answers have a channel of their own, for libraries print where they like.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    call = _prepare(json.loads(sys.argv[1]))
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        reported = call()
        turn = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "reported": reported}
        print(json.dumps(turn), file=answers, flush=True)


def _prepare(row: dict[str, Any]) -> Any:
    import networks

    from videomae2.settings import MaskSettings

    mask = row.pop("mask", None)
    return networks.prepare(networks.Work(**row, mask=MaskSettings(**mask) if mask else None))


if __name__ == "__main__":
    main()
