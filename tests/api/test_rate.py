"""The rate of this machine is measured on real steps of each task."""

from typing import Any

import pytest

from videomae2.api import rate
from videomae2.cost.estimate import Question, answer, duration, table


@pytest.mark.parametrize("task", ["pretrain", "finetune", "inference"])
def test_steps_of_a_task_are_timed(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "SECONDS", 0.0)
    small: dict[str, Any] = {
        "model": "vit_ti16",
        "frames": 8,
        "size": 32,
        "batch": 2,
        "views": 2,
        "classes": 3,
    }
    question = Question(task=task, precision="fp32", **small)
    found = rate.measure(question)
    assert found.clips_per_second > 0
    assert found.clips == 4
    told = answer(question, found)
    assert told["measured"]["hours"] == pytest.approx(told["clips"] / found.clips_per_second / 3600)
    assert f"measured here: {found.clips_per_second:.3g} clips a second on" in table(told)


def test_a_cpu_measures_few_clips_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "SECONDS", 0.0)
    question = Question(model="vit_ti16", task="inference", frames=2, size=16, batch=64, views=1)
    assert rate.measure(question).clips == rate.ON_CPU


@pytest.mark.parametrize(
    ("hours", "said"), [(0.5, "30 minutes"), (1.49, "89.4 minutes"), (30.0, "30.0 hours"), (480.0, "20 days")]
)
def test_hours_are_said_as_people_say_them(hours: float, said: str) -> None:
    assert duration(hours) == said
