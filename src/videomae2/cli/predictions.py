"""What `predict` prints and what `reconstruct` writes.

A table, or one JSON object a line; original | what the encoder saw | reconstruction, as video and PNG strip.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from videomae2.api.model import Prediction, load
from videomae2.data.video.decode import probe
from videomae2.engine.device import keep_freed_memory, precision_note
from videomae2.engine.progress import say
from videomae2.errors import UserError
from videomae2.files import replacing, write_atomically
from videomae2.report.charts import picture_png

SHOWN_HEIGHT = 160
"""Clips are enlarged to at least this many pixels of height."""
LEAST_SECONDS = 4
"""The video repeats the clip until it lasts this long; a clip of 16 frames is over in a blink."""


def print_predictions(
    files: Sequence[Path],
    weights: str,
    *,
    as_json: bool = False,
    top: int = 5,
    clips: int = 5,
    crops: int = 3,
    device: str = "auto",
    precision: str = "fp32",
) -> None:
    """Print the best classes of each file. A file that cannot be read is named where its answer would be.

    UserError, after all files were tried, if any could not be read.
    """
    model = load(weights, device=device, precision=precision)
    if model.device.type == "cpu":
        keep_freed_memory()
        if note := precision_note(model.device, precision, "--precision"):
            say(note)
    failed = []
    for file in files:
        try:
            found = model.predict(file, top, clips, crops)
        except UserError as error:
            if len(files) == 1:
                raise
            failed.append(file)
            reason = str(error).removeprefix(f"{file}: ")
            print(
                json.dumps({"file": str(file), "error": reason})
                if as_json
                else f"{file}\n  could not be read: {reason}"
            )
            continue
        print(as_line(file, found) if as_json else as_table(file, found))
    if failed:
        raise UserError(f"{len(failed)} of {len(files)} files could not be read; the first is {failed[0]}")


def as_line(file: Path, found: Sequence[Prediction]) -> str:
    """One JSON object: the file and its classes, best first."""
    return json.dumps(
        {"file": str(file), "predictions": [asdict(each) for each in found]}, ensure_ascii=False
    )


def as_table(file: Path, found: Sequence[Prediction]) -> str:
    """The file, and a line for each class with a bar as long as its score."""
    width = max(len(each.name) for each in found)
    lines = [
        f"  {each.name:<{width}}  {100 * each.score:5.1f} %  {'█' * round(30 * each.score)}".rstrip()
        for each in found
    ]
    return "\n".join([str(file), *lines])


def reconstruct_file(
    file: Path,
    weights: str,
    out: Path,
    *,
    seed: int = 0,
    mask_ratio: float | None = None,
    device: str = "auto",
) -> list[Path]:
    """Write the three pictures side by side to `out` (.mp4) and as a strip beside it (.png).

    Both paths come back.
    The video runs at the speed the network saw. Predictions of normalised targets are shown with the mean and
    contrast of the true cubes. UserError: another suffix, weights without a decoder, a file that cannot be
    read.
    """
    if out.suffix.lower() != ".mp4":
        raise UserError(
            f"{out} came as the video to write, but it is written as MP4; try {out.with_suffix('.mp4')}"
        )
    model = load(weights, device=device)
    found = model.reconstruct(file, seed, mask_ratio)
    write_mp4(
        found.side_by_side(SHOWN_HEIGHT), shown_rate(file, model.data.stride, model.data.target_fps), out
    )
    strip = out.with_suffix(".png")
    write_atomically(strip, picture_png(found.strip(8, at_least=96)))
    return [out, strip]


def shown_rate(file: Path, stride: int, target_fps: float) -> float:
    """Frames a second at which a sampled clip moves as in the file, kept within 2 to 30."""
    fps = (target_fps or probe(file).fps or 25.0) / max(1, stride)
    return min(30.0, max(2.0, fps))


def write_mp4(frames: UInt8[Tensor, "T C H W"], fps: float, path: Path) -> None:
    """Write frames as H.264, whole or not at all; odd sides gain a light pixel, short clips repeat."""
    import av

    height, width = frames.shape[-2:]
    frames = torch.nn.functional.pad(frames, (0, width % 2, 0, height % 2), value=255)
    rate = Fraction(fps).limit_denominator(1000)
    repeats = max(1, round(LEAST_SECONDS * float(rate) / len(frames)))
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[3], frames.shape[2], "yuv420p"
        for picture in frames.permute(0, 2, 3, 1).repeat(repeats, 1, 1, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
