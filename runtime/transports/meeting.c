/* meeting.c: the meeting of ranks of one machine, in the memory that all of them see (hub.h): the rank that shares writes to the board of
 * the hub, each rank has a word for what is folded, and a count of the gates that it has reached. A call has two gates: what was written
 * before the first is read after it, and written again after the second. */
#include "hub.h"

#include "mlc.h"

#include <string.h>
#include <time.h>

#define REST 200000 /* nanoseconds between two looks */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* The lowest rank that has not reached a gate; -1: all have. */
static int missing_rank(const mlc_hub *hub, int gate)
{
    for (int i = 0; i < hub->ranks; i++)
        if (atomic_load(&hub->seats[i].met) < gate)
            return i;
    return -1;
}

static int pass_gate(mlc_meeting *meeting, mlc_error *error)
{
    mlc_local *local = meeting->own;
    mlc_hub *hub = mlc_local_hub(local);
    int gate = ++meeting->round;
    atomic_store(&hub->seats[meeting->rank].met, gate);
    double start = now();
    for (int missing; (missing = missing_rank(hub, gate)) >= 0;) {
        int lost = mlc_local_look(local, meeting->rank);
        if (lost >= 0 && lost == missing)
            return mlc_error_set(error, MLC_FAILED, "rank %d is lost; the run had not begun", lost);
        if (meeting->seconds > 0 && now() - start > meeting->seconds)
            return mlc_error_set(error, MLC_HANG, "rank %d of %d has not come to agree with the others within %g s", missing, hub->ranks,
                                 meeting->seconds);
        nanosleep(&(struct timespec){.tv_nsec = REST}, NULL);
    }
    return MLC_OK;
}

static int share(mlc_meeting *meeting, int root, void *bytes, size_t size, mlc_error *error)
{
    mlc_hub *hub = mlc_local_hub(meeting->own);
    if (meeting->rank == root)
        memcpy(hub->shared, bytes, size);
    if (pass_gate(meeting, error))
        return error->status;
    if (meeting->rank != root)
        memcpy(bytes, hub->shared, size);
    return pass_gate(meeting, error);
}

static int fold(mlc_meeting *meeting, int64_t *value, bool adds, mlc_error *error)
{
    mlc_hub *hub = mlc_local_hub(meeting->own);
    atomic_store(&hub->seats[meeting->rank].word, *value);
    if (pass_gate(meeting, error))
        return error->status;
    for (int i = 0; i < hub->ranks; i++) {
        int64_t other = i == meeting->rank ? adds ? 0 : *value : atomic_load(&hub->seats[i].word);
        *value = adds ? *value + other : other < *value ? other : *value;
    }
    return pass_gate(meeting, error);
}

mlc_meeting mlc_local_meet(mlc_local *local, int rank, double seconds)
{
    return (mlc_meeting){.rank = rank, .ranks = mlc_local_hub(local)->ranks, .seconds = seconds, .own = local, .share = share, .fold = fold};
}
