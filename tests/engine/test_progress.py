"""How far, how fast, how long: the same for steps, videos and whatever else is counted."""

import io

import pytest

from videomae2.engine import progress as shown
from videomae2.engine.progress import about, progress, say


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(shown, "time", fake)
    return fake


def new_terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Called in the test itself: pytest sets stderr anew after the fixtures."""
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    return terminal


def test_the_time_left_is_known_from_the_second_unit_on(clock: Clock) -> None:
    with progress("steps", 10) as steps:
        clock.now += 100  # everything is started
        steps.advance()
        assert steps.seconds_left is None
        clock.now += 3
        steps.advance()
        assert steps.pace == 3 and steps.seconds_left == 24


def test_slow_steps_have_a_time_left_too(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = new_terminal(monkeypatch)
    with progress("steps", 10) as steps:
        for _ in range(3):
            clock.now += 600
            steps.advance()
    assert "3/10" in terminal.getvalue() and "ETA 1:10:00" in terminal.getvalue()


def test_what_is_between_two_steps_does_not_count(clock: Clock) -> None:
    with progress("steps", 10) as steps:
        steps.advance()
        with steps.paused():
            clock.now += 500
        clock.now += 2
        steps.advance()
        assert steps.pace == 2


def test_without_a_terminal_a_line_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("evaluate", 100) as rows:
        for _ in range(8):
            clock.now += 10
            rows.advance(5)
    assert capsys.readouterr().err == "evaluate 20/100 0:02:40 left\nevaluate 40/100 0:02:00 left\n"


def test_bars_inside_bars_share_a_display_and_lines_stand_above(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = new_terminal(monkeypatch)
    with progress("train step", 14, done=4) as steps:
        steps.advance()
        with progress("evaluate", 20) as rows:
            rows.advance(7)
            say("a note with [brackets] and " + "x" * 200)
            assert shown._display is not None and len(shown._display.tasks) == 2
            shown._display.refresh()  # a thread does it ten times a second
        assert len(shown._display.tasks) == 1
    assert shown._display is None
    drawn = terminal.getvalue()
    assert "5/14" in drawn and "7/20" in drawn and "[brackets] and " + "x" * 200 in drawn


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3.0, "less than a minute"), (70.0, "about a minute"), (100.0, "about 1.7 minutes"),
        (730.0, "about 12 minutes"), (5 * 3600.0, "about 5 hours"), (50 * 3600.0, "about 2.1 days"),
    ],
)  # fmt: skip
def test_spans_in_words(seconds: float, words: str) -> None:
    assert about(seconds) == words
