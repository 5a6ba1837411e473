"""Masks: equal counts by construction, a function of each sample's key, refused where counts would differ."""

import typing
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from videomae2 import chance
from videomae2.errors import UserError
from videomae2.geometry import TokenGrid
from videomae2.mask_counts import HIDDEN_COUNTS, KEPT_COUNTS
from videomae2.masking import HIDDEN, KEPT, count_tokens, draw_split, running_cell_kept, split_from_masks
from videomae2.settings import MaskSettings

# Paper 1.3: tokens seen, mask tokens fed, predictions scored at 16 x 224 x 224.
PAPER = [
    (16, "none", 0.5, 160, 1408, 1408),
    (16, "running_cell", 0.25, 160, 1176, 1056),
    (16, "running_cell", 0.5, 160, 784, 704),
    (16, "running_cell", 0.75, 160, 392, 352),
    (14, "none", 0.5, 208, 1840, 1840),
    (14, "running_cell", 0.25, 208, 1536, 1380),
    (14, "running_cell", 0.5, 208, 1024, 920),
    (14, "running_cell", 0.75, 208, 512, 460),
]

grids = st.builds(
    lambda steps, rows, columns, tubelet: TokenGrid(
        4 * steps * tubelet, 2 * rows * 8, 2 * columns * 8, tubelet, 8
    ),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
)
masks = st.builds(
    MaskSettings,
    encoder=st.sampled_from(["tube", "random", "frame"]),
    encoder_ratio=st.floats(0.25, 0.95),
    decoder=st.sampled_from(["none", "running_cell", "random", "frame"]),
    decoder_ratio=st.sampled_from([0.25, 0.5, 0.75]),
    membership=st.sampled_from(["released", "unseen"]),
    scored=st.sampled_from(["unseen", "all"]),
)


def possible(mask: MaskSettings) -> bool:
    """Leave out the two pairs whose counts differ by nature; `test_refusals` covers them."""
    overlap = mask.membership == "unseen" or mask.scored == "unseen"
    return not (overlap and mask.encoder == "random" and mask.decoder in ("running_cell", "frame"))


@pytest.mark.parametrize("row", PAPER)
@pytest.mark.parametrize("membership", ["released", "unseen"])
def test_counts_of_the_paper(
    row: tuple[int, Any, float, int, int, int], membership: Literal["released", "unseen"]
) -> None:
    patch, decoder, ratio, visible, decoded, scored = row
    grid = TokenGrid.square(patch=patch)
    mask = MaskSettings(decoder=decoder, decoder_ratio=ratio, membership=membership)
    decoded = scored if membership == "unseen" else decoded
    assert tuple(count_tokens(grid, mask)) == (visible, decoded, scored)
    split = draw_split(grid, mask, torch.arange(3))
    assert [indices.shape[1] for indices in (split.visible, split.decoded, split.scored)] == [
        visible,
        decoded,
        scored,
    ]


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        (MaskSettings(encoder_ratio=0.5, decoder="random", decoder_ratio=0.3), (52, 37 + 34, 34)),
        (MaskSettings(encoder_ratio=0.5, decoder="frame", decoder_ratio=0.3), (52, 75, 36)),
        (MaskSettings("frame", 0.5, "frame", 0.3), (50, 100, 50)),
    ],
)
def test_shares_that_do_not_divide_leave_out_the_whole_part(
    mask: MaskSettings, counts: tuple[int, int, int]
) -> None:
    """4 x 5 x 5 tokens, 12 of each 25 hidden: int(0.3 * 48) = 14 and int(0.3 * 52) = 15 are left out."""
    grid = TokenGrid.square(8, 40, patch=8)
    assert tuple(count_tokens(grid, mask)) == counts
    split = draw_split(grid, mask, torch.arange(3))
    hidden = torch.ones(3, grid.num_tokens, dtype=torch.bool).scatter(1, split.visible, False)
    kept = KEPT[mask.decoder](grid, mask, torch.arange(3), hidden)
    assert kept.sum(1).tolist() == [counts[1]] * 3
    assert (kept & hidden).sum(1).tolist() == [counts[2]] * 3


@given(grids, masks, st.lists(st.integers(0, 2**62), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_a_split_is_a_partition_with_the_promised_counts(
    grid: TokenGrid, mask: MaskSettings, sample_keys: list[int]
) -> None:
    if not possible(mask):
        return
    split = draw_split(grid, mask, torch.tensor(sample_keys))
    counts = count_tokens(grid, mask)
    assert (split.visible.shape[1], split.decoded.shape[1], split.scored.shape[1]) == tuple(counts)
    for visible, decoded, targets in zip(split.visible, split.decoded, split.targets, strict=True):
        for chosen in (visible, decoded, targets):
            assert (
                bool((chosen[1:] > chosen[:-1]).all())
                and int(chosen[0]) >= 0
                and int(chosen[-1]) < grid.num_tokens
            )
        unseen = set(range(grid.num_tokens)) - set(visible.tolist())
        if mask.scored == "unseen":
            assert set(targets.tolist()) == set(decoded.tolist()) & unseen
        else:
            assert torch.equal(targets, decoded)
        if mask.membership == "unseen" or mask.decoder == "none":
            assert set(decoded.tolist()) <= unseen
        if mask.decoder == "none":
            assert set(decoded.tolist()) == unseen


@given(grids, masks, st.integers(0, 2**62))
@settings(max_examples=50, deadline=None)
def test_a_split_depends_on_its_own_key_alone(grid: TokenGrid, mask: MaskSettings, key: int) -> None:
    if not possible(mask):
        return
    alone = draw_split(grid, mask, torch.tensor([key]))
    among = draw_split(grid, mask, torch.tensor([3, key, 2**61]))
    for name in ("visible", "decoded", "scored"):
        assert torch.equal(getattr(among, name)[1:2], getattr(alone, name))


def test_tube_hides_the_same_places_at_every_step() -> None:
    grid = TokenGrid()
    split = draw_split(grid, MaskSettings(), torch.arange(5))
    places = (split.visible % grid.tokens_per_step).unflatten(1, (grid.num_steps, 20))
    assert bool((places == places[:, :1]).all())
    assert len({tuple(row.tolist()) for row in places[:, 0]}) == 5


def test_random_hides_as_many_as_a_tube_but_not_the_same_places() -> None:
    grid = TokenGrid()
    split = draw_split(grid, MaskSettings(encoder="random", decoder="random"), torch.arange(2))
    assert split.visible.shape[1] == 160
    assert len(set((split.visible[0] % grid.tokens_per_step).tolist())) > 20


def test_frame_masks_take_whole_steps() -> None:
    grid = TokenGrid()
    split = draw_split(
        grid, MaskSettings(encoder="frame", encoder_ratio=0.5, decoder="frame"), torch.arange(4)
    )
    for visible, decoded in zip(
        split.visible // grid.tokens_per_step, split.decoded // grid.tokens_per_step, strict=True
    ):
        assert visible.unique().numel() == 4 and decoded.unique().numel() == 4
        assert len(set(decoded.tolist()) - set(visible.tolist())) == 2


def test_every_start_of_the_running_cell_is_drawn_equally_often() -> None:
    grid = TokenGrid.square(8, 32, patch=8)
    split = draw_split(grid, MaskSettings(encoder_ratio=0.75), torch.arange(4000))
    kept = torch.zeros(4000, grid.num_tokens, dtype=torch.bool).scatter_(1, split.decoded, True)
    four = running_cell_kept(grid, 0.5, torch.arange(4))
    counts = [(kept == four[start]).all(1).sum().item() for start in range(4)]
    assert sum(counts) == 4000 and min(counts) > 900


def test_the_masks_of_encoder_and_decoder_are_independent() -> None:
    """From one draw for both, the decoder would keep those hidden tokens that were nearest to being seen."""
    grid = TokenGrid.square(8, 32, patch=8)
    mask = MaskSettings(encoder="random", encoder_ratio=0.5, decoder="random")
    split = draw_split(grid, mask, torch.arange(2000))
    draws = chance.uniform(chance.keys(chance.key(0, "encoder mask"), torch.arange(2000)), grid.num_tokens)
    other = chance.uniform(chance.keys(chance.key(0, "decoder mask"), torch.arange(2000)), grid.num_tokens)
    hidden = torch.ones_like(draws, dtype=torch.bool).scatter(1, split.visible, False)
    decoded = torch.zeros_like(hidden).scatter(1, split.decoded, True)
    # Among the hidden, being kept says nothing about the encoder's draw, and all about the decoder's.
    assert abs(float(draws[hidden & decoded].mean() - draws[hidden & ~decoded].mean())) < 0.01
    assert float(other[hidden & ~decoded].mean() - other[hidden & decoded].mean()) > 0.4


def test_every_token_is_seen_equally_often() -> None:
    grid = TokenGrid.square(8, 32, patch=8)
    for mask in (
        MaskSettings(encoder="tube", encoder_ratio=0.75, decoder="random"),
        MaskSettings(encoder="random", encoder_ratio=0.75, decoder="random"),
    ):
        split = draw_split(grid, mask, torch.arange(4000))
        for chosen, share in ((split.visible, 0.25), (split.decoded, 0.5)):
            often = torch.bincount(chosen.flatten(), minlength=grid.num_tokens) / 4000
            assert float((often - share).abs().max()) < 0.035


def test_no_global_generator_is_touched() -> None:
    before = torch.get_rng_state()
    draw_split(TokenGrid(), MaskSettings(), chance.keys_from(torch.Generator().manual_seed(1), 2))
    assert torch.equal(torch.get_rng_state(), before)


REFUSALS = [
    (
        TokenGrid.square(16, 112),
        {},
        "7 rows and 7 columns; instead of 112 pixels try 96 or 128, or mask.decoder = random",
    ),
    (
        TokenGrid.square(16, 16),
        {"encoder_ratio": 0.5},
        "hides none of 1 tokens of each step; try more frames, more pixels",
    ),
    (TokenGrid.square(64, 266, patch=14), {}, "19 rows and 19 columns; instead of 266 pixels try 252 or 280"),
    (
        TokenGrid(),
        {"decoder_ratio": 0.6},
        "0.25, 0.5 or 0.75 of all tokens, got mask.decoder_ratio 0.6; try one of these",
    ),
    (TokenGrid(), {"decoder_ratio": 0.1}, "got mask.decoder_ratio 0.1"),
    (
        TokenGrid.square(12),
        {},
        "12 frames with tubelet 2 make 6, .* try num_frames 8 or 16, or mask.decoder = random",
    ),
    (TokenGrid.square(4), {"membership": "unseen"}, "try num_frames 8, or mask.decoder = random"),
    (TokenGrid(), {"encoder": "random"}, "try mask.decoder = random or none, or mask.encoder = tube"),
    (TokenGrid(), {"encoder": "random", "decoder": "frame"}, "under a frame decoder mask"),
    (
        TokenGrid(),
        {"encoder_ratio": 1.0},
        "expected mask.encoder_ratio to be a share from 0 to below 1, got 1.0; try 0.9",
    ),
    (
        TokenGrid(),
        {"decoder_ratio": -0.5},
        "expected mask.decoder_ratio to be a share from 0 to below 1, got -0.5; try 0.5",
    ),
    (
        TokenGrid(),
        {"encoder_ratio": 0.001},
        "hides none of 196 tokens of each step; try a ratio of 0.01 or more",
    ),
    (TokenGrid.square(2), {"encoder": "frame", "decoder": "none"}, "hides none of 1 steps; try more frames"),
]


@pytest.mark.parametrize(("grid", "changes", "text"), REFUSALS)
def test_refusals(grid: TokenGrid, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        draw_split(grid, MaskSettings(**changes), torch.arange(2))


WORDS = {
    "encoder": "tube, random, frame",
    "decoder": "none, running_cell, random, frame",
    "membership": "released, unseen",
    "scored": "unseen, all",
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("key", "choices"), WORDS.items())
def test_an_unknown_word_in_settings_is_refused(key: str, choices: str) -> None:
    settings = MaskSettings(**{key: "tubes"})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"expected mask.{key} to be one of {choices}, got 'tubes'"):
        draw_split(TokenGrid(), settings, torch.arange(2))


@pytest.mark.usefixtures("unchecked")
def test_a_mask_of_ones_own_is_a_row_in_each_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other column hidden: no line but the rows knows of it (the word in settings is for the user)."""

    def columns(grid: TokenGrid, _: float, keys: Tensor) -> Tensor:
        odd = torch.arange(grid.num_tokens) % grid.shape[2] % 2 == 1
        return odd.expand(len(keys), -1)

    monkeypatch.setitem(HIDDEN, "columns", columns)
    monkeypatch.setitem(HIDDEN_COUNTS, "columns", lambda grid, _: grid.num_tokens // 2)
    grid = TokenGrid.square(8, 32, patch=8)
    mask = MaskSettings(encoder="columns", decoder="random")  # type: ignore[arg-type]
    split = draw_split(grid, mask, torch.arange(3))
    assert (split.visible % 4 % 2 == 0).all() and split.visible.shape == (3, 32)
    assert (split.targets % 4 % 2 == 1).all() and split.targets.shape == (3, 16)


def test_settings_name_the_masks_that_are_in_the_tables() -> None:
    kinds = typing.get_type_hints(MaskSettings)
    assert typing.get_args(kinds["encoder"]) == tuple(HIDDEN) == tuple(HIDDEN_COUNTS)
    assert typing.get_args(kinds["decoder"]) == tuple(KEPT) == tuple(KEPT_COUNTS)


def test_an_unknown_word_is_refused() -> None:
    hidden = torch.tensor([[True, False]])
    with pytest.raises(UserError, match="expected membership to be one of released, unseen, got 'public'"):
        split_from_masks(hidden, None, membership="public")


def test_scoring_all_lets_unequal_overlaps_be() -> None:
    """Table 1's row with every output scored: counts no longer depend on which kept tokens are hidden."""
    for grid, mask in (
        (TokenGrid.square(12), MaskSettings(encoder="tube", scored="all")),
        (TokenGrid(), MaskSettings(encoder="random", scored="all")),
    ):
        split = draw_split(grid, mask, torch.arange(3))
        assert split.scored.shape == split.decoded.shape == (3, grid.num_tokens // 2)


def test_masks_with_unequal_counts_are_refused() -> None:
    hidden = torch.tensor([[True, True, False, False], [True, False, False, False]])
    with pytest.raises(UserError, match=r"same number of tokens visible to the encoder .*, got 2 to 3"):
        split_from_masks(hidden, None)
    hidden = torch.tensor([[True, True, False, False], [True, False, True, False]])
    dropped = torch.tensor([[True, False, False, True], [False, True, False, True]])
    with pytest.raises(UserError, match=r"same number of tokens both kept and hidden .*, got 1 to 2"):
        split_from_masks(hidden, dropped)
    assert split_from_masks(hidden, dropped, scored="all").scored.shape == (2, 2)


def test_drawn_splits_equal_their_masks() -> None:
    grid, mask = TokenGrid.square(8, 32, patch=8), MaskSettings(encoder_ratio=0.75)
    memberships: tuple[Literal["released", "unseen"], ...] = ("released", "unseen")
    for membership in memberships:
        split = draw_split(grid, MaskSettings(encoder_ratio=0.75, membership=membership), torch.arange(3))
        whole = draw_split(grid, mask, torch.arange(3))
        hidden = torch.ones(3, grid.num_tokens, dtype=torch.bool).scatter_(1, split.visible, False)
        dropped = torch.ones(3, grid.num_tokens, dtype=torch.bool).scatter_(1, whole.decoded, False)
        again = split_from_masks(hidden, dropped, membership)
        assert all(
            torch.equal(getattr(split, name), getattr(again, name))
            for name in ("visible", "decoded", "scored")
        )


@pytest.mark.gpu
@pytest.mark.parametrize("encoder", ["tube", "random", "frame"])
def test_splits_are_the_same_on_a_gpu(encoder: Literal["tube", "random", "frame"]) -> None:
    mask = MaskSettings(encoder=encoder, decoder="random")
    here, there = (
        draw_split(TokenGrid(), mask, torch.arange(5)),
        draw_split(TokenGrid(), mask, torch.arange(5, device="cuda")),
    )
    for name in ("visible", "decoded", "scored"):
        assert getattr(there, name).is_cuda and torch.equal(getattr(there, name).cpu(), getattr(here, name))
