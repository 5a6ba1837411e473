"""Which box is which actor's: boxes of one key frame after another, joined into tracks with an id each.

The association is ByteTrack's (Zhang et al., 2022) on scipy's assignment: sure boxes are matched with tracks
first, then the rest with the tracks that are left, so that an actor half hidden keeps its id; only a sure box
begins a track. Online: memory is that of the tracks alive.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from videomae2.box_overlap import iou


@dataclass
class _Track:
    actor: int
    box: Tensor
    seconds: float
    speed: Tensor
    missed: int = 0

    def at(self, seconds: float) -> Tensor:
        """Where it should be: its centre goes on as it went, its size stays."""
        move = self.speed * (seconds - self.seconds)
        return self.box + torch.cat([move, move])


class Tracker:
    """Gives each box of each key frame an actor's id, from 1 on, in the order in which actors appear.

    `sure` is the score from which a box is matched first and may begin a track; `overlap` the least overlap
    with where a track should be; a track ends when it was `patience` key frames long not seen.
    """

    def __init__(self, sure: float, overlap: float = 0.2, patience: int = 3) -> None:
        self.sure, self.overlap, self.patience = sure, overlap, patience
        self._tracks: list[_Track] = []
        self._given = 0

    def update(self, seconds: float, boxes: Float[Tensor, "A 4"], scores: Float[Tensor, "A"]) -> list[int]:
        """The actor of each box of the next key frame; 0 for an unsure box that belongs to no track."""
        actors = [0] * len(boxes)
        free = list(self._tracks)
        for chosen in (scores >= self.sure, scores < self.sure):
            places = chosen.nonzero()[:, 0].tolist()
            for place, track in self._pairs(seconds, boxes, places, free):
                self._follow(track, boxes[place], seconds)
                actors[place] = track.actor
                free.remove(track)
        for place in (scores >= self.sure).nonzero()[:, 0].tolist():
            if not actors[place]:
                self._given += 1
                actors[place] = self._given
                self._tracks.append(_Track(self._given, boxes[place], seconds, torch.zeros(2)))
        for track in free:
            track.missed += 1
        self._tracks = [track for track in self._tracks if track.missed <= self.patience]
        return actors

    def _pairs(
        self, seconds: float, boxes: Tensor, places: list[int], tracks: list[_Track]
    ) -> list[tuple[int, _Track]]:
        if not places or not tracks:
            return []
        from scipy.optimize import linear_sum_assignment

        expected = torch.stack([track.at(seconds) for track in tracks])
        # Where it was counts too: who turned round is not where the line goes on.
        stayed = torch.stack([track.box for track in tracks])
        shared = torch.maximum(iou(boxes[places], expected), iou(boxes[places], stayed))
        rows, columns = linear_sum_assignment(-shared.numpy())
        return [
            (places[row], tracks[column])
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
            if shared[row, column] >= self.overlap
        ]

    @staticmethod
    def _follow(track: _Track, box: Tensor, seconds: float) -> None:
        passed = seconds - track.seconds
        if passed > 0:
            centres = [(each[:2] + each[2:]) / 2 for each in (track.box, box)]
            track.speed = (centres[1] - centres[0]) / passed
        track.box, track.seconds, track.missed = box, seconds, 0
