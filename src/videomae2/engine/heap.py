"""How the C library keeps memory that tensors give back, on a CPU."""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h of glibc
_GROW_BY = 64 << 20


def keep_freed_memory() -> bool:
    """Let glibc reuse the memory of freed tensors for the rest of the process; whether it does.

    By default it hands every block above 32 MiB back to the system at once and gets it again, zeroed page by
    page, at the next step: a GELU over 38 MB then takes five times as long as its arithmetic. Nothing changes
    elsewhere, or where the user has set glibc's own variables.
    """
    if platform.system() != "Linux" or any(
        name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ
    ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return False
    options = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _GROW_BY))
    done = [mallopt(option, value) == 1 for option, value in options]
    return all(done)
