"""Processes of `python -m mobile_sam` and of Snakemake that start in no time.

    python -m tests.helpers.fork_server SOCKET

The server imports once all that the commands import, which takes seconds, and forks a process for
each command: in its own directory and environment, with the client's standard streams. What is
read from the environment while torch is imported (threads, kernels) is that of the server. The
server ends when its standard input is closed.

A command whose start itself is tested, or which is found by its process, needs a real process:
`real_processes` gives that to the jobs of a Snakemake.
"""

import array
import atexit
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
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

PRELOADED = (
    *("training.run", "training.export", "evaluation.validate_run", "evaluation.standalone"),
    *("extraction.compute", "data.index.build", "data.synthetic", "report.write"),
)
# The jobs' `python`: a client of the server whose socket is in VARIABLE, else the real one.
VARIABLE = "MOBILE_SAM_TEST_FORK_SERVER"
_CLIENT = """#!{python} -SE
import os
import sys

server = os.environ.get("{variable}")
if server is None or sys.argv[1:3] != ["-m", "mobile_sam"]:
    os.execv("{python}", ["{python}", *sys.argv[1:]])
import array
import json
import socket

task = {{"words": sys.argv[1:], "directory": os.getcwd(), "environment": dict(os.environ)}}
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(server)
    streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
    content = json.dumps(task).encode()
    connection.sendmsg([len(content).to_bytes(4, "big")], streams)
    connection.sendall(content)
    status = int(connection.recv(16) or b"70")
if status < 0:
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@cache
def _started() -> tuple[Path, Path]:
    """The socket of this process's server and the directory of the jobs' `python`."""
    directory = Path(tempfile.mkdtemp(prefix="forks"))
    programs = directory / "bin"
    programs.mkdir()
    client = programs / "python"
    client.write_text(_CLIENT.format(python=sys.executable, variable=VARIABLE))
    client.chmod(0o755)
    path = directory / "socket"
    command = [sys.executable, "-m", __name__, str(path)]
    server = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n", "the server did not start"
    atexit.register(server.communicate)
    return path, programs


_real = False


@contextmanager
def real_processes() -> Iterator[None]:
    """Within it, each job of a Snakemake that `run` starts is a new process of Python."""
    global _real  # noqa: PLW0603
    _real = True
    try:
        yield
    finally:
        _real = False


def run(
    words: list[str], directory: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python WORDS` to its end in a fork of the server.

    words: `-m mobile_sam …`, or the path of `rule_blocks.py` and arguments of Snakemake.
    """
    path, programs = _started()
    variables = dict(os.environ if environment is None else environment)
    if not _real:
        variables["PATH"] = f"{programs}{os.pathsep}{variables['PATH']}"
        variables[VARIABLE] = str(path)
    place = str(directory or Path.cwd())
    task = {"words": words, "directory": place, "environment": variables}
    content = json.dumps(task).encode()
    with (
        socket.socket(socket.AF_UNIX) as connection,
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
        Path(os.devnull).open() as nothing,
    ):
        connection.connect(str(path))
        streams = array.array("i", [file.fileno() for file in (nothing, output, errors)])
        head = [len(content).to_bytes(4, "big")]
        connection.sendmsg(head, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        connection.sendall(content)
        status = int(connection.recv(16) or b"70")
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(words, status, output.read(), errors.read())


def _command(words: list[str]) -> int:
    """Run a command as `python WORDS` does; returns the exit status."""
    sys.argv = words[1:] if words[0] == "-m" else words
    try:
        if words[:2] == ["-m", "mobile_sam"]:
            from mobile_sam.__main__ import main as verb

            return verb(words[2:])
        import snakemake.cli
        import snakemake.logging

        from tests.helpers.rule_blocks import WithoutMessages

        if VARIABLE in os.environ:
            # The Snakefile puts the directory of its Python first on the path of its jobs.
            sys.executable = str(Path(os.environ[VARIABLE]).with_name("bin") / "python")
        snakemake.logging.DefaultFormatter = WithoutMessages
        snakemake.cli.main(words[1:])
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)
    except BaseException:  # noqa: BLE001 - as Python itself ends
        traceback.print_exc()
        return 1
    return 0


def _serve_one(connection: socket.socket) -> None:
    """Fork the command of a client and report its status; a client that dies ends it."""
    length, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    content = b""
    while len(content) < int.from_bytes(length, "big"):
        content += connection.recv(1 << 16)
    task = json.loads(content)
    child = os.fork()
    if child == 0:
        connection.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, max(descriptors) + 1)
        os.environ.clear()
        os.environ.update(task["environment"])
        os.chdir(task["directory"])
        status = _command(task["words"])
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([ended, connection.fileno()], [], [])
    if ended not in ready:
        os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    if ended in ready:
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def main(path: str) -> None:
    """Serve until standard input is closed."""
    ready = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    import snakemake.cli  # noqa: F401
    import torch
    import torch.utils.tensorboard

    torch.set_num_threads(1)
    for name in PRELOADED:
        importlib.import_module(f"mobile_sam.{name}")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(64)
        gc.freeze()
        os.write(ready, b"ready\n")
        os.close(ready)
        while True:
            readable, _, _ = select.select([server.fileno(), 0], [], [], 1)
            if server.fileno() in readable:
                connection, _ = server.accept()
                if os.fork() == 0:
                    server.close()
                    _serve_one(connection)
                    os._exit(0)
                connection.close()
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
            if 0 in readable and server.fileno() not in readable:
                return


if __name__ == "__main__":
    main(sys.argv[1])
