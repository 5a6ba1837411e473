"""One open video stream: seeks to a group of pictures and yields its frames with their exact numbers."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import av

from videomae2.data.video import frame_index, opening
from videomae2.data.video.frame_index import MistimedError, Wanted, numbered
from videomae2.data.video.opening import DecodeError, VideoSource
from videomae2.data.video.transport import Patience

_BEFORE_A_JOIN = 2
_KEPT_BYTES = 64 << 20
"""Most memory for the frames of a video that had to be decoded to be counted."""


class FrameStream:
    """The best video stream of a source, decoded by one thread unless told.

    `index` knows the key frames. `frames_decoded` counts the decoder's work over the stream's life;
    `num_sent` is how far, in order of decoding, the current pass has come. Frames that are not `wanted` and
    that no other frame refers to are not decoded.
    """

    def __init__(self, source: VideoSource, threads: int = 1, patience: Patience | None = None) -> None:
        self.name = opening.name_of(source)
        self.frames_decoded = self.num_sent = self._num_read = 0
        self._source, self._threads, self._patience = source, threads, patience or Patience()
        self._unreachable: set[int] = set()  # groups whose key frame the container does not seek to exactly
        self._first: Any = None  # the key packet that a seek has read
        self._kept: list[Any] = []  # all frames, in order, where counting has just decoded them
        self.wanted = Wanted()
        self._open()
        key = opening.identity(source)
        try:
            self.index = frame_index.remembered(key) or frame_index.remember(key, self._make_index())
        except BaseException:
            self.close()
            raise

    def want(self, numbers: list[int]) -> None:
        """From now on only these frames matter, ascending."""
        self.wanted.only(numbers, self._codec, self.index.known_by != "counting")

    def close(self) -> None:
        """Free the decoder, and the file if it was opened here."""
        self._container.close()
        self._kept = []
        if self._file is not None:
            self._file.close()

    def frames(self, group: int) -> Iterator[tuple[int, Any]]:
        """(number, frame) in order of presentation, from a group of pictures to the end.

        Frames that come before the group's key frame in time are left out, unless decoding starts at the
        beginning. DecodeError at the first fault, and at an end before the last frame the file promises.
        """
        if self.index.known_by == "counting":
            yield from enumerate(self._kept) if self._kept else self._counted_frames()
            return
        group = self._seek(group)
        self.num_sent = self._num_read = int(self.index.key_numbers[group])
        # Frames before the key frame in time may refer to the group before, which was not decoded.
        first_time, before = None if group == 0 else self._first.pts, -1
        coming: dict[int, int] = {}  # numbers of frames sent to the decoder and not yet shown, by their times
        shows = partial(self.index.shows, stream=self.stream)
        for packet, place in numbered(self._packets(), self.num_sent, shows, (DecodeError,)):
            if place >= 0:
                coming[packet.pts] = place
                self.num_sent += 1
            self._spare(place)
            for frame in self._decode(packet):
                number = coming.pop(frame.pts, -1)
                if number <= before:  # -1 too: a time that no packet announced
                    raise MistimedError
                before = number
                if first_time is None or frame.pts >= first_time:
                    yield number, frame
        if self.num_sent < self.index.num_frames:
            raise self._cut_off(self.num_sent)

    def seek_pays(self, number: int) -> bool:
        """Whether a key frame that can be sought lies between the current pass and frame `number`."""
        group = self.index.group_of(number)
        return bool(self.index.key_numbers[group] > self.num_sent) and group not in self._unreachable

    def count(self) -> None:
        """Count the frames by decoding them all, once, and forget the times of packets.

        A short video's frames are kept for the next pass, which then need not decode them again.
        """
        self.index = frame_index.counted(0)
        self.wanted.all()
        self._kept, total, num_bytes = [], 0, 0
        for _, frame in self._counted_frames(checked=False):
            total += 1
            num_bytes += sum(plane.buffer_size for plane in frame.planes) if num_bytes <= _KEPT_BYTES else 0
            if num_bytes <= _KEPT_BYTES:
                self._kept.append(frame)
        if num_bytes > _KEPT_BYTES:
            self._kept = []
        if total == 0:
            raise DecodeError(self.name, "holds no frame that can be decoded")
        self.index = frame_index.remember(opening.identity(self._source), frame_index.counted(total))

    def check_length(self) -> None:
        """DecodeError where frames fill much less time than the header promises.

        So a file without an index, which cannot say how many frames it has, shows that it was cut off.
        """
        covered = self.index.num_frames * self.index.mean_interval
        with opening.provoked_by(self.name):
            promised = opening.promised_seconds(self._container, self.stream)
        still = 3 * self.index.longest_interval  # a slide show may end in a long picture
        if covered > 0 and promised - covered > max(1.0, 0.05 * promised, still):
            raise DecodeError(
                self.name, f"ends after {covered:.1f} of {promised:.1f} seconds; the file is truncated"
            )

    def packets(self) -> Iterator[Any]:
        """All packets from the beginning, undecoded."""
        self._rewind()
        self._fresh = False
        for packet in self._demuxed():
            if packet is not None:
                yield packet

    def _counted_frames(self, checked: bool = True) -> Iterator[tuple[int, Any]]:
        self._rewind()
        self.num_sent, self._num_read, number, started = 0, 0, 0, False
        self._spare(-1)
        for packet in self._packets():
            started = started or packet is None or packet.is_keyframe
            if not started:  # what comes before the first key frame cannot be decoded
                continue
            self.num_sent += 1
            for frame in self._decode(packet):
                yield number, frame
                number += 1
        if checked and number < self.index.num_frames:
            raise self._cut_off(number)

    def _spare(self, number: int) -> None:
        """Tell the decoder whether the frame it gets next, `number` (-1: it has none), may be left out."""
        may = self.wanted.may_spare(number, self.num_sent)
        self.stream.codec_context.skip_frame = "NONREF" if may else "DEFAULT"

    def _decode(self, packet: Any) -> list[Any]:
        try:
            frames: list[Any] = self.stream.codec_context.decode(packet)
        except av.error.EOFError:  # the decoder holds nothing more
            return []
        except Exception as error:  # whatever it is, the file has provoked it
            raise DecodeError(
                self.name, f"corrupt after {self._place(self.num_sent)}: {opening.plain(error)}"
            ) from None
        self.frames_decoded += len(frames)
        return frames

    def _packets(self) -> Iterator[Any]:
        """The packets after the last seek, then None, which asks the decoder for what it still holds."""
        self._fresh = False
        if self._first is not None:
            yield self._first
            self._first = None
        yield from self._demuxed()

    def _demuxed(self) -> Iterator[Any]:
        flagged: list[Any] = []  # a packet that FFmpeg calls corrupt, and those after it
        try:
            for packet in self._container.demux(self.stream):
                self._patience.check()
                if packet.size == 0:
                    continue
                if flagged or packet.is_corrupt:
                    flagged.append(packet)
                    if not self._is_joined(flagged):
                        continue
                for each in flagged or [packet]:
                    self._num_read += 1
                    yield each
                flagged = []
            if flagged:
                raise self._corrupt()
        except DecodeError:
            raise
        except Exception as error:  # whatever it is, the file has provoked it
            raise DecodeError(
                self.name, f"unreadable after {self._place(self._num_read)}: {opening.plain(error)}"
            ) from None
        yield None

    def _is_joined(self, flagged: list[Any]) -> bool:
        """Whether a packet was flagged because two recordings are joined there: a key frame follows at once.

        The count of transport packets breaks off at a join as it does at a loss, and FFmpeg, which reads one
        frame ahead, flags one of the last two frames before it. DecodeError where it is a loss.
        """
        joined: bool = flagged[-1].is_keyframe and len(flagged) > 1
        if self._container.format.name != "mpegts" or (not joined and len(flagged) > _BEFORE_A_JOIN):
            raise self._corrupt()
        return joined

    def _corrupt(self) -> DecodeError:
        return DecodeError(self.name, f"corrupt or truncated after {self._place(self._num_read)}")

    def _seek(self, group: int) -> int:
        """Stand before the key packet of `group`, or of an earlier one; the group that was found."""
        if group > 0:
            self._prime()
        # A container may lead to a later key frame than it was asked for, or to one that its index does not
        # know; then an earlier group is tried, and in the end the beginning, which needs no seek.
        found: int | None = None
        for earlier in range(group, 0, -1):
            target = int(self.index.key_times[earlier]) + self.index.seek_shift
            with opening.provoked_by(self.name):
                self._container.seek(target, stream=self.stream, backward=True, any_frame=False)
            found = self._next_key_group()
            if found is not None and found <= group:
                break
        else:
            self._rewind()
            self._primed = True
            found = self._next_key_group()
            if found != 0:
                raise MistimedError
        if found < group:
            self._unreachable.add(group)
        return found

    def _prime(self) -> None:
        """Show the first packet to a decoder that must know who made it."""
        if self._primed or self._codec != "h264":
            return
        self._rewind()
        self._fresh, self._primed = False, True
        packet = next(self._demuxed())
        if packet is not None and opening.needs_its_first_packet(packet):
            self._decode(packet)

    def _next_key_group(self) -> int | None:
        self._fresh = False
        for packet in self._demuxed():
            if packet is None:
                return None
            stamp = self.index.stamp(packet)
            if packet.is_keyframe and stamp is not None:
                group = int(self.index.key_times.searchsorted(stamp))
                if group < len(self.index.key_times) and self.index.key_times[group] == stamp:
                    self._first = packet
                    return group
        return None

    def _make_index(self) -> frame_index.FrameIndex:
        with opening.provoked_by(self.name):
            index = frame_index.from_container(self._container, self.stream)
        if index is None:
            index = frame_index.from_packets(self.packets(), self._container, self.stream)
            if index is not None and index.lost:
                index = index.without(index.lost - self._first_shown(int(index.key_times[0])))
        if index is None:
            self.count()
            return self.index
        return index

    def _first_shown(self, key_time: int) -> set[int]:
        """The times of the frames that the decoder shows before the first key frame."""
        self._rewind()
        self._spare(-1)
        started = False
        shown: set[int] = set()
        for packet in self._packets():
            started = started or packet is None or packet.is_keyframe
            for frame in self._decode(packet) if started else ():
                if frame.pts is None or frame.pts >= key_time:
                    return shown
                shown.add(frame.pts)
        return shown

    def _rewind(self) -> None:
        """Stand before the first packet: by opening anew, because not every format can seek to its start."""
        if not self._fresh:
            self.close()
            self._open()

    def _open(self) -> None:
        self._container, self._file = opening.open_container(self._source, self.name, self._patience)
        with opening.provoked_by(self.name):
            self.stream: Any = opening.video_stream(self._container, self.name)
            self.stream.codec_context.options = {"max_pixels": str(opening.MOST_PIXELS)}
            self.stream.codec_context.thread_count = self._threads
            self.stream.codec_context.thread_type = "FRAME" if self._threads > 1 else "NONE"
            self._codec = self.stream.codec_context.codec.canonical_name
        self._first, self._fresh, self._primed = None, True, False

    def _cut_off(self, number: int) -> DecodeError:
        return DecodeError(
            self.name, f"ends after {number} of {self.index.num_frames} frames; the file is truncated"
        )

    def _place(self, number: int) -> str:
        promised = self.index.num_frames if hasattr(self, "index") else 0
        return f"frame {number}" + (f" of {promised}" if promised else "")
