# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What a machine writes without an end: its console and its log. The newest is
there, what is missing is marked, and a disk that is full ends nothing."""

import os
import re
import resource

from harness.vm import Postern
from harness.waiting import seconds, wait_for

MARK = re.compile(rb'\r\n\[postern: (\d+) bytes are missing here\]\r\n')
KEPT = 256 << 10


def size(path):
    """0: there is none."""
    return os.path.getsize(path) if os.path.exists(path) else 0


def banners(path):
    """How often the guest has said that it is there."""
    return path.read_bytes().count(b'mode=s\n') if path.exists() else 0


def disk_holds(vm, nbytes):
    """As a full disk does: no file of the process's may grow beyond that. None: any."""
    most = resource.RLIM_INFINITY
    resource.prlimit(vm.pid, resource.RLIMIT_FSIZE, (most if nbytes is None else nbytes, most))


def read_all(sock):
    """What has been said until now: the end is a whole second of nothing."""
    sock.settimeout(seconds(1))
    data = b''
    try:
        while True:
            data += sock.recv(65536)
    except TimeoutError:
        sock.settimeout(seconds(10))
        return data


def test_a_console_that_nobody_reads_keeps_the_last_words():
    """Whoever connects after a long time reads what the guest said last, and how
    much of it is missing."""
    with Postern() as vm:
        guest = vm.bare(ready=True)
        guest.heartbeat(True, period_us=1)
        guest.close()
        wait_for(lambda: re.search('console output is (lost|dropped)', vm.log()), 120, vm.log)
        vm.command('stop')
        with vm.serial() as sock:
            data = read_all(sock)
            mark = MARK.search(data)
            assert mark and int(mark[1]), data[:200]
            kept = data[mark.end():]
            assert len(kept) == KEPT
            # They are the last: the guest goes on from there.
            vm.command('cont')
            kept += sock.recv(65536)
        beats = [int(n) for n in re.findall(rb'\.(\d+)\n', kept)]
        assert beats == sorted(beats)
        assert max(b - a for a, b in zip(beats[1:], beats[2:])) < 1000


def test_a_full_disk_does_not_end_a_console_in_a_file(tmp_path):
    """It waits until there is room, and goes on where it was."""
    path = tmp_path / 'console'
    # So that what standard error gets is shorter than the console's file all the time.
    with Postern(serial='file:%s' % path, log_level='warn') as vm:
        for n in range(1, 6):
            wait_for(lambda: banners(path) == n, 20)
            vm.command('stop' if n == 5 else 'system_reset')
        before = path.read_bytes()
        disk_holds(vm, len(before))
        vm.command('system_reset')
        vm.command('cont')
        wait_for(lambda: 'waits: File too large' in vm.log(), 20, vm.log)
        assert vm.status() == 'running' and path.read_bytes() == before
        disk_holds(vm, None)
        wait_for(lambda: banners(path) == 6, 20, path.read_bytes)
        assert path.read_bytes().startswith(before)


def test_a_full_disk_loses_lines_of_the_log_and_says_how_many(tmp_path):
    """No line, no machine; and the next line that has room says it."""
    path = tmp_path / 'log'
    with Postern(options=['--log-file', str(path)]) as vm:
        disk_holds(vm, size(path))
        for _ in range(5):
            vm.command('stop')
            vm.command('cont')
        disk_holds(vm, None)
        vm.command('stop')
        text = path.read_text()
        assert re.search(r'\n\S+ warning: 10 lines of this log are missing here: File too large\n'
                         r'\S+ info: run state: paused\n$', text), text[-500:]
        vm.command('cont')


def test_a_log_has_a_limit(tmp_path):
    """Then it becomes the old one, and there are no more than two."""
    path, old = tmp_path / 'log', tmp_path / 'log.1'
    with Postern(options=['--log-file', '%s,limit=128K' % path]) as vm:
        with open(path, 'a', encoding='utf-8') as f:    # others write to it, too
            f.write('x' * (128 << 10))
        vm.command('stop')
        assert size(old) >= 128 << 10 and size(path) < 1000
        assert path.read_text().endswith('info: run state: paused\n')
        vm.command('cont')
        assert path.read_text().endswith('info: run state: running\n')
