"""Which frames a clip takes: ranges, short videos, one view, time; tests/parity compares with released."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videomae2.data import sampling
from videomae2.errors import UserError

COUNTS = st.integers(1, 400)
LENGTHS = st.integers(1, 32)
STRIDES = st.integers(1, 9)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(COUNTS, LENGTHS, STRIDES, st.integers(1, 6))
def test_every_sampling_stays_inside_and_moves_forward(
    num_frames: int, length: int, stride: int, clips: int
) -> None:
    drawn = [
        sampling.pretrain_indices(num_frames, length, stride, generator=generator()),
        sampling.dense_train(num_frames, length, stride, generator=generator()),
        sampling.dense_val(num_frames, length, stride),
        sampling.segments_train(num_frames, length, generator=generator()),
        sampling.segments_val(num_frames, length),
        *sampling.dense_test_views(num_frames, length, stride, clips),
        *sampling.segments_test_views(num_frames, length, clips),
    ]
    for indices in drawn:
        assert indices.shape == (length,) and indices.dtype == np.int64
        assert indices.min() >= 0 and indices.max() < num_frames
        assert (np.diff(indices) >= 0).all()


def test_a_random_window_reaches_both_ends() -> None:
    starts = {int(sampling.pretrain_indices(70, 16, 4, generator=generator(seed))[0]) for seed in range(200)}
    assert starts == set(range(7))
    starts = {int(sampling.dense_train(70, 16, 4, generator=generator(seed))[0]) for seed in range(200)}
    assert starts == set(range(6)), "released: the very last window is never drawn"


def test_the_same_generator_draws_the_same() -> None:
    for draw in (sampling.pretrain_indices, sampling.dense_train):
        np.testing.assert_array_equal(draw(300, generator=generator(5)), draw(300, generator=generator(5)))
    first, second = (sampling.segments_train(300, generator=generator(seed)) for seed in (1, 2))
    assert (first != second).any()
    assert (first // 18 == np.arange(16)).all(), "one frame from each of 16 parts of 18"


def test_one_view_is_the_middle_one() -> None:
    np.testing.assert_array_equal(
        sampling.dense_test_views(301, 16, 4, clips=1), [30 * 4 + 4 * np.arange(16)]
    )
    np.testing.assert_array_equal(sampling.segments_test_views(32, 16, clips=1), [np.arange(0, 32, 2)])
    assert sampling.crop_offsets(224, 298, crops=1).tolist() == [37]


@pytest.mark.parametrize("num_frames", [5, 70, 301])
def test_samplers_are_the_functions_with_a_length(num_frames: int) -> None:
    window, dense, segments = sampling.RandomWindow(8), sampling.Dense(8), sampling.Segments(8)
    samplers: list[tuple[sampling.Sampler, np.ndarray]] = [
        (window, sampling.pretrain_indices(num_frames, 8, 4, generator=generator(3))),
        (dense, sampling.dense_train(num_frames, 8, 4, generator=generator(3))),
        (segments, sampling.segments_train(num_frames, 8, generator=generator(3))),
    ]
    for drawn, expected in samplers:
        np.testing.assert_array_equal(drawn(num_frames, 4, generator(3)), expected)
    for views, expected in [
        (dense.views(num_frames, 4, 1), sampling.dense_val(num_frames, 8, 4)[None]),
        (dense.views(num_frames, 4, 3), sampling.dense_test_views(num_frames, 8, 4, 3)),
        (segments.views(num_frames, 4, 1), sampling.segments_val(num_frames, 8)[None]),
        (segments.views(num_frames, 4, 2), sampling.segments_test_views(num_frames, 8, 2)),
    ]:
        np.testing.assert_array_equal(views, expected)
    assert set(sampling.SAMPLERS) == {"dense", "segments", "key"}


def test_short_videos_repeat_the_last_frame_reached() -> None:
    assert sampling.pretrain_indices(10, start=0).tolist() == [0, 4] + [8] * 14
    assert sampling.pretrain_indices(1, 4, 4, generator=generator()).tolist() == [0, 0, 0, 0]
    assert sampling.dense_test_views(1, 3, 4, 2).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert sampling.segments_val(4, 8).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_by_time_shows_what_is_on_the_screen() -> None:
    assert sampling.by_time(10, 30.0, 30.0).tolist() == list(range(10))
    assert sampling.by_time(10, 30.0, 10.0).tolist() == [0, 3, 6, 9]
    assert sampling.by_time(4, 10.0, 20.0).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sampling.by_time(1, 30.0, 1.0).tolist() == [0]
    assert len(sampling.by_time(300, 29.97, 12.0)) == 121


def test_by_timestamps_agrees_with_by_time_and_follows_pauses() -> None:
    even = np.arange(50) / 25.0
    np.testing.assert_array_equal(sampling.by_timestamps(even, 10.0), sampling.by_time(50, 25.0, 10.0))
    pause = np.array([0.0, 0.1, 0.2, 1.2, 1.3])
    assert sampling.by_timestamps(pause, 5.0).tolist() == [0, 2, 2, 2, 2, 2, 3]


def test_nonsense_is_refused_in_words() -> None:
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: sampling.dense_val(0), "0 frames"),
        (lambda: sampling.dense_val(10, 16, 0), "at least 1"),
        (lambda: sampling.dense_test_views(10, clips=0), "at least 1"),
        (lambda: sampling.pretrain_indices(10, start=10), "got start 10"),
        (lambda: sampling.pretrain_indices(100), "needs a generator"),
        (lambda: sampling.by_time(10, 0.0, 12.0), "frame rate above 0 to sample by time, got 0.0"),
        (lambda: sampling.by_time(10, 30.0, 0.0), "positive target_fps"),
        (lambda: sampling.crop_offsets(10, 20, 0), "at least 1 crop of a view, got 0"),
    ]
    for wrong, words in refused:
        with pytest.raises(UserError, match=words):
            wrong()
