# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The soak's machines, places and commands, and what is known to be in them.

An image is known by its mark: a number that its guest had in memory when it was
saved (the bare guest's threshold), so that a whole image in another one's place
is found, too. That a guest's words are all of one moment its ledger tells.
"""

import contextlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

import audit
from audit import Wrong
from harness.vm import Postern, program
from harness.waiting import seconds, wait_for
from places import CACHE_LIMIT, Bucket, Folder, Server

MEMORY = '16M'
NAMES = 7               # of images in a place
SHARE = 'elders'


class Image:
    """A whole image. chain: how many it was saved on top of."""

    def __init__(self, place, name, mark, chain=0):
        self.place, self.name, self.mark, self.chain = place, name, mark, chain

    def __str__(self):
        return '%s/%s' % (self.place, self.name)

    @property
    def url(self):
        """STORE/NAME"""
        return self.place.url(self.name)


class Count:
    """What has happened so far."""

    def __init__(self):
        self.rounds = self.kills = self.whole = self.half = 0
        self.saves = self.incremental = self.restores = self.clones = self.compacts = 0
        self.gcs = self.deletes = self.refused = self.removed = 0
        self.pages = self.image_pages = 0
        self.kinds = {}

    def __str__(self):
        return ('%(rounds)d rounds, %(kills)d killed (%(whole)d of these had made a whole image, '
                '%(half)d had not), %(saves)d saves (%(incremental)d incremental), '
                '%(restores)d restores, %(clones)d clones, %(compacts)d compacted, '
                '%(deletes)d deleted, %(gcs)d gc (%(removed)d objects), %(refused)d refused; '
                '%(pages)d pages verified by guests, %(image_pages)d in images' % vars(self))


class World:
    """rng is the present round's."""

    def __init__(self, options):
        self.options = options
        self.rng = None
        self.count = Count()
        self.watch = audit.Watch()
        self.marks = itertools.count(1000)
        self.stack = contextlib.ExitStack()
        self.notes = []
        self.killed_keepers = set()     # names of shares
        self.took = {}          # kind of work -> seconds it took last
        self.base = pathlib.Path(self.stack.enter_context(
            tempfile.TemporaryDirectory(prefix='postern-soak-', dir=options.directory)))
        self.stack.callback(self._end_keepers)
        (self.base / 'run').mkdir(mode=0o700)
        self.server = self.stack.enter_context(Server())
        self.env = dict(os.environ, POSTERN_RUNTIME_DIR=str(self.base / 'run'), **self.server.env)
        self.places = self._make_places()
        self.member = None
        self.elders = {}        # key or None -> a machine: it keeps its image's key
        self.last = {}          # the same -> the image that it was saved into last

    def _make_places(self):
        key, cache = self.base / 'key', self.base / 'cache'
        key.write_text(os.urandom(32).hex() + '\n', encoding='ascii')
        key.chmod(0o600)
        cache.mkdir(mode=0o700)
        return [Folder(self.base / 'plain'), Folder(self.base / 'cached', cache=cache),
                Folder(self.base / 'sealed', key=key, cache=cache),
                Bucket(self.server, 'bucket', cache=cache),
                Bucket(self.server, 'sealed-bucket', key=key)]

    def note(self, text):
        """Of this round's line."""
        self.notes.append(text)

    # ---- machines ----

    @property
    def old(self):
        """The machines that live as long as all of it."""
        return [*self.elders.values(), self.member]

    def machine(self, image, options=(), name='vm'):
        """A machine out of an image, that ends with the caller's with."""
        words = image.place.read_words + list(options)
        self.count.restores += 1
        return Postern.restored(image.url, name, log_level='warn', env=self.env, options=words)

    def begin(self):
        """Those that live as long as all of it, and an image in each place."""
        for place in self.places:
            if place.key not in self.elders:
                vm = self.stack.enter_context(Postern(
                    'elder', memory=MEMORY, cpus=1 if place.key else 2, log_level='warn',
                    env=self.env))
                self.elders[place.key] = vm
                vm.bare(ready=True).fill()
                vm.bare().walk('w')
                vm.command('stop')
            self.save_elder(place, 'base')
        image = self.places[0].images['base']
        self.member = self.stack.enter_context(
            self.machine(image, ['--share', SHARE, '--fill', 'on'], 'member'))
        self.verify_guest(self.member, image.mark)
        self.member.command('stop')

    @contextlib.contextmanager
    def awake(self, vm):
        """An old machine runs inside only: a bare guest is never idle."""
        vm.command('cont')
        yield vm.bare()
        vm.command('stop')

    def verify_guest(self, vm, mark):
        """Every word of it is right, and it is the guest that it should be."""
        guest = vm.bare() if hasattr(vm, 'bare') else vm
        guest.quiet(seconds(60))
        seen = guest.first_error(seconds(20))
        guest.limit(0)
        found, info = guest.verify(seconds(120)), guest.info(seconds(20))
        if seen['errors'] or found['errors'] or not found['pages']:
            raise Wrong('wrong words: walks saw %s, verify %s' % (seen, found))
        if mark is not None and info['thr'] != mark:
            raise Wrong('another guest: its mark is %s, not %s' % (info['thr'], mark))
        self.count.pages += found['pages']

    def writes(self, vm, most=2000):
        """The guest writes, and has been writing for a while."""
        guest = vm.bare()
        guest.limit(self.rng.choice([0, 64, 700, most]))
        guest.walk(self.rng.choice(['w', 'c', 'W']))
        before = guest.stats()['touches']
        guest.wait_stats(lambda s: s['touches'] > before + 200, seconds(60))

    # ---- the command ----

    def command(self, *words):
        """`postern snapshot ...`, begun."""
        words = [program(), 'snapshot', *map(str, words)]
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env=self.env, process_group=0)

    @contextlib.contextmanager
    def running(self, *words):
        """The same, that is killed at the end if it still runs."""
        with self.command(*words) as child:
            try:
                yield child
            finally:
                if child.poll() is None:
                    child.kill()

    def snapshot(self, *words, code=0):
        """To its end; returns what it printed. code: None for any, which is
        returned as well then."""
        begun = time.monotonic()
        with self.running(*words) as child:
            out, err = child.communicate(timeout=seconds(120))
        self.took[words[0]] = time.monotonic() - begun
        if code is None:
            return child.returncode, out + err
        if child.returncode != code:
            raise Wrong('snapshot %s: %d: %s' % (' '.join(map(str, words)), child.returncode,
                                                 out + err))
        return out

    def reply(self, place, *words):
        """What a command on an image or a place says with --json."""
        return json.loads(self.snapshot(*words, '--json', *place.key_words_of(words[0])))

    # ---- images ----

    def pick_place(self):
        """Any; folders more often, since they are faster."""
        often = [3 if place.kind == 'folder' else 1 for place in self.places]
        return self.rng.choices(self.places, often)[0]

    def pick_image(self, place=None, spare=False, but=None):
        """A whole one; spare: one that may go, or None; but: another than this."""
        if place is None:
            place = self.pick_place()
        names = sorted(n for n, image in place.images.items()
                       if image is not but and not (spare and n == 'base'))
        return place.images[self.rng.choice(names)] if names else None

    def free_name(self, place, but=None):
        """A name that no image has; names come again and again. Where all are
        taken one image is deleted first, another than `but`."""
        free = [n for n in ('image%d' % i for i in range(NAMES)) if n not in place.images]
        if free:
            return self.rng.choice(free)
        image = self.pick_image(place, spare=True, but=but)
        self.delete(image)
        return image.name

    def delete(self, image):
        """One that is whole, and that nobody is being saved on top of."""
        self.snapshot('delete', image.url)
        del image.place.images[image.name]
        self.count.deletes += 1

    def made(self, place, name, mark, chain=0):
        """An image is whole."""
        place.images[name] = image = Image(place, name, mark, chain)
        return image

    def is_whole(self, place, name):
        """Has it a manifest?"""
        return name + '/manifest.json' in place.objects()

    def save_words(self, vm, place, name, *words):
        """Of the command that saves a machine."""
        return ['--qmp', 'unix:' + vm.path('qmp'), 'save', place.url(name), *place.key_words,
                *words]

    def save(self, vm, place, name, *words):
        """Saves a machine; returns its image."""
        mark = next(self.marks)
        vm.bare().threshold(mark)
        begun = time.monotonic()
        out = wait_for(lambda: self.save_try(vm, place, name, words), 30)
        self.took['save', place.kind] = time.monotonic() - begun
        self.count.saves += 1
        return self.made(place, name, mark), out

    def save_try(self, vm, place, name, words):
        """What it printed; None when a machine just restored is not ready yet, and
        says so."""
        words = self.save_words(vm, place, name, *words)
        code, out = self.snapshot(*words, code=None)
        if code and 'try again' in out:
            return None
        if code:
            raise Wrong('snapshot %s: %d: %s' % (' '.join(map(str, words)), code, out))
        return out

    def save_elder(self, place, name, *words):
        """The long-lived one, on top of its last image where that is possible."""
        before = self.last.get(place.key)
        if before and before.place is place and place.images.get(before.name) is before:
            if self.rng.random() < 0.75:
                words = [w for w in words if w != '--pause'] + ['--incremental']
        vm = self.elders[place.key]
        with self.awake(vm) as guest:
            guest.limit(self.rng.choice([0, 0, 64, 700]))
            guest.walk(self.rng.choice(['w', 'c', 'W', 'g']))
            image, _ = self.save(vm, place, name, *words)
        if '--incremental' in words:
            image.chain = before.chain + 1
            self.count.incremental += 1
        self.last[place.key] = image
        return image

    # ---- what has to be true ----

    def gc(self, place):
        """Removes what nobody needs; afterwards nothing of that is left."""
        said = self.reply(place, 'gc', place.url())
        self.count.gcs += 1
        self.count.removed += said['objects']
        manifests = {name: json.loads(place.read(name + '/manifest.json'))
                     for name in place.images}
        left = audit.garbage(place.objects(), manifests)
        if left:
            raise Wrong('%s: gc has left %s' % (place, left))
        return said['objects']

    def verify_images(self, place, most=2):
        """Those that are known to be whole are there, and no others; some of
        them are read."""
        listed = self.reply(place, 'list', '--names', place.url())
        if sorted(listed) != sorted(place.images):
            raise Wrong('%s: images %s are there, not %s' % (place, listed, sorted(place.images)))
        names = sorted(place.images)
        for name in self.rng.sample(names, min(most, len(names))):
            found = self.reply(place, 'verify', place.images[name].url)
            if found['damaged'] or not found['pages']:
                raise Wrong('%s/%s: %s' % (place, name, found))
            self.count.image_pages += found['pages']
        if place.cached_bytes() > CACHE_LIMIT + (1 << 20):
            raise Wrong('the cache has %d bytes' % place.cached_bytes())

    def restored_is_right(self, image, options=()):
        """The guest goes on from it, and every word is right."""
        with self.machine(image, options) as vm:
            self.verify_guest(vm, image.mark)

    def rest(self):
        """Nobody is left but those who should be; what the long-lived hold is
        noted."""
        known = {vm.pid for vm in self.old}

        def strangers():
            found = audit.processes_of(str(self.base))
            return {pid: line for pid, line in found.items()
                    if pid not in known and not audit.is_keeper(line)}
        wait_for(lambda: not strangers(), 20, lambda: 'left behind: %s' % strangers(), every=0.02)
        for vm in self.old:
            if vm.q.command('query-status')['status'] != 'paused':
                raise Wrong('%s is not where it was left' % vm.name)
            self.watch.note(vm.name, vm.pid)
        for pid, line in audit.processes_of(str(self.base)).items():
            if audit.is_keeper(line) and '/%s ' % SHARE in line:
                self.watch.note('keeper', pid)

    def finish(self):
        """Everything once more, and nobody is left."""
        for vm in self.old:
            with self.awake(vm) as guest:
                self.verify_guest(guest, None)
            vm.command('quit')
            if vm.wait_exit(10):
                raise Wrong('%s did not end in order: %s' % (vm.name, vm.log()[-500:]))
        for place in self.places:
            self.verify_images(place, most=NAMES + 1)
            self.gc(place)
            for image in place.images.values():
                self.restored_is_right(image)
            if place.empty_folders():
                raise Wrong('%s: empty folders: %s' % (place, place.empty_folders()))
        wait_for(lambda: not audit.processes_of(str(self.base)), 30,
                 lambda: 'left behind: %s' % audit.processes_of(str(self.base)), every=0.05)
        left = {path.name for path in (self.base / 'run' / '.shares').iterdir()}
        left -= {'%s.lock' % name for name in self.killed_keepers}
        if left:
            raise Wrong('shares are left: %s' % sorted(left))

    def _end_keepers(self):
        """Where it ended early they would live on for some seconds."""
        for pid, line in audit.processes_of(str(self.base)).items():
            if audit.is_keeper(line):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def close(self):
        """Ends everything that was begun."""
        self.stack.close()
