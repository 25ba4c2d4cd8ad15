/* mlc.h: the manual of the mlc runtime, then its API.
 *
 * An emitted model is a constant, `mlc_emitted_model`: tables and straight-line functions (mlc_abi.h). The runtime trains it.
 *
 *   program          int main(int argc, char **argv) { return mlc_main(&mlc_emitted_model, argc, argv); }
 *   library          mlc_open ... mlc_session_step ... mlc_close: the same in a process that owns its data (Python, C)
 *
 * A model has pp * dp ranks. Each maps exactly arena_bytes (of its place) + threads * scratch_bytes_per_thread bytes and has
 * `threads` threads. In a program ranks are processes or threads; in a session they are threads of this process, each led by a
 * thread of its own, rank 0 by the caller. Sessions know nothing of each other; one session serves one caller at a time (a second
 * one that calls while it works gets MLC_USAGE, and a message that names the call) and the process that opened it: in a forked child,
 * which has none of its threads, calls give MLC_USAGE, and what is there can be looked at. Library functions neither print nor exit: they
 * return a status, and mlc_session_message() says what happened. No function that steps or evaluates allocates memory.
 *
 * RANKS of a program. All run the same program on their part of the model; rank 0 alone prints, logs and writes what is not
 * written in parallel.
 *   without a launcher        --transport local (default): the program forks its ranks and supervises them: shared memory without
 *                             names, gone with the last process however it ends. --transport threads: ranks in one process.
 *   mpirun, mpiexec, srun     rank and size from OMPI_COMM_WORLD_RANK/SIZE, PMI_RANK/SIZE or SLURM_PROCID and
 *                             SLURM_STEP_NUM_TASKS (SLURM_NTASKS); --transport mpi (default) wants libmlc_mpi.so beside the
 *                             program; --transport local where all ranks are on one machine.
 *   torchrun                  RANK, WORLD_SIZE, LOCAL_WORLD_SIZE; local on one machine, mpi on several.
 * The size must be pp * dp; a launcher that started one process counts as none. --threads is per rank; without it the CPUs that
 * the process may use are shared out among the ranks of the machine.
 *
 * FAULTS. A rank that dies ends the run with exit code 3 within seconds, and a line that names it, its step and its action. With
 * --timeout, a run in which no rank moves for so long ends with exit code 4 and one report: what every rank does or waits for, and
 * which one is late. (Over mpi a rank sees only itself: each one writes its own line, and the time to load or save counts.)
 * SIGTERM, SIGINT, SIGHUP and SIGUSR1 while training: all ranks agree, save at the end of the step and exit with 0; a second SIGINT
 * ends them at once. Standard output, --log or --trace that cannot be written ends nothing: it is said, and the code at the end is 3.
 * The ranks of a supervisor end with it, however it ends.
 *
 * THE STEP. M microbatches run in ascending order. Gradients fold in groups of M/G microbatches, group sums combine by the
 * bottom-up pairwise tree, uses of a shared parameter add up in chain order; the total is multiplied once by 1 / sum of
 * weights, rounded to the wide dtype (mlc_model.wide). The loss is sum(weight * loss) / sum(weight) in f64, where the loss of a
 * microbatch is the loss plus its add_loss effects in chain order, added in f64. Metrics and reports are reduced like the loss. Gradients fed by `accumulate` are the plain
 * mean over microbatches and take no part in the norm. If the norm exceeds the recipe's clip, loss gradients are multiplied by
 * clip / norm, rounded to the wide dtype. The same bits come out for every pp, dp, schedule, transport and number of threads.
 *
 * EVALUATION is a pass over microbatches 0, 1, ... of the data in rounds of R * dp microbatches (R: what one list of the evaluation
 * chain takes of a replica). Each round is dealt out in contiguous shares, in order of replica: n / dp microbatches each (rounded
 * down), the first n mod dp replicas one more; the last round may be shorter. Random numbers, if any, are keyed by the number of the
 * microbatch in the pass. Loss and weights of the whole pass are summed exactly and rounded once to f64, whatever their order, so
 * neither replicas nor rounds show in the result; the model's metrics likewise.
 *
 * NOT FINITE. A loss or a gradient that is not finite ends the run with exit code 5 before anything is updated. The step is run once
 * more to name the lowest stage, and in it the lowest microbatch and parameter, at which such a value shows: in a part of the loss,
 * in states that the stage sends (looked through as the wide dtype), in the gradient of one microbatch. Where an input of that
 * microbatch holds a NaN or an infinity, the message ends with input, record and element. What an update writes is looked at too (parameters,
 * optimizer states, bf16 copies): where it is not finite the step has failed, with exit code 5 and the name, and no checkpoint is
 * written of it, nor of values that a caller of the library has put there.
 *
 * INDICES. What feeds an i32 input keeps to its limit and domains (mlc_abi.h). An index that the model computes is checked where it is
 * looked up in a forward pass, if nothing shows it to be in range: one that is not ends the run with exit code 1 before anything is
 * updated, and the message names the first by microbatch, lookup and element, whatever became of it.
 *
 * DATA of a program: --data [INPUT=][WIDTH:]PATTERN, a glob; several files are taken in order of their names, in which runs of digits
 * count as numbers (spec/data.md).
 *   *.npy      a NumPy array (format 1 to 3, C order, little-endian). Its first dim counts examples, the others are the input's.
 *              f32, f64, bf16, f16 inputs take f2 f4 f8 (rounded once to nearest, ties to even) and b1 i1 u1 i2 u2 (exact); i32 inputs
 *              take b1 and every integer type (a value that does not fit is an error); bool inputs take b1, and u1 of 0 and 1.
 *              A one-dimensional array of integers given to a token input [batch, context] is a token stream.
 *   *.bin      tokens: of a Megatron data set, when its .idx lies beside it; an llm.c shard (256 x int32 header, magic 20240520:
 *              uint16, 20240801: uint32); else uint16 without a header (nanoGPT), unless the vocabulary exceeds 65536 or the bytes
 *              speak against it.
 *   others     tokens: the raw bytes of the file, unless they are an archive, a container or text of wide characters.
 *   WIDTH:     u8 u16 u32 i32 u64 i64: the whole file is such tokens, whatever its name. A file whose name begins so is ./u8:name.
 * A token stream is cut into windows that start every `context` tokens and never cross a file; an input that follows it reads
 * the same window some tokens later, so a window needs context + shift tokens. Without INPUT= a file feeds the first token input
 * (or the only input). All inputs must have equally many examples. Example n of a run is window p(n mod N) of epoch n div N,
 * where p permutes the N windows, keyed by seed and epoch (--order shuffled), or is the identity (--order sequential).
 *
 * CHECKPOINT, a directory DIR/step-00000100 (step: how many are done):
 *   model-00001-of-00001.safetensors      parameters, of the wide dtype; a '*' in a name is counted out over the leading dim
 *   model.safetensors.index.json
 *   optimizer-00001-of-00001.safetensors  optimizer state: <parameter>/<state>
 *   optimizer.safetensors.index.json
 *   state.json                            step, cursor, seed, order, examples; run: 32 hex digits; terms: identity of the data;
 *                                         settings: --steps and run-time constants; rate of the last step; model hash and its items;
 *                                         SHA-256 of each file; its own in the last line
 * It is written under a temporary name, synced and renamed; then `DIR/latest` names it. `DIR/best`, with --evaluate: the step of the
 * lowest loss, that loss, the run. Where another run, a link or a file has the name, it is step-00000100-<8 digits of the run>.
 *
 * RUN: begins with a program or session that loads no checkpoint, and is inherited with a checkpoint. A directory has one writer at a
 * time (DIR/.mlc-lock, home.h). A run begins only where no steps of others lie, unless --fresh; --resume auto takes the newest whole
 * step of the run that `latest` names. A run that goes back to a step before its newest one there is a new run from then on.
 *
 * DIGEST: SHA-256 over, for parameters and optimizer states sorted by name (bytes; state: <parameter>/<state>):
 *   name, 0 byte, dtype ("F32" or "F64"), 0 byte, rank as u64, each size as u64, SHA-256 of each 1 MiB block of the tensor;
 * then step and cursor as u64. All numbers little-endian.
 *
 * METRICS (--log): one JSON object a line: step (from 0), loss, grad_norm, rate, tokens (so far), step_ms, tokens_per_s, mfu
 * (null: the peak of this machine is unknown), then the model's own metrics. An evaluation writes step, evaluate_loss,
 * evaluate_tokens, evaluate_<metric>. A model without tokens writes records, records_per_s, evaluate_records. A resumed run keeps the
 * lines of the steps before it and writes the others again; else a log that is there is renamed first. What is not finite is null.
 *
 * EXIT CODES, also the statuses of the library: enum mlc_status.
 */
#ifndef MLC_H
#define MLC_H

#include "mlc_abi.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum mlc_status {
    MLC_OK = 0,
    MLC_BAD_INPUT = 1,  /* model, data or checkpoint is wrong */
    MLC_USAGE = 2,      /* options or arguments are wrong */
    MLC_FAILED = 3,     /* the machine failed (memory, threads, disk), or a rank was lost */
    MLC_HANG = 4,       /* no progress within --timeout */
    MLC_NOT_FINITE = 5, /* loss, gradient or update is not finite */
};

/* ---- program ---- */

/* Runs a program (--help lists its options): results on stdout, progress and errors on stderr. Returns the exit code. */
int mlc_main(const mlc_model *model, int argc, char **argv);

/* ---- session ---- */

typedef struct mlc_session mlc_session;

typedef struct mlc_open_options {
    int threads;    /* of each rank; 0: the CPUs that this process may use, shared out among its ranks, at least 1 */
    uint64_t seed;  /* of parameters, random numbers and the order of examples */
    int64_t steps;  /* length of the rate schedule; 0: 1000 */
} mlc_open_options;

/* Opens all ranks: maps memory, starts threads, initialises parameters. `options` NULL: all zero. On failure returns NULL and writes
 * a message of at most `size` bytes to `message`, and the status to `status` when it is not NULL. */
mlc_session *mlc_open(const mlc_model *model, const mlc_open_options *options, int *status, char *message, size_t size);
void mlc_close(mlc_session *session); /* NULL is allowed; nothing in a forked child */

/* The sentence that goes with the last status that was not MLC_OK; "" before. Valid until the next call. */
const char *mlc_session_message(const mlc_session *session);

/* What the last call of save or load had to say besides, a line each: other terms than the checkpoint's, a step that lies there and is
 * of another run; "" else. Valid until the next call. */
const char *mlc_session_notes(const mlc_session *session);

/* The model behind a session. */
const mlc_model *mlc_session_model(const mlc_session *session);

/* ---- parameters ----
 * Masters and gradients live whole in the arena of the first replica of their owner and keep their addresses until mlc_close; what the
 * target arranges otherwise than row-major the caller has as a copy, which keeps its address and follows masters after each call. The
 * caller may read and write masters between calls; all that hold them too, and bf16 copies, follow at the next call. Index out of
 * range: NULL. Shapes and names belong to the model. Not while a call works. */

typedef struct mlc_view {
    const char *name;
    int32_t dtype; /* enum mlc_dtype; masters, gradients and states have mlc_model.wide */
    int32_t rank;
    const int64_t *shape;
    void *data;   /* row-major; NULL when there is none (the gradient of a frozen parameter) */
    int32_t copy; /* 1: a copy of now, of what several replicas hold in parts; writing to it changes nothing */
} mlc_view;

int mlc_parameter_count(const mlc_session *session);
mlc_view mlc_parameter_master(mlc_session *session, int parameter);
mlc_view mlc_parameter_gradient(mlc_session *session, int parameter); /* of the last step or gradient call; ask again after the next */
int mlc_parameter_state_count(const mlc_session *session, int parameter);
mlc_view mlc_parameter_state(mlc_session *session, int parameter, int state);

/* ---- inputs and scalars ---- */

int mlc_input_count(const mlc_session *session);
mlc_view mlc_input_view(const mlc_session *session, int input); /* name, dtype, shape of one microbatch; data NULL */

/* Sets a run-time constant of the model (`rate`). MLC_USAGE: no such constant. */
int mlc_session_set_scalar(mlc_session *session, const char *name, double value);
int mlc_session_set_steps(mlc_session *session, int64_t steps);

/* ---- training ----
 * inputs[i]: row-major data of model input i in its dtype, `rows` rows (bool: one byte each, 0 or 1; bf16 and f16: 16-bit words).
 * Index inputs are checked against their range. */

/* One whole step: `rows` must be M * batch. *loss gets the loss before the update. */
int mlc_session_step(mlc_session *session, const void *const *inputs, int64_t rows, double *loss);

/* The same without clipping and update: afterwards mlc_parameter_gradient() holds whole, reduced, scaled gradients. */
int mlc_session_gradient(mlc_session *session, const void *const *inputs, int64_t rows, double *loss);

/* Forward only, by the evaluation chain. `rows` must be a multiple of batch. */
int mlc_session_evaluate(mlc_session *session, const void *const *inputs, int64_t rows, double *loss);

int64_t mlc_session_steps_done(const mlc_session *session);
double mlc_session_grad_norm(const mlc_session *session); /* of the last step or gradient call, before clipping */
int mlc_session_metric_count(const mlc_session *session); /* the train chain's own metrics */
const char *mlc_session_metric_name(const mlc_session *session, int metric);
double mlc_session_metric(const mlc_session *session, int metric); /* of the last step or gradient call */

/* ---- files ---- */

/* Writes checkpoint `directory`/step-XXXXXXXX and `directory`/latest, and holds the directory until the session ends, or saves to
 * another one: nobody else writes there meanwhile. Refused where steps of another run lie. */
int mlc_session_save(mlc_session *session, const char *directory);

/* Gives back the directory that it saved to, if any: others may write there. */
int mlc_session_release(mlc_session *session);

/* Loads a checkpoint: a step directory, or a directory with `latest`. The seed becomes the checkpoint's. */
int mlc_session_load(mlc_session *session, const char *path);

/* Loads parameters by name from safetensors: a file, or a directory with one or with an index. What `allow` and `fit` name, as
 * --allow and --fit do, may differ; both may be NULL when there are none. */
int mlc_session_load_weights(mlc_session *session, const char *path, char *const *allow, int allowed, char *const *fit, int fitted);

/* Writes the digest as 64 hex digits and a 0 byte. */
int mlc_session_digest(mlc_session *session, char hex[65]);

#ifdef __cplusplus
}
#endif

#endif
