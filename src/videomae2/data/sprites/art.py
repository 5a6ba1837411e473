"""Pictures for sprites: photographs that ship inside scikit-image and scikit-learn, and scanned digits.

Only files inside the installed wheels are read, nothing is downloaded. scikit-image's are in the public
domain or CC0; scikit-learn's two (china, flower) are CC BY 2.0; the digits are the UCI optical recognition
set.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from videomae2.errors import UserError

COLOUR_PHOTOGRAPHS = (
    "skimage/data/astronaut.png",
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/retina.jpg",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
)
GREY_PHOTOGRAPHS = (
    "skimage/data/brick.png",
    "skimage/data/camera.png",
    "skimage/data/coins.png",
    "skimage/data/grass.png",
    "skimage/data/gravel.png",
    "skimage/data/moon.png",
)
_LONGEST_SIDE = 480


@lru_cache(maxsize=1)
def photographs() -> tuple[np.ndarray, ...]:
    """All photographs as uint8 [H, W, 3], colour ones first; at most 480 pixels wide or high."""
    return tuple(_read(name) for name in COLOUR_PHOTOGRAPHS + GREY_PHOTOGRAPHS)


@lru_cache(maxsize=1)
def digit_scans() -> np.ndarray:
    """1,797 handwritten digits, float32 [1797, 8, 8] in [0, 1]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise _missing("scikit-learn") from error
    return np.asarray(load_digits().images / 16.0, dtype=np.float32)


def background(chance: np.random.Generator, size: int, contrast: float) -> UInt8[np.ndarray, "size size 3"]:
    """A crop of a photograph, its contrast lowered so that objects stand out before it."""
    crop = _crop(chance, size, shortest=0.4)
    mean = crop.mean(axis=(0, 1), keepdims=True)
    return np.asarray(np.clip(mean + contrast * (crop - mean), 0, 255), dtype=np.uint8)


def cutout(chance: np.random.Generator, side: int) -> Float[np.ndarray, "4 side side"]:
    """A textured object, RGB in [0, 255] and alpha in [0, 1]: a piece of a photograph, some with a digit.

    Its outline is a random blob, inside the unit circle of the square, so that no turn moves it out of the
    picture.
    """
    colour = _vivid(_crop(chance, side, shortest=0.15), chance)
    if chance.random() < 1 / 3:
        glyph = _digit(chance, side)[..., None]
        colour = colour * (1 - glyph) + _far_colour(colour, chance) * glyph
    return (
        np.concatenate([colour, _blob(chance, side)[..., None]], axis=2).transpose(2, 0, 1).astype(np.float32)
    )


PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
"""What is imported -> what is installed, where the names differ."""


def _read(name: str) -> np.ndarray:
    package, _, inside = name.partition("/")
    try:
        module = __import__(package)
        from PIL import Image
    except ImportError as error:
        raise _missing(PACKAGES.get(package, package)) from error
    path = Path(module.__file__ or "").parent / inside
    if not path.is_file():
        raise UserError(
            f"the installed {package} lacks {inside}, which sprites draw from; reinstall it: pip install "
            f"--force-reinstall {PACKAGES.get(package, package)}"
        )
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
        picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        return np.asarray(picture)


def _missing(package: str) -> UserError:
    return UserError(f"sprites need {package}, which is not installed; install it: pip install {package}")


def _crop(chance: np.random.Generator, side: int, shortest: float) -> np.ndarray:
    """A random square of a photograph, turned or mirrored: float32 [side, side, 3].

    It is at least `shortest` of the photograph's smaller side wide.
    """
    from PIL import Image

    photo = photographs()[chance.integers(len(photographs()))]
    height, width = photo.shape[:2]
    length = int(min(height, width) * chance.uniform(shortest, 1.0))
    top, left = chance.integers(height - length + 1), chance.integers(width - length + 1)
    square = Image.fromarray(photo[top : top + length, left : left + length])
    pixels = np.asarray(square.resize((side, side), Image.Resampling.BOX), dtype=np.float32)
    pixels = np.rot90(pixels, int(chance.integers(4)))
    return pixels[:, ::-1] if chance.random() < 0.5 else pixels


def _vivid(pixels: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """The same picture with its range stretched and a random tint, so that flat crops still show texture."""
    low, high = np.percentile(pixels, (2, 98))
    stretched = (pixels - low) / max(high - low, 24.0) * 255.0
    return np.asarray(np.clip(stretched * chance.uniform(0.55, 1.15, size=3), 0, 255))


def _far_colour(colour: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    mean = colour.mean(axis=(0, 1))
    return np.where(mean > 127, chance.uniform(0, 40, 3), chance.uniform(215, 255, 3))


def _digit(chance: np.random.Generator, side: int) -> np.ndarray:
    """One digit's strokes as float32 [side, side] in [0, 1], in the middle two thirds."""
    from PIL import Image

    scans = digit_scans()
    inner = max(side * 2 // 3, 4)
    scan = Image.fromarray(scans[chance.integers(len(scans))])
    strokes = np.asarray(scan.resize((inner, inner), Image.Resampling.BICUBIC))
    canvas = np.zeros((side, side), np.float32)
    start = (side - inner) // 2
    canvas[start : start + inner, start : start + inner] = np.clip(strokes * 2 - 0.5, 0, 1)
    return canvas


def _blob(chance: np.random.Generator, side: int) -> np.ndarray:
    """A smooth random outline with a soft edge: a short Fourier series of the angle, at most 0.95 wide."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    x, y = axis[None, :], axis[:, None]
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    radius = np.ones_like(angle)
    for order in (2, 3, 4, 5):
        radius += chance.uniform(0, 0.35 / order) * np.cos(order * angle + chance.uniform(0, 2 * np.pi))
    radius *= 0.95 / radius.max()
    return np.clip((radius - distance) * side / 2 + 0.5, 0, 1)
