"""benchmarks/network.py: ranks with addresses of their own speak TCP, the relay is as slow and as lossy as it says, a cut cable stops
them, and nothing stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import need_mpi
from network import MpiResult, MpiRun, Namespaces, NetworkError, Relay, execute, missing

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
TEMPORARY = Path(tempfile.gettempdir())
NETNS = Path("/run/netns")

pytestmark = [pytest.mark.network, pytest.mark.slow]

DELAY_SECONDS = 0.02

#: Ranks in a ring: each sends MESSAGES messages of BYTES bytes to the next by persistent synchronous requests, ROUNDS times, prints the
#: seconds of each round, and exits 4 when one takes more than LIMIT seconds (0: never).
RING = r"""
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void print_place(int rank)
{
    struct ifaddrs *all;
    char host[64], directory[512];
    gethostname(host, sizeof host);
    getifaddrs(&all);
    printf("rank %d host %s pid %d folder %s word %s addresses", rank, host, getpid(), getcwd(directory, sizeof directory), getenv("WORD"));
    for (struct ifaddrs *one = all; one; one = one->ifa_next)
        if (one->ifa_addr && one->ifa_addr->sa_family == AF_INET)
            printf(" %s", inet_ntoa(((struct sockaddr_in *)one->ifa_addr)->sin_addr));
    printf("\n");
    freeifaddrs(all);
}

int main(int count, char **arguments)
{
    int rank, size, bytes = atoi(arguments[1]), messages = atoi(arguments[2]), rounds = atoi(arguments[3]);
    double limit = atof(arguments[4]);
    MPI_Init(&count, &arguments);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    print_place(rank);
    char *in = calloc(messages, bytes), *out = calloc(messages, bytes);
    MPI_Request *requests = calloc(2 * messages, sizeof *requests);
    for (int i = 0; i < messages; i++) {
        MPI_Recv_init(in + (size_t)i * bytes, bytes, MPI_BYTE, (rank + size - 1) % size, i, MPI_COMM_WORLD, &requests[2 * i]);
        MPI_Ssend_init(out + (size_t)i * bytes, bytes, MPI_BYTE, (rank + 1) % size, i, MPI_COMM_WORLD, &requests[2 * i + 1]);
    }
    for (int round = 0; round < rounds; round++) {
        double start = MPI_Wtime();
        MPI_Startall(2 * messages, requests);
        for (int done = 0; !done;) {
            MPI_Testall(2 * messages, requests, &done, MPI_STATUSES_IGNORE);
            if (!done && limit > 0 && MPI_Wtime() - start > limit) {
                fprintf(stderr, "rank %d waits in round %d\n", rank, round);
                _exit(4);
            }
        }
        printf("round %d seconds %.6f\n", round, MPI_Wtime() - start);
        fflush(stdout);
    }
    MPI_Finalize();
    return 0;
}
"""

Ring = Callable[..., list[str]]


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    need_mpi()
    if reason := missing(relay=True):
        pytest.skip(reason)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Ring:
    """ring(bytes, messages, rounds, limit): the command line."""
    folder = tmp_path_factory.mktemp("ring")
    (folder / "ring.c").write_text(RING, encoding="ascii")
    execute("mpicc", "-O2", "-o", folder / "ring", folder / "ring.c")

    def command(size_bytes: int = 8, messages: int = 1, rounds: int = 10, limit: float = 0) -> list[str]:
        return [str(folder / "ring"), *map(str, (size_bytes, messages, rounds, limit))]

    return command


def names_left() -> set[str]:
    """Namespaces and folders of this process's harnesses."""
    return {path.name for path in left_by(os.getpid())}


def left_by(pid: int) -> list[Path]:
    return [path for folder in (NETNS, TEMPORARY) if folder.exists() for path in folder.glob(f"mlc-{pid}-*")]


def sent_bytes(space: str) -> int:
    """Bytes that a machine sent over the bridge."""
    (link,) = json.loads(execute("ip", "-n", space, "-s", "-j", "link", "show", "veth0"))
    return link["stats64"]["tx"]["bytes"]


def round_seconds(result: MpiResult, rank: int = 0) -> list[float]:
    return [float(text) for text in re.findall(r"^round \d+ seconds (.*)$", result.ranks[rank].output, re.MULTILINE)]


def wait_for_rounds(run: MpiRun, count: int) -> None:
    deadline = time.monotonic() + 30
    while run.output(0).count("round") < count:
        assert time.monotonic() < deadline, "the ring does not turn"
        time.sleep(0.05)


def test_every_rank_has_its_own_machine(ring: Ring, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    with Namespaces(count=4) as net:
        result = net.run_mpi(ring(100_000, 10, 5), ranks=4, env={"WORD": "it's one"}, folder=folder, timeout=30)
        sent = [sent_bytes(space) for space in net.spaces]
    assert (result.code, result.killed) == (0, 0), result
    for rank in result.ranks:
        place = rf"rank {rank.rank} host host{rank.rank} pid \d+ folder {folder} word it's one addresses 127.0.0.1 {rank.address}\n"
        assert re.match(place, rank.output), rank
        assert rank.code == 0
    assert len({rank.address for rank in result.ranks}) == 4
    assert min(sent) > 10 * 5 * 100_000, "the messages did not go over the network"
    assert not names_left()


def test_more_ranks_than_machines(ring: Ring) -> None:
    with Namespaces(count=3) as net:
        result = net.run_mpi(ring(), ranks=8, timeout=60)
    assert [rank.code for rank in result.ranks] == [0] * 8, result
    assert [re.findall(r"host (\S+)", rank.output)[0] for rank in result.ranks] == [f"host{i % 3}" for i in range(8)]


@pytest.mark.parametrize("control", [False, True])
def test_relay_delays_and_loses(ring: Ring, control: bool) -> None:
    with Namespaces(count=4) as net, Relay(net, DELAY_SECONDS, loss=0.01, seed=7, control=control) as relay:
        small = net.run_mpi(ring(8, 1, 20), ranks=4, timeout=60)
        large = net.run_mpi(ring(4000, 300, 5), ranks=4, timeout=120)
        counts = relay.counts()
    assert small.code == large.code == 0, (small, large)
    assert re.search(r"addresses 127.0.0.1 10.77.0.1 10.78.0.1$", small.ranks[0].output, re.MULTILINE)
    assert len(round_seconds(small)) == 20 and min(round_seconds(small)) >= 2 * DELAY_SECONDS
    assert counts["forwarded"] > 4 * 5 * 300 * 4000 / 1500
    assert 0.006 < counts["lost"] / (counts["lost"] + counts["forwarded"]) < 0.015, counts


def test_losses_follow_from_the_seed() -> None:
    def arrived(seed: int) -> str:
        # SO_RCVBUFFORCE: what arrives while the receiver is not run is not to be lost. One of the ends arrives.
        receive = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)\n"
        receive += "s.bind(('', 5000)); s.settimeout(30); print('bound', flush=True)\n"
        receive += "while (text := s.recv(9)) != b'end': print(text.decode())"
        send = "import socket; s = socket.socket(type=socket.SOCK_DGRAM)\n"
        send += "for text in [*map(str, range(400)), *['end'] * 60]: s.sendto(text.encode(), ('10.78.0.2', 5000))"
        with Namespaces(count=2) as net, Relay(net, 0.001, loss=0.3, seed=seed):
            enter = [["ip", "netns", "exec", space, sys.executable, "-c"] for space in net.spaces]
            with subprocess.Popen([*enter[1], receive], stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout and process.stdout.readline() == "bound\n"
                execute(*enter[0], send)
                return process.stdout.read()

    first = arrived(1)
    assert 220 < len(first.split()) < 340
    assert first == arrived(1) != arrived(2)


def test_cut_run_ends_at_the_timeout(ring: Ring) -> None:
    with Namespaces(count=4) as net, Relay(net, DELAY_SECONDS, loss=0.01) as relay:
        run = net.start_mpi(ring(rounds=100_000), ranks=4)
        wait_for_rounds(run, 5)
        relay.cut()
        forwarded = relay.counts()["forwarded"]
        result = run.wait(timeout=2)
        assert relay.counts()["forwarded"] == forwarded
        assert result.code is None and result.killed > 4 and {rank.code for rank in result.ranks} == {None}
        assert not net.processes()
        relay.restore()
        assert net.run_mpi(ring(), ranks=4, timeout=60).code == 0
    assert not names_left()


def test_ranks_that_give_up_are_seen(ring: Ring) -> None:
    """One machine loses its cable; the ranks notice by their own limit and their exit code comes through mpirun."""
    with Namespaces(count=4) as net, Relay(net, DELAY_SECONDS, loss=0.01) as relay:
        run = net.start_mpi(ring(rounds=100_000, limit=2), ranks=4)
        wait_for_rounds(run, 5)
        relay.cut([2])
        result = run.wait(timeout=40)
    assert (result.code, result.killed) == (4, 0), result
    assert {rank.code for rank in result.ranks} <= {4, 143, None}
    gone = [rank for rank in result.ranks if rank.code == 4]
    assert gone and all(f"rank {rank.rank} waits in round" in rank.errors for rank in gone)


def test_launcher_notices_that_its_daemons_are_cut_off(ring: Ring) -> None:
    with Namespaces(count=3) as net, Relay(net, DELAY_SECONDS, loss=0.01, control=True) as relay:
        run = net.start_mpi(ring(rounds=100_000), ranks=3)
        wait_for_rounds(run, 5)
        relay.cut()
        result = run.wait(timeout=50)
    assert result.code not in (0, None) and result.killed == 0, result
    assert "lost communication with a remote daemon" in result.launcher


def test_killed_rank_ends_the_run(ring: Ring) -> None:
    with Namespaces(count=3) as net:
        run = net.start_mpi(ring(rounds=100_000_000), ranks=3)
        wait_for_rounds(run, 5)
        pid = run.pid(1)
        assert pid
        os.kill(pid, signal.SIGKILL)
        result = run.wait(timeout=30)
    assert result.code not in (0, None) and result.killed == 0, result
    assert result.ranks[1].code == 128 + signal.SIGKILL


def test_nothing_stays_after_an_exception(ring: Ring) -> None:
    with pytest.raises(KeyError, match="on purpose"), Namespaces(count=2) as net, Relay(net):
        wait_for_rounds(net.start_mpi(ring(rounds=100_000), ranks=2), 1)
        with pytest.raises(NetworkError, match="busy"):
            net.start_mpi(ring(), ranks=2)
        raise KeyError("on purpose")
    assert not net.processes() and not names_left()


def test_next_harness_removes_what_a_killed_one_left(ring: Ring) -> None:
    program = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\nfrom network import Namespaces, Relay\n"
    program += f"with Namespaces(count=2) as net, Relay(net) as relay:\n    run = net.start_mpi({ring(rounds=100_000)!r}, ranks=2)\n"
    program += "    while 'round' not in run.output(0): pass\n    print('ready', flush=True)\n    input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.kill()
    assert left_by(process.pid)
    with Namespaces(count=1):
        assert not left_by(process.pid)
