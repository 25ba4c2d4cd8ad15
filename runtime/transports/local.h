/* local.h: what the transport `local` holds in a process, for local.c and join.c. */
#ifndef MLC_LOCAL_H
#define MLC_LOCAL_H

#include "hub.h"

#include <poll.h>

struct mlc_local {
    const mlc_model *model;
    int ranks;
    mlc_hub *hub;
    int control;     /* files; -1: closed */
    int *inboxes;    /* [ranks] */
    int *lines;      /* [ranks], read ends; -1: none */
    int *ends;       /* [ranks]: write ends of the lifelines; in a rank its own alone */
    struct pollfd *polls; /* [ranks]: to look at all of lines at once */
    char **maps;     /* [ranks]: inboxes of the ranks that this one sends to, NULL: none */
    double looked;
};

/* The pieces of mlc_local_create. Return a status; allocate returns NULL on failure. */
mlc_local *mlc_local_allocate(const mlc_model *model, mlc_error *error);
int mlc_local_make_files(mlc_local *local, mlc_error *error);
int mlc_local_map_hub(mlc_local *local, mlc_error *error);

/* The lifeline of a rank. Returns a status. */
int mlc_local_make_line(mlc_local *local, int rank, mlc_error *error);

/* Closes a file that is open, and says so by -1. */
void mlc_local_close_file(int *fd);

#endif
