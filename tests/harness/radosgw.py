# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Ceph's S3 server, with a cluster of one daemon unless more is said (harness/ceph.py).

    with RadosGw(directory) as server:
        server.url('images/prefix'), server.env
"""

import os
import subprocess
import urllib.parse

from harness.ceph import PROGRAMS, Ceph
from harness.migration import free_port
from harness.waiting import seconds, wait_for

KEY, SECRET = 'AKCEPH', 'geheim/+geheim'
CONF = '''
osd pool default pg num = 1
rgw frontends = beast endpoint=127.0.0.1:%d
rgw enable usage log = false
rgw lifecycle work time = 00:00-00:01
'''


class RadosGw(Ceph):
    """The cluster, and what may ask it."""

    programs = (*PROGRAMS, 'radosgw', 'radosgw-admin', 'curl')
    env = {'AWS_ACCESS_KEY_ID': KEY, 'AWS_SECRET_ACCESS_KEY': SECRET}

    def __init__(self, directory, address='127.0.0.1', osds=1, cephx=False, pool=None, **more):
        self.port = free_port()
        self.endpoint = 'http://%s:%d' % (address, self.port)
        super().__init__(directory, osds=osds, cephx=cephx, pool=pool, address=address, more=CONF % self.port, **more)
        self.flaws = []         # as harness.s3's; this one tells nobody

    def url(self, prefix='', **more):
        """Of a bucket, or a bucket/prefix."""
        return 's3://%s?endpoint=%s' % (urllib.parse.quote(prefix), self.endpoint)

    def start(self):
        super().start()
        # One after the other: both make pools, and may wait for each other for ever.
        self.run('radosgw-admin', 'user', 'create', '--uid', 'test', '--display-name', 'test', '--access-key', KEY, '--secret', SECRET)
        self.others.append(self.daemon('radosgw', '-n', 'client.admin' if self.cephx else 'client.rgw'))
        wait_for(self._answers, 120, lambda: open(os.path.join(self.dir, 'radosgw.out'), encoding='utf-8').read())
        subprocess.run(['curl', '-sf', '-X', 'PUT', '--noproxy', '*', '--aws-sigv4', 'aws:amz:us-east-1:s3', '--user', KEY + ':' + SECRET,
                        '-H', 'x-amz-content-sha256: UNSIGNED-PAYLOAD', self.endpoint + '/images'], check=True, timeout=seconds(60))

    def _answers(self):
        return subprocess.run(['curl', '-s', '-o', '/dev/null', '--noproxy', '*', self.endpoint], check=False,
                              timeout=seconds(60)).returncode == 0
