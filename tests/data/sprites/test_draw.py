"""Sprite videos: the same for any workers, told apart only by motion, boxes and segments fit the pixels."""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from videomae2.chance import numpy_generator
from videomae2.data.sprites.art import COLOUR_PHOTOGRAPHS, GREY_PHOTOGRAPHS, cutout, digit_scans, photographs
from videomae2.data.sprites.draw import write_sprites
from videomae2.data.sprites.scene import (
    ACTIONS,
    EIGHT_ACTIONS,
    SpriteSettings,
    Track,
    draw_video,
    track,
    unordered_bound,
)
from videomae2.errors import UserError

SMALL = SpriteSettings(size=32, num_frames=8)


def walk(action: str, seed: int, frames: int = 16, beat: float = 16.0) -> Track:
    return track([action], [frames], numpy_generator(seed), sizes=(0.4, 0.8), beat=beat)


def test_every_picture_ships_with_the_packages() -> None:
    assert len(photographs()) == len(COLOUR_PHOTOGRAPHS + GREY_PHOTOGRAPHS) == 16
    assert all(photo.dtype == np.uint8 and photo.shape[2] == 3 and photo.std() > 5 for photo in photographs())
    assert digit_scans().shape == (1797, 8, 8)


def test_a_cutout_stays_inside_the_unit_circle() -> None:
    art = cutout(numpy_generator(3), 40)
    axis = (np.arange(40) + 0.5) / 20 - 1
    outside = np.hypot(axis[None], axis[:, None]) > 1
    assert art.shape == (4, 40, 40) and art[3][outside].max() == 0 and art[3].max() == 1


@pytest.mark.parametrize(
    ("actions", "frames", "bound"),
    [
        (("left", "right", "up", "down", "left_fast", "right_fast", "up_fast", "down_fast"), 16, 2 / 8),
        (("left", "right", "up", "down"), 16, 2 / 4),
        (("left", "left_fast"), 8, 1.0),  # half a sweep, and one and a half
        (("left", "right"), 8, 1 / 2),
        (("towards", "away", "clockwise", "anticlockwise", "rest"), 16, 3 / 5),
        (("sway", "bounce"), 16, 1.0),
    ],
)
def test_who_sees_frames_in_no_order_can_tell_no_more_than_where_a_sprite_was(
    actions: tuple[str, ...], frames: int, bound: float
) -> None:
    assert unordered_bound(actions, frames, 16.0) == pytest.approx(bound)


def test_that_bound_is_of_pictures_as_they_are_drawn() -> None:
    """Left and right show the same frames in opposite order, to the last bit, where the start fits."""

    def drawn(action: str) -> list[bytes]:
        one = SpriteSettings(size=32, num_frames=16, classes=(action,), beat=(16.0, 16.0))
        return sorted(frame.numpy().tobytes() for frame in draw_video(one, 0, 0).frames)

    alike = sum(one in drawn("right") for one in drawn("left"))
    assert alike >= 12 and sum(one in drawn("up") for one in drawn("left")) <= 4


def test_a_video_follows_from_seed_and_number_alone() -> None:
    torch.manual_seed(0)
    one = draw_video(SMALL, 7, 5)
    torch.manual_seed(1)
    np.random.seed(4)  # noqa: NPY002
    assert torch.equal(one.frames, draw_video(SMALL, 7, 5).frames)
    assert not torch.equal(one.frames, draw_video(SMALL, 8, 5).frames)
    assert one.frames.shape == (8, 3, 32, 32) and one.frames.dtype == torch.uint8 and one.label == 5


@pytest.mark.parametrize(
    ("action", "quantity", "sign"),
    [
        ("left", "x", -1),
        ("right", "x", 1),
        ("up", "y", -1),
        ("down", "y", 1),
        ("clockwise", "turn", 1),
        ("anticlockwise", "turn", -1),
    ],
)
def test_an_action_moves_the_way_its_name_says(action: str, quantity: str, sign: int) -> None:
    path = walk(action, 1)
    period = 2 * np.pi if quantity == "turn" else 1.0
    steps = (np.diff(getattr(path, quantity)) + period / 2) % period - period / 2
    assert np.allclose(steps, sign * period / 16)
    still = {"x", "y", "size", "turn"} - {quantity}
    assert all(np.ptp(getattr(path, name)) < 1e-9 for name in still)


@pytest.mark.parametrize(("action", "sign"), [("towards", 1), ("away", -1)])
def test_zooming_goes_one_way_but_for_one_return(action: str, sign: int) -> None:
    growth = sign * np.diff(np.log(walk(action, 1).size))
    assert (growth > 0).sum() >= 14
    assert np.allclose(growth[growth > 0], np.log(2) / 16)


def test_orbits_turn_as_a_clock_seen_on_the_screen() -> None:
    path = walk("orbit_clockwise", 2)
    dx, dy = ((np.diff(v) + 0.5) % 1 - 0.5 for v in (path.x, path.y))
    assert (dx[:-1] * dy[1:] - dy[:-1] * dx[1:] > 0).all()  # y points down: clockwise is positive


@pytest.mark.parametrize("action", sorted(ACTIONS))
@pytest.mark.parametrize("frame", [0, 9])
def test_one_frame_says_nothing_about_the_action(action: str, frame: int) -> None:
    paths = [walk(action, seed) for seed in range(1500)]
    shares = {
        "x": [p.x[frame] for p in paths],
        "y": [p.y[frame] for p in paths],
        "size": [np.log(p.size[frame] / 0.4) / np.log(2) for p in paths],
        "turn": [p.turn[frame] / (2 * np.pi) % 1 for p in paths],
    }
    for name, values in shares.items():
        distance = np.abs(np.sort(values) - (np.arange(1500) + 0.5) / 1500).max()
        assert distance < 1.73 / np.sqrt(1500), (
            f"{name} of {action} is not uniform"
        )  # Kolmogorov-Smirnov, p = 0.005


def test_boxes_hold_the_sprite_and_stay_in_the_frame() -> None:
    settings = SpriteSettings(size=64, num_frames=8, contrast=0.0)
    for number in range(8):
        video = draw_video(settings, 1, number)
        boxes = video.sprites[0].boxes
        assert (boxes[:, :2] < boxes[:, 2:]).all() and boxes.min() >= 0 and boxes.max() <= 64
        assert (boxes[:, 2:] - boxes[:, :2]).max() <= 0.8 * 64 + 1
        changed = (video.frames.float() - video.frames[:, :, :1, :1].float()).abs().sum(1) > 0
        assert changed.any()


def test_several_objects_and_actions_fill_the_whole_video() -> None:
    settings = SpriteSettings(size=32, num_frames=40, objects=2, actions=3)
    video = draw_video(settings, 1, 4)
    assert len(video.sprites) == 2 and video.label == video.sprites[-1].segments[0][0] == 4
    for sprite in video.sprites:
        starts, ends = [part[1] for part in sprite.segments], [part[2] for part in sprite.segments]
        assert starts == [0, *ends[:-1]] and ends[-1] == 40 and len(sprite.segments) == 3
        assert all(end - start >= 2 for start, end in zip(starts, ends, strict=True))
        labels = [part[0] for part in sprite.segments]
        assert all(one != other for one, other in itertools.pairwise(labels))


def test_files_are_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    manifests = [
        write_sprites(tmp_path / str(workers), num_videos=9, seed=3, settings=SMALL, workers=workers)
        for workers in (1, 3)
    ]
    files = [
        sorted(path.relative_to(m.parent) for path in m.parent.rglob("*") if path.is_file())
        for m in manifests
    ]
    assert files[0] == files[1] and len(files[0]) == 9 + 5
    for name in files[0]:
        assert (manifests[0].parent / name).read_bytes() == (manifests[1].parent / name).read_bytes()


def test_manifest_boxes_and_segments_agree_with_the_videos(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    manifest = write_sprites(tmp_path / "set", num_videos=10, seed=3, settings=SMALL)
    rows = list(csv.DictReader(manifest.read_text().splitlines()))
    assert [int(row["label"]) for row in rows] == [number % 8 for number in range(10)]
    assert all(row["class"] == EIGHT_ACTIONS[int(row["label"])] for row in rows)
    boxes = json.loads((tmp_path / "set" / "boxes.json").read_text())
    segments = json.loads((tmp_path / "set" / "segments.json").read_text())["database"]
    for number, row in enumerate(rows):
        with av.open(str(tmp_path / "set" / row["path"])) as container:
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        drawn = draw_video(SMALL, 3, number)
        assert frames.shape == (8, 32, 32, 3)
        assert np.abs(frames.astype(float) - drawn.frames.permute(0, 2, 3, 1).numpy()).mean() < 8
        assert np.allclose(boxes[row["path"]][0]["boxes"], drawn.sprites[0].boxes)
        assert segments[f"{number:06d}"]["annotations"] == [{"label": row["class"], "segment": [0.0, 0.5]}]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"classes": ("left", "lft")},
            "expected different sprite actions, got 'lft'; choose from left, right",
        ),
        ({"classes": ()}, "which is empty or names one twice"),
        ({"classes": ("left", "left")}, "which is empty or names one twice"),
        ({"size": 33}, "even size of at least 16 pixels for sprite videos, got 33"),
        ({"actions": 9}, "at least 2 frames an action"),
        ({"objects": 0}, "at least 1 of each"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says.replace("(", r"\(")):
        SpriteSettings(**{"num_frames": 16, **change})


def test_a_folder_that_holds_a_set_is_not_written_over(tmp_path: Path) -> None:
    write_sprites(tmp_path, num_videos=1, seed=0, settings=SMALL)
    with pytest.raises(UserError, match="already holds a manifest"):
        write_sprites(tmp_path, num_videos=1, seed=0, settings=SMALL)
    with pytest.raises(UserError, match="at least 1"):
        write_sprites(tmp_path / "none", num_videos=0, seed=0)
