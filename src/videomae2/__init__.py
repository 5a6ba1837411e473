"""VideoMAE V2, whole: pre-train on unlabelled video, fine-tune, evaluate, predict and reconstruct, from raw
video files.

The names below are the public interface; each is imported when it is first used, so that `import videomae2`
is instant. `docs/python-api.md` shows them at work.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videomae2.api.create import create_model
    from videomae2.api.jobs import evaluate, finetune, pretrain
    from videomae2.api.model import Model, Prediction, Reconstruction, load
    from videomae2.api.views import load_video
    from videomae2.config import load_settings
    from videomae2.errors import UserError
    from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings

__all__ = [
    "EvaluateSettings",
    "FinetuneSettings",
    "Model",
    "Prediction",
    "PretrainSettings",
    "Reconstruction",
    "UserError",
    "create_model",
    "evaluate",
    "finetune",
    "load",
    "load_settings",
    "load_video",
    "pretrain",
]

_HOMES = {
    "EvaluateSettings": "settings",
    "FinetuneSettings": "settings",
    "Model": "api.model",
    "Prediction": "api.model",
    "PretrainSettings": "settings",
    "Reconstruction": "api.model",
    "UserError": "errors",
    "create_model": "api.create",
    "evaluate": "api.jobs",
    "finetune": "api.jobs",
    "load": "api.model",
    "load_settings": "config",
    "load_video": "api.views",
    "pretrain": "api.jobs",
}
"""Which module each public name lives in."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(
            f"module 'videomae2' has no attribute {name!r}; its names are {', '.join(__all__)}"
        )
    value = getattr(import_module(f"videomae2.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
