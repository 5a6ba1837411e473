"""Draws sprite videos in memory: pictures that move by class before a dimmed photograph, with boxes and time
segments.

Each video is a function of (settings, seed, number of the video) alone, so that any number of workers draw
the same set.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from videomae2.chance import key, numpy_generator
from videomae2.data.sprites.art import background, cutout
from videomae2.data.sprites.motion import Track, check_actions, track
from videomae2.errors import UserError

EIGHT_ACTIONS = ("left", "right", "up", "down", "towards", "away", "clockwise", "anticlockwise")


@dataclass(frozen=True)
class SpriteSettings:
    """What the videos look like. One object and one action a video: classification; more of either:
    detection.
    """

    size: int = 64
    num_frames: int = 16
    fps: int = 16
    classes: tuple[str, ...] = EIGHT_ACTIONS
    objects: int = 1
    actions: int = 1
    """Actions of each object, one after another, of random lengths."""
    sizes: tuple[float, float] = (0.4, 0.8)
    """Smallest and largest diameter of a sprite, as shares of the frame."""
    beat: tuple[float, float] = (12.0, 20.0)
    """Frames in which a sprite sweeps the frame, turns once, or grows through the size range; drawn for each
    sprite.
    """
    contrast: float = 0.5
    """Contrast of the background."""

    def __post_init__(self) -> None:
        check_actions(self.classes)
        if self.size < 16 or self.size % 2:
            raise UserError(f"sprite videos need an even size of at least 16 pixels; {self.size} came")
        if self.actions < 1 or self.objects < 1 or self.num_frames < 2 * self.actions:
            raise UserError(
                f"{self.objects} objects with {self.actions} actions in {self.num_frames} frames cannot be "
                "drawn; "
                f"give at least 1 of each and at least 2 frames an action"
            )


@dataclass(frozen=True)
class Sprite:
    """One object of a video: boxes (x0, y0, x1, y1) in pixels at each frame, and (label, first frame, end
    frame) segments.
    """

    boxes: Float[np.ndarray, "T 4"]
    segments: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class SpriteVideo:
    """One video: its frames, its objects from back to front, and its label: the first action of the front
    object.
    """

    frames: UInt8[Tensor, "T C H W"]
    sprites: tuple[Sprite, ...]
    label: int


def draw_video(settings: SpriteSettings, seed: int, number: int) -> SpriteVideo:
    """Video `number` of the set with this seed; single-action sets hold every class equally often."""
    chance = numpy_generator(key(seed, "sprites", number))
    side = settings.size
    canvas = torch.from_numpy(
        background(chance, side, settings.contrast).transpose(2, 0, 1).astype(np.float32)
    )
    frames = canvas.expand(settings.num_frames, 3, side, side)
    sprites = []
    for depth in range(settings.objects):
        labels, lengths = _script(settings, chance, number if depth == settings.objects - 1 else None)
        path = track(
            [settings.classes[label] for label in labels],
            lengths,
            chance,
            sizes=settings.sizes,
            beat=chance.uniform(*settings.beat),
        )
        art = torch.from_numpy(cutout(chance, max(16, int(side * settings.sizes[1]))))
        frames, alpha = _paint(frames, art, path)
        ends = np.cumsum(lengths)
        segments = tuple(
            (label, int(end - length), int(end))
            for label, length, end in zip(labels, lengths, ends, strict=True)
        )
        sprites.append(Sprite(_boxes(alpha, path), segments))
    return SpriteVideo(
        frames.round().clamp(0, 255).to(torch.uint8), tuple(sprites), sprites[-1].segments[0][0]
    )


def _script(
    settings: SpriteSettings, chance: np.random.Generator, number: int | None
) -> tuple[list[int], list[int]]:
    """Labels and lengths in frames of one object's actions; the first label follows from `number` where one
    is given.
    """
    classes, count = len(settings.classes), settings.actions
    first = int(chance.integers(classes)) if number is None else number % classes
    labels = [first]
    while len(labels) < count:
        step = int(chance.integers(1, classes)) if classes > 1 else 0
        labels.append((labels[-1] + step) % classes)
    spare = settings.num_frames - 2 * count
    shares = np.floor(np.cumsum(chance.dirichlet(np.full(count, 4.0))) * spare).astype(int)
    shares[-1] = spare
    return labels, (2 + np.diff(shares, prepend=0)).tolist()


def _paint(frames: Tensor, art: Tensor, path: Track) -> tuple[Tensor, Tensor]:
    """Frames with the sprite before them, and its alpha [T, H, W]; what leaves on one side enters on the
    other.
    """
    count, side = frames.shape[0], frames.shape[-1]
    centre = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    x, y, size, turn = (
        torch.from_numpy(np.asarray(v, np.float32)) for v in (path.x, path.y, path.size, path.turn)
    )
    dx = torch.remainder(centre[None] - x[:, None] + 0.5, 1.0) - 0.5
    dy = torch.remainder(centre[None] - y[:, None] + 0.5, 1.0) - 0.5
    dx, dy = (dx * 2 / size[:, None])[:, None, :], (dy * 2 / size[:, None])[:, :, None]
    cos, sin = torch.cos(turn)[:, None, None], torch.sin(turn)[:, None, None]
    where = torch.stack([cos * dx + sin * dy, cos * dy - sin * dx], dim=-1)
    painted = torch.nn.functional.grid_sample(art.expand(count, *art.shape), where, align_corners=False)
    alpha = painted[:, 3:]
    return frames + alpha * (painted[:, :3] - frames), alpha[:, 0]


def _boxes(alpha: Tensor, path: Track) -> np.ndarray:
    """Boxes around the part that holds the centre, cut at the frame's edges: what wrapped round is left
    out.
    """
    side = alpha.shape[-1]
    boxes = np.empty((alpha.shape[0], 4), np.float32)
    shown = alpha.numpy() > 0.5
    for column, (axis, centre) in enumerate(((1, path.x), (2, path.y))):
        spans = np.asarray(shown.any(axis=axis))
        for frame, span in enumerate(spans):
            boxes[frame, column], boxes[frame, column + 2] = _run_around(span, int(centre[frame] * side))
    return boxes


def _run_around(span: np.ndarray, position: int) -> tuple[int, int]:
    """First and one past the last position of the unbroken run of True around `position`."""
    position = min(position, len(span) - 1)
    gaps = np.flatnonzero(~span)
    before, after = gaps[gaps < position], gaps[gaps > position]
    return (int(before[-1]) + 1 if len(before) else 0), (int(after[0]) if len(after) else len(span))
