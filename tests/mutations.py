"""Changes that must each make a test fail: python tests/mutations.py [WORD ...]; not part of the suite.

Every row changes one constant, default, formula or check of the package in a copy of the tree and runs the
tests named beside it. A row is fine when they fail; it is stale when its text is no longer in the file, and a
hole when they still pass. With words, only rows that mention one of them are tried.
"""

import itertools
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av  # noqa: F401
import hypothesis  # noqa: F401
import pyarrow  # noqa: F401
import pytest
import torch.distributed.fsdp  # noqa: F401

ROOT = Path(__file__).parents[1]


_STAMPS = itertools.count(1_000_000_000)


class Mutation(NamedTuple):
    """What is changed, where, and which tests must notice."""

    path: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    # ---- words and grids
    Mutation("geometry.py", "or isinstance(value, bool)", "", "tests/test_geometry.py"),
    Mutation("geometry.py", "if not isinstance(value, int)", "if not isinstance(value, int | float)", "tests/test_geometry.py"),
    Mutation("geometry.py", '        _must_divide("width", self.width, "patch", self.patch)\n', "", "tests/test_geometry.py"),
    Mutation("chance.py", "state = _mix(seed & _MASK)", "state = seed & _MASK", "tests/test_chance.py"),
    Mutation("chance.py", "2.0**-53", "2.0**-52", "tests/test_chance.py"),
    Mutation("chance.py", "z ^ _shift_right(z, 31)", "z ^ (z >> 31)", "tests/test_chance.py"),
    Mutation("files.py", "        os.fsync(file.fileno())\n", "", "tests/test_files.py"),
    Mutation("files.py", "shutil.rmtree(folder, ignore_errors=True)", "pass", "tests/test_files.py"),
    # ---- temporal detection
    Mutation("overlap.py", "-overlaps.square() / sigma", "-overlaps / sigma", "tests/test_overlap.py"),
    Mutation("overlap.py", "overlaps * scores, 0.0", "scores, 0.0", "tests/test_overlap.py::test_voting"),
    Mutation("metrics/segments.py", "[::-1]] for rows in parts", "] for rows in parts", "tests/metrics/test_segments.py"),
    Mutation("metrics/segments.py", "& ~taken[:, truth[part]]", "", "tests/metrics/test_segments.py"),
    Mutation("metrics/segments.py", "np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]", "precision", "tests/metrics/test_segments.py"),
    Mutation("targets.py", "apart = 0.5 * (", "apart = (", "tests/test_targets.py"),
    Mutation("heads/points.py", "chosen = (lengths <= shortest", "chosen = (lengths >= shortest", "tests/parity/test_golden_localize.py"),
    Mutation("heads/temporal.py", "MOMENTUM = 0.9", "MOMENTUM = 0.99", "tests/parity/test_golden_localize.py"),
    Mutation("heads/temporal.py", "valid[:, :: self.stride]", "valid[:, 1 :: self.stride]", "tests/parity/test_golden_localize.py"),
    Mutation("data/features.py", "- self.first - 0.5 * self.window", "- self.first", "tests/recipes/test_localize.py"),
    Mutation("data/windows.py", "place % cutting.step == 0", "True", "tests/data/test_windows.py"),
    # ---- masks
    Mutation("mask_counts.py", '    check_choice("mask.encoder", mask.encoder, HIDDEN_COUNTS)\n', "", "tests/test_masking.py::test_an_unknown_word_in_settings_is_refused"),
    Mutation("mask_counts.py", '    check_choice("mask.decoder", mask.decoder, KEPT_COUNTS)\n', "", "tests/test_masking.py::test_an_unknown_word_in_settings_is_refused"),
    Mutation("mask_counts.py", '    check_choice("mask.membership", mask.membership, MEMBERSHIPS)\n', "", "tests/test_masking.py::test_an_unknown_word_in_settings_is_refused"),
    Mutation("mask_counts.py", '    check_choice("mask.scored", mask.scored, SCORED)\n', "", "tests/test_masking.py::test_an_unknown_word_in_settings_is_refused"),
    Mutation("mask_counts.py", "if not 0 <= got < 1:", "if not 0 <= got <= 1:", "tests/test_masking.py::test_refusals"),
    Mutation("mask_counts.py", "grid.num_steps % RING:", "grid.num_steps % 2:", "tests/test_masking.py::test_refusals"),
    Mutation("mask_counts.py", "return count - int(ratio * count)", "return int((1 - ratio) * count)", "tests/test_masking.py::test_shares_that_do_not_divide_leave_out_the_whole_part"),
    Mutation("masking.py", "steps[:, None, None] + 1 + slot", "steps[:, None, None] + slot", "tests/parity/test_golden_masks.py"),
    Mutation("masking.py", 'chance.key(0, "decoder mask")', 'chance.key(0, "encoder mask")', "tests/test_masking.py::test_the_masks_of_encoder_and_decoder_are_independent"),
    Mutation("masking.py", "    if low != high:", "    if False:", "tests/test_masking.py::test_masks_with_unequal_counts_are_refused"),
    # ---- positions, targets, losses
    Mutation("positions.py", "AXIS_BASE = 100.0", "AXIS_BASE = 50.0", "tests/test_positions.py"),
    Mutation("positions.py", "BASE = 10000.0", "BASE = 1000.0", "tests/parity/test_golden_positions.py"),
    Mutation("positions.py", "align_corners=False", "align_corners=True", "tests/test_positions.py"),
    Mutation("targets.py", "_EPSILON = 1e-6", "_EPSILON = 1e-5", "tests/test_targets.py"),
    Mutation("targets.py", "(count - 1) ** 0.5 + _EPSILON", "(count - 1 + _EPSILON) ** 0.5", "tests/test_targets.py"),
    Mutation("targets.py", "norm / (count - 1) ** 0.5", "norm / count**0.5", "tests/test_targets.py"),
    Mutation("targets.py", "@torch.no_grad()\n", "", "tests/test_targets.py"),
    Mutation("targets.py", "F.cross_entropy(logits.float(), target.float())", "F.cross_entropy(logits.float(), target.float(), reduction='sum')", "tests/test_targets.py"),
    Mutation("api/views.py", ".nan_to_num(0.5)", "", "tests/api/test_pictures.py"),
    Mutation("api/views.py", "GAP = 255", "GAP = 0", "tests/api/test_pictures.py"),
    # ---- metrics
    Mutation("metrics/accuracy.py", "good[list(self.failures)] = False", "pass", "tests/metrics/test_accuracy.py"),
    Mutation("metrics/accuracy.py", "logits.detach().double()", "logits.detach()", "tests/metrics/test_accuracy.py"),
    Mutation("metrics/accuracy.py", "self.sums[again] = 0.0", "pass", "tests/metrics/test_accuracy.py"),
    Mutation("metrics/accuracy.py", "(numbers < label)", "(numbers <= label)", "tests/metrics/test_accuracy.py"),
    # ---- records
    Mutation("records.py", '        check_tensor("a clip", self.frames, "uint8", "T C H W")\n', "", "tests/test_records.py"),
    Mutation("records.py", "        if not isinstance(self.target, Target) or len(self.target) != 1:", "        if False:", "tests/test_records.py"),
    Mutation("records.py", "if not isinstance(self.loss, Tensor) or self.loss.ndim != 0 or not self.loss.is_floating_point():", "if False:", "tests/test_records.py"),
    # ---- defaults of the recipes
    Mutation("settings.py", "base_lr: Factor = 7e-4", "base_lr: Factor = 1e-3", "tests/parity/test_defaults.py"),
    Mutation("settings.py", "min_lr: Factor = 1e-5", "min_lr: Factor = 2.5e-6", "tests/parity/test_defaults.py"),
    Mutation("settings.py", "min_lr: Factor = 1e-6", "min_lr: Factor = 1e-5", "tests/parity/test_defaults.py"),
    Mutation("settings.py", "= (0.08, 1.0)", "= (0.2, 1.0)", "tests/parity/test_defaults.py"),
    Mutation("settings.py", "eps: Share = 1e-8", "eps: Share = 1e-6", "tests/parity/test_defaults.py"),
    Mutation("settings.py", "head_init_scale: Factor = 0.001", "head_init_scale: Factor = 1.0", "tests/parity/test_defaults.py"),
    Mutation("settings.py", "mix_switch: Share = 0.5", "mix_switch: Share = 0.8", "tests/parity/test_defaults.py"),
    Mutation("settings.py", "drop_path: BelowOne = 0.1", "drop_path: BelowOne = 0.2", "tests/parity/test_defaults.py"),
    Mutation("settings.py", "decoder_depth: Blocks = 4", "decoder_depth: Blocks = 8", "tests/parity/test_defaults.py"),
    Mutation("settings.py", "label_smoothing: BelowOne = 0.1", "label_smoothing: BelowOne = 0.0", "tests/parity/test_defaults.py"),
    Mutation("settings.py", 'length: Duration = "90ep"', 'length: Duration = "100ep"', "tests/parity/test_defaults.py"),
    Mutation("settings.py", 'warmup: Duration = "20ep"', 'warmup: Duration = "40ep"', "tests/parity/test_defaults.py"),
    # ---- several processes
    Mutation("engine/supply.py", "EVIDENCE = 20.0", "EVIDENCE = 2.0", "tests/engine/test_supply.py"),
    Mutation("engine/supply.py", "EVIDENCE = 20.0", "EVIDENCE = 80.0", "tests/engine/test_supply.py"),
    Mutation("engine/supply.py", "if epoch != self.epoch:", "if False:", "tests/engine/test_supply.py"),
    Mutation("engine/launch.py", 'if word not in answered:', 'if not answered:', "tests/engine/test_launch.py"),
    Mutation("data/augment/mixing.py", "chance.key(key, pair)", "chance.key(key, 0)", "tests/data/augment/test_mixing.py"),
    Mutation("recipes/finetune.py", "place % 2 == 1 and rank > 0", "False", "tests/recipes/test_finetune.py"),
    # ---- schedule and optimizer
    Mutation("engine/schedule.py", "LR_BATCH = 256", "LR_BATCH = 128", "tests/parity/test_golden_schedules.py tests/test_experiments.py"),
    Mutation("engine/schedule.py", "max(1, plan.warmup_steps - 1)", "max(1, plan.warmup_steps)", "tests/parity/test_golden_schedules.py"),
    Mutation("engine/schedule.py", "math.floor(amount * whole + 1e-6)", "math.floor(amount * whole)", "tests/engine/test_schedule.py"),
    Mutation("engine/optim.py", 'NO_DECAY = frozenset({"pos_embed", "cls_token", "mask_token", "positions"})', 'NO_DECAY = frozenset({"pos_embed", "cls_token", "positions"})', "tests/engine/test_optim.py"),
    Mutation("engine/optim.py", '(".bias", ".scale")', '(".bias",)', "tests/engine/test_optim.py"),
    Mutation("engine/optim.py", "betas=optim.betas, eps=optim.eps", "betas=optim.betas", "tests/engine/test_optim.py"),
    # ---- networks
    Mutation("models/layers.py", "_MAX_LOG_SCALE = math.log(100.0)", "_MAX_LOG_SCALE = math.log(50.0)", "tests/models/test_layers.py"),
    Mutation("models/layers.py", "INITIAL_LOG_SCALE = math.log(10.0)", "INITIAL_LOG_SCALE = math.log(20.0)", "tests/models"),
    Mutation("models/layers.py", "eps=1e-6", "eps=1e-5", "tests/parity/test_golden_classify.py tests/models"),
    # ---- data
    Mutation("data/augment/mixing.py", "MEAN = (0.485, 0.456, 0.406)", "MEAN = (0.5, 0.5, 0.5)", "tests/data/augment/test_mixing.py"),
    Mutation("data/augment/mixing.py", "STD = (0.229, 0.224, 0.225)", "STD = (0.25, 0.25, 0.25)", "tests/data/augment/test_mixing.py"),
    Mutation("data/augment/mixing.py", "area: tuple[float, float] = (0.02, 1 / 3)", "area: tuple[float, float] = (0.02, 0.4)", "tests/data/augment/test_mixing.py"),
    Mutation("data/augment/mixing.py", "smoothing / num_classes", "smoothing / (num_classes - 1)", "tests/data/augment/test_mixing.py"),
    Mutation("data/augment/crops.py", "MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)", "MULTI_SCALES = (1.0, 0.875, 0.75, 0.5)", "tests/data/augment/test_crops.py"),
    Mutation("data/augment/crops.py", "abs(side - size) < 3", "abs(side - size) < 1", "tests/data/augment/test_crops.py"),
    Mutation("data/video/frame_index.py", "REORDER = 40", "REORDER = 8", "tests/data/video/test_packets.py"),
    # ---- nothing silently wrong
    Mutation("data/clips.py", "first = 0 if instead_of is None else stand_in_view(instead_of)", "first = 0", "tests/data/test_clips.py"),
    Mutation("data/clips.py", "parts = (epoch, row) if instead_of is None else (epoch, row, instead_of)", "parts = (epoch, row)", "tests/data/test_clips.py"),
    Mutation("data/batches.py", "    if not repeats.any():\n", "    if True:\n", "tests/data/test_batches.py"),
    Mutation("data/tables/class_labels.py", "pc.subtract(numbers, first)", "numbers", "tests/data/tables/test_class_labels.py"),
    Mutation("data/video/transport.py", "in _STATUSES for each", "in () for each", "tests/data/video/test_transport.py"),
    Mutation("data/rows.py", "drawn = lru_cache(maxsize=1)(draw)", "drawn = draw", "tests/data/video/test_transport.py"),
    Mutation("data/video/transport.py", "            OUTAGE.set()\n", "", "tests/data/video/test_transport.py"),
    Mutation("recipes/feed.py", '            found["held-out rows (SHA-256)"] = ', "            _ = ", "tests/recipes/test_train.py"),
    Mutation("weights/classes.py", "    if len(theirs) != count:\n", "    if False:\n", "tests/faults/test_reading.py"),
]  # fmt: skip


def main(words: list[str]) -> int:
    """Try the rows, print one line for each, and return how many are holes or stale."""
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for entry in ROOT.iterdir():
            if entry.name not in ("src", "tests", ".git", ".pytest_cache"):
                (copy / entry.name).symlink_to(entry)
        for row in _chosen(words):
            verdict = _try(copy, row)
            bad += not verdict.startswith("caught")
            print(f"{row.path}: {row.old.strip()!r} -> {row.new.strip()!r}: {verdict}", flush=True)
    return bad


def _chosen(words: list[str]) -> Iterator[Mutation]:
    return (row for row in MUTATIONS if not words or any(word in " ".join(row) for word in words))


def _try(copy: Path, row: Mutation) -> str:
    path = copy / "src" / "videomae2" / row.path
    text = path.read_text() if path.exists() else ""
    if row.old not in text:
        return "stale, the text is not in the file"
    _write(path, text.replace(row.old, row.new, 1))
    log = copy / "log.txt"
    try:
        # A fork, because the imports above take longer than most tests.
        process = multiprocessing.get_context("fork").Process(target=_run, args=(copy, row.tests, log))
        process.start()
        process.join()
    finally:
        _write(path, text)
    failed = re.search(r"^FAILED (\S+)", log.read_text(), re.MULTILINE)
    if process.exitcode == 1 and failed:
        return f"caught by {failed[1]}"
    return "a hole, the tests pass" if process.exitcode == 0 else f"pytest gave {process.exitcode}"


def _run(copy: Path, tests: str, log: Path) -> None:
    os.chdir(copy)
    sys.path.insert(0, str(copy / "src"))
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # Without the shape checker: the tests themselves must notice.
    options = ["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
    sys.exit(pytest.main([*options, *tests.split()]))


def _write(path: Path, text: str) -> None:
    """Write a file with a time of its own: bytecode is told apart by size and whole seconds."""
    path.write_text(text)
    stamp = next(_STAMPS)
    os.utime(path, (stamp, stamp))


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
