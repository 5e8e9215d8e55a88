#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""How long a VMM takes from its start to the guest's init, what it holds besides the guest's RAM, and how large it is:
postern, QEMU's microvm and, with --kvmtool, kvmtool, each with the lab's Debian guest. Runs where a stock kernel boots: in the lab.

    lab/run --with qemu-system-x86 -- python3 bench/boot_to_init.py build
    lab/run --debian --with qemu-system-x86 -- python3 bench/boot_to_init.py --debian build      # a whole Debian, to its login
    mkdir -p build/peers && cp .../kvmtool/lkvm build/peers/        # built by hand
    lab/run --with qemu-system-x86 -- python3 bench/boot_to_init.py --kvmtool build/peers/lkvm build

One round is one boot of each; a figure is the median over the rounds, `[min .. max]` are the least and the greatest. Boot: from fork to
the line that the guest's init prints, on the serial port as it comes. Resident: /proc/PID/smaps when that line has come, without the
mappings that are guest RAM. Size: what an executable and the libraries it brings load (PT_LOAD), without debug information.
"""
import argparse
import os
import pathlib
import re
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / 'tests'), str(TOP / 'bench')]

import sides  # noqa: E402
from harness import debian_disk  # noqa: E402

MEMORY_MIB, CPUS = 256, 2
READY = b'GUEST-READY'
LOGIN = b' login: '
BOOT_SECONDS = 120
APPEND = 'console=ttyS0 quiet reboot=t panic=-1'


def kernel_of(disk, target):
    """Copies kernel and initial RAM disk out of a disk, for a VMM that cannot take them from there."""
    place = target / 'mounted'
    place.mkdir()
    subprocess.run(['mount', '-o', 'ro,noload', disk, place], check=True)
    try:
        for name in ('vmlinuz', 'initrd.img'):
            (target / name).write_bytes((place / name).read_bytes())
    finally:
        subprocess.run(['umount', place], check=True)


def commands_disk(options, disk, place):
    """{name: argv} for a Debian on a disk: postern takes the kernel from there, microvm is given it. Both over virtio-pci, on
    the same disk, in turns: each boot replays the journal that the one before left."""
    kernel_of(disk, place)
    append = 'console=ttyS0 root=/dev/vda rw quiet net.ifnames=0 reboot=t panic=-1'
    return {'postern': [str(word) for word in (
                options.build / 'cli/postern', 'run', '--disk', disk, '--cpus', CPUS, '--memory', f'{MEMORY_MIB}M',
                '--append', 'quiet net.ifnames=0 reboot=t panic=-1', '--serial', 'stdio', '--rng')],
            'microvm': [str(word) for word in (
                'qemu-system-x86_64', '-M', 'microvm,accel=kvm,pcie=on', '-cpu', 'host', '-smp', CPUS, '-m', MEMORY_MIB,
                '-kernel', place / 'vmlinuz', '-initrd', place / 'initrd.img', '-append', append, '-nodefaults',
                '-no-user-config', '-display', 'none', '-serial', 'stdio', '-no-reboot',
                '-drive', f'file={disk},if=none,id=d0,format=raw,cache=none,aio=io_uring', '-device', 'virtio-blk-pci,drive=d0',
                '-device', 'virtio-rng-pci')]}


def commands(options, guest):
    """{name: argv}"""
    kernel, initrd = guest / 'vmlinuz', guest / 'initrd'
    out = {'postern': [options.build / 'cli/postern', 'run', '--kernel', kernel, '--initrd', initrd, '--cpus', CPUS,
                       '--memory', f'{MEMORY_MIB}M', '--append', APPEND, '--serial', 'stdio'],
           'microvm': ['qemu-system-x86_64', '-M', 'microvm,accel=kvm', '-cpu', 'host', '-smp', CPUS, '-m', MEMORY_MIB,
                       '-kernel', kernel, '-initrd', initrd, '-append', APPEND, '-nodefaults', '-no-user-config',
                       '-display', 'none', '-serial', 'stdio', '-no-reboot']}
    if options.kvmtool:
        out['kvmtool'] = [options.kvmtool, 'run', '-k', kernel, '-i', initrd, '-c', CPUS, '-m', MEMORY_MIB, '-p', APPEND,
                          '--console', 'serial', '--name', f'boot-{os.getpid()}', '--network', 'mode=none']
    return {name: [str(word) for word in argv] for name, argv in out.items()}


def resident_kib(pid):
    """Without the guest's RAM: private anonymous mappings of an eighth of it or more; None if they are not its size."""
    least = MEMORY_MIB << 17
    maps = sides.smaps(pid)
    ram = sum(size for size, _, plain in maps if plain and size >= least)
    if not MEMORY_MIB << 20 <= ram <= (MEMORY_MIB + 64) << 20:
        return None
    return sum(rss for size, rss, plain in maps if not (plain and size >= least)) // 1024


def boot(argv, ready):
    """(seconds to init or login, resident KiB)"""
    start = time.monotonic()
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as vmm:
        try:
            text = b''
            while ready not in text:
                left = start + BOOT_SECONDS - time.monotonic()
                data = os.read(vmm.stdout.fileno(), 65536) if left > 0 and select.select([vmm.stdout], [], [], left)[0] else b''
                if not data:
                    raise SystemExit(f'{argv[0]}: not there within {BOOT_SECONDS} s; it said: {text[-800:].decode(errors="replace")}')
                text += data
            return time.monotonic() - start, resident_kib(vmm.pid)
        finally:
            vmm.kill()


def loaded_bytes(path):
    """What PT_LOAD segments take from a 64-bit ELF file."""
    data = pathlib.Path(path).read_bytes()
    at, = struct.unpack_from('<Q', data, 32)
    size, count = struct.unpack_from('<HH', data, 54)
    headers = [struct.unpack_from('<IIQQQQ', data, at + i * size) for i in range(count)]
    return sum(filesz for kind, _, _, _, _, filesz in headers if kind == 1)


def size_kib(program):
    """The executable's, and that with every library that the loader names."""
    path = subprocess.run(['which', program], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    linked = subprocess.run(['/lib64/ld-linux-x86-64.so.2', '--list', path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    libraries = set(re.findall(r'(/\S+) \(0x', linked))
    own = loaded_bytes(path)
    return own // 1024, (own + sum(loaded_bytes(library) for library in libraries)) // 1024


def show(values, unit, digits):
    """Median and range; '-' for what could not be told."""
    known = [v for v in values if v is not None]
    if len(known) != len(values):
        return '-'
    return f'{statistics.median(known):.{digits}f} {unit} [{min(known):.{digits}f} .. {max(known):.{digits}f}]'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--guest', type=pathlib.Path, default='/guest', help='directory of vmlinuz and initrd')
    parser.add_argument('--kvmtool', type=pathlib.Path, help='its executable')
    parser.add_argument('--debian', action='store_true', help='the Debian on the disk of lab/run --debian, to its login')
    parser.add_argument('build', type=pathlib.Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)    # its machines end with it
    with tempfile.TemporaryDirectory() as place:
        measure(options, pathlib.Path(place))


def measure(options, place):
    """All rounds, and the table."""
    ready = LOGIN if options.debian else READY
    argvs = commands_disk(options, debian_disk.device(), place) if options.debian else commands(options, options.guest)
    boots = {name: [] for name in argvs}
    if options.debian:      # the first start makes the machine's identity
        boot(argvs['postern'], ready)
    for i in range(options.rounds):
        for name, argv in argvs.items():
            boots[name].append(boot(argv, ready))
            print(f'round {i + 1} of {options.rounds}: {name} {boots[name][-1][0]:.2f} s', file=sys.stderr, flush=True)
    microvm = statistics.median(seconds for seconds, _ in boots['microvm'])
    print(f'n = {options.rounds}, {CPUS} vCPUs, {MEMORY_MIB} MiB, Linux {os.uname().release}')
    print(f'| | to {"login" if options.debian else "init"} | of microvm | resident besides guest RAM | executable | with libraries |')
    print('|---|---|---|---|---|---|')
    for name, argv in argvs.items():
        seconds, resident = zip(*boots[name])
        own, whole = size_kib(argv[0])
        print(f'| {name} | {show(seconds, "s", 2)} | {statistics.median(seconds) / microvm:.2f} | {show(resident, "KiB", 0)} '
              f'| {own} KiB | {whole} KiB |')


if __name__ == '__main__':
    main()
