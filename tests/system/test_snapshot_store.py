# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""`postern snapshot` on images, without a machine: info, list, verify, compact, delete, gc; and what ends them."""

import contextlib
import json
import os
import signal
import subprocess
import threading

import pytest

from harness.qmp import QmpError
from harness.s3 import S3
from harness.vm import Postern, program, run_postern
from harness.waiting import seconds, wait_for

MIB = 1 << 20


def snapshot(*words, env=None):
    """(exit code, standard output, standard error)"""
    done = subprocess.run([program(), 'snapshot', *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=seconds(60), check=False, env=env and dict(os.environ, **env))
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def reply(*words, env=None):
    """What a command says with --json; it succeeds."""
    code, out, err = snapshot('--json', *words, env=env)
    assert code == 0, err
    return json.loads(out)


def save_soon(vm, image):
    """Once what the guest reboots with has come as well: until then a save is refused."""
    def begun():
        try:
            return vm.save(image, wait=False)
        except QmpError as error:
            assert 'on its way' in str(error)
            return None
    vm.wait_saved(wait_for(begun, 30))


@pytest.fixture(scope='module', name='made')
def _made(tmp_path_factory):
    """A folder with `base`, and `child` on top of it."""
    images = tmp_path_factory.mktemp('images')
    with Postern(name='maker', memory='64M') as vm:
        vm.bare(ready=True).fill()
        vm.command('stop')
        vm.save(images / 'base')
    with Postern.restored(images / 'base', options=['--fill', 'off']) as vm:
        guest = vm.bare()
        guest.limit(16)
        guest.walk('w')
        guest.wait_stats(lambda s: s['touches'] > 100)
        save_soon(vm, images / 'child')
    return images


@pytest.fixture(scope='module', name='small')
def _small(tmp_path_factory):
    """The same of a guest that has touched little: a server of tests takes some milliseconds for each frame."""
    images = tmp_path_factory.mktemp('small')
    with Postern(name='small', memory='64M') as vm:
        vm.bare(ready=True).touch(100)
        vm.save(images / 'base')
    with Postern.restored(images / 'base', options=['--fill', 'off']) as vm:
        vm.bare().touch(3000)
        save_soon(vm, images / 'child')
    return images


@pytest.fixture(name='images')
def _images(made, tmp_path):
    """A copy of it, to be changed."""
    subprocess.run(['cp', '-a', '%s/.' % made, tmp_path], check=True, timeout=seconds(60))
    return tmp_path


def pack_of(images, name):
    return max((images / name).glob('pack-*'), key=lambda p: p.stat().st_size)


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xff
    path.write_bytes(data)


def test_info_says_what_an_image_is(made):
    base, child = reply('info', made / 'base'), reply('info', made / 'child')
    assert base['name'] == 'base' and len(base['id']) == 32 and base['version'] == 1
    assert base['machine']['cpus'] == 2 and base['memory-bytes'] == 64 * MIB
    assert sum(r['bytes'] for r in base['machine']['ranges']) == 64 * MIB
    assert sum(base['pages'].values()) == 64 * MIB // 4096 and base['pages']['absent'] == 0
    assert base['other-packs'] == 0 and base['images'] == [] and 'parent' not in base
    assert base['own-bytes'] == sum(p.stat().st_size for p in (made / 'base').glob('pack-*'))
    assert {o['what'] for o in base['objects']} >= {'index', 'state', 'boot-kernel'}
    assert child['parent'] == {'name': 'base', 'id': base['id']} and child['images'] == [child['parent']]
    assert child['other-packs'] > 0 and child['own-bytes'] < base['own-bytes']
    code, text, _ = snapshot('info', made / 'child')
    assert code == 0
    for word in ('64.0 MiB at 0x0', 'parent', 'base', 'absent', '2 vCPUs', base['id'], 'working set'):
        assert word in text


@pytest.mark.parametrize('words', [['info', 'base'], ['list', '.', '--json']])
def test_what_could_not_be_written_was_not_said(made, words):
    """Standard output is a full disk."""
    with open('/dev/full', 'wb') as full:
        done = subprocess.run([program(), 'snapshot', *words], cwd=made, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE,
                              timeout=seconds(20), check=False)
    assert done.returncode == 1 and b'standard output: No space left on device' in done.stderr, done


def test_list_has_all_images_and_says_which_is_damaged(images):
    assert [entry['name'] for entry in reply('list', images)] == ['base', 'child']
    assert snapshot('list', '--names', images)[1] == 'base\nchild\n'
    code, text, _ = snapshot('list', images)
    assert code == 0 and 'on top of base' in text and '64.0 MiB' in text
    damage(images / 'child/manifest.json')
    (images / 'half').mkdir()
    (images / 'half/pack-0.00000000000000000000000000000000').write_bytes(b'x')
    base, child = reply('list', images)
    assert 'error' not in base and 'damaged' in child['error']


def test_verify_names_what_is_damaged(images):
    found = reply('verify', images / 'child')
    assert found['damaged'] == 0 and found['pages'] > 1000
    code, text, _ = snapshot('verify', '--threads', 1, images / 'child')
    assert code == 0 and 'all are right' in text
    damage(pack_of(images, 'base'))
    code, _, err = snapshot('verify', images / 'child')
    assert code == 1 and 'guest page' in err and 'base/pack-' in err and 'places' in err
    code, text, _ = snapshot('--json', 'verify', images / 'child')
    assert code == 1 and json.loads(text)['damaged-pages'] > 0 and json.loads(text)['damage']
    (images / 'base/manifest.json').unlink()
    code, _, err = snapshot('verify', images / 'base')
    assert code == 1 and 'no image base here' in err


def test_what_is_compacted_needs_nobody(images):
    code, _, err = snapshot('compact', images / 'child', images / 'alone', '--level', 3)
    assert code == 0, err
    alone = reply('info', images / 'alone')
    assert alone['images'] == [] and alone['pages'] == reply('info', images / 'child')['pages']
    code, _, err = snapshot('compact', images / 'child', images / 'alone')
    assert code == 1 and 'alone' in err
    for name in ('child', 'base'):
        assert snapshot('delete', images / name)[0] == 0
    assert reply('gc', images)['images'] == 1
    assert sorted(p.name for p in images.iterdir()) == ['alone']
    assert reply('verify', images / 'alone')['damaged'] == 0
    with Postern.restored(images / 'alone') as vm:
        guest = vm.bare()
        guest.quiet(seconds(30))
        assert guest.verify(seconds(120))['errors'] == 0


def test_what_others_need_outlives_its_image(images):
    """Until gc finds that nobody needs it any more."""
    assert snapshot('delete', images / 'base')[0] == 0
    assert snapshot('delete', images / 'base')[0] == 1
    assert reply('verify', images / 'child')['damaged'] == 0
    assert snapshot('delete', images / 'child')[0] == 0
    would = reply('gc', '--dry-run', images)
    assert would['dry-run'] and would['objects'] > 0 and (images / 'base').exists()
    assert 'would go: base/pack-' in snapshot('gc', '--dry-run', images)[1]
    gone = reply('gc', images)
    assert gone['removed'] == would['removed'] and gone['bytes'] == would['bytes']
    assert list(images.iterdir()) == []


def test_gc_removes_nothing_while_an_image_cannot_be_read(images):
    (images / 'base' / ('pack-99.' + '0' * 32)).write_bytes(b'x')
    damage(images / 'child/manifest.json')
    code, _, err = snapshot('gc', images)
    assert code == 1 and 'nothing was removed' in err and 'child' in err
    assert (images / 'base' / ('pack-99.' + '0' * 32)).exists()


@pytest.mark.parametrize('words, code, text', [
    (('info', '/nowhere/at-all/web'), 1, '/nowhere/at-all'),
    (('info', 's3://bucket'), 2, 'STORE/NAME'),
    (('list', 'http://u:p@host/x'), 2, 'URL'),
    (('compact', '/a/b', '/c/d'), 2, 'one store'),
    (('gc',), 2, 'STORE'),
    (('list', '/tmp', '--level', '3'), 2, '--level'),
])
def test_what_is_wrong_is_said(words, code, text):
    got, out = run_postern('snapshot', *words)
    assert got == code and text in out, out


# ---- stores that do not answer ----

@contextlib.contextmanager
def hanging(server, matches):
    """Requests that match are never answered while this lasts; their number stands in the list."""
    over, seen = threading.Event(), []

    def refuse(method, path):
        if not matches(method, path):
            return None
        seen.append(path)
        over.wait(seconds(60))
        return 503
    server.refuse = refuse
    try:
        yield seen
    finally:
        server.refuse = lambda *_: None
        over.set()


def upload(server, images, names=('base', 'child')):
    for name in names:
        for path in (images / name).iterdir():
            server.objects[('images', 'p/%s/%s' % (name, path.name))] = path.read_bytes()


@pytest.fixture(name='s3')
def _s3(small):
    with S3() as server:
        upload(server, small)
        yield server


def place(server, name=''):
    url, _, query = server.url('images/p').partition('?')
    return url + ('/' + name if name else '') + '?' + query


def test_all_of_it_works_in_s3(s3):
    assert snapshot('list', '--names', place(s3), env=s3.env)[1] == 'base\nchild\n'
    assert reply('verify', place(s3, 'child'), env=s3.env)['damaged'] == 0
    assert reply('info', place(s3, 'child'), env=s3.env)['parent']['name'] == 'base'
    assert snapshot('compact', place(s3, 'child'), place(s3, 'alone'), env=s3.env)[0] == 0
    assert snapshot('delete', place(s3, 'base'), env=s3.env)[0] == 0
    assert snapshot('delete', place(s3, 'child'), env=s3.env)[0] == 0
    assert reply('gc', place(s3), env=s3.env)['images'] == 1
    assert {key.split('/')[1] for _, key in s3.objects} == {'alone'}
    assert reply('verify', place(s3, 'alone'), env=s3.env)['damaged'] == 0


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('words, method, part', [
    (('info', 'child'), 'GET', 'manifest'),
    (('list', ''), 'GET', 'list-type'),
    (('verify', 'child'), 'GET', 'pack-'),
    (('compact', 'child', 'alone'), 'PUT', 'pack-'),
    (('compact', 'child', 'alone'), 'GET', 'pack-'),
    (('delete', 'child'), 'DELETE', 'child/'),
    (('gc', ''), 'GET', 'manifest'),
], ids=lambda v: '-'.join(v) if isinstance(v, tuple) else v)
def test_a_signal_ends_what_waits_for_a_store(s3, words, method, part, number):
    before = dict(s3.objects)
    line = [program(), 'snapshot', words[0], *(place(s3, name) for name in words[1:])]
    with hanging(s3, lambda m, path: m == method and part in path) as seen:
        with subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=dict(os.environ, **s3.env), text=True) as child:
            try:
                wait_for(lambda: seen, 30)
                child.send_signal(number)
                _, err = child.communicate(timeout=seconds(12))
            finally:
                child.kill()
    assert child.returncode == 130 and 'interrupted' in err, err
    if words[0] != 'delete':
        assert {k: v for k, v in s3.objects.items() if '/alone/' not in k[1]} == before
    assert not [k for k in s3.objects if k[1].endswith('alone/manifest.json')]
