/* stack.c: see stack.h. */
#include "system/stack.h"

#include "system/threads.h"

#include <stddef.h>
#include <sys/resource.h>

#define ENOUGH (1 << 20) /* four times what a program uses */

typedef struct call {
    int (*run)(void *);
    void *argument;
    sigset_t mask; /* of the caller */
    int result;
} call;

static void *call_main(void *argument)
{
    call *own = argument;
    pthread_sigmask(SIG_SETMASK, &own->mask, NULL);
    own->result = own->run(own->argument);
    return NULL;
}

int mlc_stack_call(int (*run)(void *), void *argument)
{
    struct rlimit limit;
    call own = {.run = run, .argument = argument};
    if (getrlimit(RLIMIT_STACK, &limit) || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= ENOUGH)
        return run(argument);
    pthread_t handle;
    pthread_sigmask(SIG_SETMASK, NULL, &own.mask);
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    int code = mlc_thread_start(&handle, call_main, &own, true);
    if (!code)
        pthread_join(handle, NULL);
    pthread_sigmask(SIG_SETMASK, &own.mask, NULL);
    return code ? run(argument) : own.result;
}
