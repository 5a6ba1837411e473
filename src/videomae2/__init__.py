"""VideoMAE V2, whole: pre-train on unlabelled video, fine-tune, evaluate, predict and reconstruct.

It works from raw video files. The names below are the public interface; each is imported when it is first
used, so that `import videomae2` is instant. `docs/python-api.md` shows them at work.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors, which do not run __getattr__
    from videomae2.api.jobs import evaluate as evaluate
    from videomae2.api.jobs import finetune as finetune
    from videomae2.api.jobs import pretrain as pretrain
    from videomae2.api.model import Model as Model
    from videomae2.api.model import Prediction as Prediction
    from videomae2.api.model import create_model as create_model
    from videomae2.api.model import load as load
    from videomae2.api.timeline import localize as localize
    from videomae2.api.views import Reconstruction as Reconstruction
    from videomae2.api.views import load_video as load_video
    from videomae2.config import load_settings as load_settings
    from videomae2.errors import UserError as UserError
    from videomae2.records import Failure as Failure
    from videomae2.settings import EvaluateSettings as EvaluateSettings
    from videomae2.settings import FinetuneSettings as FinetuneSettings
    from videomae2.settings import PretrainSettings as PretrainSettings

    __version__: str

_HOMES = {
    "EvaluateSettings": "settings",
    "Failure": "records",
    "FinetuneSettings": "settings",
    "Model": "api.model",
    "Prediction": "api.model",
    "PretrainSettings": "settings",
    "Reconstruction": "api.views",
    "UserError": "errors",
    "create_model": "api.model",
    "evaluate": "api.jobs",
    "finetune": "api.jobs",
    "load": "api.model",
    "load_settings": "config",
    "load_video": "api.views",
    "localize": "api.timeline",
    "pretrain": "api.jobs",
}
"""The public names, and the module that each lives in."""

_WITHOUT_TORCH = ("config", "errors", "settings")

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _HOMES:
        if _HOMES[name] not in _WITHOUT_TORCH:
            import_module("videomae2.api")  # loads torch, in the way that training wants
        value = getattr(import_module(f"videomae2.{_HOMES[name]}"), name)
    else:
        raise AttributeError(
            f"module 'videomae2' has no attribute {name!r}; its names are {', '.join(_HOMES)}"
        )
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("videomae2")
    except PackageNotFoundError:  # a source tree on PYTHONPATH that was never installed
        return "0+unknown"
