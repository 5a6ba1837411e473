"""Features of windows of whole videos, into one file a video, with a header that says what they are.

A file appears whole or not at all, and only one whose header and length agree with what is asked for is taken
as done: an interrupted run goes on where it was. Windows of several videos share a forward.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import save_file
from torch import Tensor

from videomae2.bounds import shown
from videomae2.data.features import read_feature_file
from videomae2.data.video.decode import open_video
from videomae2.data.video.opening import UNREADABLE, why_unreadable
from videomae2.data.windows import Cutting, windows
from videomae2.errors import UserError
from videomae2.files import make_folder, replacing
from videomae2.records import Failure

FORM = ".safetensors"
KEY = "videomae2"

Pooled = Callable[[UInt8[Tensor, "B T C S S"]], Float[Tensor, "B D"]]


@dataclass
class Extraction:
    """What a run did: videos written, found done, padded to one window, and those that could not be read."""

    written: int = 0
    done: int = 0
    padded: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def __str__(self) -> str:
        total = self.written + self.done + len(self.failures)
        parts = [f"{self.written} written", f"{self.done} there before", f"{len(self.failures)} failed"]
        return f"{total} videos: {', '.join(parts)}"


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors by name: the same for the same weights in any file."""
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def feature_names(paths: Sequence[str]) -> dict[str, str]:
    """A name for the features of each video: its file's without the ending. UserError if two are alike."""
    names: dict[str, str] = {}
    for path in paths:
        name = Path(path).stem
        if name in names:
            raise UserError(
                f"expected videos of different names, got {shown(names[name])} and {shown(path)}, whose "
                "features would be one file; rename one, or extract them into two folders"
            )
        names[name] = path
    return names


def extract(
    videos: Mapping[str, str],
    pooled: Pooled,
    cutting: Cutting,
    about: Mapping[str, Any],
    out: Path,
    *,
    batch_size: int = 8,
    progress: Callable[[int], None] = lambda _: None,
) -> Extraction:
    """Write `out`/NAME.safetensors for each video: features [L, D] in fp32.

    about: JSON that says which network and how pooled, for the header and for telling whether a file there is
    the same. UserError where other features lie in `out`.
    """
    make_folder(out)
    asked = {**about, **asdict(cutting), "window": cutting.span, "pooling": "mean"}
    result = Extraction()
    opened: list[_Video] = []
    waiting: list[tuple[_Video, Tensor]] = []

    def forward() -> None:
        """Send what waits through the network, and write the videos that are complete."""
        if waiting:
            features = pooled(torch.stack([window for _, window in waiting])).float().cpu()
            for (video, _), one in zip(waiting, features, strict=True):
                video.features.append(one)
            waiting.clear()
        for video in [each for each in opened if each.complete]:
            video.write(out, asked, result)
            opened.remove(video)
            progress(1)

    for name, path in videos.items():
        if _is_done(out / f"{name}{FORM}", asked, cutting):
            result.done += 1
            progress(1)
            continue
        video = _Video(name, path)
        opened.append(video)
        try:
            for window in video.windows(cutting):
                waiting.append((video, window))
                if len(waiting) == batch_size:
                    forward()
        except UNREADABLE as error:
            # What was computed of it is dropped: features of half a video would pass for those of all of it.
            result.failures.append(Failure(len(result.failures), path, why_unreadable(error)))
            opened.remove(video)
            waiting[:] = [each for each in waiting if each[0] is not video]
            progress(1)
    forward()
    return result


class _Video:
    """A video whose features are being computed."""

    def __init__(self, name: str, path: str) -> None:
        self.name, self.path = name, path
        self.features: list[Tensor] = []
        self.expected = -1
        self.header: dict[str, Any] = {}

    def windows(self, cutting: Cutting) -> Iterator[Tensor]:
        with open_video(self.path) as video:
            frames, fps = video.num_frames, video.fps
            self.header = {
                "frames": frames,
                "fps": fps,
                "duration": frames / fps if fps else None,
                "padded": frames < cutting.span,
            }
            yield from windows(video, cutting)
        # Known only now: a window that is still to come must not be taken for the last one.
        self.expected = cutting.count(frames)

    @property
    def complete(self) -> bool:
        return len(self.features) == self.expected

    def write(self, out: Path, asked: Mapping[str, Any], result: Extraction) -> None:
        note = json.dumps({**asked, **self.header}, sort_keys=True, allow_nan=False)
        try:
            with replacing(out / f"{self.name}{FORM}") as temporary:
                save_file({"features": torch.stack(self.features)}, temporary, {KEY: note})
        except OSError as error:
            raise UserError(
                f"{out / self.name}{FORM} could not be written ({error.strerror or error}); free space or "
                "choose another --out"
            ) from error
        result.written += 1
        if self.header["padded"]:
            result.padded.append(self.path)


def _is_done(path: Path, asked: Mapping[str, Any], cutting: Cutting) -> bool:
    """Whether features lie there, whole and as asked for; UserError where they are whole and others."""
    if not path.is_file():
        return False
    try:
        values, header = read_feature_file(path)
    except (OSError, ValueError):
        return False  # of a run that was killed, or damaged since: extracted again
    for key, value in asked.items():
        if header.get(key) != value:
            raise UserError(
                f"{path} holds other features: expected {key} {shown(value)}, got {shown(header.get(key))}; "
                "give another --out"
            )
    return len(values) == cutting.count(header["frames"])
