# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Web servers for stores: nginx with a configuration of the test's own, on the loopback. A test is skipped without it.

    with Nginx(tmp_path, tls=True) as server:
        server.url, server.files, server.kill(), server.start(), server.freeze(), server.thaw()
"""

import os
import shutil
import signal
import socket
import subprocess

import pytest

from harness.disks import need
from harness.migration import free_port
from harness.vm import build_dir
from harness.waiting import seconds, wait_for

CONF = '''
daemon off;
worker_processes 1;
pid %(dir)s/pid;
error_log %(dir)s/error.log warn;
%(top)s
events { worker_connections 256; }
http {
    access_log %(dir)s/access.log;
    client_body_temp_path %(dir)s/body;
    proxy_temp_path %(dir)s/proxy;
    fastcgi_temp_path %(dir)s/fastcgi;
    uwsgi_temp_path %(dir)s/uwsgi;
    scgi_temp_path %(dir)s/scgi;
    client_max_body_size 256m;
    %(http)s
    server {
        listen %(listen)s;
        %(tls)s
        root %(files)s;
        location / {
            dav_methods PUT DELETE;
            create_full_put_path on;
            %(location)s
        }
        %(server)s
    }
}
'''


def tool(*words, data=None, env=None, timeout=60):
    """(exit code, standard output, error) of tests/harness/store_tool.c."""
    path = os.path.join(build_dir(), 'tests', 'store-tool')
    if not os.path.exists(path):
        pytest.skip('this build has no %s: stores at web servers need libcurl4-openssl-dev' % path)
    done = subprocess.run([path, *(str(word) for word in words)], input=data or b'', stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False, timeout=seconds(timeout),
                          env=dict(_clean(), **(env or {})))
    return done.returncode, done.stdout, done.stderr.decode()


def _clean():
    """The environment without what is somebody's own: logins, and proxies that would stand between."""
    return {name: value for name, value in os.environ.items()
            if not name.startswith(('AWS_', 'POSTERN_HTTP_')) and not name.lower().endswith('_proxy')}


def get(url, name, offset, length, *options, **kwargs):
    """The bytes; a failure is one of the test."""
    code, out, err = tool(*options, url, 'get', name, offset, length, **kwargs)
    assert code == 0, err
    return out


def fails(*words, **kwargs):
    """The errno's name and the text of a call that fails."""
    code, _, err = tool(*words, **kwargs)
    assert code == 1, (code, err)
    name, text = err.strip().split(' ', 1)
    return name, text


def certificate(directory, name='localhost', days=2):
    """(certificate, key) that nobody but who is told trusts, for a name and 127.0.0.1."""
    need('openssl', 'openssl')
    cert, key = os.path.join(str(directory), name + '.crt'), os.path.join(str(directory), name + '.key')
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', cert,
                    '-days', str(days), '-subj', '/CN=' + name,
                    '-addext', 'subjectAltName=DNS:%s,IP:127.0.0.1' % name],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return cert, key


def nginx_binary():
    """Debian has it in /usr/sbin."""
    found = shutil.which('nginx') or '/usr/sbin/nginx'
    if not os.path.exists(found):
        need('nginx', 'nginx')
    return found


class Nginx:
    """A server of files, which can be written, too."""

    def __init__(self, directory, tls=None, location='', server='', http=''):
        self.binary = nginx_binary()
        self.dir = os.path.join(str(directory), 'nginx')
        self.files = os.path.join(self.dir, 'files')
        os.makedirs(self.files)
        self.port = free_port()
        self.url = '%s://127.0.0.1:%d' % ('https' if tls else 'http', self.port)
        self.conf = os.path.join(self.dir, 'conf')
        text = CONF % {
            'dir': self.dir, 'files': self.files, 'location': location, 'server': server, 'http': http,
            'listen': '127.0.0.1:%d%s' % (self.port, ' ssl' if tls else ''),
            'tls': 'ssl_certificate %s; ssl_certificate_key %s;' % tls if tls else '',
            'top': 'user root root;' if os.geteuid() == 0 else ''}
        with open(self.conf, 'w', encoding='ascii') as file:
            file.write(text)
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.kill()

    def _answers(self):
        assert self.process.poll() is None, self.errors()
        with socket.socket() as sock:
            return sock.connect_ex(('127.0.0.1', self.port)) == 0

    def errors(self):
        """What it says is wrong."""
        path = os.path.join(self.dir, 'error.log')
        return open(path, encoding='utf-8').read() if os.path.exists(path) else ''

    def log(self):
        """Its access log's lines."""
        with open(os.path.join(self.dir, 'access.log'), encoding='utf-8') as file:
            return file.read().splitlines()

    def start(self):
        """Starts it (again), and waits until it listens."""
        self.process = subprocess.Popen([self.binary, '-p', self.dir, '-c', self.conf, '-e',
                                         os.path.join(self.dir, 'error.log')],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, start_new_session=True)
        wait_for(self._answers, 20, self.errors)

    def _signal(self, number):
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def kill(self):
        """All of it, at once; what is under way is cut."""
        self._signal(signal.SIGKILL)
        if self.process:
            self.process.wait(seconds(10))

    def freeze(self):
        """It neither answers nor goes away."""
        self._signal(signal.SIGSTOP)

    def thaw(self):
        """And on."""
        self._signal(signal.SIGCONT)

    def write(self, name, data):
        """An object, put there behind the server's back."""
        path = os.path.join(self.files, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as file:
            file.write(data)
