"""From annotations to clips about key frames, with boxes that follow; and what is wrong, by file and line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from videomae2.data.clips import TrainingClips
from videomae2.data.key_frames import KeyFrameViews, annotated, read_boxes, read_found, read_key_frames
from videomae2.data.sampling import KeyFrames, around, centred
from videomae2.errors import UserError
from videomae2.labels import Boxes
from videomae2.records import Clip, Failure
from videomae2.settings import DetectData

HEAD = "video,time,x1,y1,x2,y2,label,actor\n"
DATA = DetectData(stride=2, workers=0, flip=False, crop="center")


def write(folder: Path, text: str, name: str = "boxes.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.fixture(autouse=True)
def video(tmp_path: Path, write_numbered: Callable[..., Path]) -> Path:
    """60 frames of 64x48 at 30 a second."""
    return write_numbered(tmp_path / "v.mp4")


# ---- which frames


def test_a_clip_spans_its_frames_about_the_key_frame() -> None:
    assert around(200, 16, 4).tolist() == list(range(68, 132, 4))
    assert around(7, 4, 4).tolist() == [0, 0, 3, 6]  # beyond the ends the last frame repeats
    assert KeyFrames(4).views(100, 3, 2).tolist() == [[44, 47, 50, 53]] * 2


@pytest.mark.parametrize("key", [0, 1, 29, 58, 59])
def test_a_stretch_is_centred_on_any_frame(key: int) -> None:
    stretch = centred(60, key)
    assert stretch[len(stretch) // 2] == key
    expected = np.clip(key + (np.arange(16) - 8) * 4, 0, 59)
    assert stretch[around(len(stretch), 16, 4)].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("line", "key"),
    [("v,1.0,0,0,32,24,run,1", 30), ("v,0,0,0,32,24,run,1", 0), ("v,2,0,0,32,24,run,1", 59)],
)
def test_the_middle_of_a_clip_is_the_frame_at_its_time(
    line: str, key: int, tmp_path: Path, numbers_of: Callable[[Any], list[int]]
) -> None:
    manifest = read_key_frames(write(tmp_path, HEAD + line + "\n"), DATA)
    clip = KeyFrameViews(manifest, DATA, 8, 48)[0]
    assert isinstance(clip, list)
    assert numbers_of(clip[0].frames) == np.clip(key + (np.arange(8) - 4) * 2, 0, 59).tolist()


def test_at_a_rate_the_span_is_one_of_time(tmp_path: Path, numbers_of: Callable[[Any], list[int]]) -> None:
    manifest = read_key_frames(write(tmp_path, HEAD + "v,1.0,0,0,32,24,run,1\n"), DATA)
    clip = KeyFrameViews(manifest, replace(DATA, target_fps=15.0), 4, 48)[0]
    assert isinstance(clip, list) and numbers_of(clip[0].frames) == [22, 26, 30, 34]


@pytest.mark.parametrize(("rate", "frames"), [(5.0, [42, 54]), (60.0, [58, 59])])
def test_a_slow_or_fast_clock_reaches_the_last_frame(
    rate: float, frames: list[int], tmp_path: Path, numbers_of: Callable[[Any], list[int]]
) -> None:
    manifest = read_key_frames(write(tmp_path, "video,frame,x1,y1,x2,y2,label\nv,59,0,0,9,9,run\n"), DATA)
    clip = KeyFrameViews(manifest, replace(DATA, target_fps=rate), 2, 48)[0]
    assert isinstance(clip, list) and numbers_of(clip[0].frames) == frames


def test_a_key_frame_by_number(tmp_path: Path, numbers_of: Callable[[Any], list[int]]) -> None:
    manifest = read_key_frames(write(tmp_path, "video,frame,x1,y1,x2,y2,label\nv,11,0,0,9,9,run\n"), DATA)
    clip = KeyFrameViews(manifest, DATA, 2, 48)[0]
    assert isinstance(clip, list) and numbers_of(clip[0].frames) == [9, 11]


# ---- rows, boxes and actions


def test_lines_of_one_moment_are_one_row_and_of_one_box_one_actor(tmp_path: Path) -> None:
    lines = ["v,1,0,0,32,24,run,1", "v,1.000,0,0,32,24,wave,1", "v,1,10,10,20,20,run,2", "v,0.5,0,0,8,8,,1"]
    manifest = read_key_frames(write(tmp_path, HEAD + "\n".join(lines) + "\n"), DATA)
    assert len(manifest) == 2 and manifest.class_names == ["run", "wave"]
    early, late = read_boxes(manifest, 0), read_boxes(manifest, 1)
    assert early.labels.tolist() == [[0, 0]]  # type: ignore[union-attr]
    assert late.labels.tolist() == [[1, 1], [1, 0]] and len(late.xyxy) == 2  # type: ignore[union-attr]
    frame, xyxy, box, label = annotated(manifest)
    assert frame.tolist() == [0, 1, 1] and xyxy[2].tolist() == [10, 10, 20, 20]
    assert sorted(zip(box.tolist(), label.tolist(), strict=True)) == [(1, 0), (1, 1), (2, 0)]


@pytest.mark.parametrize("line", ["v,1,32,12,48,36,run,1", "v,1,0.5,0.25,0.75,0.75,run,1"])
def test_boxes_follow_the_crop_in_pixels_and_in_shares(line: str, tmp_path: Path) -> None:
    manifest = read_key_frames(write(tmp_path, HEAD + line + "\n"), DATA)
    clips = TrainingClips(manifest, DATA, 24, KeyFrames(4), read_boxes)[0, 0]
    assert isinstance(clips[0], Clip) and isinstance(clips[0].target, Boxes)
    # The centre square of 64x48 begins at x 8; at 24 pixels everything is half as large.
    assert clips[0].target.xyxy.tolist() == [[12, 6, 20, 18]]
    flipped = TrainingClips(manifest, replace(DATA, flip=True), 24, KeyFrames(4), read_boxes)
    seen = {
        tuple(c.target.xyxy[0].tolist())
        for e in range(8)
        for c in flipped[e, 0]
        if isinstance(c, Clip) and isinstance(c.target, Boxes)
    }
    assert seen == {(12, 6, 20, 18), (4, 6, 12, 18)}


def test_a_random_scale_crop_is_a_square_of_its_share(tmp_path: Path) -> None:
    manifest = read_key_frames(write(tmp_path, HEAD + "v,1,0,0,64,48,run,1\n"), DATA)
    data = replace(DATA, crop="random_scale", crop_scale=(0.5, 0.75))
    clips = TrainingClips(manifest, data, 16, KeyFrames(2), read_boxes)
    placements = [clips[epoch, 0][0].placement for epoch in range(20)]  # type: ignore[union-attr]
    sides = {(p.height, p.width) for p in placements if p is not None}
    assert all(24 <= height == width <= 36 for height, width in sides) and len(sides) > 3


def test_detected_boxes_are_scored_whole_frames_are_seen(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "v,1,0,0,32,24,run,1\n")
    found = write(
        tmp_path,
        "video,time,x1,y1,x2,y2,score\nv,1,0,0,30,24,0.9\nv,1,1,1,5,5,0.2\nv,9,0,0,9,9,0.9\n",
        "d.csv",
    )
    data = replace(DATA, proposals=found, min_score=0.5)
    manifest = read_key_frames(path, data)
    clip = KeyFrameViews(manifest, data, 2, 24)[0]
    assert isinstance(clip, list) and clip[0].frames.shape == (2, 3, 24, 32)
    target = clip[0].target
    assert isinstance(target, Boxes) and target.xyxy.tolist() == [[0, 0, 15, 12]]
    assert target.scores is not None and target.scores.tolist() == pytest.approx([0.9])
    assert read_found(read_key_frames(path, DATA), 0).scores.tolist() == [1.0]  # type: ignore[union-attr]


def test_color_jitter_changes_colours_and_no_more(tmp_path: Path) -> None:
    manifest = read_key_frames(write(tmp_path, HEAD + "v,1,0,0,64,48,run,1\n"), DATA)
    plain = TrainingClips(manifest, DATA, 24, KeyFrames(2), read_boxes)[0, 0][0]
    jittered = TrainingClips(
        manifest, replace(DATA, color_jitter=(0.05, 0.1, 0.2)), 24, KeyFrames(2), read_boxes
    )[0, 0][0]
    assert isinstance(plain, Clip) and isinstance(jittered, Clip)
    assert not torch.equal(plain.frames, jittered.frames) and plain.placement == jittered.placement


# ---- AVA


def test_ava_by_ids_without_what_is_excluded(tmp_path: Path) -> None:
    ava = "v,0001,0.1,0.1,0.5,0.5,12,0\nv,0001,0.1,0.1,0.5,0.5,99,0\nv,0002,0.1,0.1,0.5,0.5,80,0\n"
    actions = 'item {\n  name: "stand"\n  id: 12\n}\nitem {\n  name: "watch"\n  id: 80\n}\n'
    data = replace(DATA, actions=write(tmp_path, actions, "list.pbtxt"))
    manifest = read_key_frames(write(tmp_path, ava), data)
    assert manifest.class_names == ["stand", "watch"] and len(manifest) == 2
    assert read_boxes(manifest, 0).labels.tolist() == [[1, 0]]  # type: ignore[union-attr]
    kept = read_key_frames(
        write(tmp_path, ava), replace(data, excluded=write(tmp_path, "v,0002\n", "no.csv"))
    )
    assert len(kept) == 1 and kept.row(0).key_time == 1.0


def test_files_that_begin_later_than_their_source(
    tmp_path: Path, write_numbered: Callable[..., Path]
) -> None:
    line = HEAD + "v,901.5,0,0,8,8,run,1\n"
    manifest = read_key_frames(write(tmp_path, line), replace(DATA, starts_at=900.0))
    assert manifest.row(0).key_time == pytest.approx(1.5)
    with pytest.raises(
        UserError, match=r"boxes.csv, line 2: the time 901.5 s lies before .*v.mp4 begins, at 950 s"
    ):
        read_key_frames(write(tmp_path, line), replace(DATA, starts_at=950.0))
    write_numbered(tmp_path / "abcdefghijk_000010_000020.mp4")
    kinetics = read_key_frames(write(tmp_path, "abcdefghijk,11.5,0.1,0.1,0.5,0.5,run,0\n"), DATA)
    assert kinetics.row(0).key_time == pytest.approx(1.5) and "000010" in kinetics.row(0).path


# ---- mistakes


def test_unknown_actions_and_missing_videos_are_named_with_their_line(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "v,1,0,0,8,8,run,1\nv,1,0,0,9,9,runn,2\n")
    with pytest.raises(UserError, match=r"boxes.csv, line 3: unknown action 'runn'; did you mean run\?"):
        read_key_frames(path, DATA, ["run", "wave"])
    path = write(tmp_path, HEAD + "v,1,0,0,8,8,run,1\nw,1,0,0,9,9,run,2\n")
    with pytest.raises(
        UserError, match=r"boxes.csv, line 3: no video 'w' in .* \(1 of 2 are missing\); .*data.root"
    ):
        read_key_frames(path, DATA)


def test_a_time_beyond_the_video_is_a_failure_that_says_so(tmp_path: Path) -> None:
    manifest = read_key_frames(write(tmp_path, HEAD + "v,7,0,0,8,8,run,1\n"), DATA)
    failure = KeyFrameViews(manifest, DATA, 2, 48)[0]
    assert isinstance(failure, Failure)
    assert failure.reason.startswith("the key time 7 s is beyond its 60 frames, 2 s (")
    assert failure.reason.endswith("boxes.csv, line 2)")


def test_a_box_beyond_the_picture_is_refused(tmp_path: Path) -> None:
    manifest = read_key_frames(write(tmp_path, HEAD + "v,1,0,0,320,24,run,1\n"), DATA)
    message = r"boxes.csv, line 2: expected boxes inside the picture of 64x48 pixels, got a corner at 320"
    with pytest.raises(UserError, match=message):
        KeyFrameViews(manifest, DATA, 2, 48)[0]
    with pytest.raises(UserError, match=message):
        TrainingClips(manifest, DATA, 24, KeyFrames(2), read_boxes)[0, 0]


def test_proposals_in_another_unit_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "v,1,0,0,32,24,run,1\n")
    found = write(tmp_path, "v,1,0.1,0.1,0.5,0.5,,0.9\n", "d.csv")
    with pytest.raises(
        UserError, match=r"d.csv: expected boxes in pixels, as the annotations are, got shares"
    ):
        read_key_frames(path, replace(DATA, proposals=found))
