"""The commands that take files and numbers: predict, detect, reconstruct, cost, sprites, quickstart.

Torch waits until one runs that needs it; `cost` is arithmetic and never does.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from videomae2.bounds import Between
from videomae2.cost.estimate import Question
from videomae2.errors import UserError
from videomae2.files import json_text
from videomae2.settings import Seed, Views

SAME_NAMES = {
    "batch-size": "batch", "num-frames": "frames", "num-classes": "classes", "repeated-views": "views",
    "activation-checkpointing": "checkpointing", "test-clips": "clips", "test-crops": "crops",
    "model.name": "model", "num-videos": "videos",
}  # fmt: skip
"""Names that a setting has in pages and in other commands -> those of the commands here."""


def in_our_names(tokens: Sequence[str]) -> list[str]:
    """The tokens of a line with hyphens for underscores in options, and one name for one thing."""
    named = []
    for token in tokens:
        name, equals, value = token.partition("=")
        if name.startswith("--"):
            plain = name[2:].replace("_", "-")
            name = f"--{SAME_NAMES.get(plain, plain)}"
        named.append(f"{name}{equals}{value}")
    return named


Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]


def predict(
    *videos: str,
    weights: str,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    top: Annotated[int, Between(1, 10**6)] = 5,
    clips: Views = 5,
    crops: Views = 3,
    workers: Annotated[int | None, Between(0, 1024)] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """Name what happens in videos.

    Parameters
    ----------
    videos
        Video files, folders of them, globs, lists (.csv, .parquet, .txt), URLs; or a camera by its number, 0.
    weights
        A run's folder (RUN@best for its best checkpoint), a .safetensors, a released .pth, or a hub name.
    out
        A .csv, .jsonl or .parquet to write instead of printing: a row for each video, also for those that
        cannot be read.
    json
        Print one JSON object a line instead of a table.
    top
        How many classes to name.
    clips
        Clips spread over the video.
    crops
        Crops of each clip: 1 is the middle, 3 covers the long side.
    workers
        Processes that decode; by default by the number of videos and of cores.
    device
        auto, cpu or cuda.
    precision
        fp32, or bf16: about three times as fast on a processor with bf16 arithmetic.
    """
    if not videos:
        raise UserError(
            "predict needs at least one video file: videomae2 predict clip.mp4 --weights RUN_OR_FILE"
        )
    from videomae2.cli.predictions import predict_videos

    predict_videos(
        videos,
        weights,
        as_json=json,
        out=out,
        top=top,
        clips=clips,
        crops=crops,
        workers=workers,
        device=device,
        precision=precision,
    )


def detect(
    *files: Path,
    weights: str,
    out: Annotated[tuple[Path, ...], Parameter(name=["--out", "-o"])] = (),
    detector: str = "auto",
    boxes: str = "",
    threshold: Annotated[float | None, Between(0, 1)] = None,
    every: str = "1s",
    tiles: Annotated[bool, Parameter(negative="")] = False,
    top: Annotated[int, Between(1, 100)] = 3,
    least: Annotated[float, Between(0, 1)] = 0.1,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """Say who does what, where: actors with their boxes and actions at each key frame.

    Parameters
    ----------
    files
        Video files.
    weights
        A run of detect-train, or its weights.
    out
        Files to write (.json, .csv, .mp4), or a folder for all three. The first two read back as --boxes.
    detector
        What finds actors: transformers:NAME_OR_FOLDER, onnx:FILE, motion, or whole; auto is motion.
    boxes
        A file of boxes instead: .csv or .json of tracks, another detector's, or what detect wrote.
    threshold
        Least score of a box; by default the detector's own.
    every
        Seconds from one key frame to the next, such as 1s or 0.5s.
    tiles
        Also look at 2 x 2 parts of each picture, for actors far away.
    top
        How many actions of an actor to name.
    least
        Least score of an action that is named.
    device
        auto, cpu or cuda.
    precision
        fp32, or bf16: about three times as fast on a processor with bf16 arithmetic.
    """
    if not files:
        raise UserError(
            "detect needs at least one video file: videomae2 detect clip.mp4 --weights RUN_OR_FILE"
        )
    from videomae2.api.raw_video import Request
    from videomae2.cli.actors import detect_files

    request = Request(_seconds(every), top, least)
    detect_files(
        files,
        weights,
        out=out,
        detector=detector,
        boxes=boxes,
        threshold=threshold,
        tiles=tiles,
        request=request,
        device=device,
        precision=precision,
    )


def _seconds(text: str) -> float:
    try:
        return float(text.strip().removesuffix("s"))
    except ValueError:
        raise UserError(f"expected --every in seconds, such as 1s or 0.5s, got {text[:50]!r}") from None


def reconstruct(
    file: str,
    /,
    *,
    weights: str,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    seed: Seed = 0,
    mask_ratio: Annotated[float | None, Between(0, 1, below=True)] = None,
    device: Device = "auto",
) -> None:
    """Show the original, what the encoder saw, and the reconstruction, labelled and enlarged.

    Parameters
    ----------
    file
        A video file, or a URL.
    weights
        A pre-training run's folder, or a checkpoint with a decoder.
    out
        What to write: .mp4 or .gif, a film of the clips beside each other; .png, rows of frames.
    seed
        Chooses the mask.
    mask_ratio
        Share of tokens hidden from the encoder; by default the checkpoint's own.
    device
        auto, cpu or cuda.
    """
    from videomae2.api.model import load
    from videomae2.api.pictures import must_be_ours, save_reconstruction, shown_rate

    must_be_ours(out)  # before a minute of work
    model = load(weights, device=device)
    found = model.reconstruct(file, seed, mask_ratio)
    fps = shown_rate(file, model.data.stride, model.data.target_fps)
    print(save_reconstruction(found, out, fps, title=file.rpartition("/")[2]))


def features(
    source: str,
    /,
    *,
    weights: str,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    stride: Annotated[int, Between(1, 10**6)] = 4,
    step: Annotated[int, Between(1, 10**4)] = 1,
    batch_size: Annotated[int, Between(1, 4096)] = 8,
    released: Annotated[bool, Parameter(negative="")] = False,
    root: str = "",
    device: Device = "auto",
    precision: Precision = "fp32",
) -> int:
    """Write the features of sliding windows of whole videos, one file a video; an interrupted run goes on.

    Parameters
    ----------
    source
        A manifest, a released list file, a folder, or one video.
    weights
        A run's folder, a .safetensors, a released .pth, or a hub name.
    out
        The folder to write NAME.safetensors into.
    stride
        Frames from one window to the next.
    step
        Frames between the frames of a window.
    batch_size
        Windows of one forward.
    released
        As the authors' extraction: pictures squashed to squares, without mean and standard deviation.
    root
        Folder that relative paths start from.
    device
        auto, cpu or cuda.
    precision
        fp32, or bf16: about three times as fast on a processor with bf16 arithmetic.
    """
    import sys

    from videomae2.api.jobs import extract_features

    found = extract_features(
        source, weights, out, stride, step, batch_size, released, device, precision, root
    )
    for path in found.padded:
        print(f"{path} is shorter than a window: its last frame is repeated", file=sys.stderr)
    for failure in found.failures:
        print(f"{failure.path} could not be read: {failure.reason}", file=sys.stderr)
    print(found)
    return 1 if found.failures else 0


def localize(
    file: Path,
    /,
    *,
    weights: str,
    out: Annotated[list[Path] | None, Parameter(name=["--out", "-o"], negative="")] = None,
    encoder: str = "",
    least_score: Annotated[float, Between(0, 1)] = 0.2,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """Say what happens when in a video, in one pass over it.

    Parameters
    ----------
    file
        A video file.
    weights
        A run of localize-train, on features of `videomae2 features`.
    out
        Where to write it, as often as you like: .json, .csv, .srt (subtitles), .edl (edit list) or .png.
    encoder
        The weights that made those features, where they have moved.
    least_score
        Segments of a lower score are left out.
    device
        auto, cpu or cuda.
    precision
        fp32 or bf16: that of the features.
    """
    from videomae2.api import timeline

    forms = out or []
    for each in forms:
        timeline.check_form(each)
    found = timeline.localize(
        file, weights, encoder=encoder, least_score=least_score, device=device, precision=precision
    )
    for segment in found:
        print(f"{segment.start:10.2f} {segment.end:10.2f} {segment.score:6.3f}  {segment.label}")
    for each in forms:
        print(timeline.write_segments(found, file, each))


def cost(
    *,
    question: Annotated[Question, Parameter(name="*")] | None = None,
    data: str = "",
    measure: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Say what a network and a run cost: operations, parameters, memory of a process, steps, device-hours.

    Parameters
    ----------
    data
        A manifest, a list or a folder whose videos are counted, instead of --videos.
    measure
        Also train or classify here for some seconds, and say how long this machine would take.
    json
        Print one JSON object instead of a table.
    """
    from videomae2.cost.estimate import answer, table

    question = question or Question()
    if data:
        if question.videos is not None:
            raise UserError(f"expected --data or --videos, got both; leave out --videos {question.videos}")
        from videomae2.data.tables.manifest import read_manifest

        question = replace(question, videos=len(read_manifest(data)))
    rate = None
    if measure:
        answer(question)  # refuses what no network can be, before torch is loaded
        from videomae2.api.rate import measure as measure_here

        rate = measure_here(question)
    found = answer(question, rate)
    if json:
        print(json_text(found, 2))
    else:
        print(table(found))


def sprites(
    out: Path,
    /,
    *,
    count: Annotated[int, Between(1, 10**7)] = 400,
    size: Annotated[int, Between(16, 4096)] = 64,
    frames: Annotated[int, Between(1, 10**5)] = 16,
    objects: Annotated[int, Between(1, 100)] = 1,
    seed: Seed = 0,
    workers: Annotated[int, Between(1, 1024)] = 2,
) -> None:
    """Write a labelled set of video files whose class is a motion that no single frame gives away.

    Parameters
    ----------
    out
        The folder to write: videos, manifest, boxes and segments.
    count
        How many videos.
    size
        Height and width in pixels.
    frames
        Frames of each video.
    objects
        Moving objects in each video; the front one gives the label.
    seed
        Chooses everything.
    workers
        Threads that write.
    """
    from videomae2.data.sprites.draw import write_sprites
    from videomae2.data.sprites.scene import SpriteSettings
    from videomae2.engine.progress import progress

    settings = SpriteSettings(size=size, num_frames=frames, objects=objects)
    with progress("draw", count) as drawn:
        manifest = write_sprites(
            out, num_videos=count, seed=seed, settings=settings, workers=workers, progress=drawn.advance
        )
    print(manifest)


def quickstart(*, out: Path = Path("runs/quickstart"), seed: Seed = 0) -> None:
    """Run the main job end to end on a small embedded set and write a report.

    Parameters
    ----------
    out
        Folder for the data, the runs, the report and the summary.
    seed
        Chooses the data and everything random after it.
    """
    from videomae2.quickstart.stages import run_quickstart

    run_quickstart(out, seed=seed)
