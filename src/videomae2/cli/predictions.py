"""What `predict` reads, prints and writes: files, folders, globs, lists, URLs, a camera; a row a video.

A table or one JSON object a line on stdout, or a file; progress and what could not be read on stderr.
"""

import csv
import glob
import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from videomae2.api.model import Model, Prediction, load
from videomae2.data.file_names import is_video, kind_of, must_be_ours, path_column, printable, shown_path
from videomae2.data.tables.lists import find_videos
from videomae2.data.tables.manifest import Manifest, Row, read_manifest
from videomae2.data.video.live import is_live, live_clips
from videomae2.engine.device import keep_freed_memory, precision_note
from videomae2.engine.progress import progress, say
from videomae2.errors import UserError
from videomae2.files import encoded, json_text, replacing
from videomae2.records import Failure

LISTS = (".csv", ".tsv", ".txt", ".csv.gz", ".parquet", ".arrow", ".feather")
"""Endings of lists of videos; what has another ending is taken for a video."""
ENDINGS = (".csv", ".jsonl", ".parquet")
"""What predictions are written as."""
MADE_BY = {"made_by": "videomae2 predict"}
"""Metadata of a Parquet file of ours."""
FAILURES_TOLD = 5
"""Unreadable videos that are printed where the results go to a file, at most."""


@dataclass(frozen=True)
class Answered:
    """One video, or a part of one, with its classes, best first, or the reason why there are none."""

    file: str
    found: Sequence[Prediction] = ()
    error: str = ""
    start: int = 0
    end: int = -1
    seconds: float | None = None

    @property
    def title(self) -> str:
        """The file, with the part of it that was seen."""
        if self.seconds is not None:
            return f"{self.file}, {self.seconds:.1f} s"
        part = f", frames {self.start} to {'the end' if self.end < 0 else self.end - 1}"
        return self.file + (part if (self.start, self.end) != (0, -1) else "")

    def as_json(self) -> str:
        """One JSON object: the file (and its part), and its classes, best first, or the error."""
        about: dict[str, Any] = {"file": self.file}
        if (self.start, self.end) != (0, -1):
            about |= {"start": self.start, "end": self.end}
        if self.seconds is not None:
            about |= {"seconds": round(self.seconds, 3)}
        found = {"predictions": [asdict(each) for each in self.found]}
        return json_text(about | ({"error": self.error} if self.error else found))

    def as_table(self) -> str:
        """The file, and a line for each class with a bar as long as its score."""
        if self.error:
            return f"{self.title}\n  could not be read: {self.error}"
        width = max(len(each.name) for each in self.found)
        lines = [
            f"  {each.name:<{width}}  {100 * each.score:5.1f} %  {'█' * round(30 * each.score)}".rstrip()
            for each in self.found
        ]
        return "\n".join([self.title, *lines])


def predict_videos(
    sources: Sequence[str],
    weights: str,
    *,
    as_json: bool = False,
    out: Path | None = None,
    top: int = 5,
    clips: int = 5,
    crops: int = 3,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
) -> None:
    """Name the best classes of each video, on stdout or in `out`.

    A video that cannot be read is a row that says why; UserError, after all were tried, if there is any.
    """
    live = _live_source(sources)
    if out is not None:
        must_be_ours(
            out, ENDINGS, _is_ours, "predictions", "holds no predictions; give another --out, or remove it"
        )
    manifest = None if live else listed(sources)
    model = load(weights, device=device, precision=precision)
    if model.device.type == "cpu":
        keep_freed_memory()
        if note := precision_note(model.device, precision, "--precision"):
            say(note)
    if manifest is None:
        answers, count = _live_answers(model, live, top, crops), 0
    else:
        found = model.predict_each(manifest, top, clips, crops, workers=workers, on_error="record")
        answers, count = _answers(found, manifest), len(manifest)
    told = _told(answers, count, as_json, out)
    if out is not None:
        write_predictions(told, out, min(top, len(model.class_names)))
        print(out)
    _sum_up(told, out)


def listed(sources: Sequence[str]) -> Manifest:
    """The videos that the words of a line name, in their order: one manifest.

    A word is a video, a folder (with all below it), a glob, a list of videos, or a URL. UserError where one
    names nothing.
    """
    rows = [row for source in sources for row in _rows(source)]
    columns: dict[str, Any] = {
        name: [getattr(row, name) for row in rows] for name in ("start", "end", "stride", "pattern")
    }
    paths = path_column([row.path for row in rows])
    return Manifest(pa.table({"path": paths} | columns), where="the videos to predict")


def _rows(source: str) -> list[Row]:
    if "://" in source:
        return [Row(source)]
    kind = kind_of(source)
    if kind == "folder":
        found = find_videos(Path(source))
        for note in found.notes():
            say(f"{shown_path(source)}: {note}")
        return [Row(str(Path(source) / name)) for name in found.videos]
    if not kind and glob.has_magic(source):
        matched = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute one
        named = [path for path in matched if is_video(path) or kind_of(path) == "folder"]
        if not named:
            raise UserError(
                f"no video matches {shown_path(source)}"
                + (f", only {len(matched)} other files" if matched else "")
                + "; mend the pattern, or give files or a folder"
            )
        return [row for path in named for row in _rows(path)]
    if source.lower().endswith(LISTS):
        manifest = read_manifest(source)
        return [manifest.row(number) for number in range(len(manifest))]
    return [Row(source)]


def _live_source(sources: Sequence[str]) -> str:
    """The camera or stream among the sources, if any; it must be alone, since it does not end."""
    live = [source for source in sources if is_live(source) and not kind_of(source)]
    if live and len(sources) > 1:
        raise UserError(
            f"expected a camera or a stream alone, got {live[0]} beside {len(sources) - 1} more; "
            "give it alone"
        )
    return live[0] if live else ""


def _answers(found: Iterator[Any], manifest: Manifest) -> Iterator[Answered]:
    for number, each in enumerate(found):
        row = manifest.row(number)
        about: dict[str, Any] = {"file": printable(row.path), "start": row.start, "end": row.end}
        if isinstance(each, Failure):
            yield Answered(error=each.reason, **about)
        else:
            yield Answered(found=each, **about)


def _live_answers(model: Model, source: str, top: int, crops: int) -> Iterator[Answered]:
    """An answer for each clip of a camera or a stream, until it ends or Ctrl-C is pressed."""
    say(f"watching {shown_path(source)}; Ctrl-C ends it")
    data, frames = model.data, model.settings.num_frames
    try:
        for seconds, clip in live_clips(source, frames, data.stride, data.target_fps):
            yield Answered(source, model.predict(clip, top, 1, crops), seconds=seconds)
    except KeyboardInterrupt:
        return


def _told(answers: Iterator[Answered], count: int, as_json: bool, out: Path | None) -> list[Answered]:
    """All answers; each printed as it comes, unless they go to a file."""
    told, stdout = [], sys.stdout  # the bar puts something of its own in the place of sys.stdout
    # Where the answers themselves appear on the terminal, they are the progress.
    shows_bar = count > 1 and (out is not None or not stdout.isatty())
    with progress("predict", count) if shows_bar else nullcontext() as bar:
        for each in answers:
            told.append(each)
            if bar is not None:
                bar.advance()
            if out is None:
                if each.error and count == 1:
                    raise UserError(f"{each.file}: {each.error}")
                print(each.as_json() if as_json else each.as_table(), file=stdout, flush=count == 0)
    return told


def _sum_up(told: Sequence[Answered], out: Path | None) -> None:
    failed = [each for each in told if each.error]
    if out is not None:
        say(f"{len(told)} rows, {len(told) - len(failed)} predicted, {len(failed)} could not be read")
        for each in failed[:FAILURES_TOLD]:
            say(f"  {each.title}: {each.error}")
    if failed:
        rows = f"; column error of {out} says why" if out else ""
        raise UserError(
            f"{len(failed)} of {len(told)} files could not be read; the first is {failed[0].file}{rows}"
        )


# ---- as a file


def _is_ours(path: Path) -> bool:
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet

            made = pyarrow.parquet.read_schema(path).metadata or {}
            return all(made.get(key.encode()) == value.encode() for key, value in MADE_BY.items())
        with path.open(encoding="utf-8") as file:
            first = file.readline(10_000)
        if path.suffix.lower() == ".csv":
            return first.startswith("file,") and "error,name_1,score_1,label_1" in first
        line = json.loads(first)
        return isinstance(line, dict) and "file" in line and bool({"predictions", "error"} & set(line))
    except (OSError, ValueError, pa.ArrowException):
        return False


def write_predictions(told: Sequence[Answered], out: Path, classes: int) -> None:
    """Write a row for each answer with its `classes` best, whole or not at all."""
    with replacing(out) as temporary:
        if out.suffix.lower() == ".jsonl":
            temporary.write_bytes(encoded("".join(f"{each.as_json()}\n" for each in told)))
            return
        table = pa.Table.from_pylist(_columns(told, classes), _schema(told, classes))
        if out.suffix.lower() == ".parquet":
            import pyarrow.parquet

            pyarrow.parquet.write_table(table.replace_schema_metadata(MADE_BY), temporary)
        else:
            text = io.StringIO()
            writer = csv.DictWriter(text, table.column_names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table.to_pylist())
            temporary.write_bytes(encoded(text.getvalue()))


def _schema(told: Sequence[Answered], classes: int) -> pa.Schema:
    columns = {"file": pa.string()}
    if any((each.start, each.end) != (0, -1) for each in told):
        columns |= {"start": pa.int64(), "end": pa.int64()}
    if any(each.seconds is not None for each in told):
        columns |= {"seconds": pa.float64()}
    columns |= {"error": pa.string()}
    for place in range(1, classes + 1):
        columns |= {f"name_{place}": pa.string(), f"score_{place}": pa.float64()}
        columns |= {f"label_{place}": pa.int64()}
    return pa.schema(list(columns.items()))


def _columns(told: Sequence[Answered], classes: int) -> list[dict[str, Any]]:
    rows = []
    for each in told:
        row: dict[str, Any] = {"file": each.file, "start": each.start, "end": each.end}
        row |= {"seconds": each.seconds, "error": each.error or None}
        for place, best in enumerate(each.found[:classes], 1):
            row |= {f"{name}_{place}": value for name, value in asdict(best).items()}
        rows.append(row)
    return rows
