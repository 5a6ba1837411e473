"""Which file names are videos."""

from pathlib import Path

_CONTAINERS = (
    "mp4 avi mov mkv webm m4v mpg mpeg gif wmv flv ts mts m2ts 3gp ogv ogg asf vob mxf h264 hevc ivf"
)
SUFFIXES = tuple("." + name for name in _CONTAINERS.split())


def is_video(path: Path | str) -> bool:
    """Whether the name ends as a video's does."""
    return str(path).lower().endswith(SUFFIXES)
