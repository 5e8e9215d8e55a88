# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""postern top, on a terminal and without."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios

from harness.migration import Pair
from harness.vm import Postern, program
from harness.waiting import seconds, wait_for

MIB = 1 << 20


def once(runtime_dir):
    """postern top --json, parsed."""
    done = subprocess.run([program(), 'top', '--json'], env=dict(os.environ, POSTERN_RUNTIME_DIR=str(runtime_dir)),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=seconds(20), check=False)
    assert done.returncode == 0
    return json.loads(done.stdout)


def test_a_map_shows_what_has_come(tmp_path):
    env = dict(os.environ, POSTERN_RUNTIME_DIR=str(tmp_path / 'run'))
    with Pair(memory='64M', env=env) as pair:
        pair.guest.walk('c')
        pair.start(bandwidth=MIB)
        source, destination = (next(m for m in once(tmp_path / 'run') if m['name'] == vm.name)
                               for vm in (pair.source, pair.destination))
        assert sum(source['map']['present']) == sum(source['map']['looked']) == source['map']['pages'] == 16384
        there = sum(destination['map']['present'])
        assert sum(destination['map']['looked']) == 16384 and 0 < there < 16384
        assert len(destination['map']['looked']) == 512
        assert destination['status']['status'] == 'running'
        pair.finish()
        destination = next(m for m in once(tmp_path / 'run') if m['name'] == pair.destination.name)
        assert destination['map']['present'] == destination['map']['looked']


def test_a_map_of_much_memory_looks_at_some_of_it():
    with Postern(memory='4G', cpus=1) as vm:
        seen = vm.command('query-postern-map', cells=4096)
        assert seen['pages'] == 1 << 20 and seen['every'] == 4
        assert sum(seen['looked']) == 1 << 18 and set(seen['looked']) == {64}
        ms, _ = vm.q.timed('query-postern-map', cells=1)
        print('a map of 4 GiB: %.1f ms' % ms)


def test_it_draws_on_a_terminal_and_q_ends_it():
    with Postern(memory='64M') as vm:
        vm.bare(ready=True)
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
        env = dict(os.environ, POSTERN_RUNTIME_DIR=vm.runtime_dir, TERM='vt100')
        top = subprocess.Popen([program(), 'top'], env=env, stdin=slave, stdout=slave, stderr=slave)
        try:
            text = b''

            def drawn():
                nonlocal text
                text += os.read(master, 65536)
                return b'running' in text and b'faults' in text
            wait_for(drawn, 10, lambda: repr(text))
            assert vm.name.encode() in text and b'####' in text
            vm.send_signal(signal.SIGSTOP)      # a machine that hangs does not hang it
            try:
                text = b''
                wait_for(lambda: drawn() or b'no' in text and b'answer' in text, 10, lambda: repr(text))
                os.write(master, b'q')
                assert top.wait(seconds(10)) == 0
            finally:
                vm.send_signal(signal.SIGCONT)
        finally:
            if top.poll() is None:
                top.kill()
                top.wait()
            os.close(master)
            os.close(slave)


def test_without_a_terminal_it_says_so(tmp_path):
    assert once(tmp_path) == []
    done = subprocess.run([program(), 'top'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=seconds(10), check=False)
    assert done.returncode == 2 and b'--json' in done.stderr
