/* async.cpp: the units that work on their own: mbarriers, tensor copies, wgmma, tcgen05. From the "Parallel Thread Execution ISA".
 *
 * All at the latest legal moment: a tensor copy and the mmas of tcgen05 when all threads of the block wait, a wgmma when its warp waits for
 * it. Until then registers and shared memory they write are poison; what they read must not change, and is remembered.
 * A warp of a warpgroup does its own 16 rows, so nothing here makes the four warps wait for one another. */
#include "shim.h"

#include "mlc_shim.h"

#include <algorithm>
#include <math.h>
#include <stdlib.h>
#include <string.h>

namespace mlc_shim {

enum Operation {
    MEET_WGMMA = MEET_ALIGNED + 20,
    MEET_WGMMA_COMMIT,
    MEET_WGMMA_WAIT,
    MEET_TMEM_ALLOC,
    MEET_TMEM_FREE,
    MEET_TMEM_LOAD,
    MEET_REGISTERS,
};

constexpr int TMEM_LANES = 128, TMEM_COLUMNS = 512;

/* ---- what is under way ---- */

bool run_async()
{
    Block &b = *block;
    auto &jobs = b.copies.empty() || (!b.mmas.empty() && draw() % 2) ? b.mmas : b.copies;
    if (jobs.empty())
        return false;
    size_t at = 0;
    if (&jobs == &b.copies && options().order == Order::REVERSE)
        at = jobs.size() - 1;
    else if (&jobs == &b.copies && options().order != Order::FORWARD)
        at = draw() % jobs.size();
    const std::function<void()> job = std::move(jobs[at]);
    jobs.erase(jobs.begin() + (ptrdiff_t)at);
    job();
    return true;
}

static void agent_turn()
{
    if (block->size > AGENT)
        report("limit", nullptr, 0, "asynchronous units in a block of %d threads: the shim has room for %d", block->size, AGENT);
    ++block->agent_clock;
}

/* ---- mbarriers ("mbarrier"): the state of one is here, its word in shared memory is poison ---- */

static Mbarrier *find_mbarrier(const mlc_mbarrier *b, uintptr_t pc)
{
    const uint32_t at = in_shared(b) ? shared_address(b) : 0;
    for (const auto &known : block->mbarriers)
        if (known->at == at)
            return known.get();
    report("wrong barrier", b, pc, "an mbarrier that was not initialised");
    return nullptr;
}

void mbarrier_init(mlc_mbarrier *b, int arrivals)
{
    const uintptr_t pc = MLC_CALLER;
    if (!in_shared(b) || (uintptr_t)b % 8 || arrivals < 1 || arrivals >= 1 << 20) {
        report("wrong barrier", b, pc, "an mbarrier of %d arrivals: in shared memory, aligned to 8, 1 to 2^20 - 1", arrivals);
        return;
    }
    note_fine();
    touch(b, sizeof *b, WRITE, pc);
    const uint32_t at = shared_address(b);
    for (const auto &known : block->mbarriers)
        if (known->at == at)
            report("wrong barrier", b, pc, "an mbarrier that is initialised already");
    block->mbarriers.emplace_back(new Mbarrier{at, current->number, current->clock, arrivals, arrivals, 0, 0, {}, {}, {}});
}

static void end_phase_if_complete(Mbarrier &m)
{
    if (m.left > 0 || m.bytes != 0)
        return;
    m.phase++;
    m.left = m.arrivals;
    m.over = m.joined;
    for (int number : m.waiting) {
        Thread &thread = block->threads[number];
        if (checked)
            acquire(thread, m.over);
        make_ready(thread);
    }
    m.waiting.clear();
}

void mbarrier_arrive(mlc_mbarrier *b, int bytes)
{
    const uintptr_t pc = MLC_CALLER;
    Mbarrier *m = find_mbarrier(b, pc);
    if (!m)
        return;
    touch(b, sizeof *b, ATOMIC, pc);
    if (block->warps[current->warp].tmem_read)
        report("missing fence", b, pc, "an mbarrier is told of tensor memory that was read, without mlc_tmem_fence_before");
    if (m->left == 0) {
        report("wrong barrier", b, pc, "more than %d arrivals in a phase", m->arrivals);
        return;
    }
    if (checked) {
        join(m->joined, *current);
        advance(*current);
    }
    m->bytes += bytes;
    m->left--;
    end_phase_if_complete(*m);
}

static void land_on(Mbarrier &m, int64_t bytes)
{
    m.joined.of[AGENT] = std::max(m.joined.of[AGENT], block->agent_clock);
    m.bytes -= bytes;
    end_phase_if_complete(m);
}

void mbarrier_wait(mlc_mbarrier *b, int parity)
{
    const uintptr_t pc = MLC_CALLER;
    Mbarrier *m = find_mbarrier(b, pc);
    if (!m)
        return;
    touch(b, sizeof *b, ATOMIC, pc);
    current->tmem_fenced = false;
    if ((m->phase & 1) != (uint32_t)(parity & 1)) {
        if (checked)
            acquire(*current, m->over);
        return;
    }
    m->waiting.push_back(current->number);
    wait_as(State::MBARRIER, pc);
}

/* A unit that will arrive at the mbarrier must see it initialised. */
static void check_made(const Mbarrier &m, const mlc_mbarrier *b, uintptr_t pc)
{
    if (block->threads[m.made_by].fenced < m.made)
        report("missing fence", b, pc, "an mbarrier is given to an asynchronous unit without mlc_fence_async after mlc_mbarrier_init");
}

/* "fence.proxy.async" */
void fence_async()
{
    current->fenced = current->clock;
    if (checked)
        advance(*current);
}

/* ---- tensor copies ("cp.async.bulk.tensor", "Tensors: Swizzling Modes") ---- */

static uint32_t swizzled(uint32_t address, mlc_swizzle swizzle)
{
    const uint32_t bits[4] = {0, 0x70, 0x30, 0x10};
    return address ^ (address >> 3 & bits[swizzle]);
}

static uint32_t pattern_bytes(mlc_swizzle swizzle)
{
    const uint32_t bytes[4] = {128, 1024, 512, 256}; /* none: what a copy asks for */
    return bytes[swizzle];
}

static char *shared_of(uint32_t address)
{
    return shared_pool() + address;
}

} // namespace mlc_shim

int mlc_tensor_map_make(mlc_tensor_map *map, const void *base, uint64_t batches, uint64_t batch_bytes, uint64_t rows, uint64_t pitch_bytes,
    uint64_t columns, uint32_t box_rows, uint32_t box_columns, mlc_swizzle swizzle)
{
    const uint64_t sizes[3] = {batches, rows, columns}, strides[2] = {batch_bytes, pitch_bytes};
    const uint32_t row_bytes = box_columns * 2, most[4] = {512, 128, 64, 32};
    bool right = map && (uintptr_t)base % 16 == 0 && box_rows >= 1 && box_rows <= 256 && box_columns >= 1 && box_columns <= 256;
    for (const uint64_t size : sizes)
        right = right && size >= 1 && size <= 1ull << 32;
    for (const uint64_t stride : strides)
        right = right && stride % 16 == 0 && stride > 0 && stride < 1ull << 40;
    if (getenv("MLC_SHIM_NO_MAPS") || !right || row_bytes % 16 || row_bytes > most[swizzle])
        return 1; /* CUDA_ERROR_INVALID_VALUE */
    *map = {const_cast<void *>(base), batches, batch_bytes, rows, pitch_bytes, columns, box_rows, box_columns, swizzle};
    return 0;
}

namespace mlc_shim {

/* Calls f(global, shared, bytes) for pieces of the box, of 16 bytes inside the matrix; global is nullptr outside. */
template <class F> static void each_piece(const mlc_tensor_map &map, int batch, int row0, int column0, uint32_t shared, F f)
{
    const bool batch_inside = batch >= 0 && (uint64_t)batch < map.batches;
    for (uint32_t row = 0; row < map.box_rows; row++) {
        const int64_t r = (int64_t)row0 + row;
        const bool row_inside = batch_inside && r >= 0 && (uint64_t)r < map.rows;
        for (uint32_t byte = 0; byte < map.box_columns * 2;) {
            const int64_t c = (int64_t)column0 + byte / 2;
            const bool inside = row_inside && c >= 0 && (uint64_t)c < map.columns, eight = inside && (uint64_t)c + 8 <= map.columns;
            const uint32_t bytes = byte % 16 == 0 && (eight || !row_inside) ? 16 : 2;
            const uint64_t place = (uint64_t)batch * map.batch_bytes + (uint64_t)r * map.pitch_bytes + (uint64_t)c * 2;
            char *global = inside ? (char *)map.base + place : nullptr;
            f(global, shared_of(swizzled(shared + row * map.box_columns * 2 + byte, map.swizzle)), (size_t)bytes);
            byte += bytes;
        }
    }
}

static bool is_box(const void *shared, const mlc_tensor_map &map, uintptr_t pc)
{
    if (in_shared(shared) && shared_address(shared) % pattern_bytes(map.swizzle) == 0)
        return true;
    report("misaligned", shared, pc, "a tensor copy of this swizzle begins at a multiple of %u bytes of shared memory",
        pattern_bytes(map.swizzle));
    return false;
}

void tensor_load(void *shared, const mlc_tensor_map *place, int batch, int row, int column, mlc_mbarrier *b)
{
    const uintptr_t pc = MLC_CALLER;
    const mlc_tensor_map map = *place;
    Mbarrier *m = find_mbarrier(b, pc);
    if (!m || !is_box(shared, map, pc))
        return;
    check_made(*m, b, pc);
    const size_t bytes = (size_t)map.box_rows * map.box_columns * 2;
    touch(shared, bytes, WRITE, pc);
    mark_pending(shared, bytes, pc);
    memset(shared, 0xFF, bytes);
    const uint32_t to = shared_address(shared);
    each_piece(map, batch, row, column, to, [&](char *global, char *, size_t n) {
        if (global)
            touch(global, n, READ, pc);
    });
    block->copies.push_back([=] {
        agent_turn();
        each_piece(map, batch, row, column, to, [&](char *global, char *at, size_t n) {
            if (global)
                memcpy(at, global, n);
            else
                memset(at, 0, n);
        });
        mark_agent_write(shared, bytes, pc);
        land_on(*m, (int64_t)bytes);
    });
}

void tensor_store(const mlc_tensor_map *place, int batch, int row, int column, const void *shared)
{
    const uintptr_t pc = MLC_CALLER;
    const mlc_tensor_map map = *place;
    if (!is_box(shared, map, pc))
        return;
    const AsyncRead read = begin_async_read(shared, (size_t)map.box_rows * map.box_columns * 2, pc);
    const uint32_t from = shared_address(shared);
    current->stores.push_back([=] {
        end_async_read(read, false, pc);
        each_piece(map, batch, row, column, from, [&](char *global, char *at, size_t n) {
            if (!global)
                return;
            touch(global, n, WRITE, pc);
            memcpy(global, at, n);
        });
    });
}

void tensor_store_commit()
{
    current->store_groups.push_back(std::move(current->stores));
    current->stores.clear();
}

void tensor_store_wait(int pending)
{
    while (current->store_groups.size() > (size_t)pending) {
        for (const auto &store : current->store_groups.front())
            store();
        current->store_groups.pop_front();
    }
}

/* ---- matrices in shared memory ("Matrix Descriptor Format", "Canonical Layouts") ---- */

struct Matrix {
    uint32_t start, leading, stride; /* bytes */
    mlc_swizzle swizzle;
    bool trans; /* not K-major */
};

static bool matrix_of(uint64_t descriptor, bool trans, bool tmem, uintptr_t pc, Matrix *matrix)
{
    const uint32_t code = (uint32_t)(descriptor >> 61);
    const mlc_swizzle swizzle = (mlc_swizzle)(tmem ? code / 2 : descriptor >> 62);
    *matrix = {(uint32_t)(descriptor & 0x3FFF) << 4, (uint32_t)(descriptor >> 16 & 0x3FFF) << 4, (uint32_t)(descriptor >> 32 & 0x3FFF) << 4,
        swizzle, trans};
    if (descriptor >> 49 & 7)
        report("wrong descriptor", nullptr, pc, "a base offset that is not 0: patterns begin at a multiple of %u bytes",
            pattern_bytes(swizzle));
    else if (tmem && (descriptor >> 46 & 3) != 1)
        report("wrong descriptor", nullptr, pc, "a descriptor of tcgen05 has version 1");
    else if ((tmem && code & 1) || (!tmem && descriptor >> 46 & 3))
        report("wrong descriptor", nullptr, pc, "a descriptor of the other kind, or a swizzle that is not supported");
    else if (swizzle != MLC_SWIZZLE_NONE && matrix->stride % pattern_bytes(swizzle) && !trans)
        report("wrong descriptor", nullptr, pc, "a stride of %u bytes cuts the pattern of the swizzle, %u bytes", matrix->stride,
            pattern_bytes(swizzle));
    else
        return true;
    return false;
}

static uint32_t place_of(const Matrix &m, int i, int k)
{
    const int w = m.swizzle == MLC_SWIZZLE_NONE ? 8 : m.swizzle == MLC_SWIZZLE_128 ? 64 : m.swizzle == MLC_SWIZZLE_64 ? 32 : 16;
    uint32_t at;
    if (!m.trans && m.swizzle == MLC_SWIZZLE_NONE)
        at = (uint32_t)(i % 8 * 16 + k % 8 * 2) + m.stride * (uint32_t)(i / 8) + m.leading * (uint32_t)(k / 8);
    else if (!m.trans)
        at = (uint32_t)(i % 8 * w * 2 + k * 2) + m.stride * (uint32_t)(i / 8);
    else if (m.swizzle == MLC_SWIZZLE_NONE)
        at = (uint32_t)(i % 8 * 2 + k % 8 * 16) + m.stride * (uint32_t)(i / 8) + m.leading * (uint32_t)(k / 8);
    else
        at = (uint32_t)(i % w * 2 + k % 8 * w * 2) + m.leading * (uint32_t)(i / w) + m.stride * (uint32_t)(k / 8);
    return swizzled(m.start + at, m.swizzle) & (256 * 1024 - 1);
}

static const char *element_of(const Matrix &m, int i, int k)
{
    return shared_of(place_of(m, i, k));
}

static float value_of(const Matrix &m, int i, int k)
{
    uint16_t bits;
    memcpy(&bits, element_of(m, i, k), 2);
    return mlc_f32_of_bf16(bits);
}

/* Rows [first, first + count) of a matrix with 16 columns, by pieces of 16 bytes. */
static void begin_reads(const Matrix &m, int first, int count, uintptr_t pc, std::vector<AsyncRead> *reads)
{
    if (!checked)
        return;
    for (int i = first; i < first + count; i += m.trans ? 8 : 1)
        for (int k = 0; k < 16; k += m.trans ? 1 : 8)
            reads->push_back(begin_async_read(element_of(m, i, k), 16, pc));
}

/* ---- wgmma ---- */

static uintptr_t wgmma_pc;

/* "setmaxnreg": the registers of each warp, which the block may not have more of than it began with. */
void registers_set(int registers)
{
    const uintptr_t pc = MLC_CALLER;
    Warp &warp = block->warps[current->warp];
    if (registers < 24 || registers > 256 || registers % 8 || current->warp / 4 * 4 + 4 > block->warp_count)
        report("limit", nullptr, pc, "%d registers: a multiple of 8 from 24 to 256, of a whole warpgroup", registers);
    warp.operand[current->lane] = registers;
    meet_aligned(MEET_REGISTERS, pc, [](Warp &w, uint32_t) { w.registers = w.operand[0]; });
}

/* Those of a multiprocessor, by its four parts, must do for what warps took, in blocks that share it. */
static void check_registers()
{
    for (int group = 0; group + 4 <= block->warp_count; group += 4)
        for (int warp = group; warp < group + 4; warp++)
            if (block->warps[warp].registers != block->warps[group].registers)
                report("divergent warp", nullptr, 0, "warps %d and %d of a warpgroup set other numbers of registers", group, warp);
    int taken = 0;
    for (int warp = 0; warp < block->warp_count; warp++)
        taken += block->warps[warp].registers * 32;
    if (taken > 65536)
        report("limit", nullptr, 0, "warps of a block take %d registers, of 65536", taken);
}

void wgmma_fence()
{
    current->wgmma_fenced = true;
}

static void set_sums(Wgmma &operation, int lane, const float *from)
{
    for (int i = 0; i < operation.n / 2; i++)
        operation.d[lane][i] = from ? from[i] : NAN;
}

static bool writes_sums(const Warp &warp, const float *d)
{
    for (const auto &group : warp.groups)
        for (const Wgmma &other : group)
            if (other.d[0] == d)
                return true;
    for (const Wgmma &other : warp.open)
        if (other.d[0] == d)
            return true;
    return false;
}

void wgmma(float *d, int n, const uint32_t *registers_a, uint64_t a, uint64_t b, bool trans_a, bool trans_b, bool accumulate)
{
    wgmma_pc = MLC_CALLER;
    Thread &self = *current;
    Warp &warp = block->warps[self.warp];
    if (!self.wgmma_fenced)
        report("missing fence", nullptr, wgmma_pc, "a wgmma without mlc_wgmma_fence since the last wait");
    warp.in[self.lane][0] = (uint64_t)d;
    warp.in[self.lane][1] = a;
    warp.in[self.lane][2] = b;
    warp.in[self.lane][3] = (uint64_t)n | (uint64_t)(registers_a != nullptr) << 32 | (uint64_t)trans_a << 33 | (uint64_t)trans_b << 34 |
                            (uint64_t)accumulate << 35;
    if (registers_a)
        memcpy(&warp.in[self.lane][4], registers_a, 16);
    if (self.warp / 4 * 4 + 4 > block->warp_count)
        report("divergent warp", nullptr, wgmma_pc, "a wgmma outside a whole warpgroup");
    meet_aligned(MEET_WGMMA, wgmma_pc, [](Warp &w, uint32_t) {
        const uint64_t flags = w.in[0][3];
        Wgmma operation = {};
        operation.a = w.in[0][1];
        operation.b = w.in[0][2];
        operation.n = (int)(uint32_t)flags;
        operation.from_registers = flags >> 32 & 1;
        operation.trans_a = flags >> 33 & 1;
        operation.trans_b = flags >> 34 & 1;
        operation.accumulate = flags >> 35 & 1;
        operation.pc = wgmma_pc;
        const bool chained = writes_sums(w, (float *)w.in[0][0]);
        const int first = (int)(&w - block->warps) * 32;
        for (int lane = 0; lane < 32; lane++) {
            if (w.in[lane][1] != operation.a || w.in[lane][2] != operation.b || w.in[lane][3] != flags)
                report("divergent warp", nullptr, wgmma_pc, "lanes of a warp give a wgmma different descriptors");
            operation.d[lane] = (float *)w.in[lane][0];
            memcpy(operation.a_registers[lane], &w.in[lane][4], 16);
            if (chained)
                continue;
            if (operation.accumulate)
                operation.before.insert(operation.before.end(), operation.d[lane], operation.d[lane] + operation.n / 2);
            set_sums(operation, lane, nullptr);
            auto &sums = block->threads[first + lane].sums;
            sums.push_back(operation.d[lane]);
            sums.push_back(operation.d[lane] + operation.n / 2);
        }
        Matrix ma = {}, mb = {};
        const int row = (int)(&w - block->warps) % 4 * 16;
        if (!operation.from_registers && matrix_of(operation.a, operation.trans_a, false, wgmma_pc, &ma))
            begin_reads(ma, row, 16, wgmma_pc, &operation.reads);
        if (matrix_of(operation.b, operation.trans_b, false, wgmma_pc, &mb))
            begin_reads(mb, 0, operation.n, wgmma_pc, &operation.reads);
        w.open.push_back(std::move(operation));
    });
}

void wgmma_commit()
{
    meet_aligned(MEET_WGMMA_COMMIT, MLC_CALLER, [](Warp &w, uint32_t) {
        w.groups.push_back(std::move(w.open));
        w.open.clear();
    });
}

static void a_fragment(const Wgmma &operation, float a[16][16])
{
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 8; i++)
            a[lane / 4 + i / 2 % 2 * 8][lane % 4 * 2 + i % 2 + i / 4 * 8] = mlc_f32_of_bf16(
                (uint16_t)(operation.a_registers[lane][i / 2] >> i % 2 * 16));
}

/* One warp's 16 rows. "Register Fragments": lane holds in d[i] row lane / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (lane % 4) + i % 2. */
static void finish_wgmma(Warp &w, Wgmma &operation)
{
    float a[16][16];
    Matrix ma = {}, mb = {};
    const int row = (int)(&w - block->warps) % 4 * 16, n = operation.n;
    if (operation.from_registers)
        a_fragment(operation, a);
    else if (matrix_of(operation.a, operation.trans_a, false, operation.pc, &ma))
        for (int i = 0; i < 16; i++)
            for (int k = 0; k < 16; k++)
                a[i][k] = value_of(ma, row + i, k);
    if (!matrix_of(operation.b, operation.trans_b, false, operation.pc, &mb))
        return;
    std::vector<float> b((size_t)n * 16), sums((size_t)n / 2);
    for (int j = 0; j < n; j++)
        for (int k = 0; k < 16; k++)
            b[(size_t)(j * 16 + k)] = value_of(mb, j, k);
    for (const AsyncRead &read : operation.reads)
        end_async_read(read, false, operation.pc);
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < n / 2; i++) {
            const int r = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
            float sum = !operation.accumulate      ? 0.0f
                        : operation.before.empty() ? operation.d[lane][i]
                                                   : operation.before[(size_t)(lane * n / 2 + i)];
            for (int k = 0; k < 16; k++)
                sum += a[r][k] * b[(size_t)(column * 16 + k)];
            sums[(size_t)i] = sum;
        }
        set_sums(operation, lane, sums.data());
    }
}

/* Sums that another operation still under way adds to go on to it; the registers stay poison. */
static void pass_on(Warp &w, Wgmma &done)
{
    const auto give = [&](Wgmma &next) {
        if (next.d[0] != done.d[0])
            return false;
        if (next.accumulate)
            for (int lane = 0; lane < 32; lane++)
                next.before.insert(next.before.end(), done.d[lane], done.d[lane] + done.n / 2);
        for (int lane = 0; lane < 32; lane++)
            set_sums(done, lane, nullptr);
        return true;
    };
    for (auto &group : w.groups)
        for (Wgmma &next : group)
            if (give(next))
                return;
    for (Wgmma &next : w.open)
        if (give(next))
            return;
    const int first = (int)(&w - block->warps) * 32;
    for (int lane = 0; lane < 32; lane++) {
        auto &sums = block->threads[first + lane].sums;
        for (size_t i = 0; i < sums.size(); i += 2)
            if (sums[i] == done.d[lane]) {
                sums.erase(sums.begin() + (ptrdiff_t)i, sums.begin() + (ptrdiff_t)i + 2);
                break;
            }
    }
}

void wgmma_wait(int pending)
{
    Warp &warp = block->warps[current->warp];
    current->wgmma_fenced = false;
    warp.operand[current->lane] = pending;
    meet_aligned(MEET_WGMMA_WAIT, MLC_CALLER, [](Warp &w, uint32_t) {
        while (w.groups.size() > (size_t)w.operand[0]) {
            std::vector<Wgmma> group = std::move(w.groups.front());
            w.groups.pop_front();
            for (size_t i = 0; i < group.size(); i++) {
                finish_wgmma(w, group[i]);
                bool again = false; /* later in the same group: the sums stand in the registers */
                for (size_t j = i + 1; j < group.size(); j++)
                    again |= group[j].d[0] == group[i].d[0];
                if (!again)
                    pass_on(w, group[i]);
            }
        }
    });
}

/* ---- tensor memory ("Tensor Memory", "tcgen05") ---- */

static float tmem[TMEM_LANES][TMEM_COLUMNS];
static char tmem_pending[TMEM_COLUMNS]; /* mmas under way that write the column */
static uintptr_t tmem_pc;
static struct {
    int thread; /* -1: nobody */
    uint32_t clock;
} tmem_reader[TMEM_LANES / 32][TMEM_COLUMNS]; /* who read lanes of a column last, of each warp's lanes */

/* What the products go into has been read by those who read it. */
static void check_readers(uint32_t column, int columns, uintptr_t pc)
{
    for (int lanes = 0; checked && lanes < TMEM_LANES / 32; lanes++)
        for (uint32_t at = column; at < column + (uint32_t)columns; at++) {
            const auto &reader = tmem_reader[lanes][at];
            if (reader.thread < 0 || reader.thread == current->number ||
                knows(*current, reader.thread / 32, reader.thread % 32, reader.clock))
                continue;
            report("race", nullptr, pc, "an mma writes column %u of tensor memory; thread %d read it and no barrier lies between", at,
                reader.thread);
            return;
        }
}

void tmem_alloc(uint32_t *address, int columns)
{
    tmem_pc = MLC_CALLER;
    Warp &warp = block->warps[current->warp];
    warp.in[current->lane][0] = (uint64_t)address;
    warp.operand[current->lane] = columns;
    if (current->lane == 0 && in_shared(address))
        touch(address, 4, WRITE, tmem_pc);
    meet_aligned(MEET_TMEM_ALLOC, tmem_pc, [](Warp &w, uint32_t) {
        const int count = w.operand[0];
        if (count < 32 || count > TMEM_COLUMNS || count & (count - 1) || (int)block->tmem_columns + count > TMEM_COLUMNS) {
            report("limit", nullptr, tmem_pc, "%d columns of tensor memory, %u of %d are taken; a power of two from 32 on", count,
                block->tmem_columns, TMEM_COLUMNS);
            return;
        }
        const uint32_t at = block->tmem_columns;
        for (auto &lane : tmem)
            for (int column = 0; column < count; column++)
                lane[at + (uint32_t)column] = NAN;
        block->tmem_columns += (uint32_t)count;
        memcpy((void *)w.in[0][0], &at, 4);
    });
}

void tmem_free(uint32_t address, int columns)
{
    tmem_pc = MLC_CALLER;
    block->warps[current->warp].operand[current->lane] = columns;
    (void)address;
    meet_aligned(MEET_TMEM_FREE, tmem_pc, [](Warp &w, uint32_t) {
        if (w.operand[0] > (int)block->tmem_columns)
            report("limit", nullptr, tmem_pc, "more tensor memory is freed than was allocated");
        else
            block->tmem_columns -= (uint32_t)w.operand[0];
    });
}

void tmem_fence()
{
    current->tmem_fenced = true;
}

void tmem_fence_before()
{
    block->warps[current->warp].tmem_read = false;
}

void tmem_mma(uint32_t d, uint64_t a, uint64_t b, uint32_t instruction, bool accumulate)
{
    const uintptr_t pc = MLC_CALLER;
    const int m = (int)(instruction >> 24 & 31) * 16, n = (int)(instruction >> 17 & 63) * 8;
    const uint32_t column = d & 0xFFFF;
    Matrix ma, mb;
    if ((instruction & 0x1FFF) != (1u << 4 | 1u << 7 | 1u << 10) || m != 128 || n < 16 || n > 256 || n % 16) {
        report("wrong descriptor", nullptr, pc, "an mma of %d x %d: bf16 times bf16 to f32, 128 x (16 to 256 by 16) is what the shim has",
            m, n);
        return;
    }
    if (d >> 16 || column + (uint32_t)n > block->tmem_columns) {
        report("out of bounds", nullptr, pc, "an mma writes columns %u to %u of tensor memory, of which %u are allocated", column,
            column + (uint32_t)n - 1, block->tmem_columns);
        return;
    }
    if (!matrix_of(a, instruction >> 15 & 1, true, pc, &ma) || !matrix_of(b, instruction >> 16 & 1, true, pc, &mb))
        return;
    check_readers(column, n, pc);
    std::vector<AsyncRead> reads;
    begin_reads(ma, 0, m, pc, &reads);
    begin_reads(mb, 0, n, pc, &reads);
    for (int j = 0; j < n; j++)
        tmem_pending[column + (uint32_t)j]++;
    block->mmas.push_back([=] {
        agent_turn();
        std::vector<float> operand((size_t)n * 16);
        for (int j = 0; j < n; j++)
            for (int k = 0; k < 16; k++)
                operand[(size_t)(j * 16 + k)] = value_of(mb, j, k);
        for (int i = 0; i < m; i++) {
            float row[16];
            for (int k = 0; k < 16; k++)
                row[k] = value_of(ma, i, k);
            for (int j = 0; j < n; j++) {
                float sum = accumulate ? tmem[i][column + (uint32_t)j] : 0.0f;
                for (int k = 0; k < 16; k++)
                    sum += row[k] * operand[(size_t)(j * 16 + k)];
                tmem[i][column + (uint32_t)j] = sum;
            }
        }
        for (const AsyncRead &read : reads)
            end_async_read(read, true, pc);
        for (int j = 0; j < n; j++)
            tmem_pending[column + (uint32_t)j]--;
    });
}

void tmem_commit(mlc_mbarrier *b)
{
    const uintptr_t pc = MLC_CALLER;
    Mbarrier *m = find_mbarrier(b, pc);
    if (!m)
        return;
    check_made(*m, b, pc);
    block->mmas.push_back([=] {
        if (m->left == 0)
            report("wrong barrier", b, pc, "more than %d arrivals in a phase", m->arrivals);
        else
            m->left--;
        land_on(*m, 0);
    });
}

void tmem_load(float *v, int columns, uint32_t address)
{
    tmem_pc = MLC_CALLER;
    Warp &warp = block->warps[current->warp];
    const uint32_t lane0 = address >> 16, column = address & 0xFFFF;
    warp.in[current->lane][0] = address;
    for (int i = 0; i < columns; i++)
        v[i] = NAN;
    if (lane0 != (uint32_t)(current->warp % 4 * 32) || column + (uint32_t)columns > block->tmem_columns) {
        report("out of bounds", nullptr, tmem_pc,
            "warp %d reads lanes from %u, columns %u to %u of tensor memory: lanes from %d are its own, %u columns allocated",
            current->warp, lane0, column, column + (uint32_t)columns - 1, current->warp % 4 * 32, block->tmem_columns);
        return;
    }
    if (!current->tmem_fenced)
        report("missing fence", nullptr, tmem_pc, "tensor memory is read without mlc_tmem_fence since the last barrier");
    for (int i = 0; i < columns; i++)
        if (tmem_pending[column + (uint32_t)i]) {
            report("missing wait", nullptr, tmem_pc, "tensor memory is read while an mma that writes it is under way");
            return;
        }
    warp.tmem_read = true;
    for (int i = 0; i < columns; i++)
        tmem_reader[lane0 / 32][column + (uint32_t)i] = {current->number, current->clock};
    if (meet_aligned(MEET_TMEM_LOAD, tmem_pc, nullptr))
        for (int i = 0; i < columns; i++)
            v[i] = tmem[lane0 + (uint32_t)current->lane][column + (uint32_t)i];
}

/* ---- beginnings and ends ---- */

void begin_block_async()
{
    block->mbarriers.clear();
    block->agent_clock = 0;
    block->copies.clear();
    block->mmas.clear();
    block->tmem_columns = 0;
    memset(tmem_pending, 0, sizeof tmem_pending);
    memset(tmem_reader, -1, sizeof tmem_reader);
    for (int warp = 0; warp < block->warp_count; warp++)
        block->warps[warp].registers = 0, block->warps[warp].tmem_read = false;
}

void end_of_thread_async(Thread &thread)
{
    if (!thread.sums.empty())
        report("missing wait", nullptr, 0, "the thread ends and a wgmma of its was never waited for");
    if (!thread.stores.empty() || !thread.store_groups.empty())
        report("missing wait", nullptr, 0, "the thread ends and a tensor store of its was never waited for");
}

void end_block_async()
{
    if (block->live > 0)
        return;
    check_registers();
    if (!block->copies.empty() || !block->mmas.empty())
        report("missing wait", nullptr, 0, "the block ends while a tensor copy or an mma is under way");
    if (block->tmem_columns)
        report("limit", nullptr, 0, "the block ends with %u columns of tensor memory allocated", block->tmem_columns);
}

}

uint32_t mlc_shim_matrix_place(uint64_t descriptor, int trans, int kind, int i, int k)
{
    mlc_shim::Matrix matrix;
    return mlc_shim::matrix_of(descriptor, trans != 0, kind != 0, 0, &matrix) ? mlc_shim::place_of(matrix, i, k) : ~0u;
}
