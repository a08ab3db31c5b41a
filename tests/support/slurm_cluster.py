"""A real SLURM on this machine: slurmctld and N slurmd with fake GPUs, on loopback, without systemd or root's files.

    .venv/bin/python -m tests.support.slurm_cluster --nodes 4        # stays up until Ctrl-C
    export SLURM_CONF=...                                            # as it prints; then sinfo, sbatch, duetto submit

Each node is a slurmd in its own pid, uts and mount namespace: own host name, own /etc/hosts, and a power-off that takes
everything with it. Without CAP_SYS_ADMIN the nodes are plain daemons (same tests, no host names). Everything lives in
one scratch folder and dies with the process that started it.
"""

import argparse
import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
PLACES = ("/usr/sbin", "/usr/bin", "/usr/local/sbin")

CONFIG = """\
ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job may start again as soon as its old credential expires; the default is 120 s.
AuthInfo=socket={root}/munge.socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/pid/slurmctld
SlurmdPidFile={root}/pid/%n
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# Nodes may claim more cores and memory than the machine has.
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0,requeue_setup_env_fail
GresTypes=gpu
ReturnToService=2
JobRequeue=1
MpiDefault=none
SlurmctldTimeout=30
SlurmdTimeout={down_after}
MessageTimeout=10
InactiveLimit=0
KillWait=5
UnkillableStepTimeout=20
DefMemPerCPU=500
# Finished jobs stay visible to squeue and scontrol: there is no slurmdbd.
MinJobAge=3600
MaxArraySize=1001
CompleteWait=0
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={root}/log/jobcomp.txt
NodeName={names} {node_host}NodeAddr={addresses} Port={ports} CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=batch Nodes=ALL Default=YES DefaultTime=10 MaxTime=60 State=UP
"""


def missing() -> list[str]:
    """Programs of SLURM and munge that are not installed."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *PLACES])
    return [p for p in PROGRAMS if shutil.which(p, path=path) is None]


def has_namespaces() -> bool:
    probe = ["unshare", "--mount", "--uts", "--pid", "--fork", "true"]
    return os.geteuid() == 0 and subprocess.run(probe, capture_output=True).returncode == 0


def _with_parent() -> None:
    """A daemon dies with the process that started it, and does not hear its Ctrl-C."""
    PR_SET_PDEATHSIG = 1
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_ports(count: int) -> int:
    """First of ``count`` neighbouring ports that nothing listens on."""
    for _ in range(100):
        first = random.randrange(21_000, 31_000, 20)
        try:
            for port in range(first, first + count):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no free ports")


def _range(prefix: str, first: int, count: int) -> str:
    return f"{prefix}{first}" if count == 1 else f"{prefix}[{first}-{first + count - 1}]"


class MiniCluster:
    """``with MiniCluster(nodes=4) as cluster:``; ``cluster.env`` makes every SLURM client talk to it."""

    def __init__(
        self,
        nodes: int = 4,
        gpus: int = 8,
        cpus: int = 16,
        memory_mb: int = 64_000,
        down_after: int = 10,
        namespaces: bool | None = None,
    ):
        self.nodes = [f"node{i + 1}" for i in range(nodes)]
        self.root = Path(tempfile.mkdtemp(prefix="duetto-slurm-", dir="/tmp"))  # a short path: sockets live in it
        self.namespaces = has_namespaces() if namespaces is None else namespaces
        self.port = _free_ports(nodes + 2)
        self.gpus, self.cpus, self.memory_mb, self.down_after = gpus, cpus, memory_mb, down_after
        self.conf = self.root / "slurm.conf"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.up_seconds = 0.0
        path = os.pathsep.join([os.environ.get("PATH", ""), *PLACES])
        self.env: Mapping[str, str] = {**os.environ, "SLURM_CONF": str(self.conf), "PATH": path}

    def __enter__(self) -> "MiniCluster":
        started = time.monotonic()
        try:
            self._write()
            self._daemon("munged", *self._munge())
            self._wait(lambda: (self.root / "munge.socket").exists(), 10, "munged")
            self._daemon("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
            for node in self.nodes:
                self.power_on(node)
            self._wait(lambda: list(self.states().values()) == ["idle"] * len(self.nodes), 30, "idle nodes")
        except BaseException:
            self.__exit__()
            raise
        self.up_seconds = time.monotonic() - started
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            self.client("scancel", "--full", "-u", str(os.getuid()), check=False, timeout=5)
        for name in [*self.nodes, "slurmctld", "munged"]:
            if name in self.daemons:
                self._stop(name)
        self._end_strays()
        shutil.rmtree(self.root, ignore_errors=True)

    def client(self, *command: str, check: bool = True, timeout: float = 20) -> str:
        """Output of a SLURM client; a hanging one is a failure."""
        done = subprocess.run(command, env=dict(self.env), capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def states(self) -> dict[str, str]:
        """``{"node1": "idle", ...}``; empty while slurmctld does not answer."""
        lines = self.client("sinfo", "-h", "-N", "-o", "%N %T", check=False).splitlines()
        return dict(line.split()[:2] for line in lines if len(line.split()) == 2)

    def job_state(self, job: str) -> str:
        """``PENDING``, ``RUNNING``, ``COMPLETED``, ... or ``GONE``."""
        return self.client("squeue", "-h", "-t", "all", "-j", job, "-o", "%T", check=False).split("\n")[0] or "GONE"

    def wait_job(self, job: str, states: tuple[str, ...], timeout: float = 120) -> str:
        """Wait until the job is in one of the states; another final state ends the waiting too."""
        final = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "GONE", *states}
        end = time.monotonic() + timeout
        while (state := self.job_state(job)) not in final:
            if time.monotonic() > end:
                raise TimeoutError(f"job {job} is {state} after {timeout} s; wanted {states}")
            time.sleep(0.2)
        return state

    def power_off(self, node: str) -> None:
        """As if the plug were pulled: slurmd and everything that it runs."""
        self._stop(node, hard=True)

    def power_on(self, node: str) -> None:
        slurmd = f"exec slurmd -D -N {node} -f '{self.conf}'"
        if not self.namespaces:
            self._daemon(node, "bash", "-c", slurmd)
            return
        # bash is process 1 of the node: it reaps what jobs leave, and its death ends the namespace
        inside = (
            f"hostname {node}; mount --bind '{self.root}/hosts' /etc/hosts; "
            f"bash -c \"{slurmd}\" & trap 'kill $!; wait' TERM; wait $!"
        )
        apart = ["unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--propagation", "private"]
        self._daemon(node, *apart, "--kill-child", "bash", "-c", inside)

    def _write(self) -> None:
        for folder in ("state", "spool", "log", "pid", "dev", *(f"spool/{n}" for n in self.nodes)):
            (self.root / folder).mkdir(parents=True)
        self.root.chmod(0o755)
        for i in range(self.gpus):
            # real device nodes (of /dev/null): with plain files SLURM leaves CUDA_VISIBLE_DEVICES empty
            device = self.root / "dev" / f"nvidia{i}"
            try:
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            except PermissionError:
                device.touch()
        count, here = len(self.nodes), socket.gethostname().split(".")[0]
        hosts = [f"127.0.0.1 localhost {here}", *(f"127.0.1.{i + 1} {n}" for i, n in enumerate(self.nodes))]
        (self.root / "hosts").write_text("\n".join(hosts) + "\n")
        self.conf.write_text(
            CONFIG.format(
                root=self.root,
                host=here,
                port=self.port,
                names=_range("node", 1, count),
                node_host="" if self.namespaces else f"NodeHostname={here} ",
                addresses=_range("127.0.1.", 1, count),
                ports=_range("", self.port + 1, count),
                cpus=self.cpus,
                memory=self.memory_mb,
                gpus=self.gpus,
                down_after=self.down_after,
            )
        )
        files = _range(f"{self.root}/dev/nvidia", 0, self.gpus)
        (self.root / "gres.conf").write_text(f"NodeName={_range('node', 1, count)} Name=gpu File={files}\n")
        (self.root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)

    def _munge(self) -> list[str]:
        files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "pid/munged", "seed-file": "seed"}
        files["log-file"] = "log/munged.log"
        paths = [f"--{option}={self.root}/{name}" for option, name in files.items()]
        return ["munged", "--foreground", "--force", "--num-threads=2", *paths]

    def _daemon(self, name: str, *command: str) -> None:
        with open(self.root / "log" / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                command, env=dict(self.env), stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=_with_parent
            )

    def _stop(self, name: str, hard: bool = False) -> None:
        daemon = self.daemons.pop(name)
        if hard or (self.namespaces and name in self.nodes):
            daemon.kill()
        else:
            daemon.terminate()
        try:
            daemon.wait(timeout=5)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        if hard and not self.namespaces:
            self._end_strays(node=name)

    def _end_strays(self, node: str | None = None) -> None:
        """Kill slurmstepds and job processes of this very cluster: linuxproc loses those that called setsid."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environ = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            ours = f"SLURM_CONF={self.conf}".encode() in environ
            of_node = node is None or f"SLURMD_NODENAME={node}".encode() in environ
            of_job = any(e.startswith(b"SLURM_JOB_ID=") for e in environ)
            with contextlib.suppress(OSError):
                stepd = "slurmstepd" in os.readlink(folder / "exe")
                if ours and of_node and (of_job or stepd) and int(folder.name) != os.getpid():
                    os.kill(int(folder.name), signal.SIGKILL)

    def _wait(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not ready():
            dead = [n for n, d in self.daemons.items() if d.poll() is not None]
            if dead or time.monotonic() > end:
                logs = sorted((self.root / "log").glob("*"))
                tails = "\n".join(f"== {p.name}\n{p.read_text(errors='replace')[-800:]}" for p in logs)
                raise RuntimeError(f"no {what} after {seconds} s (dead: {dead})\n{tails}")
            time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description="a SLURM cluster on this machine, until Ctrl-C")
    parser.add_argument("--nodes", type=int, default=4)
    args = parser.parse_args()
    if absent := missing():
        raise SystemExit(f"not installed: {', '.join(absent)} (Debian: slurmctld slurmd slurm-client munge)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with MiniCluster(args.nodes) as cluster, contextlib.suppress(KeyboardInterrupt):
        print(f"{args.nodes} nodes idle after {cluster.up_seconds:.1f} s; in another terminal:", flush=True)
        print(f"export SLURM_CONF={cluster.conf}", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
