# What the scripts share; they source it, with `here` set. No program of its own.

config=$here/../../../config/training  # in a clone
if [ ! -d "$config" ]; then  # where pip or colcon installed it
    config=$(python -c 'import sys, pathlib
for each in pathlib.Path(sys.argv[1]).parents:
    found = each / "share/vla_ros/config/training"
    if found.is_dir():
        print(found)
        break' "$here")
fi
[ -d "$config" ] || { echo "config/training is neither in a clone nor installed" >&2; exit 1; }

need() {  # NAME WHAT: a variable that has to be set
    [ -n "${!1:-}" ] || { echo "set $1: $2" >&2; exit 1; }
}

# SHARDING: none, zero1, zero2, zero3 (extra "deepspeed"), fsdp2, fsdp2_offload.
SHARDING=${SHARDING:-zero1}
case $SHARDING in
    none) sharding=(--activation_checkpointing true) ;;
    zero1 | zero2 | zero3)
        sharding=(--deepspeed "$config/$SHARDING.json" --activation_checkpointing true)
        ;;
    # whose configurations have checkpointing of their own
    fsdp2 | fsdp2_offload) sharding=(--fsdp true --fsdp_config "$config/$SHARDING.json") ;;
    *)
        echo "SHARDING is $SHARDING: choose none, zero1, zero2, zero3, fsdp2, fsdp2_offload" >&2
        exit 1
        ;;
esac

launch() {  # MODULE ARGUMENTS: on GPUS devices of each of NODES machines
    local nodes=${NODES:-1} place=(--standalone)
    if [ "$nodes" -gt 1 ]; then
        need MASTER_ADDR "address of the first machine"
        need NODE_RANK "number of this machine, from 0 on"
        place=(--nnodes "$nodes" --node_rank "$NODE_RANK"
            --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}")
    fi
    exec python -m torch.distributed.run "${place[@]}" --nproc_per_node "${GPUS:-gpu}" -m "$@"
}
