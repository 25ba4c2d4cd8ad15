/* stack.h: a stack that is large enough. */
#ifndef MLC_STACK_H
#define MLC_STACK_H

/* Calls run(argument): here, or where the limit of the process (`ulimit -s`) leaves its own stack little room, in a thread with a stack
 * of its own, while the caller waits and takes no signals. Returns what it returns. */
int mlc_stack_call(int (*run)(void *), void *argument);

#endif
