"""A world model so small that tests can make one: it knows nothing, but its codes differ."""

import torch

from vla_ros.models.genie.config import WorldModelConfig
from vla_ros.models.genie.dynamics import DynamicsConfig
from vla_ros.models.genie.genie import WorldModel
from vla_ros.models.genie.latent_actions import LatentActionConfig
from vla_ros.models.genie.robot_actions import RobotActionConfig
from vla_ros.models.genie.tokenizer import TokenizerConfig
from vla_ros.robots.action_config import ActionConfig

_ARM = ActionConfig.get_arm_config()
ARM_ACTIONS = RobotActionConfig(_ARM.action_names, _ARM.control_mode, _ARM.proprioception_names)


def tiny_config(robot: RobotActionConfig = ARM_ACTIONS, **changes) -> WorldModelConfig:
    return WorldModelConfig(
        TokenizerConfig(
            image_size=16, patch=4, channels=(8,), width=16, heads=2, decoder_width=16,
            decoder_heads=2, window=3, levels=(4, 3),
        ),
        LatentActionConfig(image_size=16, patch=4, width=16, heads=2, decoder_layers=1),
        DynamicsConfig(vocabulary=12, tokens=16, width=16, heads=2, layers=2, window=3),
        robot,
        **changes,
    )  # fmt: skip


def untrained(config: WorldModelConfig) -> WorldModel:
    """The same at each call, in evaluation mode, with weights that let everything through."""
    torch.manual_seed(0)
    model = WorldModel(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    model.latent_actions.train()
    model.latent_actions(torch.rand(4, 4, 3, 16, 16))  # gives the codebook a beginning
    return model.eval()
