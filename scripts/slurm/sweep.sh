#!/bin/bash
# A grid, each cell a SLURM job of its own; this process submits them, waits, and prints one table. Cells that need the same
# ensemble wait for the one that makes it, so let one cell run first, or give each several workers.
#   OUTPUTS=/shared/results bash scripts/slurm/sweep.sh unlearner=dmm,scrub forget=random,rum_high_mem
set -euo pipefail
exec python -m dmm_exp -m hydra/launcher=submitit_slurm \
    hydra.launcher.timeout_min="${MINUTES:-240}" hydra.launcher.cpus_per_task="${CPUS:-8}" \
    hydra.launcher.gpus_per_node="${GPUS:-1}" hydra.launcher.mem_gb="${MEMORY:-32}" \
    paths.outputs="${OUTPUTS:?the folder for results, on a file system that all nodes share}" "$@"
