# `make help` says what there is. What is to run for somebody who comes by (demo,
# test, bench and the like) installs what it needs, builds, and runs. `make`,
# `make check` and `make lint` install nothing: they say what is missing, and
# `make setup` brings it. tools/targets lists what each target needs. Everything
# deeper goes through meson: `meson setup build && ninja -C build`.
PYTHON := /usr/bin/python3
BUILD := build

.PHONY: all help setup check lint test test-control test-lab-stores test-sanitize test-threads arm64 demo demo-arm64 test-arm64 bench bench-quick kernels clean
# Two at a time would get into each other's way: apt, ninja, measurements.
.NOTPARALLEL:

all: needs-all $(BUILD)/build.ninja	## build: the default, and it installs nothing
	@ninja -C $(BUILD)

help:	## this list
	@sed -n 's/^\([a-z0-9-]*\):.*##  *\(.*\)/\1	\2/p' Makefile | expand -t 16

setup:	## install all that building, testing and linting take
	@tools/setup

# What one target needs, before anything that takes long: looked for, or installed.
needs-%:
	@tools/setup --check $*

setup-%:
	@tools/setup $*

$(BUILD)/build.ninja:
	@meson setup $(BUILD) >/dev/null

check: needs-check all	## the fast tests, without the lab, in under 3 minutes
	@$(PYTHON) tools/test --fast $(BUILD)

lint: needs-lint all	## formatting, clang-tidy, layers, names, shell and Python scripts
	@$(PYTHON) tools/lint $(BUILD)

test: setup-test all	## all tests: unit, build, library, command line, system, lab
	@$(PYTHON) tools/test $(BUILD)

test-sanitize: setup-test-sanitize	## all but the lab, built with ASan and UBSan
	@[ -f build-sanitize/build.ninja ] || meson setup build-sanitize -Db_sanitize=address,undefined -Db_lundef=false -Dtouch_check=true >/dev/null
	@ninja -C build-sanitize
	@$(PYTHON) tools/test --no-lab build-sanitize

test-threads: setup-test-threads	## the unit tests, built with ThreadSanitizer
	@[ -f build-threads/build.ninja ] || meson setup build-threads -Db_sanitize=thread -Db_lundef=false >/dev/null
	@ninja -C build-threads
	@$(PYTHON) tools/test --only unit build-threads

# Under emulation 6.12 is less steady than 6.1.
test-control: setup-test-control all	## the lab's tests on Linux 6.12, whose guest faults can be interrupted
	@$(PYTHON) tools/test --only lab --kernel 6.12 $(BUILD)

test-lab-stores: setup-test-lab-stores all	## a Debian saved to Ceph and S3 and cloned on two kernels; brings Ceph: lab/README.md
	@$(PYTHON) tools/lab-stores $(BUILD)

kernels: setup-kernels all	## what QEMU and postern answer on each kernel: docs/kernels.md, 20 minutes
	@$(PYTHON) tools/kernels $(BUILD)

demo: setup-demo all	## cut a migration's link, time what answers, recover, verify
	@$(PYTHON) tools/demo $(BUILD)

arm64: setup-arm64	## build for arm64 by Debian's cross compiler: docs/arm64.md
	@$(PYTHON) tools/arm64 build-arm64

demo-arm64: setup-demo-arm64 arm64	## the demonstration in the arm64 lab
	@$(PYTHON) tools/demo --arch arm64 build-arm64

test-arm64: setup-test-arm64 arm64	## the tests in the arm64 lab
	@$(PYTHON) tools/test --arch arm64 --only lab build-arm64

bench: setup-bench all	## measurements beside QEMU and the host's floors, 20 minutes
	@$(PYTHON) bench/bench $(BUILD)

bench-quick: setup-bench-quick all	## few rounds of them, 2 minutes
	@$(PYTHON) bench/bench --quick $(BUILD)

clean:	## remove what was built
	rm -rf build build-sanitize build-threads build-arm64
