/* wire.c: see wire.h. Messages are those of the transport, in the memory of this process. */
#include "step/wire.h"

#include "step/stream.h"

#include <string.h>

int mlc_wire_open(mlc_rank *rank, mlc_error *error)
{
    (void)rank, (void)error;
    return MLC_OK;
}

void mlc_wire_close(mlc_rank *rank)
{
    (void)rank;
}

int mlc_wire_begin(mlc_rank *rank, mlc_link *link, int64_t messages)
{
    return mlc_link_begin(&rank->world, link, messages);
}

void mlc_wire_expect(mlc_rank *rank, mlc_link *link, int64_t messages)
{
    mlc_link_expect(&rank->world, link, messages);
}

void mlc_wire_post(mlc_rank *rank, mlc_link *link)
{
    mlc_link_post(&rank->world, link);
}

void mlc_wire_release(mlc_rank *rank, mlc_link *link)
{
    mlc_link_release(&rank->world, link);
}

int mlc_wire_await_arrived(mlc_rank *rank, mlc_link *link, int64_t n)
{
    return mlc_link_wait_arrived(&rank->world, link, n);
}

int mlc_wire_await_sent(mlc_rank *rank, mlc_link *link, int64_t n)
{
    return mlc_link_wait_sent(&rank->world, link, n);
}

char *mlc_wire_incoming(const mlc_rank *rank, const mlc_link *link, int64_t n)
{
    (void)rank;
    return mlc_link_incoming(link, n);
}

char *mlc_wire_outgoing(const mlc_rank *rank, const mlc_link *link, int64_t n)
{
    (void)rank;
    return mlc_link_outgoing(link, n);
}

uint64_t mlc_wire_part(void)
{
    return MLC_STREAM_PART;
}

void mlc_wire_copy(const mlc_env *env, char *to, const char *from, uint64_t bytes)
{
    (void)env;
    memcpy(to, from, bytes);
}

void mlc_wire_add(const mlc_rank *rank, const mlc_env *env, char *sum, const char *x, uint64_t bytes)
{
    (void)env;
    const mlc_dtype_row *dtype = mlc_dtype_wide(rank->model);
    dtype->wide->add(sum, x, (int64_t)bytes / dtype->bytes);
}
