# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A stock Debian kernel's drivers of the small devices: console, balloon with reports of free pages, sockets."""

import os
import re
import socket
import threading

from harness.debian import BOOT_SECONDS, Console, debian, guest_file, words
from harness.migration import Pair
from harness.qmp import QmpError
from harness.vm import sanitized
from harness.waiting import seconds, wait_for

MIB = 1 << 20
MEMORY = 192
# What is typed at hvc0 comes back; `fill` uses memory and frees it.
HVC = '(while read line; do [ $line = fill ] && dd if=/dev/zero of=/tmp/y bs=1M count=64 2>/dev/null; echo got $line; done ' \
      '< /dev/hvc0 > /dev/hvc0) & '
# Memory that is used, then freed; memcheck verifies its own all the time (its parameters are not to be seen by the guest's init).
EVERYTHING = 'vsock echo 5000 > /tmp/echo & ' + HVC + \
             'dd if=/dev/zero of=/tmp/x bs=1M count=64 2>/dev/null; echo FULL; read x; rm /tmp/x; vsock send 6000 1000000; ' \
             'm=memcheck; $m $m.mb=12 $m.random=1 $m.workers=2'
# Console and sockets in use for ever.
ROUNDS = 'vsock echo 5000 > /tmp/echo & ' + HVC + 'vsock rounds 6000'


def stream(path, timeout=10):
    """A connection to a unix socket."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(seconds(timeout))
    sock.connect(str(path))
    return sock


def ask_console(where, text):
    """Types a line at hvc0 until the answer comes: what a closed tty is sent is lost."""
    with stream(where / 'hvc') as sock:
        got = b''
        sock.settimeout(1)

        def answered():
            nonlocal got
            sock.sendall(text.encode() + b'\n')
            try:
                got += sock.recv(65536)
            except socket.timeout:
                return False
            return b'got ' + text.encode() in got
        wait_for(answered, 30, lambda: 'hvc0 says %r' % got)


def recv_exactly(sock, count):
    """That many bytes, or what comes before the end."""
    data = b''
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            break
        data += more
    return data


def call_guest(where, port):
    """A connection to the guest's port, through the machine's socket in this directory; None: refused."""
    sock = stream(where / 'vsock', 30)
    sock.sendall(b'CONNECT %d\n' % port)
    line = b''
    while not line.endswith(b'\n'):
        byte = sock.recv(1)
        if not byte:
            sock.close()
            return None
        line += byte
    assert re.fullmatch(rb'OK \d+\n', line), line
    return sock


def echo_through_guest(where, count):
    """Sends random bytes to the guest's echo, in both directions at once; ends; gets all of it back, and the end."""
    data = os.urandom(count)
    with wait_for(lambda: call_guest(where, 5000), 30) as sock:
        sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)), daemon=True)
        sender.start()
        back = recv_exactly(sock, count)
        sender.join(seconds(10))
        assert back == data
        assert sock.recv(1) == b''


class Echo:
    """Listens at the machine's socket for a port of the host, and sends back what comes."""

    def __init__(self, where, port):
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(where / ('vsock_%d' % port)))
        self._listener.listen(16)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(sock,), daemon=True).start()

    @staticmethod
    def _echo(sock):
        with sock:
            try:
                while data := sock.recv(65536):
                    sock.sendall(data)
            except OSError:
                pass

    def close(self):
        """Listens no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def small_options(where):
    """All three devices, their sockets in this directory."""
    return ['--console', 'unix:%s/hvc' % where, '--balloon', '--vsock', 'cid=42,socket=%s/vsock' % where]


def balloon(vm, mebibytes):
    """Asks for it, and waits until the guest says so."""
    vm.command('balloon', value=mebibytes * MIB)
    wait_balloon(vm, mebibytes)


def wait_balloon(vm, mebibytes):
    """Until the guest has so much memory."""
    wait_for(lambda: vm.command('query-balloon')['actual'] == mebibytes * MIB, 60, lambda: vm.command('query-balloon'))


def discarded(vm):
    """How many bytes the guest has given up so far."""
    return vm.faults()['counters']['discarded'] * 4096


def wait_rss(vm, condition):
    """Until the process's size is right; a sanitizer's memory says nothing."""
    if not sanitized():
        wait_for(lambda: condition(vm.rss()), 60, lambda: '%d MiB' % (vm.rss() / MIB))


def test_console_balloon_and_sockets(tmp_path):
    """One boot: lines typed at hvc0 come back; memory that is freed or ballooned goes back to the host, and comes again, while what other
    pages hold stays; bytes through sockets in both directions are the ones that were sent."""
    echo = Echo(tmp_path, 6000)
    with debian(memory='%dM' % MEMORY, parameters='guest.run="%s"' % EVERYTHING, options=small_options(tmp_path)) as vm:
        with Console(vm) as console:
            console.wait_ready()
            console.expect('^FULL', BOOT_SECONDS)
            full, given = vm.rss(), discarded(vm)
            ask_console(tmp_path, 'hello')
            echo_through_guest(tmp_path, 3 * MIB)
            # Free page reporting: the file is gone, its memory too, and nobody has asked for it.
            console.write('\n')
            console.expect('^vsock send well', 60)
            wait_rss(vm, lambda size: size < full - 40 * MIB)
            wait_for(lambda: discarded(vm) > given + 40 * MIB, 60, lambda: discarded(vm) / MIB)
            console.expect(r'^memcheck pass=[1-9]\d* .*errors=0', 60)
            assert vm.command('query-balloon')['actual'] == MEMORY * MIB
            given = discarded(vm)
            balloon(vm, MEMORY - 40)
            assert discarded(vm) >= given + 40 * MIB
            vm.q.wait_event('BALLOON_CHANGE')
            balloon(vm, MEMORY)
            # What was given up is memory again.
            small = vm.rss()
            ask_console(tmp_path, 'fill')
            wait_rss(vm, lambda size: size > small + 40 * MIB)
            console.write('status\n')
            assert console.expect(r'^memcheck status pass=\d+ pages=\d+ errors=(\d+)', 30)[1] == '0'
            console.write('quit\n')
            assert console.expect(r'GUEST-RUN exit=(\d+)', 30)[1] == '0', console.text()[-2000:]
            console.assert_well()
        assert vm.wait_exit(30) == 0, vm.log()
        assert 'needs a reset' not in vm.log(), vm.log()
    echo.close()


class SmallPair(Pair):
    """A Pair of machines whose guest uses its console and its sockets all the time."""

    def __init__(self, tmp_path, **more):
        self.where = {'src': tmp_path / 'src', 'dst': tmp_path / 'dst'}
        for path in self.where.values():
            path.mkdir()
        source = dict(kernel=guest_file('vmlinuz'), options=words('no-kvmapf watchdog_thresh=60 guest.run="%s"' % ROUNDS) +
                      small_options(self.where['src']))
        super().__init__(source_options=source, destination_options=dict(options=small_options(self.where['dst'])), **more)

    def greet(self, fill):
        for where in self.where.values():
            self.stack.callback(Echo(where, 6000).close)
        self.guest = Console(self.source)
        self.stack.callback(self.guest.close)
        self.guest.wait_ready()
        self.guest.expect(r'^vsock round 3 well', BOOT_SECONDS)


def test_they_are_used_across_a_migration_whose_link_is_cut(tmp_path):
    """While pages are missing for good the machine answers, whatever its console and sockets wait for. Connections end, the guest learns of
    it and makes new ones; a balloon is accepted and gives nothing up before memory is here."""
    with SmallPair(tmp_path, link=True, memory='192M', cpus=2) as pair:
        there = pair.where['dst']
        ask_console(pair.where['src'], 'before')
        pair.start(bandwidth=1 << 20)
        pair.link.down()
        pair.wait_all_waiting(cpus={0}, timeout=60)
        vm = pair.destination
        with stream(there / 'hvc') as hvc, stream(there / 'vsock') as sock:
            hvc.sendall(b'waiting\n')
            sock.sendall(b'CONNECT 5000\n')
            vm.command('balloon', value=160 * MIB)
            for _ in range(3):
                try:
                    took, _ = vm.q.timed('stop')
                except QmpError as error:
                    raise AssertionError('%s; %s' % (error, vm.faults())) from error
                assert took < 1000, took
                assert vm.status() == 'paused'
                vm.command('cont')
            pair.wait_paused()
            pair.link.up()
            pair.recover(bandwidth=16 << 20)
            pair.wait_completed(120)
        console = Console(vm)
        pair.stack.callback(console.close)
        for _ in range(3):
            console.expect(r'^vsock round \d+ well', 60)
        ask_console(there, 'after')
        echo_through_guest(there, MIB)
        wait_balloon(vm, 160)
        console.assert_well()
        text = pair.guest.text() + console.text()
        assert 'vsock lost' in text and 'BAD' not in text, text[-2000:]
        assert pair.running() == ['destination']
