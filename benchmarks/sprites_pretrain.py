"""Makes the weights that the quickstart goes on from: pre-training on 12,000 sprite videos without labels.

    python benchmarks/sprites_pretrain.py

Draws the videos (another seed than the quickstart's), runs experiments/small/sprites_pretrain.toml, resuming where it
stopped, and puts the weights into the package and the log into `benchmarks/results/`.
"""

import argparse
import shutil
from pathlib import Path

from machine import RESULTS, save_result

from videomae2.apps.quickstart_settings import SPRITES, STARTING_WEIGHTS
from videomae2.config import flatten, load_settings
from videomae2.data.sprites import write_sprites
from videomae2.engine.log import read_lines
from videomae2.recipes.pretrain import run_pretraining
from videomae2.settings import PretrainSettings

PAGE = Path(__file__).parents[1] / "experiments" / "small" / "sprites_pretrain.toml"
VIDEOS, SEED = 12_000, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/sprites_pretrain"))
    work = parser.parse_args().work
    manifest = work / "data" / "manifest.csv"
    if not manifest.exists():
        write_sprites(work / "data", num_videos=VIDEOS, seed=SEED, settings=SPRITES)
    settings = load_settings(PretrainSettings, PAGE, ["--data.train", str(manifest), "--run.out", str(work / "run")])
    run = run_pretraining(settings)
    STARTING_WEIGHTS.parent.mkdir(exist_ok=True)
    shutil.copyfile(run / "model.safetensors", STARTING_WEIGHTS)
    shutil.copyfile(run / "metrics.jsonl", RESULTS / "sprites_pretrain.jsonl")
    lines = read_lines(run / "metrics.jsonl")
    result = {
        "videos": VIDEOS,
        "seed": SEED,
        "steps": lines[-1]["step"],
        "loss": {"first": lines[0]["loss"], "last": lines[-1]["loss"]},
        "clips_per_second_median": sorted(line["clips_per_second"] for line in lines)[len(lines) // 2],
        "bytes": STARTING_WEIGHTS.stat().st_size,
        "settings": flatten(settings),
    }
    print(save_result("sprites_pretrain", result))


if __name__ == "__main__":
    main()
