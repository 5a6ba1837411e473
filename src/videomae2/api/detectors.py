"""Who is in a picture: detectors behind one small interface, chosen by a word such as `onnx:person.onnx`.

A detector gets moments of a video and gives the boxes of each, with scores, in pixels of its picture. Its
threshold is its own: 0.3 of one network is as sure as 0.8 of another.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from videomae2.bounds import shown
from videomae2.box_overlap import nms
from videomae2.data.augment.crops import resize
from videomae2.data.tables.box_files import Annotations, Note, read_annotations
from videomae2.errors import UserError
from videomae2.labels import Boxes


@dataclass(frozen=True)
class Moment:
    """A key frame of a video: its time in seconds, its picture in full, and the small clip about it."""

    seconds: float
    picture: UInt8[Tensor, "C H W"]
    clip: UInt8[Tensor, "T C h w"]


@runtime_checkable
class Detector(Protocol):
    """What finds actors. `threshold` is the least score of a box, `licence` whose terms hold for it."""

    name: str
    licence: str
    threshold: float
    warning: str

    def __call__(self, moments: Sequence[Moment]) -> list[Boxes]:
        """The boxes of each moment, in pixels of its picture, with scores of at least the threshold."""
        ...


def find_detector(word: str = "auto", boxes: str = "", threshold: float | None = None) -> Detector:
    """The detector that a word names, or a file of boxes.

    `transformers:NAME_OR_FOLDER`, `onnx:FILE` (or `onnx:FILE@PAGE.toml`, where the page describes its input
    and output), `motion`, or `whole`; auto is motion. UserError for what is none of these.
    """
    if boxes:
        return FileDetector(boxes, threshold)
    kind, _, name = word.partition(":")
    if kind == "transformers" and name:
        return TransformersDetector(name, threshold)
    if kind == "onnx" and name:
        return OnnxDetector(name, threshold)
    if word in ("auto", "motion"):
        return MotionDetector(threshold or 0.0)
    if word == "whole":
        return WholeFrame()
    raise UserError(
        f"expected a detector as transformers:NAME_OR_FOLDER, onnx:FILE, motion or whole, got {shown(word)}; "
        "or give a file of boxes with --boxes"
    )


def _boxes(xyxy: Tensor, scores: Tensor, picture: Tensor, threshold: float) -> Boxes:
    """Boxes inside a picture that are sure enough and have an area, best first."""
    height, width = picture.shape[-2:]
    xyxy = torch.minimum(xyxy.float().clamp(min=0), torch.tensor([width, height, width, height]).float())
    kept = (scores >= threshold) & (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    xyxy, scores = xyxy[kept], scores[kept].float()
    order = scores.argsort(descending=True, stable=True)
    return Boxes.one(xyxy[order], scores=scores[order])


# ---- a file


class FileDetector:
    """Boxes that a user has: of tracks, of another detector, or written by an earlier `detect`."""

    licence = "the user's own boxes"
    warning = ""

    def __init__(self, path: str, threshold: float | None = None) -> None:
        self.name = f"boxes of {path}"
        self.threshold = 0.0 if threshold is None else threshold
        self.annotations: Annotations = read_annotations(path, scored=True)
        self._notes = list(self.annotations.notes)
        self.moments: dict[float, list[Note]] = {}

    def of(self, video: str | Path, fps: float) -> "FileDetector":
        """The same for one video of the file; UserError where the file has others only."""
        names = {Path(note.video).stem for note in self._notes}
        stem = Path(video).stem
        if stem not in names:
            raise UserError(
                f"{self.annotations.where}: expected boxes of {shown(stem)}, got those of "
                f"{', '.join(sorted(names))[:100]}; name the video as its file is named"
            )
        self.moments = {}
        for note in (each for each in self._notes if Path(each.video).stem == stem):
            seconds = note.time if note.frame < 0 else note.frame / (fps or 25.0)
            self.moments.setdefault(round(seconds, 3), []).append(note)
        return self

    def times(self) -> list[float]:
        """The moments that the file names, in order."""
        return sorted(self.moments)

    def __call__(self, moments: Sequence[Moment]) -> list[Boxes]:
        """Those of the file at exactly these times."""
        return [self._at(moment) for moment in moments]

    def _at(self, moment: Moment) -> Boxes:
        height, width = moment.picture.shape[-2:]
        scale = torch.tensor([width, height, width, height]) if self.annotations.shares else torch.ones(4)
        found: dict[tuple[float, ...], float] = {}
        for note in self.moments.get(round(moment.seconds, 3), ()):
            if note.box is None:  # nobody is there
                continue
            found[note.box] = max(note.score, found.get(note.box, 0.0))
        xyxy = torch.tensor(list(found), dtype=torch.float32).reshape(-1, 4) * scale
        return _boxes(
            xyxy, torch.tensor(list(found.values()), dtype=torch.float32), moment.picture, self.threshold
        )


# ---- networks


class TransformersDetector:
    """An object detector of `transformers` (D-FINE, RT-DETRv2, DETR, YOLOS ...): the boxes of persons.

    Its processor runs on Pillow, so no torchvision is needed. UserError where the name has no detector.
    """

    warning = ""

    def __init__(self, name: str, threshold: float | None = None) -> None:
        try:
            from transformers import AutoImageProcessor, AutoModelForObjectDetection
        except ImportError:
            raise UserError(
                "transformers is not installed; pip install transformers, or use onnx:FILE"
            ) from None
        try:
            self.processor: Any = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                name, backend="pil"
            )
            self.network = AutoModelForObjectDetection.from_pretrained(name).eval()
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:150]
            raise UserError(
                f"expected a detector of transformers, got {shown(name)}, which has none that can be read "
                f"here: {reason}"
            ) from None
        self.name = f"transformers:{name}"
        self.threshold = 0.5 if threshold is None else threshold
        self.licence = _licence_of(Path(name))
        names = {int(number): str(label) for number, label in self.network.config.id2label.items()}
        self.persons = [number for number, label in names.items() if label.lower() in ("person", "people")]
        if not self.persons:
            self.warning = f"{self.name} has no class person: boxes of all {len(names)} classes are taken"
            self.persons = list(names)

    @torch.no_grad()
    def __call__(self, moments: Sequence[Moment]) -> list[Boxes]:
        """All pictures of one size in one forward."""
        from PIL import Image

        pictures = [Image.fromarray(each.picture.permute(1, 2, 0).contiguous().numpy()) for each in moments]
        inputs = self.processor(images=pictures, return_tensors="pt")
        outputs = self.network(**inputs)
        sizes = torch.tensor([list(each.picture.shape[-2:]) for each in moments])
        answers = self.processor.post_process_object_detection(outputs, self.threshold, target_sizes=sizes)
        result = []
        for answer, moment in zip(answers, moments, strict=True):
            chosen = torch.isin(answer["labels"], torch.tensor(self.persons))
            boxes, scores = answer["boxes"][chosen].float(), answer["scores"][chosen].float()
            result.append(_boxes(boxes, scores, moment.picture, self.threshold))
        return result


def _licence_of(folder: Path) -> str:
    """What the model card beside the weights says, if one lies there."""
    card = folder / "README.md"
    if card.is_file():
        found = re.search(
            r"^license:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
        )
        if found:
            return found[1]
    return "see its model card"


@dataclass(frozen=True)
class OnnxPage:
    """What an ONNX detector takes and gives; a TOML page beside the file says what differs.

    Pixels are (rgb - mean) / std of values 0 to 255. output: boxes, corners with scores; or ssd, offsets from
    anchors on square maps of sizes `maps`, `per_cell` anchors a cell but three in the first, with scales from
    `scales` and variances `variances` (y, x, h, w). `unit`: of corners, shares of the input or its pixels.
    """

    size: int = 0
    """Side of the input in pixels; 0: as the file says."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (255.0, 255.0, 255.0)
    output: str = "auto"
    unit: str = "pixels"
    person: int = 0
    """Number of the class of persons."""
    sigmoid: bool = False
    """Whether scores are still logits."""
    threshold: float = 0.5
    overlap: float = 0.5
    """Overlap from which the less sure of two boxes goes."""
    scales: tuple[float, float] = (0.2, 0.95)
    variances: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)
    maps: tuple[int, ...] = (19, 10, 5, 3, 2, 1)
    reduced_first: bool = True
    """Whether the first map has three anchors a cell, and not six (MobileNet SSD)."""
    licence: str = "not said"

    @classmethod
    def read(cls, path: Path) -> "OnnxPage":
        """Read a page; UserError where it is no TOML or has a key that is not known."""
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is no readable TOML page: {error}") from None
        known = {each.name: type(each.default) for each in fields(cls)}
        for key, value in values.items():
            if key not in known:
                raise UserError(
                    f"{path}: {shown(key)} is not known; a detector's page has {', '.join(known)}"
                )
            kind = known[key]
            fits = (
                isinstance(value, list)
                if kind is tuple
                else isinstance(value, kind | (int if kind is float else kind))
            )
            if not fits:
                raise UserError(f"{path}: expected {key} as {kind.__name__}, got {shown(value)}")
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**given)


class OnnxDetector:
    """A detector as an ONNX file, run by onnxruntime."""

    warning = ""

    def __init__(self, word: str, threshold: float | None = None) -> None:
        file, _, page = word.partition("@")
        path = Path(file)
        if not path.is_file():
            raise UserError(f"no ONNX file at {shown(file)}; give onnx:FILE, or onnx:FILE@PAGE.toml")
        beside = Path(page) if page else path.with_suffix(".toml")
        self.page = OnnxPage.read(beside) if page or beside.is_file() else OnnxPage()
        try:
            import onnxruntime
        except ImportError:
            raise UserError("onnxruntime is not installed; pip install 'videomae2[detect]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            reason = " ".join(str(error).split())[:150]
            raise UserError(f"{path} is no ONNX network that onnxruntime can run: {reason}") from None
        self.name = f"onnx:{path.name}"
        self.licence = self.page.licence
        self.threshold = self.page.threshold if threshold is None else threshold
        self._input = self.session.get_inputs()[0]
        self.last, self.side = _input_of(self._input.shape, self.page, path.name)
        self._anchors: Tensor | None = None

    def __call__(self, moments: Sequence[Moment]) -> list[Boxes]:
        """One forward a picture: most exported detectors have a batch of one."""
        return [self._one(moment) for moment in moments]

    def _one(self, moment: Moment) -> Boxes:
        picture = resize(moment.picture[None].contiguous(), self.side, self.side)[0].float()
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (self.page.mean, self.page.std))
        pixels = (picture - mean) / std
        pixels = pixels.permute(1, 2, 0) if self.last else pixels
        feed = pixels[None].contiguous().numpy()
        if "uint8" in self._input.type:
            feed = feed.round().astype(np.uint8)
        outputs = self.session.run(None, {self._input.name: feed})
        xyxy, scores = self.decode([torch.from_numpy(np.asarray(each)) for each in outputs])
        height, width = moment.picture.shape[-2:]
        xyxy = xyxy * torch.tensor([width, height, width, height])
        found = _boxes(xyxy, scores, moment.picture, self.threshold)
        assert found.scores is not None
        kept = nms(found.xyxy, found.scores, self.page.overlap)
        return Boxes.one(found.xyxy[kept], scores=found.scores[kept])

    def decode(self, outputs: Sequence[Tensor]) -> tuple[Float[Tensor, "N 4"], Float[Tensor, "N"]]:
        """Corners in shares of the input, and scores of persons. UserError for outputs of no known form."""
        found = [each.float().squeeze(0) for each in outputs if each.dim() >= 2]
        boxes = next((each for each in found if each.dim() == 2 and each.shape[1] == 4), None)
        scores = next(
            (
                each
                for each in found
                if each is not boxes and each.shape[0] == len(boxes if boxes is not None else ())
            ),
            None,
        )
        joined = next((each for each in found if each.dim() == 2 and each.shape[1] == 6), None)
        if self.page.output in ("auto", "boxes") and joined is not None and boxes is None:
            chosen = joined[joined[:, 5].round() == self.page.person]  # x0, y0, x1, y1, score, class
            return self._shares(chosen[:, :4]), chosen[:, 4]
        if boxes is None or scores is None or self.page.output not in ("auto", "boxes", "ssd"):
            shapes = ", ".join(str(list(each.shape)) for each in outputs)
            raise UserError(
                f"{self.name}: expected boxes [N, 4] with scores [N] or [N, K], or [N, 6], got outputs "
                f"{shapes}; describe them in a page: onnx:FILE@PAGE.toml"
            )
        scores = scores if scores.dim() == 1 else scores[:, self._person(scores.shape[1])]
        scores = scores.sigmoid() if self.page.sigmoid else scores
        if self.page.output == "ssd":
            return self._from_anchors(boxes), scores
        return self._shares(boxes), scores

    def _person(self, classes: int) -> int:
        if self.page.person >= classes:
            raise UserError(
                f"{self.name}: expected the class of persons below {classes}, got person = "
                f"{self.page.person}; mend its page"
            )
        return self.page.person

    def _shares(self, corners: Tensor) -> Tensor:
        return corners if self.page.unit == "shares" else corners / self.side

    def _from_anchors(self, offsets: Float[Tensor, "N 4"]) -> Float[Tensor, "N 4"]:
        """SSD's boxes: centres and sides (y, x, h, w) relative to anchors, in its variances."""
        if self._anchors is None:
            self._anchors = ssd_anchors(self.page)
        anchors = self._anchors
        if len(anchors) != len(offsets):
            raise UserError(
                f"{self.name}: expected {len(anchors)} boxes, as the anchors of its page make, got "
                f"{len(offsets)}; mend maps and reduced_first"
            )
        parts = offsets / torch.tensor(self.page.variances)
        centre = parts[:, :2] * anchors[:, 2:] + anchors[:, :2]
        half = parts[:, 2:].exp() * anchors[:, 2:] / 2
        low, high = centre - half, centre + half
        return torch.stack([low[:, 1], low[:, 0], high[:, 1], high[:, 0]], 1)


def _input_of(shape: Sequence[Any], page: OnnxPage, name: str) -> tuple[bool, int]:
    """Whether channels come last, and the side of the input."""
    if len(shape) != 4:
        raise UserError(
            f"onnx:{name}: expected an input of pictures [1, 3, H, W] or [1, H, W, 3], got {list(shape)}"
        )
    last = shape[3] == 3
    side = page.size or (shape[1] if last else shape[2])
    if not isinstance(side, int) or side < 1:
        raise UserError(f"onnx:{name}: its input has no fixed size; say size = 640 in its page")
    return last, side


def ssd_anchors(page: OnnxPage) -> Float[Tensor, "N 4"]:
    """Anchors (y, x, h, w) in shares of the picture, as MobileNet SSD has them (Liu et al., 2016).

    A cell has ratios 1, 2, 1/2, 3, 1/3 at its map's scale, and 1 at the geometric mean with the next map's;
    a reduced first map has a square of half the least scale, and 2 and 1/2.
    """
    low, high = page.scales
    count = len(page.maps)
    scales = [low + (high - low) * n / max(1, count - 1) for n in range(count)] + [1.0]
    anchors = []
    for number, side in enumerate(page.maps):
        scale = scales[number]
        shapes = [(scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 1 / 3)]
        shapes.append(((scale * scales[number + 1]) ** 0.5, 1.0))
        if number == 0 and page.reduced_first:
            shapes = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        for row in range(side):
            for column in range(side):
                for size, ratio in shapes:
                    y, x = (row + 0.5) / side, (column + 0.5) / side
                    anchors.append((y, x, size / ratio**0.5, size * ratio**0.5))
    return torch.tensor(anchors)


# ---- without a network


@dataclass
class MotionDetector:
    """Boxes around what moves in a clip: for one camera that stands still, and for tests."""

    threshold: float = 0.0
    name: str = "motion"
    licence: str = "part of this package"
    warning: str = (
        "actors are found by motion: whoever stands still is missed, and a moving camera is one large actor; "
        "give --detector or --boxes for persons"
    )
    least_area: float = 0.002
    """Share of the picture below which a region is noise."""
    contrast: float = 18.0
    """Grey levels from which a change counts."""

    def __call__(self, moments: Sequence[Moment]) -> list[Boxes]:
        """Regions of the key frame that differ from the clip's background, or from both neighbours."""
        return [self._one(moment) for moment in moments]

    def _one(self, moment: Moment) -> Boxes:
        from scipy import ndimage

        grey = moment.clip.float().mean(1)
        middle = len(grey) // 2
        change = (grey[middle] - grey.median(0).values).abs()
        if 0 < middle < len(grey) - 1:
            both = torch.minimum(*((grey[middle] - grey[middle + step]).abs() for step in (-1, 1)))
            change = torch.maximum(change, both)
        moving = ndimage.binary_closing((change > self.contrast).numpy(), iterations=2)
        regions, _ = ndimage.label(ndimage.binary_opening(moving))
        height, width = regions.shape
        boxes, scores = [], []
        for number, place in enumerate(ndimage.find_objects(regions), 1):
            area = float((regions[place] == number).sum()) / (height * width)
            if area >= self.least_area:
                rows, columns = place
                boxes.append(
                    [columns.start / width, rows.start / height, columns.stop / width, rows.stop / height]
                )
                scores.append(min(1.0, area / 0.02) if area < 0.02 else 1.0)
        sides = torch.tensor([moment.picture.shape[-1], moment.picture.shape[-2]] * 2)
        xyxy = torch.tensor(boxes).reshape(-1, 4) * sides
        return _boxes(xyxy, torch.tensor(scores), moment.picture, self.threshold)


class WholeFrame:
    """One box around everything: what a classifier of clips would see."""

    name = "whole"
    licence = "part of this package"
    threshold = 0.0
    warning = "the whole frame is one actor; give --detector or --boxes to tell actors apart"

    def __call__(self, moments: Sequence[Moment]) -> list[Boxes]:
        """The frame itself, of score 1."""
        return [
            Boxes.one(
                torch.tensor([[0.0, 0.0, each.picture.shape[-1], each.picture.shape[-2]]]),
                scores=torch.ones(1),
            )
            for each in moments
        ]


class Tiled:
    """A detector that also looks at 2 x 2 overlapping tiles of each picture: for people far away."""

    def __init__(self, detector: Detector, overlap: float = 0.5) -> None:
        self.detector = detector
        self.name, self.licence = f"{detector.name} in 2 x 2 tiles", detector.licence
        self.threshold, self.warning = detector.threshold, detector.warning
        self.overlap = overlap

    def __call__(self, moments: Sequence[Moment]) -> list[Boxes]:
        """Boxes of the whole picture and of its tiles, without doubles."""
        result = []
        for moment in moments:
            height, width = moment.picture.shape[-2:]
            tall, wide = -(-height * 5 // 8), -(-width * 5 // 8)
            corners = [(0, 0), (0, width - wide), (height - tall, 0), (height - tall, width - wide)]
            tiles = [
                Moment(moment.seconds, moment.picture[:, y : y + tall, x : x + wide], moment.clip)
                for y, x in corners
            ]
            found = self.detector([moment])[0], *self.detector(tiles)
            shifts = [(0, 0), *corners]
            xyxy = torch.cat(
                [f.xyxy + torch.tensor([x, y, x, y]) for f, (y, x) in zip(found, shifts, strict=True)]
            )
            scores = torch.cat([f.scores for f in found if f.scores is not None])
            kept = nms(xyxy, scores, self.overlap)
            result.append(Boxes.one(xyxy[kept], scores=scores[kept]))
        return result


def describe(detector: Detector) -> str:
    """A line for the user: which detector, its threshold and its licence."""
    return f"detector {detector.name}: threshold {detector.threshold:g}, licence {detector.licence}"
