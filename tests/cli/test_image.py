# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""postern image, with programs in the place of Debian's that are done at once. Needs no KVM, no network and no root."""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import pytest

from harness.vm import program
from harness.waiting import seconds, wait_for

FAKES = {
    'mmdebstrap': 'for target in "$@"; do case $target in */root.tar) break ;; esac; done; mkdir -p "$WORLD/empty"; '
                  'tar -cf "$target" -C "$WORLD/empty" .',
    'mke2fs': 'printf "%s\\n" "$@" > "$WORLD/mke2fs.said"; while [ $# -gt 2 ]; do shift; done; echo image > "$1"',
    'fakeroot': 'exec "$@"',
    'newuidmap': 'exit 1',
    'apt-get': 'exit 1',
}


class World:
    """A directory for images, and a path with the programs."""

    def __init__(self, place):
        self.place = place
        (place / 'bin').mkdir()
        self.env = dict(os.environ, WORLD=str(place), PATH=f'{place}/bin:/usr/bin:/bin')
        for name, text in FAKES.items():
            self.put(name, text)
        self.out = place / 'out'
        self.out.mkdir()

    def put(self, name, text):
        """What is to be in the place of that program."""
        path = self.place / 'bin' / name
        path.write_text(f'#!/bin/sh\nset -eu\n{text}\n')
        path.chmod(0o755)

    def start(self, name, *options, mirror=('--mirror', 'http://localhost'), stdin=subprocess.DEVNULL):
        """Begins to make an image of that name."""
        return subprocess.Popen([program(), 'image', 'debian', *mirror, *options, '--', name],
                                stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                cwd=self.out, env=self.env)

    def make(self, name, *options, **more):
        """The exit status, and all that was said."""
        process = self.start(name, *options, **more)
        said, _ = process.communicate(timeout=seconds(30))
        return process.returncode, said

    def said(self, program):
        """The arguments that a program noted."""
        return (self.place / (program + '.said')).read_text().splitlines()

    def left(self):
        """What lies where the image was to be."""
        return sorted(os.listdir(self.out))


@pytest.fixture(name='world')
def world_fixture(tmp_path):
    return World(tmp_path)


@pytest.mark.parametrize('size, blocks', [('1073741824', '1048576K'), ('500M', '512000K'), ('409604K', '409604K'),
                                          (None, '2097152K')])
def test_a_size_reaches_mke2fs_as_it_was_meant(world, size, blocks):
    """mke2fs takes a bare number for KiB."""
    assert world.make('a.raw', *(['--size', size] if size else []))[0] == 0
    assert world.said('mke2fs')[-1] == blocks
    assert world.left() == ['a.raw']


@pytest.mark.parametrize('size, next_one', [('1073741825', '1048580K'), ('409601K', '409604K')])
def test_a_size_of_half_a_block_is_refused(world, size, next_one):
    status, said = world.make('a.raw', '--size', size)
    assert status == 2 and '4K' in said and next_one in said
    assert world.left() == []


# What apt-get indextargets says on a Debian 12 with backports and another's archive.
ARCHIVES = '''cat <<END
Debian|http://a/debian/|bookworm|main
Debian|http://a/debian/|bookworm|contrib
Debian|http://a/debian/|bookworm-updates|main
Debian|http://a/debian/|bookworm-backports|main
Debian|http://b/debian-security/|bookworm-security|main
Other|http://c/|bookworm|main
END'''


@pytest.mark.parametrize('suite, pockets', [('bookworm', True), ('trixie', True), ('stable', True), ('testing', True), ('sid', False),
                                            ('unstable', False)])
def test_an_image_of_a_release_takes_the_archives_that_it_has(world, suite, pockets):
    """unstable has neither -updates nor -security."""
    world.put('apt-get', ARCHIVES)
    world.put('mmdebstrap', FAKES['mmdebstrap'] + '\ncp "$(dirname "$target")/sources.list" "$WORLD/sources.said"')
    status, said = world.make('a.raw', '--suite', suite, mirror=())
    assert status == 0, said
    archives = [tuple(line.split()[-3:-1]) for line in world.said('sources')]
    assert archives == [('http://a/debian/', suite)] + [('http://a/debian/', suite + '-updates'),
                                                        ('http://b/debian-security/', suite + '-security')] * pockets


@pytest.mark.parametrize('make', ['echo mine > "$IMAGE_OUT"', 'mkdir "$IMAGE_OUT"', 'ln -s nowhere "$IMAGE_OUT"'])
def test_what_takes_the_name_meanwhile_stays(world, make):
    """A file is not overwritten, and nothing is put into a directory."""
    world.put('mke2fs', FAKES['mke2fs'] + '\n' + make)
    status, said = world.make('a.raw')
    assert status == 1 and 'a.raw: the image cannot take that name' in said
    assert world.left() == ['a.raw']
    path = world.out / 'a.raw'
    if path.is_dir():
        assert not list(path.iterdir())
    else:
        assert path.is_symlink() or path.read_text() == 'mine\n'


@pytest.mark.parametrize('name', ['-a.raw', '--help', 'host:a.raw', 'a b'])
def test_any_name_will_do(world, name):
    """tar takes a name with a colon for another machine's."""
    assert world.make(name)[0] == 0
    assert world.left() == [name]
    assert (world.out / name).read_text() == 'image\n'
    assert world.make(name)[0] == 1


@pytest.fixture(name='open_world')
def open_world_fixture():
    """As `world`, where anybody gets to; pytest's own directories are their user's alone."""
    place = pathlib.Path(tempfile.mkdtemp(prefix='postern-image-'))
    place.chmod(0o755)
    yield World(place)
    shutil.rmtree(place)


UNPACK = FAKES['mmdebstrap'] + '\necho "$TMPDIR" > "$WORLD/mmdebstrap.said"; touch "$TMPDIR/x"; ' \
         'while [ "$TMPDIR" != . ] && [ "$TMPDIR" != / ]; do stat -c %a "$TMPDIR"; TMPDIR=$(dirname "$TMPDIR"); ' \
         'done >> "$WORLD/mmdebstrap.said"; stat -c %a "$IMAGE_WORK" > "$WORLD/work.said"'


def test_what_is_unpacked_lies_beside_the_image(open_world):
    """There has to be room for it; and apt's user gets there."""
    open_world.put('mmdebstrap', UNPACK)
    assert open_world.make('a.raw')[0] == 0
    place, *modes = open_world.said('mmdebstrap')
    assert place.startswith(str(open_world.out / 'a.raw.')) and len(modes) >= 4
    assert all(int(mode, 8) & 1 for mode in modes)
    assert open_world.said('work') == ['700']
    assert open_world.left() == ['a.raw']


def test_beside_an_image_that_only_its_user_gets_to_nothing_is_unpacked(open_world):
    open_world.put('mmdebstrap', UNPACK)
    open_world.out.chmod(0o700)
    tmp = open_world.place / 'tmp'
    tmp.mkdir()
    for mode, there in ((0o755, str(tmp)), (0o700, '/tmp')):
        tmp.chmod(mode)
        open_world.env['TMPDIR'] = str(tmp)
        assert open_world.make('a.raw')[0] == 0
        place, *modes = open_world.said('mmdebstrap')
        assert place.startswith(there + '/postern-image.')
        assert all(int(mode, 8) & 1 for mode in modes)
        assert not os.path.exists(place)
        assert open_world.left() == ['a.raw']
        (open_world.out / 'a.raw').unlink()


def test_what_is_left_unpacked_is_removed(open_world):
    open_world.put('mmdebstrap', 'mkdir -p "$TMPDIR/mmdebstrap.1/etc"; touch "$TMPDIR/mmdebstrap.1/etc/x"; exit 1')
    assert open_world.make('a.raw')[0] == 1
    assert open_world.left() == []


# In a session of its own, with the recipe's output, and deaf to what asks it to end.
DAEMON = 'setsid sh -c \'trap "" TERM INT HUP; echo $$ > "$WORLD/daemon.said"; while :; do sleep 1; done\' & ' \
         'while ! [ -s "$WORLD/daemon.said" ]; do sleep 0.1; done'


def is_there(pid):
    """Does that process run?"""
    return os.path.exists(f'/proc/{pid}')


def test_interrupted_twice_it_ends_with_all_that_it_has_started(open_world):
    open_world.put('mmdebstrap', 'trap "" TERM; mkdir "$TMPDIR/mmdebstrap.1"; ' + DAEMON + '; while :; do sleep 1; done')
    process = open_world.start('a.raw')
    try:
        wait_for(lambda: (open_world.place / 'daemon.said').exists() and open_world.said('daemon'), 30)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):      # they have time to tidy up
            process.wait(timeout=1)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=seconds(15))
    finally:
        process.kill()
    assert process.returncode == 1 and 'interrupted' in said
    assert not is_there(open_world.said('daemon')[0])
    assert open_world.left() == []


def test_what_is_left_running_does_not_hold_it_up(world):
    world.put('mke2fs', FAKES['mke2fs'] + '\n' + DAEMON)
    status, said = world.make('a.raw')
    assert status == 0, said
    assert not is_there(world.said('daemon')[0])
    assert world.left() == ['a.raw']


@pytest.fixture(name='passwords')
def passwords_fixture(world):
    """A mmdebstrap that notes root's password, and the command lines of all processes that are of this test."""
    world.put('mmdebstrap', FAKES['mmdebstrap'] + '; printf "%s" "$IMAGE_PASSWORD" > "$WORLD/password.said"; '
              'for line in /proc/[0-9]*/cmdline; do tr "\\0" " " < $line; done 2> "$WORLD/gone" > "$WORLD/lines.said" || :')
    return world


@pytest.mark.parametrize('standard', [False, True])
def test_a_password_comes_from_a_file_and_is_in_no_command_line(passwords, standard):
    path = passwords.place / 'secret'
    path.write_text('correct horse: "battery" $staple\n')
    with path.open(encoding='ascii') as file:
        code, said = passwords.make('a.raw', '--root-password-file', '-' if standard else path,
                                    stdin=file if standard else subprocess.DEVNULL)
    assert code == 0, said
    assert passwords.said('password') == ['correct horse: "battery" $staple']
    lines = (passwords.place / 'lines.said').read_text(errors='replace')
    assert 'postern' in lines and 'battery' not in lines


@pytest.mark.parametrize('content', [b'', b'\n', b'two\nlines\n', b'carriage\r\n', b'nul\0byte\n', b'x' * 513],
                         ids=['empty', 'blank', 'two', 'return', 'nul', 'long'])
def test_a_password_that_is_none_is_refused(passwords, content):
    path = passwords.place / 'secret'
    path.write_bytes(content)
    code, said = passwords.make('a.raw', '--root-password-file', path)
    assert code == 2 and str(path) in said and 'one line' in said and 'carriage' not in said, said
    code, said = passwords.make('a.raw', '--root-password-file', passwords.place / 'nothing')
    assert code == 2 and 'nothing' in said, said


def test_a_password_in_a_command_line_is_refused(passwords):
    code, said = passwords.make('a.raw', '--root-password', 'hunter2')
    assert code == 2 and '--root-password-file' in said and 'hunter2' not in said, said
