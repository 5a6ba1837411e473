"""Positions on other grids: interpolated along each axis alone, fast to build, and learnable if asked."""

import torch

from videomae2.geometry import TokenGrid
from videomae2.positions import by_axes, interpolate, position_table, sinusoid

from . import tiny


def test_the_native_grid_is_untouched() -> None:
    table = sinusoid(64, 48)
    assert interpolate(table, (4, 4, 4), (4, 4, 4)) is table


def test_interpolation_keeps_what_is_linear_in_space_and_time() -> None:
    """A table of coordinates stays one, up to the half-cell border where there is nothing to interpolate."""
    axes = [(torch.arange(side) + 0.5) / side for side in (8, 14, 14)]
    table = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)
    for shape in ((16, 14, 14), (4, 14, 14), (8, 28, 20), (1, 14, 14), (8, 19, 19)):
        larger = interpolate(table, (8, 14, 14), shape).unflatten(0, shape)
        expected = [(torch.arange(side) + 0.5) / side for side in shape]
        for axis, native in enumerate((8, 14, 14)):
            low, high = 0.5 / native, 1 - 0.5 / native
            shown = larger.movedim(axis, 0)[..., axis]
            wanted = expected[axis].clamp(low, high).view(-1, 1, 1).expand_as(shown)
            torch.testing.assert_close(shown, wanted)


def test_axes_do_not_mix() -> None:
    """A longer clip keeps each place's own column; a larger picture keeps each step's own plane."""
    table = sinusoid(8 * 14 * 14, 24)
    longer = interpolate(table, (8, 14, 14), (16, 14, 14)).view(16, 196, 24)
    native = table.view(8, 196, 24)
    torch.testing.assert_close(longer[1], 0.75 * native[0] + 0.25 * native[1])
    larger = interpolate(table, (8, 14, 14), (8, 28, 28)).view(8, 28, 28, 24)
    torch.testing.assert_close(larger[5, 0, 0], native[5, 0])


def test_the_largest_table_is_built() -> None:
    table = position_table(TokenGrid.square(64, 266, patch=14), TokenGrid.square(patch=14), 1408)
    assert table.shape == (11552, 1408)
    assert table.isfinite().all()


def test_learned_positions_learn() -> None:
    model = tiny.network(positions="learned")
    assert "encoder.pos_embed" in model.state_dict()
    assert torch.equal(model.encoder.pos_embed[0].detach(), sinusoid(64, 48))
    split = tiny.split()
    model(tiny.frames(), split).square().mean().backward()
    assert model.encoder.pos_embed.grad is not None
    reached = model.encoder.pos_embed.grad[0].abs().sum(1) > 0
    seen = torch.zeros(64, dtype=torch.bool).index_fill_(0, split.visible.unique(), True)
    assert torch.equal(reached, seen)
    before = model.encoder.pos_embed.detach().clone()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert not torch.equal(model.encoder.pos_embed, before)


def test_a_sinusoid_is_no_parameter() -> None:
    model = tiny.network()
    assert not any("pos_embed" in name for name in model.state_dict())
    assert not model.encoder.pos_embed.requires_grad


def test_positions_by_axes_depend_on_one_axis_a_part() -> None:
    """Width 20: eight channels for time, six for rows, six for columns."""
    table = by_axes((4, 6, 5), (4, 6, 5), 20).unflatten(0, (4, 6, 5))
    for channels, axis in ((slice(0, 8), 0), (slice(8, 14), 1), (slice(14, 20), 2)):
        part = table[..., channels]
        first = part.movedim(axis, 0)[:, :1, :1].movedim(0, axis)
        assert torch.equal(part, first.expand_as(part))
        assert torch.unique(first.flatten(0, 2), dim=0).shape[0] == part.shape[axis]
    torch.testing.assert_close(table[:, 0, 0, 0], torch.sin(torch.arange(4.0)))
    torch.testing.assert_close(table[:, 0, 0, 3], torch.cos(torch.arange(4.0) / 100 ** (2 / 8)))
    torch.testing.assert_close(table[0, :, 0, 12], torch.sin(torch.arange(6.0) / 100 ** (4 / 6)))


def test_positions_by_axes_keep_their_extent_on_another_grid() -> None:
    """Twice the steps over the same seconds: the mean of two neighbours is the native step between them."""
    native, finer = by_axes((4, 2, 2), (4, 2, 2), 12), by_axes((8, 2, 2), (4, 2, 2), 12)
    native_t, finer_t = (torch.asin(table.unflatten(0, (-1, 2, 2))[:2, 0, 0, 0]) for table in (native, finer))
    torch.testing.assert_close(finer_t, torch.tensor([-0.25, 0.25]))
    torch.testing.assert_close(native_t[0], finer_t.mean())


def test_a_network_by_axes_uses_them_in_both_halves() -> None:
    model = tiny.network(positions="axes")
    for half in (model.encoder, model.decoder):
        grid = model.encoder.config.grid
        assert torch.equal(half.pos_embed[0], by_axes(grid.shape, grid.shape, half.config.width))
    assert not [name for name in model.state_dict() if "pos_embed" in name]
