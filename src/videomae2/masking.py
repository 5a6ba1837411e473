"""Dual masking (paper 3.2): which tokens the encoder sees, which the decoder predicts, which of these count.

Every draw is a function of the samples' keys, for the whole batch at once and on the keys' device, with
counts that are known before anything is drawn. A mask is a row of `HIDDEN` or `KEPT` here, a row of the same
name in `mask_counts.py`, and its word in `settings.py`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from videomae2 import chance
from videomae2.errors import UserError
from videomae2.geometry import TokenGrid
from videomae2.mask_counts import (
    MEMBERSHIPS,
    RING,
    SCORED,
    TokenCounts,
    check_choice,
    check_even,
    count_tokens,
    dropped_slots,
    hidden_count,
)
from videomae2.records import TokenSplit
from videomae2.settings import MaskSettings

__all__ = [
    "HIDDEN",
    "KEPT",
    "TokenCounts",
    "count_tokens",
    "draw_split",
    "running_cell_kept",
    "split_from_masks",
]


def draw_split(grid: TokenGrid, mask: MaskSettings, sample_keys: Int[Tensor, "B"]) -> TokenSplit:
    """One split for each key, on the keys' device; a sample's split does not depend on the rest of the batch.

    Keys come from `chance.keys`, or from a `torch.Generator` through `chance.keys_from`. UserError where grid
    and settings cannot give every sample the same counts.
    """
    counts = count_tokens(grid, mask)
    # Keys of their own, so that the two masks are independent draws.
    encoder_keys = chance.keys(chance.key(0, "encoder mask"), sample_keys)
    decoder_keys = chance.keys(chance.key(0, "decoder mask"), sample_keys)
    hidden = HIDDEN[mask.encoder](grid, mask.encoder_ratio, encoder_keys)
    kept = KEPT[mask.decoder](grid, mask, decoder_keys, hidden)
    return _split(hidden, kept, mask.membership, mask.scored, counts)


def split_from_masks(
    hidden: Bool[Tensor, "B N"],
    dropped: Bool[Tensor, "B N"] | None,
    membership: str = "released",
    scored: str = "unseen",
) -> TokenSplit:
    """A split from two masks in the released polarity: hidden from the encoder, dropped by the decoder.

    `dropped` None is no decoder mask: all hidden tokens are predicted. UserError where the counts differ
    between samples.
    """
    kept = hidden if dropped is None else ~dropped
    check_choice("membership", membership, MEMBERSHIPS)
    check_choice("scored", scored, SCORED)
    both = hidden & kept
    counts = TokenCounts(
        _equal_count("visible to the encoder", ~hidden),
        _equal_count("kept by the decoder", both if membership == "unseen" else kept),
        _equal_count("both kept and hidden", kept if membership == "released" and scored == "all" else both),
    )
    return _split(hidden, kept, membership, scored, counts)


# ---- masks of the encoder: True = hidden


def tube_hidden(grid: TokenGrid, ratio: float, keys: Int[Tensor, "B"]) -> Bool[Tensor, "B N"]:
    """The same int(ratio * rows * columns) places hidden at every step (released)."""
    places = _lowest(chance.uniform(keys, grid.tokens_per_step), int(ratio * grid.tokens_per_step))
    return places.repeat(1, grid.num_steps)


def random_hidden(grid: TokenGrid, ratio: float, keys: Int[Tensor, "B"]) -> Bool[Tensor, "B N"]:
    """As many tokens hidden as a tube of this ratio hides, anywhere in the clip."""
    return _lowest(chance.uniform(keys, grid.num_tokens), hidden_count(grid, "random", ratio))


def frame_hidden(grid: TokenGrid, ratio: float, keys: Int[Tensor, "B"]) -> Bool[Tensor, "B N"]:
    """int(ratio * steps) whole steps hidden."""
    return _lowest(chance.uniform(keys, grid.num_steps), int(ratio * grid.num_steps)).repeat_interleave(
        grid.tokens_per_step, 1
    )


HIDDEN: dict[str, Callable[[TokenGrid, float, Tensor], Tensor]] = {
    "tube": tube_hidden,
    "random": random_hidden,
    "frame": frame_hidden,
}
"""Every choice of `mask.encoder`: (grid, ratio, keys [B]) -> hidden [B, N]."""


# ---- masks of the decoder: True = kept


def all_hidden_kept(
    grid: TokenGrid, mask: MaskSettings, keys: Int[Tensor, "B"], hidden: Bool[Tensor, "B N"]
) -> Bool[Tensor, "B N"]:
    """No decoder mask: every hidden token, and no visible one (VideoMAE V1)."""
    del grid, mask, keys
    return hidden


def drawn_running_cell_kept(
    grid: TokenGrid, mask: MaskSettings, keys: Int[Tensor, "B"], hidden: Bool[Tensor, "B N"]
) -> Bool[Tensor, "B N"]:
    """One of the four running cells for each sample, all as likely (released)."""
    del hidden
    return running_cell_kept(grid, mask.decoder_ratio, (chance.uniform(keys, 1)[:, 0] * RING).long())


def random_kept(
    grid: TokenGrid, mask: MaskSettings, keys: Int[Tensor, "B"], hidden: Bool[Tensor, "B N"]
) -> Bool[Tensor, "B N"]:
    """Any tokens, int(ratio * count) left out of the hidden and as large a share of the visible."""
    # A share of each, because one of all tokens would leave every sample another number to predict.
    del grid
    return _lowest_of_each(chance.uniform(keys, hidden.shape[1]), mask.decoder_ratio, hidden)


def frame_kept(
    grid: TokenGrid, mask: MaskSettings, keys: Int[Tensor, "B"], hidden: Bool[Tensor, "B N"]
) -> Bool[Tensor, "B N"]:
    """Whole steps, int(ratio * count) left out of the hidden steps and of the others alike."""
    # Only a frame mask hides whole steps, which must be shared out evenly; the others leave all steps alike.
    hidden_steps = hidden[:, :: grid.tokens_per_step] & (mask.encoder == "frame")
    kept_steps = _lowest_of_each(chance.uniform(keys, grid.num_steps), mask.decoder_ratio, hidden_steps)
    return kept_steps.repeat_interleave(grid.tokens_per_step, 1)


KEPT: dict[str, Callable[[TokenGrid, MaskSettings, Tensor, Tensor], Tensor]] = {
    "none": all_hidden_kept,
    "running_cell": drawn_running_cell_kept,
    "random": random_kept,
    "frame": frame_kept,
}
"""Every choice of `mask.decoder`: (grid, settings, keys [B], hidden [B, N]) -> kept [B, N]."""


def running_cell_kept(grid: TokenGrid, ratio: float, start: Int[Tensor, "B"]) -> Bool[Tensor, "B N"]:
    """The running cell (after MAR, arXiv 2207.11660) with start pointers 0..3, in the released phase.

    A ring of four slots, the first 4 * ratio of them dropped, is shifted left by start + step + 1 and laid
    row-major on every 2 x 2 cell of the step. UserError for another ratio than a quarter, half or three
    quarters, and for a grid of odd sides.
    """
    dropped = dropped_slots(ratio)
    check_even(grid)
    steps, rows, columns = (torch.arange(side, device=start.device) for side in grid.shape)
    slot = 2 * (rows[:, None] % 2) + columns % 2
    # The 1 is the released code's: its first step is already shifted once.
    turned = (start[:, None, None, None] + steps[:, None, None] + 1 + slot) % RING
    return (turned >= dropped).flatten(1)


# ---- counting and choosing


def _split(hidden: Tensor, kept: Tensor, membership: str, scored: str, counts: TokenCounts) -> TokenSplit:
    member = hidden & kept if membership == "unseen" else kept
    visible, decoded = _indices(~hidden, counts.visible), _indices(member, counts.decoded)
    counted = torch.ones_like(decoded, dtype=torch.bool) if scored == "all" else hidden.gather(1, decoded)
    return TokenSplit(visible, decoded, _indices(counted, counts.scored))


def _indices(mask: Tensor, count: int) -> Tensor:
    """Positions of the `count` True entries of each row, ascending."""
    # A stable sort, because `nonzero` has a shape that depends on data: it waits for the device.
    return mask.byte().argsort(dim=1, descending=True, stable=True)[:, :count].contiguous()


def _lowest(draw: Tensor, count: int) -> Tensor:
    """True at the `count` lowest numbers of each row."""
    order = draw.argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(draw, dtype=torch.bool).scatter_(1, order, True)


def _lowest_of_each(draw: Tensor, ratio: float, group: Tensor) -> Tensor:
    """True at the lowest numbers inside the group and outside it, int(ratio * count) of each left out."""
    keep = torch.zeros_like(group)
    for part in (group, ~group):
        # Draws are below 1, so what is outside the part ranks behind all of it.
        rank = torch.where(part, draw, 2.0).argsort(dim=1, stable=True).argsort(dim=1)
        size = part.sum(1, keepdim=True)
        keep |= part & (rank < size - (ratio * size.double()).long())
    return keep


def _equal_count(what: str, mask: Tensor) -> int:
    # The released code takes any counts whose total divides by the batch, and then mixes tokens of samples.
    counts = mask.sum(1)
    low, high = int(counts.min()), int(counts.max())
    if low != high:
        raise UserError(
            f"expected the same number of tokens {what} in every sample, got {low} to {high}: tokens would "
            "leak from one clip into another; draw the masks with equal counts, as draw_split does"
        )
    return low
