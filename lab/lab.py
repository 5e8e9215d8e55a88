# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The lab: an emulated host with a stock Debian kernel and real KVM. See README.md.

    run    runs a command in it
    up     boots a lab that stays, for development
    down   ends it
    build  builds the images only
"""

import argparse
import fcntl
import os
import pathlib
import re
import shutil
import signal
import sys
import time

import debian
import host
import image
from cache import LabError, cache_dir, say
from host import BootError, CommandTimeout, Lab
from image import KernelMissing
from lost import keep
from watch import Watch

EXIT_SKIP = 77
EXIT_TIMEOUT = 124
EXIT_LAB = 125
TOP = pathlib.Path(__file__).resolve().parent.parent


class Signalled(BaseException):
    """SIGINT, SIGTERM, SIGHUP, or nobody reads on: everything unwinds, and the lab with it."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.print_usage(sys.stderr)
        self.exit(EXIT_LAB, "%s: %s\n" % (self.prog, message))


def on_signal(number, _frame):
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise Signalled(number)


def lab_name(options):
    """Of the lasting lab: the kernel's series, and the architecture unless it is the usual one."""
    return options.kernel + ("" if options.arch == image.DEFAULT_ARCH else "-" + options.arch)


def warm_path(name):
    return cache_dir() / "warm" / name


class WarmLock:
    """Who holds it may use the lasting lab of that name: runs there take turns."""

    def __init__(self, name):
        path = warm_path(name)
        path.parent.mkdir(exist_ok=True)
        self.file = open(str(path) + ".lock", "a", encoding="ascii")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another run in the same lab ...")
            fcntl.flock(self.file, fcntl.LOCK_EX)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def boot(options, place, **more):
    if options.debian:
        more["debian"] = debian.debian_get(options.debian)
    if options.verb == "run":
        more["taps"] = [tap for _, _, tap in (net.partition("=") for net in options.net)]
    start = time.monotonic()
    what = (place, str(TOP), options.build, options.kvm_smp, options.mem)
    try:
        lab = Lab.start(*what, **more)
    except BootError as error:
        # nothing has run yet, so a second try hides nothing of the command's; it is not silent
        say("%s\nlab: trying once more" % error)
        if "path" in more:
            more["path"].mkdir(exist_ok=True)
        lab = Lab.start(*what, **more)
    if not options.quiet:
        say("Linux %s up in %.1f s" % ((place / "release").read_text("ascii").strip(),
                                       time.monotonic() - start))
    return lab


def warm_get(options, place, start):
    """The lasting lab, booted if need be and asked for. Returns it (or None), and whether it is new.
    The caller holds the lock."""
    path = warm_path(lab_name(options))
    lab = Lab.find(path)
    if lab and "port" in lab.state and lab.state["image"] == str(place):
        return lab, False
    if lab and not start:
        say("the lab that is up is of another image; booting one of this (lab/up renews it)")
    if not start:
        return None, False
    if lab:
        lab.stop()
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return boot(options, place, lasting=True, path=path), True


def collect(lab, options):
    """Copies out what was asked for, as far as it is there. Returns whether all of it was."""
    complete = True
    for pair in options.get:
        inside, _, outside = pair.partition(":")
        try:
            lab.get(inside, outside)
        except (LabError, CommandTimeout) as error:
            say("error: %s" % (error or "the lab does not send " + inside))
            complete = False
    return complete


def write_all(fd):
    def write(data):
        while data:
            try:
                data = data[os.write(fd, data):]
            except BrokenPipeError:
                raise Signalled(signal.SIGPIPE) from None
    return write


class Stuck(LabError):
    """A processor of the lab stands still, and not because of what runs on it."""


def run_in(lab, options):
    """The command, then the files; the command's exit code."""
    argv = options.command
    if len(argv) == 1:
        argv = ["/bin/bash", "-c", argv[0]]
    env = dict(pair.partition("=")[::2] for pair in options.env)
    stdin = open(0, "rb", buffering=0, closefd=False) if options.stdin else None
    seen = len(lab.complaints())
    watch = Watch(lab)
    try:
        with watch:
            code = lab.execute(argv, write_all(1), write_all(2), stdin, options.timeout, env=env)
    except CommandTimeout:
        keep(lab, "the command did not end in %g s" % options.timeout)
        code = EXIT_TIMEOUT
    except LabError as error:
        if not watch.lost:
            keep(lab, "the lab is lost")
        raise Stuck(str(error)) if watch.stuck else error
    finally:
        host.report_complaints(lab, seen)
        if options.console:
            shutil.copy(lab.path / "console", options.console)
    if not collect(lab, options) and code == 0:
        code = EXIT_LAB
    return code


def do_run(options):
    if not options.command:
        raise LabError("no command given")
    if not options.build_given and not os.path.isdir(options.build):
        say("there is no %s: the command sees sources only" % os.path.relpath(options.build))
    place = image.image_get(options.kernel, options.extra, arch=options.arch)
    if not options.cold and not options.net:
        with WarmLock(lab_name(options)):
            lab, new = warm_get(options, place, options.warm)
            if lab:
                if not new:
                    lab.push(str(TOP), options.build)
                return run_in(lab, options)
    for again in (True, False):
        lab = boot(options, place)
        try:
            return run_in(lab, options)
        except Stuck:
            # See hold_vm in root/agent.py: the emulation's doing. Once is bad luck, twice is something else.
            if not again:
                raise
            say("a processor of the lab got stuck (soft lockup); once more, from the start")
        finally:
            lab.stop()
    raise AssertionError("not reached")


def do_up(options):
    place = image.image_get(options.kernel, options.extra, arch=options.arch)
    with WarmLock(lab_name(options)):
        lab, new = warm_get(options, place, True)
    if not new:
        say("it is up already")
    return 0


def do_down(options):
    names = [lab_name(options)]
    if not options.kernel_given and not options.arch_given:
        names = sorted(path.name for path in warm_path("").glob("*") if path.is_dir())
    for name in names:
        lab = Lab.find(warm_path(name))
        if lab:
            lab.stop()
            say("the %s lab is down" % name)
        else:
            shutil.rmtree(warm_path(name), ignore_errors=True)
    return 0


def do_build(options):
    print(image.image_get(options.kernel, options.extra, options.fresh, options.arch))
    if options.debian:
        debian.debian_get(options.debian)
    return 0


def parse(arguments):
    parser = Parser(prog="lab", description="An emulated host with a stock kernel and real KVM.")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser)

    def verb(name, function, text):
        new = verbs.add_parser(name, prog="lab/" + name, description=text)
        new.set_defaults(function=function)
        new.add_argument("--kernel", choices=list(image.SUITES), help="kernel series (default 6.1)")
        new.add_argument("--arch", choices=list(image.ARCHES), help="architecture (default %s)" % image.DEFAULT_ARCH)
        if name != "down":
            new.add_argument("--with", dest="extra", action="append", default=[],
                             metavar="PACKAGE", help="a Debian package more in the image")
            new.add_argument("--debian", action="store_const", const=debian.SUITE,
                             help="with a disk that holds a whole Debian")
            new.add_argument("--debian-suite", dest="debian", metavar="SUITE", help="the same, of another release")
        if name in ("run", "up"):
            new.add_argument("--build", help="build directory (default: build in the tree, build-arm64 for arm64)")
            new.add_argument("--kvm-smp", type=int, default=2, metavar="N",
                             help="processors of the lab (default 2)")
            new.add_argument("--mem", type=int, default=3072, metavar="MIB",
                             help="memory of the lab (default 3072)")
            new.add_argument("-q", "--quiet", action="store_true", help="say errors only")
        return new

    new = verb("run", do_run, "Runs a command in a lab.")
    new.add_argument("--timeout", type=float, default=3600, metavar="SECONDS",
                     help="for the command; exit code 124 (default 3600)")
    new.add_argument("--get", action="append", default=[], metavar="INSIDE:OUTSIDE",
                     help="copy a file or directory out afterwards")
    new.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    new.add_argument("--net", action="append", default=[], metavar="tap=NAME",
                     help="a NIC more, at this tap device of this machine")
    new.add_argument("--stdin", action="store_true", help="hand on standard input")
    new.add_argument("--console", metavar="FILE", help="keep the kernel's console here")
    new.add_argument("--warm", action="store_true", help="boot a lasting lab if none is up, use it")
    new.add_argument("--cold", action="store_true", help="boot a lab even if one is up")
    new.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    verb("up", do_up, "Boots a lab that stays up.")
    verb("down", do_down, "Ends the labs that lab/up left running.")
    new = verb("build", do_build, "Builds the image of a lab; prints its directory.")
    new.add_argument("--fresh", action="store_true", help="anew, with the packages of today")

    options = parser.parse_args(arguments)
    options.kernel_given = options.kernel is not None
    options.kernel = options.kernel or "6.1"
    options.arch_given = options.arch is not None
    options.arch = options.arch or image.DEFAULT_ARCH
    if options.verb in ("run", "up"):
        options.build_given = options.build is not None
        options.build = os.path.abspath(options.build or TOP / ("build" if options.arch == image.DEFAULT_ARCH else
                                                                      "build-" + options.arch))
        if options.build_given and not os.path.isdir(options.build):
            parser.error("no build directory %s" % options.build)
        if options.kvm_smp < 1 or options.mem < 512:
            parser.error("a lab needs a processor and 512 MiB at least")
    if options.verb == "run":
        if options.command[:1] == ["--"]:
            del options.command[0]
        if any(not all(pair.partition(":")) for pair in options.get):
            parser.error("--get takes INSIDE:OUTSIDE")
        if not all(re.fullmatch(r"tap=[\w.-]{1,15}", net) for net in options.net):
            parser.error("--net takes tap=NAME")
    return options


def main():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        options = parse(sys.argv[1:])
        host.stale_remove()
        return options.function(options)
    except Signalled as caught:
        return 128 + caught.args[0]
    except KernelMissing as error:
        say(str(error))
        return EXIT_SKIP
    except (LabError, CommandTimeout, OSError) as error:
        say("error: %s" % (error or "the lab's agent does not answer"))
        return EXIT_LAB


sys.exit(main())
