/* block.cpp: one block of a kernel. Its threads are fibers of one OS thread; they switch where they wait and nowhere else.
 *
 * Who runs next, when a thread waits or ends:
 *   forward  the next ready thread by number, round and round      reverse  the same downward
 *   random   any ready thread, drawn from the seed                 ahead    warps in an order drawn a block, each as far as it can
 * Blocks run one after another in the order of their numbers, downward, or drawn. */
#include "shim.h"

#include "mlc_shim.h"

#include <algorithm>
#include <set>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if (!defined(__x86_64__) && !defined(__aarch64__)) || defined(MLC_SHIM_UCONTEXT)
#include <ucontext.h>
#undef MLC_SHIM_UCONTEXT
#define MLC_SHIM_UCONTEXT 1
#else
#define MLC_SHIM_UCONTEXT 0
#endif

namespace mlc_shim {

__thread Thread *current __attribute__((tls_model("initial-exec")));
Block *block;
const Launch *launch_now;
uint64_t switches;

/* ---- switching fibers: saves what a call must preserve, changes the stack, restores ---- */

extern "C" void mlc_shim_switch(void **save, void *load);
extern "C" void mlc_shim_fiber();

#if MLC_SHIM_UCONTEXT
/* Any other machine, or -DMLC_SHIM_UCONTEXT: slower, by system calls. */
extern "C" void mlc_shim_switch(void **save, void *load)
{
    ucontext_t here;
    *save = &here;
    swapcontext(&here, (ucontext_t *)load);
}

static void *fiber_start(char *top)
{
    ucontext_t *context = (ucontext_t *)(((uintptr_t)top - sizeof(ucontext_t)) & ~(uintptr_t)63);
    char *low = top - STACK_BYTES + 2 * GUARD_BYTES;
    getcontext(context);
    context->uc_stack.ss_sp = low;
    context->uc_stack.ss_size = (size_t)((char *)context - low);
    context->uc_link = nullptr;
    makecontext(context, (void (*)())mlc_shim_fiber, 0);
    return context;
}
#elif defined(__x86_64__)
/* "System V Application Binary Interface, AMD64", 3.2.1: rbx, rbp, r12 to r15; the modes of the floating point units stay as they are. */
asm(".text\n.p2align 4\n.globl mlc_shim_switch\n.hidden mlc_shim_switch\n.type mlc_shim_switch, @function\nmlc_shim_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n.size mlc_shim_switch, .-mlc_shim_switch\n");

static void *fiber_start(char *top)
{
    void **sp = (void **)top; /* aligned to 16: after the ret, as a call leaves it, 8 below */
    *--sp = nullptr;
    *--sp = (void *)mlc_shim_fiber;
    for (int saved = 0; saved < 6; saved++)
        *--sp = nullptr;
    return sp;
}
#else
/* "Procedure Call Standard for the Arm 64-bit Architecture", 6.1: x19 to x29, the link register, d8 to d15. */
asm(".text\n.p2align 4\n.globl mlc_shim_switch\n.hidden mlc_shim_switch\n.type mlc_shim_switch, %function\nmlc_shim_switch:\n"
    "sub sp, sp, #160\n"
    "stp x19, x20, [sp, #0]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\nstp x25, x26, [sp, #48]\n"
    "stp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\n"
    "stp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\nstp d14, d15, [sp, #144]\n"
    "mov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
    "ldp x19, x20, [sp, #0]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\nldp x25, x26, [sp, #48]\n"
    "ldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\n"
    "ldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\nldp d12, d13, [sp, #128]\nldp d14, d15, [sp, #144]\n"
    "add sp, sp, #160\nret\n.size mlc_shim_switch, .-mlc_shim_switch\n");

static void *fiber_start(char *top)
{
    void **sp = (void **)(top - 160);
    memset(sp, 0, 160);
    sp[11] = (void *)mlc_shim_fiber; /* x30 */
    return sp;
}
#endif

/* ---- schedule ---- */

void make_ready(Thread &thread)
{
    thread.state = State::READY;
    block->ready[thread.warp] |= 1u << thread.lane;
    block->ready_warps |= 1u << thread.warp;
}

static int lowest(uint32_t bits)
{
    return __builtin_ctz(bits);
}

static int highest(uint32_t bits)
{
    return 31 - __builtin_clz(bits);
}

static int any(uint32_t bits)
{
    int skip = (int)(draw() % (uint64_t)__builtin_popcount(bits));
    while (skip-- > 0)
        bits &= bits - 1;
    return lowest(bits);
}

static uint32_t above(uint32_t bits, int position)
{
    return position >= 31 ? 0 : bits & (~0u << (position + 1));
}

static uint32_t below(uint32_t bits, int position)
{
    return bits & ((1u << position) - 1);
}

static int ahead_warp()
{
    int best = lowest(block->ready_warps);
    for (uint32_t left = block->ready_warps; left; left &= left - 1)
        if (block->warps[lowest(left)].rank < block->warps[best].rank)
            best = lowest(left);
    return best;
}

/* The thread that runs next, taken from the ready ones; nullptr if none is ready. */
static Thread *pick()
{
    Block &b = *block;
    while (!b.ready_warps && run_async()) /* at the latest moment: when all wait */
        continue;
    if (!b.ready_warps)
        return nullptr;
    int warp = b.cursor_warp, lane = 0;
    const uint32_t rest_up = above(b.ready[warp], b.cursor_lane), rest_down = below(b.ready[warp], b.cursor_lane);
    switch (options().order) {
    case Order::FORWARD:
        if (rest_up) {
            lane = lowest(rest_up);
            break;
        }
        warp = lowest(above(b.ready_warps, warp) ? above(b.ready_warps, warp) : b.ready_warps);
        lane = lowest(b.ready[warp]);
        break;
    case Order::REVERSE:
        if (rest_down) {
            lane = highest(rest_down);
            break;
        }
        warp = highest(below(b.ready_warps, warp) ? below(b.ready_warps, warp) : b.ready_warps);
        lane = highest(b.ready[warp]);
        break;
    case Order::RANDOM:
        warp = any(b.ready_warps);
        lane = any(b.ready[warp]);
        break;
    case Order::AHEAD:
        warp = ahead_warp();
        lane = b.warps[warp].rank & 1 ? highest(b.ready[warp]) : lowest(b.ready[warp]);
        break;
    }
    b.ready[warp] &= ~(1u << lane);
    if (!b.ready[warp])
        b.ready_warps &= ~(1u << warp);
    b.cursor_warp = warp;
    b.cursor_lane = lane;
    return &b.threads[warp * 32 + lane];
}

void wait_as(State state, uintptr_t pc)
{
    Thread *self = current;
    self->state = state;
    self->waits_at = pc;
    Thread *next = pick();
    if (next == self) /* what it waits for came in there, and it goes on */
        return;
    switches++;
    current = next;
    mlc_shim_switch(&self->sp, next ? next->sp : block->main_sp);
}

static void check_exits(Thread &gone);

extern "C" void mlc_shim_fiber()
{
    launch_now->invoke(launch_now->kernel, current->arguments);
    Thread *self = current;
    end_of_thread_copies(*self);
    end_of_thread_async(*self);
    self->state = State::DONE;
    block->live--;
    block->warps[self->warp].live &= ~(1u << self->lane);
    check_exits(*self);
    Thread *next = pick();
    switches++;
    current = next;
    mlc_shim_switch(&self->sp, next ? next->sp : block->main_sp);
    abort();
}

const Where *here() noexcept
{
    return current->where;
}

/* ---- clocks ---- */

static Clocks *new_clocks()
{
    Block &b = *block;
    if (b.clocks_used == b.clocks.size())
        b.clocks.emplace_back(new Clocks);
    return b.clocks[b.clocks_used++].get();
}

static void find_least(Clocks &clocks)
{
    for (int warp = 0; warp < block->warp_count; warp++) {
        uint32_t least = ~0u;
        for (int thread = warp * 32; thread < std::min(warp * 32 + 32, block->size); thread++)
            least = std::min(least, clocks.of[thread]);
        clocks.least[warp] = least;
    }
    if (block->size <= AGENT)
        clocks.least[AGENT / 32] = block->warp_count == MAX_WARPS ? std::min(clocks.least[AGENT / 32], clocks.of[AGENT]) : clocks.of[AGENT];
}

static void max_into(Clocks &joined, const Clocks &other)
{
    for (int thread = 0; thread < block->size; thread++)
        joined.of[thread] = std::max(joined.of[thread], other.of[thread]);
    if (block->size <= AGENT)
        joined.of[AGENT] = std::max(joined.of[AGENT], other.of[AGENT]);
}

void advance(Thread &thread)
{
    thread.clock++;
    thread.key++;
    if (thread.clock == CLOCK_MASK)
        report("limit", nullptr, 0, "more than %u synchronisations in a thread: later races may go unseen", (unsigned)CLOCK_MASK);
}

/* Whether `thread` comes after what lane `lane` of warp `warp` did at `clock`. */
bool knows(const Thread &thread, int warp, int lane, uint32_t clock)
{
    if (thread.base->of[warp * 32 + lane] >= clock)
        return true;
    return warp == thread.warp && (lane == thread.lane || thread.known[lane] >= clock);
}

void join(Clocks &joined, const Thread &thread)
{
    max_into(joined, *thread.base);
    const int first = thread.warp * 32;
    for (int lane = 0; lane < std::min(32, block->size - first); lane++)
        joined.of[first + lane] = std::max(joined.of[first + lane], thread.known[lane]);
    joined.of[thread.number] = thread.clock;
}

/* `thread` comes after all that `other` says. */
void acquire(Thread &thread, const Clocks &other)
{
    Clocks *joined = new_clocks();
    *joined = *thread.base;
    max_into(*joined, other);
    find_least(*joined);
    thread.base = joined;
}

static void join_block()
{
    Block &b = *block;
    /* two turns: whoever still holds a vector of the turn before has passed the barrier that made this one */
    Clocks *joined = b.clocks[b.clocks_turn ^= 1].get();
    b.clocks_used = 2;
    uint32_t agent = 0;
    for (int thread = 0; b.agent_clock && thread < b.size; thread++)
        agent = std::max(agent, b.threads[thread].base->of[AGENT]);
    for (int thread = 0; thread < b.size; thread++)
        joined->of[thread] = b.threads[thread].clock;
    if (b.size <= AGENT)
        joined->of[AGENT] = agent;
    find_least(*joined);
    for (int thread = 0; thread < b.size; thread++) {
        b.threads[thread].base = joined;
        advance(b.threads[thread]);
    }
}

static void join_warp(int warp, uint32_t mask)
{
    Block &b = *block;
    uint32_t joined[32] = {};
    Clocks *base = nullptr;
    const Clocks *first = b.threads[warp * 32 + lowest(mask)].base;
    for (uint32_t left = mask; left; left &= left - 1) {
        const Thread &thread = b.threads[warp * 32 + lowest(left)];
        for (int lane = 0; lane < 32; lane++)
            joined[lane] = std::max(joined[lane], thread.known[lane]);
        joined[thread.lane] = std::max(joined[thread.lane], thread.clock);
        if (thread.base == first)
            continue;
        if (!base)
            *(base = new_clocks()) = *first;
        max_into(*base, *thread.base);
    }
    if (base)
        find_least(*base);
    uint32_t least = ~0u;
    for (uint32_t left = b.warps[warp].exists; left; left &= left - 1)
        least = std::min(least, joined[lowest(left)]);
    for (uint32_t left = mask; left; left &= left - 1) {
        Thread &thread = b.threads[warp * 32 + lowest(left)];
        memcpy(thread.known, joined, sizeof joined);
        thread.known_least = least;
        thread.base = base ? base : first;
        advance(thread);
    }
}

/* Kernels with barriers of parts of a block: known from their first such barrier on, in this block and all later ones. */
static std::set<const void *> fine_kernels;

void note_fine()
{
    if (block->fine)
        return;
    block->fine = true;
    fine_kernels.insert(launch_now->kernel);
}

/* ---- the block's barriers ---- */

static int thread_that(State state, bool is)
{
    for (int thread = 0; thread < block->size; thread++)
        if ((block->threads[thread].state == state) == is)
            return thread;
    return -1;
}

static void release_barrier()
{
    Block &b = *block;
    if (b.live != b.size && !b.barrier_faulted) {
        b.barrier_faulted = true;
        report("divergent barrier", nullptr, b.barrier_pc,
            "%d of %d threads are at a barrier of the block, the others (thread %d) have left the kernel", b.live, b.size,
            thread_that(State::DONE, true));
    }
    if (checked)
        join_block();
    b.waiting = 0;
    b.gathered = b.gather;
    for (int thread = 0; thread < b.size; thread++)
        if (b.threads[thread].state == State::BARRIER)
            make_ready(b.threads[thread]);
}

int barrier(int line, Gather gather, int predicate)
{
    Block &b = *block;
    if (b.waiting == 0) {
        b.barrier_line = line;
        b.barrier_pc = MLC_CALLER;
        b.gather_kind = gather;
        b.gather = gather == GATHER_AND;
    } else if (line != b.barrier_line || gather != b.gather_kind) {
        report("divergent barrier", nullptr, MLC_CALLER, "thread %d waits at another barrier, %s", thread_that(State::BARRIER, true),
            source_line((uint32_t)b.barrier_pc).c_str());
    }
    const int truth = predicate != 0;
    b.gather = gather == GATHER_OR ? b.gather | truth : gather == GATHER_AND ? b.gather & truth : b.gather + truth;
    if (++b.waiting == b.live) {
        current->state = State::BARRIER;
        release_barrier();
        b.ready[current->warp] &= ~(1u << current->lane); /* who came last goes on */
        if (!b.ready[current->warp])
            b.ready_warps &= ~(1u << current->warp);
        return b.gathered;
    }
    wait_as(State::BARRIER, MLC_CALLER);
    return block->gathered;
}

static void release_named(NamedBarrier &named)
{
    Block &b = *block;
    for (int warp = 0; warp < b.warp_count; warp++)
        if (named.warps[warp] && named.warps[warp] != b.warps[warp].exists)
            report("divergent barrier", nullptr, named.pc, "only some lanes of warp %d (mask %08x) are at a named barrier", warp,
                named.warps[warp]);
    const Clocks *joined = nullptr;
    if (checked && !named.waiting.empty()) {
        Clocks *copy = new_clocks();
        *copy = *named.joined;
        find_least(*copy);
        joined = copy;
    }
    for (int number : named.waiting) {
        Thread &thread = b.threads[number];
        if (joined)
            thread.base = joined;
        if (&thread != current)
            make_ready(thread);
    }
    named.waiting.clear();
    named.arrived = 0;
    std::fill(named.warps.begin(), named.warps.end(), 0u);
    if (named.joined)
        *named.joined = Clocks{};
}

void barrier_named(int id, int threads, bool wait)
{
    if (id < 1 || id > 15 || threads <= 0 || threads % 32 != 0 || threads > block->warp_count * 32) {
        report("wrong barrier", nullptr, MLC_CALLER, "named barrier %d for %d threads: ids are 1 to 15, threads whole warps of the block",
            id, threads);
        return;
    }
    NamedBarrier &named = block->named[id];
    if (named.arrived == 0) {
        named.expected = threads;
        named.pc = MLC_CALLER;
        named.warps.resize(MAX_WARPS);
    } else if (named.expected != threads) {
        report("wrong barrier", nullptr, MLC_CALLER, "named barrier %d for %d threads, where others at %s count %d", id, threads,
            source_line((uint32_t)named.pc).c_str(), named.expected);
    }
    Thread &self = *current;
    note_fine();
    if (named.warps[self.warp] >> self.lane & 1)
        report("wrong barrier", nullptr, MLC_CALLER, "a thread arrives twice at named barrier %d before it is complete", id);
    named.warps[self.warp] |= 1u << self.lane;
    if (checked) {
        if (!named.joined)
            named.joined.reset(new Clocks{});
        join(*named.joined, self);
        advance(self);
    }
    if (wait)
        named.waiting.push_back(self.number);
    if (++named.arrived == named.expected) {
        release_named(named);
        return;
    }
    if (wait)
        wait_as(State::NAMED_BARRIER, MLC_CALLER);
}

/* ---- warps ---- */

/* Completes meeting `at` of the warp of which all live lanes have come; runs in whoever comes last or in whoever leaves the kernel. */
static void complete(Warp &warp, int number, size_t at, void (*combine)(Warp &, uint32_t))
{
    const Meeting meeting = warp.pending[at];
    warp.pending.erase(warp.pending.begin() + (ptrdiff_t)at);
    if (meeting.operation >= MEET_ALIGNED && meeting.arrived != meeting.mask) {
        report("divergent warp", nullptr, meeting.pc, "an instruction of the whole warp, which only lanes %08x execute", meeting.arrived);
        memset(warp.out, 0xFF, sizeof warp.out);
    } else if (combine) {
        combine(warp, meeting.arrived);
    }
    for (uint32_t left = meeting.arrived; left; left &= left - 1) {
        Thread &thread = block->threads[number * 32 + lowest(left)];
        if (&thread != current)
            make_ready(thread);
    }
}

static void (*combine_of[64])(Warp &, uint32_t); /* by operation, for meetings that end because a lane left */

bool meet(int operation, uint32_t mask, uintptr_t pc, void (*combine)(Warp &warp, uint32_t mask))
{
    Thread &self = *current;
    Warp &warp = block->warps[self.warp];
    const uint32_t bit = 1u << self.lane;
    if (!(mask & bit)) {
        report("wrong mask", nullptr, pc, "the calling lane %d is not in the mask %08x", self.lane, mask);
        return false;
    }
    combine_of[operation] = combine;
    size_t at = 0;
    while (at < warp.pending.size() && (warp.pending[at].operation != operation || warp.pending[at].mask != mask)) {
        const Meeting &other = warp.pending[at++];
        if (other.mask & bit && other.arrived & mask) /* each waits for the other */
            report("divergent warp", nullptr, pc, "lane %d comes with mask %08x while lane %d waits at %s with mask %08x%s", self.lane,
                mask, lowest(other.arrived), source_line((uint32_t)other.pc).c_str(), other.mask,
                other.operation != operation ? " in another operation" : "");
    }
    if (at == warp.pending.size())
        warp.pending.push_back({operation, mask, 0, pc});
    warp.pending[at].arrived |= bit;
    if (!(mask & warp.live & ~warp.pending[at].arrived)) {
        complete(warp, self.warp, at, combine);
        return true;
    }
    wait_as(State::WARP, pc);
    return true;
}

static void check_exits(Thread &gone)
{
    Warp &warp = block->warps[gone.warp];
    for (size_t at = 0; at < warp.pending.size();) {
        const Meeting &meeting = warp.pending[at];
        if (meeting.mask & warp.live & ~meeting.arrived)
            at++;
        else
            complete(warp, gone.warp, at, combine_of[meeting.operation]);
    }
    if (block->waiting && block->waiting == block->live)
        release_barrier();
}

enum Operation { MEET_SYNC, MEET_SHUFFLE = 1, MEET_VOTE = 9 };

void warp_sync(unsigned mask)
{
    if (mask != MLC_FULL)
        note_fine();
    meet(MEET_SYNC, mask, MLC_CALLER, [](Warp &warp, uint32_t arrived) {
        if (checked)
            join_warp((int)(&warp - block->warps), arrived);
    });
}

/* "Warp Shuffle Functions" and PTX "shfl.sync": the lane that `lane` reads from; its own where that lies outside its segment. */
static int shuffle_source(Shuffle kind, int lane, int operand, int width)
{
    const int first = lane & ~(width - 1), last = first + width - 1;
    switch (kind) {
    case SHUFFLE_INDEX: return first + (operand & (width - 1));
    case SHUFFLE_UP: return lane - operand < first ? lane : lane - operand;
    case SHUFFLE_DOWN: return lane + operand > last ? lane : lane + operand;
    case SHUFFLE_XOR: return (lane ^ operand) > last ? lane : lane ^ operand;
    }
    return lane;
}

constexpr uint64_t POISON = 0xFFFFFFFFFFFFFFFFu;

static void combine_shuffle(Warp &warp, uint32_t arrived)
{
    for (uint32_t left = arrived; left; left &= left - 1) {
        const int lane = lowest(left), from = warp.operand[lane];
        warp.out[lane][1] = arrived >> from & 1;
        warp.out[lane][0] = warp.out[lane][1] ? warp.in[from][0] : POISON;
    }
}

uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t bits, int operand, int width)
{
    Thread &self = *current;
    Warp &warp = block->warps[self.warp];
    if (width <= 0 || width > 32 || width & (width - 1)) {
        report("wrong mask", nullptr, MLC_CALLER, "a shuffle of width %d: a power of two up to 32", width);
        return POISON;
    }
    warp.in[self.lane][0] = bits;
    warp.operand[self.lane] = shuffle_source(kind, self.lane, operand, width) & 31;
    if (!meet(MEET_SHUFFLE + kind, mask, MLC_CALLER, combine_shuffle))
        return POISON;
    if (!warp.out[self.lane][1])
        report("wrong mask", nullptr, MLC_CALLER, "lane %d reads from lane %d, which takes no part (mask %08x)", self.lane,
            warp.operand[self.lane], mask);
    return warp.out[self.lane][0];
}

static void combine_vote(Warp &warp, uint32_t arrived)
{
    uint32_t ballot = 0;
    for (uint32_t left = arrived; left; left &= left - 1)
        ballot |= (uint32_t)(warp.in[lowest(left)][0] != 0) << lowest(left);
    for (uint32_t left = arrived; left; left &= left - 1) {
        warp.out[lowest(left)][0] = ballot;
        warp.out[lowest(left)][1] = arrived;
    }
}

unsigned vote(Vote kind, unsigned mask, int predicate)
{
    Thread &self = *current;
    Warp &warp = block->warps[self.warp];
    warp.in[self.lane][0] = predicate != 0;
    if (!meet(MEET_VOTE + kind, mask, MLC_CALLER, combine_vote))
        return 0;
    const uint32_t ballot = (uint32_t)warp.out[self.lane][0], arrived = (uint32_t)warp.out[self.lane][1];
    return kind == VOTE_BALLOT ? ballot : kind == VOTE_ANY ? ballot != 0 : ballot == arrived;
}

/* ---- running blocks ---- */

static const char *state_name(State state)
{
    switch (state) {
    case State::READY: return "is ready";
    case State::BARRIER: return "wait at a barrier of the block";
    case State::NAMED_BARRIER: return "wait at a named barrier";
    case State::WARP: return "wait for lanes of their warp";
    case State::MBARRIER: return "wait at an mbarrier";
    case State::DONE: return "are done";
    }
    return "";
}

/* Threads in runs of equal state and place. */
static std::string who_waits_where()
{
    std::string text;
    const Block &b = *block;
    for (int first = 0, next; first < b.size; first = next) {
        const Thread &thread = b.threads[first];
        for (next = first; next < b.size && b.threads[next].state == thread.state && b.threads[next].waits_at == thread.waits_at;)
            next++;
        if (text.size() > 600)
            return text + "...";
        char line[160];
        snprintf(line, sizeof line, "%sthreads %d to %d %s", text.empty() ? "" : "; ", first, next - 1, state_name(thread.state));
        text += line;
        if (thread.state != State::DONE)
            text += ", " + source_line((uint32_t)thread.waits_at);
    }
    return text;
}

static void begin_thread(Thread &thread, int number, const Launch &launch)
{
    thread.number = number;
    thread.warp = number / 32;
    thread.lane = number % 32;
    /* stacks a page apart would share cache sets: each begins elsewhere in its first kilobytes */
    char *top = thread.stack + STACK_BYTES - (size_t)(number * 832 % 8192 & ~63);
    thread.where = (Where *)(top -= 64);
    thread.arguments = top -= (launch.arguments_bytes + 63) & ~(size_t)63;
    memcpy(thread.arguments, launch.arguments, launch.arguments_bytes);
    *thread.where = block->where;
    const unsigned n = (unsigned)number;
    thread.where->thread = {n % launch.block.x, n / launch.block.x % launch.block.y, n / launch.block.x / launch.block.y};
    thread.sp = fiber_start(top);
    thread.clock = 1;
    thread.key = (uint64_t)launch.operation << 48 | (uint64_t)(block->number & 0xFFFFFF) << 24 | (uint64_t)thread.warp << 19 | 1;
    thread.base = block->clocks[0].get();
    memset(thread.known, 0, sizeof thread.known);
    thread.known_least = 0;
    thread.open.clear();
    thread.groups.clear();
    thread.fenced = 0;
    thread.wgmma_fenced = thread.tmem_fenced = false;
    thread.sums.clear();
    thread.stores.clear();
    thread.store_groups.clear();
    make_ready(thread);
}

static void begin_block(const Launch &launch, int64_t number)
{
    Block &b = *block;
    const unsigned n = (unsigned)number;
    b.number = number;
    b.size = (int)(launch.block.x * launch.block.y * launch.block.z);
    b.warp_count = (b.size + 31) / 32;
    b.live = b.size;
    b.waiting = 0;
    b.barrier_faulted = false;
    b.fine = fine_kernels.count(launch.kernel) > 0;
    b.more_reads.clear();
    b.where.block_dim = launch.block;
    b.where.grid_dim = launch.grid;
    b.where.block = {n % launch.grid.x, n / launch.grid.x % launch.grid.y, n / launch.grid.x / launch.grid.y};
    b.ready_warps = 0;
    memset(b.ready, 0, sizeof b.ready);
    while (b.clocks.size() < 2)
        b.clocks.emplace_back(new Clocks);
    b.clocks_used = 2;
    b.clocks_turn = 0;
    *b.clocks[0] = Clocks{};
    for (int warp = 0; warp < b.warp_count; warp++) {
        Warp &w = b.warps[warp];
        w.exists = w.live = b.size - warp * 32 >= 32 ? ~0u : (1u << (b.size - warp * 32)) - 1;
        w.rank = options().order == Order::AHEAD ? (uint32_t)draw() : 0;
        w.pending.clear();
        w.open.clear();
        w.groups.clear();
    }
    begin_block_async();
    for (NamedBarrier &named : b.named) {
        named.arrived = 0;
        named.waiting.clear();
        std::fill(named.warps.begin(), named.warps.end(), 0u);
        if (named.joined)
            *named.joined = Clocks{};
    }
    for (int thread = 0; thread < b.size; thread++)
        begin_thread(b.threads[thread], thread, launch);
    b.cursor_warp = options().order == Order::REVERSE ? b.warp_count - 1 : 0;
    b.cursor_lane = options().order == Order::REVERSE ? 31 : -1;
    shared_begin_block();
}

static void end_block()
{
    Block &b = *block;
    end_block_async();
    if (b.live > 0)
        report("deadlock", nullptr, 0, "%s", who_waits_where().c_str());
    for (int id = 1; id < 16; id++)
        if (b.live == 0 && b.named[id].arrived)
            report("wrong barrier", nullptr, b.named[id].pc, "the kernel ends while %d of %d threads have arrived at named barrier %d",
                b.named[id].arrived, b.named[id].expected, id);
}

static Block *new_block()
{
    Block *fresh = new Block();
    char *stacks = (char *)mmap(
        nullptr, MAX_THREADS * (STACK_BYTES + GUARD_BYTES), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) {
        fprintf(stderr, "mlc_shim: no memory for the stacks of a block\n");
        abort();
    }
    for (int thread = 0; thread < MAX_THREADS; thread++) {
        fresh->threads[thread].stack = stacks + (size_t)thread * (STACK_BYTES + GUARD_BYTES) + GUARD_BYTES;
        mprotect(stacks + (size_t)thread * (STACK_BYTES + GUARD_BYTES), GUARD_BYTES, PROT_NONE);
    }
    return fresh;
}

/* What a plain build runs into: said with its place, before the process ends as it would have. */
static struct sigaction before_us;

static void on_fault(int signal, siginfo_t *info, void *context)
{
    if (current)
        report("out of bounds", info->si_addr, 0, "the access faults%s", checked ? "" : "; a checked build says where in the source");
    if (current) {
        fprintf(stderr, "mlc_shim: %s\n", mlc_shim_report_text(mlc_shim_report_count() - 1));
        _exit(66);
    }
    sigaction(SIGSEGV, &before_us, nullptr);
    if (before_us.sa_flags & SA_SIGINFO && before_us.sa_sigaction)
        before_us.sa_sigaction(signal, info, context);
}

static Block *first_block()
{
    static char stack[64 << 10]; /* a fiber's own may be what is full */
    const stack_t alternate = {stack, 0, sizeof stack};
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaltstack(&alternate, nullptr);
    sigaction(SIGSEGV, &action, &before_us);
    return new_block();
}

void run_kernel(const Launch &launch)
{
    static Block *only = first_block();
    block = only;
    launch_now = &launch;
    knows_kernel((const void *)launch.kernel);
    const int64_t blocks = (int64_t)launch.grid.x * launch.grid.y * launch.grid.z;
    std::vector<int64_t> row((size_t)blocks);
    for (int64_t i = 0; i < blocks; i++)
        row[(size_t)i] = options().order == Order::REVERSE ? blocks - 1 - i : i;
    if (options().order == Order::RANDOM || options().order == Order::AHEAD)
        for (size_t i = row.size(); i > 1; i--)
            std::swap(row[i - 1], row[draw() % i]);
    shared_begin_launch(launch.shared_bytes);
    for (int64_t number : row) {
        begin_block(launch, number);
        current = pick();
        mlc_shim_switch(&only->main_sp, current->sp);
        end_block();
        current = nullptr;
    }
    launch_now = nullptr;
    block = nullptr;
}

}
