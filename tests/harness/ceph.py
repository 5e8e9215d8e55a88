# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A Ceph cluster on the loopback: a monitor, and daemons that keep objects in memory. Skipped where it is not installed: it is
large, so `make setup` leaves it out; `make setup-ceph` brings it.

    with Ceph(directory, osds=3, pool='images') as cluster:
        cluster.url('prefix'), cluster.keyring, cluster.ceph('osd', 'stat')
        cluster.kill_osd(0), cluster.freeze_osds(0, 1), cluster.thaw_osds(0, 1)
"""

import os
import shutil
import signal
import subprocess
import uuid

import pytest

from harness.migration import free_port
from harness.waiting import seconds, wait_for

PROGRAMS = ('ceph-mon', 'ceph-osd', 'ceph', 'ceph-authtool', 'monmaptool')
CONF = '''
[global]
fsid = %(fsid)s
mon host = v1:127.0.0.1:%(mon)d
auth cluster required = %(auth)s
auth service required = %(auth)s
auth client required = %(auth)s
keyring = %(dir)s/admin.keyring
run dir = %(dir)s
admin socket = %(dir)s/$name.$pid.asok
log file = %(dir)s/$name.log
pid file = %(dir)s/$name.pid
mon data = %(dir)s/mon
osd data = %(dir)s/osd$id
osd objectstore = memstore
memstore device bytes = 2147483648
osd crush chooseleaf type = 0
osd pool default size = %(size)d
osd pool default min size = %(min_size)d
osd pool default pg num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mgr data = %(dir)s/mgr
# So that a daemon that is gone is missed within seconds.
osd heartbeat interval = 1
osd heartbeat grace = 5
mon osd min down reporters = 1
mon osd adjust heartbeat grace = false
mon osd adjust down out interval = false
mon osd down out interval = 3600
mon osd min up ratio = 0
%(more)s
[mon.]
keyring = %(dir)s/mon.keyring
[osd]
keyring = %(dir)s/osd$id/keyring
'''
ADMIN = ('--cap', 'mon', 'allow *', '--cap', 'osd', 'allow *', '--cap', 'mgr', 'allow *', '--cap', 'mds', 'allow *')


class Ceph:
    """The cluster. cephx: clients have keys; pool: one that is made, with client.postern who may use it; min_size: copies that there
    have to be."""

    programs = PROGRAMS

    def __init__(self, directory, osds=3, cephx=True, pool='images', address='127.0.0.1', more='', min_size=None):
        for program in self.programs:
            if not shutil.which(program):
                pytest.skip('%s is not installed: make setup-ceph' % program)
        self.dir = str(directory)
        self.conf = os.path.join(self.dir, 'ceph.conf')
        self.keyring = os.path.join(self.dir, 'postern.keyring')
        self.fsid = str(uuid.uuid4())
        self.cephx, self.pool, self.n, self.address, self.min_size = cephx, pool, osds, address, min_size
        self.mon = free_port()
        self._write_conf(more)
        self.mon_process, self.others = None, []
        self.osds = {}

    def _write_conf(self, more):
        size = min(self.n, 3)
        text = CONF % {'dir': self.dir, 'fsid': self.fsid, 'mon': self.mon, 'auth': 'cephx' if self.cephx else 'none',
                       'size': size, 'min_size': self.min_size or (size + 1) // 2, 'more': more}
        with open(self.conf, 'w', encoding='ascii') as file:
            file.write(text.replace('127.0.0.1', self.address))

    def url(self, prefix='', **more):
        """Of what is in the pool."""
        given = dict(conf=self.conf, id='postern', keyring=self.keyring)
        given.update(more)
        return 'rados://%s/%s?%s' % (self.pool, prefix, '&'.join('%s=%s' % item for item in given.items()))

    def run(self, *words, **kwargs):
        """One of Ceph's programs, with this cluster; what it prints."""
        done = subprocess.run([words[0], '-c', self.conf, *words[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, check=False, timeout=seconds(120), **kwargs)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def ceph(self, *words):
        """Asks the cluster. On a busy host a client may ask before it has been told which cluster this is: EPERM, once more then."""
        def ask():
            done = subprocess.run(['ceph', '-c', self.conf, '--connect-timeout', '60', *words], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, check=False, timeout=seconds(120))
            said.append(done.stderr)
            return done.returncode == 0 and [done.stdout.strip()]

        said = []
        return wait_for(ask, 60, lambda: said[-1], every=0.2)[0]

    def daemon(self, *words):
        """Starts one, in a group of its own."""
        with open(os.path.join(self.dir, words[0] + '.out'), 'a', encoding='utf-8') as log:
            return subprocess.Popen([words[0], '-c', self.conf, '-f', *words[1:]], stdin=subprocess.DEVNULL,
                                    stdout=log, stderr=log, start_new_session=True)

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc):
        self.stop()

    def _keys(self):
        monitor, admin = os.path.join(self.dir, 'mon.keyring'), os.path.join(self.dir, 'admin.keyring')
        self.run('ceph-authtool', '--create-keyring', monitor, '--gen-key', '-n', 'mon.', '--cap', 'mon', 'allow *')
        self.run('ceph-authtool', '--create-keyring', admin, '--gen-key', '-n', 'client.admin', *ADMIN)
        self.run('ceph-authtool', monitor, '--import-keyring', admin)
        return monitor

    def start(self):
        """All of it, for the first time."""
        monmap = os.path.join(self.dir, 'monmap')
        for name in ('mon', 'mgr', *('osd%d' % i for i in range(self.n))):
            os.mkdir(os.path.join(self.dir, name))
        self.run('monmaptool', '--create', '--clobber', '--fsid', self.fsid, '--addv', 'a', '[v1:%s:%d]' % (self.address, self.mon), monmap)
        self.run('ceph-mon', '--mkfs', '-i', 'a', '--monmap', monmap, *(('--keyring', self._keys()) if self.cephx else ()))
        self.start_mon()
        for i in range(self.n):
            self._make_osd(i)
        wait_for(self._osds_are_up, 120, lambda: self.ceph('osd', 'stat'), every=0.2)
        if self.pool:
            self.ceph('osd', 'pool', 'create', self.pool, '8')
            self.ceph('auth', 'get-or-create', 'client.postern', 'mon', 'allow r', 'osd', 'allow rwx pool=%s' % self.pool,
                      '-o', self.keyring)

    def start_mon(self):
        """The monitor, also after stop_mon."""
        self.mon_process = self.daemon('ceph-mon', '-i', 'a')

    def stop_mon(self):
        """It is gone."""
        self._kill(self.mon_process)

    def _make_osd(self, i):
        name = str(uuid.uuid4())
        assert self.ceph('osd', 'new', name) == str(i)
        if self.cephx:
            self.ceph('auth', 'get-or-create', 'osd.%d' % i, 'mon', 'allow profile osd', 'osd', 'allow *', '-o',
                      os.path.join(self.dir, 'osd%d/keyring' % i))
        self.run('ceph-osd', '-i', str(i), '--mkfs', '--osd-uuid', name)

    def _osds_are_up(self):
        """On a busy host one may ask before it has been told which cluster this is, and ends ("wrong fsid"): once more then."""
        for i in range(self.n):
            if i not in self.osds or self.osds[i].poll() is not None:
                self.osds[i] = self.daemon('ceph-osd', '-i', str(i))
        return self.up() == self.n

    def up(self):
        """How many daemons the monitor takes for running."""
        words = self.ceph('osd', 'stat').split()
        return int(words[words.index('up') - 1]) if 'up' in words else int(words[words.index('up,') - 1])

    def kill_osd(self, i):
        """At once; what it had in memory is gone."""
        self._kill(self.osds[i])

    def freeze_osds(self, *which):
        """They neither answer nor go away; returns when the monitor has noticed."""
        for i in which:
            os.kill(self.osds[i].pid, signal.SIGSTOP)

    def thaw_osds(self, *which):
        """And on."""
        for i in which:
            os.kill(self.osds[i].pid, signal.SIGCONT)

    @staticmethod
    def _kill(process):
        if process and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        if process:
            process.wait(seconds(30))

    def stop(self):
        """All of it, at once: nothing is to be kept."""
        for process in (*reversed(self.others), *self.osds.values(), self.mon_process):
            self._kill(process)
        self.others, self.osds, self.mon_process = [], {}, None
