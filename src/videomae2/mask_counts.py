"""How many tokens each part of a split has, before anything is drawn, and what cannot give equal counts.

No torch here: the cost of a run is worked out from these numbers alone. Each mask of `masking.py` has a row
of the same name in `HIDDEN_COUNTS` or `KEPT_COUNTS`.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from videomae2.errors import UserError
from videomae2.geometry import TokenGrid
from videomae2.settings import MaskSettings

RING = 4
"""Slots of the running cell: the tokens of a 2 x 2 cell."""
MEMBERSHIPS = ("released", "unseen")
"""Every choice of `mask.membership`."""
SCORED = ("unseen", "all")
"""Every choice of `mask.scored`."""


class TokenCounts(NamedTuple):
    """V tokens seen by the encoder, R predicted by the decoder, S that count; the same for every sample."""

    visible: int
    decoded: int
    scored: int


def count_tokens(grid: TokenGrid, mask: MaskSettings) -> TokenCounts:
    """The counts of every split of this grid and mask, without drawing one.

    UserError where the settings cannot give every sample the same counts, with what would work instead.
    """
    _check(grid, mask)
    hidden = hidden_count(grid, mask.encoder, mask.encoder_ratio)
    visible = grid.num_tokens - hidden
    kept, both = KEPT_COUNTS[mask.decoder](grid, mask, hidden)
    decoded = both if mask.membership == "unseen" else kept
    return TokenCounts(visible, decoded, decoded if mask.scored == "all" else both)


def hidden_count(grid: TokenGrid, encoder: str, ratio: float) -> int:
    """Tokens that the encoder mask `encoder` hides at this ratio."""
    return HIDDEN_COUNTS[encoder](grid, ratio)


# ---- masks of the encoder: tokens hidden


def _tube(grid: TokenGrid, ratio: float) -> int:
    # Rounded down for each step, as released; a random mask hides as many, so that the two compare.
    return grid.num_steps * int(ratio * grid.tokens_per_step)


def _frame(grid: TokenGrid, ratio: float) -> int:
    return int(ratio * grid.num_steps) * grid.tokens_per_step


HIDDEN_COUNTS: dict[str, Callable[[TokenGrid, float], int]] = {
    "tube": _tube,
    "random": _tube,
    "frame": _frame,
}
"""Every choice of `mask.encoder`: (grid, ratio) -> tokens hidden."""


# ---- masks of the decoder: tokens kept, and those of them that the encoder does not see


def _none_kept(grid: TokenGrid, mask: MaskSettings, hidden: int) -> tuple[int, int]:
    del grid, mask
    return hidden, hidden


def _running_cell_kept(grid: TokenGrid, mask: MaskSettings, hidden: int) -> tuple[int, int]:
    share = RING - dropped_slots(mask.decoder_ratio)
    return grid.num_tokens * share // RING, hidden * share // RING


def _random_kept(grid: TokenGrid, mask: MaskSettings, hidden: int) -> tuple[int, int]:
    both = _left(hidden, mask.decoder_ratio)
    return both + _left(grid.num_tokens - hidden, mask.decoder_ratio), both


def _frame_kept(grid: TokenGrid, mask: MaskSettings, hidden: int) -> tuple[int, int]:
    step = grid.tokens_per_step
    if mask.encoder == "frame":
        both = step * _left(hidden // step, mask.decoder_ratio)
        return both + step * _left((grid.num_tokens - hidden) // step, mask.decoder_ratio), both
    kept_steps = _left(grid.num_steps, mask.decoder_ratio)
    return kept_steps * step, kept_steps * (hidden // grid.num_steps)


KEPT_COUNTS: dict[str, Callable[[TokenGrid, MaskSettings, int], tuple[int, int]]] = {
    "none": _none_kept,
    "running_cell": _running_cell_kept,
    "random": _random_kept,
    "frame": _frame_kept,
}
"""Every choice of `mask.decoder`: (grid, settings, hidden) -> (kept, both kept and hidden)."""


def _left(count: int, ratio: float) -> int:
    return count - int(ratio * count)


# ---- what is refused


def dropped_slots(ratio: float) -> int:
    """Slots of the running cell's ring that are left out: 1, 2 or 3 of 4. UserError at any other ratio."""
    slots = RING * ratio
    if slots not in (1, 2, 3):
        # The released code rounds without a word: 0.6 there is 0.5.
        raise UserError(
            f"a running cell leaves out 0.25, 0.5 or 0.75 of all tokens, got mask.decoder_ratio {ratio}; "
            "try one of these, or mask.decoder = random"
        )
    return int(slots)


def check_even(grid: TokenGrid) -> None:
    """UserError where 2 x 2 cells do not tile the grid, with sizes that they do."""
    _, rows, columns = grid.shape
    if rows % 2 or columns % 2:
        step = 2 * grid.patch
        odd = next(side for side in (grid.height, grid.width) if side % step)
        below, above = odd // step * step, odd // step * step + step
        raise UserError(
            f"a running cell covers 2 x 2 tokens, but the grid has {rows} rows and {columns} columns; "
            f"instead of {odd} pixels try {f'{below} or ' if below else ''}{above}, or mask.decoder = random"
        )


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """UserError unless `value` is one of the choices."""
    if value not in choices:
        raise UserError(f"expected {name} to be one of {', '.join(choices)}, got {value!r}")


def _check(grid: TokenGrid, mask: MaskSettings) -> None:
    check_choice("mask.encoder", mask.encoder, HIDDEN_COUNTS)
    check_choice("mask.decoder", mask.decoder, KEPT_COUNTS)
    check_choice("mask.membership", mask.membership, MEMBERSHIPS)
    check_choice("mask.scored", mask.scored, SCORED)
    for name, usual in (("encoder_ratio", 0.9), ("decoder_ratio", 0.5)):
        got = getattr(mask, name)
        if not 0 <= got < 1:
            raise UserError(f"expected mask.{name} to be a share from 0 to below 1, got {got}; try {usual}")
    _check_hides(grid, mask)
    if mask.decoder == "running_cell":
        dropped_slots(mask.decoder_ratio)
        check_even(grid)
    # Tokens both kept and hidden are counted unless the decoder predicts, and scores, every token it keeps.
    if mask.membership == "unseen" or mask.scored == "unseen":
        _check_overlap(grid, mask)


def _check_hides(grid: TokenGrid, mask: MaskSettings) -> None:
    if hidden_count(grid, mask.encoder, mask.encoder_ratio):
        return
    parts, what = (
        (grid.num_steps, "steps")
        if mask.encoder == "frame"
        else (grid.tokens_per_step, "tokens of each step")
    )
    advice = (
        f"try a ratio of {1 / parts:.2f} or more"
        if parts > 1
        else "try more frames, more pixels or a smaller patch"
    )
    raise UserError(
        f"mask.encoder_ratio {mask.encoder_ratio} ({mask.encoder}) hides none of {parts} {what}; {advice}"
    )


def _check_overlap(grid: TokenGrid, mask: MaskSettings) -> None:
    if mask.encoder == "random" and mask.decoder in ("running_cell", "frame"):
        raise UserError(
            f"a random encoder mask under a {mask.decoder} decoder mask leaves each clip another number of "
            "tokens to predict, but a batch needs equal ones; "
            "try mask.decoder = random or none, or mask.encoder = tube"
        )
    # A tube hides the same places at every step: only whole turns of the ring keep each place equally often.
    if mask.encoder == "tube" and mask.decoder == "running_cell" and grid.num_steps % RING:
        frames = RING * grid.tubelet
        below, above = grid.num_frames // frames * frames, (grid.num_frames // frames + 1) * frames
        raise UserError(
            f"a running cell repeats after {RING} steps, but {grid.num_frames} frames with tubelet "
            f"{grid.tubelet} make {grid.num_steps}, and clips would differ in tokens to predict; "
            f"try num_frames {f'{below} or ' if below else ''}{above}, or mask.decoder = random"
        )
