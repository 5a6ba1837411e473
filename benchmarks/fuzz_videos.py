"""Videos after a bad disk, a cut transfer or a strange camera, in every container and codec at hand."""

import random
from pathlib import Path

from fuzz_bytes import damaged
from fuzz_scene import OUT, Scene
from fuzz_stock import DATA, EVALUATION, training


def case(scene: Scene) -> list[str]:
    """A command over videos of which one is spoilt."""
    rng = scene.rng
    if rng.random() < 0.1:
        return _command(scene, _frames(scene), "f")
    source = rng.choice(scene.stock.videos)
    ending = source.suffix if rng.random() < 0.9 else rng.choice(scene.stock.videos).suffix
    name = scene.write(f"set/a{ending}", _spoilt(scene, source))
    if rng.random() < 0.02:
        scene.something_else(name)
    return _command(scene, name, "set")


def _spoilt(scene: Scene, source: Path) -> bytes:
    rng, data = scene.rng, source.read_bytes()
    change = rng.random()
    if change < 0.6:
        return damaged(data, rng)
    if change < 0.68:
        return data[: rng.randrange(len(data))]
    if change < 0.76:
        return data[rng.randrange(len(data)) :]
    other = rng.choice(scene.stock.videos).read_bytes()
    if change < 0.82:
        return data + other
    if change < 0.9:
        place = rng.randrange(min(len(data), len(other)))
        return data[:place] + other[place:]
    return _wide(data, rng)


def _wide(data: bytes, rng: random.Random) -> bytes:
    """The same with another size of its pictures wherever 32 x 32 may stand for that."""
    changed = data
    for packed in (b"\x00\x20\x00\x20", b"\x20\x00\x20\x00", b"\x00\x00\x00\x20\x00\x00\x00\x20"):
        half = len(packed) // 2
        sizes = [
            rng.choice((0, 1, 32, 33, 4096, 65535, 2**31 - 1, 2**15)) % 2 ** (8 * half) for _ in range(2)
        ]
        order = "little" if packed[0] == 0x20 else "big"
        wide = b"".join(size.to_bytes(half, order) for size in sizes)  # type: ignore[arg-type]
        changed = changed.replace(packed, wide, rng.choice((1, 2, -1)))
    return changed


def _frames(scene: Scene) -> str:
    """A folder of frames, some of them spoilt, and the list that names it."""
    rng = scene.rng
    scene.copy(scene.stock.frames, "f")
    ending = rng.choice(("jpg", "png"))
    files = sorted((scene.folder / "f").glob(f"*.{ending}"))
    for path in rng.sample(files, rng.choice((1, 2, 8))):
        change = rng.random()
        if change < 0.5:
            path.write_bytes(damaged(path.read_bytes(), rng))
        elif change < 0.7:
            path.write_bytes(rng.choice(scene.stock.videos).read_bytes())
        elif change < 0.8:
            path.unlink()
        else:
            scene.something_else(str(path.relative_to(scene.folder)))
    name = f"img_{{:05}}.{ending}"
    start, end = rng.choice((0, 1, 5)), rng.choice((6, 9, 10**6))
    rows = f"f,1,9,0,{name}\nf,{start},{end},1,{name}\n"
    return scene.write("f.csv", f"path,start,end,label,pattern\n{rows}")


def _command(scene: Scene, name: str, folder: str) -> list[str]:
    rng = scene.rng
    kind = rng.random()
    few = ["--clips", "1", "--crops", "1", "--device", "cpu"]
    if kind < 0.3 and folder == "set":
        return [
            "predict",
            name,
            "--weights",
            str(scene.stock.run("finetuned")),
            *few,
            *rng.choice(([], ["--json"])),
        ]
    if kind < 0.35 and folder == "set":
        return ["reconstruct", name, "--weights", str(scene.stock.run("pretrained")), "--out", f"{OUT}/r.mp4"]
    if kind < 0.65:
        return ["data", "check", name, "--workers", "1"]
    if kind < 0.72:
        return ["data", "show", name]
    listed = name
    if folder == "set":
        listed = scene.write(
            "list.csv", f"path,label\n{name},0\n{scene.stock.plain},1\n{scene.stock.plain},0\n"
        )
    if kind < 0.92:
        weights = str(scene.stock.run("finetuned"))
        return ["evaluate", "--weights", weights, "--data.val", listed, *DATA, *EVALUATION, "--out", OUT]
    task = rng.choice(("finetune", "pretrain"))
    return [*training(task, OUT), "--data.train", listed, "--data.max_broken", "0.9"]
