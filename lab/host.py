# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A running lab, seen from the host: starting and ending QEMU, and talking to the agent inside.

Each lab has a directory of its own in the cache, with the payload disk, the console's log and the
monitor's socket. The agent is reached over TCP on a port of the loopback interface which QEMU lets
the kernel choose, so labs never collide; a random token, handed in on the payload disk, keeps other
users of the machine out. The network inside reaches nothing else (restrict=on).
"""

import ctypes
import io
import json
import os
import re
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import tarfile
import tempfile
import time
import pathlib

from cache import LabError, cache_dir, say
from emulator import emulator_get
from image import ARCHES
from lost import keep
from monitor import Monitor
from watch import Watch

BOOT_SECONDS = 180
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
# the kernel's own cries, in the console's log
COMPLAINTS = re.compile(r"BUG:|WARNING:|Oops|general protection|Kernel panic|soft lockup|blocked for"
                        r" more than|rcu.*stall|Out of memory")


class BootError(LabError):
    """The lab did not come up; no command has run yet."""


class CommandTimeout(TimeoutError):
    """The command did not end in time."""


# ---- the payload: the source tree and the build, as a tar

def tree_files(top, build):
    """Files of the work tree: what git tracks, or would if asked to; else all but the build."""
    try:
        listing = subprocess.run(["git", "-C", top, "ls-files", "-z", "--cached", "--others",
                                  "--exclude-standard"], stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        listing = None      # no git here, or no repository
    if listing is not None:
        names = sorted(set(listing.decode("utf-8", "surrogateescape").split("\0")) - {""})
    else:
        names = []
        for where, dirs, files in os.walk(top):
            dirs[:] = [d for d in dirs if d != ".git" and
                       not os.path.isfile(os.path.join(where, d, "build.ninja"))]
            names += [os.path.relpath(os.path.join(where, f), top) for f in files]
    inside = os.path.relpath(build, top) + os.sep
    return [name for name in names if not name.startswith(inside)]


def build_files(build):
    """What a build directory holds, save objects, archives and the build system's own state."""
    for where, dirs, files in os.walk(build):
        dirs[:] = sorted(d for d in dirs if not d.endswith(".p") and
                         d not in ("meson-private", "meson-logs", "meson-info", "__pycache__"))
        for name in sorted(files):
            if not name.endswith((".o", ".a", ".d", ".pyc")) and not name.startswith(".ninja"):
                yield os.path.relpath(os.path.join(where, name), build)


def payload_write(out, top, build, token=None):
    """Writes the tar to a file object: the tree, then build/, then the token."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        def add(path, name):
            try:
                info = tar.gettarinfo(path, name)
                if info is None or not (info.isfile() or info.issym() or info.islnk()):
                    return
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                if not info.isfile():
                    tar.addfile(info)
                    return
                # read first: a build that goes on at this moment must not tear the archive
                with open(path, "rb") as file:
                    data = file.read()
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            except FileNotFoundError:
                pass  # tracked, but deleted in the work tree
        for name in tree_files(top, build):
            add(os.path.join(top, name), name)
        if os.path.isdir(build):
            for name in build_files(build):
                add(os.path.join(build, name), "build/" + name)
        if token:
            info = tarfile.TarInfo(".lab-token")
            info.size = len(token)
            info.mode = 0o600
            tar.addfile(info, io.BytesIO(token.encode()))


def tar_unpack(file, target, as_file):
    """Unpacks what came from a lab: plain files and directories only, none outside of target.
    The first path component is dropped; the only file then is target itself if as_file."""
    with tarfile.open(fileobj=file) as tar:
        for member in tar:
            parts = pathlib.PurePosixPath(member.name).parts[1:]
            if ".." in parts:
                raise LabError("bad name in what the lab sent: %r" % member.name)
            path = pathlib.Path(target, *parts)
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
            elif member.isfile() and (parts or as_file):
                path.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as data, open(path, "wb") as out:
                    shutil.copyfileobj(data, out)
                path.chmod(0o644 | (member.mode & 0o111))


# ---- the machine

def die_with_parent():
    """To be called in a new child: the kernel kills it as soon as this process is gone."""
    parent = os.getpid()

    def prepare():
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    return prepare


class Lab:
    """A lab of one's own, or one that `lab/up` left running. Attributes: path, state."""

    def __init__(self, path, state, process=None):
        self.path = pathlib.Path(path)
        self.state = state
        self.process = process

    @classmethod
    def start(cls, image, top, build, smp, mem, lasting=False, path=None, debian=None, taps=()):
        """Boots a lab and waits for its agent. Unless lasting, it dies with this process. debian: the image of a whole
        Debian, for a further disk; taps: devices of this machine, for further NICs."""
        if path is None:
            (cache_dir() / "labs").mkdir(exist_ok=True)
            path = tempfile.mkdtemp(prefix="lab-", dir=cache_dir() / "labs")
        path = pathlib.Path(path)
        (path / "owner").write_text("%d %s" % (os.getpid(), process_born(os.getpid())), "ascii")
        token = secrets.token_hex(16)
        lab = cls(path, {"token": token, "image": str(image), "start": time.time()})
        try:
            with open(path / "payload", "wb") as out:
                os.fchmod(out.fileno(), 0o600)
                payload_write(out, top, build, token)
            lab._qemu(image, smp, mem, lasting, debian, taps)
            lab._save()
            with Watch(lab) as watch:
                lab._wait_ready(watch)
            lab.state["port"] = lab._find_port()
            lab._save()
            # QEMU holds it open; the pages go when the lab does
            (path / "payload").unlink()
        except BaseException:
            lab.stop()
            raise
        return lab

    def _qemu(self, image, smp, mem, lasting, debian, taps):
        def drive(number, file, extra, serial=""):
            return ["-drive", "file=%s,if=none,id=d%d,format=raw,%s" %
                    (str(file).replace(",", ",,"), number, extra),
                    "-device", "virtio-blk-pci,drive=d%d%s" % (number, serial)]
        arch = ARCHES[(image / "arch").read_text("ascii").strip()]
        argv = [*emulator_get(arch), *arch.qemu[1:], "-accel", "tcg,thread=multi",
                "-smp", str(smp), "-m", str(mem), "-nodefaults",
                "-display", "none", "-no-reboot", "-no-user-config",
                "-serial", "file:console",
                *(word for name in ("monitor", "events") for word in ("-qmp", "unix:%s,server=on,wait=off" % name)),
                # watch.py reads its registers, and ends it; nobody would end one that lasts
                *([] if lasting else ["-no-shutdown"]),
                *drive(0, image / "root.img", "cache=unsafe,snapshot=on"),
                *drive(1, "payload", "readonly=on"),
                # what is written to it is gone with the lab
                *(drive(2, debian, "cache=unsafe,snapshot=on", ",serial=debian") if debian else []),
                "-netdev", "user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:0-10.0.2.15:5000",
                "-device", "virtio-net-pci,netdev=n0,romfile=",
                *(word for number, tap in enumerate(taps, 1) for word in (
                    "-netdev", "tap,id=n%d,ifname=%s,script=no,downscript=no" % (number, tap),
                    "-device", "virtio-net-pci,netdev=n%d,romfile=,mac=52:54:00:12:35:%02x" % (number, number))),
                "-kernel", image / "vmlinuz", "-initrd", image / "initramfs", "-append",
                arch.cmdline + " panic=-1 oops=panic mitigations=off net.ifnames=0 quiet loglevel=5"]
        with open(self.path / "qemu.log", "wb") as log:
            self.process = subprocess.Popen(argv, cwd=self.path, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True,
                                            preexec_fn=None if lasting else die_with_parent())
        self.state["pid"] = self.process.pid
        self.state["born"] = process_born(self.process.pid)

    def _save(self):
        new = self.path / "state.new"
        new.write_text(json.dumps(self.state), "ascii")
        new.rename(self.path / "state.json")

    @classmethod
    def find(cls, path):
        """The lab whose directory that is, if it runs; ready when its state has a port."""
        try:
            lab = cls(path, json.loads((pathlib.Path(path) / "state.json").read_text("ascii")))
        except (OSError, ValueError):
            return None
        return lab if lab.alive() else None

    def _wait_ready(self, watch):
        end = time.monotonic() + BOOT_SECONDS
        why = None
        while "LAB-READY" not in self.console():
            if self.process.poll() is not None:
                why = "the lab ended while it booted"
            elif time.monotonic() > end:
                why = "the lab did not boot in %d s" % BOOT_SECONDS
            if why:
                watch.lost = watch.lost or keep(self, why)
                raise BootError(why + self.evidence())
            time.sleep(0.03)  # a poll of the log

    def _find_port(self):
        with Monitor(self.path) as monitor:
            text = monitor.ask("info usernet")
        found = re.search(r"HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)", text)
        if not found:
            raise LabError("QEMU does not tell its port: %r" % text)
        return int(found.group(1))

    def console(self):
        try:
            return (self.path / "console").read_text("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def complaints(self):
        return [line.strip() for line in self.console().splitlines() if COMPLAINTS.search(line)]

    def evidence(self):
        """What the logs tell, to follow an error's text: the console from the kernel's first
        complaint on, so that a panic's own line is among them, and else the end of it."""
        lines = self.console().splitlines()
        first = next((n for n, line in enumerate(lines) if COMPLAINTS.search(line)), len(lines))
        logs = {"console": lines[min(first, max(0, len(lines) - 40)):][:100]}
        try:
            logs["qemu.log"] = (self.path / "qemu.log").read_text("utf-8", "replace").splitlines()[-10:]
        except FileNotFoundError:
            pass
        return "".join("\n---- from the %s:\n%s" % (name, "\n".join(lines))
                       for name, lines in logs.items() if lines)

    def alive(self):
        """Whether QEMU runs; it does not before it was started, either."""
        if self.process:
            return self.process.poll() is None
        return "pid" in self.state and process_born(self.state["pid"]) == self.state["born"]

    def stop(self):
        """Ends QEMU and removes the lab's directory."""
        if self.alive():
            os.kill(self.state["pid"], signal.SIGKILL)  # nothing in it is worth a shutdown
        if self.process:
            self.process.wait()
        else:
            while self.alive():
                time.sleep(0.01)
        shutil.rmtree(self.path, ignore_errors=True)

    # ---- the agent

    def execute(self, argv, out=None, err=None, stdin=None, timeout=None, cwd="/postern", env=None):
        """Runs a command inside. out, err: functions that take bytes; stdin: a file object or None.
        Returns the exit code, as a shell would (128 + N for signal N)."""
        deadline = time.monotonic() + timeout if timeout else None
        request = {"token": self.state["token"], "argv": argv, "cwd": cwd, "env": env or {}}
        try:
            sock = socket.create_connection(("127.0.0.1", self.state["port"]), 20)
        except OSError as error:
            raise LabError("the lab's agent cannot be reached: %s%s" %
                           (error, self.evidence())) from error
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = Conversation(sock, json.dumps(request).encode() + b"\n",
                                out, err, stdin, deadline).hold()
        if code is None:
            raise LabError("the lab went away while the command ran" + self.evidence())
        return code if code >= 0 else 128 - code

    def push(self, top, build):
        """Puts the tree and the build in place of those of before."""
        with tempfile.TemporaryFile(dir=self.path) as file:
            payload_write(file, top, build)
            file.seek(0)
            errors = []
            code = self.execute(
                ["sh", "-c", "find /postern -mindepth 1 -delete && exec tar -C /postern -xf -"],
                err=errors.append, stdin=file, timeout=300, cwd="/")
        if code:
            raise LabError("the payload cannot be put into the lab: " +
                           b"".join(errors).decode("utf-8", "replace"))

    def get(self, inside, outside, timeout=300):
        """Copies a file or directory out; a file goes into `outside` when that is a directory."""
        inside = os.path.normpath(os.path.join("/postern", inside))
        with tempfile.TemporaryFile() as file:
            errors = []
            code = self.execute(["tar", "-C", os.path.dirname(inside), "-cf", "-", "--",
                                 os.path.basename(inside) or "."],
                                out=file.write, err=errors.append, timeout=timeout, cwd="/")
            if code:
                raise LabError("cannot get %s: %s" %
                               (inside, b"".join(errors).decode("utf-8", "replace").strip()))
            file.seek(0)
            if os.path.isdir(outside):
                with tarfile.open(fileobj=file) as tar:
                    first = tar.next()
                if first and first.isfile():
                    outside = os.path.join(outside, os.path.basename(inside))
                file.seek(0)
            tar_unpack(file, outside, as_file=True)


class Conversation:
    """One command's exchange of frames with the agent (see root/agent.py)."""

    def __init__(self, sock, request, out, err, stdin, deadline):
        self.sock = sock
        self.sinks = {b"o": out, b"e": err}
        self.stdin = stdin
        self.deadline = deadline
        self.received = b""
        self.to_send = request + (b"" if stdin else struct.pack(">cI", b"i", 0))

    def hold(self):
        """Returns the exit code, or None when the lab went away."""
        self.sock.setblocking(False)
        while True:
            want_input = self.stdin is not None and not self.to_send
            readable, writable, _ = select.select(
                [self.sock] + ([self.stdin] if want_input else []),
                [self.sock] if self.to_send else [], [], self._time_left())
            try:
                if writable:
                    self.to_send = self.to_send[self.sock.send(self.to_send):]
                data = self.sock.recv(1 << 18) if self.sock in readable else None
            except OSError:
                return None
            if data is not None:
                self.received += data
                code = self._take_frames()
                if code is not None or not data:
                    return code
            if want_input and self.stdin in readable:
                data = os.read(self.stdin.fileno(), 65536)
                self.to_send = struct.pack(">cI", b"i", len(data)) + data
                if not data:
                    self.stdin = None

    def _time_left(self):
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise CommandTimeout
        return left

    def _take_frames(self):
        at = 0
        code = None
        while code is None and len(self.received) - at >= 5:
            kind, length = struct.unpack_from(">cI", self.received, at)
            if len(self.received) - at < 5 + length:
                break
            data = self.received[at + 5:at + 5 + length]
            at += 5 + length
            if kind == b"x":
                code = int(data)
            elif self.sinks.get(kind):
                self.sinks[kind](data)
        self.received = self.received[at:]
        return code


def process_born(pid):
    """When a process started, in ticks since boot: tells it from a later one of the same number."""
    try:
        with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def report_complaints(lab, seen=0):
    lines = lab.complaints()[seen:]
    if lines:
        say("the lab's kernel complained:\n    " + "\n    ".join(lines[:20]))
    return len(lines)


def stale_remove():
    """Removes what labs whose owner was killed left behind."""
    for path in (cache_dir() / "labs").glob("lab-*"):
        owner = path / "owner"
        try:
            pid, born = owner.read_text("ascii").split()
        except (OSError, ValueError):
            continue
        if process_born(int(pid)) != born:
            shutil.rmtree(path, ignore_errors=True)
