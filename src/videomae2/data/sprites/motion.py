"""Where a sprite is at each frame: every action is a set of rates, and a still frame of any action looks the
same.

Position lives on a torus (what leaves on one side enters on the other) and starts anywhere; size and turn
start anywhere too. So position, size and turn have the same uniform distribution at every frame of every
action, and only the order of the frames tells which action it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from videomae2.errors import UserError


@dataclass(frozen=True)
class Motion:
    """Cycles per beat (1 beat = one sweep of the frame) of each thing that can change; the sign is the
    direction.

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
    """One sprite's state at each frame: centre in [0, 1) of the frame, size as a share of the frame, turn in
    radians.
    """

    x: Float[np.ndarray, "T"]
    y: Float[np.ndarray, "T"]
    size: Float[np.ndarray, "T"]
    turn: Float[np.ndarray, "T"]


def check_actions(names: Sequence[str]) -> tuple[str, ...]:
    """The names, if all are in ACTIONS and differ; else UserError naming the choices."""
    unknown = [name for name in names if name not in ACTIONS]
    if unknown or not names or len(set(names)) != len(names):
        came = (
            f"{unknown[0]!r} is no sprite action"
            if unknown
            else f"{list(names)} is empty or names an action twice"
        )
        raise UserError(f"{came}; choose different ones from {', '.join(ACTIONS)}")
    return tuple(names)


def track(
    actions: Sequence[str],
    frames_each: Sequence[int],
    chance: np.random.Generator,
    *,
    sizes: tuple[float, float],
    beat: float,
) -> Track:
    """A path through `actions` one after another, `frames_each` frames long; `beat` is frames per sweep of
    the frame.

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
