"""A process that has imported the package once, and runs commands in forks of itself: seconds less for each.

What a command would import anew is not tested by this; `tests/cli/test_cli_start.py` starts cold ones.

    python warm_process.py serve SOCKET
    python warm_process.py SOCKET charm-hf|python ARGUMENT...   # with this process's files, folder and variables
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path


# Transformers imports its parts when they are first asked for.
PRELOADED = ("charm_hf", "charm_hf.scoring", "charm_hf.scoring.run", "charm_hf_cli", "transformers.pipelines")


def serve(path: str) -> None:
    """Run what is asked for, until it is killed."""
    for name in PRELOADED:
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    for number, file in enumerate(files):
        os.dup2(file, number)
    asked = json.loads(message)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["variables"])
    code = 1
    try:
        code = _run(*asked["command"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(b"%d" % code)
        os._exit(code)


def _run(program: str, *arguments: str) -> int:
    sys.argv = [program, *arguments]
    try:
        if program == "charm-hf":
            import_module("charm_hf_cli").main()
        elif arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        elif arguments[0] == "-m":
            sys.argv = list(arguments[1:])
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(arguments)
            sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    return 0


def ask(path: str, *command: str) -> int:
    """Have a command run, and give its exit code."""
    message = {"command": command, "folder": os.getcwd(), "variables": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [json.dumps(message).encode()], [0, 1, 2])
        return int(connection.recv(16) or b"1")


@contextlib.contextmanager
def warm_process(**variables: str) -> Iterator[Path]:
    """Start one; gives a folder with commands named `charm-hf` and `python` that it runs."""
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:  # a short path: a socket's may have 100 characters
        path = os.path.join(folder, "socket")
        for name in ("charm-hf", "python"):
            script = Path(folder, name)
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{__file__}" "{path}" {name} "$@"\n')
            script.chmod(0o755)
        with subprocess.Popen([sys.executable, __file__, "serve", path], env={**os.environ, **variables}) as process:
            try:
                while not os.path.exists(path):
                    assert process.poll() is None, "the warm process did not start"
                    time.sleep(0.02)
                yield Path(folder)
            finally:
                process.kill()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(*sys.argv[1:]))
