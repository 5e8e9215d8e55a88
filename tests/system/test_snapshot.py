# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A machine saved into an image, and restored out of it: it runs before its memory is there, and finds each word of it."""

import os
import shutil
import time

import pytest

from harness.ctl import Ctl
from harness.migration import Pair
from harness.qmp import QmpError
from harness.vm import Postern, bare_elf, run_postern
from harness.waiting import seconds, wait_for

MIB = 1 << 20


def missing(vm):
    """Pages that have not come."""
    pages = vm.faults()['pages']
    return pages['missing'] + pages['requested']


def saved(images, name='web', memory='64M', cpus=2, walk=None, running=False, options=(), **arguments):
    """A guest with all its memory filled, saved, and gone."""
    with Postern(memory=memory, cpus=cpus, options=options) as vm:
        guest = vm.bare(ready=True)
        guest.fill()
        if walk:
            guest.walk(walk)
            guest.wait_stats(lambda s: s['touches'] > 100)
        if not running:
            vm.command('stop')
        job = vm.save(images / name, **arguments)
        assert vm.status() == ('running' if running else 'paused')
        vm.command('quit')
        assert vm.wait_exit(10) == 0
    return job


def verify(guest):
    """Every word of it, and it goes on."""
    guest.quiet(seconds(30))
    assert guest.first_error()['errors'] == 0
    found = guest.verify(seconds(120))
    assert found['errors'] == 0, found
    assert found['pages'] > 0


def test_a_paused_guest_is_restored_and_runs_on(tmp_path):
    job = saved(tmp_path, walk='c')
    assert job['done-pages'] == job['total-pages'] == 64 * MIB // 4096
    assert job['data-pages'] + job['zero-pages'] == job['total-pages']
    with Postern.restored(tmp_path / 'web') as vm:
        assert vm.status() == 'running'
        guest = vm.bare()
        before = guest.stats()['touches']
        guest.wait_stats(lambda s: s['touches'] > before)       # it walks on by itself
        verify(guest)
        wait_for(lambda: missing(vm) == 0, 30)
        source = vm.faults()['source']
        assert source['kind'] == 'image' and source['image'] == 'web' and source['image-id'] == job['image-id']
        assert source['failed-reads'] == 0


def test_a_running_guest_is_saved_and_goes_on(tmp_path):
    with Postern(memory='64M') as vm:
        guest = vm.bare(ready=True)
        guest.fill()
        guest.heartbeat(True, period_us=5000)
        guest.walk('c')
        vm.save(tmp_path / 'web')
        assert vm.status() == 'running'
        vm.save(tmp_path / 'again')
        guest.wait_beats(3)
        guest.heartbeat(False)
        verify(guest)
    for name in ('web', 'again'):
        with Postern.restored(tmp_path / name) as vm:
            vm.bare().heartbeat(False)
            verify(vm.bare())


def test_without_a_fill_only_what_is_touched_comes(tmp_path):
    saved(tmp_path)
    with Postern.restored(tmp_path / 'web', options=['--fill', 'off']) as vm:
        guest = vm.bare()
        guest.touch(100)
        left = missing(vm)
        assert left > 64 * MIB // 4096 * 3 // 4
        assert vm.faults()['source']['fill'] == 'off' and vm.faults()['source']['bulk-pages'] == 0
        guest.touch(101)        # came along with its span, or the one before
        guest.touch(3000)
        wait_for(lambda: missing(vm) < left, 10)    # it is counted a moment after it has come
        assert left - 64 <= missing(vm)
        ctl = Ctl(vm.runtime_dir)
        assert ctl('fill', '1M').code == 0
        assert vm.faults()['source']['rate'] == MIB
        assert ctl('fill', 'on').code == 0
        wait_for(lambda: missing(vm) == 0, 30)
        assert ctl('fill', 'sideways').code == 2
        verify(guest)


def test_a_restored_guest_is_saved_while_its_memory_comes(tmp_path):
    """What has not come is kept as the parent's; each of the two images is whole, and the second needs no pages of its own."""
    saved(tmp_path)
    with Postern.restored(tmp_path / 'web', options=['--fill', 'off']) as vm:
        guest = vm.bare()
        guest.limit(64)
        guest.walk('w')
        guest.wait_stats(lambda s: s['touches'] > 200)
        job = vm.save(tmp_path / 'child')
        assert job['kept-pages'] > job['total-pages'] * 3 // 4
        assert missing(vm) > job['total-pages'] // 2
        touches = guest.stats()['touches']
        guest.wait_stats(lambda s: s['touches'] > touches)
    for name in ('child', 'web'):
        with Postern.restored(tmp_path / name) as vm:
            guest = vm.bare()
            guest.limit(0)
            verify(guest)


def test_a_restored_guest_reboots_with_what_its_image_has(tmp_path):
    """Also when the kernel is gone from where it was, and memory still comes."""
    kernel = tmp_path / 'kernel'
    shutil.copy(bare_elf(), kernel)
    with Postern(memory='64M', kernel=str(kernel)) as vm:
        vm.bare(ready=True).fill()
        vm.save(tmp_path / 'web')
    kernel.unlink()
    with Postern.restored(tmp_path / 'web', options=['--fill', '40M']) as vm:
        vm.command('system_reset')
        guest = vm.bare()
        wait_for(lambda: missing(vm) == 0, 30)
        vm.wait_status('running')
        guest.wait_ready(seconds(20))
        guest.fill()
        verify(guest)
        vm.save(tmp_path / 'again')     # the kernel goes along
    with Postern.restored(tmp_path / 'again') as vm:
        wait_for(lambda: missing(vm) == 0, 30)
        vm.bare().reboot()
        vm.bare().wait_ready(seconds(20))


def refusal(vm, image):
    """Why a save is refused."""
    with pytest.raises(QmpError) as said:
        vm.save(image, wait=False)
    return str(said.value)


def test_a_save_says_what_has_not_come_of_the_image(tmp_path):
    """The kernel that the guest reboots with, which is saved along; and all that is left to do is to bring it back."""
    saved(tmp_path)
    kernel, = (tmp_path / 'web').glob('boot-kernel.*')
    away = tmp_path / 'away'
    kernel.rename(away)
    with Postern.restored(tmp_path / 'web') as vm:
        wait_for(lambda: 'no such object' in refusal(vm, tmp_path / 'again'), 30)
        assert kernel.name in refusal(vm, tmp_path / 'again')
        away.rename(kernel)

        def begun():
            try:
                return vm.save(tmp_path / 'again', wait=False)
            except QmpError as error:
                assert 'on its way' in str(error)
                return None
        vm.wait_saved(wait_for(begun, 30))


def test_a_restore_can_stay_paused(tmp_path):
    saved(tmp_path)
    with Postern.restored(tmp_path / 'web', options=['--paused']) as vm:
        assert vm.status() == 'paused'
        vm.command('cont')
        verify(vm.bare())


def refused(*words):
    """What postern run says that does not run."""
    code, text = run_postern('run', '--serial', 'null', *map(str, words))
    assert code in (1, 2), text
    return text


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    saved(tmp_path)
    web = tmp_path / 'web'
    assert 'no/such/store' in refused('--restore', '/no/such/store/web')
    assert 'nothing' in refused('--restore', tmp_path / 'nothing')
    assert '--cpus 3' in refused('--restore', web, '--cpus', 3)
    assert '--memory' in refused('--restore', web, '--memory', '128M')
    assert 'device' in refused('--restore', web, '--rng')
    assert 'only one' in refused('--restore', web, '--incoming', 'defer')
    assert 'needs --restore' in refused('--kernel', bare_elf(), '--fill', 'off')


def damage(path):
    """Flips a bit in the middle."""
    with open(path, 'r+b') as f:
        f.seek(os.path.getsize(path) // 2)
        byte = f.read(1)[0]
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte ^ 4]))


@pytest.mark.parametrize('what', ['manifest.json', 'state', 'index'])
def test_a_damaged_image_is_refused_before_the_guest_runs(tmp_path, what):
    saved(tmp_path)
    path, = [p for p in (tmp_path / 'web').iterdir() if p.name.startswith(what)]
    damage(path)
    text = refused('--restore', tmp_path / 'web')
    assert 'web' in text and ('damaged' in text or 'JSON' in text), text


def test_an_image_of_a_newer_postern_is_refused(tmp_path):
    saved(tmp_path)
    manifest = tmp_path / 'web' / 'manifest.json'
    text = manifest.read_text()
    assert '"version": 1' in text or '"version":1' in text
    manifest.write_text(text.replace('"version": 1', '"version": 99').replace('"version":1', '"version":99'))
    assert '99' in refused('--restore', tmp_path / 'web')


def packs(image):
    """Its files with memory."""
    found = [p for p in image.iterdir() if p.name.startswith('pack')]
    assert found
    return found


def test_a_damaged_page_is_lost_and_the_machine_pauses(tmp_path):
    """Whole again in the store, it comes, and the guest goes on with each word right."""
    saved(tmp_path)
    there = packs(tmp_path / 'web')
    for pack in there:
        shutil.copy(pack, str(pack) + '.whole')
        data = bytearray(pack.read_bytes())
        for at in range(1000, len(data), 4096):
            data[at] ^= 0x10
        pack.write_bytes(data)
    with Postern.restored(tmp_path / 'web', options=['--fill', 'off']) as vm:
        vm.q.wait_event('POSTERN_PAGE_LOST', timeout=seconds(20))
        vm.wait_status('io-error')
        with pytest.raises(QmpError, match='lost'):
            vm.command('cont')
        assert vm.faults()['pages']['lost'] > 0
        for pack in there:
            os.rename(str(pack) + '.whole', pack)
        vm.command('postern-set-fill', fill='on')
        wait_for(lambda: missing(vm) + vm.faults()['pages']['lost'] == 0, 30)
        vm.command('cont')
        verify(vm.bare())


def test_the_store_goes_away_and_comes_back(tmp_path):
    """stop, cont, gdb and a save are answered meanwhile; who waits for a page waits; then the guest goes on."""
    images = tmp_path / 'images'
    images.mkdir()
    saved(images)
    with Postern.restored(images / 'web', options=['--fill', 'off'], gdb=True) as vm:
        guest = vm.bare()
        guest.mask(2)           # vCPU 0 answers, vCPU 1 walks into what is missing
        guest.heartbeat(True, period_us=5000)
        guest.wait_beats(2)
        (images / 'web').rename(images / 'away')
        guest.walk('g')
        wait_for(lambda: 1 in vm.waiting_cpus(), 20)
        source = wait_for(lambda: vm.faults()['source'] if 'error-desc' in vm.faults()['source'] else None, 20)
        assert 'web' in source['error-desc'] and source['waiting'] > 0
        for _ in range(5):
            vm.q.timed('stop', 5)
            vm.q.timed('cont', 5)
        guest.wait_beats(3, seconds(20))
        assert not vm.stuck_threads()
        assert vm.status() == 'running'
        (images / 'away').rename(images / 'web')
        touches = guest.stats()['cpu1']
        guest.wait_stats(lambda s: s['cpu1'] > touches + 100, seconds(30))
        guest.heartbeat(False)
        guest.mask(3)
        verify(guest)
        assert 'error-desc' not in vm.faults()['source']


def test_quit_is_obeyed_while_the_store_is_away(tmp_path):
    saved(tmp_path)
    with Postern.restored(tmp_path / 'web', options=['--fill', 'off']) as vm:
        (tmp_path / 'web').rename(tmp_path / 'away')
        vm.bare().send('g')
        wait_for(vm.waiting_cpus, 20)
        vm.command('quit')
        assert vm.wait_exit(10) == 0


# ---- a save that does not end well ----

def fill_guest(vm):
    """A guest with all its memory filled."""
    guest = vm.bare(ready=True)
    guest.fill()
    return guest


def test_a_name_that_is_taken_is_refused_and_left_alone(tmp_path):
    saved(tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / 'web').iterdir()}
    with Postern(memory='64M') as vm:
        vm.bare(ready=True)
        job = vm.wait_saved(vm.save(tmp_path / 'web', wait=False), status='failed')
        assert 'web' in job['error-desc']
        assert vm.status() == 'running'
        vm.bare().mark()
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / 'web').iterdir()} == before
    with Postern.restored(tmp_path / 'web') as vm:
        verify(vm.bare())


def test_a_save_that_is_cancelled_leaves_nothing(tmp_path):
    with Postern(memory='512M') as vm:
        guest = fill_guest(vm)
        vm.command('postern-snapshot-save', to=str(tmp_path / 'web'), id='mine', level=19)
        wait_for(lambda: vm.saves()['done-pages'] > 0, 20)
        with pytest.raises(QmpError, match='mine'):
            vm.save(tmp_path / 'other')
        with pytest.raises(QmpError, match='no such job'):
            vm.command('postern-snapshot-cancel', id='yours')
        vm.command('postern-snapshot-cancel', id='mine')
        vm.wait_saved('mine', status='cancelled')
        vm.wait_status('running')
        assert not (tmp_path / 'web' / 'manifest.json').exists()
        assert not packs_left(tmp_path)
        guest.mark()
        vm.save(tmp_path / 'web')
        verify(guest)


def packs_left(images):
    """What is there of memory."""
    return [p for p in images.rglob('*') if p.is_file() and p.name.startswith('pack')]


def test_stop_and_cont_are_answered_while_a_paused_save_reads_memory(tmp_path):
    with Postern(memory='512M') as vm:
        guest = fill_guest(vm)
        vm.command('postern-snapshot-save', to=str(tmp_path / 'web'), id='one', level=19, paused=True)
        vm.wait_status('save-vm')
        vm.q.timed('stop', 2)
        vm.q.timed('cont', 2)
        vm.q.timed('stop', 2)
        with pytest.raises(QmpError, match='save-vm'):
            vm.command('system_reset')
        assert vm.status() == 'save-vm'
        vm.command('postern-snapshot-cancel')
        vm.wait_status('paused')
        vm.command('cont')
        guest.mark()
        assert vm.status() == 'running'


def test_killed_in_the_middle_it_leaves_the_last_image_whole(tmp_path):
    with Postern(memory='256M') as vm:
        fill_guest(vm)
        vm.save(tmp_path / 'one')
        vm.command('postern-snapshot-save', to=str(tmp_path / 'two'), level=19)
        wait_for(lambda: vm.saves()['done-pages'] > 0, 20)
        vm.kill()
    assert 'two' in refused('--restore', tmp_path / 'two')
    with Postern.restored(tmp_path / 'one') as vm:
        verify(vm.bare())
        vm.save(tmp_path / 'two')       # the dead one's claim is no obstacle


def test_no_room_is_an_error_and_the_guest_goes_on(tmp_path):
    images = tmp_path / 'small'
    images.mkdir()
    if os.geteuid() or os.system('mount -t tmpfs -o size=8m none %s 2>/dev/null' % images):
        pytest.skip('no file system that is full can be made')
    try:
        with Postern(memory='64M') as vm:
            guest = fill_guest(vm)
            job = vm.wait_saved(vm.save(images / 'web', wait=False), status='failed')
            assert 'space' in job['error-desc'] or 'room' in job['error-desc'], job
            vm.wait_status('running')
            verify(guest)
            assert not packs_left(images)
    finally:
        os.system('umount %s' % images)


def test_progress_is_told_once_a_second(tmp_path):
    with Postern(memory='1G', cpus=1) as vm:
        fill_guest(vm)
        started = time.monotonic()
        job = vm.save(tmp_path / 'web', level=9, timeout=120.0)
        took = time.monotonic() - started
        events = [e['data'] for e in vm.q.poll_events() if e['event'] == 'POSTERN_SNAPSHOT']
        assert [e for e in events if e['phase'] == 'copying'] and events[-1]['status'] == 'completed'
        assert len([e for e in events if e['phase'] == 'copying']) >= int(took / seconds(1) / 2)
        done = [e['done-pages'] for e in events]
        assert done == sorted(done) and done[-1] == job['total-pages']


# ---- who may be saved ----

def test_a_guest_whose_memory_comes_from_another_host_is_not_saved(tmp_path):
    with Pair(memory='64M') as pair:
        pair.start(bandwidth=MIB)
        with pytest.raises(QmpError, match='query-migrate'):
            pair.destination.save(tmp_path / 'web')
        with pytest.raises(QmpError, match='postmigrate'):
            pair.source.save(tmp_path / 'web')
        assert not list(tmp_path.iterdir())


def test_disks_that_have_changed_are_refused(tmp_path):
    disk = tmp_path / 'disk'
    disk.write_bytes(bytes(MIB))
    options = ['--disk', str(disk)]
    saved(tmp_path, options=options)
    with Postern.restored(tmp_path / 'web', options=options) as vm:
        verify(vm.bare())
    text = refused('--restore', tmp_path / 'web')
    assert 'disk' in text
    time_ns = disk.stat().st_mtime_ns
    disk.write_bytes(bytes(MIB))
    text = refused('--restore', tmp_path / 'web', *options)
    assert str(disk) in text and '--changed-disks' in text
    with Postern.restored(tmp_path / 'web', options=options + ['--changed-disks']) as vm:
        verify(vm.bare())
    os.utime(disk, ns=(time_ns, time_ns))
    with Postern.restored(tmp_path / 'web', options=options) as vm:
        verify(vm.bare())
    with open(disk, 'ab') as f:
        f.truncate(2 * MIB)
    os.utime(disk, ns=(time_ns, time_ns))
    assert '2097152' in refused('--restore', tmp_path / 'web', *options)


# ---- the command ----

def test_postern_snapshot_saves_by_name(tmp_path):
    with Postern(memory='64M') as vm:
        fill_guest(vm)
        env = dict(os.environ, POSTERN_RUNTIME_DIR=vm.runtime_dir)
        code, text = run_postern('snapshot', 'status', '--name', vm.name, env=env)
        assert code == 0 and 'never' in text
        code, text = run_postern('snapshot', 'save', '--name', vm.name, 'web', env=env, cwd=str(tmp_path))
        assert code == 0 and 'completed' in text, text
        code, text = run_postern('snapshot', 'save', '--name', vm.name, str(tmp_path / 'web'), env=env)
        assert code == 1 and 'web' in text
        code, text = run_postern('snapshot', 'status', '--name', vm.name, '--json', env=env)
        assert code == 0 and '"failed"' in text
        code, text = run_postern('snapshot', 'save', '--name', vm.name, env=env)
        assert code == 2 and 'STORE/NAME' in text
    with Postern.restored(tmp_path / 'web') as vm:
        verify(vm.bare())

