# The commands of the README. Each installs what is missing (tools/targets says
# what it needs), builds, and runs; everything deeper goes through meson:
# `meson setup build && ninja -C build`.
PYTHON := /usr/bin/python3
BUILD := build

.PHONY: all setup test test-control test-sanitize arm64 demo demo-arm64 test-arm64 bench bench-quick kernels clean
# Two at a time would get into each other's way: apt, ninja, measurements.
.NOTPARALLEL:

all: setup-all $(BUILD)/build.ninja
	@ninja -C $(BUILD)

setup:
	@tools/setup

# What one target needs, before anything that takes long.
setup-%:
	@tools/setup $*

$(BUILD)/build.ninja:
	@meson setup $(BUILD) >/dev/null

# Unit tests, system tests natively, system tests in the lab, the layer check.
test: setup-test all
	@$(PYTHON) tools/test $(BUILD)

# The same unit and native system tests, built with ASan and UBSan.
test-sanitize: setup-test-sanitize
	@[ -f build-sanitize/build.ninja ] || meson setup build-sanitize -Db_sanitize=address,undefined -Db_lundef=false -Dtouch_check=true >/dev/null
	@ninja -C build-sanitize
	@$(PYTHON) tools/test --no-lab build-sanitize

# The lab's tests on a kernel with interruptible guest faults, for comparison. Under emulation it is less steady than 6.1.
test-control: setup-test-control all
	@$(PYTHON) tools/test --only lab --kernel 6.12 $(BUILD)

# What QEMU and postern answer on 5.10, 6.1, 6.12 and this machine's kernel while a guest waits for a page, with the kernel module and
# without: the table of docs/kernels.md. 20 minutes.
kernels: setup-kernels all
	@$(PYTHON) tools/kernels $(BUILD)

demo: setup-demo all
	@$(PYTHON) tools/demo $(BUILD)

# For arm64, by Debian's cross compiler; the demonstration and the tests in the arm64 lab (docs/arm64.md).
arm64: setup-arm64
	@$(PYTHON) tools/arm64 build-arm64

demo-arm64: setup-demo-arm64 arm64
	@$(PYTHON) tools/demo --arch arm64 build-arm64

test-arm64: setup-test-arm64 arm64
	@$(PYTHON) tools/test --arch arm64 --only lab build-arm64

# At most 20 minutes; the quick one at most 2.
bench: setup-bench all
	@$(PYTHON) bench/bench $(BUILD)

bench-quick: setup-bench-quick all
	@$(PYTHON) bench/bench --quick $(BUILD)

clean:
	rm -rf build build-sanitize build-arm64
