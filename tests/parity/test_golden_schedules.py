"""Learning rates and layer-wise scales, number for number as the released code computes them."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from videomae2.engine.optim import layer_scale, parameter_groups
from videomae2.engine.schedule import learning_rate, make_plan
from videomae2.settings import OptimSettings, RunSettings

OUR_NAMES = {"patch_embed.proj": "encoder.tokenizer.proj", "blocks": "encoder.blocks"}


@pytest.fixture(scope="module")
def recorded(golden: Path) -> Any:
    return json.loads((golden / "schedules_and_sampling.json").read_text())


def test_learning_rates(recorded: dict[str, Any]) -> None:
    for case in recorded["schedules"]:
        optim = OptimSettings(
            base_lr=case["base"],
            min_lr=case["final"],
            batch_size=256,
            length=f"{case['epochs']}ep",
            warmup=f"{case['warmup_epochs']}ep",
        )
        plan = make_plan(optim, RunSettings(), num_rows=256 * case["steps_per_epoch"])
        assert plan.steps == len(case["values"])
        values = [learning_rate(plan, step) for step in range(plan.steps)]
        assert values == pytest.approx(case["values"], rel=1e-12, abs=1e-18)


def test_layer_decay_scales(recorded: dict[str, Any]) -> None:
    for case in recorded["layer_decay"]:
        for name, scale in case["scale"].items():
            ours = name
            for released, prefix in OUR_NAMES.items():
                ours = prefix + name.removeprefix(released) if name.startswith(released) else ours
            for spelling in (name, f"classifier.{ours}", f"module._orig_mod.classifier.{ours}"):
                assert layer_scale(spelling, case["decay"], case["depth"]) == pytest.approx(scale, rel=1e-12)


def test_groups_of_a_module_carry_the_scales(recorded: dict[str, Any]) -> None:
    case = recorded["layer_decay"][0]
    module = nn.Module()
    module.patch_embed = nn.Module()
    module.patch_embed.proj = nn.Linear(4, 4)
    module.blocks = nn.ModuleList()
    for _ in range(case["depth"]):
        block = nn.Module()
        block.attn = nn.Module()
        block.attn.qkv = nn.Linear(4, 4, bias=False)
        module.blocks.append(block)
    module.fc_norm, module.head = nn.LayerNorm(4), nn.Linear(4, 4)
    groups = parameter_groups(module, 0.05, case["decay"])
    scales = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert {name: scales[name] for name in case["scale"]} == pytest.approx(case["scale"])
