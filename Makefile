# Second runs of every target are quick: what is done already is not done again.
# With a ROS 2 distribution sourced these targets use it; without one, ROS 2 comes from wheels.
SHELL := /bin/bash
.SHELLFLAGS := -eo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-portable test-full format clean distclean

# Neither the demo nor the tests should meet the robots of the local network.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST

ifneq ($(and $(ROS_DISTRO),$(shell command -v ros2)),)
world := $(ROS_DISTRO)
enter := source .venv/bin/activate
else
world := wheels
enter := source .venv/local_setup.bash
endif
run := $(enter) && source install/setup.bash &&

# Files and folders (a folder changes when a file in it comes or goes).
sources := package.xml CMakeLists.txt $(shell find action cmake config launch msg srv training vla_ros \
	-name __pycache__ -prune -o -print)

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready-$(world)  ## make .venv and install what the package needs (PYTHON=python3.11)

build: install/.built  ## build the package into install/ with colcon

demo: build  ## the simulated arm follows instructions (CHECKPOINT=arm EPISODES=10 SEED=0)
	$(run) vla demo $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) \
		$(if $(EPISODES),--episodes $(EPISODES)) $(if $(SEED),--seed $(SEED))

test: build  ## ruff, then all tests through colcon
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(run) status=0; \
	colcon test --packages-select vla_ros --return-code-on-test-failure \
		--event-handlers console_direct+ || status=$$?; \
	colcon test-result --test-result-base build/vla_ros || status=$$?; \
	grep -E '^=+ .*[0-9]+ (passed|failed|error)' build/vla_ros/ament_cmake_pytest/test.txt | tail -n 1; \
	exit $$status

test-portable: build  ## the numerical tests with the arithmetic of other machines (40 minutes)
	$(run) python test/portable.py

test-full: test test-portable  ## all of these tests

format:  ## format the Python files
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:  ## remove what was built (not .venv, not runs/)
	rm -rf build install log

distclean: clean  ## remove .venv too
	rm -rf .venv

.venv/.ready-$(world): $(wildcard environment/*)
	PYTHON='$(PYTHON)' environment/setup.sh
	@touch $@

install/.built: .venv/.ready-$(world) $(sources)
	$(enter) && env -u MAKEFLAGS -u MFLAGS colcon build --symlink-install
	@touch $@
