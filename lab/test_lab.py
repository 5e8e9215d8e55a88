# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Tests of the lab itself: `python3 -m pytest lab`. They build the images when the cache has none."""

import os
import pathlib
import re
import selectors
import shutil
import signal
import subprocess
import time

import pytest

HERE = pathlib.Path(__file__).resolve().parent
KERNELS = ("6.1", "6.12")


def lab(verb, *arguments, **options):
    return subprocess.run([HERE / verb, *arguments], stdin=options.pop("stdin", subprocess.DEVNULL),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=600,
                          check=False, **options)


def run(kernel, *arguments, **options):
    return lab("run", "--cold", "--kernel", kernel, *arguments, **options)


def labs_dir():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(base) / "postern" / "lab" / "labs"


def kept_in(done):
    """The one directory that a run says it has kept what was left in."""
    found, = re.findall(r"registers and console are kept in (\S+)", done.stderr)
    return pathlib.Path(found)


@pytest.fixture(name="image", params=KERNELS)
def image_fixture(request):
    built = lab("build", "--kernel", request.param)
    if built.returncode == 77:
        pytest.skip(built.stderr.strip())
    assert built.returncode == 0, built.stderr
    return request.param, pathlib.Path(built.stdout.strip())


@pytest.fixture(name="kernel")
def kernel_fixture(image):
    return image[0]


@pytest.fixture(name="warm")
def warm_fixture(kernel):
    up = lab("up", "--kernel", kernel)
    assert up.returncode == 0, up.stderr
    yield kernel
    assert lab("down", "--kernel", kernel).returncode == 0


def test_a_stock_kernel_with_kvm(image):
    kernel, place = image
    done = run(kernel, "test -c /dev/kvm && uname -r && cat /sys/module/kvm_amd/parameters/npt")
    assert done.returncode == 0, done.stderr
    release, nested_paging = done.stdout.split()
    assert release == (place / "release").read_text("ascii").strip()
    assert release.startswith(kernel + ".")
    assert nested_paging in "Y1"


def test_streams_and_exit_code(kernel):
    done = run(kernel, "-q", "echo to stdout; echo to stderr >&2; exit 42")
    assert (done.returncode, done.stdout) == (42, "to stdout\n"), done.stderr
    assert "to stderr\n" in done.stderr


def test_several_arguments_are_no_shell_command(kernel):
    done = run(kernel, "--", "printf", "%s|", "a b", "$HOME", "")
    assert (done.returncode, done.stdout) == (0, "a b|$HOME||"), done.stderr


def test_a_signal_is_128_and_more(kernel):
    assert run(kernel, "kill -9 $$").returncode == 137


def test_output_comes_as_it_is_written(kernel):
    with subprocess.Popen([HERE / "run", "--cold", "--kernel", kernel, "--stdin",
                           "echo first; read line; echo got $line"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout.readline() == "first\n"  # the command still waits for its input
        child.stdin.write("word\n")
        child.stdin.flush()
        assert child.stdout.readline() == "got word\n"
        assert child.wait(60) == 0


def test_the_tree_and_the_build_are_there(kernel, tmp_path):
    build = tmp_path / "build"
    (build / "tests" / "t.p").mkdir(parents=True)
    for name in ("prog", "a.o", "libx.a", "tests/t.p/t.c.o", "tests/t"):
        (build / name).write_text("#!/bin/sh\necho $0\n", "ascii")
        (build / name).chmod(0o755)
    done = run(kernel, "--build", str(build), "pwd; find build -type f | sort; $POSTERN_BUILD/prog;"
               "cmp -s lab/run /postern/lab/run && echo $POSTERN_LAB")
    assert done.stdout.split() == ["/postern", "build/prog", "build/tests/t",
                                   "/postern/build/prog", "1"]


def test_timeout_is_124_and_says_so(kernel):
    done = run(kernel, "--timeout", "1", "sleep 1000")
    assert done.returncode == 124
    assert "did not end in 1 s" in done.stderr


def test_a_lab_that_dies_is_125_with_its_console(kernel):
    done = run(kernel, "echo c > /proc/sysrq-trigger")
    assert done.returncode == 125
    assert "sysrq triggered crash" in done.stderr
    kept = kept_in(done)
    assert (kept / "registers").read_text("ascii").count("CPU#1") == 3
    assert "sysrq triggered crash" in (kept / "console").read_text("utf-8")


def test_what_runs_inside_can_have_the_state_of_a_moment_kept(kernel):
    done = run(kernel, "cd tests && python3 -c 'from harness import lab; lab.keep(\"no word\", \"its console\")'")
    assert done.returncode == 0, done.stderr
    kept = kept_in(done)
    assert "no word" in (kept / "why").read_text("utf-8")
    assert (kept / "guest").read_text("ascii") == "its console"
    assert "CPU#1" in (kept / "registers").read_text("ascii")


def test_files_come_back_even_after_a_failure(kernel, tmp_path):
    done = run(kernel, "--get", "/tmp/d:%s/d" % tmp_path, "--get", "/tmp/d/f:%s" % tmp_path,
               "mkdir -p /tmp/d/e; echo one > /tmp/d/f; echo two > /tmp/d/e/g; exit 3")
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "d/f").read_text("ascii") == "one\n"
    assert (tmp_path / "d/e/g").read_text("ascii") == "two\n"
    assert (tmp_path / "f").read_text("ascii") == "one\n"


def test_a_file_that_is_not_there_is_125(kernel, tmp_path):
    done = run(kernel, "--get", "/tmp/none:%s/x" % tmp_path, "true")
    assert done.returncode == 125
    assert "cannot get /tmp/none" in done.stderr


def test_a_link_between_namespaces_goes_down(kernel):
    done = run(kernel, """set -e
        ip netns add far
        ip link add near0 type veth peer name far0 netns far
        ip addr add 10.9.0.1/24 dev near0; ip link set near0 up
        ip -n far addr add 10.9.0.2/24 dev far0; ip -n far link set far0 up
        ip -n far link set lo up
        tc qdisc add dev near0 root netem delay 5ms
        ping -c 1 -W 5 10.9.0.2 > /dev/null && echo reached
        ip -n far link set far0 down
        ping -c 1 -W 1 10.9.0.2 > /dev/null || echo cut
        ip -n far link set far0 up
        ping -c 1 -W 5 10.9.0.2 > /dev/null && echo reached
        modprobe tun && test -c /dev/net/tun && echo tun""")
    assert done.stdout.split() == ["reached", "cut", "reached", "tun"], done.stderr


def test_tools_start(kernel):
    done = run(kernel, "set -e; gdb --batch -ex 'print 6*7'; strace -o /tmp/s true; test -s /tmp/s;"
               "echo 'def test_a(): pass' > /tmp/test_a.py; python3 -m pytest -q /tmp/test_a.py")
    assert done.returncode == 0, done.stderr
    assert "$1 = 42" in done.stdout and "1 passed" in done.stdout


def children_of(pid):
    found = []
    for task in pathlib.Path("/proc/%d/task" % pid).glob("*/children"):
        try:
            children = task.read_text("ascii").split()
        except OSError:
            continue
        for child in map(int, children):
            found += [child] + children_of(child)
    return found


def gone(pid):
    try:
        return pathlib.Path("/proc/%d/stat" % pid).read_text("ascii").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def names_of(pids):
    names = []
    for pid in pids:
        try:
            names.append(pathlib.Path("/proc/%d/comm" % pid).read_text("utf-8").strip())
        except OSError:
            pass  # it has ended
    return names


def owned_by(pid):
    """The owner files of a process's labs; other labs come and go meanwhile."""
    found = []
    for path in labs_dir().glob("lab-*/owner"):
        try:
            if path.read_text("ascii").split()[:1] == [str(pid)]:
                found.append(path)
        except OSError:
            pass
    return found


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("stage", ["packing", "booting", "running"])
def test_a_signal_leaves_nothing_behind(kernel, tmp_path, number, stage):
    env = dict(os.environ)
    if stage == "packing":  # the list of the tree's files is as long in coming as it takes
        (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 1000\n", "ascii")
        (tmp_path / "git").chmod(0o755)
        env["PATH"] = "%s:%s" % (tmp_path, env["PATH"])
    with subprocess.Popen([HERE / "run", "--cold", "--kernel", kernel, "echo go; sleep 1000"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, env=env) as child:
        if stage == "running":
            assert child.stdout.readline() == "go\n"
        else:
            last = "sleep" if stage == "packing" else "ld-linux-x86-64"
            wait_for(lambda: last in names_of(children_of(child.pid)))
        below = children_of(child.pid)
        mine = owned_by(child.pid)
        assert mine
        child.send_signal(number)
        code = child.wait(20)
    if (stage, number) == ("packing", signal.SIGKILL):
        os.kill(below[0], signal.SIGKILL)  # a listing ends by itself; our stand-in does not
    wait_for(lambda: all(map(gone, below)))
    if number == signal.SIGKILL:
        done = run(kernel, "true")  # cleans up
        assert done.returncode == 0, done.stderr
    else:
        assert code == 128 + number
    assert not mine[0].parent.exists()


def test_labs_run_side_by_side(kernel):
    children = [subprocess.Popen([HERE / "run", "--cold", "--kernel", kernel, "echo %d" % n],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, text=True) for n in range(3)]
    assert [child.communicate(timeout=300)[0] for child in children] == ["0\n", "1\n", "2\n"]


def test_a_warm_lab_keeps_its_state_but_not_its_processes(warm, tmp_path):
    (tmp_path / "one").write_text("1", "ascii")
    first = lab("run", "--kernel", warm, "--build", str(tmp_path),
                "cat build/one; cat /proc/sys/kernel/random/boot_id;"
                "setsid sleep 1234 < /dev/null > /dev/null 2>&1 & exit 0")
    (tmp_path / "one").rename(tmp_path / "two")
    second = lab("run", "--kernel", warm, "--build", str(tmp_path),
                 "cat build/two; cat /proc/sys/kernel/random/boot_id; ls build; pgrep -fx 'sleep 1234'")
    assert first.returncode == 0 and second.returncode == 1
    assert first.stdout.split() + ["two"] == second.stdout.split()


def test_a_warm_lab_kills_what_times_out(warm):
    assert lab("run", "--kernel", warm, "--timeout", "1", "exec sleep 4321").returncode == 124
    assert lab("run", "--kernel", warm, "! pgrep -fx 'sleep 4321'").returncode == 0


def test_memory_that_runs_out_ends_the_command_only(kernel):
    done = run(kernel, "--mem", "600", "cat /proc/self/oom_score_adj; head -c 2G /dev/zero | tail; "
               "echo ${PIPESTATUS[1]}")
    assert (done.returncode, done.stdout) == (0, "0\n137\n")
    assert "Out of memory" in done.stderr


def test_a_reader_that_leaves_ends_the_run(kernel):
    with subprocess.Popen([HERE / "run", "--cold", "--kernel", kernel, "yes"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "y\n"
        child.stdout.close()
        assert child.wait(60) == 128 + signal.SIGPIPE
        assert "error" not in child.stderr.read()


@pytest.mark.parametrize("failures", [1, 2])
def test_a_boot_that_fails_is_tried_once_more(kernel, tmp_path, failures):
    tries = tmp_path / "tries"
    fake = tmp_path / "qemu-system-x86_64"
    real = shutil.which("qemu-system-x86_64")
    fake.write_text('#!/bin/sh\necho x >> %s\n[ $(wc -l < %s) -gt %d ] && exec %s "$@"\n'
                    "echo out of order >&2\nexit 1\n" % (tries, tries, failures, real), "ascii")
    fake.chmod(0o755)
    done = run(kernel, "echo up", env=dict(os.environ, POSTERN_LAB_EMULATOR=str(fake)))
    assert "out of order" in done.stderr and "trying once more" in done.stderr
    assert (done.returncode, done.stdout) == ((0, "up\n") if failures == 1 else (125, ""))


def test_usage_errors_are_125():
    for arguments in ([], ["--kernel", "5.4", "true"], ["--build", "/nonexistent", "true"],
                      ["--get", "x", "true"], ["--net", "user", "true"], ["--net", "tap=a,b", "true"]):
        assert lab("run", *arguments).returncode == 125


@pytest.mark.skipif(os.geteuid() != 0, reason="a tap takes root")
def test_a_tap_is_a_further_nic(kernel):
    """In a namespace of its own, which is gone with the lab."""
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && ip tuntap add t0 mode tap && "
         "ip address add 10.78.1.1/24 dev t0 && ip link set t0 up && exec \"$@\"", "sh", HERE / "run",
         "--cold", "--kernel", kernel, "--net", "tap=t0", "--",
         "ip address add 10.78.1.2/24 dev eth1 && ip link set eth1 up && ping -c 1 -W 20 10.78.1.1 > /dev/null && echo there"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=600, check=False)
    assert (done.returncode, done.stdout) == (0, "there\n"), done.stderr


class Guest:
    """The Debian guest under QEMU's emulation, straight on this machine."""

    def __init__(self, place, parameters, kernel="vmlinuz"):
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256",
             "-smp", "2", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
             "-kernel", place / "guest" / kernel, "-initrd", place / "guest/initrd",
             "-append", "console=ttyS0 quiet " + parameters],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.text = ""
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)

    def expect(self, pattern, seconds=120):
        """Waits for the console to show a pattern, past what was matched before."""
        end = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.text)
            if found:
                self.text = self.text[found.end():]
                return found
            assert self.selector.select(max(0, end - time.monotonic())), self.text
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, self.text
            self.text += data.decode("utf-8", "replace").replace("\r", "")

    def write(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.selector.close()
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("file", ["vmlinuz", "vmlinux"])
def test_guest_checks_its_memory_and_answers(image, file):
    with Guest(image[1], "memcheck.mb=32 memcheck.workers=2 memcheck.random=1", file) as guest:
        guest.expect(r"GUEST-READY uptime=[\d.]+ cpus=2 clocksource=\S+\n")
        guest.expect(r"memcheck pass=[1-9]\d* pages=[1-9]\d* errors=0\n")
        guest.write("status\n")
        guest.expect(r"memcheck status pass=\d+ pages=\d+ errors=0\n")
        guest.write("quit\n")
        guest.expect(r"memcheck quit pass=\d+ pages=\d+ errors=0\n")
        guest.expect(r"GUEST-MEMCHECK exit=0\n")
        assert guest.process.wait(60) == 0


def test_guest_notices_a_wrong_word(image):
    with Guest(image[1], "memcheck.mb=1 memcheck.passes=3 memcheck.spoil=2") as guest:
        error = guest.expect(r"memcheck ERROR addr=0x[0-9a-f]+ want=0x([0-9a-f]+) got=0x([0-9a-f]+) "
                             r"words=1 pass=3 gpa=0x[1-9a-f][0-9a-f]*\n")
        assert int(error[1], 16) ^ int(error[2], 16) == 1
        guest.expect(r"memcheck quit pass=3 pages=768 errors=1\n")
        guest.expect(r"GUEST-MEMCHECK exit=1\n")


def test_guest_runs_a_command(image):
    with Guest(image[1], 'guest.run="echo a  b; exit 5" guest.off=reboot') as guest:
        guest.expect(r"a b\nGUEST-RUN exit=5\n")
        assert guest.process.wait(60) == 0
