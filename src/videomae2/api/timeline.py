"""What happens when in a video: its segments in one pass; as JSON, CSV, subtitles, edit list and picture.

Memory does not grow with the length of the video: the detector sees stretches that overlap by half, and each
segment is taken from the stretch in whose middle it lies.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videomae2.api.model import load
from videomae2.bounds import shown
from videomae2.config import known_settings
from videomae2.data.features import FeatureTime
from videomae2.data.video.decode import open_video
from videomae2.data.windows import Cutting, windows
from videomae2.engine.device import choose_device
from videomae2.errors import UserError
from videomae2.files import json_text, replacing, write_atomically
from videomae2.heads.points import Decoding, Points
from videomae2.heads.temporal import Localizer, padded_length
from videomae2.recipes.detections import decoding, read_localizer
from videomae2.recipes.extract import fingerprint
from videomae2.settings import SuppressionSettings

WINDOWS_AT_ONCE = 8
"""Windows of one forward."""


@dataclass(frozen=True)
class Segment:
    """Something that happens from `start` to `end` seconds, and how sure that is, in [0, 1]."""

    start: float
    end: float
    label: str
    score: float


def localize(
    video: str | Path,
    weights: str | Path,
    *,
    encoder: str | Path = "",
    least_score: float = 0.2,
    device: str = "auto",
    precision: str = "fp32",
) -> list[Segment]:
    """The segments of a video file, by their start.

    weights: a run of `localize-train` on features of `videomae2 features`. encoder: the weights that made
    those features, if they have moved since; others are refused.
    """
    network, checkpoint = read_localizer(weights)
    features = checkpoint.metadata.get("features", {})
    made = features.get("made")
    if not isinstance(made, dict) or features.get("every") != 1 or features.get("resize") != 0:
        raise UserError(
            f"expected a detector on features that videomae2 features made, each of them and unchanged, got "
            f"{weights}, whose features cannot be made here; train one on such features"
        )
    model = load(str(encoder or made["weights"]), device=device, precision=precision)
    theirs = fingerprint(model.checkpoint.state)
    if theirs != made["weights_sha256"]:
        raise UserError(
            f"expected the weights whose features {weights} was trained on (SHA-256 "
            f"{made['weights_sha256'][:12]}), got {encoder or made['weights']} "
            f"(SHA-256 {theirs[:12]}); name them with --encoder"
        )
    network = network.to(choose_device(device))
    cutting = Cutting(made["num_frames"], made["step"], made["stride"], made["size"], made["squash"])
    decode = decoding(_suppression(checkpoint.metadata), one_class=checkpoint.num_classes == 1)
    names = checkpoint.class_names
    with open_video(video) as opened:
        if opened.fps <= 0:
            raise UserError(
                f"expected a video that says its frame rate, got {video}; its times cannot be told"
            )
        time = FeatureTime(opened.fps, float(cutting.span), float(cutting.stride))
        duration = opened.num_frames / opened.fps
        pooled = model.pooled_unnormalised if made["released"] else model.pooled
        stream = _features(windows(opened, cutting), pooled)
        found = [
            Segment(start, end, names[label], score)
            for start, end, label, score in segments_of(stream, network, decode, time, duration)
            if score >= least_score
        ]
    return sorted(found, key=lambda each: (each.start, each.end))


def _suppression(metadata: dict[str, Any]) -> SuppressionSettings:
    known = known_settings(SuppressionSettings)
    told = metadata.get("suppression", {})
    return SuppressionSettings(**{key: known[key].take(value) for key, value in told.items() if key in known})


def _features(cut: Iterator[Tensor], pooled: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    waiting: list[Tensor] = []
    for window in cut:
        waiting.append(window)
        if len(waiting) == WINDOWS_AT_ONCE:
            yield from pooled(torch.stack(waiting)).float().cpu()
            waiting.clear()
    if waiting:
        yield from pooled(torch.stack(waiting)).float().cpu()


def segments_of(
    features: Iterator[Tensor], network: Localizer, decode: Decoding, time: FeatureTime, duration: float
) -> Iterator[tuple[float, float, int, float]]:
    """(start, end, class, score) of the segments in a stream of features [D], stretch by stretch."""
    length = network.model.max_length
    held: list[Tensor] = []
    first = 0
    for feature in features:
        held.append(feature)
        if len(held) == length:
            yield from _of_stretch(held, first, False, network, decode, time, duration)
            first += length // 2
            held = held[length // 2 :]
    yield from _of_stretch(held, first, True, network, decode, time, duration)


@torch.inference_mode()
def _of_stretch(  # noqa: PLR0917
    held: list[Tensor],
    first: int,
    last: bool,
    network: Localizer,
    decode: Decoding,
    time: FeatureTime,
    duration: float,
) -> list[tuple[float, float, int, float]]:
    """The segments whose middle lies in the middle half of a stretch, or beyond it at an end of the video."""
    length, quarter = network.model.max_length, network.model.max_length // 4
    device = next(network.parameters()).device
    padded = torch.zeros(1, padded_length(network.model, len(held)), network.num_inputs)
    padded[0, : len(held)] = torch.stack(held)
    lengths = torch.tensor([len(held)])
    here = FeatureTime(time.fps, time.window, time.stride, time.first + first * time.stride)
    predicted = network(padded.to(device), lengths.to(device))
    found = decode(predicted, Points.of(padded.shape[1], network.model.levels), [here], [duration])
    assert found.labels is not None and found.scores is not None
    middle = here.to_features(found.seconds).mean(1)
    # Half-open, so that a segment in the middle of two stretches is in one of them only.
    kept = torch.ones_like(middle, dtype=torch.bool)
    if first:
        kept &= middle >= quarter
    if not last:
        kept &= middle < length - quarter
    rows = zip(
        found.seconds[kept].tolist(), found.labels[kept].tolist(), found.scores[kept].tolist(), strict=True
    )
    return [(start, end, label, score) for (start, end), label, score in rows]


# ---- as files


def as_json(found: Sequence[Segment], video: str) -> str:
    """As the ActivityNet evaluator reads results, of one video."""
    rows = [{"segment": [s.start, s.end], "label": s.label, "score": s.score} for s in found]
    results = {"version": "VERSION 1.3", "results": {Path(video).stem: rows}, "external_data": {}}
    return json_text(results, indent=1)


def as_csv(found: Sequence[Segment], video: str) -> str:
    """In the columns that `localize-train` reads annotations from, and the score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "start_s", "end_s", "label", "score"])
    for s in found:
        writer.writerow([Path(video).stem, f"{s.start:.3f}", f"{s.end:.3f}", s.label, f"{s.score:.4f}"])
    return text.getvalue()


def as_srt(found: Sequence[Segment]) -> str:
    """Subtitles: what happens, while it happens."""
    blocks = [
        f"{n}\n{_clock(s.start)} --> {_clock(s.end)}\n{s.label} ({s.score:.2f})\n"
        for n, s in enumerate(found, 1)
    ]
    return "\n".join(blocks)


def as_edl(found: Sequence[Segment], video: str, fps: float) -> str:
    """An edit decision list (CMX 3600) that cuts the segments out, one after another."""
    rate = max(1, round(fps))
    lines = [f"TITLE: {Path(video).stem[:60]}", "FCM: NON-DROP FRAME", ""]
    at = 0
    for n, s in enumerate(found, 1):
        start, end = round(s.start * rate), max(round(s.end * rate), round(s.start * rate) + 1)
        times = " ".join(_timecode(each, rate) for each in (start, end, at, at + end - start))
        at += end - start
        lines += [f"{n:03d}  AX       V     C        {times}", f"* FROM CLIP NAME: {Path(video).name}"]
        lines += [f"* COMMENT: {s.label} {s.score:.2f}", ""]
    return "\n".join(lines)


FORMS: dict[str, Callable[[Sequence[Segment], str, float], str]] = {
    ".json": lambda found, video, _: as_json(found, video),
    ".csv": lambda found, video, _: as_csv(found, video),
    ".srt": lambda found, *_: as_srt(found),
    ".edl": as_edl,
}
"""Ending of a file -> what is written into it."""


def write_segments(found: Sequence[Segment], video: str | Path, out: Path) -> Path:
    """Write segments in the form that the ending of `out` names; a .png is the timeline as a picture."""
    check_form(out)
    if out.suffix == ".png":
        with replacing(out) as temporary:
            temporary.write_bytes(timeline_png(found, video))
        return out
    with open_video(video) as opened:
        fps = opened.fps
    write_atomically(out, FORMS[out.suffix](found, str(video), fps))
    return out


def check_form(out: Path) -> None:
    """UserError where the ending of a file names no form, or its folder is not there."""
    known = ", ".join([*FORMS, ".png"])
    if out.suffix not in (*FORMS, ".png"):
        raise UserError(f"expected a file that ends with one of {known}, got {shown(str(out))}")
    if not out.parent.is_dir():
        raise UserError(
            f"expected a folder for {shown(str(out))}, got none; make {shown(str(out.parent))} first"
        )


def timeline_png(found: Sequence[Segment], video: str | Path) -> bytes:
    """A row for each class, a bar for each segment: the darker the surer."""
    from matplotlib.figure import Figure

    names = sorted({s.label for s in found}) or ["nothing found"]
    figure = Figure(figsize=(10, 1.2 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    for s in found:
        row = names.index(s.label)
        axes.barh(row, s.end - s.start, left=s.start, height=0.7, color="#1f5fa8", alpha=0.2 + 0.8 * s.score)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.set_title(Path(video).name)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    return image.getvalue()


def _clock(seconds: float) -> str:
    """Hours, minutes, seconds and milliseconds as SRT writes them."""
    whole = round(seconds * 1000)
    return f"{whole // 3600000:02d}:{whole // 60000 % 60:02d}:{whole // 1000 % 60:02d},{whole % 1000:03d}"


def _timecode(frame: int, rate: int) -> str:
    second = frame // rate
    return f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}:{frame % rate:02d}"
