# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Static probes: they are in the executable with the arguments that docs/observe.md lists, and bpftrace counts by them what postern
counts itself."""

import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest

from harness.migration import Pair
from harness.vm import ROOT, program, sanitized
from harness.waiting import seconds, wait_for

SCRIPT = os.path.join(ROOT, 'tools/faults.bt')
SIZES = {'uint64_t': '8', 'int64_t': '-8', 'int': '-4'}


def documented():
    """{probe: its arguments' types}, by docs/observe.md."""
    rows = re.findall(r'^\| `([a-z_]+)` \| ([^|]*) \|', pathlib.Path(ROOT, 'docs/observe.md').read_text(), re.M)
    return {name: re.findall(r'`(u?int\w*) \w+`', arguments) for name, arguments in rows if '`' in arguments}


def notes():
    """[(probe, its arguments' sizes)] of the executable; one for each place."""
    done = subprocess.run(['readelf', '-n', program()], stdout=subprocess.PIPE, text=True, check=True, timeout=seconds(20))
    found = re.findall(r'Provider: postern\n\s+Name: (\w+)\n.*?Semaphore: (\S+)\n\s+Arguments: (.*)', done.stdout)
    assert not [f for f in found if int(f[1], 16)], 'probes have no semaphores'
    return [(name, re.findall(r'(?:^|\s)(-?\d)@', arguments)) for name, _, arguments in found]


@pytest.fixture(scope='module', autouse=True)
def has_probes():
    if not notes():
        pytest.skip('built without <sys/sdt.h>')


def test_every_probe_has_the_arguments_that_are_documented():
    wanted = documented()
    assert len(wanted) == 8, wanted
    there = notes()
    assert {name for name, _ in there} == set(wanted)
    for name, sizes in there:
        assert sizes == [SIZES[kind] for kind in wanted[name]], name


def test_a_probe_that_nobody_watches_is_a_nop():
    done = subprocess.run(['readelf', '-n', program()], stdout=subprocess.PIPE, text=True, check=True, timeout=seconds(20))
    places = re.findall(r'Provider: postern\n\s+Name: \w+\n\s+Location: (0x[0-9a-f]+)', done.stdout)
    for place in places:
        code = subprocess.run(['objdump', '-d', '--no-show-raw-insn', '--start-address=' + place,
                               '--stop-address=%#x' % (int(place, 16) + 1), program()], stdout=subprocess.PIPE, text=True,
                              check=True, timeout=seconds(60)).stdout
        assert re.search(r'^\s+%x:\s+nop\s*$' % int(place, 16), code, re.M), code


# ---- bpftrace ----

@pytest.fixture(scope='module')
def bpftrace():
    """Skips where it is not, or where the kernel does not let it."""
    if not shutil.which('bpftrace'):
        pytest.skip('no bpftrace here')
    done = subprocess.run(['bpftrace', '-e', 'uprobe:%s:main { } BEGIN { printf("works\\n"); exit(); }' % program()],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=seconds(30))
    if 'works' not in done.stdout:
        pytest.skip('bpftrace does not work here: %s' % done.stdout.strip()[-200:])


class Tracer:
    """tools/faults.bt on a process, attached."""

    def __init__(self, vm, path):
        self._path = path
        with open(path, 'wb') as out:
            self._process = subprocess.Popen(['bpftrace', '-B', 'line', '-p', str(vm.pid), SCRIPT], stdin=subprocess.DEVNULL,
                                             stdout=out, stderr=out)

    def __enter__(self):
        wait_for(lambda: 'TIME' in self._text() or self._process.poll() is not None, 30)
        assert self._process.poll() is None, self._text()
        return self

    def __exit__(self, *exc):
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _text(self):
        return self._path.read_text('utf-8', 'replace')

    def wait_row(self):
        """Until a second's line is there."""
        wait_for(lambda: re.search(r'^\d\d:\d\d:\d\d +\d+ +\d+ +\d+ +\d+ +\d+$', self._text(), re.M), 20, self._text)

    def end(self):
        """Ctrl-C; its whole output."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(seconds(20))
        return self._text()


def test_the_script_counts_what_postern_counts(bpftrace, tmp_path):
    if sanitized():
        pytest.skip('the sanitizers are slow under a tracer')
    with Pair(memory='64M', way_out='eject') as pair:
        pair.guest.walk('c')
        with Tracer(pair.destination, tmp_path / 'out') as tracer:
            pair.start(bandwidth=1 << 20)
            pair.wait_switched()
            pair.destination.command('stop')
            pair.destination.command('cont')
            pair.finish()
            text = tracer.end()
            counters = pair.destination.faults()['counters']
    total = {name: int(n) for name, n in re.findall(r'^@total\[(\w+)\]: (\d+)$', text, re.M)}
    # A fault that is read after its page has come is counted by postern and is no wait.
    assert 0 < total['faults'] <= counters['faults'], text
    assert total['pages'] == counters['filled'] == 64 << 20 >> 12, text
    assert total.get('kicks', 0) == counters['kicks'] >= 2 and total.get('ejects', 0) == counters['ejects'], text
    histogram = [int(n) for n in re.findall(r'^[\[(][^\n]*[)\]]\s+(\d+) \|', text, re.M)]
    assert sum(histogram) == total['waited'] > 0, text
