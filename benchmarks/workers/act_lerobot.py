"""LeRobot's ACT, in LeRobot's own environment: what benchmarks/act.py starts and talks to.

Nothing of vla_ros is imported here; demonstrations come as arrays (training/data/simulation.py),
observations and chunks through a pipe.

    python act_lerobot.py train '{"shards": [...], "held_out": "...", "out": "...", ...}'
    python act_lerobot.py serve FOLDER usual|ensembled
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy, ACTTemporalEnsembler
from lerobot.policies.factory import make_pre_post_processors

CAMERAS = ("observation.images.camera", "observation.images.wrist_camera")
STATE, GOAL = "observation.state", "observation.environment_state"
ENSEMBLE_COEFFICIENT = 0.01  # the original ACT's


def write_dataset(root: Path, shards: list[Path]) -> None:
    """A LeRobotDataset of all episodes. "action" is the expert's whole chunk of each frame, [K, A];
    it appears whole or not at all."""
    first = np.load(shards[0] / "images.npy", mmap_mode="r")
    chunk = np.load(shards[0] / "actions.npy", mmap_mode="r").shape[1:]
    goal = np.load(shards[0] / "goals.npy").shape[1]
    vector = {"dtype": "float32", "names": None}
    features = {
        **{
            camera: {"dtype": "image", "shape": first.shape[2:], "names": ["h", "w", "c"]}
            for camera in CAMERAS
        },
        STATE: {**vector, "shape": (4,)},
        GOAL: {**vector, "shape": (goal,)},
        "action": {**vector, "shape": chunk},
    }
    partial = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an interrupted run
    dataset = LeRobotDataset.create(
        "vla_ros/arm",
        fps=20,
        features=features,
        root=partial,
        use_videos=False,
        video_backend="pyav",
    )
    for shard in shards:
        images, felt, actions, lengths, goals = (
            np.load(shard / f"{name}.npy", mmap_mode="r")
            for name in ("images", "proprioception", "actions", "lengths", "goals")
        )
        frame = 0
        for length, goal in zip(lengths, goals, strict=True):
            for i in range(frame, frame + int(length)):
                dataset.add_frame(
                    {
                        **{camera: images[i, n] for n, camera in enumerate(CAMERAS)},
                        STATE: np.array(felt[i]),
                        GOAL: np.array(goal),
                        "action": np.array(actions[i]),
                        "task": "follow the goal",
                    }
                )
            dataset.save_episode()
            frame += int(length)
    dataset.finalize()
    os.replace(partial, root)


def open_dataset(root: Path) -> LeRobotDataset:
    return LeRobotDataset("vla_ros/arm", root=root, video_backend="pyav")


def config(dataset: LeRobotDataset, rate: float) -> ACTConfig:
    """ACT's defaults, but for the chunk, the learning rate and the backbone's first weights."""
    shapes = {name: tuple(value["shape"]) for name, value in dataset.meta.features.items()}
    horizon, width = shapes["action"]
    pictures = {
        camera: PolicyFeature(FeatureType.VISUAL, (3, *shapes[camera][:2])) for camera in CAMERAS
    }
    return ACTConfig(
        input_features={
            **pictures,
            STATE: PolicyFeature(FeatureType.STATE, shapes[STATE]),
            GOAL: PolicyFeature(FeatureType.ENV, shapes[GOAL]),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (width,))},
        chunk_size=horizon,
        n_action_steps=1,
        pretrained_backbone_weights=None,  # they are on no package registry
        optimizer_lr=rate,
        optimizer_lr_backbone=rate,
        device="cpu",
        push_to_hub=False,
    )


def batches(dataset: LeRobotDataset, size: int, seed: int) -> Iterator[dict]:
    """Shuffled batches, again and again."""
    generator = torch.Generator().manual_seed(seed)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=size, shuffle=True, drop_last=True, generator=generator
    )
    while True:
        yield from loader


def prepared(batch: dict, preprocess) -> dict:
    """Normalised, with the mask that ACT's loss wants: every action of a chunk is known."""
    horizon = batch["action"].shape[1]
    known = {name: batch[name] for name in (*CAMERAS, STATE, GOAL, "action")}
    rows = len(batch["action"])
    return {**preprocess(known), "action_is_pad": torch.zeros(rows, horizon, dtype=torch.bool)}


def train(
    shards: list[str],
    held_out: str,
    out: str,
    seconds: float,
    rate: float,
    batch_size: int,
    precision: str,
    seed: int,
) -> None:
    """Train for `seconds` of processor time, reading of the data included."""
    folder = Path(out)
    torch.manual_seed(seed)
    for name, sources in (("dataset", shards), ("held_out", [held_out])):
        if not (root := folder.with_name(f"{folder.name}-{name}")).exists():
            write_dataset(root, [*map(Path, sources)])
    dataset, kept = (
        open_dataset(folder.with_name(f"{folder.name}-{name}")) for name in ("dataset", "held_out")
    )
    settings = config(dataset, rate)
    policy = ACTPolicy(settings).train()
    preprocess, postprocess = make_pre_post_processors(settings, dataset_stats=dataset.meta.stats)
    preset = settings.get_optimizer_preset()
    optimizer = preset.build(policy.get_optim_params())
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
    losses: list[float] = []
    reading = 0.0
    stream = batches(dataset, batch_size, seed)
    began = time.process_time()
    while (spent := time.process_time() - began) < seconds:
        batch = prepared(next(stream), preprocess)
        reading += time.process_time() - began - spent
        with autocast:
            loss, parts = policy.forward(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), preset.grad_clip_norm)
        optimizer.step()
        losses.append(parts["l1_loss"])
        if len(losses) % 50 == 0:
            print(
                f"step {len(losses)}, {spent:.0f} of {seconds:.0f} s, "
                f"L1 {np.mean(losses[-50:]):.3f}",
                file=sys.stderr,
                flush=True,
            )
    told = {
        "lerobot": importlib.metadata.version("lerobot"),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in policy.parameters()),
        "steps": len(losses),
        "seconds": spent,
        "reading": reading / spent,
        "image_size": settings.input_features[CAMERAS[0]].shape[-1],
        "loss": float(np.mean(losses[-50:])),
        "held_out": errors(policy, preprocess, postprocess, kept),
    }
    partial = folder.with_name(f".{folder.name}.partial")
    for part in (policy, preprocess, postprocess):
        part.save_pretrained(partial)
    (partial / "told.json").write_text(json.dumps(told))
    os.replace(partial, folder)


def errors(policy: ACTPolicy, preprocess, postprocess, dataset: LeRobotDataset) -> dict:
    """Mean absolute errors on episodes that were not trained on, m: of offsets and of the fingers,
    each beside that of the mean chunk."""
    mean = torch.as_tensor(dataset.meta.stats["action"]["mean"], dtype=torch.float32)
    sums, count = torch.zeros(2, 2), 0
    for batch in torch.utils.data.DataLoader(dataset, batch_size=32):
        guess = postprocess(policy.predict_action_chunk(prepared(batch, preprocess)))
        for row, chunk in enumerate((guess, mean)):
            error = (chunk - batch["action"]).abs().mean(1).sum(0)
            sums[row] += torch.stack([error[:3].mean(), error[3]])
        count += len(batch["action"])
    (offset, finger), (mean_offset, mean_finger) = (sums / count).tolist()
    return {
        "offset": offset,
        "finger": finger,
        "mean_offset": mean_offset,
        "mean_finger": mean_finger,
    }


def serve(folder: Path, ensembled: bool) -> None:
    """Answer observations on stdin with chunks on stdout, until stdin ends.

    A line of JSON first: {"image_size", "horizon", ...}. Then for each observation the bytes of
    "first" (1: an episode begins; uint8), the images (uint8 [2, S, S, 3]), the proprioception
    (float32 [4]) and the goal; the answer is float64 seconds of processor time, and the chunk as
    float32 [K, A].
    """
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not come in between
    policy = ACTPolicy.from_pretrained(folder).eval()
    preprocess, postprocess = make_pre_post_processors(policy.config, pretrained_path=str(folder))
    told = json.loads((folder / "told.json").read_text())
    size, horizon = told["image_size"], policy.config.chunk_size
    width, goal = policy.config.action_feature.shape[0], policy.config.input_features[GOAL].shape[0]
    ensembler = ACTTemporalEnsembler(ENSEMBLE_COEFFICIENT, horizon)
    channel.write(json.dumps({**told, "horizon": horizon, "width": width}).encode() + b"\n")
    channel.flush()
    pixels = 2 * size * size * 3
    while message := sys.stdin.buffer.read(1 + pixels + 4 * (4 + goal)):
        began = time.process_time()
        images = torch.frombuffer(bytearray(message), dtype=torch.uint8, count=pixels, offset=1)
        images = images.view(2, size, size, 3).permute(0, 3, 1, 2).float() / 255
        numbers = torch.from_numpy(np.frombuffer(message, np.float32, offset=1 + pixels).copy())
        observation = {camera: images[i] for i, camera in enumerate(CAMERAS)}
        with torch.inference_mode():
            batch = preprocess({**observation, STATE: numbers[:4], GOAL: numbers[4:]})
            chunk = postprocess(policy.predict_action_chunk(batch))
            if ensembled:
                if message[0]:
                    ensembler.reset()
                # What was foreseen is averaged where it is: in the robot's frame.
                chunk[..., :3] += numbers[:3]
                now = ensembler.update(chunk)
                chunk = torch.cat([now[:, None], ensembler.ensembled_actions], dim=1)
                chunk[..., :3] -= numbers[:3]
        spent = time.process_time() - began
        answer = chunk[0].float().numpy()
        channel.write(struct.pack("<d", spent) + np.ascontiguousarray(answer).tobytes())
        channel.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "train":
        train(**json.loads(sys.argv[2]))
    else:
        serve(Path(sys.argv[2]), sys.argv[3] == "ensembled")
