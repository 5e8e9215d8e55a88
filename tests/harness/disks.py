# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Servers and images for disks: nbdkit and qemu-utils, which a test is skipped without.

    with Nbdkit(tmp_path, megabytes=16) as server:
        server.uri; server.kill(); server.start(); server.freeze(); server.thaw()
"""

import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

from harness.waiting import seconds, wait_for

MIB = 1 << 20


def need(program, package):
    """Skips the test where there is no such program."""
    if not shutil.which(program):
        pytest.skip('%s is not installed: apt install %s' % (program, package))


def qcow2(path, megabytes, content=None):
    """An image at `path`; content: what its disk begins with."""
    need('qemu-nbd', 'qemu-utils')
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', str(path), '%dM' % megabytes], check=True)
    if content:
        raw = str(path) + '.raw'
        with open(raw, 'wb') as file:
            file.write(content)
            file.truncate(megabytes * MIB)
        subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', raw, str(path)], check=True)
        os.unlink(raw)
    return path


def qcow2_raw(path):
    """What the image's disk holds, all of it; the image is checked too."""
    subprocess.run(['qemu-img', 'check', '-q', '-f', 'qcow2', str(path)], check=True)
    raw = str(path) + '.raw'
    subprocess.run(['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', str(path), raw], check=True)
    with open(raw, 'rb') as file:
        content = file.read()
    os.unlink(raw)
    return content


class Nbdkit:
    """An NBD server on a unix socket, over a raw file in `directory`."""

    def __init__(self, directory, megabytes=16, content=None):
        need('nbdkit', 'nbdkit')
        self.path = os.path.join(str(directory), 'nbd.raw')
        self.socket = os.path.join(str(directory), 'nbd.socket')
        self.uri = 'nbd+unix:///?socket=' + self.socket
        with open(self.path, 'wb') as file:
            file.write(content or b'')
            file.truncate(megabytes * MIB)
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.kill()

    def _answers(self):
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.settimeout(seconds(5))
                sock.connect(self.socket)
                return sock.recv(8) == b'NBDMAGIC'
            except OSError:
                return False

    def start(self):
        """Starts it (again), and waits until it answers."""
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.process = subprocess.Popen(['nbdkit', '-f', '-U', self.socket, 'file', 'file=' + self.path],
                                        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._answers, 20)

    def kill(self):
        """As a crash of its host, but that the page cache survives."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(seconds(10))

    def freeze(self):
        """It neither answers nor goes away."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        """It answers again, all that was asked."""
        self.process.send_signal(signal.SIGCONT)


def timed(call):
    """(milliseconds, result) of a call."""
    start = time.perf_counter()
    result = call()
    return (time.perf_counter() - start) * 1e3, result
