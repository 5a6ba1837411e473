"""Records check themselves when they are made, print shapes, and move between devices.

The refusals run with the type checker of the test run switched off, as a user's own program does.
"""

import pytest
import torch

from videomae2.errors import UserError
from videomae2.labels import Boxes, Classes, Unlabelled
from videomae2.placement import Placement
from videomae2.records import Batch, Clip, Failure, StepOutput, TokenSplit

PICTURES = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
BATCH = torch.zeros(2, 4, 3, 8, 8, dtype=torch.uint8)


def indices(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.int64)


def test_a_clip_prints_its_shapes() -> None:
    clip = Clip(PICTURES, row=2)
    assert repr(clip) == (
        "Clip(frames=uint8[4, 3, 8, 8], row=2, view=0, target=Unlabelled(count=1), "
        "placement=None, failures=())"
    )
    assert repr(Clip(PICTURES, 0, target=Classes.one(3)).target) == "Classes(index=int64[1])"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "frames",
    [PICTURES.float(), PICTURES[0], PICTURES.numpy(), None],
    ids=["float", "3 axes", "numpy", "None"],
)
def test_a_clip_is_uint8_of_four_axes(frames: torch.Tensor) -> None:
    with pytest.raises(UserError, match=r"expected a clip as uint8 \[T, C, H, W\], got "):
        Clip(frames, row=2)


@pytest.mark.usefixtures("unchecked")
def test_a_clip_has_the_target_and_the_placement_of_one_clip() -> None:
    with pytest.raises(UserError, match=r"expected the target of one clip, got Unlabelled\(count=2\)"):
        Clip(PICTURES, 0, target=Unlabelled(2))
    with pytest.raises(UserError, match="expected the target of one clip, got 3"):
        Clip(PICTURES, 0, target=3)  # type: ignore[arg-type]
    Clip(PICTURES, 0, placement=Placement.whole(8, 8))
    with pytest.raises(
        UserError, match=r"expected a placement in 8x8 pixels, got Placement\(source=\(9, 8\)"
    ):
        Clip(PICTURES, 0, placement=Placement.whole(9, 8))


@pytest.mark.usefixtures("unchecked")
def test_a_batch_counts_its_clips() -> None:
    batch = Batch(BATCH, indices(2), indices(2), Classes(indices(2)), failures=(Failure(1, "a", "b"),))
    assert len(batch) == 2 and len(Batch(BATCH.float(), indices(2), indices(2), Unlabelled(2))) == 2
    with pytest.raises(UserError, match=r"expected a batch as uint8 or float \[B, T, C, H, W\], got int32"):
        Batch(BATCH.int(), indices(2), indices(2), Unlabelled(2))
    with pytest.raises(UserError, match=r"expected a batch as .*, got uint8\[4, 3, 8, 8\]"):
        Batch(PICTURES, indices(4), indices(4), Unlabelled(4))
    with pytest.raises(UserError, match=r"expected row as int64 \[B=2\], got int64\[3\]"):
        Batch(BATCH, indices(3), indices(2), Unlabelled(2))
    with pytest.raises(UserError, match=r"expected view as int64 \[B=2\], got int32\[2\]"):
        Batch(BATCH, indices(2), indices(2).int(), Unlabelled(2))
    with pytest.raises(UserError, match=r"expected a target of 2 clips, got Classes\(index=int64\[3\]\)"):
        Batch(BATCH, indices(2), indices(2), Classes(indices(3)))
    with pytest.raises(UserError, match=r"expected a target of 2 clips, got int64\[2\]"):
        Batch(BATCH, indices(2), indices(2), indices(2))  # type: ignore[type-var]
    with pytest.raises(UserError, match="expected a placement for each of 2 clips, got 1"):
        Batch(BATCH, indices(2), indices(2), Unlabelled(2), placements=(Placement.whole(8, 8),))


def test_a_batch_moves_with_its_target() -> None:
    boxes = Boxes(torch.tensor([1, 0]), torch.tensor([7]), xyxy=torch.tensor([[0.0, 0.0, 2.0, 1.0]]))
    moved = Batch(BATCH, indices(2), indices(2), boxes, epoch=3).to("meta")
    target = moved.target
    assert target.labels is not None and target.scores is None and moved.epoch == 3
    tensors = (moved.frames, moved.row, moved.view, target.xyxy, target.counts, target.labels)
    assert all(tensor.is_meta for tensor in tensors)


@pytest.mark.usefixtures("unchecked")
def test_a_split_names_tokens_by_index() -> None:
    decoded, scored = torch.tensor([[3, 5, 9]]), torch.tensor([[0, 2]])
    split = TokenSplit(indices(1, 4), decoded, scored)
    assert split.targets.tolist() == [[3, 9]]
    assert "decoded=int64[1, 3]" in repr(split)
    assert split.to("meta").scored.is_meta
    with pytest.raises(UserError, match="no token at all"):
        TokenSplit(indices(1, 0), decoded, scored)
    with pytest.raises(UserError, match=r"expected at most 3 scored predictions, .* got 4"):
        TokenSplit(indices(1, 4), decoded, indices(1, 4))
    with pytest.raises(UserError, match=r"expected decoded as int64 \[B=1, R\], got int64\[2, 3\]"):
        TokenSplit(indices(1, 4), indices(2, 3), indices(1, 2))
    with pytest.raises(UserError, match=r"expected scored as int64 \[B=1, S\], got int64\[2, 2\]"):
        TokenSplit(indices(1, 4), decoded, indices(2, 2))
    with pytest.raises(UserError, match=r"expected visible as int64 \[B, V\], got int32\[1, 4\]"):
        TokenSplit(indices(1, 4).int(), decoded, scored)


@pytest.mark.usefixtures("unchecked")
def test_a_step_has_one_loss_and_metrics_of_one_number() -> None:
    assert StepOutput(torch.tensor(1.0)).metrics == {}
    for loss in (torch.zeros(3), torch.tensor(1), 1.0):
        with pytest.raises(UserError, match=r"expected a step's loss as one number, float \[\], got .*mean"):
            StepOutput(loss)  # type: ignore[arg-type]
    for metric in (torch.zeros(3), 1.0):
        with pytest.raises(UserError, match="expected the metric bias as a tensor of one number, got "):
            StepOutput(torch.tensor(1.0), {"bias": metric})  # type: ignore[dict-item]
