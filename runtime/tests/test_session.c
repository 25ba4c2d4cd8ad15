/* test_session.c: the library: one model in this process, of one rank or several. The same calls give the same bits on every layout;
 * what the caller writes to a master reaches all ranks that hold it; tensors that replicas share out are seen whole. */
#include "bigram.h"
#include "check.h"
#include "mlc.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROWS = 4 * BATCH, STEPS = 3 };

static int32_t tokens[ROWS * CONTEXT], targets[ROWS * CONTEXT];
static const void *const INPUTS[] = {tokens, targets};

/* What a run of calls left. */
typedef struct outcome {
    double losses[STEPS], gradient_loss, evaluation, norm, accuracy;
    char hex[65], loaded[65];
    float gradient[TABLE], table[TABLE], momentum[TABLE];
} outcome;

static mlc_session *open_model(const mlc_model *model, int threads)
{
    char message[200];
    int status;
    mlc_session *session = mlc_open(model, &(mlc_open_options){.threads = threads, .steps = 20}, &status, message, sizeof message);
    CHECK(session && !status);
    return session;
}

/* An input that some rank refuses leaves the session as it was. */
static void check_refusals(mlc_session *session)
{
    double loss;
    CHECK(mlc_session_step(session, INPUTS, ROWS - 1, &loss) == MLC_USAGE);
    CHECK_HOLDS(mlc_session_message(session), "a step takes 16 (4 microbatches of 4)");
    tokens[ROWS * CONTEXT - 1] = VOCABULARY;
    CHECK(mlc_session_step(session, INPUTS, ROWS, &loss) == MLC_BAD_INPUT);
    CHECK_HOLDS(mlc_session_message(session), "input tokens: element 255 is 256, not in 0 to 255");
    tokens[ROWS * CONTEXT - 1] = 0;
    CHECK(mlc_session_load(session, "none") == MLC_BAD_INPUT && mlc_session_set_scalar(session, "raet", 1) == MLC_USAGE);
}

static void run_calls(const mlc_model *model, int threads, outcome *got)
{
    mlc_session *session = open_model(model, threads);
    CHECK(!mlc_session_step(session, INPUTS, ROWS, &got->losses[0]));
    float *table = mlc_parameter_master(session, 0).data;
    for (int i = 0; i < TABLE; i += 7)
        table[i] += 0.25F;
    CHECK(!mlc_session_gradient(session, INPUTS, ROWS, &got->gradient_loss));
    memcpy(got->gradient, mlc_parameter_gradient(session, 0).data, sizeof got->gradient);
    check_refusals(session);
    CHECK(!mlc_session_set_scalar(session, "rate", 20));
    CHECK(!mlc_session_step(session, INPUTS, ROWS, &got->losses[1]));
    got->norm = mlc_session_grad_norm(session);
    got->accuracy = mlc_session_metric(session, 0);
    CHECK(!strcmp(mlc_session_metric_name(session, 0), "accuracy") && !mlc_session_metric_name(session, 1));
    CHECK(!mlc_session_evaluate(session, INPUTS, 3 * BATCH, &got->evaluation));
    CHECK(!system("rm -rf saved")); /* the steps of another session */
    CHECK(!mlc_session_save(session, "saved") && !mlc_session_digest(session, got->hex));
    CHECK(!mlc_session_step(session, INPUTS, ROWS, &got->losses[2]));
    memcpy(got->table, table, sizeof got->table);
    mlc_view momentum = mlc_parameter_state(session, 0, 0);
    CHECK(momentum.copy == (model->mesh.size[MLC_DP] > 1) && !mlc_parameter_state(session, 0, 1).data && !mlc_parameter_master(session, 1).data);
    memcpy(got->momentum, momentum.data, sizeof got->momentum);
    CHECK(!mlc_session_load(session, "saved") && !mlc_session_digest(session, got->loaded));
    CHECK(mlc_session_steps_done(session) == 2 && !strcmp(got->loaded, got->hex));
    mlc_close(session);
}

static void check_layouts(void)
{
    static outcome expected, got;
    memset(&expected, 0, sizeof expected);
    run_calls(bigram_of(1, 1), 1, &expected);
    for (int i = 0; i < 8; i++) {
        memset(&got, 0, sizeof got);
        run_calls(bigram_of(1 + i / 2 % 2, 1 + i % 2), 1 + i / 4, &got);
        CHECK(!memcmp(&got, &expected, sizeof got));
    }
}

/* ---- callers ---- */

typedef struct caller {
    mlc_session *session;
    atomic_int *busy;
} caller;

static void *call_steps(void *argument)
{
    const caller *own = argument;
    for (int i = 0; i < 20; i++) {
        double loss;
        int status = mlc_session_step(own->session, INPUTS, ROWS, &loss);
        CHECK(status == MLC_OK || status == MLC_USAGE);
        if (status == MLC_USAGE)
            CHECK_HOLDS(mlc_session_message(own->session), "another caller is in mlc_session_step");
        atomic_fetch_add(own->busy, status == MLC_USAGE);
    }
    return NULL;
}

/* Calls at the same time: one works, the other is told so; the session may be led by any thread. */
static void check_callers(void)
{
    atomic_int busy = 0;
    pthread_t threads[2];
    caller own = {open_model(bigram_of(2, 2), 1), &busy};
    for (int i = 0; i < 2; i++)
        CHECK(!pthread_create(&threads[i], NULL, call_steps, &own));
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    CHECK(mlc_session_steps_done(own.session) == 40 - busy);
    mlc_close(own.session);
}

/* A forked child has the memory of a session and none of its threads: it is told so, and its parent goes on. */
static void check_forks(void)
{
    double loss;
    for (int ranks = 1; ranks <= 2; ranks++) {
        mlc_session *session = open_model(bigram_of(ranks, ranks), 2);
        CHECK(!mlc_session_step(session, INPUTS, ROWS, &loss));
        pid_t child = fork();
        if (!child) {
            alarm(20);
            CHECK(mlc_session_step(session, INPUTS, ROWS, &loss) == MLC_USAGE && mlc_parameter_master(session, 0).data);
            CHECK_HOLDS(mlc_session_message(session), "this process was forked");
            mlc_close(session);
            _exit(0);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && !status);
        CHECK(!mlc_session_step(session, INPUTS, ROWS, &loss) && mlc_session_steps_done(session) == 2);
        mlc_close(session);
    }
}

static void check_not_finite(void)
{
    double loss;
    mlc_session *session = open_model(bigram_of(2, 2), 1);
    CHECK(!mlc_session_set_scalar(session, "poison", 1) && !mlc_session_step(session, INPUTS, ROWS, &loss));
    CHECK(mlc_session_step(session, INPUTS, ROWS, &loss) == MLC_NOT_FINITE);
    CHECK_HOLDS(mlc_session_message(session), "step 1, stage 1, microbatch 1: the loss is not finite");
    CHECK(!mlc_session_set_scalar(session, "poison", -1) && !mlc_session_step(session, INPUTS, ROWS, &loss));
    CHECK(mlc_session_steps_done(session) == 2);
    mlc_close(session);
}

int main(void)
{
    for (int i = 0; i < ROWS * CONTEXT; i++) {
        tokens[i] = i * i / 7 % VOCABULARY;
        targets[i] = (3 * i + 1) % VOCABULARY;
    }
    tokens[ROWS * CONTEXT - 1] = 0;
    check_enter_directory();
    check_layouts();
    check_callers();
    check_forks();
    check_not_finite();
    check_leave_directory();
    printf("test_session: ok\n");
    return 0;
}
