"""The runtime API of the execution shim: what order it keeps, what it refuses, what it reports."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from shim_library import KERNELS, SCHEDULES, Array, Device, build, of_shim

pytestmark = of_shim

SIZE = 256  # bytes: 64 ints, as every kernel of faults.cu takes
Pointer = ctypes.c_void_p


class Host(Device):
    """Streams, events and graphs by hand."""

    def make(self, what: str, *arguments: object) -> Pointer:
        made = Pointer()
        assert getattr(self.library, what)(ctypes.byref(made), *arguments) == 0
        return made

    def stream(self) -> Pointer:
        return self.make("cudaStreamCreateWithFlags", 1)

    def step(self, given: Pointer, out: Pointer, stream: Pointer | None, threads: int = 64, shared: int = 0) -> int:
        return self.library.run_step(given, out, threads, ctypes.c_size_t(shared), stream)

    def ok(self, call: str, *arguments: object) -> None:
        assert getattr(self.library, call)(*arguments) == 0

    def error(self, call: str, *arguments: object) -> int:
        return getattr(self.library, call)(*arguments)

    def capture(self, stream: Pointer) -> None:
        self.ok("cudaStreamBeginCapture", stream, 0)

    def end_capture(self, stream: Pointer) -> Pointer:
        return self.instance(self.make_graph(stream))

    def make_graph(self, stream: Pointer) -> Pointer:
        graph = Pointer()
        self.ok("cudaStreamEndCapture", stream, ctypes.byref(graph))
        return graph

    def instance(self, graph: Pointer) -> Pointer:
        return self.make("cudaGraphInstantiate", graph, ctypes.c_ulonglong(0))


@pytest.fixture(scope="module")
def library() -> Iterator[Host]:
    host = Host("faults.cu")
    with host:
        yield host


@pytest.fixture(params=SCHEDULES, ids=lambda schedule: f"{schedule[0]}{schedule[1]}")
def host(library: Host, request: pytest.FixtureRequest) -> Iterator[Host]:
    library.schedule(*request.param)
    yield library
    assert library.reports() == []


NUMBERS = np.arange(64, dtype=np.int32)


def numbers(host: Host, pointer: Pointer) -> Array:
    return host.get(pointer, (64,), np.int32)


def test_an_event_orders_two_streams(host: Host) -> None:
    first, second, event = host.stream(), host.stream(), host.make("cudaEventCreate")
    a, b, c = host.put(NUMBERS), host.empty(SIZE), host.empty(SIZE)
    host.step(a, b, first)
    host.ok("cudaEventRecord", event, first)
    host.ok("cudaStreamWaitEvent", second, event, 0)
    host.step(b, c, second)
    host.ok("cudaStreamSynchronize", second)
    np.testing.assert_array_equal(numbers(host, c), NUMBERS + 2)


def test_two_streams_without_an_event(host: Host) -> None:
    first, second = host.stream(), host.stream()
    a, b, c = host.put(NUMBERS), host.put(NUMBERS), host.empty(SIZE)
    host.step(a, b, first)
    host.step(b, c, second)
    host.ok("cudaDeviceSynchronize")
    texts = host.reports()
    assert any("race between launches: kernel step" in text and "no stream or event orders" in text for text in texts), texts


def test_the_host_waits_between_two_streams(host: Host) -> None:
    first, second = host.stream(), host.stream()
    a, b = host.put(NUMBERS), host.empty(SIZE)
    host.step(a, b, first)
    host.ok("cudaStreamSynchronize", first)
    host.step(b, a, second)
    host.ok("cudaStreamSynchronize", second)
    np.testing.assert_array_equal(numbers(host, a), NUMBERS + 2)


def test_a_result_is_not_there_before_it_is_waited_for(host: Host) -> None:
    stream, pinned = host.stream(), host.make("cudaMallocHost", ctypes.c_size_t(SIZE))
    seen = np.ctypeslib.as_array((ctypes.c_int32 * 64).from_address(pinned.value or 0))
    seen[:] = -1
    a, b = host.put(NUMBERS), host.empty(SIZE)
    host.step(a, b, stream)
    host.ok("cudaMemcpyAsync", pinned, b, ctypes.c_size_t(SIZE), 2, stream)
    assert set(seen) == {-1}
    host.ok("cudaStreamSynchronize", stream)
    np.testing.assert_array_equal(seen, NUMBERS + 1)
    host.ok("cudaFreeHost", pinned)


def test_pinned_memory_is_sent_as_it_is_when_the_copy_runs(host: Host) -> None:
    """Late: a host that writes a buffer again before the copy is over sends the later value."""
    stream, pinned = host.stream(), host.make("cudaMallocHost", ctypes.c_size_t(SIZE))
    held = np.ctypeslib.as_array((ctypes.c_int32 * 64).from_address(pinned.value or 0))
    held[:] = 1
    a = host.empty(SIZE)
    host.ok("cudaMemcpyAsync", a, pinned, ctypes.c_size_t(SIZE), 1, stream)
    held[:] = 2
    host.ok("cudaStreamSynchronize", stream)
    assert set(numbers(host, a)) == {2}
    host.ok("cudaFreeHost", pinned)


def test_a_graph_runs_what_was_captured(host: Host) -> None:
    stream = host.stream()
    a, b = host.put(NUMBERS), host.empty(SIZE)
    host.capture(stream)
    host.step(a, b, stream)
    host.step(b, a, stream)
    graph = host.make_graph(stream)
    count = ctypes.c_size_t(0)
    host.ok("cudaGraphGetNodes", graph, None, ctypes.byref(count))
    assert count.value == 2
    exec_ = host.instance(graph)
    host.ok("cudaGraphDestroy", graph)
    for _ in range(3):
        host.ok("cudaGraphLaunch", exec_, stream)
    host.ok("cudaStreamSynchronize", stream)
    np.testing.assert_array_equal(numbers(host, a), NUMBERS + 6)
    host.ok("cudaGraphExecDestroy", exec_)


def fork(host: Host, joined: bool, ordered: bool) -> tuple[Pointer, Pointer, Pointer, list[Pointer]]:
    """a -> b on one stream, b or a -> c on another that joined the capture, c back if joined."""
    first, second = host.stream(), host.stream()
    forked, done = host.make("cudaEventCreate"), host.make("cudaEventCreate")
    a, b, c = host.put(NUMBERS), host.put(NUMBERS), host.empty(SIZE)
    host.capture(first)
    if not ordered:
        host.ok("cudaEventRecord", forked, first)
    host.step(a, b, first)
    if ordered:
        host.ok("cudaEventRecord", forked, first)
    host.ok("cudaStreamWaitEvent", second, forked, 0)
    host.step(b, c, second)
    host.ok("cudaEventRecord", done, second)
    if joined:
        host.ok("cudaStreamWaitEvent", first, done, 0)
    return first, second, done, [a, b, c]


def test_a_capture_of_two_streams(host: Host) -> None:
    first, _, _, (_, _, c) = fork(host, joined=True, ordered=True)
    exec_ = host.end_capture(first)
    host.ok("cudaGraphLaunch", exec_, first)
    host.ok("cudaStreamSynchronize", first)
    np.testing.assert_array_equal(numbers(host, c), NUMBERS + 2)


def test_an_event_of_a_capture_that_has_ended(library: Host) -> None:
    first, second, done, _ = fork(library, joined=True, ordered=True)
    library.end_capture(first)
    assert library.error("cudaStreamWaitEvent", second, done, 0) == 907
    assert library.error("cudaEventSynchronize", done) == 907
    assert len(library.reports()) == 2
    library.ok("cudaEventRecord", done, second)
    library.ok("cudaEventSynchronize", done)


def test_a_graph_that_orders_too_little(host: Host) -> None:
    first, _, _, _ = fork(host, joined=True, ordered=False)
    exec_ = host.end_capture(first)
    host.ok("cudaGraphLaunch", exec_, first)
    host.ok("cudaStreamSynchronize", first)
    texts = host.reports()
    assert any(text.startswith("race between launches: kernel step") for text in texts), texts


def test_a_capture_that_is_not_joined(library: Host) -> None:
    first, _, _, _ = fork(library, joined=False, ordered=True)
    graph = Pointer()
    assert library.error("cudaStreamEndCapture", first, ctypes.byref(graph)) == 904
    assert not graph
    assert "not been joined" in library.reports()[0]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("cudaDeviceSynchronize", 900),
        ("cudaMalloc", 900),
        ("cudaFree", 900),
        ("cudaMemcpy", 900),
        ("cudaMallocHost", 900),
        ("cudaStreamSynchronize", 900),
        ("default stream", 906),
        ("event from outside", 905),
        ("graph", 900),
        ("pageable", 900),
    ],
)
def test_calls_that_a_capture_refuses(library: Host, call: str, code: int) -> None:
    host = library
    stream, event, a, out = host.stream(), host.make("cudaEventCreate"), host.put(NUMBERS), Pointer()
    host.capture(stream)
    host.step(a, a, stream)
    exec_ = host.end_capture(stream)
    host.ok("cudaEventRecord", event, None)
    host.capture(stream)
    size = ctypes.c_size_t(SIZE)
    tried = {
        "cudaDeviceSynchronize": lambda: host.error("cudaDeviceSynchronize"),
        "cudaMalloc": lambda: host.error("cudaMalloc", ctypes.byref(out), size),
        "cudaFree": lambda: host.error("cudaFree", a),
        "cudaMemcpy": lambda: host.error("cudaMemcpy", a, NUMBERS.ctypes.data_as(Pointer), size, 1),
        "cudaMallocHost": lambda: host.error("cudaMallocHost", ctypes.byref(out), size),
        "cudaStreamSynchronize": lambda: host.error("cudaStreamSynchronize", stream),
        "default stream": lambda: host.step(a, a, None),
        "event from outside": lambda: host.error("cudaStreamWaitEvent", stream, event, 0),
        "graph": lambda: host.error("cudaGraphLaunch", exec_, stream),
        "pageable": lambda: host.error("cudaMemcpyAsync", a, NUMBERS.ctypes.data_as(Pointer), size, 1, stream),
    }[call]
    assert tried() == code
    assert len(host.reports()) == 1
    status, graph = ctypes.c_int(-1), Pointer()
    host.ok("cudaStreamIsCapturing", stream, ctypes.byref(status))
    assert status.value == (1 if call == "pageable" else 2)
    assert host.error("cudaStreamEndCapture", stream, ctypes.byref(graph)) == (0 if call == "pageable" else 901)
    host.library.cudaGetLastError()
    host.reports()


def test_graph_memory_after_free(host: Host) -> None:
    stream = host.stream()
    a, b = host.put(NUMBERS), host.empty(SIZE)
    host.capture(stream)
    host.step(a, b, stream)
    exec_ = host.end_capture(stream)
    host.ok("cudaFree", b)
    host.allocations.remove(b)
    host.ok("cudaGraphLaunch", exec_, stream)
    host.ok("cudaStreamSynchronize", stream)
    texts = host.reports()
    assert any(text.startswith("use after free: kernel step") and "freed allocation" in text for text in texts), texts
    assert any(text.startswith("out of bounds: kernel step") for text in texts), texts


def test_lifetimes(library: Host) -> None:
    host = library
    stream, event, a = host.stream(), host.make("cudaEventCreate"), host.empty(SIZE)
    host.ok("cudaFree", a)
    host.allocations.remove(a)
    assert host.error("cudaFree", a) == 1
    host.ok("cudaStreamDestroy", stream)
    assert host.error("cudaStreamSynchronize", stream) == 400
    assert host.error("cudaStreamDestroy", stream) == 400
    host.ok("cudaEventDestroy", event)
    assert host.error("cudaEventRecord", event, None) == 400
    assert host.error("cudaFreeHost", Pointer(4096)) == 1
    assert len(host.reports()) == 5


def test_copies_that_go_too_far(host: Host) -> None:
    a, b = host.put(NUMBERS), host.empty(SIZE)
    buffer = np.zeros(65, np.int32)
    size, over = ctypes.c_size_t(SIZE), ctypes.c_size_t(SIZE + 4)
    host.ok("cudaMemcpy", buffer.ctypes.data_as(Pointer), a, over, 2)
    host.ok("cudaMemcpy", b, a, over, 3)
    host.ok("cudaMemset", b, 0, over)
    host.ok("cudaDeviceSynchronize")
    assert [text.split(":")[0] for text in host.reports()] == ["out of bounds"] * 3
    host.ok("cudaMemcpy", buffer.ctypes.data_as(Pointer), b, size, 2)
    assert [text.split(":")[0] for text in host.reports()] == ["uninitialised read"]
    assert host.error("cudaMemcpy", a, b, size, 1) == 1
    assert len(host.reports()) == 1


def test_a_copy_passes_on_what_was_not_written(host: Host) -> None:
    a, b = host.empty(SIZE), host.empty(SIZE)
    host.ok("cudaMemcpy", b, a, ctypes.c_size_t(SIZE), 3)
    host.step(b, a, None)
    host.ok("cudaDeviceSynchronize")
    assert [text.split(":")[0] for text in host.reports()] == ["uninitialised read"]


def test_launches_that_no_device_takes(library: Host) -> None:
    host = library
    a, b = host.put(NUMBERS), host.empty(SIZE)
    assert host.step(a, b, None, threads=0) == 9
    assert host.step(a, b, None, threads=1025) == 9
    assert host.step(a, b, None, shared=49153) == 1
    host.ok("allow_shared", 60000)
    assert host.step(a, b, None, shared=60000) == 0
    assert host.step(a, b, None, shared=60001) == 1
    assert host.error("allow_shared", 232449) == 1
    host.ok("cudaDeviceSynchronize")
    assert len(host.reports()) == 5


def test_memory_of_the_device_ends(library: Host) -> None:
    free, total, out = ctypes.c_size_t(), ctypes.c_size_t(), Pointer()
    library.ok("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
    assert library.error("cudaMalloc", ctypes.byref(out), ctypes.c_size_t(free.value + 1)) == 2
    assert not out
    assert library.reports() == []


def test_tensors_of_a_plan(host: Host) -> None:
    """Three tensors in one allocation, a gap of 128 bytes between the first two; the third takes the place of the first."""
    stream, size = host.stream(), ctypes.c_size_t(SIZE)
    arena = host.empty(3 * SIZE)
    at = arena.value or 0
    first, second = Pointer(at), Pointer(at + SIZE + 128)
    host.ok("cudaMemsetAsync", arena, 0, ctypes.c_size_t(3 * SIZE), stream)
    host.ok("mlc_shim_region_close", arena, ctypes.c_size_t(3 * SIZE), stream)
    host.ok("mlc_shim_region_open", first, size, b"first", stream)
    host.ok("mlc_shim_region_open", second, size, b"second", stream)
    source = host.put(NUMBERS)
    host.step(source, first, stream)
    host.step(first, second, stream)
    host.ok("cudaDeviceSynchronize")
    np.testing.assert_array_equal(numbers(host, second), NUMBERS + 2)
    assert host.reports() == []
    host.library.run_planted(b"out_of_bounds", source, first, 1, stream)
    host.ok("cudaDeviceSynchronize")
    texts = host.reports()
    assert len(texts) == 1
    assert texts[0].startswith("out of bounds: kernel out_of_bounds")
    assert "`first` (256 bytes) + 256" in texts[0]
    host.ok("mlc_shim_region_open", first, size, b"third", stream)
    host.step(first, second, stream)
    host.ok("mlc_shim_region_close", second, size, stream)
    host.step(source, second, stream)
    host.ok("cudaDeviceSynchronize")
    texts = host.reports()
    assert [text.split(": kernel")[0] for text in texts] == ["uninitialised read", "out of bounds"]
    assert "`third`" in texts[0]
    assert "`second`" in texts[1]


def test_a_tensor_that_begins_while_its_place_is_in_use(host: Host) -> None:
    first, second, size = host.stream(), host.stream(), ctypes.c_size_t(SIZE)
    a, b = host.put(NUMBERS), host.put(NUMBERS)
    host.step(a, b, first)
    host.ok("mlc_shim_region_open", b, size, b"b", second)
    host.ok("cudaDeviceSynchronize")
    assert any(text.startswith("race between launches") for text in host.reports())


def ends_with(checked: bool, what: str) -> tuple[int, str]:
    """Exit code and stderr of a process of its own that does `what` with a device."""
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
import shim_library
device = shim_library.Device.of_library({str(build(KERNELS / "faults.cu", checked))!r})
device.library.mlc_shim_print(1)
given, out = device.put(np.arange(64, dtype=np.int32)), device.empty(256)
{what}
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    return ran.returncode, ran.stderr


@pytest.mark.parametrize("checked", [False, True])
def test_a_process_ends_with_what_was_reported(checked: bool) -> None:
    """An access far outside ends it with its place; one that was reported and not cleared makes its exit code."""
    far = "device.library.run_planted(b'out_of_bounds', given, out, 1 << 28, None); device.library.cudaDeviceSynchronize()"
    code, said = ends_with(checked, far)
    assert code == 66, said
    assert "mlc_shim: out of bounds: kernel out_of_bounds, block 0, thread " in said
    code, said = ends_with(checked, "device.library.run_step(given, out, 2000, 0, None)")
    assert code == 66
    assert "a block of 2000 threads" in said
    assert ends_with(checked, "device.library.run_step(given, out, 64, 0, None); device.library.cudaDeviceSynchronize()") == (0, "")


def test_operations_are_told_apart_after_many(library: Host) -> None:
    """Their numbers have 16 bits: at the end of them all so far are over, and a race is seen as before."""
    first, second, a, b = library.stream(), library.stream(), library.put(NUMBERS), library.put(NUMBERS)
    for _ in range(66000):
        library.library.cudaMemsetAsync(a, 0, ctypes.c_size_t(4), first)
    library.ok("cudaStreamSynchronize", first)
    assert library.reports() == []
    library.step(a, b, first)
    library.step(b, a, second)
    library.ok("cudaDeviceSynchronize")
    assert any(text.startswith("race between launches") for text in library.reports())
