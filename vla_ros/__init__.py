"""Vision-language-action models for ROS 2 robots.

The public names below are imported when they are first used, so that `import vla_ros` costs nothing
and needs neither torch nor ROS.
"""

from importlib import import_module
from pkgutil import extend_path

# Started in the source folder, Python finds this module there and not the installed one, which has
# what the build adds (vla_ros.msg, .srv, .action and .training): look for the rest in that one.
__path__ = extend_path(__path__, __name__)

_PUBLIC = {
    "ActionConfig": "vla_ros.robots.action_config",
    "RobotType": "vla_ros.robots.action_config",
    "VLAMConfig": "vla_ros.models.vlam_config",
    "VisionLanguageActionModel": "vla_ros.models.vlam",
    "WorldModel": "vla_ros.models.genie.genie",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'vla_ros' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
