"""What `weights show` prints."""

from pathlib import Path

from videomae2.weights import save_safetensors
from videomae2.weights.describe import describe

from ..small_networks import TINY, classifier


def test_describe_says_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    file = save_safetensors(
        tmp_path / "a.safetensors", classifier(3), TINY, "classifier", class_names=("up", "down", "left")
    )
    text = describe(file)
    table = "encoder.blocks.*.attn.qkv.weight [144, 48] in 2 blocks"
    for words in (
        "width 48, depth 2",
        "classifier",
        "ours",
        "(float32)",
        "64 tokens",
        "3 (up, down, left)",
        "decoder, final",
        table,
    ):
        assert words in text
    assert f"{sum(p.numel() for p in classifier(3).parameters()):,} in 32 tensors" in text
