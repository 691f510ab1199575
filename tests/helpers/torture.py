"""Kills a run by SIGKILL at random moments and lets it go on each time.

`make torture` runs this file. A kill lands in a training step, in a step that
updates the topology, while a ticket is being written, or while a backup is.
Every file that a reader would see then must load; the run that goes on must
end as the uninterrupted one, bit for bit. Each start is a fork of a process
that has imported everything and computed nothing.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings

import keras
import killable

import keras_freetickets as kft
from keras_freetickets.ensembles import TicketStore

KINDS = ("update", "tickets", "step", "backup")
STEPS = 4 * killable.EPOCHS
INTERVAL = 3


class Killer(keras.callbacks.Callback):
    """Kills this process some time after a step has begun."""

    def __init__(self, step, delay):
        super().__init__()
        self.left = step
        self.delay = delay

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            threading.Timer(self.delay, kill, [os.getpid()]).start()


def kill(process):
    os.kill(process, signal.SIGKILL)


def digest_of(result):
    """One number for all that a run has made."""
    values, tickets, history, index = result
    found = hashlib.sha256()
    for value in [*values, *(v for ticket in tickets for v in ticket)]:
        found.update(value.tobytes())
    found.update(json.dumps([history, index], sort_keys=True).encode())
    return found.hexdigest()


def check_files(directory):
    """All that stands under its own name is whole."""
    for path in directory.glob("tickets/*.keras"):
        keras.saving.load_model(path)
    TicketStore(directory / "tickets").read()
    for path in directory.glob("tickets/*"):
        known = path.suffix in (".keras", ".json")
        assert known or path.name.startswith(".partial-"), path


def start(directory, callbacks=()):
    """Forks a start of the run; its digest goes to a file beside."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        # What is passed over as damaged was half written.
        warnings.filterwarnings("error", message=".* is damaged")
        check_files(directory)
        digest = digest_of(killable.run(str(directory), callbacks=callbacks))
        directory.with_suffix(".txt").write_text(digest)
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def finished(directory):
    """Lets the run on a directory end; returns its digest."""
    _, status = os.waitpid(start(directory), 0)
    if status != 0:
        raise SystemExit(f"The run on '{directory}' failed: status {status}.")
    return directory.with_suffix(".txt").read_text()


def kill_in_step(directory, chance, update):
    steps = [s for s in range(1, STEPS + 1) if (s % INTERVAL == 0) == update]
    step, delay = chance.choice(steps), chance.uniform(0, 0.01)
    process = start(directory, [Killer(step, delay)])
    _, status = os.waitpid(process, 0)
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"Step {step} was not killed: status {status}.")
    return f"step {step} of {STEPS}, after {delay * 1000:.1f} ms"


def kill_while_writing(directory, chance, folder):
    """Kills a run in a write; begins anew where each was over too soon."""
    for _ in range(20):
        number, delay = chance.randint(1, 4), chance.uniform(0, 0.01)
        if killed_in_write(start(directory), directory / folder, number, delay):
            return f"write {number}, half a file there"
        shutil.rmtree(directory)
    raise SystemExit(f"20 runs ended before a kill hit a write in '{folder}'.")


def killed_in_write(process, folder, number, delay):
    """Whether a process was killed in its n-th write, or in one after it."""
    seen = set()
    while not os.waitpid(process, os.WNOHANG)[0]:
        found = set(folder.glob(".partial-*")) - seen
        seen |= found
        if found and len(seen) >= number:
            time.sleep(delay)
            # It stands still while one looks whether the file is still there.
            os.kill(process, signal.SIGSTOP)
            if any(path.exists() for path in found):
                kill(process)
                return os.WIFSIGNALED(os.waitpid(process, 0)[1])
            os.kill(process, signal.SIGCONT)
        time.sleep(0.0005)
    return False


def torture(directory, kills, seed):
    chance = random.Random(seed)
    whole = finished(directory / "whole")
    for i in range(kills):
        kind = KINDS[i % len(KINDS)]
        run = directory / f"run_{i}"
        if kind in ("tickets", "backup"):
            moment = kill_while_writing(run, chance, kind)
        else:
            moment = kill_in_step(run, chance, kind == "update")
        same = finished(run) == whole
        print(f"{kind}: {moment}: {'same' if same else 'NOT THE SAME'}")
        if not same:
            raise SystemExit(f"See '{run}', killed in {kind} with {seed=}.")
    print(f"{kills} kills, {kft.__name__} {kft.__version__}: all the same.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", default=None)
    flags = parser.parse_args()
    directory = pathlib.Path(flags.directory or tempfile.mkdtemp())
    torture(directory, flags.kills, flags.seed)
