"""Write: a module to our safetensors, the released `.pth`, or a folder for `transformers`.

Each file appears whole or not at all.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from videomae2.architecture import IMAGENET_MEAN, IMAGENET_STD, decoder_config, encoder_config
from videomae2.errors import UserError
from videomae2.files import encoded, json_text, replacing
from videomae2.settings import ModelSettings
from videomae2.weights import layouts

FORMAT_VERSION = 1
OUR_KEY = "videomae2"
"""The entry where this package keeps what shapes do not say.

It stands in safetensors metadata, beside a released state dict, or in config.json.
"""

Weights = nn.Module | Mapping[str, Tensor]


def save_safetensors(
    path: str | Path,
    weights: Weights,
    settings: ModelSettings | None,
    kind: str,
    *,
    class_names: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a module (or tensors under our names) as one `.safetensors` that says which network it is.

    kind: pretrain, classifier, detector or encoder. `extra` is any JSON the caller wants back in
    `Checkpoint.metadata`.
    The same input gives the same bytes (safetensors writes several metadata entries in random order, so there
    is one).
    """
    state = tensors_of(weights)
    note = json_text(_note(state, settings, kind, class_names, extra))
    with replacing(path := Path(path)) as temporary:
        save_file(state, temporary, {OUR_KEY: note})
    return path


def write_released(
    path: str | Path,
    weights: Weights,
    settings: ModelSettings | None,
    kind: str,
    *,
    class_names: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write the `.pth` that the released VideoMAE V1 and V2 code loads: `{"model": state dict}`.

    A second entry, which that code does not look at, keeps our settings for the way back. Sinusoid tables are
    in no released checkpoint; a model of another grid than 16 x 224 x 224 must be told its frames and size
    there.
    """
    state = tensors_of(weights)
    content = {
        "model": layouts.to_released(state, kind),
        OUR_KEY: _note(state, settings, kind, class_names, extra),
    }
    # Through a file of Python's, since an error of torch's own does not say why the system refused.
    with replacing(path := Path(path)) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
    return path


def write_transformers(
    folder: str | Path,
    weights: Weights,
    settings: ModelSettings,
    kind: str,
    *,
    class_names: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write config.json, preprocessor_config.json and model.safetensors as `transformers` VideoMAE does.

    config.json states LayerNorm eps 1e-6, which the weights were trained with (published conversions say
    1e-12). UserError for what that class cannot express: cosine attention, LayerScale, learned or
    interpolated positions.
    """
    _check_expressible(settings, kind)
    state = tensors_of(weights)
    config = _transformers_config(state, settings, kind, class_names)
    config[OUR_KEY] = _note(state, settings, kind, class_names, extra)
    renamed = layouts.to_transformers(state)
    target = Path(folder)
    if target.is_file():
        raise UserError(
            f"expected a folder, as the transformers layout is, got the file {target}; try another name"
        )
    # All of them are written before the first takes its place: a disk that fills up leaves the folder as it
    # was, and not one network's weights beside another's configuration.
    with ExitStack() as stack:
        # Last comes first: transformers refuses a folder without config.json.
        for name, content in (("config.json", config), ("preprocessor_config.json", _preprocessor(settings))):
            stack.enter_context(replacing(target / name)).write_bytes(_json(content))
        save_file(renamed, stack.enter_context(replacing(target / "model.safetensors")), {"format": "pt"})
    return target


def tensors_of(weights: Weights) -> dict[str, Tensor]:
    """Tensors to write: detached, on the CPU, contiguous, sharing no memory, without wrappers' prefixes."""
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    cleaned = layouts.clean({name: tensor.detach() for name, tensor in state.items()})
    return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in cleaned.items()}


def _note(
    state: Mapping[str, Tensor],
    settings: ModelSettings | None,
    kind: str,
    class_names: Sequence[str],
    extra: Mapping[str, Any] | None,
) -> dict[str, Any]:
    if kind not in ("pretrain", "classifier", "detector", "encoder", "localizer"):
        raise UserError(f"kind: expected pretrain, classifier, detector, encoder or localizer, got {kind!r}")
    head = "classify.out.weight" if kind == "localizer" else "head.weight"
    classes = state[head].shape[0] if head in state else None
    if class_names and len(class_names) != classes:
        raise UserError(
            f"expected a name for each of the head's {classes or 0} classes, got {len(class_names)} names"
        )
    return {
        "format": FORMAT_VERSION,
        "kind": kind,
        "settings": asdict(settings) if settings is not None else None,
        "num_classes": classes,
        "class_names": list(class_names),
        "extra": dict(extra or {}),
    }


def _check_expressible(settings: ModelSettings, kind: str) -> None:
    config = encoder_config(settings)
    cannot = {
        "cosine attention": config.cosine_attention,
        "LayerScale": bool(config.layer_scale),
        "a learned position table": config.positions == "learned",
        "positions by axes": config.positions == "axes",
        f"positions interpolated from {config.native}": config.native != config.grid,
        "a bare encoder": kind == "encoder",
        "a head over boxes": kind == "detector",
    }
    found = [what for what, there in cannot.items() if there]
    if found:
        raise UserError(
            f"transformers' VideoMAE cannot express {' and '.join(found)}; write the released layout, or ours"
        )


def _transformers_config(
    state: Mapping[str, Tensor], settings: ModelSettings, kind: str, class_names: Sequence[str]
) -> dict[str, Any]:
    # A classifier states a decoder too: transformers has one configuration for both classes.
    encoder, decoder = encoder_config(settings), decoder_config(settings)
    names = {"pretrain": "VideoMAEForPreTraining", "classifier": "VideoMAEForVideoClassification"}
    config: dict[str, Any] = {
        "architectures": [names[kind]],
        "model_type": "videomae",
        "image_size": settings.size,
        "patch_size": encoder.grid.patch,
        "num_channels": encoder.grid.channels,
        "num_frames": settings.num_frames,
        "tubelet_size": settings.tubelet,
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": encoder.mlp_width,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "use_mean_pooling": kind == "classifier",
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.num_heads,
        "decoder_intermediate_size": decoder.mlp_width,
        "norm_pix_loss": True,
    }
    if kind == "classifier":
        classes = list(class_names) or [f"LABEL_{number}" for number in range(state["head.weight"].shape[0])]
        config["num_labels"] = len(classes)
        config["id2label"] = {str(number): name for number, name in enumerate(classes)}
        config["label2id"] = {name: number for number, name in enumerate(classes)}
    return config


def _preprocessor(settings: ModelSettings) -> dict[str, Any]:
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": settings.size},
        "do_center_crop": True,
        "crop_size": {"height": settings.size, "width": settings.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }


def _json(content: Mapping[str, Any]) -> bytes:
    return encoded(json_text(content, 2) + "\n")
