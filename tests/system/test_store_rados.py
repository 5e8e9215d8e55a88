# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Stores in a Ceph cluster: a real one of a monitor and three daemons, some of which hang or die."""

import contextlib
import random
import re
import subprocess
import threading
import time

import pytest

from harness.ceph import Ceph
from harness.gdbremote import GdbRemote
from harness.vm import Postern, build_dir, run_postern
from harness.waiting import seconds, wait_for
from harness.webs import fails, get, tool

MIB = 1 << 20
ONCE = ('--attempts', 1)
QUICK = (*ONCE, '--attempt-ms', 500)
LONG = ('--deadline-ms', 120000, '--attempt-ms', 60000)


def content(n, seed=1):
    return random.Random(seed).randbytes(n)


@pytest.fixture(scope='module', name='cluster')
def _cluster(tmp_path_factory):
    with Ceph(tmp_path_factory.mktemp('ceph')) as cluster:
        yield cluster


@pytest.fixture(name='doomed')
def _doomed(tmp_path_factory):
    """One that does not come back from its test."""
    with Ceph(tmp_path_factory.mktemp('ceph')) as cluster:
        yield cluster


def put(url, name, data, verb='put', options=()):
    code, _, err = tool(*options, url, verb, name, data=data)
    assert code == 0, err


def listed(url, prefix='', verb='list'):
    code, out, err = tool(*LONG, url, verb, prefix)
    assert code == 0, err
    return sorted(line.split()[0] for line in out.decode().splitlines())


def inside(cluster):
    """All names in the pool, as Ceph sees them."""
    return cluster.run('rados', '-p', cluster.pool, '--all', 'ls').split()


@contextlib.contextmanager
def frozen(cluster, *which):
    """Those daemons hang meanwhile, and the monitor knows that two of three do."""
    cluster.freeze_osds(*which)
    try:
        yield
    finally:
        cluster.thaw_osds(*which)
        wait_for(lambda: cluster.up() == cluster.n, 60)


# ---- what stores do ----

def test_objects_are_written_read_and_removed(cluster):
    url, data = cluster.url('images/a.b'), content(3 * MIB)
    put(url, 'x/pack-0', data)
    put(url, 'empty', b'')
    assert get(url, 'x/pack-0', 12345, 65536) == data[12345:12345 + 65536]
    assert get(url, 'x/pack-0', 0, len(data)) == data
    assert get(url, 'x/pack-0', 5, 0) == b''
    assert tool(url, 'up-to', 'x/pack-0', len(data) - 5, 100)[1] == data[-5:]
    for name, offset in (('x/pack-0', len(data)), ('x/pack-0', len(data) + 7), ('x/pack-0', 70 * MIB), ('empty', 0)):
        assert tool(url, 'up-to', name, offset, 100)[:2] == (0, b'')
    for offset in (len(data) - 5, len(data), 70 * MIB):
        name, text = fails(*ONCE, url, 'get', 'x/pack-0', offset, 10)
        assert name == 'EBADMSG' and 'too short' in text
    put(url, 'x/pack-0', b'less')
    assert tool(url, 'up-to', 'x/pack-0', 0, 100)[1] == b'less'
    for name in ('x/pack-0', 'empty', 'never'):
        assert tool(url, 'delete', name)[0] == 0
    for length in (0, 1):
        assert fails(url, 'get', 'x/pack-0', 0, length)[0] == 'ENOENT'
    assert listed(url) == []


def test_large_objects_have_pieces_that_nobody_sees(cluster):
    url, data = cluster.url('large'), content(129 * MIB + 17)
    put(url, 'initrd', data, 'new')
    assert fails(*ONCE, url, 'new', 'initrd', data=data)[0] == 'EEXIST'
    assert listed(url) == ['initrd']
    assert len([name for name in inside(cluster) if name.startswith('large/')]) == 3
    for offset, length in ((0, len(data)), (64 * MIB - 5, 10), (64 * MIB, 10), (128 * MIB - 5, 10), (len(data) - 5, 5)):
        assert get(url, 'initrd', offset, length) == data[offset:offset + length], offset
    assert tool(url, 'up-to', 'initrd', len(data) - 5, 100)[1] == data[-5:]
    assert fails(*ONCE, url, 'get', 'initrd', len(data) - 5, 10)[0] == 'EBADMSG'
    put(url, 'initrd', data[5:])
    assert get(url, 'initrd', 0, len(data) - 5) == data[5:]
    put(url, 'exact', data[:64 * MIB])
    assert tool(url, 'up-to', 'exact', 64 * MIB - 1, 5)[1] == data[64 * MIB - 1:64 * MIB]
    put(url, 'initrd', b'small')
    assert tool(url, 'up-to', 'initrd', 0, 100)[1] == b'small'
    put(url, 'initrd', data)
    for name in ('initrd', 'exact'):
        assert tool(url, 'delete', name)[0] == 0
    assert not [name for name in inside(cluster) if name.startswith('large/')]


def test_new_objects_do_not_replace_others(cluster):
    url = cluster.url('new')
    put(url, 'claim', b'mine', 'new')
    assert fails(url, 'new', 'claim', data=b'yours')[0] == 'EEXIST'
    assert get(url, 'claim', 0, 4) == b'mine'
    won = []

    def write(i):
        if tool(url, 'new', 'one', data=b'%d' % i)[0] == 0:
            won.append(i)
    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and get(url, 'one', 0, 1) == b'%d' % won[0]


def test_of_many_that_replace_an_object_each_succeeds(cluster):
    url = cluster.url('replaced')
    codes = []
    threads = [threading.Thread(target=lambda i=i: codes.append(tool(*LONG, url, 'put', 'set', data=b'%d' % i * 100000)[0]))
               for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0] * 8
    found = get(url, 'set', 0, 100000)
    assert found == found[:1] * 100000


def test_lists_have_a_prefix_a_namespace_and_folders(cluster):
    url, other = cluster.url('list'), cluster.url('list', namespace='other')
    names = ['%s/pack-%d' % (image, i) for image in ('x', 'y.z') for i in range(4)] + ['top']
    for name in names:
        put(url, name, b'12345')
    put(other, 'elsewhere', b'')
    cluster.run('rados', '-p', cluster.pool, 'create', 'list/no name')
    assert listed(url) == sorted(names)
    assert listed(url, 'y.') == ['y.z/pack-%d' % i for i in range(4)]
    assert listed(url, 'x/pack-2') == ['x/pack-2']
    assert listed(url, '', 'shallow') == ['top', 'x/', 'y.z/']
    assert listed(other) == ['elsewhere']
    assert fails(url, 'get', 'elsewhere', 0, 0)[0] == 'ENOENT'


# ---- what fails ----

@pytest.mark.parametrize('change, errno, words', [
    (dict(id='nobody'), 'EACCES', "does not accept client.nobody's key"),
    (dict(keyring='/dev/null'), 'EACCES', 'key'),
    (dict(conf='/nowhere'), 'ENOENT', '/nowhere'),
    (dict(cluster='ceph'), 'EINVAL', 'parameter "cluster"'),
])
def test_refusals_say_what_to_do(cluster, change, errno, words):
    name, text = fails(*ONCE, cluster.url('x', **change), 'get', 'a', 0, 1)
    assert name == errno and words in text, text


def test_a_pool_that_is_not_there_is_named(cluster):
    name, text = fails(*ONCE, cluster.url('x').replace('//images', '//other'), 'get', 'a', 0, 1)
    assert name == 'ENOENT' and 'no pool other' in text, text


def test_who_may_only_read_is_told_so(cluster, tmp_path):
    keyring = tmp_path / 'reader'
    cluster.ceph('auth', 'get-or-create', 'client.reader', 'mon', 'allow r', 'osd', 'allow r pool=%s' % cluster.pool, '-o', str(keyring))
    put(cluster.url('x'), 'a', b'1')
    url = cluster.url('x', id='reader', keyring=keyring)
    assert get(url, 'a', 0, 1) == b'1'
    name, text = fails(*ONCE, url, 'put', 'a', data=b'2')
    assert name == 'EPERM' and 'client.reader may not' in text, text
    bare = re.sub('&keyring=[^&]*', '', url)
    assert get(bare, 'a', 0, 1, '--credentials', keyring) == b'1'


def test_a_cluster_that_is_away_at_first_is_found_when_it_comes(doomed):
    url = doomed.url('away')
    put(url, 'a', b'1')
    doomed.stop_mon()
    start = time.monotonic()
    name, text = fails(*QUICK, url, 'get', 'a', 0, 1)
    assert name == 'ETIMEDOUT' and time.monotonic() - start < seconds(8), text
    words = [build_dir() + '/tests/store-tool', *map(str, LONG), url, 'get', 'a', '0', '1']
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        wait_for(lambda: 'rados-connect' in names_of_threads(process.pid), 20)
        doomed.start_mon()
        assert process.communicate(timeout=seconds(120))[0] == b'1' and process.returncode == 0


def names_of_threads(pid):
    found = subprocess.run(['ps', '-L', '-o', 'comm=', '-p', str(pid)], stdout=subprocess.PIPE, text=True, check=False)
    return found.stdout.split()


@pytest.mark.parametrize('words', [('get', 'a', 0, 1), ('put', 'a'), ('new', 'b'), ('delete', 'a'), ('list', '')], ids=lambda words: words[0])
def test_a_cluster_that_hangs_holds_nobody_up(cluster, words):
    """Below min_size nothing is answered, neither reads nor writes: a request ends at its deadline, and one that waits goes on."""
    url = cluster.url('hang')
    put(url, 'a', b'1')
    with frozen(cluster, 0, 1):
        # Each object has a copy of three at one of these two; a read that the third one serves is served.
        start = time.monotonic()
        code, _, err = tool(*QUICK, url, *words, data=b'2')
        assert time.monotonic() - start < seconds(8)
        assert code == 0 and words[0] == 'get' or err.startswith('ETIMEDOUT'), err
        with subprocess.Popen([build_dir() + '/tests/store-tool', *map(str, LONG), url, *map(str, words)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            wait_for(lambda: cluster.up() == 1, 60)
            cluster.thaw_osds(0, 1)
            _, said = process.communicate(timeout=seconds(120))
            # What was given up may have been done after all.
            assert process.returncode == 0 or words[0] == 'new' and b'EEXIST' in said, said
    tool(url, 'delete', 'b')


def test_reads_go_on_when_a_daemon_dies(doomed):
    url, data = doomed.url('dies'), content(8 * MIB)
    put(url, 'a', data)
    with subprocess.Popen([build_dir() + '/tests/store-tool', *map(str, LONG), url, 'flood', 'a', '65536', '20000'],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(lambda: 'store-rados' in names_of_threads(process.pid), 20)
        doomed.kill_osd(0)
        _, said = process.communicate(timeout=seconds(180))
        assert process.returncode == 0, said
    wait_for(lambda: doomed.up() == 2, 60)
    for offset in range(0, len(data), MIB):
        assert get(url, 'a', offset, 4096) == data[offset:offset + 4096]
    put(url, 'b', data)
    assert get(url, 'b', 0, len(data)) == data


def test_a_writer_that_is_killed_leaves_nothing_that_is_seen(cluster):
    url, data = cluster.url('killed'), content(200 * MIB)
    pieces = []
    with subprocess.Popen([build_dir() + '/tests/store-tool', url, 'put', 'big'], stdin=subprocess.PIPE) as process:
        feeder = threading.Thread(target=feed, args=(process, data))
        feeder.start()
        wait_for(lambda: pieces.extend(n for n in inside(cluster) if n.startswith('killed/')) or pieces, 60, every=0.01)
        process.kill()
        feeder.join()
    seen = [name for name in inside(cluster) if name.startswith('killed/')]
    if 'killed/big' in seen:
        pytest.skip('it was faster than its killer')
    assert listed(url) == [] and fails(url, 'get', 'big', 0, 1)[0] == 'ENOENT'
    # They are young: another writer's, perhaps. When they are old, a list removes them, and no others.
    put(url, 'whole', data[:65 * MIB])
    names = [name for name in inside(cluster) if name.startswith('killed/') and '~' in name]
    assert len(names) >= 2
    for name in names:
        cluster.run('rados', '-p', cluster.pool, 'touch', name, '1577836800')
    assert listed(url) == ['whole']
    assert [n for n in inside(cluster) if n.startswith('killed/big')] == []
    assert get(url, 'whole', 0, 65 * MIB) == data[:65 * MIB]


def feed(process, data):
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(data)
        process.stdin.close()


# ---- images ----

@pytest.fixture(scope='module', name='image')
def _image(cluster):
    """A guest with all its memory filled, saved to the cluster, and gone."""
    with Postern(memory='64M') as vm:
        vm.bare(ready=True).fill()
        vm.save(place(cluster, 'web'))
    return place(cluster, 'web')


def place(cluster, name):
    return cluster.url('images/' + name)


def verify(guest):
    """Every word of it."""
    guest.quiet(seconds(60))
    assert guest.first_error()['errors'] == 0
    assert guest.verify(seconds(120))['errors'] == 0


def test_a_guest_is_saved_and_restored(cluster, image):
    with Postern.restored(image) as vm:
        verify(vm.bare())
        assert vm.faults()['source']['store'].startswith('rados://images/images')
        vm.save(place(cluster, 'again'))
    with Postern.restored(place(cluster, 'again')) as vm:
        verify(vm.bare())


def test_all_is_answered_while_the_cluster_hangs(cluster, image):
    """And the guest goes on by itself when it is back."""
    with Postern.restored(image, options=['--fill', 'off'], gdb=True) as vm:
        guest = vm.bare()
        guest.mask(2)           # vCPU 0 answers, vCPU 1 walks into what is missing
        guest.heartbeat(True, period_us=5000)
        guest.wait_beats(2)
        with frozen(cluster, 0, 1, 2):
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
        touches = guest.stats()['cpu1']
        guest.wait_stats(lambda s: s['cpu1'] > touches + 100, seconds(90))
        guest.heartbeat(False)
        guest.mask(3)
        verify(guest)


def test_a_second_store_answers_while_the_cluster_hangs(cluster, image, tmp_path):
    for name in listed(cluster.url('images')):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tool(cluster.url('images'), 'up-to', name, 0, 64 * MIB)[1])
    with Postern.restored(image, options=['--fill', 'off', '--second-store', str(tmp_path)]) as vm:
        with frozen(cluster, 0, 1, 2):
            verify(vm.bare())
            assert vm.faults()['source']['failed-reads'] == 0


def test_it_ends_at_once_while_the_cluster_hangs(cluster, image):
    with Postern.restored(image, options=['--fill', 'off']) as vm:
        with frozen(cluster, 0, 1, 2):
            vm.bare().send('g')
            wait_for(vm.waiting_cpus, 20)
            vm.command('quit')
            assert vm.wait_exit(seconds(5)) == 0


def test_a_wrong_key_is_told_before_there_is_a_machine(cluster, image):
    code, text = run_postern('run', '--serial', 'null', '--restore', image.replace('id=postern', 'id=nobody'), timeout=60)
    assert code == 1 and 'client.nobody' in text, text
