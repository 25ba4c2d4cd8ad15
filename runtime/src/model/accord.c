/* accord.c: see accord.h. */
#include "model/accord.h"

/* A lost peer is recorded by the world; here it becomes the caller's error too. */
static int settle(const mlc_rank *rank, int status, mlc_error *error)
{
    return status ? mlc_error_set(error, status, "%s", rank->world.error->text) : MLC_OK;
}

int mlc_accord(mlc_rank *rank, mlc_error *error)
{
    return settle(rank, mlc_agree(&rank->world, error), error);
}

int mlc_accord_block(mlc_rank *rank, void *block, size_t bytes, mlc_error *error)
{
    return settle(rank, mlc_exchange(&rank->world, block, bytes, 1, mlc_combine_or), error);
}

void mlc_accord_work(mlc_rank *rank)
{
    atomic_fetch_add_explicit(&rank->world.status->progress, 1, memory_order_relaxed);
}
