"""The machine's own rate of matrix products: what a network's products are held against."""

import time

import torch
from pairs import Call

SIDE, TIMES = 2048, 6


def prepare(precision: str) -> Call:
    """One turn multiplies square matrices of 2048 and reports the median rate in products and sums a second,
    in 1e9.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(2, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(dtype)
    out = torch.empty_like(left)

    def turn() -> dict[str, float]:
        seconds = []
        for _ in range(TIMES):
            start = time.perf_counter()
            torch.mm(left, right, out=out)
            seconds.append(time.perf_counter() - start)
        return {"gflops": 2 * SIDE**3 / sorted(seconds)[TIMES // 2] / 1e9}

    return turn
