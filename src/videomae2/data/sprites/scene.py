"""Draws sprite videos in memory: pictures that move by class before a dimmed photograph.

Every action is a set of rates. Position lives on a torus (what leaves on one side enters on the other) and
starts anywhere; size and turn start anywhere too. So position, size and turn have the same uniform
distribution at every frame of every action, and only the order of the frames tells which action it is. Each
video is a function of (settings, seed, number of the video) alone, so that any number of workers draw the
same set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from videomae2.chance import key, numpy_generator
from videomae2.data.sprites.art import background, cutout
from videomae2.errors import UserError


@dataclass(frozen=True)
class Motion:
    """Cycles per beat (1 beat = one sweep of the frame) of each thing that can change.

    x, y: sweeps of the frame, right and down positive. zoom: sweeps of the size range, growing positive.
    turn: whole turns, clockwise positive. orbit: turns on a circle, clockwise positive. sway_x, hop_y: to and
    fro sideways; hops of a ball, off the ground.
    """

    x: float = 0.0
    y: float = 0.0
    zoom: float = 0.0
    turn: float = 0.0
    orbit: float = 0.0
    sway_x: float = 0.0
    hop_y: float = 0.0


ACTIONS: dict[str, Motion] = {
    "left": Motion(x=-1.0),
    "right": Motion(x=1.0),
    "up": Motion(y=-1.0),
    "down": Motion(y=1.0),
    "left_fast": Motion(x=-3.0),
    "right_fast": Motion(x=3.0),
    "up_fast": Motion(y=-3.0),
    "down_fast": Motion(y=3.0),
    "towards": Motion(zoom=1.0),
    "away": Motion(zoom=-1.0),
    "clockwise": Motion(turn=1.0),
    "anticlockwise": Motion(turn=-1.0),
    "orbit_clockwise": Motion(orbit=1.0),
    "orbit_anticlockwise": Motion(orbit=-1.0),
    "sway": Motion(sway_x=1.0),
    "bounce": Motion(hop_y=1.0),
    "rest": Motion(),
}
ORBIT_RADIUS = 0.25
SWAY_WIDTH = 0.25
HOP_HEIGHT = 0.4


@dataclass(frozen=True)
class Track:
    """One sprite's state at each frame: centre and size as shares of the frame, turn in radians."""

    x: Float[np.ndarray, "T"]
    y: Float[np.ndarray, "T"]
    size: Float[np.ndarray, "T"]
    turn: Float[np.ndarray, "T"]


def check_actions(names: Sequence[str]) -> tuple[str, ...]:
    """The names, if all are in ACTIONS and differ; else UserError naming the choices."""
    unknown = [name for name in names if name not in ACTIONS]
    if unknown or not names or len(set(names)) != len(names):
        got = f"{unknown[0]!r}" if unknown else f"{list(names)}, which is empty or names one twice"
        raise UserError(f"expected different sprite actions, got {got}; choose from {', '.join(ACTIONS)}")
    return tuple(names)


def track(
    actions: Sequence[str],
    frames_each: Sequence[int],
    chance: np.random.Generator,
    *,
    sizes: tuple[float, float],
    beat: float,
) -> Track:
    """A path through `actions` one after another, `frames_each` frames long; `beat` is frames per sweep.

    The state runs on from one action into the next: nothing jumps where the action changes.
    """
    start = chance.random(7)
    rates = np.concatenate(
        [
            np.repeat([_rates(ACTIONS[name])], frames, axis=0)
            for name, frames in zip(actions, frames_each, strict=True)
        ]
    )
    phase = start + np.concatenate([np.zeros((1, 7)), np.cumsum(rates[:-1], axis=0)]) / beat
    x, y, zoom, turn, orbit, sway, hop = phase.T
    x = x + ORBIT_RADIUS * np.cos(2 * np.pi * orbit) + SWAY_WIDTH * np.sin(2 * np.pi * sway)
    y = y + ORBIT_RADIUS * np.sin(2 * np.pi * orbit) - HOP_HEIGHT * 4 * (hop % 1) * (1 - hop % 1)
    low, high = sizes
    return Track(x % 1, y % 1, low * (high / low) ** (zoom % 1), 2 * np.pi * turn)


def _rates(motion: Motion) -> list[float]:
    return [motion.x, motion.y, motion.zoom, motion.turn, motion.orbit, motion.sway_x, motion.hop_y]


def unordered_bound(actions: Sequence[str], num_frames: int, beat: float) -> float:
    """The accuracy of an ideal observer who sees the frames of a clip in no order, a share in [0, 1].

    Actions are equally frequent, and last for the whole clip of `num_frames` consecutive frames. A frame
    shows the phases of its sprite, which start anywhere with equal probability. So actions that pass through
    the same phases, up to where they start, give the same pictures with the same probability, and whoever
    does not know their order can only guess among them. It is a bound for pictures as drawn: what
    compression leaves of one frame in the next is not in it.
    """
    passed = {_phases(ACTIONS[name], num_frames, beat) for name in actions}
    return len(passed) / len(actions)


def _phases(motion: Motion, num_frames: int, beat: float) -> tuple[tuple[float, ...], ...]:
    """The phases that a clip passes through, in no order, the same for every start."""
    rates = np.array(_rates(motion))
    seen = np.arange(num_frames)[:, None] * rates / beat
    # Relative to each of its members in turn, the least of these sets stands for all shifted ones. Rounded
    # before and after the remainder, so that 1 - 1e-16 is 0.
    shifted = ((seen - start).round(9) % 1.0 for start in seen)
    return min(tuple(sorted(map(tuple, (each.round(6) % 1.0).tolist()))) for each in shifted)


EIGHT_ACTIONS = ("left", "right", "up", "down", "towards", "away", "clockwise", "anticlockwise")


@dataclass(frozen=True)
class SpriteSettings:
    """What the videos look like: one object and one action for classification, more for detection."""

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
    """Frames in which a sprite sweeps the frame, turns once, or grows through its sizes; drawn for each."""
    contrast: float = 0.5
    """Contrast of the background."""

    def __post_init__(self) -> None:
        check_actions(self.classes)
        if self.size < 16 or self.size % 2:
            raise UserError(f"expected an even size of at least 16 pixels for sprite videos, got {self.size}")
        if self.actions < 1 or self.objects < 1 or self.num_frames < 2 * self.actions:
            raise UserError(
                f"{self.objects} objects with {self.actions} actions in {self.num_frames} frames cannot be "
                "drawn; give at least 1 of each and at least 2 frames an action"
            )


@dataclass(frozen=True)
class Sprite:
    """One object of a video: boxes (x0, y0, x1, y1) in pixels at each frame, and segments.

    A segment is (label, first frame, one past the last frame).
    """

    boxes: Float[np.ndarray, "T 4"]
    segments: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class SpriteVideo:
    """One video: its frames, its objects from back to front; the label is the front one's first action."""

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
    """Labels and lengths in frames of one object's actions; `number`, if given, decides the first label."""
    classes, count = len(settings.classes), settings.actions
    first = int(chance.integers(classes)) if number is None else number % classes
    labels = [first]
    while len(labels) < count:
        step = int(chance.integers(1, classes)) if classes > 1 else 0
        labels.append((labels[-1] + step) % classes)
    # Each action gets two frames, the fewest that show a motion, and a random share of the rest.
    spare = settings.num_frames - 2 * count
    shares = np.floor(np.cumsum(chance.dirichlet(np.full(count, 4.0))) * spare).astype(int)
    shares[-1] = spare
    return labels, (2 + np.diff(shares, prepend=0)).tolist()


def _paint(frames: Tensor, art: Tensor, path: Track) -> tuple[Tensor, Tensor]:
    """Frames with the sprite before them, and its alpha [T, H, W]; what leaves one side enters opposite."""
    count, side = frames.shape[0], frames.shape[-1]
    centre = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    x, y, size, turn = (
        torch.from_numpy(np.asarray(v, np.float32)) for v in (path.x, path.y, path.size, path.turn)
    )
    # The shortest way round the torus, in which a sprite half out on the right is half in on the left.
    dx = torch.remainder(centre[None] - x[:, None] + 0.5, 1.0) - 0.5
    dy = torch.remainder(centre[None] - y[:, None] + 0.5, 1.0) - 0.5
    dx, dy = (dx * 2 / size[:, None])[:, None, :], (dy * 2 / size[:, None])[:, :, None]
    cos, sin = torch.cos(turn)[:, None, None], torch.sin(turn)[:, None, None]
    where = torch.stack([cos * dx + sin * dy, cos * dy - sin * dx], dim=-1)
    painted = torch.nn.functional.grid_sample(art.expand(count, *art.shape), where, align_corners=False)
    alpha = painted[:, 3:]
    return frames + alpha * (painted[:, :3] - frames), alpha[:, 0]


def _boxes(alpha: Tensor, path: Track) -> np.ndarray:
    """Boxes around the part that holds the centre, cut at the frame's edges: what wrapped round is not in."""
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
