/* home.h: a directory of checkpoints, as the one program that writes there holds it. Rank 0's process has it, however ranks were started.
 *
 *   .mlc-lock             locked while somebody writes here, and says who; the kernel frees it with the process, however that ends
 *   .mlc-made             the temporary names that are in use, a line each, written before anything of the name is made
 *   .mlc-<32 hex digits>  a checkpoint being written, or one being removed; the digits are random
 *
 * The next holder removes what .mlc-made lists, and nothing else: a name that nobody can guess is of our making. Links are not
 * followed. Over NFS the lock is one of the server (version 4, or lockd): it holds between machines unless `nolock` or `local_lock`
 * is mounted. */
#ifndef MLC_HOME_H
#define MLC_HOME_H

#include "system/folder.h"

#define MLC_NAMING_BYTES 320 /* at most, of `latest` and `best` */
#define MLC_RUN_BYTES 33 /* 32 hex digits and a 0 byte */

typedef struct mlc_home {
    char path[MLC_PATH_BYTES]; /* "": none is held */
    int folder;
    int lock;                  /* -1: the file system has no locks, and that was allowed */
} mlc_home;

/* Makes the directory and those above it if need be, and takes it. `unlocked`: also where the file system has no locks. Refuses, naming
 * the holder, when somebody else writes there. Returns a status. */
int mlc_home_open(mlc_home *home, const char *path, bool unlocked, mlc_error *error);

/* Is it held: is its path still that directory, and its lock still there? People remove locks that they take for old. */
bool mlc_home_is(const mlc_home *home, const char *path);

/* Says in the lock who holds it. */
void mlc_home_sign(const mlc_home *home, const char *program, const char *run);

/* Chooses a temporary name and lists it. Nothing of that name is there yet. Returns a status. */
int mlc_home_choose(const mlc_home *home, char name[MLC_NAME_BYTES], mlc_error *error);

/* Nothing is in use any more. */
void mlc_home_settle(const mlc_home *home);

/* Calls visit(context, name) for every name that is listed. */
void mlc_home_each_listed(const mlc_home *home, void (*visit)(void *context, const char *name), void *context);

void mlc_home_close(mlc_home *home);

/* 128 random bits in hex. Returns a status. */
int mlc_home_random(char hex[MLC_RUN_BYTES], mlc_error *error);

#endif
