# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A guest out of an image at a web server that is slow, silent, gone, and back."""

import contextlib
import http.server
import os
import re
import signal
import subprocess
import threading
import time

import pytest

from harness.gdbremote import GdbRemote
from harness.vm import Postern, program, run_postern
from harness.waiting import seconds, wait_for

MIB = 1 << 20


class Handler(http.server.BaseHTTPRequestHandler):
    """GET, with ranges. What the server is told to do comes first."""

    protocol_version = 'HTTP/1.1'

    def log_message(self, format, *args):       # pylint: disable=redefined-builtin
        """Quiet."""

    def do_GET(self):                           # pylint: disable=invalid-name
        """An object, or a part of it."""
        web = self.server.web
        web.gets += 1
        web.packs += '/pack-' in self.path
        web.asked.append(self.path)
        if web.silent.is_set() and web.silent_about in self.path:
            while web.silent.is_set() and not web.over.is_set():
                time.sleep(0.01)
            self.close_connection = True
            return
        if web.broken:
            self.send_error(503)
            return
        path = os.path.join(web.root, self.path.lstrip('/'))
        if not os.path.isfile(path):
            self.send_error(404)
            return
        with open(path, 'rb') as f:
            data = f.read()
        match = re.match(r'bytes=(\d+)-(\d+)$', self.headers.get('Range', ''))
        if match:
            first, last = int(match[1]), min(int(match[2]), len(data) - 1)
            if first > last:
                self.send_response(416)
                self.send_header('Content-Range', 'bytes */%d' % len(data))
                self.send_header('Content-Length', '0')
                self.end_headers()
                return
            self.send_response(206)
            self.send_header('Content-Range', 'bytes %d-%d/%d' % (first, last, len(data)))
            data = data[first:last + 1]
        else:
            self.send_response(200)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)


    def do_PUT(self):                           # pylint: disable=invalid-name
        """An object, whole; none is written over."""
        web = self.server.web
        data = self.rfile.read(int(self.headers['Content-Length']))
        web.puts += 1
        while web.deaf.is_set() and not web.over.is_set():
            time.sleep(0.01)
        path = os.path.join(web.root, self.path.lstrip('/'))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        taken = os.path.exists(path)
        if not taken:
            with open(path, 'wb') as f:
                f.write(data)
        self.send_response(412 if taken else 201)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def do_DELETE(self):                        # pylint: disable=invalid-name
        """An object is gone."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.server.web.root, self.path.lstrip('/')))
        self.send_response(204)
        self.end_headers()


class Web:
    """silent: requests are not answered, those of paths with silent_about in them; asked: all paths; broken: they are refused; deaf: what is written is taken and not confirmed."""

    def __init__(self, root):
        self.root = str(root)
        self.gets = self.packs = self.puts = 0
        self.broken = False
        self.silent_about, self.asked = '', []
        self.silent, self.deaf, self.over = threading.Event(), threading.Event(), threading.Event()
        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.daemon_threads = True
        self.server.web = self
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def url(self, name):
        """Of an image."""
        return 'http://127.0.0.1:%d/%s' % (self.server.server_port, name)

    def close(self):
        """Ends it, and what it holds back."""
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def web(tmp_path):
    """A server with an image of a guest whose memory is filled."""
    with Postern(memory='64M') as vm:
        vm.bare(ready=True).fill()
        vm.save(tmp_path / 'web')
    server = Web(tmp_path)
    yield server
    server.close()


def verify(guest):
    """Every word of it."""
    guest.quiet(seconds(30))
    assert guest.first_error()['errors'] == 0
    assert guest.verify(seconds(120))['errors'] == 0


def test_a_guest_is_restored_from_a_web_server(web):
    with Postern.restored(web.url('web')) as vm:
        verify(vm.bare())
        pages = vm.faults()['pages']
        wait_for(lambda: vm.faults()['pages']['present'] == pages['total'], 30)
        assert vm.faults()['source']['store'].startswith('http://127.0.0.1')


@pytest.mark.parametrize('how', ['silent', 'broken', 'gone'])
def test_all_is_answered_while_the_server_is_away(web, how):
    """And the guest goes on by itself when it is back."""
    with Postern.restored(web.url('web'), options=['--fill', 'off'], gdb=True) as vm:
        guest = vm.bare()
        guest.mask(2)           # vCPU 0 answers, vCPU 1 walks into what is missing
        guest.heartbeat(True, period_us=5000)
        guest.wait_beats(2)
        hidden = os.path.join(web.root, 'hidden')
        if how == 'silent':
            web.silent.set()
        elif how == 'broken':
            web.broken = True
        else:
            os.rename(os.path.join(web.root, 'web'), hidden)
        guest.walk('g')
        wait_for(lambda: 1 in vm.waiting_cpus(), 20)
        for _ in range(5):
            vm.q.timed('stop', 5)
            vm.q.timed('cont', 5)
        with GdbRemote('unix:' + vm.path('gdb')) as gdb:
            gdb.ask('?', 5)
        vm.wait_status('paused', 'debug', 'running')
        vm.command('cont')
        guest.wait_beats(3, seconds(20))
        assert not vm.stuck_threads()
        web.silent.clear()
        web.broken = False
        if how == 'gone':
            os.rename(hidden, os.path.join(web.root, 'web'))
        touches = guest.stats()['cpu1']
        guest.wait_stats(lambda s: s['cpu1'] > touches + 100, seconds(60))
        guest.heartbeat(False)
        guest.mask(3)
        verify(guest)
        assert vm.faults()['pages']['lost'] == 0


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_at_once_while_the_server_is_silent(web, number):
    with Postern.restored(web.url('web'), options=['--fill', 'off']) as vm:
        web.silent.set()
        vm.bare().send('g')
        wait_for(vm.waiting_cpus, 20)
        code, ms = vm.end(number)
        assert code == (0 if number == signal.SIGTERM else -number)
        assert ms < seconds(3) * 1e3


@pytest.mark.parametrize('about', ['', '/index.', '/state.'])
def test_a_signal_ends_the_wait_for_a_server_that_says_nothing(web, about):
    """Before there is a machine, or before there is all that it needs to run."""
    web.silent_about = about
    web.silent.set()
    with subprocess.Popen([program(), 'run', '--serial', 'null', '--restore', web.url('web')], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        wait_for(lambda: any(about in path for path in web.asked), 20)
        process.send_signal(signal.SIGTERM)
        text, _ = process.communicate(timeout=seconds(5))
        assert process.returncode == 1 and 'ended' in text, text


@pytest.mark.parametrize('what', ['index.', 'state.'])
def test_what_is_damaged_behind_the_manifest_is_an_error_before_the_guest_runs(web, what):
    name, = (name for name in os.listdir(os.path.join(web.root, 'web')) if name.startswith(what))
    with open(os.path.join(web.root, 'web', name), 'r+b') as f:
        f.seek(100)
        f.write(b'\xff' * 8)
    code, text = run_postern('run', '--serial', 'stdio', '--restore', web.url('web'), timeout=40)
    assert code == 1 and 'web' in text and what[:-1] in text, text


def test_a_server_that_refuses_is_an_error_that_names_it(web):
    code, text = run_postern('run', '--serial', 'null', '--restore', web.url('nothing'), timeout=40)
    assert code == 1 and '127.0.0.1' in text and 'nothing' in text, text


def restored_by(web, *options):
    """A guest out of its image whose memory nobody asks for but itself."""
    return Postern.restored(web.url('web'), options=['--fill', 'off', *options])


@pytest.mark.parametrize('when', ['before', 'while it runs'])
def test_a_second_store_answers_for_one_that_says_nothing(web, tmp_path, when):
    if when == 'before':
        web.silent.set()
    with restored_by(web, '--second-store', str(tmp_path)) as vm:
        web.silent.set()
        asked = web.gets
        verify(vm.bare())
        source = vm.faults()['source']
        assert web.gets > asked and source['failed-reads'] == 0, source


def test_guests_share_a_cache_and_go_on_with_it_without_the_store(web, tmp_path):
    cache = tmp_path / 'cache'
    cache.mkdir(mode=0o700)
    options = ['--store-cache', '%s,limit=1G' % cache]
    with restored_by(web, *options) as vm:
        verify(vm.bare())
    with restored_by(web, *options) as one, restored_by(web, *options) as other:
        web.broken = True
        asked = web.packs
        for vm in (one, other):
            verify(vm.bare())
            assert vm.faults()['source']['failed-reads'] == 0
        assert web.packs == asked
    with restored_by(web, '--store-cache', str(cache), '--second-store', str(tmp_path)) as vm:
        verify(vm.bare())


def test_a_store_that_says_nothing_is_given_up_at_the_deadline(web):
    web.silent.set()
    start = time.monotonic()
    code, text = run_postern('run', '--serial', 'null', '--restore', web.url('web'), '--store-deadline', '500', timeout=40)
    assert code == 1 and 'web/manifest.json' in text, text
    assert time.monotonic() - start < seconds(8)


def test_a_cache_that_others_may_write_to_is_refused(web, tmp_path):
    cache = tmp_path / 'open'
    cache.mkdir()
    cache.chmod(0o777)
    code, text = run_postern('run', '--serial', 'null', '--restore', web.url('web'), '--store-cache', str(cache), timeout=40)
    assert code == 1 and str(cache) in text, text


def test_a_machine_is_saved_to_a_web_server(web):
    with Postern(memory='64M') as vm:
        vm.bare(ready=True).fill()
        vm.save(web.url('put'))
    with Postern.restored(web.url('put')) as vm:
        verify(vm.bare())


@pytest.mark.parametrize('paused', [False, True], ids=['live', 'paused'])
@pytest.mark.parametrize('end', ['cancel', 'quit', 'answer'])
def test_a_save_to_a_server_that_does_not_answer_holds_nobody_up(web, end, paused):
    with Postern(memory='256M') as vm:
        guest = vm.bare(ready=True)
        guest.fill()
        web.deaf.set()
        puts = web.puts
        job = vm.save(web.url('put'), wait=False, paused=paused)
        wait_for(lambda: web.puts > puts, 20)
        vm.wait_status('save-vm' if paused else 'running')
        for _ in range(5):
            vm.q.timed('stop', 5)
            vm.q.timed('cont', 5)
        if end == 'quit':
            vm.command('quit')
            assert vm.wait_exit(5) == 0
            return
        if end == 'cancel':
            start = time.monotonic()
            vm.command('postern-snapshot-cancel')
            vm.wait_status('running')
            assert time.monotonic() - start < seconds(3)
            guest.mark()
        web.deaf.clear()
        vm.wait_saved(job, status='cancelled' if end == 'cancel' else 'completed')
        vm.wait_status('running')
        verify(guest)
