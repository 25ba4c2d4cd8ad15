/* shim.h: what the files of the execution shim share. Kernels do not see it.
 *
 *   block.cpp   one block: fibers, schedule, barriers, warps           copy.cpp    cp.async
 *   memory.cpp  device and shared memory, its shadow, the checks       tensor.cpp  ldmatrix, mma
 *   host.cpp    streams, events, graphs, allocations, launches         async.cpp   mbarriers, tensor copies, wgmma, tcgen05
 *   report.cpp  options, what was found                            nccl.cpp    messages between processes
 *
 * How races are found. Every thread has a clock that it advances at each synchronisation. A granule of memory remembers its last
 * write and two of the reads since, each with the clock of who did it. A later access is ordered after a remembered one if the thread
 * knows that clock: from a block-wide barrier (`Thread::base`, shared by all who passed it) or from its warp (`Thread::known`).
 * Blocks of a launch are not ordered; launches are ordered as streams, events and graphs order them.
 * Two reads suffice where barriers are the block's or a warp's: they are kept from different warps, so whoever writes too early races with
 * one. Kernels with other barriers (Block::fine) keep all reads. */
#ifndef MLC_SHIM_H
#define MLC_SHIM_H

#include <deque>
#include <functional>
#include <memory>
#include <stddef.h>
#include <stdint.h>
#include <string>
#include <unordered_map>
#include <vector>

#define MLC_SHIM
#include "mlc_cuda.h"

namespace mlc_shim {

constexpr int MAX_THREADS = 1024, MAX_WARPS = 32;
constexpr size_t STACK_BYTES = 64 << 10, GUARD_BYTES = 4096;
constexpr size_t SHARED_BYTES_OPTIN = 232448, SHARED_BYTES_DEFAULT = 49152; /* "Compute Capabilities", Technical Specifications */

enum class Order { FORWARD, REVERSE, RANDOM, AHEAD };

struct Options {
    Order order;
    uint64_t seed;
    size_t memory_bytes; /* of the device */
    bool apart;          /* what the host reads or writes there itself faults */
};

/* What became of a look at an operation that waits for another process. */
enum class Progress { BLOCKED, MOVED, DONE };

/* Queues an operation that is looked at until it is done. */
cudaError_t submit_step(cudaStream_t stream, const std::string &name, std::function<Progress()> step);
bool is_captured(cudaStream_t stream);
/* All that could run waits for other processes. waits: rests; false: nobody will go on, or the caller does not wait. */
bool nccl_rest(bool waits);

Options &options();
uint64_t draw(); /* the next number of the seed's row */

/* ---- report.cpp ---- */

struct Party { /* the other side of a race */
    int thread;    /* in its block, -1: of another launch */
    int64_t block; /* in its grid */
    uint32_t pc;   /* low half of the address, 0: not known */
};

/* Notes a fault of the running kernel (or of the host program, outside one). Same fault, same place: noted once, counted. */
void report(const char *fault, const void *address, uintptr_t pc, const char *format, ...) __attribute__((format(printf, 4, 5)));
/* Whether that fault was noted at that place already; counts it then. Before words are made for one more. */
bool reported(const char *fault, uintptr_t pc);
void knows_kernel(const void *kernel); /* before its launch: its code may be named */
std::string source_line(uint32_t pc);
bool in_constants(const void *p); /* in a loaded module, in a part that is never written */
void report_host(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- memory.cpp ---- */

struct Entry { /* an access; key: launch 16 bits, block 24, warp 5, atomic 1, clock 18 */
    uint64_t key;
    uint32_t lanes, pc;
};
constexpr uint64_t KEY_CLOSED = 0, KEY_UNWRITTEN = 1, KEY_HOST = 2, KEY_PENDING = 3, KEY_SPECIAL = 4;
/* Clock 0: a tensor of a plan began there, by that operation, and nothing wrote it since. */
constexpr uint64_t KEY_ATOMIC = 1 << 18, CLOCK_MASK = KEY_ATOMIC - 1;

enum Access { READ, WRITE, ATOMIC };

/* What an asynchronous operation reads of shared memory, and who had written it when the operation was issued. */
struct AsyncRead {
    const void *p;
    size_t bytes;
    std::vector<uint64_t> keys;
};

extern bool checked; /* kernels were compiled with -fsanitize=thread */
bool in_device(const void *p);
bool in_shared(const void *p);
/* An access of the running thread, by an instruction of the shim or of the kernel. */
void touch(const void *p, size_t bytes, Access access, uintptr_t pc);
void mark(const void *p, size_t bytes, uint64_t key); /* sets the state of a range */
/* What the asynchronous proxy is about to read for the running thread: written, ordered, fenced. */
AsyncRead begin_async_read(const void *p, size_t bytes, uintptr_t pc);
void end_async_read(const AsyncRead &read, bool agent, uintptr_t pc); /* nobody wrote it since */
void mark_agent_write(const void *p, size_t bytes, uintptr_t pc);
uint64_t agent_key();
void mark_pending(const void *p, size_t bytes, uintptr_t pc);
void touch_operation(const void *p, size_t bytes, Access access); /* a copy or fill by the host */
void open_region(void *p, size_t bytes, const char *name); /* by an operation: a tensor begins there */
void close_region(void *p, size_t bytes);
void copy_states(const void *to, const void *from, size_t bytes);
std::string describe(const void *p);
void *device_alloc(size_t bytes);
bool device_free(void *p);
size_t device_used();
bool device_contains(const void *p, size_t bytes); /* all of it in one live allocation */
void device_reach(bool reached);                       /* by the host */
/* Reports those that point to freed memory. */
void check_arguments(const char *kernel, const std::vector<Word> &words);
char *shared_pool(); /* address 0 of shared memory */
void shared_begin_launch(size_t dynamic_bytes);
void shared_begin_block();
void forget_operations(); /* all operations so far are over: their numbers are free again */

/* ---- block.cpp ---- */

/* The units that work on their own (tensor copies, tcgen05) are one more party, in the place of a block's last thread. */
constexpr int AGENT = MAX_THREADS - 1;

struct Clocks {
    uint32_t of[MAX_THREADS];
    uint32_t least[MAX_WARPS]; /* the least of a warp's */
};

struct Copy {
    void *to;
    const void *from;
    int size, bytes;
    uintptr_t pc;
};

constexpr int MEET_ALIGNED = 16; /* operations from here on are the whole warp's, together */

enum class State { READY, BARRIER, NAMED_BARRIER, WARP, MBARRIER, DONE };

struct Thread {
    void *sp;
    char *stack;
    Where *where;
    void *arguments; /* on its stack */
    int number, warp, lane;
    State state;
    uintptr_t waits_at;
    uint32_t clock;
    uint64_t key; /* of its accesses now */
    const Clocks *base;
    uint32_t known[32]; /* clocks of its warp's lanes */
    uint32_t known_least;
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> groups;
    uint32_t fenced; /* its writes up to this clock may be read by the asynchronous proxy */
    bool wgmma_fenced, tmem_fenced;
    std::vector<float *> sums; /* registers that a wgmma has yet to write, in pairs of begin and end */
    std::vector<std::function<void()>> stores;
    std::deque<std::vector<std::function<void()>>> store_groups;
};

struct Wgmma {
    float *d[32];
    uint32_t a_registers[32][4];
    std::vector<float> before; /* sums by lane, unless an operation before it yields them */
    uint64_t a, b;
    int n;
    bool from_registers, trans_a, trans_b, accumulate;
    std::vector<AsyncRead> reads;
    uintptr_t pc;
};

struct Mbarrier {
    uint32_t at; /* in shared memory */
    int made_by;
    uint32_t made; /* the clock of who made it */
    int arrivals, left;
    int64_t bytes; /* announced and not landed */
    uint32_t phase;
    Clocks joined, over; /* of who arrived; of the phases that are over */
    std::vector<int> waiting;
};

struct Meeting {
    int operation;
    uint32_t mask, arrived;
    uintptr_t pc;
};

struct Warp {
    uint64_t in[32][11], out[32][2];
    int operand[32], registers; /* 0: not set */
    bool tmem_read;             /* since the last mlc_tmem_fence_before */
    uint32_t exists, live, rank;
    std::vector<Meeting> pending;
    std::vector<Wgmma> open;
    std::deque<std::vector<Wgmma>> groups;
};

struct NamedBarrier {
    int expected, arrived;
    std::vector<int> waiting;
    std::vector<uint32_t> warps; /* lanes that arrived, by warp */
    std::unique_ptr<Clocks> joined;
    uintptr_t pc;
};

struct Block {
    Thread threads[MAX_THREADS];
    Warp warps[MAX_WARPS];
    NamedBarrier named[16];
    uint32_t ready[MAX_WARPS], ready_warps;
    int size, warp_count, live, waiting, barrier_line, gather_kind, gather, gathered, cursor_warp, cursor_lane;
    uintptr_t barrier_pc;
    bool barrier_faulted;
    Where where; /* thread unused */
    int64_t number;
    void *main_sp;
    std::vector<std::unique_ptr<Clocks>> clocks;
    size_t clocks_used, clocks_turn;
    bool fine; /* the kernel has barriers of parts of the block */
    std::unordered_map<const char *, std::vector<Entry>> more_reads; /* of a granule, beside the two kept with it */
    std::vector<std::unique_ptr<Mbarrier>> mbarriers;
    uint32_t agent_clock;
    std::deque<std::function<void()>> copies, mmas; /* under way: copies in any order, mmas in theirs */
    uint32_t tmem_columns;                         /* allocated */
};

struct Launch { /* the kernel that runs */
    const char *name;
    uint32_t operation; /* its number in the window, 1 to 65535 */
    dim3 grid, block;
    size_t shared_bytes;
    const void *kernel;
    Invoke invoke;
    const void *arguments;
    size_t arguments_bytes;
};

/* nullptr outside kernels; a thread of the host that runs no kernel has none */
extern __thread Thread *current __attribute__((tls_model("initial-exec")));
extern Block *block;         /* the block that runs */
extern const Launch *launch_now; /* nullptr outside kernels */
extern uint64_t switches;

void run_kernel(const Launch &launch);
/* All lanes of mask meet; who comes last runs combine. False: the caller takes no part (already reported). */
bool meet(int operation, uint32_t mask, uintptr_t pc, void (*combine)(Warp &warp, uint32_t mask));
bool knows(const Thread &thread, int warp, int lane, uint32_t clock);
void make_ready(Thread &thread);
void wait_as(State state, uintptr_t pc);
void advance(Thread &thread);
void note_fine(); /* the kernel that runs has barriers of parts of the block */
void join(Clocks &joined, const Thread &thread); /* joined = max(joined, what thread knows, with its own clock) */
void acquire(Thread &thread, const Clocks &other);
bool meet_aligned(int operation, uintptr_t pc, void (*combine)(Warp &, uint32_t)); /* tensor.cpp */
void end_of_thread_copies(Thread &thread); /* copy.cpp */

/* ---- async.cpp ---- */

bool run_async(); /* something that is under way and may be over; false: nothing is */
void begin_block_async();
void end_of_thread_async(Thread &thread);
void end_block_async();

/* ---- host.cpp ---- */

extern uint32_t operation_now; /* number of the kernel, copy or fill that runs */
/* whether operation `number` is over before the one that runs begins */
bool operation_ordered(uint32_t number);
std::string operation_name(uint32_t number);

#define MLC_CALLER ((uintptr_t)__builtin_return_address(0))

}

#endif
