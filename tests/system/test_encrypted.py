# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A machine saved into an encrypted image: who has the key restores it, and nobody else finds a word of it in the store."""

import fcntl
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import termios

import pytest

from harness.qmp import QmpError
from harness.vm import Postern, program, run_postern
from harness.waiting import seconds, wait_for
from harness.webs import Nginx

LINE = 'swordfish=never-in-clear'
PAGE = 4096


def write_key(path, first):
    """32 bytes that are not the same in any two keys."""
    path.write_text(bytes((first + 3 * i) % 256 for i in range(32)).hex() + '\n', encoding='ascii')
    path.chmod(0o600)
    return str(path)


@pytest.fixture(name='key')
def key_fixture(tmp_path):
    return write_key(tmp_path / 'key', 1)


@pytest.fixture(name='store')
def store_fixture(tmp_path):
    store = tmp_path / 'store'
    store.mkdir()
    return store


def words_of(vm, most=200):
    """Words of the guest's RAM, 16 bytes each, of as many pages; it is paused."""
    with open('/proc/%d/maps' % vm.pid, encoding='ascii') as maps:
        spans = [tuple(int(part, 16) for part in line.split()[0].split('-')) for line in maps if ' rw' in line]
    start, end = max(spans, key=lambda span: span[1] - span[0])
    words = set()
    with open('/proc/%d/mem' % vm.pid, 'rb') as mem:
        for page in range((end - start) // PAGE):
            mem.seek(start + page * PAGE + 512)
            word = mem.read(16)
            if word.count(0) < 4:
                words.add(word)
            if len(words) == most:
                break
    assert len(words) > most // 2
    return words


def found_in(store, words):
    """Which of these are in any object."""
    found = set()
    for folder, _, names in os.walk(store):
        for name in names:
            with open(os.path.join(folder, name), 'rb') as file:
                data = file.read()
            found |= {word for word in words if word in data}
    return found


def saved(store, name, **arguments):
    """A guest with all its memory filled, saved, and gone; words of its memory."""
    with Postern(memory='64M', cpus=1, options=['--append', LINE]) as vm:
        guest = vm.bare(ready=True)
        guest.fill()
        vm.command('stop')
        words = words_of(vm)
        vm.save(store / name, **arguments)
        vm.command('quit')
        assert vm.wait_exit(10) == 0
    return words | {LINE.encode()}


def verify(vm):
    """Every word of it."""
    guest = vm.bare()
    guest.quiet(seconds(30))
    assert guest.first_error()['errors'] == 0
    found = guest.verify(seconds(120))
    assert found['errors'] == 0, found
    assert found['pages'] > 0


def refused(image, *options):
    code, said = run_postern('run', '--restore', image, '--serial', 'null', *options)
    assert code not in (0, -11, -6), said
    return said


def test_with_the_key_it_is_restored_and_without_it_nothing_is_seen(store, key, tmp_path):
    words = saved(store, 'web', **{'key-file': key})
    assert not found_in(store, words)
    with Postern.restored(store / 'web', options=['--key-file', key]) as vm:
        verify(vm)
    said = refused(store / 'web')
    assert 'is encrypted' in said and 'key' in said
    said = refused(store / 'web', '--key-file', write_key(tmp_path / 'other', 2))
    assert 'has the id' in said
    # The same of one that is not encrypted: it can be found.
    words = saved(store, 'plain')
    assert LINE.encode() in found_in(store, words) and len(found_in(store, words)) > 1
    assert 'is not encrypted' in refused(store / 'plain', '--key-file', key)
    with Postern.restored(store / 'plain', options=['--key-file', key, '--allow-unencrypted']) as vm:
        verify(vm)


def test_a_key_from_a_descriptor(store, key):
    saved(store, 'web', **{'key-file': key})
    read, write = os.pipe()
    with open(key, encoding='ascii') as file:
        os.write(write, file.read().encode())
    os.close(write)
    code, said = run_postern('snapshot', 'export', store / 'web', store / 'raw')
    assert code == 1 and 'is encrypted' in said
    done = subprocess.run([program(), 'snapshot', 'verify', '--key-fd', str(read), str(store / 'web')], pass_fds=[read],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds(60), check=False)
    os.close(read)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('words', [['run', '--serial', 'null', '--restore'], ['clone', '--count', '2'], ['snapshot', 'verify']],
                         ids=lambda words: words[0])
def test_a_signal_ends_the_wait_for_a_key(words, tmp_path):
    """Of whoever was to write it to a pipe, and does not."""
    there, here = os.pipe()
    os.write(here, b'of a key')
    with subprocess.Popen([program(), *words, str(tmp_path / 'web'), '--key-fd', str(there)], pass_fds=[there],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as waiting:
        try:
            wait_for(lambda: not struct.unpack('i', fcntl.ioctl(there, termios.FIONREAD, bytes(4)))[0], 20, 'it reads no key')
            assert waiting.poll() is None
            waiting.terminate()
            assert waiting.wait(seconds(20)) in (-signal.SIGTERM, 130)
        finally:
            waiting.kill()
    os.close(there)
    os.close(here)


def test_a_child_has_its_parents_key_by_itself(store, key):
    """Also while memory still comes; and what nobody said to encrypt otherwise is never in clear."""
    words = saved(store, 'web', **{'key-file': key})
    with Postern.restored(store / 'web', options=['--key-file', key, '--fill', 'off']) as vm:
        guest = vm.bare()
        guest.limit(64)
        guest.walk('w')
        guest.wait_stats(lambda s: s['touches'] > 200)
        job = vm.save(store / 'child')
        assert job['kept-pages'] > job['total-pages'] * 3 // 4
    assert not found_in(store, words)
    with Postern.restored(store / 'child', options=['--key-file', key]) as vm:
        vm.bare().limit(0)
        verify(vm)


def test_an_incremental_save_needs_the_key_of_what_it_is_on_top_of(store, key, tmp_path):
    """It has the machine's by itself; another one, or none, is an error by name and nothing in the store."""
    other = write_key(tmp_path / 'other', 2)
    with Postern(memory='64M', cpus=1) as vm:
        guest = vm.bare(ready=True)
        guest.fill()
        guest.walk('w')
        vm.save(store / 'monday', track=True, **{'key-file': key})
        job = vm.save(store / 'tuesday', track=True, incremental=True)
        assert job['parent'] == 'monday' and job['mode'] == 'live'
        with pytest.raises((QmpError, AssertionError)) as said:
            vm.save(store / 'never', incremental=True, **{'key-file': other})
        assert 'has the id' in str(said.value)
        assert not list((store / 'never').glob('manifest*'))
        guest.quiet(seconds(30))
        guest.limit(64)
        guest.walk('w')
        vm.save(store / 'wednesday', incremental=True)
    for name in ('tuesday', 'wednesday'):
        assert 'is encrypted' in refused(store / name)
        with Postern.restored(store / name, options=['--key-file', key]) as vm:
            vm.bare().limit(0)
            verify(vm)


def test_another_key_makes_an_image_of_its_own(store, key, tmp_path):
    other = write_key(tmp_path / 'other', 2)
    saved(store, 'web', **{'key-file': key})
    with Postern.restored(store / 'web', options=['--key-file', key]) as vm:
        wait_for(lambda: vm.faults()['pages']['missing'] + vm.faults()['pages']['requested'] == 0, 30)
        job = vm.save(store / 'own', **{'key-file': other})
        assert job['kept-pages'] == 0
    with Postern.restored(store / 'own', options=['--key-file', other]) as vm:
        verify(vm)


def test_what_was_altered_is_found_before_the_guest_runs(store, key):
    saved(store, 'web', **{'key-file': key})
    manifest = store / 'web/manifest.json'
    text = manifest.read_text(encoding='utf-8')
    manifest.write_text(text.replace('"cpus":1', '"cpus":2'), encoding='utf-8')
    assert 'checksum is wrong' in refused(store / 'web', '--key-file', key)
    manifest.write_text(text, encoding='utf-8')
    state = next((store / 'web').glob('state.*'))
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    assert 'damaged' in refused(store / 'web', '--key-file', key)


def test_images_are_looked_after_with_and_without_the_key(store, key, tmp_path):
    saved(store, 'web', **{'key-file': key})
    saved(store, 'plain')
    code, said = run_postern('snapshot', 'compact', store / 'web', store / 'flat', '--key-file', key)
    assert code == 0, said
    code, said = run_postern('snapshot', 'compact', store / 'plain', store / 'dark', '--key-file', key, '--allow-unencrypted')
    assert code == 0, said
    with Postern.restored(store / 'dark', options=['--key-file', key]) as vm:
        verify(vm)
    (store / 'flat/manifest.json').unlink()
    code, said = run_postern('snapshot', 'gc', store)
    assert code == 0 and 'what it may need is kept' in said and not list((store / 'flat').glob('*')), said
    for options in ((), ('--key-file', write_key(tmp_path / 'other', 2)), ('--key-file', key)):
        code, said = run_postern('snapshot', 'gc', '--json', store, *options)
        assert code == 0 and json.loads(said[said.index('{'):])['objects'] == 0, said
    for name in ('web', 'dark'):
        code, said = run_postern('snapshot', 'verify', store / name, '--key-file', key)
        assert code == 0, said
    code, said = run_postern('snapshot', 'verify', store / 'web')
    assert code == 1 and 'of pages nothing is known' in said


def test_info_without_the_key_says_what_is_in_the_clear(store, key, tmp_path):
    """And what to give to know the rest; with another key it is refused."""
    saved(store, 'web', **{'key-file': key})
    code, said = run_postern('snapshot', 'info', '--json', store / 'web')
    info = json.loads(said)
    sizes = [p.stat().st_size for p in (store / 'web').iterdir()]
    assert code == 0 and info['locked'] and info['encryption'] == 'aes-256-gcm' and info['version'] == 1
    assert info['stored'] == {'objects': len(sizes), 'bytes': sum(sizes)} and 'working-set' not in info
    code, said = run_postern('snapshot', 'info', '--json', '--key-file', key, store / 'web')
    known = json.loads(said)
    assert code == 0 and 'locked' not in known and known['key-id'] == info['key-id']
    assert {name: known[name] for name in ('id', 'pages', 'machine', 'objects')} == {name: info[name] for name in ('id', 'pages', 'machine', 'objects')}
    code, said = run_postern('snapshot', 'info', store / 'web')
    assert code == 0 and info['key-id'] in said and '--key-file' in said and ' in %d objects' % len(sizes) in said, said
    code, said = run_postern('snapshot', 'info', '--key-file', write_key(tmp_path / 'other', 2), store / 'web')
    assert code == 1 and info['key-id'] in said, said


def test_info_without_the_key_of_a_web_server(store, key, tmp_path):
    """Which lists nothing: the manifest says how much is stored."""
    saved(store, 'web', **{'key-file': key})
    with Nginx(tmp_path) as nginx:
        shutil.copytree(store / 'web', nginx.files + '/web')
        code, said = run_postern('snapshot', 'info', '--json', nginx.url + '/web')
    info = json.loads(said)
    assert code == 0 and info['locked'] and info['stored'] is None and info['own-bytes'] > 0


def test_memory_is_imported_and_exported_with_the_key(store, key, tmp_path):
    page = b'a secret of some length.'.ljust(64) * 64
    memory = b''.join(bytes([i]) + page[1:] if i % 3 else bytes(4096) for i in range(256)) * 4
    (tmp_path / 'raw').write_bytes(memory)
    code, said = run_postern('snapshot', 'import', '--key-file', key, tmp_path / 'raw', store / 'image')
    assert code == 0, said
    assert not found_in(store, {page[1:24], page[64:88]})
    for options, why in (((), 'is encrypted'), (('--key-file', write_key(tmp_path / 'other', 2)), 'has the id')):
        code, said = run_postern('snapshot', 'export', *options, store / 'image', tmp_path / 'no')
        assert code == 1 and why in said and not (tmp_path / 'no').exists(), said
    for form in ('raw', 'elf'):
        code, said = run_postern('snapshot', 'export', '--format', form, '--key-file', key, store / 'image',
                                 tmp_path / ('out.' + form))
        assert code == 0, said
    assert (tmp_path / 'out.raw').read_bytes() == memory
    assert memory in (tmp_path / 'out.elf').read_bytes()
    code, said = run_postern('snapshot', 'import', tmp_path / 'raw', store / 'plain')
    assert code == 0, said
    code, said = run_postern('snapshot', 'export', '--key-file', key, store / 'plain', tmp_path / 'no')
    assert code == 1 and 'is not encrypted' in said, said
    code, said = run_postern('snapshot', 'export', '--key-file', key, '--allow-unencrypted', store / 'plain', tmp_path / 'yes')
    assert code == 0 and (tmp_path / 'yes').read_bytes() == memory, said


def test_a_machines_memory_is_exported_with_the_key(store, key, tmp_path):
    words = saved(store, 'web', **{'key-file': key})
    code, said = run_postern('snapshot', 'export', '--key-file', key, store / 'web', tmp_path / 'raw')
    assert code == 0, said
    memory = (tmp_path / 'raw').read_bytes()
    assert all(word in memory for word in words - {LINE.encode()})
    code, said = run_postern('snapshot', 'import', '--key-file', key, tmp_path / 'raw', store / 'again')
    assert code == 0 and not found_in(store, words), said


def test_a_key_that_others_can_read_is_refused(store, key):
    os.chmod(key, 0o644)
    assert 'chmod 600' in refused(store / 'web', '--key-file', key)


def test_clones_of_an_encrypted_image_read_its_key_once(store, key, tmp_path):
    saved(store, 'web', **{'key-file': key})
    run = tmp_path / 'run'
    run.mkdir(mode=0o700)
    read, write = os.pipe()
    with open(key, encoding='ascii') as file:
        os.write(write, file.read().encode())
    os.close(write)
    with subprocess.Popen([program(), 'clone', str(store / 'web'), '--count', '3', '--key-fd', str(read)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[read],
                          env=dict(os.environ, POSTERN_RUNTIME_DIR=str(run)), text=True) as clones:
        os.close(read)
        try:
            assert '3 machines run' in clones.stdout.readline()
        finally:
            clones.terminate()
            assert clones.wait(seconds(30)) is not None


def test_the_key_comes_over_qmp(tmp_path, store, key):
    """In a descriptor, so that it lies in no file; whoever passes it is not waited for."""
    with open(key, 'rb') as file:
        content = file.read()
    with Postern(memory='16M') as vm:
        vm.bare(ready=True)
        there, here = os.pipe()
        vm.q.getfd('key', there)
        os.write(here, content)
        with pytest.raises(QmpError, match="'key-fd' expects"):
            vm.save(store / 'web', **{'key-fd': 'key'})
        vm.q.getfd('key', there)
        os.close(here)
        os.close(there)
        with pytest.raises(QmpError, match='not in both'):
            vm.save(store / 'web', **{'key-fd': 'key', 'key-file': key})
        with pytest.raises(QmpError, match="'key' not found"):
            vm.save(store / 'web', **{'key-fd': 'key'})
        with open(key, 'rb') as file:
            vm.q.getfd('key', file.fileno())
        vm.save(store / 'web', **{'key-fd': 'key'})
        with open(os.devnull, 'rb') as file:
            vm.q.getfd('key', file.fileno())
        with pytest.raises(QmpError, match="'key-fd' expects"):
            vm.save(store / 'child', **{'key-fd': 'key'})
    assert 'encrypted' in refused(store / 'web')
    with Postern.restored(store / 'web', options=['--key-file', key]) as vm:
        vm.bare().stats()


def test_the_key_is_passed_by_the_command_that_saves(tmp_path, store, key):
    with open(key, 'rb') as file:
        content = file.read()
    with Postern(memory='16M', options=['--qmp', 'tcp:127.0.0.1:0']) as vm:
        vm.bare(ready=True)
        port = re.search(r'QMP: listens at 127.0.0.1 port (\d+)', vm.log()).group(1)
        for words, said in ((['--qmp', vm.path('qmp')], ''), (['--qmp', 'tcp:127.0.0.1:' + port], 'over a unix socket alone')):
            there, here = os.pipe()
            os.write(here, content)
            os.close(here)
            done = subprocess.run([program(), 'snapshot', 'save', *words, '--key-fd', str(there), str(store / 'web')], pass_fds=[there],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds(60), check=False)
            os.close(there)
            assert done.returncode == (2 if said else 0) and said in done.stdout, done.stdout
    assert 'encrypted' in refused(store / 'web')
    with Postern.restored(store / 'web', options=['--key-file', key]) as vm:
        vm.bare().stats()
