"""Frame numbers and crop offsets recorded from the released code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videomae2.data import sampling

RECORDED = json.loads((Path(__file__).parent / "data" / "schedules_and_sampling.json").read_text())


@pytest.mark.parametrize("case", RECORDED["frame_indices"], ids=lambda case: f"{case['num_frames']} frames")
def test_frame_indices(case: dict[str, Any]) -> None:
    count = case["num_frames"]
    np.testing.assert_array_equal(
        sampling.dense_test_views(count, 16, 4, 5), case["dense_stride4_test_views"]
    )
    np.testing.assert_array_equal(sampling.dense_val(count, 16, 4), case["dense_stride4_validation"])
    np.testing.assert_array_equal(sampling.segments_test_views(count, 16, 2), case["sparse_test_views"])
    if count >= 16:
        np.testing.assert_array_equal(sampling.segments_val(count, 16), case["sparse_validation"])
    else:  # the released code asks for frame -1 here, which no video has
        assert set(case["sparse_validation"]) == {-1}
        assert sampling.segments_val(count, 16).min() >= 0


@pytest.mark.parametrize("case", RECORDED["pretrain_frame_indices"])
def test_pretrain_indices(case: dict[str, Any]) -> None:
    found = sampling.pretrain_indices(case["num_frames"], 16, case["stride"], start=case["start_1based"] - 1)
    np.testing.assert_array_equal(found, case["indices"])


@pytest.mark.parametrize("case", RECORDED["crop_offsets"])
def test_crop_offsets(case: dict[str, Any]) -> None:
    np.testing.assert_array_equal(
        sampling.crop_offsets(case["height"], case["width"], case["crops"]), case["offsets"]
    )
