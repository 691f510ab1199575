"""Processes that share the work of a script, each on one core.

The script runs once for each share: the first process starts the others, with
its own flags. They end with it, even if it is killed.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from absl import flags

FLAGS = flags.FLAGS


def cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


flags.DEFINE_integer(
    "processes", min(2, cores()), "Trainings at a time, each on one core.", 1
)
flags.DEFINE_integer(
    "process_number", 0, "Which of the --processes this one is.", 0
)


def is_first() -> bool:
    """Whether this is the process that the user started."""
    return FLAGS.process_number == 0


def share_of(work: Sequence[Any]) -> list[Any]:
    """What this process has to do of a list that all processes make."""
    return list(work[FLAGS.process_number :: FLAGS.processes])


def on_one_core() -> None:
    """Lets TensorFlow compute in one thread; call it before anything else.

    Always, so that results do not depend on the number of processes.
    """
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)


@contextlib.contextmanager
def others() -> Iterator[None]:
    """Starts the other processes, and waits for them after the block.

    Raises:
        SystemExit: If one of them failed.
    """
    if not is_first():
        threading.Thread(
            target=_end_with, args=(os.getppid(),), daemon=True
        ).start()
        yield
        return
    started = [
        subprocess.Popen(
            [sys.executable, *sys.argv, f"--process_number={number}"]
        )
        for number in range(1, FLAGS.processes)
    ]
    try:
        yield
        if any(process.wait() for process in started):
            raise SystemExit(
                "One of the processes failed; see above. "
                "Start the script again to go on."
            )
    finally:
        for process in started:
            process.kill()
            process.wait()


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
