#!/usr/bin/env bash
# Usage: recipes/torchrun.sh FIRST_HOST NODES RANK run.yaml configs/strategy/fsdp2.yaml [more options of `fit`]
#
# On each of NODES machines, with RANK from 0 (on FIRST_HOST) up; GPUS=8 and PORT=29500 may be set. The working
# directory must be on a file system that all nodes share.
set -euo pipefail

host=$1 nodes=$2 rank=$3 run=$4 strategy=$5
shift 5
torchrun --nnodes "$nodes" --node_rank "$rank" --nproc_per_node "${GPUS:-8}" \
  --master_addr "$host" --master_port "${PORT:-29500}" \
  -m svd_lightning fit --config "$run" --config "$strategy" \
  --trainer.num_nodes "$nodes" --trainer.devices "${GPUS:-8}" "$@"
