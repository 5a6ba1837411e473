"""RandAugment as it is usually run: Pillow's operations, one picture at a time."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from videomae2.data.augment.rand_augment import MAX_LEVEL, OPERATIONS, RandAugment

GREY = (128, 128, 128)


def augment(pictures: list[Image.Image], policy: RandAugment, rng: np.random.Generator) -> list[Image.Image]:
    """The pictures after the operations that `policy` draws; the same draws as its own."""
    names = list(OPERATIONS)
    for index in rng.integers(len(names), size=policy.num_ops):
        if rng.random() >= policy.probability:
            continue
        level = min(max(rng.normal(policy.magnitude, policy.std), 0.0), MAX_LEVEL) / MAX_LEVEL
        name = names[int(index)]
        strength = OPERATIONS[name].strength(level, policy.increasing, rng)
        pictures = [PILLOW[name](picture, strength) for picture in pictures]
    return pictures


def _affine(picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=GREY
    )


def _solarize_add(picture: Image.Image, amount: float) -> Image.Image:
    table = [min(255, value + int(amount)) if value < 128 else value for value in range(256)]
    return picture.point(table * 3)


PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "AutoContrast": lambda picture, _: ImageOps.autocontrast(picture),
    "Equalize": lambda picture, _: ImageOps.equalize(picture),
    "Invert": lambda picture, _: ImageOps.invert(picture),
    "Rotate": lambda picture, degrees: picture.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=GREY),
    "Posterize": lambda picture, bits: ImageOps.posterize(picture, int(bits)),
    "Solarize": ImageOps.solarize,
    "SolarizeAdd": _solarize_add,
    "Color": lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
    "Contrast": lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    "Brightness": lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    "Sharpness": lambda picture, factor: ImageEnhance.Sharpness(picture).enhance(factor),
    "ShearX": lambda picture, factor: _affine(picture, (1, factor, 0, 0, 1, 0)),
    "ShearY": lambda picture, factor: _affine(picture, (1, 0, 0, factor, 1, 0)),
    "TranslateX": lambda picture, share: _affine(picture, (1, 0, share * picture.size[0], 0, 1, 0)),
    "TranslateY": lambda picture, share: _affine(picture, (1, 0, 0, 0, 1, share * picture.size[1])),
}
