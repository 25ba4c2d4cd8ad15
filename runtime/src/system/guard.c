/* guard.c: see guard.h.
 *
 * Guards form a list that only grows: one that is closed is free for the next. So the handler, which may take no lock, can walk it
 * at any time. Those that are free form another, which the handler does not look at. The first ones need no memory, so that a mapping that is made between two steps allocates none.
 */
#include "system/guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define FIRST_GUARDS 64

struct mlc_guard {
    atomic_uintptr_t begin;
    atomic_uintptr_t end; /* 0: free */
    atomic_bool broken;
    mlc_guard *next;
    mlc_guard *next_free; /* under the mutex */
};

/* What a handler can reach must be global, and mappings belong to the process anyway. */
static _Atomic(mlc_guard *) guards;
static atomic_uintptr_t page_bytes;
static struct sigaction before;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int open_guards;
static mlc_guard *free_guards;
static mlc_guard first_guards[FIRST_GUARDS];
static int made; /* of the first ones */

/* Zeros from the page of `at` to the end of the mapping: what lies behind it is not there either. */
static bool mend(mlc_guard *guard, uintptr_t at)
{
    uintptr_t page = at - at % atomic_load(&page_bytes), end = atomic_load(&guard->end);
    void *zeros = mmap((void *)page, end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (zeros != MAP_FAILED)
        atomic_store(&guard->broken, true);
    return zeros != MAP_FAILED;
}

static bool mend_any(uintptr_t at)
{
    for (mlc_guard *guard = atomic_load(&guards); guard; guard = guard->next)
        if (at < atomic_load(&guard->end) && at >= atomic_load(&guard->begin))
            return mend(guard, at);
    return false;
}

static void take(int signal, siginfo_t *info, void *context)
{
    (void)context;
    int code = errno;
    bool raised = info->si_code > 0; /* by an instruction, which runs again when this returns */
    if (!raised || !mend_any((uintptr_t)info->si_addr)) {
        sigaction(signal, &before, NULL);
        if (!raised)
            raise(signal);
    }
    errno = code;
}

static void set_handler(void)
{
    struct sigaction action = {.sa_sigaction = take, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    atomic_store(&page_bytes, (uintptr_t)sysconf(_SC_PAGESIZE));
    sigaction(SIGBUS, &action, &before);
}

/* Unless somebody else has taken the signal meanwhile. */
static void reset_handler(void)
{
    struct sigaction now;
    if (!sigaction(SIGBUS, NULL, &now) && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == take)
        sigaction(SIGBUS, &before, NULL);
}

/* Under the mutex. */
static mlc_guard *make_guard(void)
{
    return made < FIRST_GUARDS ? &first_guards[made++] : calloc(1, sizeof(mlc_guard));
}

/* Under the mutex. */
static mlc_guard *take_guard(void)
{
    mlc_guard *guard = free_guards;
    if (guard) {
        free_guards = guard->next_free;
        return guard;
    }
    guard = make_guard();
    if (!guard)
        return NULL;
    guard->next = atomic_load(&guards);
    atomic_store(&guards, guard);
    return guard;
}

mlc_guard *mlc_guard_open(const void *base, uint64_t bytes)
{
    pthread_mutex_lock(&mutex);
    mlc_guard *guard = take_guard();
    if (guard) {
        if (open_guards++ == 0)
            set_handler();
        atomic_store(&guard->broken, false);
        atomic_store(&guard->begin, (uintptr_t)base);
        atomic_store(&guard->end, (uintptr_t)base + bytes);
    }
    pthread_mutex_unlock(&mutex);
    return guard;
}

void mlc_guard_close(mlc_guard *guard)
{
    if (!guard)
        return;
    pthread_mutex_lock(&mutex);
    atomic_store(&guard->end, 0);
    guard->next_free = free_guards;
    free_guards = guard;
    if (--open_guards == 0)
        reset_handler();
    pthread_mutex_unlock(&mutex);
}

bool mlc_guard_is_broken(const mlc_guard *guard)
{
    return guard && atomic_load(&guard->broken);
}
