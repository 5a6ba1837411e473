"""Which frames matter to a reader, and so which ones its decoder may leave out."""

from videomae2.data.video.numbering import REORDER

_PLAIN_REFERENCES = ("h264", "mpeg4", "mpeg2video", "mpeg1video")
"""Codecs in which what is marked as no reference is none; HEVC's "sub-layer non-reference" may still serve
higher layers.
"""
_FAR_REFERENCES = (*_PLAIN_REFERENCES, "hevc", "vp8", "vp9")
"""Codecs in which it serves no frame further than `REORDER` away. AV1's decoder leaves out frames that should
be shown.
"""


class Wanted:
    """The numbers that are wanted, ascending, and how many of them are done; nothing may be left out until
    `only` says so.

    While `sparing`, any unwanted frame may be left out; otherwise only those well before the next wanted one
    may.
    """

    def __init__(self) -> None:
        self.all()

    def all(self) -> None:
        """Every frame matters from now on."""
        self._numbers, self._members, self._next, self.sparing, self._far = (
            [0],
            frozenset({0}),
            0,
            False,
            False,
        )

    def only(self, numbers: list[int], codec: str, seekable: bool) -> None:
        """From now on only these frames matter."""
        self._numbers, self._members, self._next = numbers, frozenset(numbers), numbers[0]
        self.sparing = seekable and codec in _PLAIN_REFERENCES
        self._far = seekable and codec in _FAR_REFERENCES

    def pass_on(self, done: int) -> None:
        """`done` of the wanted frames are done."""
        self._next = self._numbers[done]

    def stop_sparing(self) -> bool:
        """Decode frames beside the wanted ones after all; whether that changes anything."""
        was, self.sparing = self.sparing, False
        return was

    def may_spare(self, number: int, num_sent: int) -> bool:
        """Whether the decoder may leave out the frame it gets next, if no other refers to it.

        `number` is its own (-1: it has none), `num_sent` its place in order of decoding.
        """
        if self.sparing:
            return number >= 0 and number not in self._members
        return self._far and num_sent + REORDER < self._next
