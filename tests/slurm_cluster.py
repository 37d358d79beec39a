"""A real SLURM on this machine: a controller, two nodes with two GPUs each, one without.

The GPUs are links to /dev/null and /dev/zero: SLURM hands them out, counts them and sets
``CUDA_VISIBLE_DEVICES``, and nothing computes on them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
PR_SET_PDEATHSIG = 1  # of prctl(2)
NODES = ("gpu1", "gpu2", "cpu1")
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])

SLURM_CONF = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
MinJobAge=300
KillWait=3
SlurmctldTimeout=30
SlurmdTimeout=8
MessageTimeout=10
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
NodeName=gpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port={gpu1} CPUs=8 RealMemory=64000 Gres=gpu:2
NodeName=gpu2 NodeHostname={host} NodeAddr=127.0.0.1 Port={gpu2} CPUs=8 RealMemory=64000 Gres=gpu:2
NodeName=cpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port={cpu1} CPUs=16 RealMemory=64000
PartitionName=cpu Nodes=cpu1 Default=YES MaxTime=INFINITE DefaultTime=5 State=UP
PartitionName=gpu Nodes=gpu1,gpu2 Default=NO MaxTime=INFINITE DefaultTime=5 State=UP
"""
GRES_CONF = """\
NodeName=gpu1 Name=gpu File={folder}/dev/gpu[0-1]
NodeName=gpu2 Name=gpu File={folder}/dev/gpu[0-1]
"""
# A job step drops every variable of SLURM's before it calls srun, and with them where this is.
SRUN = """\
#!/bin/sh
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""


def missing_programs() -> list[str]:
    """What is not installed of all that a cluster needs."""
    return [name for name in PROGRAMS if not shutil.which(name, path=SEARCHED)]


class Cluster:
    """SLURM in a folder of its own, on free ports of the loopback device."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen] = {}
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("SLURM_")},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": os.pathsep.join([str(folder / "bin"), SEARCHED]),
        }

    def _write_files(self) -> None:
        for name in ("state", "dev", "bin", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "dev/gpu0").symlink_to("/dev/null")
        (self.folder / "dev/gpu1").symlink_to("/dev/zero")
        with ExitStack() as stack:  # all at once, or one port may be given twice
            sockets = [stack.enter_context(socket.socket()) for _ in range(4)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            ports = [one.getsockname()[1] for one in sockets]
        values = dict(zip(("controller", *NODES), ports, strict=True), folder=self.folder)
        values |= {"host": socket.gethostname().split(".")[0], "user": psutil.Process().username()}
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format(**values))
        (self.folder / "gres.conf").write_text(GRES_CONF.format(**values))
        srun = self.folder / "bin/srun"
        srun.write_text(SRUN.format(folder=self.folder, srun=shutil.which("srun", path=SEARCHED)))
        srun.chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))

    @staticmethod
    def _end_with_parent() -> None:
        """Have Linux end this daemon should the tests be killed, which then stop nothing."""
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("w") as output:
            self.daemons[name] = subprocess.Popen(
                command, env=self.env, stdout=output, stderr=output, start_new_session=True,
                preexec_fn=self._end_with_parent,
            )  # fmt: skip

    def start(self) -> None:
        """Start all daemons, and wait until every node is idle."""
        self._write_files()
        files = {"socket": "sock", "key-file": "key", "pid-file": "pid", "seed-file": "seed"}
        options = [f"--{option}={self.folder}/munge.{end}" for option, end in files.items()]
        log = f"--log-file={self.folder}/munged.log"
        self._start("munged", "munged", "--foreground", "--force", *options, log)
        self.wait_for(lambda: (self.folder / "munge.sock").exists(), "munged")
        self._start("slurmctld", "slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        self.wait_for(lambda: set(self.node_states().values()) == {"idle"}, "the nodes")

    def start_node(self, node: str) -> None:
        self._start(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """What a power cut does: the daemon and all that runs on the node is gone at once."""
        self.daemons[node].kill()
        self.daemons.pop(node).wait()
        for process in self.processes(SLURMD_NODENAME=node):
            process.kill()

    def stop(self) -> None:
        """End everything that this cluster started, whatever state it is in."""
        if "slurmctld" in self.daemons:
            self.run("scancel", "--user", psutil.Process().username(), check=False)
            self.wait_for(lambda: not self.run("squeue", "--noheader"), "jobs to end", fail=False)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        for process in self.processes():
            process.kill()
        psutil.wait_procs(self.processes(), 5)

    def processes(self, **variables: str) -> list[psutil.Process]:
        """Everything alive with this cluster's settings and these variables in its environment.

        And the step daemons over it, the first to be killed: they overwrite their environment.
        """
        variables |= {"SLURM_CONF": self.env["SLURM_CONF"]}
        found, daemons = [], set()
        for process in psutil.process_iter():
            try:
                if variables.items() <= process.environ().items():
                    found.append(process)
                    daemons |= {p for p in process.parents() if p.name() == "slurmstepd"}
            except psutil.Error:  # it ended meanwhile, or is not ours
                continue
        return [*daemons, *found]

    def run(self, *command: str, check: bool = True) -> str:
        """Call one of SLURM's commands; gives what it says."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done.stdout

    def node_states(self) -> dict[str, str]:
        lines = self.run("sinfo", "--noheader", "-N", "-o", "%N %t", check=False).splitlines()
        return dict(line.split() for line in lines)

    def wait_for(self, condition, what: str, seconds: float = 30, fail: bool = True) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return
            time.sleep(0.1)
        assert not fail, f"waited {seconds} s for {what}"
