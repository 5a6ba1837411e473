"""RandAugment: Pillow's numbers, the same operation on every frame, a notation understood or refused."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from videomae2 import chance
from videomae2.data.augment.rand_augment import OPERATIONS, RandAugment, apply
from videomae2.errors import UserError
from videomae2.placement import Box


@pytest.fixture
def clip() -> torch.Tensor:
    """Smooth colour with noise and a narrow range in one channel: every operation changes something."""
    rng = np.random.default_rng(0)
    ramp = (
        np.linspace(20, 230, 40)[None, :, None]
        * np.linspace(0.5, 1, 30)[:, None, None]
        * np.array([1, 0.6, 0.3])
    )
    frames = np.clip(ramp[None] + rng.normal(0, 12, (3, 30, 40, 3)), 0, 255).astype(np.uint8)
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()


def pillow(clip: torch.Tensor, function: Callable[[Image.Image], Image.Image]) -> torch.Tensor:
    frames = [np.asarray(function(Image.fromarray(frame.permute(1, 2, 0).numpy()))) for frame in clip]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


EXACT: dict[str, tuple[float, Callable[[Image.Image, float], Image.Image]]] = {
    "AutoContrast": (0.0, lambda image, _: ImageOps.autocontrast(image)),
    "Equalize": (0.0, lambda image, _: ImageOps.equalize(image)),
    "Invert": (0.0, lambda image, _: ImageOps.invert(image)),
    "Posterize": (3.0, lambda image, bits: ImageOps.posterize(image, int(bits))),
    "Solarize": (90.0, lambda image, threshold: ImageOps.solarize(image, int(threshold))),
    "Color": (1.7, lambda image, factor: ImageEnhance.Color(image).enhance(factor)),
    "Contrast": (0.35, lambda image, factor: ImageEnhance.Contrast(image).enhance(factor)),
    "Brightness": (1.6, lambda image, factor: ImageEnhance.Brightness(image).enhance(factor)),
    "Sharpness": (1.8, lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor)),
}


@pytest.mark.parametrize("name", EXACT)
def test_pixel_operations_are_pillows(clip: torch.Tensor, name: str) -> None:
    strength, function = EXACT[name]
    ours, theirs = (
        OPERATIONS[name].apply(clip, strength),
        pillow(clip, lambda image: function(image, strength)),
    )
    assert ours.dtype == torch.uint8
    assert (ours.int() - theirs.int()).abs().max() <= (
        1 if name in ("Color", "Contrast", "Brightness", "Sharpness") else 0
    )
    assert (ours != theirs).float().mean() < 0.001
    assert not torch.equal(ours, clip)


MOVES: dict[str, tuple[float, Callable[[Image.Image, float], Image.Image]]] = {
    "Rotate": (
        25.0,
        lambda image, degrees: image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(128,) * 3),
    ),
    "ShearX": (0.25, lambda image, f: _pillow_affine(image, (1, f, 0, 0, 1, 0))),
    "ShearY": (-0.25, lambda image, f: _pillow_affine(image, (1, 0, 0, f, 1, 0))),
    "TranslateX": (0.3, lambda image, f: _pillow_affine(image, (1, 0, f * image.size[0], 0, 1, 0))),
    "TranslateY": (-0.4, lambda image, f: _pillow_affine(image, (1, 0, 0, 0, 1, f * image.size[1]))),
}


def _pillow_affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=(128,) * 3
    )


@pytest.mark.parametrize("name", MOVES)
def test_moves_go_where_pillow_goes(name: str) -> None:
    y, x = np.mgrid[0:60, 0:80]
    smooth = np.stack(
        [128 + 100 * np.sin(x / 13), 128 + 100 * np.cos(y / 11), 128 + 100 * np.sin((x + y) / 17)]
    )
    clip = torch.from_numpy(smooth.astype(np.uint8))[None].repeat(2, 1, 1, 1)
    strength, function = MOVES[name]
    ours, theirs = (
        OPERATIONS[name].apply(clip, strength),
        pillow(clip, lambda image: function(image, strength)),
    )
    difference = (ours.float() - theirs.float()).abs()
    assert (
        difference.median() <= 2 and difference.mean() < 4
    )  # half a pixel apart only along the border of the fill
    assert (difference.amax(1) > 8).float().mean() < 0.06
    assert (clip.float() - theirs.float()).abs().mean() > 10


def test_solarize_add_brightens_only_the_dark_half() -> None:
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    brighter = OPERATIONS["SolarizeAdd"].apply(ramp, 110.0)
    assert torch.equal(brighter.int() - ramp.int(), torch.where(ramp < 128, 110, 0).int())


def test_strengths_at_level_seven() -> None:
    rng = np.random.default_rng(0)
    strengths = {
        name: {abs(round(op.strength(0.7, True, rng), 6)) for _ in range(40)}
        for name, op in OPERATIONS.items()
    }
    assert (
        strengths["Rotate"] == {21.0} and strengths["ShearX"] == {0.21} and strengths["TranslateY"] == {0.315}
    )
    assert (
        strengths["Posterize"] == {2} and strengths["Solarize"] == {77} and strengths["SolarizeAdd"] == {77}
    )
    assert strengths["Color"] == strengths["Sharpness"] == {0.37, 1.63}
    signs = {np.sign(OPERATIONS["Rotate"].strength(0.7, True, rng)) for _ in range(40)}
    assert signs == {-1, 1}


def test_increasing_means_that_a_higher_level_changes_more(clip: torch.Tensor) -> None:
    for name in ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness"):
        operation = OPERATIONS[name]
        changes = [
            (operation.apply(clip, operation.strength(level, True, np.random.default_rng(3))).float() - clip)
            .abs()
            .mean()
            for level in (0.0, 0.3, 0.9)
        ]
        if name != "Posterize":  # released: level 0 of Posterize keeps four bits
            assert changes[0] == 0
        assert changes[0] < changes[1] < changes[2], name


def test_every_frame_gets_the_same(clip: torch.Tensor) -> None:
    still = clip[:1].repeat(5, 1, 1, 1)
    policy = RandAugment.parse("rand-m7-n4-mstd0.5-inc1")
    changed = 0
    for draw in range(40):
        out = policy(still, chance.numpy_generator(chance.key(0, "test", draw)))
        assert out.dtype == torch.uint8 and out.shape == still.shape and out.is_contiguous()
        assert all(torch.equal(frame, out[0]) for frame in out)
        changed += not torch.equal(out, still)
    assert changed > 25
    assert torch.equal(still, clip[:1].repeat(5, 1, 1, 1)), "the clip that came must not be written to"


@pytest.mark.parametrize("box", [Box(0, 0, 30, 40), Box(7, 11, 12, 20), Box(29, 0, 1, 40), Box(0, 39, 2, 1)])
def test_a_box_alone_is_the_box_of_the_whole(clip: torch.Tensor, box: Box) -> None:
    policy = RandAugment.parse("rand-m7-n4-mstd0.5-inc1")
    rng = chance.numpy_generator(3)
    changed = 0
    for drawn in [[(operation, operation.strength(0.7, True, rng))] for operation in OPERATIONS.values()] + [
        policy.draw(rng) for _ in range(60)
    ]:
        part = apply(drawn, clip, box)
        assert torch.equal(part, box.cut(apply(drawn, clip)))
        changed += not torch.equal(part, box.cut(clip))
    assert changed > 40


def test_the_generator_decides_everything(clip: torch.Tensor) -> None:
    policy = RandAugment.parse("rand-m9-n3-mstd0.5")
    first, again, other = (policy(clip, chance.numpy_generator(number)) for number in (11, 11, 12))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_notation() -> None:
    assert RandAugment.parse("rand-m7-n4-mstd0.5-inc1") == RandAugment(7.0, 4, 0.5, True)
    assert RandAugment.parse("rand-m9") == RandAugment(9.0, 2, 0.0, False)
    for wrong in ("rand-m7-w0", "augmix-m3", "rand-m70", "rand-n0", "m7-n4", "rand-m7n4"):
        with pytest.raises(UserError, match=r"try rand-m7-n4-mstd0.5-inc1"):
            RandAugment.parse(wrong)


def test_tiny_and_flat_clips_survive() -> None:
    for shape in ((1, 3, 1, 1), (2, 3, 2, 5)):
        flat = torch.full(shape, 77, dtype=torch.uint8)
        for name, operation in OPERATIONS.items():
            assert (
                operation.apply(flat, operation.strength(0.7, True, np.random.default_rng(0))).shape == shape
            ), name
