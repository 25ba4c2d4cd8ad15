/* session.h: the session of mlc.h: all ranks of a model in this process, a thread leading each. */
#ifndef MLC_SESSION_H
#define MLC_SESSION_H

#include "model/rank.h"
#include "transports.h"

#include <sys/types.h>

/* What every rank does in a call. Its error is the rank's. */
typedef void (*mlc_call)(mlc_rank *rank, void *context);

/* The thread that leads a rank; that of rank 0 is the caller's. */
typedef struct mlc_lead {
    mlc_session *session;
    mlc_rank *rank;
    pthread_t handle;
} mlc_lead;

struct mlc_session {
    const mlc_model *model;
    int ranks;
    mlc_rank **members; /* [ranks] */
    mlc_lead *leads;    /* [ranks] */
    int led;            /* threads that lead a rank */
    mlc_hub *hub;
    mlc_error error;
    char notes[4096];   /* of the last call, a line each */
    pid_t process;      /* that opened it, and alone has its threads: a forked child has a copy of all but those */
    _Atomic(const char *) holder; /* what a caller is told that comes while a call works; NULL: none does */
    _Atomic(const char *) refused; /* what the last such caller was told; NULL: there was none */
    bool exposed;       /* the caller has a view of some master, and may have written to it since the last call */
    void **copies;      /* of states that lie on several replicas: by parameter and state, made when they are looked at */
    pthread_mutex_t mutex;
    pthread_cond_t called;
    pthread_cond_t done;
    mlc_call call;      /* NULL: the threads end */
    void *context;
    unsigned calls;     /* made so far */
    int working;        /* ranks of this call that are not done, rank 0 apart */
};

/* Makes a session like mlc_open, with an error to fill. */
mlc_session *mlc_session_open(const mlc_model *model, const mlc_open_options *options, mlc_error *error);

#endif
