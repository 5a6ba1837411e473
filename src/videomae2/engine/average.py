"""Averaged weights: an exponential moving average that is evaluated, saved and resumed beside the trained
ones.
"""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from videomae2.errors import UserError


def build_average(module: nn.Module, decay: float) -> AveragedModel | None:
    """A second copy of the module whose parameters follow the first; None where `decay` is 0.

    The first update copies, later ones move by 1 - decay with one foreach kernel; buffers are copied each
    time. UserError for a decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise UserError(
            f"optim.ema_decay is {decay}, but an average needs a decay from 0 (off) to below 1, such as "
            "0.9999"
        )
    if decay == 0:
        return None
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay))
    average.requires_grad_(False)
    return average
