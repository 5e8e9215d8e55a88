# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A local network for guests: a namespace whose bridge is the switch, taps on it, and this process as a host of it.

    with Lan() as lan:
        vm = Postern(netns=lan.name, options=['--net', 'tap=' + lan.tap()])
        server = lan.socket(); server.bind((lan.address, 9000))

Machines of a migration run in namespaces of their own; lan.tap(netns) makes a tap there, on a bridge there, which is connected to the
switch: the network has to learn where a guest is. Needs root.
"""

import contextlib
import ctypes
import itertools
import os
import socket
import struct
import threading

from harness.net import ip, run

CLONE_NEWNET = 0x40000000
ETH_P_RARP = 0x8035
ETH_P_ARP = 0x0806

_numbers = itertools.count()


def socket_in(netns, *words):
    """A socket in a network namespace; where the caller is does not change."""
    made = []

    def make():
        with open('/run/netns/' + netns, 'rb') as space:
            if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET):
                made.append(OSError(ctypes.get_errno(), 'setns'))
                return
        try:
            made.append(socket.socket(*words))
        except OSError as e:
            made.append(e)
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


class Lan:
    """name: the namespace; address: this side's; guest(n): addresses for guests."""

    address = '192.168.77.1'
    bits = 24

    def __init__(self):
        self.stem = '%x-%x' % (os.getpid(), next(_numbers))
        self.name = 'postern-%s-lan' % self.stem
        self.stack = contextlib.ExitStack()
        self.cables = 0
        if not os.path.exists('/dev/net/tun'):
            run(('modprobe', 'tun'))
        ip('netns', 'add', self.name)
        try:
            ip('-n', self.name, 'link', 'set', 'lo', 'up')
            self._bridge(self.name)
            ip('-n', self.name, 'address', 'add', '%s/%d' % (self.address, self.bits), 'dev', 'br0')
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """Closes sockets, removes the namespace."""
        self.stack.close()
        ip('netns', 'delete', self.name, check=False)

    @staticmethod
    def guest(n=0):
        """An address for a guest."""
        return '192.168.77.%d' % (10 + n)

    @staticmethod
    def _bridge(netns):
        ip('-n', netns, 'link', 'add', 'br0', 'type', 'bridge')
        ip('-n', netns, 'link', 'set', 'br0', 'up')

    def tap(self, netns=None, name='tap0'):
        """Makes a tap on the switch, or in another namespace on a bridge that a cable connects to it; returns its name."""
        if netns:
            self._bridge(netns)
            far = 'cable%d' % self.cables
            self.cables += 1
            ip('-n', netns, 'link', 'add', 'lan0', 'type', 'veth', 'peer', 'name', far, 'netns', self.name)
            for space, cable in ((netns, 'lan0'), (self.name, far)):
                ip('-n', space, 'link', 'set', cable, 'master', 'br0')
                ip('-n', space, 'link', 'set', cable, 'up')
        space = netns or self.name
        ip('-n', space, 'tuntap', 'add', name, 'mode', 'tap')
        ip('-n', space, 'link', 'set', name, 'master', 'br0')
        ip('-n', space, 'link', 'set', name, 'up')
        return name

    def socket(self, *words):
        """A socket of this network; closed with it."""
        return self.stack.enter_context(socket_in(self.name, *words))

    def listen(self, port):
        """A listening TCP socket."""
        sock = self.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.address, port))
        sock.listen(8)
        return sock

    def sniff(self, protocol):
        """A packet socket at the switch that sees all frames of one protocol."""
        sock = self.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
        sock.bind(('br0', protocol))
        sock.setblocking(False)
        return sock


def rarp_macs(sock):
    """Of the RARP broadcasts that a sniff(ETH_P_RARP) socket has seen since: whose, as text."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frame = sock.recv(2048)
            if frame[:6] == b'\xff' * 6 and struct.unpack_from('>H', frame, 12)[0] == ETH_P_RARP:
                assert frame[6:12] == frame[22:28] == frame[32:38], frame
                found.append(frame[6:12].hex(':'))
    return found


def gratuitous(sock, address):
    """How many gratuitous ARP frames for that address a sniff(ETH_P_ARP) socket has seen since."""
    packed, count = socket.inet_aton(address), 0
    with contextlib.suppress(BlockingIOError):
        while True:
            frame = sock.recv(2048)
            count += frame[28:32] == packed == frame[38:42]
    return count
