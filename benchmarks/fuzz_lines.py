"""Command lines and pages of settings as people type them in a hurry, and as programs paste them."""

import random
import re
from typing import Any

from fuzz_bytes import LONG, damaged, number, text
from fuzz_scene import OUT, Scene
from fuzz_stock import DATA, EVALUATION, MODEL, TRAINING, training

from videomae2.bounds import ALIASES, CHOICE_SYNONYMS, SYNONYMS, choices
from videomae2.cli import runs
from videomae2.cli.main import build_app
from videomae2.config import known_settings, to_toml

TASKS = runs.commands()


def line(scene: Scene) -> list[str]:
    """A command line with something wrong, or at least odd, in it."""
    rng = scene.rng
    scene.copy(scene.stock.classes, "set")
    scene.copy(scene.stock.plain, "a.mp4")
    tokens = _settings_line(scene) if rng.random() < 0.65 else _tool_line(scene)
    if rng.random() < 0.25:
        tokens = _shaken(tokens, rng)
    if "quickstart" in tokens[:1] and not {"--help", "-h"} & set(tokens):
        tokens.append(f"--{text(rng)}")  # a right one would take ten minutes
        tokens += ["--seed", "x"]
    return [token.replace("\0", "") for token in tokens]


def _settings_line(scene: Scene) -> list[str]:
    rng = scene.rng
    command = rng.choice(list(TASKS))
    known = known_settings(TASKS[command].settings)
    odd: list[str] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        key = rng.choice(list(known))
        odd += _option(key, known[key].kind, rng)
    if rng.random() < 0.8:
        page = [_page_file(scene, command)] if rng.random() < 0.3 else []
        return [command, *page, *odd, "--print-config"]
    if command == "evaluate":
        base = [
            command,
            "--weights",
            str(scene.stock.run("finetuned")),
            "--data.val",
            "set",
            *DATA,
            *EVALUATION,
        ]
        return [*base, "--out", OUT, *odd]
    base = [*training(command, OUT), "--data.train", "set"]
    return [*base, *odd, "--data.workers", "0"]


def _tool_line(scene: Scene) -> list[str]:
    rng = scene.rng
    stock = scene.stock
    command = rng.choice((
        ["predict", "a.mp4", "--weights", str(stock.run("finetuned")), "--clips", "1", "--crops", "1"],
        ["reconstruct", "a.mp4", "--weights", str(stock.run("pretrained")), "--out", f"{OUT}/a.mp4"],
        ["cost"], ["cost"], ["cost"], ["sprites", OUT, "--count", "1", "--frames", "2"], ["quickstart"],
        ["weights", "show", str(stock.run("finetuned"))],
        ["weights", "convert", str(stock.run("finetuned")), f"{OUT}/a.pth", "--layout", "released"],
        ["data", "show", "set"], ["data", "check", "set"],
    ))  # fmt: skip
    names = _options_of(command)
    tokens = list(command)
    for _ in range(rng.choice((0, 1, 1, 2))):
        name = rng.choice(names) if names and rng.random() < 0.8 else f"--{rng.choice(list(SYNONYMS))}"
        tokens += [name] if rng.random() < 0.1 else [name, _value(None, rng)]
    return tokens


def _options_of(command: list[str]) -> list[str]:
    app = build_app()
    for word in command[:2]:
        if word in app:
            app = app[word]
    return [
        argument.name for argument in app.assemble_argument_collection() if argument.name.startswith("--")
    ]


def _option(key: str, kind: Any, rng: random.Random) -> list[str]:
    """An option with a value, both more or less as the command takes them."""
    name = key
    change = rng.random()
    if change < 0.1:
        name = name.replace("_", "-")
    elif change < 0.2:
        name = name.rpartition(".")[2]
    elif change < 0.3:
        name = rng.choice([*SYNONYMS, *ALIASES])
    elif change < 0.35:
        name = _typo(name, rng)
    elif change < 0.4:
        section, dot, last = name.rpartition(".")
        name = f"{section}{dot}no_{last}"
    elif change < 0.43:
        name = rng.choice((name.upper(), name.partition(".")[0], f"{name}.x", f".{name}", text(rng)))
    value = _value(kind, rng)
    form = rng.random()
    if form < 0.15:
        return [f"--{name}"]
    if form < 0.3:
        return [f"--{name}={value}"]
    if form < 0.35:
        return [f"--{name}", value, _value(kind, rng)]
    if form < 0.38:
        return [f"-{name}", value]
    return [f"--{name}", value]


def _value(kind: Any, rng: random.Random) -> str:
    words = choices(kind)
    if words and rng.random() < 0.5:
        return str(rng.choice([*words, *CHOICE_SYNONYMS, *(str(word).upper() for word in words)]))
    return number(rng) if rng.random() < 0.6 else text(rng)


def _typo(name: str, rng: random.Random) -> str:
    place = rng.randrange(len(name))
    return name[:place] + rng.choice(("", "x", name[place] * 2)) + name[place + 1 :]


def _shaken(tokens: list[str], rng: random.Random) -> list[str]:
    tokens = list(tokens)
    place = rng.randrange(len(tokens))
    change = rng.random()
    if change < 0.3:
        del tokens[place]
    elif change < 0.5:
        tokens.insert(place, text(rng))
    elif change < 0.65:
        tokens[place] = _typo(tokens[place], rng) if tokens[place] else "x"
    elif change < 0.75:
        tokens.insert(place, tokens[place])
    elif change < 0.85:
        tokens = [
            *tokens,
            rng.choice(("--help", "-h", "--version", "--debug=1", "--", "--print-config", "-")),
        ]
    else:
        tokens = tokens[: place + 1]
    if "--debug" in tokens:
        tokens.remove("--debug")
    return tokens or ["help"]


# ---- pages


def page(scene: Scene) -> list[str]:
    """A command over a page of settings."""
    rng = scene.rng
    scene.copy(scene.stock.classes, "set")
    command = rng.choice(list(TASKS))
    name = _page_file(scene, command)
    if rng.random() < 0.04:
        scene.something_else(name)
    if rng.random() < 0.88:
        return [command, name, "--print-config"]
    if command == "evaluate":
        return [command, name, *DATA, *EVALUATION, "--out", OUT]
    extra = ["--mask.decoder", "random"] if command == "pretrain" else []
    return [command, name, *DATA, *MODEL, *TRAINING, *extra, "--data.train", "set", "--out", OUT]


def _page_file(scene: Scene, command: str) -> str:
    rng = scene.rng
    content = to_toml(TASKS[rng.choice(list(TASKS)) if rng.random() < 0.1 else command].settings())
    lines = content.splitlines()
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        place = rng.randrange(len(lines))
        key, equals, _ = lines[place].partition(" = ")
        change = rng.random()
        if equals and change < 0.7:
            lines[place] = f"{key} = {_toml_value(rng)}"
        elif equals and change < 0.8:
            lines[place] = f"{_toml_key(key, rng)} = {_toml_value(rng)}"
        elif change < 0.9:
            lines.insert(place, rng.choice(lines))
        else:
            del lines[place]
        if not lines:
            break
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    if rng.random() < 0.15:
        data = damaged(data, rng)
    if rng.random() < 0.08:
        data = rng.choice(
            (
                b"",
                b"\xff\xfe",
                "a = 1".encode("utf-16"),
                b"\x00" * 100,
                b"a" * 10**6,
                b"[" * 100_000,
                b"a = " + b"[" * 50_000 + b"]" * 50_000,
                b"a = " + b"{a=" * 3000 + b"1" + b"}" * 3000,
                b"a" + b".a" * 20_000 + b" = 1",
                b"[" + b"a." * 5000 + b"a]\n",
                b"num_classes = " + b"9" * 400,
                b"num_classes = " + b"9" * 10_000,
                b"[optim]\nlength = " + b"1" * 5000,
                b"[optim]\nbase_lr = " + b"1" * 400,
                b'[run]\nout = "' + LONG.encode() + b'"',
                b"\xef\xbb\xbf[run]\n",
                b"[run]\r\nseed = 1\r\n",
                b"[[run]]\n",
                b"model = 1\n",
                b"[model.depth]\na = 1\n",
                b'"" = 1\n',
                b"[optim]\nbetas = [[[[1]]]]\n",
                b"[optim]\nbetas = [" + b"0.1," * 100_000 + b"]\n",
                b"data = [{}, {}]\n",
            )
        )
    return scene.write(rng.choice(("p.toml", "p.toml", "p", "p.txt")), data)


def _toml_value(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.4:
        return number(rng)
    if kind < 0.7:
        word = text(rng)
        return '"' + re.sub(r'[\\"\x00-\x1f\x7f]', "_", word) + '"' if rng.random() < 0.8 else word
    return rng.choice(
        (
            "true",
            "false",
            "[]",
            "[1]",
            "[1, 2]",
            "[0.9, 0.95]",
            "['a', 1]",
            "{}",
            "{a = 1}",
            "1979-05-27",
            "07:32:00",
            "1979-05-27T07:32:00Z",
            '"""\na\nb"""',
            "0xff",
            "0b1",
            "nan",
            "-inf",
            "[[1], [2]]",
            "[nan, nan]",
            '["9" , 9]',
            "1e-400",
            "[" * 90 + "]" * 90,
            f'["{LONG}"]',
            f'{{"{LONG}" = 1}}',
        )
    )


def _toml_key(key: str, rng: random.Random) -> str:
    word = rng.choice(
        (
            key.upper(),
            key.replace("_", "-"),
            _typo(key, rng),
            f"{key}.a",
            f'"{key}"',
            "lr",
            "epochs",
            "a.b",
            f'"{LONG}"',
            '"\\u0007"',
            '"a b"',
            rng.choice(list(SYNONYMS)),
        )
    )
    return str(word)
