#!/usr/bin/env bash
# Train on several GPUs (or, without GPUs, in several processes).
#
#   [PORT=29500] tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
#
# On several machines, run it on each with NNODES, NODE_RANK and MASTER_ADDR.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [options of tools/train.py]" >&2
    exit 2
fi
config=$1
gpus=$2
shift 2

exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
