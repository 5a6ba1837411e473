"""Clips from real files: which frames they show, one decode for all views, and the same bits always.

Failures come as records; targets follow the views.
"""

import itertools
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest
import torch
from PIL import Image

from videomae2.data import clips as module
from videomae2.data import rows as rows_module
from videomae2.data import sampling
from videomae2.data.augment import crops as transforms
from videomae2.data.batches import evaluation_batches, training_batches
from videomae2.data.clips import EvaluationClips, TrainingClips, read_class
from videomae2.data.sampling import SAMPLERS, RandomWindow, Segments
from videomae2.data.tables.manifest import Manifest, Row, read_manifest
from videomae2.data.video.decode import VideoFile
from videomae2.errors import RowError, UserError
from videomae2.labels import Boxes, Classes, Unlabelled
from videomae2.records import Batch, Clip, Failure
from videomae2.settings import DataSettings, FinetuneSettings

PLAIN = DataSettings(
    crop="center", flip=False, rand_augment="", erasing=0.0, stride=2, repeated_views=2, max_broken=0.5
)
"""No change to the pixels, so that a clip's brightness tells which frames it shows."""
NUM_FRAMES, BASE, STEP = 60, 20, 3


def write_video(path: Path, num_frames: int = NUM_FRAMES, fps: int = 30, texture: bool = False) -> None:
    """An MP4 whose frame n is BASE + STEP * n bright; `texture` is a pattern that every change shows."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "4", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        y, x = np.mgrid[0:48, 0:64]
        for number in range(num_frames):
            picture = np.full((48, 64, 3), BASE + STEP * number, dtype=np.uint8)
            if texture:
                picture[..., 0] = (128 + 90 * np.sin((x + 3 * number) / 5)).astype(np.uint8)
                picture[..., 1] = (128 + 90 * np.cos(y / 4)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def pretrained(rows: Manifest, data: DataSettings = PLAIN, frames: int = 8, seed: int = 0) -> TrainingClips:
    sampler = Segments(frames) if data.sampling == "segments" else RandomWindow(frames)
    return TrainingClips(rows, data, 32, sampler, seed=seed)


def finetuned(rows: Manifest, data: DataSettings = PLAIN, frames: int = 8, seed: int = 0) -> TrainingClips:
    return TrainingClips(rows, data, 32, SAMPLERS[data.sampling](frames), read_class, seed)


def evaluated(
    rows: Manifest, data: DataSettings = PLAIN, frames: int = 8, views: tuple[int, int] | None = None
) -> EvaluationClips:
    return EvaluationClips(rows, data, 32, SAMPLERS[data.sampling](frames), views, read_class)


def read(clips: TrainingClips | EvaluationClips, place: Any) -> list[Clip]:
    """The views at a place, which must be readable."""
    made = clips[place]
    assert isinstance(made, list)
    assert all(isinstance(clip, Clip) for clip in made)
    return [clip for clip in made if isinstance(clip, Clip)]


def label_of(clip: Clip) -> int:
    assert isinstance(clip.target, Classes)
    return int(clip.target.index)


def frame_numbers(clip: Clip) -> list[int]:
    means = clip.frames.float().mean((1, 2, 3))
    numbers = ((means - BASE) / STEP).round()
    assert (means - BASE - STEP * numbers).abs().max() < 1.2, (
        "a frame's brightness must be one of the video's"
    )
    return [int(number) for number in numbers]


def steps(numbers: list[int]) -> list[int]:
    return [later - earlier for earlier, later in itertools.pairwise(numbers)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in ("a", "b", "c"):
        write_video(folder / f"{name}.mp4")
    for name in ("x", "y", "z", "w"):
        write_video(folder / f"{name}.mp4", num_frames=24, texture=True)
    write_video(folder / "short.mp4", num_frames=3)
    (folder / "broken.mp4").write_bytes(b"this is no video at all" * 50)
    return folder


def manifest(folder: Path, *lines: str, header: str = "path,label") -> Manifest:
    path = folder / f"{abs(hash((header, lines)))}.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return read_manifest(str(path))


def test_pretraining_views_show_the_same_window(folder: Path) -> None:
    clips = pretrained(manifest(folder, "a.mp4,0", "b.mp4,1"), PLAIN, 8, seed=3)
    starts = set()
    for epoch in range(12):
        views = read(clips, (epoch, 1))
        assert [(c.row, c.view, c.target, c.failures) for c in views] == [
            (1, 0, Unlabelled(), ()),
            (1, 1, Unlabelled(), ()),
        ]
        assert all(c.frames.shape == (8, 3, 32, 32) and c.frames.is_contiguous() for c in views)
        first, second = map(frame_numbers, views)
        assert first == second and steps(first) == [2] * 7
        starts.add(first[0])
    assert len(starts) > 6 and min(starts) >= 0 and max(starts) <= NUM_FRAMES - 16


def test_the_same_place_is_the_same_clip_and_another_epoch_or_seed_is_not(folder: Path) -> None:
    data = replace(FinetuneSettings().data, stride=2)
    rows = manifest(folder, "x.mp4,0", "y.mp4,1")
    one, two, other = (finetuned(rows, data, seed=seed) for seed in (0, 0, 1))

    def frames(clips: TrainingClips, epoch: int) -> torch.Tensor:
        return torch.stack([clip.frames for clip in read(clips, (epoch, 0))])

    assert torch.equal(frames(one, 0), frames(two, 0))
    assert not torch.equal(frames(one, 0), frames(one, 1)) and not torch.equal(
        frames(one, 0), frames(other, 0)
    )
    first, second = frames(one, 0)
    assert not torch.equal(first, second), "each view has its own crop"


def test_one_opening_serves_all_views(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    counts: list[int] = []
    original = rows_module.open_row

    def counting(row: Row, **how: Any) -> Any:
        opened.append(row.path)
        video = original(row, **how)
        plain = video.collect

        def collect(wanted: Any, *more: Any, **named: Any) -> Any:
            counts.append(len(wanted))
            return plain(wanted, *more, **named)

        monkeypatch.setattr(video, "collect", collect)
        return video

    monkeypatch.setattr(rows_module, "open_row", counting)
    rows = manifest(folder, "a.mp4,0")
    read(pretrained(rows, replace(PLAIN, repeated_views=4), 8), (0, 0))
    assert len(opened) == 1 and counts == [8]
    views = read(evaluated(rows, PLAIN, 8, (5, 3)), 0)
    assert len(views) == 15 and len(opened) == 2 and len(counts) == 2
    assert counts[1] == len(np.unique(sampling.dense_test_views(NUM_FRAMES, 8, 2, 5))), "each frame once"


def test_stride_of_a_row_start_and_end(folder: Path) -> None:
    rows = manifest(folder, "a.mp4,10,30,4", "a.mp4,0,-1,0", "a.mp4,70,-1,0", header="path,start,end,stride")
    clips = pretrained(rows, replace(PLAIN, repeated_views=1, max_broken=1.0), 4)
    for epoch in range(6):
        numbers = frame_numbers(read(clips, (epoch, 0))[0])
        assert steps(numbers) == [4] * 3 and numbers[0] >= 10 and numbers[-1] < 30
        assert steps(frame_numbers(read(clips, (epoch, 1))[0])) == [2] * 3
    failure = read(clips, (0, 2))[0].failures[0]
    assert failure.row == 2 and "70" in failure.reason and "60" in failure.reason


def test_folders_of_pictures_are_counted_as_their_names_are(folder: Path) -> None:
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(1, 31):  # picture 1 shows frame 0
        Image.fromarray(np.full((48, 64, 3), BASE + STEP * (number - 1), dtype=np.uint8)).save(
            pictures / f"img_{number:05}.png"
        )
    rows = manifest(
        folder, "pictures,11,21,img_{:05}.png", "pictures,0,-1,img_{:05}.png", header="path,start,end,pattern"
    )
    whole = evaluated(rows, replace(PLAIN, stride=1), 10, (1, 1))
    assert frame_numbers(read(whole, 0)[0]) == list(range(10, 20)), "pictures 11 to 20"
    spread = frame_numbers(read(evaluated(rows, replace(PLAIN, stride=1), 30, (1, 1)), 1)[0])
    assert spread == list(range(30)), "a row without start and end is all of them"


def test_finetuning_and_segments_sample_as_released(folder: Path) -> None:
    rows = manifest(folder, "a.mp4,0", "short.mp4,0")
    dense = finetuned(rows)
    shown = frame_numbers(read(dense, (0, 0))[0])
    assert shown[-1] - shown[0] == 15, "eight frames spread over a window of 16"
    parts = finetuned(rows, replace(PLAIN, sampling="segments"), 6)
    for epoch in range(5):
        assert [number // 10 for number in frame_numbers(read(parts, (epoch, 0))[0])] == list(range(6))
    assert set(frame_numbers(read(dense, (0, 1))[0])) <= {0, 1, 2}, (
        "a video shorter than a clip repeats frames"
    )
    assert len(frame_numbers(read(evaluated(rows, PLAIN, 8, (2, 1)), 1)[1])) == 8


def test_target_fps_samples_by_time(folder: Path) -> None:
    slow = pretrained(manifest(folder, "a.mp4,0"), replace(PLAIN, target_fps=10.0, stride=1), 6)
    assert steps(frame_numbers(read(slow, (0, 0))[0])) == [3] * 5


def test_shuffled_is_the_same_frames_in_another_order(folder: Path) -> None:
    rows = manifest(folder, "a.mp4,0", "b.mp4,0")
    orders: tuple[Literal["as_filmed", "shuffled"], ...] = ("as_filmed", "shuffled")
    settings = [replace(PLAIN, frame_order=order) for order in orders]
    plain, control = (pretrained(rows, data, 8, seed=5) for data in settings)
    for view in range(2):
        filmed, mixed = frame_numbers(read(plain, (0, 0))[view]), frame_numbers(read(control, (0, 0))[view])
        assert sorted(mixed) == filmed and mixed != filmed
        assert mixed == frame_numbers(read(control, (0, 0))[view])
    assert frame_numbers(read(control, (0, 0))[0]) != frame_numbers(read(control, (0, 0))[1])
    views, other = (read(evaluated(rows, data, 8, (2, 3)), 0) for data in settings)
    mixes = [frame_numbers(clip) for clip in other]
    assert all(sorted(mix) == frame_numbers(clip) != mix for mix, clip in zip(mixes, views, strict=True))
    assert mixes[0] == mixes[1] == mixes[2] != mixes[3]


def test_test_views_are_clip_major_and_show_the_released_frames(folder: Path) -> None:
    rows = manifest(folder, "c.mp4,4", "a.mp4,1")
    views = read(evaluated(rows, PLAIN, 8, (3, 2)), 0)
    assert [view.view for view in views] == list(range(6)) and {label_of(view) for view in views} == {4}
    expected = sampling.dense_test_views(NUM_FRAMES, 8, 2, 3)
    for view in views:
        assert frame_numbers(view) == expected[view.view // 2].tolist()
    single = read(evaluated(rows, PLAIN, 8, (1, 1)), 1)
    assert len(single) == 1 and frame_numbers(single[0]) == sampling.dense_val(NUM_FRAMES, 8, 2).tolist()
    sparse = read(evaluated(rows, replace(PLAIN, sampling="segments"), 8, (2, 1)), 0)
    assert [frame_numbers(view) for view in sparse] == sampling.segments_test_views(NUM_FRAMES, 8, 2).tolist()
    default = read(evaluated(rows, PLAIN, 8), 0)
    assert len(default) == PLAIN.test_clips * PLAIN.test_crops


def test_a_broken_row_is_replaced_as_the_seed_says_and_named_once(folder: Path) -> None:
    rows = manifest(folder, "a.mp4,0", "broken.mp4,1", "b.mp4,2", "missing.mp4,3", "c.mp4,4")
    clips = finetuned(rows)
    replacements = set()
    for epoch in range(12):
        first, second = read(clips, (epoch, 1))
        assert first.row == second.row and first.row in (0, 2, 4) and label_of(first) == first.row
        assert (
            first.failures[0].row == 1
            and first.failures[0].path.endswith("broken.mp4")
            and second.failures == ()
        )
        assert "\n" not in first.failures[0].reason and first.failures[0].reason
        assert len({failure.row for failure in first.failures}) == len(first.failures)
        assert [f.row for f in first.failures] == [f.row for f in read(clips, (epoch, 1))[0].failures]
        replacements.add(first.row)
    assert replacements == {0, 2, 4}


def test_a_replacement_is_never_a_clip_that_its_row_has_itself(folder: Path) -> None:
    data = replace(FinetuneSettings().data, stride=1, rand_augment="", erasing=0.0, repeated_views=2)
    rows = manifest(folder, "x.mp4,0", "broken.mp4,1", "missing.mp4,1", "broken.mp4,1")
    clips = finetuned(rows, data)
    for epoch in range(3):
        views = [view for asked in range(4) for view in read(clips, (epoch, asked))]
        assert {view.row for view in views} == {0}
        assert len({view.view for view in views}) == 8, "the mask of a clip follows from its row and view"
        assert len({tuple(view.frames.flatten().tolist()) for view in views}) == 8
        windows = {tuple(read(pretrained(rows), (epoch, asked))[0].frames.flatten()) for asked in range(4)}
        assert len(windows) > 1, "and each draws its own window of the video"
        own = finetuned(manifest(folder, "x.mp4,0"), data)
        assert torch.equal(read(own, (epoch, 0))[0].frames, views[0].frames), "its own clips stay as they are"


def test_nothing_readable_gives_only_failures(folder: Path) -> None:
    few = pretrained(manifest(folder, "broken.mp4,0", "missing.mp4,0"), PLAIN, 8)
    assert sorted(failure.row for failure in few[(0, 1)]) == [0, 1]
    many = pretrained(manifest(folder, *["broken.mp4,0"] * 30), PLAIN, 8)
    assert len(many[(0, 7)]) == 10 and all(isinstance(failure, Failure) for failure in many[(0, 7)])
    with pytest.raises(UserError, match=r"could not be read \(100%\).*broken.mp4"):
        next(training_batches(many, batch_size=2, seed=0, workers=1))


def test_evaluation_never_replaces(folder: Path) -> None:
    rows = manifest(folder, "a.mp4,0", "broken.mp4,1", "b.mp4,0")
    clips = evaluated(rows, PLAIN, 8, (2, 1))
    assert isinstance(clips[1], Failure) and clips[1].row == 1
    batches = list(evaluation_batches(clips, batch_size=2, workers=2))
    assert [batch.row.tolist() for batch in batches] == [[0, 0], [2, 2]]
    assert [failure.row for batch in batches for failure in batch.failures] == [1]


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_batches_from_files_are_bit_equal_for_any_number_of_workers(folder: Path, kind: str) -> None:
    names = ["x", "y", "broken", "z", "w", "a", "b"]
    rows = manifest(folder, *(f"{name}.mp4,{number}" for number, name in enumerate(names)))
    data = replace(FinetuneSettings().data, stride=2, erasing=0.5, max_broken=1.0)
    data = (
        data
        if kind == "finetune"
        else replace(data, crop="multi_scale", rand_augment="", erasing=0.0, flip=False)
    )

    def batches(workers: int, start: int = 0) -> list[Batch[Any]]:
        clips = (pretrained if kind == "pretrain" else finetuned)(rows, data, seed=2)
        iterator = training_batches(clips, batch_size=3, seed=2, workers=workers, start_batch=start)
        taken = list(itertools.islice(iterator, 5 - start))
        iterator.close()
        return taken

    alone = batches(0)
    assert alone[0].frames.shape == (6, 8, 3, 32, 32) and alone[0].frames.dtype == torch.uint8
    assert any(batch.failures for batch in alone)
    for other in (batches(1), batches(3)):
        for first, second in zip(alone, other, strict=True):
            assert torch.equal(first.frames, second.frames) and torch.equal(first.row, second.row)
            assert (first.epoch, first.failures) == (second.epoch, second.failures)
    resumed = batches(1, start=3)
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(alone[3:], resumed, strict=True))


@pytest.mark.parametrize(("policy", "shape"), [("rand-m7-n1-mstd0.5-inc1", (40, 53)), ("", (48, 64))])
def test_only_what_rand_augment_looks_at_comes_smaller_from_the_decoder(
    folder: Path, policy: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = transforms.TrainingView.shrink

    def watched(view: transforms.TrainingView, pictures: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(pictures.shape[-2:]))
        return original(view, pictures)

    monkeypatch.setattr(transforms.TrainingView, "shrink", watched)
    monkeypatch.setattr(transforms, "STORED_SHORT_SIDE", 40)
    data = replace(FinetuneSettings().data, stride=2, rand_augment=policy)
    clip = read(finetuned(manifest(folder, "x.mp4,0"), data), (0, 0))[0]
    assert set(seen) == {shape}
    assert clip.frames.shape == (8, 3, 32, 32)


def test_a_dataset_travels_to_a_process_that_does_not_fork(folder: Path) -> None:
    rows = manifest(folder, "x.mp4,0", "y.mp4,1")
    training = finetuned(rows, replace(FinetuneSettings().data, stride=2))
    travelled = pickle.loads(pickle.dumps(training))
    assert torch.equal(read(training, (1, 1))[0].frames, read(travelled, (1, 1))[0].frames)


def test_impossible_settings_are_refused(folder: Path) -> None:
    unlabelled = manifest(folder, "a.mp4", "b.mp4", header="path")
    assert read(pretrained(unlabelled), (0, 0))[0].target == Unlabelled()
    assert label_of(read(finetuned(unlabelled), (0, 0))[0]) == -1
    with pytest.raises(UserError, match="got repeated_views 0"):
        pretrained(unlabelled, replace(PLAIN, repeated_views=0), 8)
    with pytest.raises(UserError, match="1 test clip and 1 test crop, got 0 and 3"):
        evaluated(unlabelled, PLAIN, 8, (0, 3))


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(5, "Input/output error"), av.error.InvalidDataError(1, "odd bytes")]
)
def test_what_a_strange_file_provokes_is_its_own_failure(
    folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def provoke(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(VideoFile, "collect", provoke)
    found = evaluated(read_manifest(folder / "a.mp4"), PLAIN, 4, (1, 1))[0]
    assert isinstance(found, Failure)
    assert type(error).__name__ in found.reason and "\n" not in found.reason


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [TypeError, AttributeError, IndexError, AssertionError, KeyError])
def test_a_fault_of_ours_is_not_taken_for_a_broken_video(
    folder: Path, kind: type[Exception], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("our own mistake")

    monkeypatch.setattr(sampling, "pretrain_indices", fail)
    clips = pretrained(read_manifest(folder / "a.mp4"), PLAIN, 4)
    with pytest.raises(
        RowError, match=rf"row 0, .*a\.mp4: {kind.__name__}: .*our own mistake.*the program failed here"
    ):
        next(training_batches(clips, batch_size=1, seed=0, workers=workers))
    monkeypatch.setattr(module, "view_crops", fail)
    views = evaluated(read_manifest(folder / "a.mp4"), PLAIN, 4, (1, 1))
    with pytest.raises(RowError, match=r"row 0, "):
        next(evaluation_batches(views, batch_size=1, workers=workers))


def read_boxes(_: Manifest, row: int) -> Boxes:
    """One box on the left half of the 64 x 48 pictures and one in a corner, with the row as their label."""
    xyxy = torch.tensor([[0.0, 0.0, 32.0, 48.0], [62.0, 46.0, 64.0, 48.0]])
    return Boxes.one(xyxy, torch.tensor([row, row]))


def test_targets_follow_the_views_into_the_batch(folder: Path) -> None:
    rows = manifest(folder, "a.mp4,0", "b.mp4,1")
    data = replace(PLAIN, crop="center", flip=True)
    clips = TrainingClips(rows, data, 32, RandomWindow(8), read_boxes)
    batch = next(training_batches(clips, batch_size=2, seed=0))
    assert isinstance(batch.target, Boxes) and len(batch.target) == len(batch.placements) == 4
    assert {placement.flipped for placement in batch.placements} == {True, False}
    target = batch.target
    assert target.labels is not None and target.counts.tolist() == [1] * 4, "the corner is not in the centre"
    for clip, placement in enumerate(batch.placements):
        assert (placement.source, placement.size) == ((48, 64), (32, 32))
        edges = [16, 0, 32, 32] if placement.flipped else [0, 0, 16, 32]
        assert target.xyxy[target.clip == clip].tolist() == [edges]
        assert target.labels[target.clip == clip].tolist() == [int(batch.row[clip])]
    views = EvaluationClips(rows, PLAIN, 32, SAMPLERS["dense"](8), (2, 3), read_boxes)
    batch = next(evaluation_batches(views, batch_size=1))
    assert isinstance(batch.target, Boxes) and [p.left for p in batch.placements[:3]] == pytest.approx(
        [0, 8 * 48 / 42.67, 16], abs=1.7
    )


def test_a_wrong_target_is_a_fault_of_the_program(folder: Path) -> None:
    def two(*_: object) -> Classes:
        return Classes(torch.tensor([0, 1]))

    clips = TrainingClips(manifest(folder, "a.mp4,0"), PLAIN, 32, RandomWindow(8), two)
    with pytest.raises(UserError, match=r"expected the target of one clip, got Classes\(index=int64\[2\]\)"):
        read(clips, (0, 0))
