# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A stock Debian kernel's driver of the VM generation ID: a guest that is restored, or is a clone, draws new random numbers."""

import os
import uuid

import pytest

from harness.debian import BOOT_SECONDS, Console, debian
from harness.vm import Postern
from harness.waiting import seconds

# What is typed is answered: how often the kernel has heard of a fork, who listens, what the ID's page holds.
# (The pattern does not find itself: the kernel repeats its command line.)
ASKED = ("echo UP; while read line; do echo forks=$(dmesg | grep -c 'due to vir[t]ual machine fork') "
         'driver=$(ls -d /sys/bus/*/drivers/vmgenid/*:* 2>/dev/null | wc -l) '
         "id=$(dd if=/dev/mem bs=16 skip=$((0xfeffa000 / 16)) count=1 2>/dev/null | od -An -tx1 | tr -d ' \\n'); done")


def ask(console):
    """What the guest says of itself: (forks, drivers, ID)."""
    console.write('x\n')
    found = console.expect(r'forks=(\d+) driver=(\d+) id=([0-9a-f]*)', seconds(30))
    return int(found[1]), int(found[2]), found[3]


def guid(vm):
    """The ID as it lies in memory: a GUID's first three fields are little endian there."""
    return uuid.UUID(vm.command('query-vm-generation-id')['guid']).bytes_le.hex()


@pytest.mark.parametrize('share', [False, True])
def test_a_restored_guest_draws_new_random_numbers(tmp_path, share):
    env = dict(os.environ, POSTERN_RUNTIME_DIR=str(tmp_path))
    options = ['--share', 's'] if share else []
    with debian(parameters='guest.run="%s"' % ASKED, memory='160M') as vm:
        with Console(vm) as console:
            console.wait_ready()
            console.expect('UP', BOOT_SECONDS)
            forks, drivers, was = ask(console)
            assert forks == 0
            if not drivers:
                pytest.skip("this guest's kernel has no driver of the VM generation ID")
            assert was in ('', guid(vm))
            vm.save(tmp_path / 'image')
            assert ask(console)[0] == 0
    ids = set()
    for name in ('a', 'b'):
        with Postern.restored(tmp_path / 'image', name, options=options, env=env) as vm, Console(vm) as console:
            forks, _, now = ask(console)
            assert forks == 1
            assert now in ('', guid(vm))
            ids.add(guid(vm))
            console.assert_well()
    assert len(ids) == 2
