# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""libpostern as others get it: installed into an empty directory, found by pkg-config, compiled against and run."""
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get('POSTERN_BUILD', TOP / 'build'))
STRICT = ['-Wall', '-Wextra', '-Werror', '-pedantic']
DIALECTS = {
    'gcc-c99': ['gcc', '-std=c99'],
    'gcc-gnu17': ['gcc', '-std=gnu17'],
    'clang-c11': ['clang', '-std=c11'],
    'g++-11': ['g++', '-std=c++11', '-x', 'c++'],
    'g++-20': ['g++', '-std=c++20', '-x', 'c++'],
    'clang++-17': ['clang++', '-std=c++17', '-x', 'c++'],
}


def run(*command, **kwargs):
    """Runs a command and returns its output; its whole output is the message when it fails."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=120, check=False, **kwargs)
    assert not done.returncode, f'{command}: {done.returncode}\n{done.stdout}'
    return done.stdout


def sanitize():
    """The sanitizers of the build: a program has to be linked with those of its library."""
    options = json.loads(run('meson', 'introspect', '--buildoptions', BUILD))
    found = next(option['value'] for option in options if option['name'] == 'b_sanitize')
    found = found if isinstance(found, str) else ','.join(found)
    return [] if found in ('', 'none') else [f'-fsanitize={found}']


class Installed:
    """What `meson install` has put below a directory."""

    def __init__(self, root):
        self.root = root
        run('meson', 'install', '-C', BUILD, '--no-rebuild', '--quiet', '--destdir', root)
        self.pc = self.one('libpostern.pc')
        self.env = dict(os.environ, PKG_CONFIG_LIBDIR=str(self.pc.parent), PKG_CONFIG_SYSROOT_DIR=str(root),
                        LD_LIBRARY_PATH=str(self.one('libpostern.so').parent))

    def one(self, name):
        """The one file of that name."""
        found = list(self.root.rglob(name))
        assert len(found) == 1, f'{name}: {found}'
        return found[0]

    def flags(self, *what):
        """What pkg-config says."""
        return run('pkg-config', *what, 'libpostern', env=self.env).split()

    def build(self, compiler, source, out, *link):
        """Compiles a program with nothing but pkg-config's words, and with what the build was made with."""
        link = link or self.flags('--libs')
        run(*compiler, *STRICT, '-D_GNU_SOURCE', *sanitize(), *self.flags('--cflags'), source, '-x', 'none',
            '-o', out, *link)
        return out


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    return Installed(tmp_path_factory.mktemp('destdir'))


def need(program):
    if not shutil.which(program):
        pytest.skip(f'no {program}')


def guest_faults_are_interruptible():
    doctor = subprocess.run([BUILD / 'cli/postern', 'doctor'], stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    return bool(re.search(r'way-out\s+kernel:', doctor.stdout))


def test_exported_symbols_are_those_agreed_on(installed):
    """A name less breaks programs, a name more is a promise: both are to be meant."""
    lines = run('nm', '-D', '--defined-only', installed.one('libpostern.so')).splitlines()
    found = sorted(line.split()[2] for line in lines if line.split()[1] != 'A' and 'asan' not in line)
    agreed = (TOP / 'tests/abi/libpostern.symbols').read_text().split()
    assert found == agreed


def test_every_declared_function_is_exported(installed):
    text = re.sub(r'/\*.*?\*/', '', installed.one('postern.h').read_text(), flags=re.S)
    text = re.sub(r'^static inline.*?^}', '', text, flags=re.S | re.M)
    declared = set(re.findall(r'^\w[\w *]*?\b(postern_\w+)\(', text, re.M))
    agreed = (TOP / 'tests/abi/libpostern.symbols').read_text().split()
    assert declared == {symbol.split('@')[0] for symbol in agreed}


def test_soname(installed):
    assert 'Library soname: [libpostern.so.1]' in run('readelf', '-d', installed.one('libpostern.so'))


def test_static_library_defines_names_of_its_own_only(installed):
    lines = run('nm', '-g', '--defined-only', installed.one('libpostern.a')).splitlines()
    names = [line.split()[2] for line in lines if len(line.split()) == 3]
    # <sys/sdt.h>'s, weak and hidden: every object with a probe has it, whoever's it is.
    names = [name for name in names if name != '_.stapsdt.base']
    own = [name for name in names if name.startswith('postern_')]
    assert len(own) > 40
    assert [name for name in names if name not in own and not name.startswith('__odr_asan')] == []


def test_header_declares_names_of_its_own_only(installed):
    """After the preprocessor: whatever the system's headers do not bring is ours."""
    def words(source):
        text = run('gcc', '-std=c99', '-dM', '-E', '-x', 'c', '-', *installed.flags('--cflags'), input=source)
        return set(re.findall(r'^#define (\w+)', text, re.M))

    header = installed.one('postern.h').read_text()
    system = '\n'.join(re.findall(r'^#include <.*>', header, re.M))
    macros = words('#include <postern.h>\n') - words(system + '\n')
    assert {name for name in macros if not name.startswith('POSTERN_')} == set()
    text = re.sub(r'/\*.*?\*/', '', header, flags=re.S)
    tags = set(re.findall(r'\b(?:struct|enum|union)\s+(\w+)', text))
    assert tags and {tag for tag in tags if not tag.startswith('postern_')} == set()
    types = set(re.findall(r'^typedef .*\b(\w+);', text, re.M))
    assert types and {name for name in types if not name.startswith('postern_')} == set()


@pytest.mark.parametrize('dialect', DIALECTS)
def test_header_is_enough(installed, tmp_path, dialect):
    compiler = DIALECTS[dialect]
    need(compiler[0])
    if sanitize() and 'clang' in compiler[0]:
        pytest.skip("the library has gcc's sanitizers")
    run(installed.build(compiler, TOP / 'tests/abi/alone.c', tmp_path / 'alone'), env=installed.env)


def test_static_library_is_enough(installed, tmp_path):
    archive = installed.one('libpostern.a')
    run(installed.build(['gcc'], TOP / 'tests/abi/alone.c', tmp_path / 'alone', archive, '-pthread'))


@pytest.mark.parametrize('way', ['eject', 'kernel'])
def test_example_runs(installed, tmp_path, way):
    """The vCPU is stopped while it waits, and the guest finds every word of the file."""
    if os.uname().machine != 'x86_64':
        pytest.skip('the example is x86-64 code')
    if not os.access('/dev/kvm', os.R_OK | os.W_OK):
        pytest.skip('no /dev/kvm')
    if way == 'kernel' and not guest_faults_are_interruptible():
        pytest.skip('guest faults are not interruptible on this kernel')
    (tmp_path / 'file').write_bytes(os.urandom(1000003))
    lazy_file = installed.build(['gcc'], TOP / 'examples/lazy_file.c', tmp_path / 'lazy_file')
    out = run(lazy_file, tmp_path / 'file', way, env=installed.env)
    assert 'stopped while it waited for page 0x200000, which is not there' in out
    assert out.rstrip().endswith(': right')
