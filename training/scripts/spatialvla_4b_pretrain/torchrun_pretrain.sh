#!/usr/bin/env bash
# Pretrain SpatialVLA of 4 thousand million parameters on one or several machines with GPUs:
#
#   VLM=paligemma2-3b-pt-224 DATA=/data/open_x torchrun_pretrain.sh [further arguments]
#
# On each of several machines: NODES, NODE_RANK, MASTER_ADDR and MASTER_PORT too. Started again with
# the same OUT, it goes on from the newest checkpoint.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=../common.sh
source "$here/../common.sh"

need VLM "folder of PaliGemma 2 (3B, 224 pixels)"
need DATA "folder with the datasets of the mixture"

launch vla_ros.training.spatial_vla.pretrain \
    --vlm_path "$VLM" \
    --data_mix "${MIXTURE:-oxe_spatial_vla_plus}" \
    --data_root_dir "$DATA" \
    --output_dir "${OUT:-runs/spatialvla_4b_pretrain}" \
    --mode "${MODE:-corrected}" \
    --min_sigma "${MIN_SIGMA:-0.02}" \
    --freeze_llm_embed true \
    --per_device_train_batch_size "${BATCH:-32}" \
    --gradient_accumulation_steps "${ACCUMULATE:-1}" \
    --num_train_epochs "${EPOCHS:-1}" \
    --learning_rate "${LEARNING_RATE:-2e-5}" \
    --warmup_steps 0.005 \
    --save_steps "${SAVE_STEPS:-20000}" \
    --logging_steps "${LOGGING_STEPS:-100}" \
    --dataloader_num_workers "${WORKERS:-4}" \
    --held_out "${HELD_OUT:-0.01}" \
    --bf16 true \
    "${sharding[@]}" \
    "$@"
