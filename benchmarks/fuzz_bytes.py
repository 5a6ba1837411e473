"""What the fuzzing does to bytes, and the odd values that it writes where ordinary ones belong."""

import random
import struct

LONG = "Q" * 5000
"""A message that repeats over 200 characters of what came shows itself by these."""
MARK = "Q"

NUMBERS = (
    "0", "-1", "1", "2", "007", "1e9", "1.5", "-0", "+3", "1_000", "0x10", "nan", "inf", "-inf", "1e400",
    str(2**31), str(2**63 - 1), str(2**63), str(2**64), "9" * 19, "9" * 400, "-" + "9" * 400, "9" * 5000,
    "12.0", "1e-320", "٣", "1,5", "½", "1.", ".5", "--1", "1e", "NaN", "100%", "30ep", "5%", "-1ep",
)  # fmt: skip
TEXTS = (
    "",
    " ",
    "a",
    "None",
    "none",
    "null",
    "true",
    "TRUE",
    "0",
    "-",
    "--",
    "=",
    "%",
    "%s",
    "{}",
    "{:05}",
    "{0}",
    "{a}",
    "\\",
    "'",
    '"',
    "`",
    "[]",
    "[a]",
    "*",
    "?",
    "~",
    "~root",
    "$HOME",
    ".",
    "..",
    "/",
    "//",
    "../..",
    "/dev/null",
    "/dev/zero",
    "/dev/tty",
    "/proc/self/mem",
    "/nowhere/at/all",
    "a/b",
    "12:30.mp4",
    "http://127.0.0.1:1/a.mp4",
    "file:///dev/null",
    "memory://a",
    "nosuch://a",
    "s3://",
    "é",
    "日本",
    "\u202e",
    "\ud800",
    "\udce9",
    "a\tb",
    "a\nb",
    "a\rb",
    "\x1b[31m",
    "\x7f",
    "n" * 300,
    LONG,
    LONG + ".mp4",
    "cuda",
    "cuda:99",
    "gpu",
    "mps",
    "fp16",
    "-O",
    "--help",
    "@best",
)


def number(rng: random.Random) -> str:
    """A number as nobody means it."""
    return rng.choice(NUMBERS) if rng.random() < 0.8 else str(rng.randint(-(10**6), 10**6))


def text(rng: random.Random) -> str:
    """A word as nobody means it."""
    return rng.choice(TEXTS) if rng.random() < 0.7 else number(rng)


def damaged(data: bytes, rng: random.Random, most: int = 4) -> bytes:
    """The bytes after one to `most` of the things that disks, networks and strangers do to them."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, most)):
        if not changed:
            break
        place = _place(len(changed), rng)
        end = min(len(changed), place + rng.choice((1, 2, 4, 8, 64, 1000)))
        rng.choice(_DAMAGES)(changed, place, end, rng)
    return bytes(changed)


def _place(size: int, rng: random.Random) -> int:
    """A place in the file; half of them in its header or its end, where readers believe what they read."""
    part = rng.random()
    if part < 0.4:
        return rng.randrange(min(size, 512))
    return rng.randrange(max(0, size - 512), size) if part < 0.5 else rng.randrange(size)


def _flip(data: bytearray, place: int, _end: int, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 8, 100))):
        at = (place + rng.randrange(64)) % len(data)
        data[at] ^= 1 << rng.randrange(8)


def _set_number(data: bytearray, place: int, _end: int, rng: random.Random) -> None:
    value = rng.choice((0, 1, -1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, -(2**31), 2**24, 1 << 20))
    order = rng.choice("<>")
    width = rng.choice((1, 2, 4, 8))
    mask = (1 << 8 * width) - 1
    packed = struct.pack(f"{order}Q", value & mask)
    data[place : place + width] = packed[:width] if order == "<" else packed[8 - width :]


def _cut(data: bytearray, place: int, _end: int, _rng: random.Random) -> None:
    del data[place:]


def _remove(data: bytearray, place: int, end: int, _rng: random.Random) -> None:
    del data[place:end]


def _repeat(data: bytearray, place: int, end: int, rng: random.Random) -> None:
    data[place:place] = bytes(data[place:end]) * rng.choice((1, 1, 3, 100))


def _zero(data: bytearray, place: int, end: int, _rng: random.Random) -> None:
    data[place:end] = bytes(end - place)


def _noise(data: bytearray, place: int, end: int, rng: random.Random) -> None:
    data[place:end] = rng.randbytes(end - place)


def _move(data: bytearray, place: int, end: int, rng: random.Random) -> None:
    part = bytes(data[place:end])
    del data[place:end]
    at = rng.randrange(len(data) + 1)
    data[at:at] = part


_DAMAGES = (_flip, _flip, _flip, _set_number, _set_number, _cut, _remove, _repeat, _zero, _noise, _move)
