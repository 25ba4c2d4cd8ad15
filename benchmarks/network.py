"""Machines that this one plays: network namespaces with their own addresses and host names, Open MPI between them, a bad cable.

    with Namespaces(count=4) as net:
        result = net.run_mpi([program, "--steps", "20"], ranks=4, timeout=60)

    with Namespaces(count=4) as net, Relay(net, delay_seconds=0.02, loss=0.01, seed=1) as relay:
        run = net.start_mpi([program, "--steps", "20"], ranks=4)
        relay.cut()
        result = run.wait(timeout=60)

A namespace stands for a machine: mpirun runs in the first and starts a daemon (orted) in each, as over ssh, through an agent that
enters the namespace instead. Every rank so has the network, the address and the host name of its machine and no shared-memory
transport to another one; the file system and the clock are common. The network is a bridge with one veth pair a namespace (10.77.0.x);
all of it lives in namespaces of ours, so that the network of this machine is neither used nor seen. A `Relay` adds a second
network (10.78.0.x) of TUN devices, one a namespace, joined by a process that delays and loses packets (relay.c).

It needs root, iproute2, util-linux, Open MPI 4 and, for the relay, a C compiler and /dev/net/tun; `missing` says what is not there.
Nothing stays behind: leaving `Namespaces` kills every process in its namespaces and removes them, their devices and its folder;
what a harness that was itself killed left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

NETNS = Path("/run/netns")
RELAY_SOURCE = Path(__file__).resolve().parent / "relay.c"

#: Ports of the relay (relay.c, PORTS).
COUNT_LIMIT = 64

#: Names of what belongs to a harness: its process id, and a number within the process.
OWNED = re.compile(r"mlc-(?P<pid>\d+)-\d+-\w+")

#: How TCP behaves in a namespace; a row the kernel does not have is left out. A lost packet that no later one reveals costs a timeout
#: (the round trip and at least 50 ms), and a peer that answers nothing is given up after tcp_retries2 of them: doubling to at most
#: 1 s, after about 5.6 s. bbr, like cubic, keeps its rate when 1% is lost by chance; reno falls to a tenth.
SETTINGS = {
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv4/tcp_sack": "1",
    "net/ipv4/tcp_rto_min_us": "50000",
    "net/ipv4/tcp_rto_max_ms": "1000",
    "net/ipv4/tcp_retries2": "8",
    "net/ipv4/tcp_syn_retries": "5",
    "net/ipv4/tcp_slow_start_after_idle": "0",
    "net/ipv4/tcp_thin_linear_timeouts": "1",
    "net/ipv4/tcp_congestion_control": "bbr",
}

#: Open MPI's own settings (environment variables OMPI_MCA_*): TCP only, no shared memory even within a namespace, ranks that yield
#: the processor while they wait.
#:
#: What Open MPI 4.1 makes of a cut cable: between ranks TCP gives up after 5.6 s where something was sent, ob1 then prints "readv
#: failed: Connection timed out" and waits on for ever, so that ending the run is the program's affair (or the caller's). Between
#: mpirun and its daemons the keepalive below notices in 5 s: mpirun exits 205 ("lost communication with a remote daemon"), each
#: daemon sends its ranks SIGTERM, and SIGKILL if they stay. A rank that exits with another status than 0 makes mpirun end the others
#: and exit with the first such status (orte_abort_on_non_zero_status=0: leave them alone, and exit 0).
OPEN_MPI = {
    "pml": "ob1",
    "btl": "tcp,self",
    "btl_tcp_disable_family": "6",
    "oob": "tcp",
    "oob_tcp_keepalive_time": "2",
    "oob_tcp_keepalive_intvl": "1",
    "oob_tcp_keepalive_probes": "3",
    "plm": "rsh",
    "plm_rsh_no_tree_spawn": "1",
    "orte_keep_fqdn_hostnames": "1",
    "hwloc_base_binding_policy": "none",
    "rmaps_base_oversubscribe": "1",
    "mpi_yield_when_idle": "1",
}

#: Started by mpirun in place of ssh, as `agent ADDRESS COMMAND...`: runs the shell command on the machine of that address.
AGENT = """#!/bin/sh
address=$1
shift
set -- $(grep -w "^$address" {table}) "$*"
exec ip netns exec "$2" unshare --uts sh -c 'hostname "$0" && mount --bind {hosts} /etc/hosts && eval "$1"' "$3" "$4"
"""

#: Runs one rank and keeps what it wrote and its exit status in files of its own, whatever becomes of the launcher. It outlives the
#: signals that the launcher sends to both, and ends as the rank ended.
RANK = """#!/bin/sh
{exports}
cd {folder} || exit 1
own={run}/$OMPI_COMM_WORLD_RANK
trap : TERM INT HUP USR1 USR2
sh -c 'echo $$ >"$0.pid"; exec "$@"' "$own" {command} >"$own.out" 2>"$own.err"
code=$?
echo $code >"$own.part" && mv "$own.part" "$own.code"
trap - TERM INT HUP USR1 USR2
[ $code -gt 128 ] && kill -$((code - 128)) $$
exit $code
"""


class NetworkError(Exception):
    """A command of the harness itself failed."""


@dataclass(frozen=True)
class RankResult:
    """`code` is the exit status (128 + n after signal n) and `seconds` the time from the start of the run to it; None when the
    rank was killed together with everything else on its machine, so that nobody saw it end."""

    rank: int
    address: str
    output: str
    errors: str
    code: int | None
    seconds: float | None


@dataclass(frozen=True)
class MpiResult:
    """`code` is mpirun's exit status, None when it was still running after the time allowed; `launcher` is what it said itself;
    `killed` counts the processes that had to be killed."""

    code: int | None
    seconds: float
    launcher: str
    ranks: tuple[RankResult, ...]
    killed: int


def missing(relay: bool = False) -> str | None:
    """Why this machine cannot do it, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [tool for tool in ("ip", "unshare", "mpirun", "orted", *(("cc",) if relay else ())) if shutil.which(tool) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    try:
        with Namespaces(count=1) as net:
            if relay:
                with Relay(net):
                    pass
    except NetworkError as error:
        return f"refused here: {error}"
    return None


def execute(*command: str | Path, text: str | None = None) -> str:
    """Standard output of a command that must succeed, given `text` as its input; NetworkError otherwise."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NetworkError(f"{shlex.join(map(str, command))}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def processes_in(spaces: Sequence[str]) -> list[int]:
    """Processes whose network is one of these namespaces."""
    wanted = set()
    for space in spaces:
        with contextlib.suppress(FileNotFoundError):
            wanted.add((NETNS / space).stat().st_ino)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "ns" / "net").stat().st_ino in wanted:
                    found.append(int(entry.name))
    return found


def kill_processes(spaces: Sequence[str]) -> int:
    """How many processes in these namespaces it killed; none is left (NetworkError if some survive ten seconds)."""
    killed = set()
    deadline = time.monotonic() + 10
    while found := processes_in(spaces):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed.update(found)
        if time.monotonic() > deadline:
            raise NetworkError(f"processes that do not die: {found}")
        time.sleep(0.02)
    return len(killed)


def remove_spaces(spaces: Sequence[str]) -> None:
    """Kills what runs in these namespaces and removes them, and their devices with them."""
    kill_processes(spaces)
    for space in spaces:
        with contextlib.suppress(NetworkError):
            execute("ip", "netns", "delete", space)
        if (NETNS / space).exists():
            raise NetworkError(f"namespace {space} cannot be removed")


def remove_abandoned() -> None:
    """Removes what harnesses left that no longer run."""
    remove_spaces([path.name for path in abandoned_in(NETNS)])
    for folder in abandoned_in(Path(tempfile.gettempdir())):
        shutil.rmtree(folder, ignore_errors=True)


def abandoned_in(folder: Path) -> list[Path]:
    """Entries of a folder named by a process that is gone."""
    matches = [(path, OWNED.fullmatch(path.name)) for path in (folder.iterdir() if folder.exists() else ())]
    return [path for path, match in matches if match and not Path("/proc", match["pid"]).exists()]


@dataclass(frozen=True)
class Network:
    """One network of the machines: the device of each, and the addresses in the order of the machines."""

    device: str
    addresses: tuple[str, ...]
    subnet: str


def network(device: str, prefix: str, count: int) -> Network:
    return Network(device, tuple(f"{prefix}.0.{i + 1}" for i in range(count)), f"{prefix}.0.0/16")


class Namespaces:
    """`count` machines on one bridge, as a context. `spaces` are their `ip netns` names, `hosts` their host names.

    `traffic` is the network that the ranks use among themselves, `control` the one between mpirun and its daemons: both the bridge
    unless a Relay changes them.
    """

    _numbers = itertools.count()

    def __init__(self, count: int) -> None:
        if not 1 <= count <= COUNT_LIMIT:
            raise ValueError(f"1 to {COUNT_LIMIT} namespaces, not {count}")
        own = f"mlc-{os.getpid()}-{next(self._numbers)}"
        self.count = count
        self.spaces = tuple(f"{own}-{i}" for i in range(count))
        self.hosts = tuple(f"host{i}" for i in range(count))
        self.bridge = network("veth0", "10.77", count)
        self.traffic = self.bridge
        self.control = self.bridge
        self.folder = Path(tempfile.gettempdir(), f"{own}-files")
        self._switch = f"{own}-switch"
        self._runs = itertools.count()

    def __enter__(self) -> Namespaces:
        remove_abandoned()
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remove()

    def processes(self) -> list[int]:
        """Everything that runs on the machines."""
        return processes_in(self.spaces)

    def start_mpi(
        self,
        program: Sequence[str | Path],
        ranks: int,
        env: Mapping[str, str] | None = None,
        folder: str | Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> MpiRun:
        """Starts `program` (any command line) on `ranks` ranks, rank r on machine r modulo count; one run at a time.

        env        variables added to the environment of every rank
        folder     where the ranks run, the current directory if None
        settings   parameters of Open MPI (names without OMPI_MCA_) over those of OPEN_MPI
        """
        if alive := self.processes():
            raise NetworkError(f"the machines are busy: processes {alive}")
        files = self.folder / f"run{next(self._runs)}"
        files.mkdir()
        machines = "".join(f"{address} slots={-(-ranks // self.count)}\n" for address in self.bridge.addresses)
        (files / "machines").write_text(machines, encoding="ascii")
        write_script(files / "rank", rank_script(program, env or {}, Path(folder or "."), files))
        mpirun = ("mpirun", "--hostfile", files / "machines", "--map-by", "node", "-np", ranks, files / "rank")
        with (files / "launcher").open("w", encoding="utf-8") as launcher:
            process = subprocess.Popen(
                [self.folder / "agent", self.bridge.addresses[0], shlex.join(map(str, mpirun))],
                stdin=subprocess.DEVNULL,
                stdout=launcher,
                stderr=subprocess.STDOUT,
                env=launcher_environment(self, settings or {}),
            )
        return MpiRun(self, files, ranks, process)

    def run_mpi(
        self,
        program: Sequence[str | Path],
        ranks: int,
        env: Mapping[str, str] | None = None,
        folder: str | Path | None = None,
        timeout: float = 60.0,
        settings: Mapping[str, str] | None = None,
    ) -> MpiResult:
        """As start_mpi, then waits for the end at most `timeout` seconds."""
        return self.start_mpi(program, ranks, env, folder, settings).wait(timeout)

    def configure(self, where: Network) -> None:
        """Gives the devices of a network their addresses and raises them."""
        for space, address in zip(self.spaces, where.addresses, strict=True):
            lines = (
                f"address add {address}/16 dev {where.device}",
                f"link set {where.device} txqueuelen 10000 up",
                f"route change {where.subnet} dev {where.device} src {address} initcwnd 64 initrwnd 64",
            )
            execute("ip", "-n", space, "-batch", "-", text="\n".join(lines))

    def _make(self) -> None:
        self.folder.mkdir(mode=0o700)
        table = [f"{address} {space} {host}" for address, space, host in zip(self.bridge.addresses, self.spaces, self.hosts)]
        hosts = ["127.0.0.1 localhost", *(f"{address} {host}" for address, host in zip(self.bridge.addresses, self.hosts))]
        (self.folder / "table").write_text("\n".join(table) + "\n", encoding="ascii")
        (self.folder / "hosts").write_text("\n".join(hosts) + "\n", encoding="ascii")
        write_script(self.folder / "agent", AGENT.format(table=self.folder / "table", hosts=self.folder / "hosts"))
        for space in (self._switch, *self.spaces):
            execute("ip", "netns", "add", space)
        execute("ip", "-n", self._switch, "link", "add", "bridge0", "up", "type", "bridge")
        for i, space in enumerate(self.spaces):
            execute("ip", "-n", self._switch, "link", "add", f"port{i}", "type", "veth", "peer", "name", "veth0", "netns", space)
            execute("ip", "-n", self._switch, "link", "set", f"port{i}", "master", "bridge0", "up")
            execute("ip", "-n", space, "link", "set", "lo", "up")
            write_settings(space)
        self.configure(self.bridge)

    def _remove(self) -> None:
        try:
            remove_spaces((*self.spaces, self._switch))
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


def write_script(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o700)


def rank_script(program: Sequence[str | Path], env: Mapping[str, str], folder: Path, files: Path) -> str:
    return RANK.format(
        exports="\n".join(f"export {name}={shlex.quote(value)}" for name, value in env.items()),
        folder=shlex.quote(str(folder.resolve())),
        run=shlex.quote(str(files)),
        command=shlex.join(map(str, program)),
    )


def write_settings(space: str) -> None:
    """SETTINGS in a namespace; /proc/sys/net is that of the process that looks, so a shell goes there."""
    lines = [f"[ ! -e /proc/sys/{name} ] || echo {value} >/proc/sys/{name} || true" for name, value in SETTINGS.items()]
    execute("ip", "netns", "exec", space, "sh", "-c", "exec 2>/dev/null\n" + "\n".join(lines))


class MpiRun:
    """A run under way: `process` is mpirun, `started` the time it was started, `folder` holds the files of the ranks (RANK)."""

    def __init__(self, net: Namespaces, folder: Path, ranks: int, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process
        self.started = time.time()
        self._net = net
        self._ranks = ranks

    def output(self, rank: int) -> str:
        """What a rank has written to standard output so far."""
        return self._text(f"{rank}.out")

    def pid(self, rank: int) -> int | None:
        """Process of a rank, None before it exists."""
        text = self._text(f"{rank}.pid")
        return int(text) if text.endswith("\n") else None

    def wait(self, timeout: float) -> MpiResult:
        """Waits until mpirun and every process on the machines are gone; kills what is left `timeout` seconds from now."""
        deadline = time.monotonic() + timeout
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
        code = self.process.poll()
        while time.monotonic() < deadline and self._net.processes():
            time.sleep(0.05)
        killed = kill_processes(self._net.spaces)
        self.process.wait()
        ranks = tuple(self._result(rank) for rank in range(self._ranks))
        return MpiResult(code, time.time() - self.started, self._text("launcher"), ranks, killed)

    def _result(self, rank: int) -> RankResult:
        path = self.folder / f"{rank}.code"
        code, seconds = (int(path.read_text()), path.stat().st_mtime - self.started) if path.exists() else (None, None)
        address = self._net.traffic.addresses[rank % self._net.count]
        return RankResult(rank, address, self.output(rank), self._text(f"{rank}.err"), code, seconds)

    def _text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def launcher_environment(net: Namespaces, settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of mpirun: ours without that of a launcher around it, and its settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_", "ORTE_"))}
    networks = {"btl_tcp_if_include": net.traffic.subnet, "oob_tcp_if_include": net.control.subnet}
    agent = {"plm_rsh_agent": str(net.folder / "agent"), "orte_tmpdir_base": str(net.folder)}
    chosen = {**OPEN_MPI, **networks, **agent, **settings}
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**kept, **root, **{f"OMPI_MCA_{name}": value for name, value in chosen.items()}}


class Relay:
    """A second network between the machines of `net`, over a bad cable, as a context within that of `net`.

    delay_seconds   added to every packet, one way: a round trip takes twice that longer
    loss            part of the packets lost, each on its own, of both directions
    seed            which ones: the n-th packet from one machine to another is lost or not by a hash of the seed (relay.c)
    control         whether mpirun's own connections go over it too; otherwise they stay on the bridge, as on a cluster with a
                    network for its management
    """

    def __init__(self, net: Namespaces, delay_seconds: float = 0.02, loss: float = 0.01, seed: int = 0, control: bool = False) -> None:
        if delay_seconds < 0 or not 0 <= loss <= 1:
            raise ValueError(f"delay {delay_seconds} s, loss {loss}: a delay is not negative, a loss lies in [0, 1]")
        self.network = network("tun0", "10.78", net.count)
        self._net = net
        self._arguments = ("tun0", str(round(delay_seconds * 1e6)), repr(loss), str(seed))
        self._control = control
        self._relay: subprocess.Popen[str] | None = None

    def __enter__(self) -> Relay:
        if not Path("/dev/net/tun").exists():
            raise NetworkError("no /dev/net/tun")
        program = self._net.folder / "relay"
        if not program.exists():
            execute("cc", "-std=gnu11", "-O2", "-o", program, RELAY_SOURCE)
        ports = [f"{space}={address}" for space, address in zip(self._net.spaces, self.network.addresses)]
        self._relay = subprocess.Popen(
            [program, *self._arguments, *ports], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            self._read_counts()
            self._net.configure(self.network)
        except BaseException:
            self._end()
            raise
        self._net.traffic = self.network
        if self._control:
            self._net.control = self.network
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def cut(self, machines: Sequence[int] | None = None) -> None:
        """Cuts the cables of these machines (all if None), whole until then or not; nothing more arrives there or from there."""
        cut = range(self._net.count) if machines is None else machines
        self._order("".join("0" if i in cut else "1" for i in range(self._net.count)))

    def restore(self) -> None:
        """Mends every cable."""
        self.cut(())

    def counts(self) -> dict[str, int]:
        """Packets so far: forwarded, lost (by chance), cut (at a cut cable), overflow (queue full or refused by the kernel)."""
        return self._order("")

    def _order(self, line: str) -> dict[str, int]:
        assert self._relay and self._relay.stdin
        with contextlib.suppress(BrokenPipeError):
            self._relay.stdin.write(line + "\n")
            self._relay.stdin.flush()
        return self._read_counts()

    def _read_counts(self) -> dict[str, int]:
        assert self._relay and self._relay.stdout and self._relay.stderr
        words = self._relay.stdout.readline().split()
        if not words:
            raise NetworkError(f"the relay ended: {self._relay.stderr.read().strip()}")
        return {name: int(count) for name, count in zip(words[::2], words[1::2])}

    def _end(self) -> None:
        assert self._relay
        self._net.traffic = self._net.control = self._net.bridge
        with contextlib.suppress(BrokenPipeError):
            self._relay.communicate()
