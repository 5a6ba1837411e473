"""Who does what, where, in a raw video: key frames in order, each with its actors, in constant memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videomae2.api.detectors import Detector, FileDetector, Moment
from videomae2.api.tracks import Tracker
from videomae2.box_overlap import grown
from videomae2.data.augment.crops import resize_short_side
from videomae2.data.video.decode import VideoFile
from videomae2.errors import UserError
from videomae2.heads.spatial import SpatialDetector
from videomae2.labels import Boxes
from videomae2.settings import DataSettings

MOMENTS_AT_ONCE = 4
"""Key frames that go through detector and network together."""


@dataclass(frozen=True)
class Action:
    """What an actor does, and how sure that is, in [0, 1]: the network's share times the box's score."""

    name: str
    score: float


@dataclass(frozen=True)
class Actor:
    """One actor at one moment: an id that stays with it (0: seen once and unsure), its box, what it does.

    `box` is (x0, y0, x1, y1) in pixels of the video as displayed, `score` the detector's.
    """

    actor: int
    box: tuple[float, float, float, float]
    score: float
    actions: tuple[Action, ...]


@dataclass(frozen=True)
class KeyFrame:
    """One moment of a video, in seconds, and who is there."""

    time: float
    actors: tuple[Actor, ...]


@dataclass(frozen=True)
class Request:
    """How a video is looked at: a key frame every so many seconds, actions named above a score."""

    every: float = 1.0
    top: int = 3
    least: float = 0.1

    def __post_init__(self) -> None:
        if not 0.01 <= self.every <= 3600:
            raise UserError(f"expected a key frame every 0.01 to 3600 seconds, got {self.every:g}; try 1")


class ActionDetector:
    """A network with a head over boxes, and what finds actors: a video's key frames, one after another."""

    def __init__(
        self,
        network: SpatialDetector,
        names: Sequence[str],
        data: DataSettings,
        kept: dict[str, Any],
        detector: Detector,
    ) -> None:
        self.network, self.names, self.data, self.detector = network, tuple(names), data, detector
        grid = network.encoder.config.grid
        self.length = grid.num_frames
        self.side = int(kept.get("test_size") or 0) or min(grid.height, grid.width)
        growth = kept.get("box_growth") or (0.0, 0.0)
        self.growth = float(growth[0]), float(growth[1])

    def key_frames(self, path: str | Path, request: Request) -> Iterator[KeyFrame]:
        """The key frames in order of time. UserError (DecodeError) where the video cannot be read."""
        tracker = Tracker(self.detector.threshold)
        waiting: list[Moment] = []
        with VideoFile(path) as video:
            for moment in self._moments(video, request):
                waiting.append(moment)
                if len(waiting) == MOMENTS_AT_ONCE:
                    yield from self._answers(waiting, tracker, request)
                    waiting = []
            if waiting:
                yield from self._answers(waiting, tracker, request)

    def _answers(self, moments: list[Moment], tracker: Tracker, request: Request) -> Iterator[KeyFrame]:
        found = [_rounded(boxes) for boxes in self.detector(moments)]
        for moment, boxes, shares in zip(moments, found, self._scores(moments, found), strict=True):
            assert boxes.scores is not None, "found boxes have scores"
            actors = tracker.update(moment.seconds, boxes.xyxy, boxes.scores)
            people = []
            for number, box, score, share in zip(actors, boxes.xyxy, boxes.scores, shares, strict=True):
                best = share.argsort(descending=True, stable=True)[: request.top].tolist()
                actions = [
                    Action(self.names[k], round(float(share[k]), 4))
                    for k in best
                    if share[k] >= request.least
                ]
                x0, y0, x1, y1 = (round(corner, 2) for corner in box.tolist())
                people.append(Actor(number, (x0, y0, x1, y1), round(float(score), 4), tuple(actions)))
            yield KeyFrame(round(moment.seconds, 3), tuple(people))

    @torch.inference_mode()
    def _scores(self, moments: list[Moment], found: list[Boxes]) -> list[Tensor]:
        """[A, K] of each moment: all clips, and all boxes, in one forward."""
        device = next(self.network.parameters()).device
        clips = torch.stack([moment.clip for moment in moments]).to(device)
        scale = clips.shape[-1] / moments[0].picture.shape[-1], clips.shape[-2] / moments[0].picture.shape[-2]
        boxes = Boxes.stack(found)
        assert boxes.scores is not None, "found boxes have scores"
        if not len(boxes.xyxy):
            return [torch.zeros(0, len(self.names)) for _ in moments]
        placed = boxes.xyxy * boxes.xyxy.new_tensor([*scale, *scale])
        placed = grown(placed, *self.growth, (clips.shape[-2], clips.shape[-1]))
        logits = self.network(clips, placed.to(device), boxes.clip.to(device))
        shares = logits.float().sigmoid().cpu() * boxes.scores[:, None]
        return list(shares.split(boxes.counts.tolist()))

    def _moments(self, video: VideoFile, request: Request) -> Iterator[Moment]:
        """Each key frame with its clip; every frame of the video is decoded once, and few are kept."""
        plan = _Plan.of(video, self.length, self.data, self._times(video, request))
        small: dict[int, Tensor] = {}
        pictures: dict[int, Tensor] = {}
        place, picture = 0, None
        for number, frame in video.walk(plan.wants):
            # A copy where the file says to turn its pictures: that is a view with steps back.
            picture = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
            small[number] = resize_short_side(picture[None], self.side)[0]
            for key in plan.keys_up_to(number, place):
                pictures.setdefault(key, picture)  # itself, or the first one shown after it
            while place < len(plan.seconds) and plan.frames(place)[-1] <= number:
                yield plan.moment(place, small, pictures)
                place += 1
            first = int(plan.frames(place)[0]) if place < len(plan.seconds) else number + 1
            for old in [each for each in small if each < first]:
                del small[old]
            for old in [each for each in pictures if place >= len(plan.seconds) or each < plan.keyed[place]]:
                del pictures[old]
        while place < len(plan.seconds) and small and picture is not None:
            # The file promised frames that it did not show: the last one shown stays on the screen.
            pictures.setdefault(int(plan.keyed[place]), picture)
            yield plan.moment(place, small, pictures)
            place += 1

    def _times(self, video: VideoFile, request: Request) -> list[float]:
        if isinstance(self.detector, FileDetector):
            return self.detector.of(video.name, video.fps).times()
        seconds = video.num_frames / (video.fps or 25.0)
        # The middle of each stretch, so that a clip shows what is in the whole of it.
        count = max(1, round(seconds / request.every))
        return [min((n + 0.5) * request.every, seconds / 2 if count == 1 else seconds) for n in range(count)]


def _rounded(boxes: Boxes) -> Boxes:
    """Boxes as they are written: what is read back as --boxes must give the same answers."""
    assert boxes.scores is not None, "found boxes have scores"
    return Boxes(
        xyxy=boxes.xyxy.round(decimals=2), counts=boxes.counts, scores=boxes.scores.round(decimals=4)
    )


class _Plan:
    """Which frames each key frame needs: numbers only, 8 bytes a key frame."""

    def __init__(self, keyed: np.ndarray, seconds: list[float], offsets: np.ndarray, last: int) -> None:
        self.keyed, self.seconds, self.offsets, self.last = keyed, seconds, offsets, last
        self._next = 0

    @classmethod
    def of(cls, video: VideoFile, length: int, data: DataSettings, times: list[float]) -> "_Plan":
        fps, count = video.fps or 25.0, video.num_frames
        # As in training: by number, or by a clock of its own rate.
        stride = data.stride * (fps / data.target_fps if data.target_fps > 0 else 1.0)
        if video.constant_rate:
            keyed = np.floor(np.array(times) * fps + 0.5).astype(np.int64)
        else:
            keyed = np.searchsorted(video.timestamps(), np.array(times) + 1e-6, side="right") - 1
        beyond = [time for time, key in zip(times, keyed.tolist(), strict=True) if key > count]
        if beyond:
            raise UserError(
                f"{video.name}: the key time {beyond[0]:g} s is beyond its end at {count / fps:g} s; are "
                "these the boxes of another video?"
            )
        keyed = np.clip(keyed, 0, count - 1)
        offsets = np.round((np.arange(length) - length // 2) * stride).astype(np.int64)
        return cls(keyed, times, offsets, count - 1)

    def frames(self, place: int) -> np.ndarray:
        """The frame that each place of the clip shows."""
        wanted: np.ndarray = np.clip(self.keyed[place] + self.offsets, 0, self.last)
        return wanted

    def wants(self, number: int) -> bool:
        """Whether some key frame needs this frame; asked in ascending order."""
        while self._next < len(self.keyed) and self.frames(self._next)[-1] < number:
            self._next += 1
        place = self._next
        while place < len(self.keyed):
            frames = self.frames(place)
            if frames[0] > number:
                return False
            if number in frames:
                return True
            place += 1
        return False

    def keys_up_to(self, number: int, place: int) -> list[int]:
        """Key frames from `place` on that are not after frame `number`."""
        return [int(key) for key in self.keyed[place : np.searchsorted(self.keyed, number, side="right")]]

    def moment(self, place: int, small: dict[int, Tensor], pictures: dict[int, Tensor]) -> Moment:
        """The key frame `place`; a frame that was not shown is the one before it on the screen."""
        shown = sorted(small)
        chosen = [
            small.get(int(n), small[shown[max(0, int(np.searchsorted(shown, n, "right")) - 1)]])
            for n in self.frames(place)
        ]
        return Moment(self.seconds[place], pictures[int(self.keyed[place])], torch.stack(chosen))
