# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The lab's agent: runs one command for each TCP connection.

The client first sends one line of JSON: token, argv, cwd, env. From then on both sides send frames:
one byte of type, four bytes of length (big endian), the bytes.

    to the agent    i  standard input; an empty one is its end
    to the client   o  standard output     e  standard error
                    r  accepted: comes first, empty
                    x  the end: the exit code in decimal, -N for signal N

Each command lives in a control group of its own. When the command ends or the connection does,
whatever is left in the group is killed: nothing a command started outlives it.
"""

import fcntl
import itertools
import json
import os
import select
import socket
import struct
import subprocess
import threading

CGROUPS = "/sys/fs/cgroup"
KVM_CREATE_VM = 0xae01
KVM_CREATE_VCPU = 0xae41
KVM_CREATE_IRQCHIP = 0xae60
SREGS_BYTES = 312                   # struct kvm_sregs
SREGS_APIC_BASE = 272
KVM_GET_SREGS = 0x80000000 | SREGS_BYTES << 16 | 0xae83
KVM_SET_SREGS = 0x40000000 | SREGS_BYTES << 16 | 0xae84
PORT = 5000


class Client:
    """One connection; several threads send on it."""

    def __init__(self, sock):
        self.sock = sock
        self.stream = sock.makefile("rb")
        self.lock = threading.Lock()

    def send(self, kind, data=b""):
        with self.lock:
            self.sock.sendall(struct.pack(">cI", kind, len(data)) + data)

    def receive(self):
        """The next frame, or None at the end of the connection."""
        head = self.stream.read(5)
        if len(head) < 5:
            return None
        kind, length = struct.unpack(">cI", head)
        data = self.stream.read(length)
        return (kind, data) if len(data) == length else None

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.stream.close()
        self.sock.close()


def write_text(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def group_kill(group):
    """Kills every process of the group and removes it, once the last one is gone."""
    try:
        write_text(group + "/cgroup.kill", "1")
        with open(group + "/cgroup.events", encoding="ascii") as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            while "populated 1" in events.read():
                poll.poll(1000)
                events.seek(0)
        for inner, _, _ in os.walk(group, topdown=False):
            os.rmdir(inner)
    except OSError as error:
        print("lab: control group %s: %s" % (group, error), flush=True)


def pump(client, pipe, kind):
    """Sends what the command writes, until all writers have closed it."""
    try:
        while True:
            data = os.read(pipe.fileno(), 65536)
            if not data:
                break
            client.send(kind, data)
    except OSError:
        pass


def feed(client, process, group):
    """Hands the client's input to the command; a connection that ends is the command's end."""
    while True:
        frame = client.receive()
        if frame is None:
            break
        kind, data = frame
        if kind != b"i":
            break
        try:
            if data:
                process.stdin.write(data)
                process.stdin.flush()
            else:
                process.stdin.close()
        except (OSError, ValueError):
            pass
    try:
        write_text(group + "/cgroup.kill", "1")
    except OSError:
        pass  # it has ended already


def serve(client, group, token):
    request = json.loads(client.stream.readline(1 << 20))
    if request.get("token") != token:
        return
    os.mkdir(group)
    client.send(b"r")
    env = dict(os.environ, **request["env"])
    # the shell moves itself into the group, so that no child is ever outside it
    argv = ["/bin/bash", "-c", 'echo 0 > /proc/self/oom_score_adj; echo $$ > "$0/cgroup.procs" && '
            'exec "$@"', group] + request["argv"]
    try:
        process = subprocess.Popen(argv, cwd=request["cwd"], env=env, start_new_session=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
    except OSError as error:
        os.rmdir(group)
        client.send(b"e", ("lab: %s\n" % error).encode())
        client.send(b"x", b"127")
        return
    pumps = [threading.Thread(target=pump, args=(client, process.stdout, b"o"), daemon=True),
             threading.Thread(target=pump, args=(client, process.stderr, b"e"), daemon=True)]
    for thread in pumps:
        thread.start()
    threading.Thread(target=feed, args=(client, process, group), daemon=True).start()
    code = process.wait()
    group_kill(group)
    for thread in pumps:
        thread.join()
    client.send(b"x", b"%d" % code)


def handle(sock, number, token):
    client = Client(sock)
    try:
        serve(client, "%s/run-%d" % (CGROUPS, number), token)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print("lab: agent: %r" % error, flush=True)
    finally:
        client.close()


def hold_vm():
    """Creates a VM that lives as long as the agent. With the first VM and after the last one the kernel patches the
    scheduler's code (the static branch of KVM's preemption notifiers), and KVM's with the first and last vCPU whose APIC
    is disabled by software or by hardware. QEMU's emulation may go on with what another processor had there for a moment, a
    breakpoint, and then that processor takes it for ever. With this VM and its vCPU there, the code stays as it is."""
    vm = fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), KVM_CREATE_VM, 0)
    if os.uname().machine != "x86_64":
        fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
        return
    fcntl.ioctl(vm, KVM_CREATE_IRQCHIP, 0)
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)     # disabled by software until it runs, which it never does
    sregs = bytearray(SREGS_BYTES)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, sregs)
    sregs[SREGS_APIC_BASE + 1] &= ~0x08            # bit 11: disabled by hardware, too
    fcntl.ioctl(vcpu, KVM_SET_SREGS, sregs)


def main():
    hold_vm()
    with open("/run/lab-token", encoding="ascii") as file:
        token = file.read()
    listener = socket.create_server(("0.0.0.0", PORT), backlog=64)
    with open("/proc/uptime", encoding="ascii") as file:
        print("LAB-READY %s s" % file.read().split()[0], flush=True)
    for number in itertools.count(1):
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=handle, args=(sock, number, token), daemon=True).start()


main()
