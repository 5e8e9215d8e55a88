# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A stock Debian guest on a network: over a tap, over passt, and across a migration whose link is cut."""

import contextlib
import hashlib
import os
import re
import socket
import threading

import pytest

from harness.debian import BOOT_SECONDS, Console, debian, guest_file, words
from harness.lan import ETH_P_ARP, ETH_P_RARP, Lan, gratuitous, rarp_macs, socket_in
from harness.migration import Pair
from harness.net import Link, ip
from harness.waiting import seconds, wait_for

MIB = 1 << 20
MAC = '02:00:00:07:07:07'


def up(address, gateway=None):
    """What a guest does to be on the network."""
    text = 'ip link set lo up; ip link set eth0 up; ip addr add %s/24 dev eth0; ' % address
    return text + ('ip route add default via %s; ' % gateway if gateway else '')


def end_of(console):
    """The guest's script has ended well; returns all it has said."""
    assert console.expect(r'GUEST-RUN exit=(\d+)', BOOT_SECONDS)[1] == '0', console.text()[-2000:]
    console.assert_well()
    return console.text()


def receive_all(listener):
    """What one client sends until it has no more."""
    client, _ = listener.accept()
    with client:
        client.settimeout(seconds(20))
        return b''.join(iter(lambda: client.recv(1 << 16), b''))


def send_all(listener, content):
    """To one client."""
    client, _ = listener.accept()
    with client:
        client.settimeout(seconds(20))
        client.sendall(content)


def test_a_tap_carries_both_ways():
    """ping; 8 MiB each way with checksums compared; the link's features."""
    content = os.urandom(8 * MIB)
    with Lan() as lan:
        script = up(lan.guest()) + (
            'ping -c 3 -W 5 {a} && dd if=/dev/urandom of=/tmp/x bs=1M count=8 2>/dev/null && md5sum < /tmp/x && '
            'nc {a} 9000 < /tmp/x && nc {a} 9001 < /dev/null > /tmp/y && md5sum < /tmp/y && '
            'cat /sys/class/net/eth0/address /sys/class/net/eth0/carrier && cat /sys/bus/virtio/devices/virtio0/features'
        ).format(a=lan.address)
        to_host, to_guest = lan.listen(9000), lan.listen(9001)
        for sock in (to_host, to_guest):
            sock.settimeout(seconds(BOOT_SECONDS))
        with debian(netns=lan.name, parameters='guest.run="%s"' % script,
                    options=['--net', 'tap=%s,mac=%s' % (lan.tap(), MAC)]) as vm, Console(vm) as console:
            received = receive_all(to_host)
            send_all(to_guest, content)
            text = end_of(console)
            assert vm.wait_exit(30) == 0, vm.log()
            assert 'needs a reset' not in vm.log(), vm.log()
    sums = re.findall(r'^([0-9a-f]{32})  -$', text, re.M)
    assert '3 packets transmitted, 3 packets received' in text, text
    assert len(received) == 8 * MIB and hashlib.md5(received).hexdigest() == sums[0]
    assert hashlib.md5(content).hexdigest() == sums[1]
    assert re.search(r'^%s\n1$' % MAC, text, re.M), text
    bits = re.search(r'^([01]{64})$', text, re.M)[1]
    # CSUM, GUEST_CSUM, MAC, GUEST_TSO4, HOST_TSO4, MRG_RXBUF, STATUS, CTRL_VQ, GUEST_ANNOUNCE
    assert all(bits[i] == '1' for i in (0, 1, 5, 7, 11, 15, 16, 17, 21)), bits


def test_passt_forwards_a_port():
    """postern starts passt itself; it ends with the machine."""
    with Link() as link:
        ip('-n', link.a.name, 'route', 'add', 'default', 'via', link.b.address)
        script = up(link.a.address, link.b.address) + 'mkdir /www; echo well > /www/x; httpd -f -p 80 -h /www'
        with debian(netns=link.a.name, parameters='guest.run="%s"' % script,
                    options=['--net', 'passt,forward=tcp:127.0.0.1/8080:80']) as vm, Console(vm) as console:
            console.wait_ready()

            def fetch():
                with contextlib.suppress(OSError), socket_in(link.a.name, socket.AF_INET, socket.SOCK_STREAM) as sock:
                    sock.settimeout(seconds(2))
                    sock.connect(('127.0.0.1', 8080))
                    sock.sendall(b'GET /x HTTP/1.0\r\n\r\n')
                    return b''.join(iter(lambda: sock.recv(4096), b''))
                return None
            answer = wait_for(fetch, 20, lambda: vm.log() + console.text()[-1000:], every=0.2)
            assert answer.startswith(b'HTTP/1.') and answer.endswith(b'\r\n\r\nwell\n'), answer
            child = [int(p) for p in os.listdir('/proc') if p.isdigit() and passt_of(int(p), vm.pid)]
            assert len(child) == 1, child
            vm.kill()
            wait_for(lambda: not passt_of(child[0]), 10, 'passt outlives its machine')


def test_a_guest_does_not_reach_the_hosts_loopback():
    """By the gateway's address, which passt would take for it, and by the loopback's own, which a guest's root can have sent out. The
    other host on the network it does reach."""
    with Link() as link, socket_in(link.a.name, socket.AF_INET, socket.SOCK_STREAM) as loopback, \
            socket_in(link.b.name, socket.AF_INET, socket.SOCK_STREAM) as there:
        ip('-n', link.a.name, 'route', 'add', 'default', 'via', link.b.address)
        loopback.bind(('127.0.0.1', 4444))
        there.bind((link.b.address, 4445))
        for sock in (loopback, there):
            sock.listen()
        loopback.setblocking(False)
        there.settimeout(seconds(BOOT_SECONDS))
        script = up(link.a.address, link.b.address) + (
            'nc -w 3 {b} 4444 < /dev/null; echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; '
            'ip link set lo down; ip route del local 127.0.0.0/8 table local; ip route del local 127.0.0.1 table local; '
            'ip route add 127.0.0.1 via {b}; ip route get 127.0.0.1; nc -w 3 127.0.0.1 4444 < /dev/null; '
            'nc {b} 4445 < /dev/null').format(b=link.b.address)
        # Its gateway is the other host, whose port is closed; were it the loopback, this would be open.
        with debian(netns=link.a.name, parameters='guest.run="%s"' % script,
                    options=['--net', 'passt']) as vm, Console(vm) as console:
            client, _ = there.accept()
            client.close()
            console.expect(r'GUEST-RUN exit=', BOOT_SECONDS)
            assert 'dev eth0' in console.text(), console.text()[-2000:]
            with pytest.raises(BlockingIOError):
                loopback.accept()
            assert vm.wait_exit(30) == 0, vm.log()


def passt_of(pid, parent=None):
    """Is it a running passt, and that process's child?"""
    with contextlib.suppress(OSError), open('/proc/%d/stat' % pid, encoding='ascii') as f:
        name, state, father = re.match(r'\d+ \((.*)\) (.) (\d+)', f.read()).groups()
        return name.startswith('passt') and state != 'Z' and parent in (None, int(father))
    return False


class Echo:
    """The host's end of a connection whose other end sends everything back; a block at a time, for ever. What comes back is what was
    sent, or `error` says."""

    def __init__(self, listener):
        listener.settimeout(seconds(BOOT_SECONDS))
        self.sock, _ = listener.accept()
        self.sock.settimeout(seconds(60))
        self.count, self.error, self.ended = 0, None, False
        self._thread = threading.Thread(target=self._run, name='echo', daemon=True)
        self._thread.start()

    def _run(self):
        while not self.ended:
            block, got = os.urandom(8192), b''
            try:
                self.sock.sendall(block)
                while len(got) < len(block):
                    data = self.sock.recv(len(block) - len(got))
                    if not data:
                        raise OSError('it has hung up')
                    got += data
                if got != block:
                    raise OSError('what came back is not what was sent')
            except OSError as e:
                if not self.ended:
                    self.error = '%s after %d blocks' % (e, self.count)
                return
            self.count += 1

    def wait_more(self, n, timeout=30.0):
        """Until n blocks more have come back."""
        goal = self.count + n

        def there():
            assert self.error is None, self.error
            return self.count >= goal
        wait_for(there, timeout, lambda: 'echo: %d of %d blocks' % (self.count, goal), every=0.02)

    def close(self):
        """Hangs up."""
        self.ended = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(seconds(5))
        self.sock.close()


class NetPair(Pair):
    """A Pair of machines, each with a tap on one network; the guest sends back what it gets over a TCP connection, and keeps its memory
    busy."""

    def __init__(self, lan, **more):
        self.lan = lan
        self.listener = lan.listen(9000)
        script = up(lan.guest()) + ('(while :; do md5sum /bin/busybox > /dev/null; done) & '
                                    'nc %s 9000 -e /bin/cat' % lan.address)
        source = dict(kernel=guest_file('vmlinuz'),
                      options=words('no-kvmapf watchdog_thresh=60 guest.run="%s"' % script) +
                      ['--net', 'tap=tap0,mac=' + MAC])
        super().__init__(link=True, source_options=source, destination_options=dict(options=['--net', 'tap=tap0']), **more)

    def new_link(self):
        link = Link()
        for side in (link.a, link.b):
            self.lan.tap(side.name)
        return link

    def greet(self, fill):
        self.guest = Console(self.source)
        self.stack.callback(self.guest.close)
        self.guest.wait_ready()
        self.echo = Echo(self.listener)
        self.stack.callback(self.echo.close)
        self.echo.wait_more(20)


def test_a_connection_survives_a_migration_whose_link_is_cut():
    """While pages are missing for good the machine answers, its queues with it; once they come the connection goes on, byte for byte.
    The network learns where the guest is: by us, and by the guest itself. Its MAC address is the source's."""
    with Lan() as lan:
        rarp, arp = lan.sniff(ETH_P_RARP), lan.sniff(ETH_P_ARP)
        with NetPair(lan, memory='192M', cpus=2) as pair:
            assert not rarp_macs(rarp)
            pair.start(bandwidth=1 << 20)
            pair.link.down()
            vm = pair.destination
            wait_for(vm.waiting_cpus, 60, 'no vCPU waits for a page')
            for _ in range(5):
                took, _ = vm.q.timed('stop')
                assert took < 1000, took
                assert vm.status() == 'paused'
                vm.command('cont')
            pair.wait_paused()
            seen = rarp_macs(rarp)
            assert seen and set(seen) == {MAC}, seen
            pair.link.up()
            pair.recover(bandwidth=8 << 20)
            pair.wait_completed(120)
            pair.echo.wait_more(50)
            wait_for(lambda: gratuitous(arp, lan.guest()), 20, 'the guest has not announced itself')
            console = Console(vm)
            pair.stack.callback(console.close)
            console.assert_well()
            assert pair.echo.error is None
            assert pair.source.status() == 'postmigrate'
            assert pair.running() == ['destination']
            assert 'needs a reset' not in vm.log(), vm.log()
