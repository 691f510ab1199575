"""Processes that have already imported what takes seconds to import.

`forked.run([script, *flags])` and `forked.Popen([script, *flags])` do what
`subprocess.run([sys.executable, script, *flags])` and `subprocess.Popen` do,
with text captured from both outputs; `["-c", code]` works too. The first call
starts a server, this file as a script, which imports TensorFlow or JAX, Keras,
the package and what the examples need. It computes nothing. Each call forks it,
and the fork runs the script as `__main__`: 0.1 s where imports take 5 s.

The environment is that of the test, or `env`; another environment has a server
of its own, since much of it is read on import. A server ends with the process
that started it, and ends what still runs then. What a test says about imports
needs a real process; so does one run of an example, to see that its imports
suffice.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import types

PRELOADED = {
    "tensorflow": (
        "tensorflow",
        "tensorflow_datasets",
        "absl.app",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "keras_freetickets.api",
    ),
    "jax": ("jax", "keras_freetickets.api"),
}
_SIZE = 1 << 18
_servers = {}


class Server:
    """A process that waits for what to run; see `serve`."""

    def __init__(self, environment):
        self.requests, its = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with its:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(its.fileno())],
                env=environment,
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def stop(self):
        self.requests.close()
        self.process.wait()


def stop():
    """Ends all servers; their processor time then counts as one's own."""
    while _servers:
        _servers.popitem()[1].stop()


atexit.register(stop)


def _server_of(env):
    """The server of an environment."""
    environment = {
        name: value
        for name, value in (os.environ if env is None else env).items()
        if not name.startswith("PYTEST_")
    }
    key = tuple(sorted(environment.items()))
    if key not in _servers or _servers[key].process.poll() is not None:
        _servers[key] = Server(environment)
    return _servers[key]


class Popen:
    """A fork of a server that runs a script.

    Args:
        arguments: List of what follows `python` in a command line: the path of
            a script or `"-c"` and code, then its arguments.
        cwd: Path to run in, or `None` for that of the test.
        env: Dictionary of the whole environment, or `None` for the test's.
    """

    def __init__(self, arguments, cwd=None, env=None):
        self.args = [sys.executable, *map(str, arguments)]
        self.returncode = None
        self._outputs = [
            tempfile.TemporaryFile()  # noqa: SIM115, read once the fork ends
            for _ in range(2)
        ]
        self._replies, its = socket.socketpair(type=socket.SOCK_SEQPACKET)
        request = [self.args[1:], os.path.abspath(cwd or os.getcwd())]
        files = [its, *self._outputs]
        with its:
            socket.send_fds(
                _server_of(env).requests,
                [json.dumps(request).encode()],
                [file.fileno() for file in files],
            )
        self.pid = int(self._reply())  # of the process that runs the script

    def _reply(self):
        reply = self._replies.recv(_SIZE)
        if not reply:
            raise RuntimeError(f"The server of {self.args} has ended.")
        return reply

    def poll(self):
        """The exit code, or `None` while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=None):
        """The exit code; minus the signal that killed it."""
        if self.returncode is None:
            if not select.select([self._replies], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._reply())
            self._replies.close()
        return self.returncode

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def communicate(self, timeout=None):
        """What it has written, as two strings, once it has ended."""
        self.wait(timeout)
        said = []
        for file in self._outputs:
            file.seek(0)
            said.append(file.read().decode())
        return tuple(said)


def run(arguments, cwd=None, env=None, timeout=None, check=False):
    """`subprocess.run` with output captured as text."""
    process = Popen(arguments, cwd, env)
    try:
        said = process.communicate(timeout)
    except BaseException:
        process.kill()
        process.wait()
        raise
    done = subprocess.CompletedProcess(process.args, process.returncode, *said)
    if check:
        done.check_returncode()
    return done


def serve(requests):
    """Forks for each request until the other side ends.

    Returns:
        In the process of the server, `None`. In a fork, what it has to run, as
        `Popen` takes it. The fork thus leaves the server's frames and ends as
        any process does.
    """
    children = {}
    while True:
        for ready in select.select([requests, *children], [], [])[0]:
            if ready in children:
                pid, replies = children.pop(ready)
                os.close(ready)
                _, status = os.waitpid(pid, 0)
                code = os.waitstatus_to_exitcode(status)
                with replies, contextlib.suppress(BrokenPipeError):
                    replies.send(str(code).encode())
                continue
            request, files, _, _ = socket.recv_fds(requests, _SIZE, 3)
            if not request:
                for pid, _ in children.values():
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                return None
            replies = socket.socket(fileno=files[0])
            pid = os.fork()
            if not pid:
                others = [held for _, held in children.values()]
                for held in (requests, replies, *others):
                    held.close()
                for number, file in enumerate(files[1:], 1):
                    os.dup2(file, number)
                    os.close(file)
                return json.loads(request)
            for file in files[1:]:
                os.close(file)
            children[os.pidfd_open(pid)] = pid, replies
            replies.send(str(pid).encode())


def become(arguments, cwd):
    """Does what Python does with a command line."""
    os.chdir(cwd)
    main = types.ModuleType("__main__")
    if arguments[0] == "-c":
        _, code, *rest = arguments
        sys.argv, sys.path[0], name = ["-c", *rest], "", "<string>"
    else:
        sys.argv, name = arguments, arguments[0]
        sys.path[0] = os.path.dirname(os.path.abspath(name))
        main.__file__ = name
        with open(name, "rb") as file:
            code = file.read()
    sys.modules["numpy"].random.seed()
    sys.modules["__main__"] = main
    exec(compile(code, name, "exec"), main.__dict__)


if __name__ == "__main__":
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    for name in PRELOADED.get(backend, ["keras_freetickets.api"]):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the forks' collections then copy no pages
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        become(*request)
