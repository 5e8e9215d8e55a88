# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""`postern ctl` as a person or a script uses it, and servers that it should not trust."""

import collections
import contextlib
import os
import resource
import socket
import subprocess
import threading

from harness.vm import program
from harness.waiting import seconds

Said = collections.namedtuple('Said', 'code out err')


class Ctl:
    """runtime_dir: where the named machines are."""

    def __init__(self, runtime_dir):
        self.env = dict(os.environ, POSTERN_RUNTIME_DIR=str(runtime_dir))

    def __call__(self, *words, timeout=60.0, memory=None):
        """To its end. memory: bytes of address space it may have."""
        done = subprocess.run([program(), 'ctl', *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env=self.env, timeout=seconds(timeout), check=False,
                              preexec_fn=memory and (lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory))))
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

    @contextlib.contextmanager
    def start(self, *words, stderr=subprocess.PIPE):
        """A Popen that is killed at the end if it still runs."""
        with subprocess.Popen([program(), 'ctl', *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=stderr, env=self.env, process_group=0, text=True) as child:
            try:
                yield child
            finally:
                if child.poll() is None:
                    child.kill()


@contextlib.contextmanager
def server(path, serve):
    """A unix socket at `path`; serve(socket) speaks to each client and may end however it likes."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(8)
    clients = []

    def run():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            clients.append(client)
            with contextlib.suppress(OSError):
                serve(client)
            client.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield 'unix:%s' % path
    finally:
        for sock in (listener, *clients):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        thread.join(seconds(10))
        assert not thread.is_alive()
