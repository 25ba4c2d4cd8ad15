/* wire.h: the messages of a list, and what is done with what they carry: all that collective.c and the walk of a list need of the memory in
 * which rows compute. On a CPU (wire.c) they are messages of world.h, and a wait returns when it is over. On a GPU (runtime/cuda/src/step)
 * each call puts something on a stream, in the order of the calls; a wait is one of the stream in which rows compute.
 *
 * By the lead thread, but for copy and add. What returns a status leaves its sentence in the error of the rank. */
#ifndef MLC_WIRE_H
#define MLC_WIRE_H

#include "model/rank.h"

/* After the transport has been opened: what a message of a list needs beside it. Called by all ranks; once. Returns a status. */
int mlc_wire_open(mlc_rank *rank, mlc_error *error);
void mlc_wire_close(mlc_rank *rank);

/* mlc_link_begin, mlc_link_expect, mlc_link_post, mlc_link_release and the waits (world.h). */
int mlc_wire_begin(mlc_rank *rank, mlc_link *link, int64_t messages);
void mlc_wire_expect(mlc_rank *rank, mlc_link *link, int64_t messages);
void mlc_wire_post(mlc_rank *rank, mlc_link *link);
void mlc_wire_release(mlc_rank *rank, mlc_link *link);
int mlc_wire_await_arrived(mlc_rank *rank, mlc_link *link, int64_t n);
int mlc_wire_await_sent(mlc_rank *rank, mlc_link *link, int64_t n);

/* Slots of message n, where rows compute. */
char *mlc_wire_incoming(const mlc_rank *rank, const mlc_link *link, int64_t n);
char *mlc_wire_outgoing(const mlc_rank *rank, const mlc_link *link, int64_t n);

/* The most bytes that are worked on at a time. */
uint64_t mlc_wire_part(void);

/* Addresses of where rows compute: copies bytes; adds elements of the model's wide dtype. By any thread. */
void mlc_wire_copy(const mlc_env *env, char *to, const char *from, uint64_t bytes);
void mlc_wire_add(const mlc_rank *rank, const mlc_env *env, char *sum, const char *x, uint64_t bytes);

#endif
