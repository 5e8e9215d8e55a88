# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What a round of the soak does: one function each, and how often it is drawn.

Each leaves the world such that World's checks hold: an image that was begun and
not finished is either whole, or gc removes it.
"""

import contextlib
import functools
import os
import re
import select
import signal
import subprocess
import threading
import time

import audit
from audit import Wrong
from harness.vm import bare_guest, program
from harness.waiting import seconds, wait_for
from world import SHARE

CLONES = 3


# ---- SIGKILL at a random moment ----

@contextlib.contextmanager
def kill_within(world, place, process, kind, guess=0.3):
    """Kills the process while what is inside waits for its work: within the time
    that such work took last or, at a server, at one of its requests."""
    def kill():
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
    if place.kind == 'bucket' and world.rng.random() < 0.7:
        number = world.rng.choice([1, 2, 3, 4, 6, 8, 10])
        world.note('at request %d' % number)
        place.server.kill_at(number, kill, world.rng.random() < 0.5)
        try:
            yield
        finally:
            place.server.disarm()
        return
    after = world.rng.random() * 1.2 * world.took.get(kind, guess)
    world.note('after %.0f ms' % (after * 1e3))
    timer = threading.Timer(after, kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def command_killed(world, place, *words):
    """A command on a place, killed at a random moment; returns its process."""
    with world.running(*words, *place.key_words_of(words[0])) as child:
        with kill_within(world, place, child, words[0]):
            child.communicate(timeout=seconds(60))
    world.count.kills += child.returncode == -signal.SIGKILL
    return child


def what_is_left(world, place, name, mark, killed):
    """The work on an image of that name is over, or its process was killed:
    is the image whole? Returns it, or None."""
    if world.is_whole(place, name):
        world.count.whole += killed
        world.note('whole')
        return world.made(place, name, mark)
    world.count.half += killed
    world.note('half' if killed else 'not there')
    return None


# ---- rounds ----

def save(world):
    """The elder is saved, in any of the ways, perhaps beside a gc."""
    place = world.pick_place()
    name = world.free_name(place)
    words = world.rng.choice([[], ['--track'], ['--track'], ['--pause']])
    world.note('%s/%s %s' % (place, name, ' '.join(words)))
    beside = world.rng.random() < 0.4
    with beside_gc(world, place) if beside else contextlib.nullcontext():
        image = world.save_elder(place, name, *words)
    world.note('chain %d' % image.chain)
    world.restored_is_right(image)
    return place


@contextlib.contextmanager
def beside_gc(world, place):
    """gc again and again meanwhile."""
    world.note('beside gc')
    with world.running('gc', place.url(), *place.key_words) as child:
        yield
        out, err = child.communicate(timeout=seconds(60))
        if child.returncode:
            raise Wrong('gc beside a saver: %s%s' % (out, err))


def save_killed(world):
    """A machine is killed while it is saved; then its name is free for the
    next saver, or gc removes what is left."""
    image = world.pick_image()
    place = image.place
    name = world.free_name(place, image)
    words = world.rng.choice([[], ['--track'], ['--incremental'], ['--incremental', '--track'],
                              ['--pause']])
    world.note('%s on top of %s %s' % (name, image, ' '.join(words)))
    options = ['--fill', world.rng.choice(['on', 'off'])]
    mark = next(world.marks)
    with contextlib.ExitStack() as stack:
        vm = world.machine(image, options)
        stack.callback(vm.close)
        world.writes(vm)
        vm.bare().threshold(mark)
        with world.running(*world.save_words(vm, place, name, *words)) as child:
            with kill_within(world, place, vm.process, ('save', place.kind)):
                child.communicate(timeout=seconds(60))
        vm.kill()
        world.count.kills += 1
        made = what_is_left(world, place, name, mark, True)
        if made and '--incremental' in words:
            made.chain = image.chain + 1
    if made:
        world.restored_is_right(made)
    elif world.rng.random() < 0.5:
        world.note('taken over')
        world.restored_is_right(world.save_elder(place, name))
    return place


def restore(world):
    """A machine out of an image, which perhaps is saved on top of it, or is
    killed at any moment."""
    image = world.pick_image()
    options = ['--fill', world.rng.choice(['on', 'off', '4M'])]
    if world.rng.random() < 0.4:
        options += ['--share', 'r%d' % world.count.rounds]
    if world.rng.random() < 0.3:
        options += ['--working-set', world.rng.choice(['off', 'record', 'replay'])]
    what = world.rng.choice(['verify', 'save', 'save', 'kill', 'kill', 'gone'])
    world.note('%s %s, %s' % (image, ' '.join(options), what))
    with contextlib.ExitStack() as stack:
        vm = world.machine(image, options)
        stack.callback(vm.close)
        if what == 'kill':
            world.count.kills += 1
            vm.bare().walk('c')
            select.select([], [], [], world.rng.random() * 0.2)
            vm.kill()
        elif what == 'gone' and image.name != 'base':
            restore_without(world, vm, image)
        else:
            restore_and_save(world, vm, image, what == 'save')
    return image.place


def restore_without(world, vm, image):
    """All its memory has come: what it came out of may go."""
    world.verify_guest(vm, image.mark)
    wait_for(lambda: not vm.faults()['pages']['missing']
             or vm.command('postern-set-fill', fill='on'), 60)
    world.delete(image)
    world.writes(vm)
    world.verify_guest(vm, image.mark)


def restore_and_save(world, vm, image, again):
    """A chain: it is saved on top of what it came out of, and on."""
    mark = image.mark
    if again:
        for _ in range(world.rng.choice([1, 2])):
            name = world.free_name(image.place, image)
            world.writes(vm)
            made, _ = world.save(vm, image.place, name, '--incremental', '--track')
            made.chain, mark = image.chain + 1, made.mark
            world.count.incremental += 1
            image = made
            world.note('%s chain %d' % (made.name, made.chain))
    world.verify_guest(vm, mark)
    if again:
        world.restored_is_right(image)


def clones(world):
    """Many at once, of which some are killed, or the one that started them, or
    who keeps their share: the others find their words."""
    image = world.pick_image()
    share = 'c%d' % world.count.rounds
    victim = world.rng.choice(['none', 'one', 'one', 'parent', 'keeper', 'starting'])
    world.note('%s, killed: %s' % (image, victim))
    folder = world.base / share
    folder.mkdir(mode=0o700)
    words = [program(), 'clone', image.url, '--count', str(CLONES), '--share', share,
             *image.place.key_words, '--', '--qmp', 'unix:%s/qmp-%%i' % folder,
             '--serial', 'unix:%s/serial-%%i' % folder, '--log-level', 'warn']
    words += [w for w in image.place.read_words if w not in image.place.key_words]
    log = open(folder / 'log', 'w+', encoding='utf-8')
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=log, text=True, env=world.env, process_group=0)
    world.count.clones += CLONES
    try:
        if victim == 'starting':
            with kill_within(world, world.places[0], child, 'clone', 0.2):
                child.wait(seconds(20))
            world.count.kills += 1
        else:
            begun = time.monotonic()
            line = child.stdout.readline()
            if not re.fullmatch(r'%d machines run after [0-9.]+ ms\n' % CLONES, line):
                log.seek(0)
                raise Wrong('clones do not run: %r %s' % (line, log.read()))
            world.took['clone'] = time.monotonic() - begun
            use_clones(world, image, child, folder, share, victim)
    finally:
        if child.poll() is None:
            child.terminate()
        try:
            child.wait(seconds(30))
        finally:
            child.kill()
            child.stdout.close()
            log.close()
    wait_for(lambda: not strangers_of(str(folder)), 20,
             lambda: 'clones are left: %s' % strangers_of(str(folder)))
    return image.place


def strangers_of(word):
    """Machines that still run, by their command line; no keepers."""
    return {pid: line for pid, line in audit.processes_of(word).items()
            if not audit.is_keeper(line) and word in line}


def clone_pids(child):
    """The machines, in no order."""
    with open('/proc/%d/task/%d/children' % (child.pid, child.pid), encoding='ascii') as f:
        return [int(pid) for pid in f.read().split()]


def use_clones(world, image, child, folder, share, victim):
    """Each writes; somebody is killed; the others verify."""
    with contextlib.ExitStack() as stack:
        guests = []
        for i in range(CLONES):
            guest = bare_guest.Bare(bare_guest.connect('%s/serial-%d' % (folder, i), seconds(20)))
            stack.callback(guest.close)
            guest.walk(world.rng.choice(['c', 'w', 'g']))
            guests.append(guest)
        if victim == 'parent':
            world.count.kills += 1
            os.kill(child.pid, signal.SIGKILL)
            return
        if victim == 'keeper':
            world.count.kills += 1
            for pid, line in audit.processes_of('/.shares/%s ' % share).items():
                if audit.is_keeper(line):
                    os.kill(pid, signal.SIGKILL)
                    world.killed_keepers.add(share)
        if victim == 'one':
            world.count.kills += 1
            os.kill(world.rng.choice(clone_pids(child)), signal.SIGKILL)
        verified = 0
        for guest in guests:
            try:
                world.verify_guest(guest, image.mark)
                verified += 1
            except (bare_guest.BareError, OSError):
                if victim != 'one':
                    raise
        if verified < CLONES - (victim == 'one'):
            raise Wrong('%d of %d clones answer' % (verified, CLONES))


def member(world):
    """One more joins those that share for as long as this runs, writes, and is
    killed or ends: the old member finds its words."""
    image = world.places[0].images['base']
    ends = world.rng.choice(['killed', 'killed', 'verified'])
    world.note(ends)
    with contextlib.ExitStack() as stack:
        guest = stack.enter_context(world.awake(world.member))
        guest.walk(world.rng.choice(['c', 'w', 'g']))
        vm = world.machine(image, ['--share', SHARE], 'young')
        stack.callback(vm.close)
        vm.bare().walk('c')
        if ends == 'killed':
            world.count.kills += 1
            select.select([], [], [], world.rng.random() * 0.1)
            vm.kill()
        else:
            world.verify_guest(vm, image.mark)
            vm.kill()
        world.verify_guest(guest, image.mark)
    return image.place


def compact(world):
    """An image is written anew, perhaps killed at it, perhaps beside gc; and
    the old one may go."""
    image = world.pick_image()
    place = image.place
    name = world.free_name(place, image)
    world.note('%s -> %s' % (image, name))
    words = ['compact', image.url, place.url(name)]
    if world.rng.random() < 0.5:
        with beside_gc(world, place) if world.rng.random() < 0.5 else contextlib.nullcontext():
            world.snapshot(*words, *place.key_words)
        made = world.made(place, name, image.mark)
        if world.reply(place, 'info', made.url)['images']:
            raise Wrong('%s needs others' % made)
    else:
        child = command_killed(world, place, *words)
        made = what_is_left(world, place, name, image.mark,
                            child.returncode == -signal.SIGKILL)
    if made:
        world.count.compacts += 1
        if image.name != 'base' and world.rng.random() < 0.5:
            world.delete(image)
        world.restored_is_right(made)
    return place


def delete(world):
    """An image goes, perhaps killed at it; those on top of it stay."""
    image = world.pick_image(spare=True)
    if not image:
        return save(world)
    place = image.place
    world.note(str(image))
    if world.rng.random() < 0.4:
        world.delete(image)
        return place
    command_killed(world, place, 'delete', image.url)
    if not world.is_whole(place, image.name):
        del place.images[image.name]
        world.count.deletes += 1
        world.note('gone')
    else:
        world.restored_is_right(image)
    return place


def gc(world):
    """Killed at any moment, and once more."""
    place = world.pick_place()
    world.note(str(place))
    command_killed(world, place, 'gc', place.url())
    world.gc(place)
    return place


def rivals(world):
    """Two savers of one name: one wins and the other is refused, or both are
    told that somebody is there."""
    place = world.pick_place()
    name = world.free_name(place)
    base = place.images['base']
    world.note('%s/%s' % (place, name))
    marks = next(world.marks), next(world.marks)
    with contextlib.ExitStack() as stack:
        vms = [world.machine(base, ['--fill', 'off'], 'rival') for _ in range(2)]
        for vm in vms:
            stack.callback(vm.close)
        for vm, mark in zip(vms, marks):
            world.writes(vm)
            vm.bare().threshold(mark)
        saves = [stack.enter_context(world.running(
            *world.save_words(vm, place, name, '--incremental'))) for vm in vms]
        codes, texts = [], []
        for child in saves:
            out, err = child.communicate(timeout=seconds(60))
            codes.append(child.returncode)
            texts.append(out + err)
        if sorted(codes) not in ([0, 1], [1, 1]):
            raise Wrong('two savers of one name ended with %s: %s' % (codes, texts))
        world.count.refused += codes.count(1)
        for text in (t for t, c in zip(texts, codes) if c):
            if not re.search('being saved|is there already|was faster|claim', text):
                raise Wrong('a saver was refused because: %s' % text)
        for vm, mark in zip(vms, marks):
            world.verify_guest(vm, mark)
    if 0 in codes:
        made = world.made(place, name, marks[codes.index(0)], 1)
        world.count.saves += 1
        world.restored_is_right(made)
    if world.is_whole(place, name) != (0 in codes):
        raise Wrong('%s/%s: the savers ended with %s' % (place, name, codes))
    return place


def save_and_delete(world, vm, parent, name, killed):
    """Both at a time; the machine is killed at any moment meanwhile, or not.
    Returns each one's exit status and what it said."""
    place = parent.place
    with contextlib.ExitStack() as stack:
        saver = stack.enter_context(world.running(
            *world.save_words(vm, place, name, '--incremental')))
        if killed:
            stack.enter_context(kill_within(world, place, vm.process, ('save', place.kind)))
        select.select([], [], [], world.rng.random() * world.took.get(('save', place.kind), 0.2))
        deleted = world.snapshot('delete', parent.url, code=None)
        out, err = saver.communicate(timeout=seconds(60))
    world.note('delete: %d, save: %d' % (deleted[0], saver.returncode))
    return (saver.returncode, out + err), deleted


def parent_goes(world):
    """An image is deleted while a machine is being saved on top of it: that is
    refused, or the saver is told, unless it is killed; never is there an image
    that lacks pages."""
    place = world.pick_place()
    parent = world.pick_image(place, spare=True)
    if not parent:
        with world.machine(place.images['base']) as vm:
            parent, _ = world.save(vm, place, world.free_name(place))
    name, killed = world.free_name(place, parent), world.rng.random() < 0.4
    mark = next(world.marks)
    world.note('%s/%s on top of %s%s' % (place, name, parent.name, ', killed' * killed))
    with contextlib.ExitStack() as stack:
        vm = world.machine(parent, ['--fill', 'on'])
        stack.callback(vm.close)
        world.writes(vm)
        vm.bare().threshold(mark)
        saved, deleted = save_and_delete(world, vm, parent, name, killed)
    if deleted[0] and 'being saved' not in deleted[1]:
        raise Wrong('delete was refused because: %s' % deleted[1])
    if deleted[0]:
        world.count.refused += 1
    else:
        del place.images[parent.name]
        world.count.deletes += 1
    if not killed and (world.is_whole(place, name) != (saved[0] == 0)
                       or (saved[0] and deleted[0])):
        raise Wrong('saved: %s; deleted: %s' % (saved, deleted))
    world.count.kills += killed
    made = what_is_left(world, place, name, mark, killed)
    if made:
        made.chain = parent.chain + 1
        world.count.saves += not killed
        world.restored_is_right(made)
    return place


KINDS = {save: 4, save_killed: 6, restore: 5, clones: 3, member: 2, compact: 4, delete: 3, gc: 2,
         rivals: 2, parent_goes: 2}


@functools.cache
def weights():
    """(kinds, how often)."""
    return list(KINDS), list(KINDS.values())


def play(world):
    """One round, and what has to be true after it."""
    kinds, often = weights()
    kind = world.rng.choices(kinds, often)[0]
    world.note(kind.__name__)
    world.count.kinds[kind.__name__] = world.count.kinds.get(kind.__name__, 0) + 1
    place = kind(world)
    if world.rng.random() < 0.6:
        gone = world.gc(place)
        world.note('gc %d' % gone)
    world.verify_images(place)
    world.rest()
