#!/usr/bin/env bash
# Makes .venv with all that the package needs; `make setup` calls it. Run again, it mends what is there.
#
# Without a ROS 2 distribution: PYTHON (default python3.11) and ROS 2 from wheels.
# With one sourced: the distribution's python3 and ROS 2, and only what it lacks from PyPI.
# pip is used as it is configured: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS and so on hold.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "setup: $*" >&2; exit 1; }

# install_system PURPOSE PACKAGE...: as root, install Debian packages; else say which, and stop.
install_system() {
    local purpose=$1; shift
    local command="apt-get install -y --no-install-recommends $*"
    command -v apt-get >/dev/null || fail "$purpose is missing: install what Debian calls: $*"
    [ "$(id -u)" -eq 0 ] || fail "$purpose is missing. Run this, then try again:
    sudo apt-get update && sudo $command"
    echo "setup: $purpose is missing, running: $command"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive $command
}

if [ -n "${ROS_DISTRO:-}" ] && command -v ros2 >/dev/null; then
    world=$ROS_DISTRO python=${PYTHON:-python3} venv_options=--system-site-packages
else
    world=wheels python=${PYTHON:-python3.11} venv_options=
fi
if [ -f .venv/world ] && [ "$(cat .venv/world)" != "$world" ]; then
    fail ".venv was made for ROS 2 from '$(cat .venv/world)', not '$world'. Run: make distclean"
fi

# 1. The interpreter and a compiler.
command -v "$python" >/dev/null || fail "$python not found: install it, or name one: make setup PYTHON=..."
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$world" = wheels ]; then
    case $version in
        3.10 | 3.11 | 3.12 | 3.13) ;;
        *) fail "there are no ROS 2 wheels for Python $version; name a Python 3.10 to 3.13: make setup PYTHON=..." ;;
    esac
fi
missing=()
command -v c++ >/dev/null || missing+=(g++)
command -v cmake >/dev/null || missing+=(cmake)
[ "$world" = wheels ] || command -v colcon >/dev/null || missing+=(python3-colcon-common-extensions)
"$python" -c 'import ensurepip' 2>/dev/null || missing+=("python$version-venv")
"$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
    missing+=("python$version-dev")
[ ${#missing[@]} -eq 0 ] || install_system "what the build needs" "${missing[@]}"

# 2. The virtual environment.
[ -x .venv/bin/python ] || "$python" -m venv $venv_options .venv
echo "$world" >.venv/world
constraints=(-c environment/constraints.txt)
requirements=(-r environment/requirements.txt -r environment/requirements-test.txt)
if [ "$world" = wheels ]; then
    requirements+=(-r environment/requirements-ros.txt)
else
    # The distribution's message modules are compiled against its numpy: keep that one.
    "$python" -c 'import numpy; print("numpy==" + numpy.__version__)' >.venv/constraints.txt
    constraints+=(-c .venv/constraints.txt)
fi
.venv/bin/pip install --disable-pip-version-check "${constraints[@]}" "${requirements[@]}"
# Only the Franka Panda's meshes are used of this package; its dependencies (an older mujoco among
# them) are not, and conflict with ours.
.venv/bin/pip install --disable-pip-version-check --no-deps gym-hil==0.1.14
[ "$world" != wheels ] || .venv/bin/python environment/mend_wheels.py

# 3. Rendering without a screen.
renders() { MUJOCO_GL=egl .venv/bin/python environment/check_rendering.py; }
if ! renders 2>/dev/null; then
    install_system "a library that rendering needs" libegl1 libgl1-mesa-dri
    renders || fail "MuJoCo cannot render with EGL on this machine (error above)"
fi
