"""Tensor names in few words: short, and none lost."""

from videomae2.weights.key_groups import folded_blocks, grouped

BLOCKS = [
    f"encoder.blocks.{n}.{part}"
    for n in range(12)
    for part in ("attn.q_bias", "attn.v_bias", "mlp.fc1.weight")
]


def test_a_branch_that_holds_nothing_else_is_one_word():
    names = [
        "decoder.blocks.0.norm1.weight",
        "decoder.head.weight",
        "decoder.head.bias",
        "mask_token",
        "encoder.norm.bias",
    ]
    assert grouped(names, BLOCKS) == ["decoder.* (3)", "mask_token", "encoder.norm.bias"]


def test_a_branch_shared_with_others_is_named_tensor_by_tensor():
    missing = [name for name in BLOCKS if "bias" in name]
    there = [name for name in BLOCKS if name not in missing]
    assert grouped(missing, there) == ["encoder.blocks.0-11.attn.* (2 each)"]
    only_q = [name for name in BLOCKS if "q_bias" in name]
    assert grouped(only_q, [name for name in BLOCKS if name not in only_q]) == [
        "encoder.blocks.0-11.attn.q_bias"
    ]


def test_blocks_that_differ_keep_their_own_lines():
    names = ["encoder.blocks.0.a", "encoder.blocks.2.a", "encoder.blocks.3.a", "encoder.blocks.3.b"]
    assert grouped(
        names, ["encoder.blocks.3.c", "encoder.blocks.1.a", "encoder.blocks.0.c", "encoder.blocks.2.c"]
    ) == [
        "encoder.blocks.0,2-3.a",
        "encoder.blocks.3.b",
    ]


def test_shapes_after_a_name_stay_with_it():
    lines = [f"encoder.blocks.{n}.w [4] in the file, [5] in the model" for n in (0, 1)]
    assert folded_blocks(lines) == ["encoder.blocks.0-1.w [4] in the file, [5] in the model"]


def test_nothing_is_nothing():
    assert grouped([]) == []
