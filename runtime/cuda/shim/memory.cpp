/* memory.cpp: the device's memory and a block's shared memory, one stretch of addresses; in checked builds its shadow and the checks.
 *
 *   [0, DEVICE_BYTES)                     allocations, 256-aligned, never reused, a gap of GAP_BYTES after each
 *   [DEVICE_BYTES, + SHARED_SPAN)         the shared memory of the block that runs:
 *       1024 dynamic shared memory | gap | static arrays in the order in which threads first meet them, a gap after each
 *
 * Shadow: a page of 4096 bytes has granules of 16, 8, 4, 2 or 1 bytes, 16 at first; the first access that covers a part of a granule
 * divides the page's. So float4 kernels pay for one granule an access, and bytes written by two threads are told apart.
 * A page of which all granules are in one state, by one operation of the host, has no granules yet (Slot::key). */
#include "shim.h"

#include <algorithm>
#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace mlc_shim {

constexpr size_t DEVICE_BYTES = (size_t)1 << 36, SHARED_SPAN = 1 << 20, GAP_BYTES = 4096, SPAN = DEVICE_BYTES + SHARED_SPAN;
constexpr size_t POISON_MOST = (size_t)256 << 20;
constexpr size_t PAGE = 4096, SHARED_FIRST = 1024, SHARED_GAP = 64, SHARED_LIMIT = 256 << 10;
constexpr int SHIFT_FIRST = 4;

struct Granule {
    Entry write, read[2];
};

struct Page {
    uint32_t shift;
    Granule granules[];
};

struct Slot {
    Page *page;
    uint64_t key; /* without a page: of all its bytes */
};

bool checked;

static char *reserve()
{
    void *p = mmap(nullptr, SPAN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "mlc_shim: no address space for the device's memory\n");
        abort();
    }
    mprotect((char *)p + DEVICE_BYTES, SHARED_SPAN, PROT_READ | PROT_WRITE);
    return (char *)p;
}

static Slot *reserve_slots()
{
    return (Slot *)mmap(nullptr, SPAN / PAGE * sizeof(Slot), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static char *const memory = reserve();
static Slot *const slots = reserve_slots();

static size_t offset_of(const void *p)
{
    return (size_t)((const char *)p - memory);
}

bool in_device(const void *p)
{
    return offset_of(p) < DEVICE_BYTES;
}

bool in_shared(const void *p)
{
    return offset_of(p) - DEVICE_BYTES < SHARED_SPAN;
}

/* ---- allocations ---- */

struct Allocation {
    size_t bytes;
    bool live;
    int number;
};

struct Named {
    size_t bytes;
    std::string name;
};

static std::map<size_t, Allocation> allocations; /* by offset */
static std::map<size_t, Named> regions;          /* tensors of a plan, by offset */
static size_t device_end = PAGE + GAP_BYTES, device_live;

size_t device_used()
{
    return device_live;
}

void *device_alloc(size_t bytes)
{
    const size_t at = device_end, room = (bytes + PAGE - 1) / PAGE * PAGE;
    if (bytes == 0 || device_live + bytes > options().memory_bytes || at + room + GAP_BYTES > DEVICE_BYTES)
        return nullptr;
    device_end = at + room + GAP_BYTES;
    device_live += bytes;
    /* against the end of its last page, so that a plain build faults on what lies past it, as far as the alignment of 256 goes */
    const size_t first = at + (room - bytes) / 256 * 256;
    if (checked) /* the gaps too: what is reported shall not end the run */
        mprotect(memory + at - GAP_BYTES, GAP_BYTES + room + GAP_BYTES, PROT_READ | PROT_WRITE);
    else
        mprotect(memory + at, room, PROT_READ | PROT_WRITE);
    if (room <= POISON_MOST) /* plain builds find what nothing wrote by it; a large allocation would cost its size in real memory */
        memset(memory + at, 0xFF, room);
    allocations[first] = {bytes, true, (int)allocations.size()};
    mark(memory + first, bytes, KEY_UNWRITTEN);
    return memory + first;
}

static std::map<size_t, Allocation>::iterator allocation_of(size_t offset)
{
    auto after = allocations.upper_bound(offset);
    return after == allocations.begin() ? allocations.end() : std::prev(after);
}

bool device_free(void *p)
{
    const auto found = allocations.find(offset_of(p));
    if (found == allocations.end() || !found->second.live)
        return false;
    Allocation &allocation = found->second;
    allocation.live = false;
    device_live -= allocation.bytes;
    mark(p, allocation.bytes, KEY_CLOSED);
    regions.erase(regions.lower_bound(offset_of(p)), regions.lower_bound(offset_of(p) + allocation.bytes));
    const size_t page = found->first / PAGE * PAGE, end = (found->first + allocation.bytes + PAGE - 1) / PAGE * PAGE;
    madvise(memory + page, end - page, MADV_DONTNEED);
    if (!checked)
        mprotect(memory + page, end - page, PROT_NONE);
    return true;
}

void device_reach(bool reached)
{
    for (const auto &of : allocations) {
        const size_t page = of.first / PAGE * PAGE, end = (of.first + of.second.bytes + PAGE - 1) / PAGE * PAGE;
        if (of.second.live)
            mprotect(memory + page, end - page, reached ? PROT_READ | PROT_WRITE : PROT_NONE);
    }
}

bool device_contains(const void *p, size_t bytes)
{
    const size_t offset = offset_of(p);
    const auto found = allocation_of(offset);
    return found != allocations.end() && found->second.live && offset - found->first + bytes <= found->second.bytes;
}

void check_arguments(const char *kernel, const std::vector<Word> &words)
{
    for (const Word &word : words) {
        if (!in_device(word.p))
            continue;
        const size_t offset = offset_of(word.p);
        const auto found = allocation_of(offset);
        if (found == allocations.end() || offset > found->first + found->second.bytes) {
            if (word.sure)
                report_host("kernel %s: an argument points to device memory that was never allocated (%p)", kernel, word.p);
        } else if (!found->second.live && offset < found->first + found->second.bytes) {
            report_host("use after free: kernel %s: an argument points into freed memory, %s", kernel, describe(word.p).c_str());
        }
    }
}

/* ---- shared memory ---- */

struct Array {
    size_t at, bytes;
    const char *name;
};

static size_t shared_dynamic_bytes, shared_end, shared_bytes_asked;
static std::vector<Array> shared_arrays;   /* of the launch, in order of addresses */
static std::vector<int> shared_of_site;    /* array of a site in this launch, -1: none */
static int shared_sites;

static char *shared_at(size_t at)
{
    return memory + DEVICE_BYTES + at;
}

char *shared_pool()
{
    return shared_at(0);
}

static void add_shared(size_t bytes, const char *name, size_t alignment)
{
    const size_t at = (shared_end + alignment - 1) / alignment * alignment;
    shared_end = at + bytes + SHARED_GAP;
    shared_bytes_asked += bytes;
    if (shared_end > SHARED_LIMIT || shared_bytes_asked > SHARED_BYTES_OPTIN) {
        report("limit", nullptr, 0, "more shared memory than a block may have: %zu bytes with `%s`, at most %zu", shared_bytes_asked, name,
            SHARED_BYTES_OPTIN);
        if (shared_end > SHARED_SPAN)
            abort();
    }
    shared_arrays.push_back({at, bytes, name});
    memset(shared_at(at), 0xFF, bytes);
    mark(shared_at(at), bytes, KEY_UNWRITTEN);
}

void shared_begin_launch(size_t dynamic_bytes)
{
    for (const Array &array : shared_arrays)
        mark(shared_at(array.at), array.bytes, KEY_CLOSED);
    shared_arrays.clear();
    std::fill(shared_of_site.begin(), shared_of_site.end(), -1);
    shared_end = SHARED_FIRST;
    shared_bytes_asked = 0;
    shared_dynamic_bytes = dynamic_bytes;
    if (dynamic_bytes > 0)
        add_shared(dynamic_bytes, "dynamic shared memory", 1024);
}

void shared_begin_block()
{
    for (const Array &array : shared_arrays) {
        memset(shared_at(array.at), 0xFF, array.bytes);
        mark(shared_at(array.at), array.bytes, KEY_UNWRITTEN);
    }
}

void *shared_array(Site *site)
{
    if (site->number < 0) {
        site->number = shared_sites++;
        shared_of_site.push_back(-1);
    }
    int &array = shared_of_site[(size_t)site->number];
    if (array < 0) {
        add_shared(site->bytes, site->name, 128);
        array = (int)shared_arrays.size() - 1;
    }
    return shared_at(shared_arrays[(size_t)array].at);
}

void *shared_dynamic()
{
    if (shared_dynamic_bytes == 0)
        report("limit", nullptr, MLC_CALLER, "the kernel uses dynamic shared memory and was launched with none");
    return shared_at(SHARED_FIRST);
}

/* Offset in the block's shared memory: what instructions and descriptors take. */
uint32_t shared_address(const void *p)
{
    if (!in_shared(p)) {
        report("wrong address", p, MLC_CALLER, "an address that is not in shared memory is used as one");
        return 0;
    }
    return (uint32_t)(offset_of(p) - DEVICE_BYTES);
}

/* ---- words for addresses ---- */

std::string describe(const void *p)
{
    char text[200];
    const size_t offset = offset_of(p);
    if (in_shared(p)) {
        const Array *before = nullptr;
        for (const Array &array : shared_arrays)
            if (array.at <= offset - DEVICE_BYTES)
                before = &array;
        if (!before)
            return "shared memory";
        snprintf(text, sizeof text, "shared `%s` (%zu bytes) + %zu", before->name, before->bytes, offset - DEVICE_BYTES - before->at);
        return text;
    }
    if (!in_device(p)) {
        snprintf(text, sizeof text, "host address %p", p);
        return text;
    }
    const auto region = regions.upper_bound(offset);
    if (region != regions.begin() && offset < std::prev(region)->first + std::prev(region)->second.bytes + 256) {
        const auto &named = *std::prev(region);
        snprintf(text, sizeof text, "`%s` (%zu bytes) + %zu", named.second.name.c_str(), named.second.bytes, offset - named.first);
        return text;
    }
    const auto found = allocation_of(offset);
    const auto next = allocations.upper_bound(offset);
    if (next != allocations.end() && (found == allocations.end() || offset >= found->first + found->second.bytes + GAP_BYTES / 2)) {
        snprintf(text, sizeof text, "allocation %d (%zu bytes) - %zu", next->second.number, next->second.bytes, next->first - offset);
        return text;
    }
    if (found == allocations.end())
        return "device memory without an allocation";
    snprintf(text, sizeof text, "%s %d (%zu bytes) + %zu", found->second.live ? "allocation" : "freed allocation", found->second.number,
        found->second.bytes, offset - found->first);
    return text;
}

/* ---- shadow ---- */

static Page *new_page(uint32_t shift)
{
    Page *page = (Page *)calloc(1, sizeof(Page) + (PAGE >> shift) * sizeof(Granule));
    if (!page) {
        fprintf(stderr, "mlc_shim: no memory for the shadow\n");
        abort();
    }
    page->shift = shift;
    return page;
}

/* Granules of 2^shift bytes at most. */
static Page *divide(size_t number, uint32_t shift)
{
    Slot &slot = slots[number];
    Page *old = slot.page;
    if (old && old->shift <= shift)
        return old;
    Page *page = new_page(std::min<uint32_t>(shift, SHIFT_FIRST));
    for (size_t i = 0; i < PAGE >> page->shift; i++)
        page->granules[i] = old ? old->granules[i >> (old->shift - page->shift)] : Granule{{slot.key, slot.key >= KEY_SPECIAL, 0}, {}};
    free(old);
    return slot.page = page;
}

/* Calls f(granule, address) for every granule of [p, p + bytes), dividing pages as needed. */
template <class F> static inline void each_granule(const void *p, size_t bytes, F f)
{
    size_t offset = offset_of(p);
    const size_t end = offset + bytes;
    while (offset < end) {
        const size_t number = offset / PAGE, low = offset % PAGE, high = std::min(end - number * PAGE, PAGE);
        Page *page = slots[number].page;
        if (!page || (low | high) & (((size_t)1 << page->shift) - 1))
            page = divide(number, (uint32_t)std::min(__builtin_ctzll(low | high | PAGE), SHIFT_FIRST));
        for (size_t i = low >> page->shift; i < high >> page->shift; i++)
            f(page->granules[i], memory + number * PAGE + (i << page->shift));
        offset = number * PAGE + high;
    }
}

/* Calls whole(slot) for every page that [p, p + bytes) covers and part(granule, address) for what is left. */
template <class W, class F> static void each_page(const void *p, size_t bytes, W whole, F part)
{
    const size_t offset = offset_of(p), end = offset + bytes, first = (offset + PAGE - 1) / PAGE, last = end / PAGE;
    if (first >= last) {
        each_granule(p, bytes, part);
        return;
    }
    each_granule(p, first * PAGE - offset, part);
    for (size_t number = first; number < last; number++)
        whole(slots[number]);
    each_granule(memory + last * PAGE, end - last * PAGE, part);
}

static void set_page(Slot &slot, uint64_t key)
{
    free(slot.page);
    slot = {nullptr, key};
}

void mark(const void *p, size_t bytes, uint64_t key)
{
    if (!checked)
        return;
    each_page(
        p, bytes, [=](Slot &slot) { set_page(slot, key); }, [=](Granule &granule, const char *) { granule = Granule{{key, 0, 0}, {}}; });
}

static inline bool is_unwritten(uint64_t key)
{
    return key == KEY_UNWRITTEN || (key >= KEY_SPECIAL && !(key & CLOCK_MASK));
}

static Party party_of(const Entry &entry)
{
    if (entry.key >> 48 != launch_now->operation)
        return {-1, -1, entry.pc};
    return {(int)(entry.key >> 19 & 31) * 32 + __builtin_ctz(entry.lanes | 1u << 31), (int64_t)(entry.key >> 24 & 0xFFFFFF), entry.pc};
}

static const char *verb(Access access)
{
    return access == READ ? "reads" : access == WRITE ? "writes" : "changes atomically";
}

static __attribute__((noinline, cold)) void report_race(const Entry &earlier, bool wrote, Access access, const void *p, uintptr_t pc)
{
    const Party other = party_of(earlier);
    const bool agent = other.thread == AGENT && block->size <= AGENT, blocks = !agent && other.block != (block->number & 0xFFFFFF);
    const char *fault = other.thread < 0 ? "race between launches" : blocks ? "race between blocks" : "race";
    if (reported(fault, pc))
        return;
    const char *did = earlier.key & KEY_ATOMIC ? "changed it atomically" : wrote ? "wrote it" : "read it";
    const std::string at = source_line(other.pc);
    if (other.thread < 0)
        report(fault, p, pc, "%s what %s %s (%s); no stream or event orders the two", verb(access),
            operation_name((uint32_t)(earlier.key >> 48)).c_str(), did, at.c_str());
    else if (agent)
        report(fault, p, pc, "%s what an asynchronous operation %s (%s), and this thread has not waited for it", verb(access),
            wrote ? "wrote" : "read", at.c_str());
    else if (blocks)
        report(fault, p, pc, "%s; thread %d of block %lld %s (%s)", verb(access), other.thread, (long long)other.block, did, at.c_str());
    else
        report(fault, p, pc, "%s; thread %d %s (%s) and no barrier lies between", verb(access), other.thread, did, at.c_str());
}

static __attribute__((noinline, cold)) void report_state(uint64_t key, const Entry &entry, Access access, const void *p, uintptr_t pc)
{
    const char *fault = key == KEY_CLOSED ? "out of bounds" : key == KEY_UNWRITTEN ? "uninitialised read" : "missing wait";
    if (reported(fault, pc))
        return;
    if (key == KEY_CLOSED)
        report(fault, p, pc, "%s", verb(access));
    else if (key == KEY_UNWRITTEN)
        report(fault, p, pc, "%s what nothing wrote", verb(access));
    else
        report(fault, p, pc, "%s where a copy that began at %s has not been waited for", verb(access), source_line(entry.pc).c_str());
}

/* Whether the running thread comes after every lane of the entry. */
static bool ordered_slow(const Entry &entry)
{
    const Thread &self = *current;
    const uint64_t mine = self.key;
    if ((entry.key ^ mine) >> 48)
        return operation_ordered((uint32_t)(entry.key >> 48));
    if ((entry.key ^ mine) >> 24)
        return false;
    const int warp = (int)(entry.key >> 19 & 31);
    const uint32_t clock = (uint32_t)(entry.key & CLOCK_MASK);
    if (self.base->least[warp] >= clock || (warp == self.warp && self.known_least >= clock))
        return true;
    for (uint32_t left = entry.lanes; left; left &= left - 1)
        if (!knows(self, warp, __builtin_ctz(left), clock))
            return false;
    return true;
}

static inline bool ordered(const Entry &entry, uint64_t mine, uint32_t bit)
{
    return ((entry.key ^ mine) >> 19 == 0 && entry.lanes == bit) || ordered_slow(entry);
}

/* A write after the reads that a granule had no room for. */
static __attribute__((noinline)) void touch_more_reads(Access access, const char *p, uintptr_t pc)
{
    const auto at = block->more_reads.find(p);
    if (at == block->more_reads.end())
        return;
    for (const Entry &read : at->second)
        if (!ordered_slow(read)) {
            report_race(read, false, access, p, pc);
            break;
        }
    block->more_reads.erase(at);
}

template <Access access> static inline void touch_granule(Granule &granule, const char *p, uintptr_t pc)
{
    const uint64_t mine = current->key;
    const uint32_t bit = 1u << current->lane;
    Entry &write = granule.write;
    if (write.key < KEY_SPECIAL) {
        if (write.key == KEY_CLOSED || write.key == KEY_PENDING || (write.key == KEY_UNWRITTEN && access != WRITE)) {
            report_state(write.key, write, access, p, pc);
            if (write.key != KEY_UNWRITTEN)
                return;
        }
    } else if (!(access == ATOMIC && write.key & KEY_ATOMIC && write.key >> 48 == mine >> 48) && !ordered(write, mine, bit)) {
        report_race(write, true, access, p, pc);
    } else if (access != WRITE && !(write.key & CLOCK_MASK)) {
        report_state(KEY_UNWRITTEN, write, access, p, pc);
    }
    if (access == READ) {
        Entry *read = granule.read;
        for (int i = 0; i < 2; i++)
            if ((read[i].key ^ mine) >> 19 == 0) { /* the same warp: at the same clock one more lane, at another the newer */
                read[i].lanes = read[i].key == mine ? read[i].lanes | bit : bit;
                read[i].key = mine;
                read[i].pc = (uint32_t)pc;
                return;
            }
        const int to = read[0].key == 0 || ordered(read[0], mine, bit) ? 0 : 1;
        if (to == 1 && block->fine && read[1].key && !ordered(read[1], mine, bit))
            block->more_reads[p].push_back(read[1]);
        read[to] = {mine, bit, (uint32_t)pc};
        return;
    }
    for (Entry &read : granule.read)
        if (read.key && !ordered(read, mine, bit)) {
            report_race(read, false, access, p, pc);
            break;
        }
    if (!block->more_reads.empty())
        touch_more_reads(access, p, pc);
    write = {access == ATOMIC ? mine | KEY_ATOMIC : mine, bit, (uint32_t)pc};
    granule.read[0].key = granule.read[1].key = 0;
}

/* Not in device or shared memory: a thread's own stack, a table of the program, or a mistake. */
static void touch_elsewhere(const void *p, Access access, uintptr_t pc)
{
    const char *at = (const char *)p;
    if (at >= current->stack && at < current->stack + STACK_BYTES)
        return;
    for (int thread = 0; thread < block->size; thread++)
        if (at >= block->threads[thread].stack && at < block->threads[thread].stack + STACK_BYTES) {
            report("wrong address", p, pc, "%s a local variable of thread %d", verb(access), thread);
            return;
        }
    if (access != READ || !in_constants(p))
        report("wrong address", p, pc, "%s memory of the host", verb(access));
}

/* Registers that a wgmma has yet to write. */
static __attribute__((noinline)) void touch_sums(const void *p, size_t bytes, Access access, uintptr_t pc)
{
    const auto &sums = current->sums;
    for (size_t i = 0; i < sums.size(); i += 2)
        if ((const char *)p < (const char *)sums[i + 1] && (const char *)p + bytes > (const char *)sums[i]) {
            report("missing wait", nullptr, pc, "%s a register that a wgmma under way uses", verb(access));
            return;
        }
}

template <Access access> static inline void touch_as(const void *p, size_t bytes, uintptr_t pc)
{
    if (!current) {
        if (in_device(p))
            report_host("wrong address: code of the host %s device memory at %s (%s)", verb(access), describe(p).c_str(),
                source_line((uint32_t)pc).c_str());
        return;
    }
    if ((size_t)((const char *)p - memory) >= SPAN) {
        if (!current->sums.empty())
            touch_sums(p, bytes, access, pc);
        if ((size_t)((const char *)p - current->stack) >= STACK_BYTES)
            touch_elsewhere(p, access, pc);
        return;
    }
    each_granule(p, bytes, [=](Granule &granule, const char *at) { touch_granule<access>(granule, at, pc); });
}

void touch(const void *p, size_t bytes, Access access, uintptr_t pc)
{
    if (!checked)
        return;
    switch (access) {
    case READ: touch_as<READ>(p, bytes, pc); break;
    case WRITE: touch_as<WRITE>(p, bytes, pc); break;
    case ATOMIC: touch_as<ATOMIC>(p, bytes, pc); break;
    }
}

void atomic(void *p, int bytes)
{
    if ((uintptr_t)p % (size_t)bytes)
        report("misaligned", p, MLC_CALLER, "an atomic of %d bytes", bytes);
    touch(p, (size_t)bytes, ATOMIC, MLC_CALLER);
}

void mark_pending(const void *p, size_t bytes, uintptr_t pc)
{
    if (!checked)
        return;
    each_granule(p, bytes, [=](Granule &granule, const char *) { granule = Granule{{KEY_PENDING, 0, (uint32_t)pc}, {}}; });
}

/* ---- tensors of a plan ---- */

/* Who used the place before is over: as a write of the host would have it. */
static void check_region(const void *p, size_t bytes)
{
    if (!checked)
        return;
    bool raced = false;
    const auto part = [&](Granule &granule, const char *) {
        raced |= granule.write.key >= KEY_SPECIAL && !operation_ordered((uint32_t)(granule.write.key >> 48));
        for (const Entry &read : granule.read)
            raced |= read.key && !operation_ordered((uint32_t)(read.key >> 48));
    };
    each_granule(p, bytes, part);
    if (raced)
        report_host("race between launches: the memory at %s is given away while it is in use", describe(p).c_str());
}

void open_region(void *p, size_t bytes, const char *name)
{
    check_region(p, bytes);
    regions[offset_of(p)] = {bytes, name};
    mark(p, bytes, (uint64_t)operation_now << 48);
}

void close_region(void *p, size_t bytes)
{
    check_region(p, bytes);
    mark(p, bytes, KEY_CLOSED);
}

/* ---- the asynchronous proxy ---- */

uint64_t agent_key()
{
    return (current->key >> 24 << 24) | (uint64_t)(AGENT / 32) << 19 | block->agent_clock;
}

AsyncRead begin_async_read(const void *p, size_t bytes, uintptr_t pc)
{
    AsyncRead read = {p, bytes, {}};
    if (!checked)
        return read;
    const uint32_t bit = 1u << current->lane;
    bool faulted = false;
    each_granule(p, bytes, [&](Granule &granule, const char *at) {
        const Entry &write = granule.write;
        read.keys.push_back(write.key);
        if (faulted)
            return;
        if (write.key < KEY_SPECIAL) {
            if (write.key != KEY_HOST)
                report_state(write.key, write, READ, at, pc);
            faulted = write.key != KEY_HOST;
            return;
        }
        faulted = !ordered(write, current->key, bit) || is_unwritten(write.key);
        if (is_unwritten(write.key)) {
            report_state(KEY_UNWRITTEN, write, READ, at, pc);
            return;
        }
        if (faulted) {
            report_race(write, true, READ, at, pc);
            return;
        }
        const int writer = (int)(write.key >> 19 & 31) * 32 + __builtin_ctz(write.lanes);
        if ((write.key ^ current->key) >> 24 == 0 && writer < block->size && block->threads[writer].fenced < (write.key & CLOCK_MASK)) {
            report("missing fence", at, pc, "an asynchronous operation reads what thread %d wrote (%s) without mlc_fence_async", writer,
                source_line(write.pc).c_str());
            faulted = true;
        }
    });
    return read;
}

void end_async_read(const AsyncRead &read, bool agent, uintptr_t pc)
{
    if (!checked)
        return;
    const Entry entry = agent ? Entry{agent_key(), 1u << AGENT % 32, (uint32_t)pc} : Entry{current->key, 1u << current->lane, (uint32_t)pc};
    size_t i = 0;
    bool faulted = false;
    each_granule(read.p, read.bytes, [&](Granule &granule, const char *at) {
        if (i < read.keys.size() && granule.write.key != read.keys[i++] && !faulted) {
            report("race", at, pc, "shared memory is written (%s) while an asynchronous operation reads it",
                source_line(granule.write.pc).c_str());
            faulted = true;
        }
        Entry *slots = granule.read;
        slots[slots[0].key != 0 && slots[0].key >> 19 != entry.key >> 19] = entry;
    });
}

void mark_agent_write(const void *p, size_t bytes, uintptr_t pc)
{
    if (!checked)
        return;
    const Entry entry = {agent_key(), 1u << AGENT % 32, (uint32_t)pc};
    each_granule(p, bytes, [=](Granule &granule, const char *) { granule = Granule{entry, {}}; });
}

/* ---- copies and fills by the host ---- */

struct Findings {
    bool closed, unwritten, raced;
};

/* What an operation of the host finds that reads or writes where `granule` says. */
static void find(Findings &found, const Granule &granule, Access access)
{
    const Entry &write = granule.write;
    found.closed |= write.key == KEY_CLOSED;
    found.unwritten |= access == READ && is_unwritten(write.key);
    found.raced |= write.key >= KEY_SPECIAL && !operation_ordered((uint32_t)(write.key >> 48));
    for (const Entry &read : granule.read)
        found.raced |= access == WRITE && read.key && !operation_ordered((uint32_t)(read.key >> 48));
}

void touch_operation(const void *p, size_t bytes, Access access)
{
    if (!checked)
        return;
    const uint64_t mine = (uint64_t)operation_now << 48 | 1;
    Findings found = {};
    const auto part = [&](Granule &granule, const char *) {
        find(found, granule, access);
        if (access == WRITE)
            granule = Granule{{granule.write.key == KEY_CLOSED ? KEY_CLOSED : mine, 1, 0}, {}};
        else
            granule.read[granule.read[0].key && !operation_ordered((uint32_t)(granule.read[0].key >> 48))] = {mine, 1, 0};
    };
    const auto whole = [&](Slot &slot) {
        const size_t number = (size_t)(&slot - slots);
        if (access == READ || slot.page) {
            each_granule(memory + number * PAGE, PAGE, part);
            if (access == READ || found.closed)
                return;
        }
        find(found, Granule{{slot.page ? mine : slot.key, 1, 0}, {}}, access);
        if (slot.page || slot.key != KEY_CLOSED)
            set_page(slot, mine);
    };
    each_page(p, bytes, whole, part);
    const std::string name = operation_name(operation_now);
    if (found.closed)
        report_host("out of bounds: %s %s %zu bytes at %s", name.c_str(), verb(access), bytes, describe(p).c_str());
    else if (found.unwritten)
        report_host(
            "uninitialised read: %s reads %zu bytes at %s, of which some were never written", name.c_str(), bytes, describe(p).c_str());
    if (found.raced)
        report_host("race between launches: %s %s %zu bytes at %s, which no stream or event orders after their last use", name.c_str(),
            verb(access), bytes, describe(p).c_str());
}

/* A copy on the device passes on what was not written. */
void copy_states(const void *to, const void *from, size_t bytes)
{
    if (!checked)
        return;
    for (size_t at = 0; at < bytes;) {
        bool unwritten = false;
        const size_t step = std::min<size_t>(16, bytes - at);
        each_granule((const char *)from + at, step, [&](Granule &granule, const char *) { unwritten |= is_unwritten(granule.write.key); });
        if (unwritten)
            mark((const char *)to + at, step, KEY_UNWRITTEN);
        at += step;
    }
}

void forget_operations()
{
    if (!checked)
        return;
    for (size_t number = 0; number < device_end / PAGE + 1; number++) {
        Page *page = slots[number].page;
        if (slots[number].key >= KEY_SPECIAL)
            slots[number].key = is_unwritten(slots[number].key) ? KEY_UNWRITTEN : KEY_HOST;
        for (size_t i = 0; page && i < PAGE >> page->shift; i++) {
            Granule &granule = page->granules[i];
            if (granule.write.key >= KEY_SPECIAL)
                granule.write = {is_unwritten(granule.write.key) ? KEY_UNWRITTEN : KEY_HOST, 0, 0};
            granule.read[0].key = granule.read[1].key = 0;
        }
    }
}

/* ---- what the compiler calls around every load and store of a kernel under -fsanitize=thread ---- */

template <Access access> static inline void hook(void *p, size_t bytes, size_t alignment, uintptr_t pc)
{
    if (current && (uintptr_t)p & (alignment - 1))
        report("misaligned", p, pc, "%s %zu bytes", verb(access), bytes);
    touch_as<access>(p, bytes, pc);
}

#define HOOKS(n)                                                                                                                           \
    void __tsan_read##n(void *p)                                                                                                           \
    {                                                                                                                                      \
        hook<READ>(p, n, n, MLC_CALLER);                                                                                                   \
    }                                                                                                                                      \
    void __tsan_write##n(void *p)                                                                                                          \
    {                                                                                                                                      \
        hook<WRITE>(p, n, n, MLC_CALLER);                                                                                                  \
    }                                                                                                                                      \
    void __tsan_read_write##n(void *p)                                                                                                     \
    {                                                                                                                                      \
        hook<READ>(p, n, n, MLC_CALLER);                                                                                                   \
        hook<WRITE>(p, n, n, MLC_CALLER);                                                                                                  \
    }                                                                                                                                      \
    void __tsan_unaligned_read##n(void *p)                                                                                                 \
    {                                                                                                                                      \
        hook<READ>(p, n, 1, MLC_CALLER);                                                                                                   \
    }                                                                                                                                      \
    void __tsan_unaligned_write##n(void *p)                                                                                                \
    {                                                                                                                                      \
        hook<WRITE>(p, n, 1, MLC_CALLER);                                                                                                  \
    }

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void *p, size_t n)
{
    hook<READ>(p, n, 1, MLC_CALLER);
}
void __tsan_write_range(void *p, size_t n)
{
    hook<WRITE>(p, n, 1, MLC_CALLER);
}
void *__tsan_memcpy(void *to, const void *from, size_t n)
{
    hook<READ>((void *)from, n, 1, MLC_CALLER);
    hook<WRITE>(to, n, 1, MLC_CALLER);
    return memcpy(to, from, n);
}
void *__tsan_memmove(void *to, const void *from, size_t n)
{
    hook<READ>((void *)from, n, 1, MLC_CALLER);
    hook<WRITE>(to, n, 1, MLC_CALLER);
    return memmove(to, from, n);
}
void *__tsan_memset(void *to, int value, size_t n)
{
    hook<WRITE>(to, n, 1, MLC_CALLER);
    return memset(to, value, n);
}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void) {}
void __tsan_init(void)
{
    checked = true;
}
}

}
