#!/bin/bash
# Train or evaluate on all GPUs of one machine, or of several, with restarts after a crash:
#
#   examples/torchrun.sh pretrain experiments/pretrain/b_script.toml --data.train K400 --out runs/b
#   NODES=8 HEAD=node1 examples/torchrun.sh pretrain PAGE.toml --out runs/g   # the same on each of 8 machines
#
# NODES machines meet at HEAD:PORT. PROCESSES a machine: one for each GPU, or a number. RESTARTS: how often
# torchrun starts all processes again, which resume from the last checkpoint, after one of them has died.
set -euo pipefail
exec torchrun \
    --nnodes "${NODES:-1}" \
    --nproc-per-node "${PROCESSES:-gpu}" \
    --rdzv-backend c10d \
    --rdzv-endpoint "${HEAD:-localhost}:${PORT:-29400}" \
    --rdzv-id "${ID:-videomae2}" \
    --max-restarts "${RESTARTS:-3}" \
    -m videomae2 "$@"
