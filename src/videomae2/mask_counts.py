"""How many tokens each part of a split gets, known before anything is drawn; refuses what is not countable.

Static counts, equal for every sample, are what lets a batch be a tensor and `cost` be arithmetic.
"""

from typing import NamedTuple

from videomae2.errors import UserError
from videomae2.geometry import TokenGrid
from videomae2.settings import MaskSettings

RING = 4
"""Slots of the running cell: the tokens of a 2 x 2 block, visited in turn as time goes on (paper 3.2)."""


class TokenCounts(NamedTuple):
    """Tokens of each sample: V seen by the encoder, R predicted by the decoder, S of these scored."""

    visible: int
    decoded: int
    scored: int


def count_tokens(grid: TokenGrid, mask: MaskSettings) -> TokenCounts:
    """The counts of every split of this grid and mask, without drawing one.

    UserError where samples would differ in their counts, or nothing is hidden, with what would work instead.
    """
    _check(grid, mask)
    hidden = hidden_count(grid, mask.encoder, mask.encoder_ratio)
    visible = grid.num_tokens - hidden
    if mask.decoder == "none":
        return TokenCounts(visible, hidden, hidden)
    kept, both = _kept_counts(grid, mask, hidden)
    decoded = both if mask.membership == "unseen" else kept
    return TokenCounts(visible, decoded, decoded if mask.scored == "all" else both)


def hidden_count(grid: TokenGrid, encoder: str, ratio: float) -> int:
    """Tokens hidden from the encoder: whole steps, or as many of each step as the released tube mask."""
    if encoder == "frame":
        return int(ratio * grid.num_steps) * grid.tokens_per_step
    return grid.num_steps * int(ratio * grid.tokens_per_step)


def dropped_slots(ratio: float) -> int:
    """Slots of the running cell's ring that are left out: 1, 2 or 3 of 4. UserError at any other ratio."""
    slots = RING * ratio
    if slots not in (1, 2, 3):
        raise UserError(
            f"mask.decoder_ratio: expected 0.25, 0.5 or 0.75, which a running cell can leave out, got "
            f"{ratio}; or try mask.decoder = random"
        )
    return int(slots)


def check_even(grid: TokenGrid) -> None:
    """Refuse a grid that 2 x 2 cells do not tile."""
    _, rows, columns = grid.shape
    if rows % 2 or columns % 2:
        step = 2 * grid.patch
        odd = next(side for side in (grid.height, grid.width) if side % step)
        below, above = odd // step * step, odd // step * step + step
        raise UserError(
            f"a running cell covers 2 x 2 tokens, but the grid has {rows} rows and {columns} columns; "
            f"instead of {odd} pixels try {f'{below} or ' if below else ''}{above}, or mask.decoder = random"
        )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is none of the choices."""
    if value not in choices:
        raise UserError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def _kept_counts(grid: TokenGrid, mask: MaskSettings, hidden: int) -> tuple[int, int]:
    """Tokens the decoder mask keeps, and those of them that the encoder does not see."""
    visible = grid.num_tokens - hidden
    if mask.decoder == "running_cell":
        share = RING - dropped_slots(mask.decoder_ratio)
        return grid.num_tokens * share // RING, hidden * share // RING
    if mask.decoder == "random":
        both = _left(hidden, mask.decoder_ratio)
        return both + _left(visible, mask.decoder_ratio), both
    place = grid.tokens_per_step
    if mask.encoder == "frame":
        both = place * _left(hidden // place, mask.decoder_ratio)
        return both + place * _left(visible // place, mask.decoder_ratio), both
    kept_steps = _left(grid.num_steps, mask.decoder_ratio)
    return kept_steps * place, kept_steps * (hidden // grid.num_steps)


def _left(count: int, ratio: float) -> int:
    """What a mask of this ratio keeps of `count`; it rounds what it drops down, as released."""
    return count - int(ratio * count)


def _check(grid: TokenGrid, mask: MaskSettings) -> None:
    check_choice("mask.encoder", mask.encoder, ("tube", "random", "frame"))
    check_choice("mask.decoder", mask.decoder, ("none", "running_cell", "random", "frame"))
    check_choice("mask.membership", mask.membership, ("released", "unseen"))
    check_choice("mask.scored", mask.scored, ("unseen", "all"))
    for name in ("encoder_ratio", "decoder_ratio"):
        ratio = getattr(mask, name)
        if not 0 <= ratio < 1:
            raise UserError(
                f"mask.{name}: expected a share from 0 to below 1, got {ratio}; the paper has 0.9 and 0.5"
            )
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
            f"a random encoder mask under a {mask.decoder} decoder mask gives each clip another number of "
            "tokens to predict, but all need as many; use mask.decoder = random or none, or "
            "mask.encoder = tube"
        )
    if mask.encoder == "tube" and mask.decoder == "running_cell" and grid.num_steps % RING:
        frames = RING * grid.tubelet
        below, above = grid.num_frames // frames * frames, (grid.num_frames // frames + 1) * frames
        raise UserError(
            f"a running cell returns after {RING} steps, but {grid.num_frames} frames with tubelet "
            f"{grid.tubelet} make {grid.num_steps}, and clips would differ in tokens to predict; try "
            f"num_frames {f'{below} or ' if below else ''}{above}, or mask.decoder = random"
        )
