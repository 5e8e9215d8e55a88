# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A machine saved while its guest goes on writing: what is saved is of one moment, each word of it; one save on top of another;
and what may happen to the machine and the store meanwhile.

The bare guest's ledger, which is memory as well, says what each page must hold: so it finds a page of another moment."""

import itertools
import os
import random
import shutil
import threading

import pytest

from harness.gdbremote import GdbRemote
from harness.migration import Pair
from harness.qmp import QmpError
from harness.s3 import S3
from harness.vm import Postern, run_postern
from harness.waiting import seconds, wait_for

BUFFER = 64 << 20       # memory/snapshot.h
HELD_UP = '192M'        # enough that writes fill the buffer while the store hangs


def writing(vm, walk='w'):
    """A guest with all its memory filled, that writes all the time."""
    guest = vm.bare(ready=True)
    guest.fill()
    guest.walk(walk)
    guest.wait_stats(lambda s: s['touches'] > 500)
    return guest


def writes_on(guest):
    """It does, now."""
    before = guest.stats()['touches']
    guest.wait_stats(lambda s: s['touches'] > before + 100, seconds(30))


def verify(guest):
    """Every word of all its memory."""
    guest.quiet(seconds(60))
    assert guest.first_error()['errors'] == 0, guest.first_error()
    guest.limit(0)
    found = guest.verify(seconds(180))
    assert found['errors'] == 0 and found['pages'] > 0, found


def verify_image(place, walks=True, **more):
    """What was saved there is of one moment, and goes on from it."""
    with Postern.restored(place, **more) as vm:
        guest = vm.bare()
        if walks:
            writes_on(guest)
        verify(guest)


def memory_of(images):
    """Files with memory."""
    return [p for p in images.rglob('*') if p.is_file() and p.name.startswith('pack')]


class Hanging:
    """A store that answers no PUT from the first pack on, until it is let go."""

    def __init__(self):
        self.s3 = S3()
        self.s3.refuse = self.look
        self.answers = threading.Event()
        self.asked = threading.Event()

    def look(self, method, path):
        """Called for each request."""
        if method in ('PUT', 'POST') and '/pack-' in path and not self.answers.is_set():
            self.asked.set()
            self.answers.wait()

    def __enter__(self):
        self.s3.__enter__()
        return self

    def __exit__(self, *exc):
        self.answers.set()
        self.s3.__exit__(*exc)

    def place(self, name):
        """STORE/NAME of an image there."""
        bucket, _, rest = self.s3.url('images').partition('?')
        return '%s/%s?%s' % (bucket, name, rest)

    @property
    def env(self):
        """Of who uses it."""
        return dict(os.environ, **self.s3.env)


def hold_up(vm, store):
    """Begins to save into the store that hangs, until the guest's writes find no room any more. What is on its way to the store may
    leave some again, but not so much that they go on for long."""
    job = vm.save(store.place('web'), wait=False)
    wait_for(lambda: vm.saves()['buffered-max-bytes'] >= BUFFER, 60, lambda: vm.saves())
    now = vm.saves()
    assert now['mode'] == 'live' and now['phase'] == 'copying' and now['downtime-us'] > 0
    return job


# ---- of one moment ----

@pytest.mark.parametrize('walk', ['w', 'c'])
def test_what_is_saved_is_of_one_moment(tmp_path, walk):
    with Postern(memory='256M') as vm:
        guest = writing(vm, walk)
        for name in ('one', 'two'):
            job = vm.save(tmp_path / name)
            assert job['mode'] == 'live' and 'paused-because' not in job and not job['tracked']
            assert job['done-pages'] == job['total-pages'] and job['copied-pages'] > 0
            assert 0 < job['downtime-us'] < job['total-us']
            assert vm.status() == 'running'
            writes_on(guest)
        verify(guest)
        assert vm.faults()['counters']['direct-accesses'] == 0
    for name in ('one', 'two'):
        verify_image(tmp_path / name)


class Unprivileged(Postern):
    """One that may use /dev/kvm and has no userfaultfd."""

    def spawn(self, words, pass_fds=(), env=None):
        """Without capabilities, and without /dev/userfaultfd, which its user could open all the same."""
        hide = 'if [ -e /dev/userfaultfd ]; then mount --bind /dev/null /dev/userfaultfd || exit 1; fi; '
        leave = 'exec setpriv --bounding-set -all --inh-caps -all --no-new-privs "$@"'
        super().spawn(['unshare', '--mount', 'sh', '-c', hide + leave, 'sh'] + words, pass_fds, env)


def test_a_host_that_cannot_report_writes_saves_paused(tmp_path):
    with open('/proc/sys/vm/unprivileged_userfaultfd', encoding='ascii') as f:
        if f.read().strip() != '0' or os.geteuid() or not shutil.which('setpriv'):
            pytest.skip('not root with setpriv, or everybody may use userfaultfd')
    with Unprivileged(memory='64M') as vm:
        guest = writing(vm)
        job = vm.save(tmp_path / 'web', track=True)
        assert job['mode'] == 'paused' and 'unprivileged_userfaultfd' in job['paused-because'], job
        assert not job['tracked'] and 'stands still' in vm.log()
        assert vm.status() == 'running'
        writes_on(guest)
        job = vm.save(tmp_path / 'more', incremental=True)
        assert job['mode'] == 'paused' and job['parent'] == 'web'
        verify(guest)
    verify_image(tmp_path / 'web')
    verify_image(tmp_path / 'more')


def test_clones_are_saved_paused_and_one_on_top_of_another(tmp_path):
    with Postern(memory='64M') as vm:
        guest = vm.bare(ready=True)
        guest.fill()
        vm.save(tmp_path / 'web')
    env = dict(os.environ, POSTERN_RUNTIME_DIR=str(tmp_path / 'run'))
    (tmp_path / 'run').mkdir(mode=0o700)
    with Postern.restored(tmp_path / 'web', env=env, options=['--share', 's']) as vm, \
            Postern.restored(tmp_path / 'web', 'other', env=env, options=['--share', 's']) as other:
        guest = vm.bare()
        guest.limit(300)
        guest.walk('c')
        other.bare().walk('w')
        for name, parent in (('one', 'web'), ('two', 'one'), ('three', 'two')):
            writes_on(guest)
            job = vm.save(tmp_path / name, incremental=True)
            assert job['mode'] == 'paused' and 'shared' in job['paused-because'] and job['parent'] == parent
            assert job['kept-pages'] > job['total-pages'] * 3 // 4
        verify(guest)
        verify(other.bare())
    for name in ('one', 'two', 'three'):
        verify_image(tmp_path / name)


def test_a_stopped_guest_is_not_watched(tmp_path):
    with Postern(memory='64M') as vm:
        writing(vm)
        vm.command('stop')
        job = vm.save(tmp_path / 'stopped')
        assert job['mode'] == 'paused' and 'stopped' in job['paused-because']
        job = vm.save(tmp_path / 'tracked', track=True)         # of that it would have nothing otherwise
        assert job['mode'] == 'live' and job['tracked']
        assert vm.status() == 'paused'
        vm.command('cont')
        job = vm.save(tmp_path / 'paused', paused=True)
        assert job['mode'] == 'paused' and 'asked' in job['paused-because']
        assert vm.status() == 'running'
        with pytest.raises(QmpError, match='live'):
            vm.save(tmp_path / 'both', paused=True, track=True)
    for name in ('stopped', 'tracked', 'paused'):
        verify_image(tmp_path / name)


def test_a_disk_is_as_it_was_at_the_moment(tmp_path):
    """The guest stands still until its file has been looked at."""
    disk = tmp_path / 'disk'
    disk.write_bytes(bytes(1 << 20))
    with Postern(memory='64M', options=['--disk', str(disk)]) as vm:
        writing(vm)
        job = vm.save(tmp_path / 'web')
        assert job['mode'] == 'live'
    verify_image(tmp_path / 'web', options=['--disk', str(disk)])
    disk.write_bytes(bytes(1 << 20))
    code, text = run_postern('run', '--serial', 'null', '--restore', str(tmp_path / 'web'), '--disk', str(disk))
    assert code == 1 and '--changed-disks' in text


# ---- what happens meanwhile ----

def test_a_store_that_hangs_holds_up_writes_and_nothing_else(tmp_path):
    """stop, cont and gdb are answered; a cancel ends it, and the guest writes on."""
    with Hanging() as store, Postern(memory=HELD_UP, env=store.env, gdb=True) as vm:
        guest = writing(vm)
        hold_up(vm, store)
        wait_for(lambda: vm.saves()['throttled'] > 0 or vm.q.timed('stop', 2), 10)
        with GdbRemote('unix:' + vm.path('gdb')) as gdb:
            gdb.ask('?', 2)
            assert len(gdb.read(0x100000, 64, 2)) == 64
            assert gdb.ask('D', 2) == 'OK'
        for _ in range(5):
            vm.q.timed('stop', 2)
            assert vm.status() == 'paused'
            vm.q.timed('cont', 2)
        assert vm.saves()['status'] == 'running' and not vm.stuck_threads()
        assert vm.saves()['buffered-max-bytes'] < BUFFER + (80 << 20)
        vm.command('postern-snapshot-cancel')
        job = vm.wait_saved(vm.saves()['id'], 10, 'cancelled')
        assert job['buffered-bytes'] == 0 < BUFFER <= job['buffered-max-bytes'] and job['throttled'] > 0 and job['throttled-us'] > 0
        writes_on(guest)
        store.answers.set()
        vm.save(store.place('again'))
        verify(guest)


def test_with_room_for_all_of_it_no_write_waits_for_a_store_that_hangs(tmp_path):
    """The guest writes everywhere while nothing can be saved; the image is of the moment of the save all the same."""
    with Hanging() as store, Postern(memory=HELD_UP, env=store.env) as vm:
        guest = writing(vm)
        job = vm.save(store.place('held'), wait=False, buffer=3 * BUFFER)
        wait_for(lambda: vm.saves()['buffered-bytes'] > 2 * BUFFER, 60)
        writes_on(guest)
        assert vm.saves()['throttled'] == 0 and vm.saves()['status'] == 'running'
        store.answers.set()
        vm.wait_saved(job)
        assert vm.saves()['throttled'] == 0 and vm.saves()['buffered-bytes'] == 0
        verify(guest)
        vm.command('quit')
        assert vm.wait_exit(10) == 0
        verify_image(store.place('held'), env=store.env)


def test_writes_go_on_when_the_store_does(tmp_path):
    with Hanging() as store, Postern(memory=HELD_UP, env=store.env) as vm:
        guest = writing(vm)
        job = hold_up(vm, store)
        store.answers.set()
        vm.wait_saved(job)
        writes_on(guest)
        verify(guest)
        vm.command('quit')
        assert vm.wait_exit(10) == 0
        verify_image(store.place('web'), env=store.env)


def test_quit_is_obeyed_while_writes_are_held_up(tmp_path):
    with Hanging() as store, Postern(memory=HELD_UP, env=store.env) as vm:
        writing(vm)
        hold_up(vm, store)
        vm.command('quit')
        assert vm.wait_exit(10) == 0
        assert not [key for _, key in store.s3.objects if 'manifest' in key]


def test_a_reset_waits_until_memory_has_been_read(tmp_path):
    """The guest's own, and one that is asked for; what is saved is what was before. With room for all that the guest writes: it can be
    told to reboot however much it has written by then."""
    with Hanging() as store, Postern(memory=HELD_UP, env=store.env) as vm:
        guest = writing(vm)
        job = vm.save(store.place('web'), wait=False, buffer=3 * BUFFER)
        assert store.asked.wait(seconds(30))
        guest.quiet()
        guest.reboot()
        vm.wait_status('paused')
        with pytest.raises(QmpError, match='snapshot'):
            vm.command('cont')
        vm.command('system_reset')
        with pytest.raises(QmpError, match='being saved'):
            vm.command('migrate', uri='unix:' + str(tmp_path / 'nobody'))
        store.answers.set()
        vm.wait_saved(job)
        vm.wait_status('running')
        guest.wait_ready(seconds(30))
        guest.fill()
        verify(guest)
        verify_image(store.place('web'), env=store.env)


def test_a_reset_is_done_when_the_save_is_cancelled(tmp_path):
    with Hanging() as store, Postern(memory=HELD_UP, env=store.env) as vm:
        guest = writing(vm)
        hold_up(vm, store)
        vm.command('system_reset')
        vm.wait_status('paused')
        vm.command('postern-snapshot-cancel')
        vm.wait_status('running')
        guest.wait_ready(seconds(30))


def test_cancelled_at_any_moment_it_leaves_nothing(tmp_path):
    """Or, where a disk took seconds to remove it, what the next save of that name removes."""
    rng = random.Random(7)
    left = {}
    with Postern(memory='256M') as vm:
        guest = writing(vm)
        took = vm.save(tmp_path / 'first')['total-us'] / 1e6
        for i in range(12):
            name = 'image%d' % i
            job = vm.save(tmp_path / name, wait=False, track=bool(i % 2))
            until = rng.uniform(0, took)
            wait_for(lambda until=until: vm.saves()['total-us'] / 1e6 >= until or vm.saves()['status'] != 'running', 30)
            vm.command('postern-snapshot-cancel')
            now = wait_for(lambda: vm.saves() if vm.saves()['status'] != 'running' else None, 20)
            assert now['id'] == job and now['status'] in ('cancelled', 'completed'), now
            assert vm.status() == 'running'
            if now['status'] == 'cancelled':
                assert not (tmp_path / name / 'manifest.json').exists()
                left[name] = set(memory_of(tmp_path / name))
            writes_on(guest)
        assert not left or set() in left.values(), left
        for name in filter(left.get, left):
            vm.save(tmp_path / name)
            assert not left[name] & set(memory_of(tmp_path / name))
        vm.save(tmp_path / 'last')
        verify(guest)
    verify_image(tmp_path / 'last')


def test_a_full_store_is_an_error_and_the_guest_writes_on(tmp_path):
    images = tmp_path / 'small'
    images.mkdir()
    if os.geteuid() or os.system('mount -t tmpfs -o size=90m none %s 2>/dev/null' % images):
        pytest.skip('no file system that is full can be made')
    try:
        with Postern(memory='256M') as vm:
            guest = writing(vm)
            job = vm.wait_saved(vm.save(images / 'web', wait=False), status='failed')
            assert 'space' in job['error-desc'] and job['mode'] == 'live', job
            assert vm.status() == 'running'
            writes_on(guest)
            verify(guest)
            assert not memory_of(images)
            vm.save(tmp_path / 'elsewhere')
    finally:
        os.system('umount %s' % images)


def test_what_gdb_writes_meanwhile_is_not_saved(tmp_path):
    """Into a page that has not been read yet: the guest finds it changed, a restored one does not."""
    with Hanging() as store, Postern(memory=HELD_UP, env=store.env, gdb=True) as vm:
        guest = vm.bare(ready=True)
        guest.fill()
        info = guest.info()
        gpa = info['base'] + (info['pages'] - 1) * 4096
        job = vm.save(store.place('web'), wait=False)
        assert store.asked.wait(seconds(30))
        with GdbRemote('unix:' + vm.path('gdb')) as gdb:
            gdb.ask('?', 5)
            word = gdb.read(gpa, 8)
            assert gdb.ask('M%x,8:%s' % (gpa, bytes(b ^ 255 for b in word).hex()), 5) == 'OK'
            assert gdb.ask('D', 5) == 'OK'
        assert vm.saves()['done-pages'] < job_pages(vm)
        store.answers.set()
        vm.wait_saved(job)
        assert guest.verify(seconds(180))['bad'] == 1
        verify_image(store.place('web'), walks=False, env=store.env)


def job_pages(vm):
    """All of them."""
    return vm.saves()['total-pages']


def test_no_migration_begins_while_memory_is_read(tmp_path):
    with Hanging() as store, Pair(memory='128M', env=store.env) as pair:
        job = pair.source.save(store.place('web'), wait=False)
        assert store.asked.wait(seconds(30))
        with pytest.raises(QmpError, match='being saved'):
            pair.source.command('migrate', uri='unix:' + str(tmp_path / 'nobody'))
        store.answers.set()
        pair.source.wait_saved(job)
        pair.start()
        pair.wait_completed()
        verify(pair.arrived())


# ---- one on top of another ----

def test_a_chain_of_incremental_saves(tmp_path):
    """Each writes what has changed, and is restored to its own moment."""
    names = ['chain%d' % i for i in range(6)]
    with Postern(memory='128M') as vm:
        guest = vm.bare(ready=True)
        guest.fill()
        vm.save(tmp_path / names[0], track=True)
        guest.limit(700)
        guest.walk('c')
        for before, name in itertools.pairwise(names):
            writes_on(guest)
            job = vm.save(tmp_path / name, track=True, incremental=True)
            assert job['parent'] == before and job['mode'] == 'live' and job['tracked']
            assert job['kept-pages'] > job['total-pages'] * 3 // 4
            assert 0 < job['data-pages'] < 4000
        writes_on(guest)
        # Another one in between changes nothing but what comes next is on top of.
        job = vm.save(tmp_path / 'whole', track=True)
        assert job['kept-pages'] == 0 and 'parent' not in job
        job = vm.save(tmp_path / 'more', parent='whole')
        assert job['parent'] == 'whole' and not job['tracked'] and job['kept-pages'] > job['total-pages'] // 2
        # Not tracked any more: all is read, and compared.
        job = vm.save(tmp_path / 'rest', incremental=True)
        assert job['parent'] == 'more' and job['kept-pages'] > job['total-pages'] // 2
        verify(guest)
    for name in names + ['whole', 'more', 'rest']:
        verify_image(tmp_path / name, walks=name != names[0])


def test_a_save_that_fails_is_not_what_the_next_is_on_top_of(tmp_path):
    """Nor is anything forgotten that was written before its moment."""
    with Hanging() as store, Postern(memory='128M', env=store.env) as vm:
        guest = vm.bare(ready=True)
        guest.fill()
        store.answers.set()
        vm.save(store.place('one'), track=True)
        guest.limit(2000)
        guest.walk('c')
        writes_on(guest)
        store.answers.clear()
        store.asked.clear()
        job = vm.save(store.place('two'), wait=False, track=True, incremental=True)
        assert store.asked.wait(seconds(30))
        guest.limit(100)
        vm.command('postern-snapshot-cancel')
        vm.wait_saved(job, status='cancelled')
        guest.walk('c')
        writes_on(guest)
        store.answers.set()
        job = vm.save(store.place('three'), track=True, incremental=True)
        assert job['parent'] == 'one' and job['tracked'] and job['kept-pages'] > job['total-pages'] // 2
        verify(guest)
        verify_image(store.place('one'), walks=False, env=store.env)
        verify_image(store.place('three'), env=store.env)


def test_only_the_last_image_can_be_a_parent(tmp_path):
    other = tmp_path / 'other'
    other.mkdir()
    with Postern(memory='64M') as vm:
        writing(vm)
        with pytest.raises(QmpError, match='neither saved'):
            vm.save(tmp_path / 'a', incremental=True)
        vm.save(tmp_path / 'a', track=True)
        vm.save(tmp_path / 'b', track=True)
        with pytest.raises(QmpError, match='that is b'):
            vm.save(tmp_path / 'c', parent='a')
        with pytest.raises(QmpError, match='another store'):
            vm.save(other / 'c', incremental=True)
        # Its name is another's by now.
        (tmp_path / 'b').rename(other / 'b')
        (tmp_path / 'a').rename(tmp_path / 'b')
        for path in list((tmp_path / 'b').iterdir()):
            assert path.is_file()
        job = vm.wait_saved(vm.save(tmp_path / 'c', wait=False, incremental=True), status='failed')
        assert 'b' in job['error-desc'], job
        assert vm.status() == 'running'
        (tmp_path / 'b').rename(tmp_path / 'a')
        (other / 'b').rename(tmp_path / 'b')
        vm.save(tmp_path / 'c', incremental=True)
    verify_image(tmp_path / 'c')


def test_a_guest_is_saved_live_while_its_memory_comes(tmp_path):
    """What has not come is named where it lies, and the next ones on top need not fetch it either."""
    with Postern(memory='256M') as vm:
        writing(vm)
        vm.save(tmp_path / 'web')
    with Postern.restored(tmp_path / 'web', options=['--fill', 'off']) as vm:
        guest = vm.bare()
        guest.limit(3000)
        guest.walk('c')
        writes_on(guest)
        for name, incremental in (('one', True), ('two', True), ('three', False)):
            job = vm.save(tmp_path / name, track=True, incremental=incremental)
            assert job['mode'] == 'live' and job['kept-pages'] > job['total-pages'] // 2
            writes_on(guest)
        left = vm.faults()['pages']['missing']
        assert left > job['total-pages'] // 2
        job = vm.save(tmp_path / 'four', wait=False, track=True, incremental=True)
        vm.command('postern-set-fill', fill='on')       # it comes, and is written, while it is saved
        guest.limit(0)
        guest.walk('w')
        vm.wait_saved(job)
        wait_for(lambda: not vm.faults()['pages']['missing'], 60)
        vm.save(tmp_path / 'five', incremental=True)
        verify(guest)
    for name in ('one', 'two', 'three', 'four', 'five', 'web'):
        with Postern.restored(tmp_path / name) as vm:
            verify(vm.bare())


# ---- the command ----

def test_postern_snapshot_takes_incremental_saves(tmp_path):
    with Postern(memory='64M') as vm:
        writing(vm)
        env = dict(os.environ, POSTERN_RUNTIME_DIR=vm.runtime_dir)

        def snapshot(*words):
            return run_postern('snapshot', '--name', vm.name, *map(str, words), env=env)

        code, text = snapshot('save', tmp_path / 'a', '--track')
        assert code == 0 and 'completed' in text, text
        code, text = snapshot('save', tmp_path / 'b', '--incremental')
        assert code == 0 and 'on top of a' in text, text
        code, text = snapshot('save', tmp_path / 'c', '--parent', 'a')
        assert code == 1 and 'that is b' in text, text
        code, text = snapshot('save', tmp_path / 'c', '--pause')
        assert code == 0 and 'asked for' in text, text
    verify_image(tmp_path / 'b')
