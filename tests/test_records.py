"""Records check themselves when they are made, print shapes, and move between devices.

Where the type check of a test run would refuse first, the text is looked for in either's message.
"""

import pytest
import torch

from videomae2.errors import UserError
from videomae2.records import Boxes, Clip, ClipBatch, Segments, StepOutput, TokenSplit


def indices(*shape):
    return torch.zeros(*shape, dtype=torch.int64)


def test_clip_is_uint8_of_four_axes():
    clip = Clip(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), row=2)
    assert repr(clip) == "Clip(frames=uint8[4, 3, 8, 8], row=2, view=0, label=-1, failures=())"
    with pytest.raises(Exception, match=r"a clip is uint8 \[T, C, H, W\]|parameter 'frames'"):
        Clip(torch.zeros(4, 3, 8, 8), row=2)


def test_batch_counts_its_entries():
    frames = torch.zeros(2, 4, 3, 8, 8, dtype=torch.uint8)
    batch = ClipBatch(frames, row=indices(2), view=indices(2), label=indices(2))
    assert len(batch) == 2
    moved = batch.to("meta")
    assert {t.device.type for t in (moved.frames, moved.row, moved.view, moved.label)} == {"meta"}
    with pytest.raises(
        Exception, match=r"label must have one entry for each of the 2 clips|parameter 'label'"
    ):
        ClipBatch(frames, row=indices(2), view=indices(2), label=indices(3))
    with pytest.raises(UserError, match="uint8 or float"):
        ClipBatch(frames.int(), row=indices(2), view=indices(2), label=indices(2))


def test_split_names_tokens_by_index():
    decoded, scored = torch.tensor([[3, 5, 9]]), torch.tensor([[0, 2]])
    split = TokenSplit(indices(1, 4), decoded, scored)
    assert split.targets.tolist() == [[3, 9]]
    assert "decoded=int64[1, 3]" in repr(split)
    assert split.to("meta").scored.is_meta
    with pytest.raises(UserError, match="no token at all"):
        TokenSplit(indices(1, 0), decoded, scored)
    with pytest.raises(UserError, match="4 predictions are scored, but only 3 are decoded"):
        TokenSplit(indices(1, 4), decoded, indices(1, 4))
    with pytest.raises(Exception, match=r"decoded must be .* with the same B throughout|parameter 'decoded'"):
        TokenSplit(indices(1, 4), indices(2, 3), indices(1, 2))
    with pytest.raises(Exception, match=r"visible must be int64|parameter 'visible'"):
        TokenSplit(indices(1, 4).int(), decoded, scored)


def test_boxes_and_segments_have_a_direction():
    Boxes(torch.tensor([[0.0, 0.0, 2.0, 1.0]]))
    with pytest.raises(UserError, match="ends before it starts"):
        Boxes(torch.tensor([[2.0, 0.0, 0.0, 1.0]]))
    Segments(torch.tensor([[0.5, 1.5]]))
    with pytest.raises(UserError, match="ends before it starts"):
        Segments(torch.tensor([[1.5, 0.5]]))


def test_a_step_has_one_loss():
    assert StepOutput(torch.tensor(1.0)).metrics == {}
    with pytest.raises(Exception, match=r"a step's loss is one number|parameter 'loss'"):
        StepOutput(torch.zeros(3))
