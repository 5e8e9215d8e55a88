# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What is kept of a lab that is lost, or in which a guest was: the processors'
registers as the emulator has them, the console, QEMU's own words.

It lies in directories of the cache's `lost`, of which the last KEPT_MOST stay,
each file at most FILE_MOST bytes.
"""

import re
import shutil
import time

from cache import cache_dir, say
from monitor import Monitor

KEPT_MOST = 8
FILE_MOST = 1 << 20
HEAD = 64 << 10         # of a file that is too long: its beginning, and its end
SAMPLES = 3             # of the registers: does it go on?
BETWEEN_S = 0.2
# where a kernel of x86-64 has its modules: no page fault of a sound guest is there
MODULES = re.compile("ffffffff[c-f]")


def bounded(data):
    """Bytes, with the middle left out where they are too many."""
    if len(data) <= FILE_MOST:
        return data
    gap = b"\n[... %d bytes left out ...]\n" % (len(data) - FILE_MOST)
    return data[:HEAD] + gap + data[len(data) - (FILE_MOST - HEAD - len(gap)):]


def registers(lab):
    """What `info registers -a` says, some times; or why there is nothing."""
    samples = []
    try:
        with Monitor(lab.path) as monitor:
            for _ in range(SAMPLES):
                text = monitor.ask("info registers -a")
                samples.append("---- %s\n%s" % (time.strftime("%T"), text))
                time.sleep(BETWEEN_S)   # apart, to see what moves
    except (OSError, ValueError) as error:
        samples.append("---- no (more) registers: %s\n" % error)
    return "".join(samples)


def host_in_guest(samples):
    """Whether registers show a guest with its host's: a processor whose CR2 is an
    address of a module of the lab's kernel, in all samples (README.md)."""
    found = []
    for sample in re.split("^---- ", samples, flags=re.M)[1:]:
        parts = re.split(r"^CPU#(\d+)", sample, flags=re.M)
        cr2 = {cpu: re.search(r"CR2=([0-9a-f]{16})", text) for cpu, text in zip(parts[1::2], parts[2::2])}
        found.append({(cpu, match[1]) for cpu, match in cr2.items() if match and MODULES.match(match[1])})
    return len(found) == SAMPLES and bool(set.intersection(*found))


def directory_make():
    """A new one, of a name that sorts by time."""
    while True:
        seconds, ns = divmod(time.time_ns(), 10**9)
        second = time.strftime("%Y%m%d-%H%M%S", time.localtime(seconds))
        place = cache_dir() / "lost" / ("%s.%09d" % (second, ns))
        try:
            place.mkdir(parents=True, mode=0o700)
            return place
        except FileExistsError:
            continue


def keep(lab, why, **more):
    """Writes it, says where, and returns the directory; None, said, where that
    cannot be done. more: {name: bytes} of further files."""
    try:
        place = directory_make()
        (place / "why").write_text("%s\nstarted %s, kept %s\nstate %s\n" % (
            why, time.ctime(lab.state.get("start")), time.ctime(),
            {key: value for key, value in lab.state.items() if key != "token"}), "utf-8")
        (place / "registers").write_bytes(bounded(registers(lab).encode()))
        for name in ("console", "qemu.log"):
            source = lab.path / name
            (place / name).write_bytes(bounded(source.read_bytes() if source.exists() else b""))
        for name, data in more.items():
            (place / name).write_bytes(bounded(data))
        for old in sorted((cache_dir() / "lost").iterdir())[:-KEPT_MOST]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        say("nothing could be kept of it: %s" % error)
        return None
    say("%s\nlab: registers and console are kept in %s" % (why, place))
    return place
