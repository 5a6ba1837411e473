"""Folders of runs after a crash, a bad copy or an editor: one file in one is not what was written."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

from fuzz_bytes import LONG, damaged
from fuzz_payloads import Payload, scramble
from fuzz_scene import OUT, Scene
from fuzz_stock import DATA, EVALUATION, training
from fuzz_weights import command


def case(scene: Scene) -> list[str]:
    """A command that resumes a run, replays it, or takes weights from it."""
    rng = scene.rng
    name = rng.choice(("pretrained", "finetuned", "unfinished", "unfinished", "unfinished", "evaluated"))
    resumes = rng.random() < 0.6
    folder = OUT if resumes else "run"
    scene.copy(scene.stock.run(name), folder)
    for _ in range(rng.choice((1, 1, 1, 2))):
        _spoil(scene, scene.folder / folder)
    if not resumes:
        return _reads(scene, folder)
    if name == "evaluated":
        weights = str(scene.stock.run("finetuned"))
        return [
            "evaluate",
            "--weights",
            weights,
            "--data.val",
            str(scene.stock.classes),
            *DATA,
            *EVALUATION,
            "--out",
            OUT,
        ]
    task = "pretrain" if name == "pretrained" else "finetune"
    if rng.random() < 0.1:
        task = rng.choice(("pretrain", "finetune", "evaluate"))
    if rng.random() < 0.6:
        return [task, OUT]
    changes = {"pretrained": ["--optim.ema_decay", "0.5"], "finetuned": ["--optim.ema_decay", "0.5"],
               "unfinished": ["--optim.length", "3", "--run.checkpoint_every", "1"]}[name]  # fmt: skip
    if task == "evaluate":
        return [
            task,
            "--weights",
            OUT,
            "--data.val",
            str(scene.stock.classes),
            *DATA,
            *EVALUATION,
            "--out",
            OUT,
        ]
    return [*training(task, OUT), "--data.train", str(scene.stock.classes), *changes]


def _reads(scene: Scene, folder: str) -> list[str]:
    rng = scene.rng
    names = [
        folder,
        folder,
        f"{folder}/model.safetensors",
        f"{folder}/checkpoints",
        f"{folder}/checkpoints/step-1",
        f"{folder}/checkpoints/step-2",
        f"{folder}/config.toml",
        f"{folder}@best",
        f"{folder}@last",
        f"{folder}@step-1",
        f"{folder}@step-{'9' * 400}",
    ]
    if rng.random() < 0.2:
        return [rng.choice(("pretrain", "finetune", "evaluate")), folder, "--print-config"]
    return command(scene, rng.choice(names))


def _spoil(scene: Scene, run: Path) -> None:
    rng = scene.rng
    files = [
        path
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in ("report.html", ".lock")
    ]
    folders = [run / "checkpoints", *sorted((run / "checkpoints").glob("step-*"))]
    if not files:
        return
    path = rng.choice(files)
    change = rng.random()
    if change < 0.35:
        path.write_bytes(damaged(path.read_bytes(), rng))
    elif change < 0.6:
        _rewrite(scene, path)
    elif change < 0.68:
        path.unlink()
    elif change < 0.76:
        path.write_bytes(
            rng.choice((b"", b"\x00" * 100, b"\xff\xfe", b"[" * 10**5, b"null", b"{}", b"[]", b"1", b'"a"'))
        )
    elif change < 0.84:
        scene.something_else(str(path.relative_to(scene.folder)))
    elif change < 0.9 and folders[0].exists():
        victim = rng.choice(folders)
        shutil.rmtree(victim)
        if rng.random() < 0.5:
            scene.something_else(str(victim.relative_to(scene.folder)))
    elif change < 0.95:
        name = rng.choice(
            (
                "checkpoints/step-99",
                "checkpoints/step-x",
                "checkpoints/step-" + "9" * 200,
                "checkpoints/step--1",
                "checkpoints/.writing-5",
                "failures.jsonl",
                "best.json",
                "checkpoints/step-007",
                "events",
                ".config.toml.x.tmp",
                "model.safetensors",
                "checkpoints/step-\u0663",
            )
        )
        if not os.path.lexists(run / name) and (run / name).parent.is_dir():
            scene.something_else(str((run / name).relative_to(scene.folder)))
    else:
        other = scene.stock.run(rng.choice(("pretrained", "finetuned", "unfinished"))) / path.relative_to(run)
        if other.is_file():
            shutil.copyfile(other, path)


def _rewrite(scene: Scene, path: Path) -> None:
    """A file of the right form with an odd value in it; the pickles with a payload."""
    rng = scene.rng
    if path.name in (".metadata",) or path.suffix == ".distcp":
        payload: Any = Payload(scene.canary, rng)
        path.write_bytes(
            pickle.dumps(
                payload if rng.random() < 0.5 else {"state_dict_metadata": payload}, rng.randrange(6)
            )
        )
    elif path.suffix == ".json":
        path.write_text(json.dumps(scramble(json.loads(path.read_text()), rng)))
    elif path.suffix == ".jsonl":
        lines = path.read_text().splitlines() or ["{}"]
        place = rng.randrange(len(lines))
        try:
            lines[place] = json.dumps(scramble(json.loads(lines[place]), rng))
        except ValueError:
            return
        lines.insert(
            rng.randrange(len(lines) + 1),
            rng.choice(
                (
                    "",
                    "{",
                    "null",
                    "[]",
                    "1",
                    "{}",
                    LONG,
                    '{"step": -1}',
                    '{"step": "a"}',
                    '{"step": 1e400}',
                    "\x00",
                )
            ),
        )
        path.write_text("\n".join(lines))
    elif path.suffix == ".toml":
        lines = path.read_text().splitlines()
        keys = [number for number, line in enumerate(lines) if " = " in line]
        place = rng.choice(keys)
        value = rng.choice(
            ("1", '"a"', "true", "[]", "-1", "9" * 400, '""', "1.5", f'"{LONG}"', "nan", '"/nowhere"')
        )
        lines[place] = f"{lines[place].partition(' = ')[0]} = {value}"
        path.write_text("\n".join(lines))
    else:
        path.write_bytes(damaged(path.read_bytes(), rng))
