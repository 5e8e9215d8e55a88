# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A short run of bench/images/soak: images saved, restored, cloned, compacted, deleted and
collected at random, with SIGKILL at random moments; and what ends it."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile

import pytest

from harness.vm import ROOT, build_dir
from harness.waiting import seconds, wait_for

SOAK = os.path.join(ROOT, 'bench', 'images', 'soak')


@pytest.fixture(name='folder')
def folder_fixture():
    """One with a short name: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix='postern-') as path:
        yield pathlib.Path(path)


def start(folder, *words):
    """The program, which has a folder of its own."""
    return subprocess.Popen([SOAK, '--seed', '102', '--directory', str(folder), '--json',
                             str(folder / 'soak.json'), '--verbose', *words, build_dir()],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, process_group=0)


def ours(folder):
    """Processes of that folder that live."""
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open('/proc/%s/environ' % pid, 'rb') as f:
                if str(folder).encode() + b'/postern-soak-' in f.read():
                    found.append(int(pid))
        except OSError:
            continue
    return found


def test_rounds_with_kills_lose_no_image_and_no_page(folder):
    with start(folder, '--rounds', '9') as soak:
        try:
            text, _ = soak.communicate(timeout=seconds(300))
        finally:
            soak.kill()
    assert soak.returncode == 0, text
    assert '0 wrong pages, no image lost' in text
    found = json.loads((folder / 'soak.json').read_text(encoding='utf-8'))
    assert found['rounds'] == 9 and found['kills'] > 0 and found['pages'] > 10000
    assert not ours(folder)


def test_an_interrupt_ends_all_that_it_has_begun(folder):
    with start(folder, '--rounds', '1000') as soak:
        try:
            wait_for(lambda: len(ours(folder)) >= 2, 60)
            soak.send_signal(signal.SIGINT)
            text, _ = soak.communicate(timeout=seconds(60))
        finally:
            soak.kill()
    assert soak.returncode == 130 and 'interrupted' in text, text
    wait_for(lambda: not ours(folder), 20, lambda: ours(folder))
    assert not list(folder.glob('postern-soak-*'))
