# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What a guest touches first is recorded beside its image, and there before it is touched the next time."""

import contextlib
import http.server
import os
import re
import signal
import threading
import time

import pytest

from harness.vm import Postern, run_postern
from harness.waiting import seconds, wait_for

MEMORY_MIB = 128
PAGES = 4096            # that the guest touches: 16 MiB
SPANS = PAGES // 16
DELAY = 0.005


class Slow(http.server.BaseHTTPRequestHandler):
    """Objects, read only unless told otherwise, each some time after it was asked for."""

    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True      # or the end of an answer waits for the client's ACK

    def log_message(self, format, *args):       # pylint: disable=redefined-builtin
        """Quiet."""

    def _path(self):
        return os.path.join(self.server.root, self.path.lstrip('/'))

    def do_GET(self):                           # pylint: disable=invalid-name
        """An object, or a part of it."""
        self.server.gets.append((self.path, self.headers.get('Range')))
        self.server.over.wait(DELAY)
        match = re.match(r'bytes=(\d+)-(\d+)$', self.headers.get('Range', ''))
        if not os.path.isfile(self._path()):
            self.send_error(404)
            return
        with open(self._path(), 'rb') as f:
            size = os.path.getsize(self._path())
            first, last = (int(match[1]), min(int(match[2]), size - 1)) if match else (0, size - 1)
            f.seek(first)
            data = f.read(last - first + 1)
        self.send_response(206 if match else 200)
        if match:
            self.send_header('Content-Range', 'bytes %d-%d/%d' % (first, last, size))
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self):                           # pylint: disable=invalid-name
        """Refused, or taken, or neither."""
        data = self.rfile.read(int(self.headers['Content-Length']))
        self.server.puts += 1
        if self.server.silent:
            self.server.over.wait()
            self.close_connection = True
            return
        if self.server.writable:
            with open(self._path() + '.part', 'wb') as f:
                f.write(data)
            os.rename(self._path() + '.part', self._path())
        self.send_response(201 if self.server.writable else 403)
        self.send_header('Content-Length', '0')
        self.end_headers()


@contextlib.contextmanager
def slow(root, writable=False):
    """A web server of these files, each answer of which is late."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Slow)
    server.daemon_threads = True
    server.root, server.writable, server.silent, server.gets, server.puts = str(root), writable, False, [], 0
    server.over = threading.Event()
    server.url = 'http://127.0.0.1:%d/web' % server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(name='images')
def images_fixture(tmp_path):
    """A folder with an image of a guest whose memory is filled."""
    with Postern(memory='%dM' % MEMORY_MIB, cpus=1) as vm:
        vm.bare(ready=True).fill()
        vm.save(tmp_path / 'web')
    return tmp_path


def source(vm):
    return vm.faults()['source']


def working_set(vm):
    return source(vm)['working-set']


def restored(image, *options, **more):
    """One that fetches nothing but what is needed, or what the set says."""
    return Postern.restored(image, options=['--fill', 'off', *options], **more)


def touch(vm):
    """A part of memory, in a random order that is the same each time. Returns how many pages were waited for."""
    guest = vm.bare()
    guest.limit(PAGES)
    before = vm.faults()['counters']['requests']
    guest.walk('g')
    guest.wait_stats(lambda s: s['minpasses'] >= 1, seconds(60))
    guest.quiet(seconds(30))
    assert guest.first_error()['errors'] == 0
    return vm.faults()['counters']['requests'] - before


def wait_written(vm, spans=SPANS):
    wait_for(lambda: working_set(vm)['written'] >= spans, 30, lambda: working_set(vm))


def wait_replayed(vm):
    wait_for(lambda: working_set(vm)['replay'] == 'ended', 30, lambda: working_set(vm))


def record(image):
    """A first run, from its folder."""
    with restored(image) as vm:
        asked = touch(vm)
        wait_written(vm)
        assert working_set(vm)['replay'] == 'none'
        return asked


def test_what_was_touched_is_there_before_it_is_touched_again(images):
    """Of all that the guest touches, only the few that are watched are waited for."""
    first = record(images / 'web')
    assert first >= SPANS
    with slow(images, writable=True) as web:
        with restored(web.url) as vm:
            wait_replayed(vm)
            known = working_set(vm)
            assert known['runs'] == 1 and known['spans'] >= SPANS
            again = touch(vm)
            assert again <= SPANS // 8, (first, again)
            assert working_set(vm)['missed'] == 0
            assert working_set(vm)['present'] == known['spans']
            wait_for(lambda: working_set(vm)['record'] == 'ended', 40, lambda: working_set(vm))
        # It was not forgotten because nobody had to ask for it.
        with restored(web.url) as vm:
            wait_replayed(vm)
            assert working_set(vm)['runs'] == 2
            assert touch(vm) <= SPANS // 8


def test_it_is_fetched_in_large_parts_and_in_order(images):
    record(images / 'web')
    with slow(images) as web, restored(web.url, '--working-set', 'replay') as vm:
        wait_replayed(vm)
        parts = [text for path, text in web.gets if 'pack-' in path]
        spans = working_set(vm)['spans']
        assert len(parts) < spans // 3, (len(parts), spans)
        assert source(vm)['read-bytes'] < 2 * PAGES * 4096
        assert source(vm)['urgent-reads'] < SPANS // 8


def test_a_guest_does_not_wait_for_the_replay(images):
    """It touches while that is under way: what it waits for is read at once, and it sees its own words."""
    record(images / 'web')
    with slow(images) as web, restored(web.url) as vm:
        asked = touch(vm)
        wait_replayed(vm)
        assert asked < SPANS
        vm.bare().limit(0)
        assert vm.bare().verify(seconds(120))['errors'] == 0


def test_off_record_and_replay_are_what_they_say(images):
    path = images / 'web' / 'working-set'
    with restored(images / 'web', '--working-set', 'off') as vm:
        touch(vm)
        assert 'working-set' not in source(vm)
    with restored(images / 'web', '--working-set', 'replay') as vm:
        touch(vm)
        assert working_set(vm)['record'] == 'off'
    assert not path.exists()
    with restored(images / 'web', '--working-set', 'record') as vm:
        touch(vm)
        wait_written(vm)
    assert path.exists()
    with restored(images / 'web', '--working-set', 'record') as vm:
        assert touch(vm) >= SPANS
        assert working_set(vm)['replay'] == 'none'
    code, text = run_postern('run', '--restore', str(images / 'web'), '--working-set', 'maybe')
    assert code == 2 and 'on, off, record or replay' in text, text


def test_a_store_that_is_read_only_is_said_once(images):
    with slow(images) as web, restored(web.url) as vm:
        touch(vm)
        wait_for(lambda: working_set(vm)['record'] == 'failed', 30, lambda: working_set(vm))
        assert vm.log().count('is not recorded') == 1
        assert vm.status() == 'running'
        assert not (images / 'web' / 'working-set').exists()


def test_a_store_that_does_not_answer_holds_no_quit_up(images):
    with slow(images, writable=True) as web, restored(web.url) as vm:
        web.silent = True
        touch(vm)
        wait_for(lambda: web.puts, 30)
        for _ in range(3):
            vm.q.timed('stop', 5)
            vm.q.timed('cont', 5)
        start = time.monotonic()
        vm.command('quit')
        assert vm.wait_exit(seconds(5)) == 0
        assert time.monotonic() - start < seconds(3)


@pytest.mark.parametrize('what', ['damaged', 'cut', 'empty', 'of another image', 'a newer version'])
def test_a_set_that_is_wrong_is_only_a_hint(images, what):
    record(images / 'web')
    path = images / 'web' / 'working-set'
    data = bytearray(path.read_bytes())
    if what == 'damaged':
        data[100] ^= 1
    elif what == 'cut':
        data = data[:-7]
    elif what == 'empty':
        data = b''
    elif what == 'a newer version':
        data[8] = 99
    else:
        with Postern(memory='%dM' % MEMORY_MIB, cpus=1) as vm:
            vm.bare(ready=True).fill()
            vm.save(images / 'other')
        record(images / 'other')
        data = (images / 'other' / 'working-set').read_bytes()
    path.write_bytes(bytes(data))
    with restored(images / 'web') as vm:
        touch(vm)
        assert vm.log().count('working set of image web is not used') == 1, vm.log()
        assert vm.status() == 'running'
        # And it is made anew.
        wait_written(vm)
    with restored(images / 'web') as vm:
        wait_replayed(vm)
        assert touch(vm) <= SPANS // 8


def test_it_is_killed_while_it_writes_the_set(images):
    """At random moments: the set is the old one or the new one, and the image is whole."""
    path = images / 'web' / 'working-set'
    record(images / 'web')
    for _ in range(6):
        before = os.stat(path).st_mtime_ns, os.listdir(images / 'web')
        with restored(images / 'web') as vm:
            touch(vm)
            wait_for(lambda was=before: (os.stat(path).st_mtime_ns, os.listdir(images / 'web')) != was, 20, every=0.0005)
            vm.send_signal(signal.SIGKILL)
            vm.wait_exit(10)
        with restored(images / 'web', '--working-set', 'replay') as vm:
            wait_replayed(vm)
            assert 'not used' not in vm.log()
            assert working_set(vm)['spans'] >= SPANS
    with restored(images / 'web') as vm:
        assert vm.bare().verify(seconds(120))['errors'] == 0


def test_an_image_that_is_gone_gets_no_set(images):
    with restored(images / 'web') as vm:
        (images / 'web' / 'manifest.json').unlink()
        touch(vm)
        wait_for(lambda: working_set(vm)['record'] == 'failed', 30, lambda: working_set(vm))
    assert not (images / 'web' / 'working-set').exists()


def test_clones_record_together_and_fetch_once(images, tmp_path):
    """Each page is recorded by the one that fetched it, and the set that they leave has all."""
    run = tmp_path / 'run'
    run.mkdir(mode=0o700)
    env = dict(os.environ, POSTERN_RUNTIME_DIR=str(run))

    def clone(name, share, *options):
        return Postern.restored(images / 'web', name, env=env, options=['--share', share, *options])
    with clone('a', 's') as a, clone('b', 's') as b:
        touch(a)
        wait_written(a)
        touch(b)
        assert working_set(b)['touches'] < SPANS // 4
        wait_for(lambda: working_set(b)['record'] == 'ended', 40, lambda: working_set(b))
    with clone('c', 't') as c:
        wait_replayed(c)
        assert working_set(c)['spans'] >= SPANS
        with clone('d', 't') as d:
            wait_for(lambda: working_set(d)['replay'] == 'by-another', 30, lambda: working_set(d))
            for vm in (d, c):
                assert touch(vm) <= SPANS // 8
                assert vm.bare().verify(seconds(120))['errors'] == 0
        # And who comes when that one is gone does it himself.
    with clone('e', 't') as vm:
        wait_replayed(vm)


def test_it_is_recorded_until_its_end(images):
    """What is touched only after it was first written counts as well."""
    path = images / 'web' / 'working-set'
    with restored(images / 'web') as vm:
        guest = vm.bare()
        guest.touch(0)
        wait_for(path.exists, 20)
        first = os.stat(path).st_mtime_ns
        wait_for(lambda: os.stat(path).st_mtime_ns != first, 20)
        # Written twice; now comes the rest.
        touch(vm)
        wait_for(lambda: working_set(vm)['record'] == 'ended', 40, lambda: working_set(vm))
        assert working_set(vm)['written'] >= SPANS


def test_that_of_an_encrypted_image_is_encrypted(images, tmp_path):
    key = tmp_path / 'key'
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    with Postern.restored(images / 'web', options=['--key-file', str(key), '--allow-unencrypted']) as vm:
        wait_for(lambda: vm.faults()['pages']['present'] == vm.faults()['pages']['total'], 60)
        vm.save(images / 'dark')
    for _ in range(2):
        with restored(images / 'dark', '--key-file', str(key)) as vm:
            touch(vm)
            wait_written(vm)
            assert (images / 'dark' / 'working-set').read_bytes()[:8] == b'PSTNWSEC'
    assert working_set_replays(images / 'dark', '--key-file', str(key))
    # With a key, and not encrypted, which was allowed.
    with restored(images / 'web') as vm:
        touch(vm)
        wait_written(vm)
    assert working_set_replays(images / 'web', '--key-file', str(key), '--allow-unencrypted')


def working_set_replays(image, *options):
    """How many spans."""
    with restored(image, *options) as vm:
        wait_replayed(vm)
        assert 'not used' not in vm.log()
        return working_set(vm)['spans'] >= SPANS
