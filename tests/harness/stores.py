# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A Ceph cluster with its S3 server outside the lab, and two hosts in the lab that reach it by a network of their own.

Outside, where tools/lab-stores runs:

    with Stores(directory) as stores:           # lab/run --net tap=NAME --env POSTERN_LAB_STORES=...
        stores.environment()

Inside:

    with Hosts() as hosts:
        Postern(netns=hosts.a, env=hosts.env)   # hosts.b is another host
        hosts.url('s3', 'web'), hosts.kill_osd('s3'), hosts.cut(), hosts.mend()
"""

import json
import os
import socket
import socketserver
import tempfile
import threading

from harness.net import ip, run
from harness.radosgw import RadosGw
from harness.waiting import seconds, wait_for

VARIABLE = 'POSTERN_LAB_STORES'
OUTSIDE = '10.78.0.1'
NIC = 'eth1'                    # the lab's second
POOL = 'images'                 # and S3's bucket
POOLS = {'s3': 'default.rgw.buckets.data', 'rados': POOL}


class Stores:
    """The cluster: each object has three copies in four daemons, and one is enough, so that two may die. It listens at OUTSIDE, which
    has to be an address of this host; and does what a line on a connection of its own says: "kill POOL", "up"."""

    def __init__(self, directory):
        self.cluster = RadosGw(directory, address=OUTSIDE, osds=4, cephx=True, pool=POOL, min_size=1)
        self.server = None

    def __enter__(self):
        self.cluster.__enter__()
        lock = threading.Lock()

        class Handler(socketserver.StreamRequestHandler):
            """One connection."""

            def handle(handler):        # pylint: disable=no-self-argument
                for line in handler.rfile:
                    with lock:
                        handler.wfile.write(b'%d\n' % self._obey(*line.decode('ascii').split()))

        self.server = socketserver.ThreadingTCPServer((OUTSIDE, 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, name='control', daemon=True).start()
        return self

    def __exit__(self, *exc):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
        self.cluster.__exit__(*exc)

    def _obey(self, verb, pool=None):
        if verb == 'kill':
            where = json.loads(self.cluster.ceph('osd', 'map', pool, 'object', '-f', 'json'))
            self.cluster.kill_osd(where['acting_primary'])
        return self.cluster.up()

    def environment(self):
        """NAME=VALUE for the lab: where it all is, and who may ask."""
        with open(self.cluster.keyring, encoding='ascii') as file:
            keyring = file.read()
        return '%s=%s' % (VARIABLE, json.dumps({
            'control': self.server.server_address[1], 'monitor': self.cluster.mon, 'keyring': keyring,
            's3': self.cluster.port, 'env': self.cluster.env, 'daemons': self.cluster.n}))


def reason():
    """Why there is none here, or None."""
    if not os.environ.get(VARIABLE):
        return 'no stores beside this lab: make test-lab-stores'
    return None if os.path.exists('/sys/class/net/' + NIC) else 'this lab has no second NIC: lab/run --net tap=NAME'


class Hosts:
    """Two network namespaces on a bridge with the lab's second NIC. a: where guests are saved; b: another host, which can be cut off."""

    def __init__(self):
        self.given = json.loads(os.environ[VARIABLE])
        self.env = dict(os.environ, **self.given['env'])
        stem = 'postern-%x-' % os.getpid()
        self.a, self.b = stem + 'a', stem + 'b'
        with tempfile.NamedTemporaryFile('w', prefix='keyring-', delete=False) as file:
            file.write(self.given['keyring'])
        self.keyring = file.name
        self.control = None

    def __enter__(self):
        try:
            self._join()
            self.control = socket.create_connection((OUTSIDE, self.given['control']), seconds(20))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc):
        self.close()

    def _join(self):
        ip('link', 'add', 'stores', 'type', 'bridge')
        ip('address', 'add', '10.78.0.2/24', 'dev', 'stores')
        ip('link', 'set', NIC, 'master', 'stores')
        for name in (NIC, 'stores'):
            ip('link', 'set', name, 'up')
        for number, (netns, port) in enumerate(((self.a, 'port-a'), (self.b, 'port-b')), 3):
            ip('netns', 'add', netns)
            ip('link', 'add', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', netns)
            ip('link', 'set', port, 'master', 'stores')
            ip('-n', netns, 'address', 'add', '10.78.0.%d/24' % number, 'dev', 'eth0')
            ip('-n', netns, 'link', 'set', 'lo', 'up')
            ip('-n', netns, 'link', 'set', 'eth0', 'up')
            ip('link', 'set', port, 'up')
            wait_for(lambda netns=netns: self._reaches(netns), 20, '%s does not reach the stores' % netns)

    @staticmethod
    def _reaches(netns):
        return run(('ip', 'netns', 'exec', netns, 'ping', '-c', '1', '-W', '1', OUTSIDE), check=False).returncode == 0

    def close(self):
        """Removes all of it."""
        if self.control:
            self.control.close()
        for netns in (self.a, self.b):
            ip('netns', 'delete', netns, check=False)
        ip('link', 'delete', 'stores', check=False)
        os.unlink(self.keyring)

    def url(self, store, name):
        """Of an image in 's3' or in 'rados'."""
        if store == 's3':
            return 's3://%s/lab/%s?endpoint=http://%s:%d' % (POOL, name, OUTSIDE, self.given['s3'])
        return 'rados://%s/lab/%s?id=postern&mon_host=v1:%s:%d&keyring=%s' % (POOL, name, OUTSIDE, self.given['monitor'], self.keyring)

    def _ask(self, line):
        self.control.sendall(line.encode('ascii') + b'\n')
        self.control.settimeout(seconds(120))
        return int(self.control.recv(64))

    def kill_osd(self, store):
        """SIGKILL to a daemon that answers reads of that store's objects: of all S3's, and of some of RADOS'."""
        self._ask('kill ' + POOLS[store])

    def up(self):
        """How many daemons the cluster takes for running."""
        return self._ask('up')

    @staticmethod
    def cut():
        """Host b's wire is out. Connections stay open and hear nothing."""
        ip('link', 'set', 'port-b', 'down')

    @staticmethod
    def mend():
        """And in again."""
        ip('link', 'set', 'port-b', 'up')
