"""`pip install .`: models, simulation and training without ROS 2 (colcon builds the rest)."""

from glob import glob

from setuptools import find_packages, setup

modules = find_packages(include=["vla_ros", "vla_ros.*"])
training = ["vla_ros.training"] + [f"vla_ros.training.{m}" for m in find_packages("training")]

setup(
    name="vla_ros",
    version="0.1.0",
    description="Vision-language-action models for ROS 2 robots",
    author="vla_ros contributors",
    license="MIT",
    python_requires=">=3.10",
    packages=modules + training,
    package_dir={"vla_ros.training": "training"},
    package_data={
        "vla_ros": ["checkpoints/**/*"],
        "vla_ros.robots": ["*.urdf", "*.xml"],
        "vla_ros.sim": ["*.xml"],
        "vla_ros.training": ["scripts/**/*"],
        "vla_ros.training.spatial_vla": ["mixtures/*.yaml"],
    },
    data_files=[
        ("share/vla_ros/config", glob("config/*.*")),
        ("share/vla_ros/config/training", glob("config/training/*")),
    ],
    install_requires=[
        "numpy>=1.26",
        "opencv-python-headless>=4.8",
        "pin>=4.0",
        "safetensors>=0.4",
        "tokenizers>=0.20",
        "torch>=2.6",
        "tqdm>=4.66",
    ],
    extras_require={
        # gym-hil (the Franka meshes) must be installed beside it with --no-deps: see
        # environment/setup.sh.
        "sim": ["mujoco>=4.0", "pillow>=10.0"],
        "train": [
            "accelerate>=1.10",
            "apsw>=3.45",
            "lz4>=4.0",
            "matplotlib>=3.8",
            "pyyaml>=6.0",
            "rosbags>=0.11",
            "torchmetrics>=1.4",
            "transformers>=5.24",
            "zstandard>=0.22",
        ],
        # `vla train policy --tensorboard` and `--deepspeed`.
        "tensorboard": ["tensorboard>=2.16"],
        "deepspeed": ["deepspeed>=0.18"],
        # Adapters for SpatialVLA.
        "lora": ["peft>=0.21"],
        # `vla eval --metrics` and `--data`; for `--minilm` see environment/minilm.txt.
        "eval": ["dtaidistance>=2.5", "rouge-score>=0.1.2", "sacrebleu>=2.6"],
        # Open X-Embodiment and other RLDS datasets, without TensorFlow.
        "rlds": ["google-crc32c>=1.5", "protobuf>=4.25"],
        # Rivals of `vla bench vlam`.
        "bench": ["mambapy>=1.2", "transformers>=5.24"],
        # DINOv2 and SigLIP as image encoders; the small one needs neither.
        "vision": ["huggingface_hub>=1.0", "transformers>=5.24"],
        "test": [
            "hypothesis>=6.100",
            "peft>=0.21",
            "pytest>=8.0",
            "pytest-timeout>=2.3",
            "pyyaml>=6.0",
            "ruff>=0.12",
        ],
    },
    entry_points={"console_scripts": ["vla = vla_ros.cli:main"]},
)
