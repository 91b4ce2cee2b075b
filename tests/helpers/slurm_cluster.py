"""A SLURM of two nodes on this machine, real in everything but its size."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
NODES = ("n1", "n2")
# Where programs in jobs look, whatever SLURM_CONF says.
_FOUND = Path("/etc/slurm")
_PORT = 17017  # of the controller; the nodes have the next ones

# As many processors and GPUs as the profile asks for, however many there are. GPUs are files that
# every machine has. `urgent` takes nodes from all others, and warns the jobs of `gpu` alone.
_SLURM_CONF = """
ClusterName=mobile_sam
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.sock,cred_expire=20
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
MinJobAge=600
ReturnToService=1
NodeName=n[1-2] NodeAddr=127.0.0.1 NodeHostname={host} Port=[{first}-{last}] CPUs=64 \
RealMemory=500000 Gres=gpu:4
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=gpu Nodes=ALL MaxTime=INFINITE PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10
"""
_GRES_CONF = "NodeName=n[1-2] Name=gpu File=/dev/tty[0-3]\n"


class Cluster:
    """munged, slurmctld and two slurmd, all of this user, with their files in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Begin, and wait until both nodes take jobs; RuntimeError where a SLURM is set up."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o755)
        self._configure()
        key = self.directory / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        socket_path = self.directory / "munge.sock"
        files = {"key-file": key, "socket": socket_path}
        files |= {
            f"{name}-file": self.directory / f"munged.{name}" for name in ("pid", "log", "seed")
        }
        self._begin("munged", "--foreground", "--force", *(f"--{k}={v}" for k, v in files.items()))
        wait_until(socket_path.exists, "munged opens its socket")
        self.start_controller()
        for node in NODES:
            self._begin(
                node, "-D", "-N", node, "-f", self.directory / "slurm.conf", program="slurmd"
            )
        self.wait_until_idle()

    def start_controller(self) -> None:
        self._begin("slurmctld", "-D", "-f", self.directory / "slurm.conf")
        wait_until(lambda: query("scontrol", "ping").returncode == 0, "slurmctld answers")

    def stop_controller(self) -> None:
        """End slurmctld as `systemctl stop` does; jobs go on without it."""
        self._end("slurmctld")

    def stop(self) -> None:
        """End all jobs, then what `start` began, and take back its links."""
        if "slurmctld" in self._running:
            self.wait_until_idle()
        for name in reversed(list(self._running)):
            self._end(name)
        for name in ("slurm.conf", "gres.conf"):
            (_FOUND / name).unlink(missing_ok=True)

    def wait_until_idle(self) -> None:
        """Cancel what there is, and wait until both nodes take jobs."""
        query("scancel", "--user=root")
        idle = dict.fromkeys(NODES, "idle")
        wait_until(lambda: self.states() == idle, f"idle nodes, {self.states()}")

    def states(self) -> dict[str, str]:
        """By node: idle, mixed, allocated, down ..."""
        lines = query("sinfo", "--noheader", "--Node", "--format=%N %T").stdout.splitlines()
        return dict(line.split() for line in lines)

    def _configure(self) -> None:
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.directory / name).mkdir(exist_ok=True)
        values = {"directory": self.directory, "host": socket.gethostname().split(".")[0]}
        ports = {"port": _PORT, "first": _PORT + 1, "last": _PORT + len(NODES)}
        for name, text in {
            "slurm.conf": _SLURM_CONF.format(**values, **ports),
            "gres.conf": _GRES_CONF,
        }.items():
            (self.directory / name).write_text(text)
            link = _FOUND / name
            if link.exists() and not link.is_symlink():
                raise RuntimeError(f"{link}: this machine has a SLURM of its own; not touched")
            link.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(self.directory / name)

    def _begin(self, name: str, *arguments: str | Path, program: str | None = None) -> None:
        found = shutil.which(program or name, path=f"{os.environ['PATH']}:/usr/sbin")
        with (self.directory / f"{name}.out").open("ab") as output:
            self._running[name] = subprocess.Popen(
                [found or name, *map(str, arguments)],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _end(self, name: str) -> None:
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def query(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM to its end."""
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=60
    )


def jobs() -> dict[str, tuple[str, str]]:
    """Of all jobs that have not ended: state and comment (`rule_<name>`), by job id."""
    lines = query("squeue", "--noheader", "--format=%i %T %k").stdout.splitlines()
    return {number: (state, comment) for number, state, comment in map(str.split, lines)}


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Look until `condition` holds; AssertionError that says `what` does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)
