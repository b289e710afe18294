#!/usr/bin/env bash
# LoRA adapters of SpatialVLA, trained on recordings of a robot or on datasets, and merged:
#
#   MODEL=spatialvla-4b-224-pt DATA=recordings ROBOT=robot.yaml finetune_lora.sh [further arguments]
#   MODEL=spatialvla-4b-224-pt DATA=/data/open_x MIXTURE=bridge finetune_lora.sh
#
# On each of several machines: NODES, NODE_RANK, MASTER_ADDR and MASTER_PORT too. Started again with
# the same OUT, it goes on from the newest checkpoint.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=../common.sh
source "$here/../common.sh"

need MODEL "checkpoint folder of SpatialVLA"
need DATA "recordings, or the folder with the datasets of MIXTURE"
if [ -n "${MIXTURE:-}" ]; then
    data=(--data_mix "$MIXTURE" --data_root_dir "$DATA")
else
    need ROBOT "what the recordings are of (or MIXTURE, a mixture of datasets)"
    data=(--data "$DATA" --robot "$ROBOT")
fi

launch vla_ros.training.spatial_vla.finetune \
    --model_name_or_path "$MODEL" \
    "${data[@]}" \
    --output_dir "${OUT:-runs/spatialvla_4b_finetune_lora}" \
    --lora "${LORA:-32}" \
    --lora_alpha "${LORA_ALPHA:-32}" \
    --lora_target "${LORA_TARGET:-linear}" \
    --per_device_train_batch_size "${BATCH:-32}" \
    --gradient_accumulation_steps "${ACCUMULATE:-1}" \
    --num_train_epochs "${EPOCHS:-50}" \
    --learning_rate "${LEARNING_RATE:-5e-4}" \
    --warmup_steps 0.005 \
    --save_steps "${SAVE_STEPS:-1000}" \
    --logging_steps "${LOGGING_STEPS:-20}" \
    --dataloader_num_workers "${WORKERS:-4}" \
    --bf16 true \
    "${sharding[@]}" \
    "$@"
