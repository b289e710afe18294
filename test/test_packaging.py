"""The build files agree with each other and with the code, and the rooms keep their arrows."""

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import vla_ros

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ElementTree.parse(ROOT / "package.xml").getroot()
CMAKE = (ROOT / "CMakeLists.txt").read_text()
SOURCES = sorted([*ROOT.glob("vla_ros/**/*.py"), *ROOT.glob("training/**/*.py")])

# Imported name -> (key in package.xml, name on PyPI). Some have no rosdep key.
THIRD_PARTY = {
    "accelerate": (None, "accelerate"),
    "apsw": (None, "apsw"),
    "PIL": ("python3-pil", "pillow"),
    "google": ("python3-protobuf", "protobuf"),
    "google_crc32c": (None, "google-crc32c"),
    "huggingface_hub": (None, "huggingface_hub"),
    "dtaidistance": (None, "dtaidistance"),
    "cv2": ("python3-opencv", "opencv-python-headless"),
    "lz4": (None, "lz4"),
    "matplotlib": ("python3-matplotlib", "matplotlib"),
    "mujoco": ("python3-mujoco-pip", "mujoco"),
    "numpy": ("python3-numpy", "numpy"),
    "pinocchio": ("pinocchio", "pin"),
    "rosbags": (None, "rosbags"),
    "rouge_score": (None, "rouge-score"),
    "sacrebleu": (None, "sacrebleu"),
    "safetensors": (None, "safetensors"),
    "tokenizers": (None, "tokenizers"),
    "torch": ("python3-torch", "torch"),
    "torchmetrics": (None, "torchmetrics"),
    "tqdm": ("python3-tqdm", "tqdm"),
    "transformers": (None, "transformers"),
    "yaml": ("python3-yaml", "pyyaml"),
    "zstandard": (None, "zstandard"),
}
# On no index, so that nothing can ask for it; who imports it names the cure when it is missing.
ON_NO_INDEX = {"mapanything"}
# Imported where it is asked for alone -> the extra of setup.py that has it.
EXTRAS = {"peft": "lora"}

# Room -> rooms it may import besides itself.
ARROWS = {
    "robots": set(),
    "scene_language": set(),
    "safety": set(),
    "checkpoints": set(),
    "camera_info": set(),
    "cameras": {"joint_states"},
    "images": set(),
    "joint_states": set(),
    "paths": set(),
    "observations": {"camera_info", "images", "robots", "joint_states"},
    "recording": set(),
    "stack": {"ros", "nodes"},
    "video": set(),
    "models": {"robots", "scene_language"},
    "sim": {"robots", "scene_language"},
    "ros": {"robots", "joint_states", "safety", "stack", "msg", "srv", "action"},
    "nodes": {"ros", "stack", "cameras", "models", "safety", "robots", "images", "observations"}
    | {"checkpoints", "sim", "recording", "scene_language", "joint_states", "msg", "srv", "action"},
    "training": {"models", "images", "observations", "robots", "scene_language", "safety", "sim"}
    # live: only inside a function, see below
    | {"cameras", "joint_states", "checkpoints", "paths", "video", "live"},
}
WITH_ROS = {"ros", "nodes", "stack"}  # rooms that may import ROS packages
# They know the protocol of policies alone, so that any model can be run.
WHO_RUNS_POLICIES = [
    "vla_ros/nodes/action_policy.py",
    "vla_ros/nodes/following.py",
    "vla_ros/nodes/vision_encoder.py",
    "vla_ros/film/demo.py",
    "training/evaluation.py",
    "training/recorded_evaluation.py",
    "training/rollout.py",
    "training/simulated_evaluation.py",
    "training/data/simulation.py",
]
# Not rooms but the ways in: they run the whole stack and may import all. No room imports them.
ENTRANCES = {"__init__", "bringup", "cli", "demo", "film", "live", "record"}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "training" if parts[0] == "training" else parts[1]


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """Return the dotted names that a file imports: anywhere in it, or only when it is imported."""
    names = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import of {node.module}"
            names.add(node.module)
            if node.module == "vla_ros":
                names |= {f"vla_ros.{alias.name}" for alias in node.names}
    return names


def dependencies(*tags: str) -> set[str]:
    return {element.text for tag in tags for element in PACKAGE.findall(tag)}


def setup_arguments() -> dict:
    """Return the literal keyword arguments of setup() in setup.py."""
    (call,) = (
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    arguments = {}
    for keyword in call.keywords:
        try:
            arguments[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError:
            continue  # computed, as the list of packages is
    return arguments


def requirements(name: str) -> set[str]:
    lines = (ROOT / "environment" / name).read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def test_name_version_and_licence_agree():
    setup = setup_arguments()
    assert PACKAGE.findtext("name") == setup["name"] == "vla_ros"
    assert f"project({setup['name']} " in CMAKE
    assert PACKAGE.findtext("version") == setup["version"]
    assert PACKAGE.findtext("license") == setup["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_requirement_files_agree_with_setup():
    setup = setup_arguments()
    extras = setup["extras_require"]
    wanted = {
        *setup["install_requires"],
        *(name for extra in ("eval", "rlds", "sim", "train", "vision") for name in extras[extra]),
    }
    assert requirements("requirements.txt") == wanted
    assert requirements("requirements-test.txt") == set(extras["test"])


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_import_is_declared(path):
    in_setup = {
        re.split(r"[<>=]", line)[0]
        for line in requirements("requirements.txt") | requirements("requirements-test.txt")
    }
    in_package = dependencies("depend", "exec_depend")
    for name in {name.split(".")[0] for name in imports(path)}:
        if name in sys.stdlib_module_names | ON_NO_INDEX or name == "vla_ros":
            continue
        if name in EXTRAS:
            assert name not in imports(path, everywhere=False), f"{name} is not always installed"
            extra = setup_arguments()["extras_require"][EXTRAS[name]]
            assert [re.split(r"[<>=]", line)[0] for line in extra] == [name]
        elif name in THIRD_PARTY:
            key, pypi = THIRD_PARTY[name]
            assert key is None or key in in_package, f"package.xml lacks {key}"
            assert pypi in in_setup, f"setup.py lacks {pypi}"
        else:
            assert name in in_package, f"package.xml lacks {name}"


def test_nothing_is_declared_in_vain():
    used = {name.split(".")[0] for path in SOURCES for name in imports(path)}
    assert set(THIRD_PARTY) <= used
    known = {key for key, _ in THIRD_PARTY.values()} | used | {"launch", "launch_ros"}
    generated_code = {"action_msgs", "rosidl_default_runtime"}
    assert dependencies("depend", "exec_depend") <= known | generated_code
    assert len(requirements("requirements.txt")) == len(THIRD_PARTY)


def test_launch_imports_are_declared():
    for path in ROOT.glob("launch/*.py"):
        names = {name.split(".")[0] for name in imports(path)}
        for name in names - sys.stdlib_module_names - {"vla_ros"}:
            assert name in dependencies("exec_depend"), f"package.xml lacks {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_room_keeps_its_arrows(path):
    room = room_of(path)
    if room in ENTRANCES:
        return
    assert room in ARROWS, f"a room that the design does not name: {room}"
    names = imports(path)
    rooms = {name.split(".")[1] for name in names if name.startswith("vla_ros.")}
    assert rooms <= ARROWS[room] | {room}
    # `vla eval --live` needs ROS; nothing else of training does, so it must be importable without.
    assert "vla_ros.live" not in imports(path, everywhere=False)
    foreign = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"vla_ros"}
    if room not in WITH_ROS:
        assert foreign <= set(THIRD_PARTY) | ON_NO_INDEX | set(EXTRAS), "ROS outside its rooms"
    if room not in {"sim", "training"}:
        assert "mujoco" not in foreign, "MuJoCo outside the simulation"
    if room == "safety":
        assert foreign <= {"numpy"}, "the gate needs nothing but numpy"


def test_what_is_for_scenes_alone_is_loaded_with_them():
    """A world model without scenes starts a third of a second sooner, also after it died."""
    files = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in SOURCES}
    left, loaded = ["vla_ros.nodes.world_model"], set()
    while left:
        name = left.pop()
        if name in files and name not in loaded:
            loaded.add(name)
            left += imports(files[name], everywhere=False)
    assert "vla_ros.nodes.imagined_scenes" in loaded
    assert not [name for name in loaded if name.startswith("vla_ros.models.scenes")]


@pytest.mark.parametrize("where", WHO_RUNS_POLICIES)
def test_whoever_runs_a_policy_knows_no_model_of_one(where):
    models = {name for name in imports(ROOT / where) if name.startswith("vla_ros.models.")}
    running = ("policy", "compatibility", "observation_encoder")
    of_policies = {f"vla_ros.models.{name}" for name in running}
    # The node with a policy's eye is also the narrator's, and the film shows what is imagined.
    others = {"vla_ros.models.checkpoint", "vla_ros.models.narrator", "vla_ros.models.genie.genie"}
    assert models <= of_policies | others
    assert models or where == "training/rollout.py"


def test_nothing_depends_on_the_wheels():
    files = [*SOURCES, *ROOT.glob("launch/*.py"), ROOT / "CMakeLists.txt", ROOT / "package.xml"]
    for path in files:
        text = path.read_text().lower()
        assert "bootstrap" not in text and ".venv" not in text, path
    names = {name for path in files if path.suffix == ".py" for name in imports(path)}
    assert not [name for name in names if name.startswith("ros_")]


def test_public_names_are_where_they_are_said_to_be():
    assert "WorldModel" in vla_ros.__all__
    for name in vla_ros.__all__:
        assert getattr(vla_ros, name).__name__ == name


def test_every_executable_has_a_main():
    (names,) = re.findall(r"foreach\(node ([\w\s]+)\)", CMAKE)
    modules = [f"vla_ros.nodes.{name}" for name in names.split()]
    modules += re.findall(r"install_executable\(\w+ (vla_ros[.\w]+)\)", CMAKE)
    assert {"vla_ros.bringup", "vla_ros.cli"} < set(modules)
    for module in modules:
        path = ROOT / (module.replace(".", "/") + ".py")
        assert path.is_file(), f"CMakeLists.txt names {module}"
        functions = {n.name for n in ast.parse(path.read_text()).body if hasattr(n, "name")}
        assert "main" in functions, f"{module} has no main()"


def test_every_python_folder_is_a_package():
    for path in SOURCES:
        assert (path.parent / "__init__.py").is_file(), f"setup.py would leave out {path}"


def test_sources_leave_room_for_the_generated_modules():
    for name in ("msg", "srv", "action", "training"):
        assert not (ROOT / "vla_ros" / name).exists(), f"vla_ros/{name} is made by the build"
