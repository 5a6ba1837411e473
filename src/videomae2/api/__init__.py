"""What Python users hold.

Importing it loads torch so that its threads wait passively, as on the command line. OpenMP reads how they do
once, when torch is loaded; threads that wait by spinning stall a training step where loader processes want
the same cores. The environment stays as it was, and whoever loaded torch first has chosen already.
"""

import os
import sys

_POLICY = "OMP_WAIT_POLICY"
threads_spin = "torch" in sys.modules and os.environ.get(_POLICY, "").lower() != "passive"
"""Whether torch was loaded before, in its own way."""

if "torch" not in sys.modules and _POLICY not in os.environ:
    os.environ[_POLICY] = "passive"
    try:
        import torch  # noqa: F401
    finally:
        del os.environ[_POLICY]
