/* nccl.cpp: a stub of NCCL (mlc_nccl.h) between processes of one machine, with as little help as the library may give: nothing is buffered.
 * A send is over when the receive that matches it has taken everything, and holds its stream until then; so does a receive. Under a random
 * schedule each of them is late by a few looks.
 *
 * A communicator is a file without a name that both processes map. It has a way in each direction; the transfers of a way match in order. What
 * differs between the two ends (bytes, type, captured or not), what uses a communicator after its end, two streams on one
 * communicator, and memory that is not an allocation of the device are reported.
 *
 * A deadlock is reported, not waited for. A process that can do nothing but wait for others says so on a page that they map, with whom it
 * waits for; whoever moves something that another process may wait for pokes it. Where all that a process waits for, and all that these wait
 * for, wait, and none of them has been poked since it last looked, nobody will ever move. */
#include "shim.h"

#include "mlc_nccl.h"
#include "mlc_shim.h"

#include <algorithm>
#include <atomic>
#include <fcntl.h>
#include <map>
#include <mutex>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

using namespace mlc_shim;

namespace {

constexpr size_t BUFFER = 1 << 16;
constexpr int MOST_PEERS = 64;
constexpr uint64_t MARK = 0x6c63636e2d636c6d;

/* What a process says of itself. */
struct Page {
    std::atomic<uint32_t> waits; /* for others alone */
    std::atomic<uint32_t> pokes, seen;
    std::atomic<int> peers;
    std::atomic<int> pid[MOST_PEERS], file[MOST_PEERS];
};

/* What an end says of the transfer that it has come to. */
struct Posted {
    std::atomic<uint64_t> count; /* transfers that it has come to */
    uint64_t bytes;
    int type;
    bool captured;
};

struct Way {
    Posted sender, receiver;
    std::atomic<uint64_t> written, read; /* bytes, of all transfers */
    char buffer[BUFFER];
};

struct Shared {
    uint64_t mark, nonce;
    std::atomic<int> pid[2], file[2]; /* of the processes' pages; 0: not there yet */
    std::atomic<int> aborted, left;
    Way ways[2]; /* by the rank that sends */
};

struct Named {
    uint64_t mark, nonce;
    int pid, file;
};

/* A file of another process, or of this one. */
void *map_file(int pid, int file, size_t bytes)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, file);
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return nullptr;
    void *at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return at == MAP_FAILED ? nullptr : at;
}

int make_file(size_t bytes)
{
    const int fd = memfd_create("mlc-nccl", MFD_CLOEXEC);
    return fd >= 0 && ftruncate(fd, (off_t)bytes) == 0 ? fd : -1;
}

struct Own {
    int pid, file;
    Page *page;

    Own() : pid((int)getpid()), file(make_file(sizeof(Page))), page(nullptr)
    {
        if (file >= 0)
            page = (Page *)map_file(pid, file, sizeof(Page));
        if (!page)
            abort();
    }
};

Own &own()
{
    static Own only;
    return only;
}

std::map<std::pair<int, int>, Page *> pages; /* of others */

Page *page_of(int pid, int file)
{
    if (pid == own().pid)
        return own().page;
    Page *&page = pages[{pid, file}];
    if (!page)
        page = (Page *)map_file(pid, file, sizeof(Page));
    return page;
}

}

struct ncclComm {
    Shared *shared;
    Page *peer;
    int rank;
    bool live, aborted;
    ncclResult_t error;
    cudaStream_t stream;
    std::shared_ptr<int> used; /* by what is queued or captured too */
    uint64_t begun[2];         /* transfers, sent and received */
    std::atomic<int> active[2];
};

namespace {

std::vector<std::unique_ptr<ncclComm>> comms;

struct Transfer {
    ncclComm *comm;
    bool sends;
    char *at;
    uint64_t bytes;
    int type;
    bool captured;
    std::shared_ptr<int> used;
    /* of this run: */
    bool posted, started;
    int delay;
    uint64_t number, moved, base;
};

std::set<Transfer *> active;

ncclResult_t refuse(ncclResult_t result, const std::string &what)
{
    report_host("nccl: %s", what.c_str());
    return result;
}

ncclComm *comm_of(ncclComm_t comm, const char *call)
{
    for (const auto &known : comms)
        if (known.get() == comm && comm->live)
            return comm;
    report_host("nccl: %s with a communicator that does not exist, or was destroyed", call);
    return nullptr;
}

Way &way_of(const Transfer &of)
{
    return of.comm->shared->ways[of.sends ? of.comm->rank : 1 - of.comm->rank];
}

void poke(const ncclComm *comm)
{
    if (comm->peer)
        comm->peer->pokes++;
}

std::string name_of(const Transfer &of)
{
    return std::string(of.sends ? "send" : "receive") + " " + std::to_string(of.number) + " of " + std::to_string(of.bytes) +
           (of.sends ? " bytes to process " : " bytes of process ") + std::to_string(of.comm->shared->pid[1 - of.comm->rank].load());
}

void end(Transfer &of)
{
    active.erase(&of);
    of.comm->active[of.sends]--;
    of.posted = of.started = false;
}

/* This end has come to the transfer. */
void post(Transfer &of)
{
    Way &way = way_of(of);
    Posted &mine = of.sends ? way.sender : way.receiver;
    of.number = of.comm->begun[of.sends]++;
    of.moved = 0;
    of.delay = options().order == Order::RANDOM ? (int)(draw() % 4) : 0;
    of.posted = true;
    if (of.comm->active[of.sends]++)
        report_host("nccl: %s begins before the one before it on its communicator has ended: no stream orders them", name_of(of).c_str());
    active.insert(&of);
    mine.bytes = of.bytes;
    mine.type = of.type;
    mine.captured = of.captured;
}

/* Both ends have come to it: do they mean the same? */
bool agree(const Transfer &of)
{
    const Way &way = way_of(of);
    const Posted &sender = way.sender, &receiver = way.receiver;
    if (sender.bytes == receiver.bytes && sender.type == receiver.type && sender.captured == receiver.captured)
        return true;
    const Posted &other = of.sends ? receiver : sender;
    report_host("nccl: %s of type %d, %s, meets %llu bytes of type %d, %s", name_of(of).c_str(), of.type,
        of.captured ? "captured" : "not captured", (unsigned long long)other.bytes, other.type, other.captured ? "captured" : "not captured");
    return false;
}

/* Moves what there is, or room for. */
uint64_t move(Transfer &of)
{
    Way &way = way_of(of);
    const uint64_t reached = of.base + of.moved;
    const uint64_t may = of.sends ? BUFFER - (reached - way.read) : way.written - reached;
    uint64_t bytes = std::min(may, of.bytes - of.moved);
    bytes = std::min<uint64_t>(bytes, BUFFER - reached % BUFFER);
    if (of.sends) {
        memcpy(way.buffer + reached % BUFFER, of.at + of.moved, bytes);
        way.written += bytes;
    } else {
        memcpy(of.at + of.moved, way.buffer + reached % BUFFER, bytes);
        way.read += bytes;
    }
    of.moved += bytes;
    if (bytes)
        poke(of.comm);
    return bytes;
}

bool reaches_memory(const Transfer &of)
{
    if (in_device(of.at) && device_contains(of.at, of.bytes))
        return true;
    report_host("nccl: out of bounds: %s %s %llu bytes at %s", name_of(of).c_str(), of.sends ? "reads" : "writes", (unsigned long long)of.bytes,
        describe(of.at).c_str());
    return false;
}

Progress step(Transfer &of)
{
    ncclComm &comm = *of.comm;
    if (comm.aborted || comm.shared->aborted) {
        comm.error = comm.aborted ? comm.error : ncclRemoteError;
        if (of.posted)
            end(of);
        return Progress::DONE;
    }
    if (!of.posted)
        post(of);
    if (of.delay > 0) {
        of.delay--;
        return Progress::MOVED;
    }
    Way &way = way_of(of);
    Posted &mine = of.sends ? way.sender : way.receiver, &other = of.sends ? way.receiver : way.sender;
    if (mine.count == of.number) { /* all that it says is there */
        mine.count++;
        poke(&comm);
    }
    if (other.count <= of.number)
        return Progress::BLOCKED;
    if (!of.started) {
        of.started = true;
        of.base = of.sends ? way.written : way.read;
        if (!reaches_memory(of) || !agree(of)) {
            comm.error = ncclInternalError;
            comm.shared->aborted = 1;
            poke(&comm);
            end(of);
            return Progress::DONE;
        }
    }
    uint64_t bytes = 0;
    while (const uint64_t more = move(of))
        bytes += more;
    const bool over = of.moved == of.bytes && (!of.sends || way.read == of.base + of.bytes);
    if (!over)
        return bytes ? Progress::MOVED : Progress::BLOCKED;
    touch_operation(of.at, of.bytes, of.sends ? READ : WRITE);
    end(of);
    return Progress::DONE;
}

/* Transfers of a group begin together. */
struct Group {
    std::vector<Transfer> transfers;
    std::vector<bool> done;
};

Progress step_group(Group &group)
{
    bool moved = false, whole = true;
    for (size_t i = 0; i < group.transfers.size(); i++) {
        if (group.done[i])
            continue;
        const Progress progress = step(group.transfers[i]);
        moved |= progress != Progress::BLOCKED;
        group.done[i] = progress == Progress::DONE;
        whole &= group.done[i];
    }
    if (!whole)
        return moved ? Progress::MOVED : Progress::BLOCKED;
    group.done.assign(group.transfers.size(), false);
    for (Transfer &of : group.transfers)
        if (!of.captured) /* else it comes again */
            of.used.reset();
    return Progress::DONE;
}

int depth; /* of groups */
std::vector<std::pair<cudaStream_t, Transfer>> grouped;

ncclResult_t put(cudaStream_t stream, std::vector<Transfer> transfers)
{
    std::shared_ptr<Group> group(new Group{std::move(transfers), {}});
    group->done.assign(group->transfers.size(), false);
    const std::string name = group->transfers.size() > 1 ? "transfers of NCCL" : group->transfers[0].sends ? "ncclSend" : "ncclRecv";
    return submit_step(stream, name, [group] { return step_group(*group); }) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t transfer(bool sends, void *at, size_t count, ncclDataType_t type, int peer, ncclComm_t handle, cudaStream_t stream)
{
    const char *call = sends ? "ncclSend" : "ncclRecv";
    ncclComm *comm = comm_of(handle, call);
    if (!comm)
        return ncclInvalidUsage;
    if (peer != 1 - comm->rank)
        return refuse(ncclInvalidArgument, std::string(call) + " with rank " + std::to_string(peer) + ", which is not the other one");
    if (!in_device(at) || count == 0)
        return refuse(ncclInvalidArgument, std::string(call) + " of memory that is not the device's, or of nothing");
    if (comm->stream && comm->stream != stream)
        report_host("nccl: %s on another stream than its communicator was used on: which comes first is not said", call);
    comm->stream = stream;
    const Transfer made = {comm, sends, (char *)at, count, (int)type, is_captured(stream), comm->used, false, false, 0, 0, 0, 0};
    if (depth) {
        grouped.push_back({stream, made});
        return ncclSuccess;
    }
    return put(stream, {made});
}

/* ---- nobody moves ---- */

/* Says for whom this process waits. */
void say_peers(Page &page)
{
    std::set<std::pair<int, int>> peers;
    for (const Transfer *of : active)
        peers.insert({of->comm->shared->pid[1 - of->comm->rank].load(), of->comm->shared->file[1 - of->comm->rank].load()});
    int count = 0;
    for (const auto &peer : peers)
        if (count < MOST_PEERS) {
            page.pid[count] = peer.first;
            page.file[count++] = peer.second;
        }
    page.peers = count;
}

/* Do all that this process waits for, and all that these wait for, wait, with nothing new to look at? */
bool is_stuck()
{
    std::set<Page *> seen;
    std::vector<Page *> stack = {own().page};
    while (!stack.empty()) {
        Page *page = stack.back();
        stack.pop_back();
        if (!page)
            return false;
        if (!seen.insert(page).second)
            continue;
        if (!page->waits || page->pokes != page->seen)
            return false;
        for (int i = 0; i < page->peers; i++)
            stack.push_back(page_of(page->pid[i], page->file[i]));
    }
    for (Page *page : seen) /* while all of them were looked at nobody has begun to move */
        if (!page->waits || page->pokes != page->seen)
            return false;
    return true;
}

void give_up()
{
    std::string texts;
    std::set<ncclComm *> of;
    for (const Transfer *one : active) {
        texts += (texts.empty() ? "" : "; ") + name_of(*one);
        of.insert(one->comm);
    }
    report_host("deadlock: every process waits for another one; this one in %s", texts.c_str());
    for (ncclComm *comm : of) {
        comm->error = ncclInternalError;
        comm->aborted = true;
        comm->shared->aborted = 1;
        poke(comm);
    }
}

}

/* The caller has looked at all that could run since the pokes that `seen` says. */
bool mlc_shim::nccl_rest(bool waits)
{
    Page &page = *own().page;
    static uint32_t looked; /* pokes before the look that has just ended */
    say_peers(page);
    page.seen = looked;
    page.waits = 1;
    const bool stuck = !active.empty() && is_stuck();
    if (stuck)
        give_up();
    else if (waits)
        usleep(50);
    looked = page.pokes;
    if (stuck || waits || page.pokes != page.seen)
        page.waits = 0;
    return stuck || waits;
}

const char *mlc_shim_nccl(const char *kind)
{
    const char *set = getenv("MLC_SHIM_NCCL");
    return set && !strcmp(set, kind) ? set : nullptr;
}

extern "C" const char *mlc_shim_nccl_missing(void)
{
    return mlc_shim_nccl("missing") ? "libnccl.so.2: cannot open shared object file: No such file or directory" : nullptr;
}

#define API extern "C"

API ncclResult_t ncclGetVersion(int *version)
{
    *version = mlc_shim_nccl("old") ? 21604 : 22700;
    return ncclSuccess;
}

API const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const texts[] = {"no error", "unhandled cuda error", "unhandled system error", "internal error", "invalid argument",
        "invalid usage", "remote process exited or there was a network error", "NCCL operation in progress"};
    return result >= 0 && result <= ncclInProgress ? texts[result] : "unknown result code";
}

API ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    const int file = make_file(sizeof(Shared));
    Shared *shared = file >= 0 ? (Shared *)map_file(own().pid, file, sizeof(Shared)) : nullptr;
    if (!shared)
        return ncclSystemError;
    const Named name = {MARK, (uint64_t)own().pid << 32 | (uint32_t)file, own().pid, file};
    shared->nonce = name.nonce;
    shared->mark = MARK;
    munmap(shared, sizeof(Shared));
    memset(id, 0, sizeof *id);
    memcpy(id->internal, &name, sizeof name);
    return ncclSuccess;
}

API ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    Named name;
    memcpy(&name, id.internal, sizeof name);
    *comm = nullptr;
    if (name.mark != MARK || ranks != 2 || rank < 0 || rank > 1)
        return refuse(ncclInvalidArgument, "ncclCommInitRankConfig of what is no name, or of other than two ranks");
    if (config->magic != MLC_NCCL_MAGIC || config->size != sizeof *config || config->version < MLC_NCCL_OLDEST)
        return refuse(ncclInvalidArgument, "ncclCommInitRankConfig with a configuration that no version has");
    Shared *shared = (Shared *)map_file(name.pid, name.file, sizeof(Shared));
    if (!shared || shared->nonce != name.nonce)
        return refuse(ncclSystemError, "ncclCommInitRankConfig of a process that is gone");
    int none = 0;
    shared->file[rank] = own().file;
    if (!shared->pid[rank].compare_exchange_strong(none, own().pid))
        return refuse(ncclInvalidUsage, "two processes are rank " + std::to_string(rank) + " of a communicator");
    while (!shared->pid[1 - rank])
        usleep(200);
    Page *peer = page_of(shared->pid[1 - rank], shared->file[1 - rank]);
    comms.emplace_back(new ncclComm{shared, peer, rank, true, false, ncclSuccess, nullptr, std::make_shared<int>(0), {0, 0}, {{0}, {0}}});
    *comm = comms.back().get();
    return ncclSuccess;
}

API ncclResult_t ncclCommDestroy(ncclComm_t handle)
{
    ncclComm *comm = comm_of(handle, "ncclCommDestroy");
    if (!comm)
        return ncclInvalidUsage;
    if (comm->used.use_count() > 1)
        report_host("nccl: ncclCommDestroy while a stream or a graph still uses the communicator");
    comm->live = false;
    return ncclSuccess;
}

API ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t *error)
{
    ncclComm *comm = comm_of(handle, "ncclCommGetAsyncError");
    if (!comm)
        return ncclInvalidUsage;
    *error = comm->error;
    return ncclSuccess;
}

API ncclResult_t ncclGroupStart(void)
{
    depth++;
    return ncclSuccess;
}

API ncclResult_t ncclGroupEnd(void)
{
    if (depth == 0)
        return refuse(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
    if (--depth)
        return ncclSuccess;
    std::map<cudaStream_t, std::vector<Transfer>> by_stream;
    for (const auto &one : grouped)
        by_stream[one.first].push_back(one.second);
    grouped.clear();
    for (const auto &of : by_stream)
        if (put(of.first, of.second) != ncclSuccess)
            return ncclUnhandledCudaError;
    return ncclSuccess;
}

API ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
    return transfer(true, (void *)from, count, type, peer, comm, stream);
}

API ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
    return transfer(false, to, count, type, peer, comm, stream);
}
