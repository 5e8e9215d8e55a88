# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What the Makefile's targets need: declared in tools/targets, installed before
anything else (a contributor's targets only look for it), named at once by the
tools themselves."""
import os
import pathlib
import re
import shutil
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
MAKE = pathlib.Path(shutil.which('make') or '/nonexistent')

pytestmark = pytest.mark.skipif(not MAKE.exists() or not shutil.which('dpkg-query'),
                                reason='needs make and dpkg')

# Tools, the arguments with which they come to what they need, and the target
# whose needs those are.
TOOLS = {
    'kernels': (['tools/kernels', 'build'], 'kernels'),
    'kernels without arm64': (['tools/kernels', '--only', '6.1', 'build'], 'demo'),
    'demo': (['tools/demo', '--no-native', 'build'], 'demo'),
    'demo-arm64': (['tools/demo', '--arch', 'arm64', 'build-arm64'], 'demo-arm64'),
    'test': (['tools/test', '--only', 'lab', 'build'], 'test'),
    'test-arm64': (['tools/test', '--arch', 'arm64', '--only', 'lab', 'build-arm64'],
                   'test-arm64'),
    'arm64': (['tools/arm64', 'build-arm64'], 'arm64'),
    'fuzz': (['tools/fuzz'], 'fuzz'),
}
# Those that install nothing.
CONTRIBUTORS = {'all', 'check', 'lint'}
# Called where they are there, and no loss elsewhere.
CALL = re.compile(
    r'''\b(?:which|find_program|program|run|Popen|output|check_output)\(\[?["']([a-z][\w.+-]*)["']''')
OPTIONAL = {'qemu-aarch64', 'pytest', 'git', 'sudo',
            # Ceph is large: tests/harness/ceph.py; `make setup-ceph`.
            'ceph', 'ceph-authtool', 'monmaptool', 'ceph-mon', 'ceph-osd', 'radosgw', 'radosgw-admin', 'curl'}


def declared():
    """{target: its packages}"""
    targets = {}
    for line in (TOP / 'tools/targets').read_text('ascii').splitlines():
        if line.strip() and not line.startswith('#'):
            target, *lists = line.split()
            targets[target] = {word for name in lists
                               for word in (TOP / name).read_text('ascii').splitlines()
                               if word and not word.startswith('#')}
    return targets


def phony():
    """The Makefile's targets that take something: all but `clean` and `help`."""
    text = (TOP / 'Makefile').read_text('ascii')
    return sorted(set(re.search(r'^\.PHONY:(.*)$', text, re.M)[1].split()) - {'clean', 'help'})


def make(*words):
    """The lines that make prints, also where make itself runs the tests, and has its options in the environment."""
    env = {name: value for name, value in os.environ.items()
           if name not in ('MAKEFLAGS', 'MFLAGS', 'MAKELEVEL', 'MAKEOVERRIDES')}
    done = subprocess.run([MAKE, *words], cwd=TOP, env=env, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def dry_run(target):
    """What make would do for a target, where nothing is built yet."""
    return make('-n', 'BUILD=never-built', target)


class Machine:
    """Programs in the place of Debian's that note what they are asked for."""

    def __init__(self, place):
        self.place = place
        self.bin, self.tmp = place / 'bin', place / 'tmp'
        self.bin.mkdir()
        self.tmp.mkdir()
        self.env = dict(os.environ, PATH=f'{self.bin}:/usr/bin:/bin', TMPDIR=str(self.tmp),
                        WORLD=str(place))
        self.put('id', 'echo 0')
        self.installed()
        for name in ('apt-get', 'sudo', 'meson', 'ninja', 'mmdebstrap'):
            self.put(name, f'echo {name} "$@" >> "$WORLD/said"')

    def put(self, name, text):
        (self.bin / name).write_text(f'#!/bin/sh\n{text}\n', 'ascii')
        (self.bin / name).chmod(0o755)

    def installed(self, *packages):
        """What dpkg knows."""
        self.put('dpkg-query',
                 'printf "%s installed\\n" ' + ' '.join(packages) if packages else 'exit 1')

    def run(self, *words):
        return subprocess.run([str(word) for word in words], cwd=TOP, env=self.env,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60, check=False)

    def said(self):
        path = self.place / 'said'
        return path.read_text('ascii').splitlines() if path.exists() else []


@pytest.fixture(name='machine')
def machine_fixture(tmp_path):
    return Machine(tmp_path)


@pytest.mark.parametrize('target', phony())
def test_a_target_begins_with_what_it_needs(target):
    first = dry_run(target)[0]
    wanted = 'tools/setup --check ' if target in CONTRIBUTORS else 'tools/setup '
    assert first == ('tools/setup' if target == 'setup' else wanted + target)
    assert declared()[target]


@pytest.mark.parametrize('target', sorted(CONTRIBUTORS))
def test_a_contributors_target_installs_nothing_and_names_the_command_that_does(machine, target):
    assert not [line for line in dry_run(target)
                if line.startswith('tools/setup') and '--check' not in line]
    done = machine.run('tools/setup', '--check', target)
    assert done.returncode == 1 and declared()[target] <= set(done.stdout.split())
    assert 'make setup)' in done.stdout and machine.said() == []
    assert declared()[target] <= declared()['setup']


def test_every_target_has_a_line_in_help():
    assert {line.split()[0] for line in make('help') if len(line.split()) > 1} == {
        *phony(), 'clean', 'help'}


@pytest.mark.parametrize('target', phony())
def test_what_a_targets_tools_ask_for_is_what_it_installs(target):
    needs = declared()
    for command in dry_run(target):
        asked = [needs[of] for (tool, *options), of in TOOLS.values()
                 if tool in command.split() and set(options[:-1]) <= set(command.split())]
        assert all(packages <= needs[target] for packages in asked), command


@pytest.mark.parametrize('tool', TOOLS)
def test_a_tool_names_all_that_is_missing_before_it_does_anything(machine, tool):
    words, target = TOOLS[tool]
    done = machine.run(*words)
    assert done.returncode == 1
    named = done.stdout.split()
    assert declared()[target] <= set(named), done.stdout
    assert machine.said() == []


def test_setup_installs_what_is_missing_and_only_that(machine):
    packages = sorted(declared()['kernels'])
    machine.installed(*packages[1:])
    machine.put('apt-get',
                'echo apt-get "$@" >> "$WORLD/said"; ls "$TMPDIR" >> "$WORLD/tmp.said"')
    assert machine.run('tools/setup', 'kernels').returncode == 0
    assert machine.said() == ['apt-get update -qq',
                              'apt-get install -y -qq --no-install-recommends ' + packages[0]]
    assert list(machine.tmp.iterdir()) == []
    # a log whose name nobody can foresee, and the same for both
    names = set((machine.place / 'tmp.said').read_text('ascii').split())
    assert len(names) == 1 and re.fullmatch(r'tmp\.\w{10,}', names.pop())


def test_setup_does_nothing_where_nothing_is_missing(machine):
    machine.installed(*declared()['setup'])
    assert machine.run('tools/setup').returncode == 0
    assert machine.run('tools/setup', '--check').returncode == 0
    assert machine.said() == []


def test_setup_says_why_it_failed_and_leaves_nothing(machine):
    machine.put('apt-get', 'echo no such mirror; exit 100')
    done = machine.run('tools/setup', 'kernels')
    assert done.returncode == 1 and 'no such mirror' in done.stdout
    assert declared()['kernels'] <= set(done.stdout.split())
    assert list(machine.tmp.iterdir()) == []


def test_setup_without_root_and_sudo_names_what_to_install(machine):
    machine.put('id', 'echo 1000')
    (machine.bin / 'sudo').unlink()
    for name in ('sh', 'dirname', 'sed', 'sort'):
        (machine.bin / name).symlink_to(shutil.which(name))
    machine.env['PATH'] = str(machine.bin)
    done = machine.run('tools/setup', 'kernels')
    assert done.returncode == 1 and 'as root' in done.stdout
    assert declared()['kernels'] <= set(done.stdout.split())


# ---- do the lists have what the sources call?

def sources(*patterns):
    names = output('git', '-C', TOP, 'ls-files', '--', *
    patterns).splitlines() if shutil.which('git') else []
    if not names:
        pytest.skip('needs git, and its checkout')
    return {name: (TOP / name).read_text('utf-8', 'replace')
                   for name in names if (TOP / name).is_file()}


def closure(packages):
    """Packages, and all that comes with them on a Debian that has its essential ones."""
    known = output('dpkg-query', '-W', '-f', '${Package}|${Essential}|${Priority}\n').splitlines()
    essential = [line.split('|')[0]
                            for line in known if '|yes|' in line or line.endswith('|required')]
    without = ('recommends', 'suggests', 'enhances', 'conflicts', 'breaks', 'replaces')
    text = output('apt-cache', 'depends', '--recurse', *('--no-' + what for what in without),
                  'apt', 'make', *essential, *packages)
    return {line.split(':')[0] for line in text.splitlines()
            if line and not line.startswith((' ', '<'))}


def output(*words):
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          timeout=60, check=False).stdout


def owners(paths):
    """{path: the package that it is of}, by whichever name the merged /usr gives it; None: of none. dpkg looks through its lists once."""
    names = {path: (path, os.path.realpath(path), path.removeprefix('/usr'), '/usr' + path) for path in paths}
    owner = {}
    for line in output('dpkg-query', '-S', *sorted(set().union(*names.values()))).splitlines():
        if not line.startswith('diversion'):
            packages, _, name = line.partition(': ')
            owner.setdefault(name, re.split('[:,]', packages)[0])
    return {path: next((owner[name] for name in known if name in owner), None)
            for path, known in names.items()}


def programs_called():
    """{program: a file that calls it}"""
    called = {}
    for name, text in sources('tools', 'lab', 'bench', 'tests', ':!lab/guest', ':!lab/root',
                              ':!tests/build', ':!tests/lab').items():
        for found in CALL.findall(text):
            called.setdefault(found, name)
    return called


def test_every_program_that_tools_and_tests_call_is_in_a_list():
    there = closure(set().union(*declared().values()))
    called = programs_called()
    paths = {name: shutil.which(name, path='/usr/bin:/bin:/usr/sbin:/sbin') for name in called if name not in OPTIONAL}
    paths = {name: path for name, path in paths.items() if path}
    owner = owners(paths.values())
    missing = {name: (called[name], owner[path]) for name, path in paths.items() if owner[path] not in there}
    assert paths and not missing


def test_everything_the_build_looks_for_is_in_its_list():
    there = closure(declared()['all'])
    asked = {}      # {what: (a file that asks for it, where it is)}
    for name, text in sources('meson.build', '*/meson.build').items():
        for found in re.findall(r"\bdependency\('([\w.+-]+)'", text):
            place = output('pkg-config', '--variable=pcfiledir', found).strip()
            if place:
                asked[found] = (name, f'{place}/{found}.pc')
        for found in re.findall(r"\bfind_program\('([\w.+-]+)'", text):
            path = shutil.which(found)
            if path and path.startswith('/usr/'):
                asked[found] = (name, path)
    owner = owners({path for _, path in asked.values()})
    missing = {found: (name, owner[path]) for found, (name, path) in asked.items() if owner[path] not in there}
    assert asked and not missing
