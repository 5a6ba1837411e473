"""Lists of videos as people and programs write them, and worse: text in all dialects, tables, folders."""

import csv
import gzip
import io
import json
import os
import socket
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from fuzz_bytes import LONG, NUMBERS, damaged, number, text
from fuzz_scene import OUT, Scene
from fuzz_stock import DATA, EVALUATION, MODEL, TRAINING

HEADERS = (
    "path",
    "label",
    "start",
    "end",
    "stride",
    "source",
    "pattern",
    "class",
    "Path",
    " path",
    "LABEL",
    "id",
    "",
    "split",
    "video",
    "filename",
    "path ",
    "label\u00a0",
    "path\ufeff",
    "_",
    LONG,
)


def case(scene: Scene) -> list[str]:
    """A command over a list."""
    rng = scene.rng
    scene.copy(scene.stock.plain, "v/0.mp4")
    scene.copy(scene.stock.plain, "v/1.mp4")
    scene.copy(scene.stock.frames, "v/f")
    make = rng.choice((_text_table, _text_table, _text_table, _list, _list, _table, _table, _folder))
    name = make(scene)
    if rng.random() < 0.03:
        scene.something_else(name)
    return _command(scene, name)


def _command(scene: Scene, name: str) -> list[str]:
    rng = scene.rng
    options: list[str] = []
    if rng.random() < 0.2:
        options += ["--list-format", rng.choice(("auto", "pretrain", "video", "frames", "frame"))]
    if rng.random() < 0.1:
        options += ["--root", rng.choice(("v", "/", ".", "nowhere", LONG))]
    if rng.random() < 0.1:
        options += [
            "--frame-pattern",
            rng.choice(
                (
                    "img_{:05}.jpg",
                    "{:05",
                    "{}",
                    "{0.__class__}",
                    "{:99999999}",
                    "img.jpg",
                    "{:c}",
                    "{a}",
                    "%05d.jpg",
                    "",
                    "{:05d}.png",
                )
            ),
        ]
    kind = rng.random()
    if kind < 0.7:
        return ["data", "show", name, *options]
    if kind < 0.82:
        return ["data", "check", name, "--workers", "1", *options]
    options = [
        option.replace("--", "--data.", 1).replace("-f", "_f").replace("-p", "_p")
        if option.startswith("--")
        else option
        for option in options
    ]
    if kind < 0.92:
        weights = str(scene.stock.run("finetuned"))
        return [
            "evaluate",
            "--weights",
            weights,
            "--data.val",
            name,
            *DATA,
            *EVALUATION,
            *options,
            "--out",
            OUT,
        ]
    command = rng.choice(("finetune", "finetune", "pretrain"))
    extra = ["--num_classes", rng.choice(NUMBERS)] if rng.random() < 0.1 and command == "finetune" else []
    if command == "pretrain":
        extra = ["--mask.decoder", "random"]
    return [command, *MODEL, *DATA, *TRAINING, "--data.train", name, *options, *extra, "--out", OUT]


def _path(scene: Scene) -> str:
    rng = scene.rng
    if rng.random() < 0.6:
        return rng.choice(("v/0.mp4", "v/1.mp4", "v/f", "v/f/img_00001.jpg", str(scene.folder / "v/0.mp4")))
    return text(rng)


def _label(scene: Scene) -> str:
    rng = scene.rng
    if rng.random() < 0.6:
        return rng.choice(("0", "1", "jump", "run"))
    return text(rng) if rng.random() < 0.5 else number(rng)


def _cell(scene: Scene, column: str) -> str:
    name = column.strip().lower()
    if name == "path":
        return _path(scene)
    if name in ("label", "class"):
        return _label(scene)
    if name in ("start", "end", "stride"):
        return (
            scene.rng.choice(("0", "1", "4", "", "-1", "8"))
            if scene.rng.random() < 0.8
            else number(scene.rng)
        )
    if name == "pattern":
        return scene.rng.choice(("", "img_{:05}.jpg", "img_{:05}.png", "{", "{:>999999999}", "{0.a}", "{:d"))
    return text(scene.rng)


def _columns(scene: Scene) -> list[str]:
    rng = scene.rng
    columns = ["path", "label"]
    if rng.random() < 0.5:
        columns += rng.sample(HEADERS, rng.randint(1, 4))
    if rng.random() < 0.15:
        columns.remove(rng.choice(columns))
    if rng.random() < 0.2:
        rng.shuffle(columns)
    return columns


def _text_table(scene: Scene) -> str:
    rng = scene.rng
    columns = _columns(scene)
    separator = rng.choice((",", ",", ",", ";", "\t", "|", ":", " ", "\x01"))
    out = io.StringIO()
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    end = rng.choice(("\n", "\n", "\r\n", "\r"))
    writer = csv.writer(out, delimiter=separator, quoting=quoting, lineterminator=end)
    writer.writerow(columns)
    for _ in range(rng.choice((0, 1, 2, 4, 4, 50))):
        row = [_cell(scene, column) for column in columns]
        if rng.random() < 0.02:
            row += [text(rng)]
        writer.writerow(row)
    written = out.getvalue()
    if rng.random() < 0.2:
        written = written.replace(separator, rng.choice((f"{separator} ", f" {separator}", f"\t{separator}")))
    if rng.random() < 0.1:
        written = rng.choice(("\n\n", "#", "\ufeff\ufeff", '"', "path\n", LONG * 40)) + written
    encoding = rng.choice(
        ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "shift-jis")
    )
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    data = (
        written.encode("utf-8", "surrogatepass") if "\ud800" in written else written.encode(encoding, errors)
    )
    return _named(
        scene, data, rng.choice(("a.csv", "a.csv", "a.tsv", "a.txt", "a", "a.CSV", "a.list", "a.json"))
    )


def _named(scene: Scene, data: bytes, name: str) -> str:
    rng = scene.rng
    if rng.random() < 0.25:
        data = damaged(data, rng)
    if rng.random() < 0.1:
        data = gzip.compress(data)
        data = damaged(data, rng) if rng.random() < 0.5 else data
        name = f"{name}.gz" if rng.random() < 0.9 else name
    return scene.write(name, data)


def _list(scene: Scene) -> str:
    rng = scene.rng
    count, separator = rng.choice((0, 1, 1, 2, 3, 3, 4)), rng.choice((" ", " ", " ", ",", "\t", ";", "  "))
    lines = []
    for _ in range(rng.choice((1, 2, 4, 40))):
        odd = rng.random() < 0.15
        cells = [number(rng) if odd else str(rng.choice((-1, 0, 1, 2, 8))) for _ in range(count)]
        path = _path(scene)
        path = f'"{path}"' if rng.random() < 0.1 else path
        lines.append(separator.join([path, *cells]))
        if rng.random() < 0.03:
            lines.append(rng.choice(("", "#", "# comment", text(rng), "v/0.mp4 0 0 0 0 0", "\x00")))
    data = "\n".join(lines).encode("utf-8", "replace" if rng.random() < 0.1 else "surrogatepass")
    return _named(scene, data, rng.choice(("a.txt", "a.txt", "list", "a.lst", "a.csv")))


_ARRAYS: tuple[Callable[[int], Any], ...] = (
    lambda n: pa.array(["v/0.mp4"] * n),
    lambda n: pa.array([None] * n),
    lambda n: pa.array([[1]] * n),
    lambda n: pa.array([{"a": 1}] * n),
    lambda n: pa.array([b"v/\xff.mp4"] * n),
    lambda n: pa.array([1.5] * n),
    lambda n: pa.array([float("nan")] * n),
    lambda n: pa.array([2**63] * n, pa.uint64()),
    lambda n: pa.array([True] * n),
    lambda n: pa.array([date(2020, 1, 1)] * n),
    lambda n: pa.array([datetime(2020, 1, 1)] * n),
    lambda n: pa.array(["a"] * n).dictionary_encode(),
    lambda n: pa.array([1] * n, pa.int8()),
    lambda n: pa.array([0, *[None] * (n - 1)][:n], pa.int32()),
    lambda n: pa.array([LONG] * n, pa.large_string()),
    lambda n: pa.array([b"0123"] * n, pa.binary(4)),
    lambda n: pa.array([1] * n, pa.decimal128(38, 0)),
    lambda n: pa.array([1] * n, pa.duration("s")),
    lambda n: pa.array(range(n), pa.int64()),
    lambda n: pa.array([0] * n, pa.int64()),
    lambda n: pa.array(["a\x00b"] * n),
    lambda n: pa.array([1.0] * n, pa.float32()),
    lambda n: pa.array([-(2**63)] * n, pa.int64()),
)


def _table(scene: Scene) -> str:
    rng = scene.rng
    rows = rng.choice((0, 1, 3, 3, 100))
    good: dict[str, Any] = {"path": pa.array(["v/0.mp4", "v/1.mp4"] * 50)[:rows],
                            "label": pa.array([0, 1] * 50, pa.int64())[:rows]}  # fmt: skip
    names, arrays = [], []
    for name in _columns(scene):
        names.append(name)
        plain = good.get(name) if rng.random() < 0.7 else None
        arrays.append(plain if plain is not None else rng.choice(_ARRAYS)(rows))
    table = pa.Table.from_arrays(arrays, names=names)
    if rng.random() < 0.4:
        stored = rng.choice(
            (
                b"",
                b"[]",
                b'["a","b"]',
                b'["a"]',
                b"\xff",
                b"{}",
                b"[1,2]",
                b"[" * 5000,
                b'"a"',
                json.dumps(["a"] * 2).encode(),
                json.dumps([LONG, "b"]).encode(),
                b"null",
            )
        )
        table = table.replace_schema_metadata(
            {b"class_names": stored, b"class_names_from": rng.choice((b"x", b""))}
        )
    sink = io.BytesIO()
    form = rng.choice((".arrow", ".arrow", ".feather", "stream", ".parquet", ".parquet"))
    try:
        if form == ".parquet":
            pyarrow.parquet.write_table(table, sink)
        else:
            new = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
            with new(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=rng.choice((1, None)))
    except pa.ArrowException:
        sink = io.BytesIO(b"")
    data = sink.getvalue()
    if rng.random() < 0.6:
        data = damaged(data, rng)
    ending = {"stream": ".arrow"}.get(form, form)
    return scene.write(f"a{rng.choice((ending,) * 8 + ('.arrow', '.parquet', '.csv', '.txt'))}", data)


def _folder(scene: Scene) -> str:
    rng, root = scene.rng, scene.folder / "set"
    names = (
        "jump",
        "run",
        "0",
        "1",
        "10",
        "007",
        "train",
        "val",
        ".hidden",
        "@eaDir",
        "a b",
        "é",
        "a.mp4",
        "n" * 200,
        "caf\udce9",
        "a\nb",
        "-",
        "[x]",
        "{x}",
        "__MACOSX",
        "JUMP",
        "test",
        "a;b",
        " ",
    )
    for _ in range(rng.randint(0, 8)):
        folder = root / "/".join(rng.choices(names, k=rng.choice((0, 1, 1, 1, 2, 3))))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / rng.choice(
                (
                    "0.mp4",
                    "1.MP4",
                    "12:30.mp4",
                    "._0.mp4",
                    "a.txt",
                    "b.mov",
                    "caf\udce9.mp4",
                    "a\nb.mp4",
                    "%s.mp4",
                    "n" * 240 + ".mp4",
                )
            )
            _put(scene, str(target))
        except OSError:
            continue
    root.mkdir(exist_ok=True)
    return rng.choice(("set", "set", "set", "set/", "./set", "set/jump", str(root)))


def _put(scene: Scene, target: str) -> None:
    """At a path: a video, a broken one, or something that is no file."""
    rng = scene.rng
    kind = rng.choice(
        ("video",) * 5 + ("broken", "link", "loop", "pipe", "socket", "device", "folder", "up", "private")
    )
    if os.path.lexists(target):
        return
    if kind in ("video", "broken", "private"):
        data = scene.stock.plain.read_bytes()
        with Path(target).open("wb") as file:
            file.write(damaged(data, rng) if kind == "broken" else data)
        if kind == "private":
            Path(target).chmod(0)
    elif kind == "pipe":
        os.mkfifo(target)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(target) if len(target) > 100 else target)
    elif kind == "folder":
        Path(target).mkdir()
    else:
        leads = {"link": str(scene.stock.plain), "loop": target, "device": "/dev/zero", "up": ".."}
        Path(target).symlink_to(leads[kind])
