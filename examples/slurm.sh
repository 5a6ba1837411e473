#!/bin/bash
# Train or evaluate under Slurm, a process for each GPU, and go back into the queue when the time is up:
#
#   sbatch examples/slurm.sh pretrain PAGE.toml --out runs/g
#
#SBATCH --job-name=videomae2
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -uo pipefail
# 180 s before the end Slurm sends SIGTERM to every process. The run finishes its step, saves a checkpoint and
# ends with 143; the same command resumes it. An error ends the job, and so does the end of the run.
srun --kill-on-bad-exit=1 python -m videomae2 "$@"
code=$?
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
