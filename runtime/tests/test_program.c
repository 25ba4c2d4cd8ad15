/* test_program.c: the program as its users see it: exit codes, messages, files; the same bits for every number of threads, every
 * layout and transport, and through kills; how ranks that die, stop or hang end a run; no process is left; no allocation from step 0
 * on. The program runs in a child of the test. */
#include "bigram.h"
#include "check.h"
#include "report/progress.h"
#include "step/sample.h"
#include "system/json.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* ---- a rank that dies between two looks ---- */

static int kill_after; /* looks at running ranks, after which the one that was looked at dies; 0: never */

/* Instead of the library's. */
int waitid(idtype_t kind, id_t id, siginfo_t *end, int options)
{
    siginfo_t dead;
    long code = syscall(SYS_waitid, kind, id, end, options, NULL);
    if (code || end->si_pid || !kill_after || --kill_after)
        return (int)code;
    kill((pid_t)id, SIGKILL);
    return (int)syscall(SYS_waitid, kind, id, &dead, WEXITED | WNOWAIT, NULL);
}

/* ---- counting allocations ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

static atomic_bool stepping;    /* a row has run in this process */
static atomic_int *allocations; /* in memory that all processes share */

#ifndef SANITIZED
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);

static void count(void)
{
    if (stepping)
        atomic_fetch_add(allocations, 1);
}

void *malloc(size_t bytes)
{
    count();
    return __libc_malloc(bytes);
}

void *calloc(size_t number, size_t bytes)
{
    count();
    return __libc_calloc(number, bytes);
}

void *realloc(void *old, size_t bytes)
{
    count();
    return __libc_realloc(old, bytes);
}
#endif

static void look_up_counted(const mlc_env *env, const uint64_t *at)
{
    if (env->thread == 0)
        stepping = true;
    bigram_look_up(env, at);
}

static void loss_counted(const mlc_env *env, const uint64_t *at)
{
    if (env->thread == 0)
        stepping = true;
    bigram_loss(env, at);
}

/* The model on pp places and dp replicas, counting from its first rows on. */
static layout *make_counted(int pp, int dp)
{
    layout *all = bigram_make(pp, dp);
    for (int s = 0; s < pp; s++) {
        mlc_row *row = all->stage[MLC_TRAIN][s].forward.rows;
        for (int i = 0; i < all->stage[MLC_TRAIN][s].forward.count; i++)
            row[i].run = row[i].run == bigram_look_up ? look_up_counted : row[i].run == bigram_loss ? loss_counted : row[i].run;
    }
    return all;
}

static layout *layouts[2][2];
static const mlc_model *model; /* that start() runs */

static void use_layout(int pp, int dp)
{
    model = &layouts[pp - 1][dp - 1]->model;
}

/* ---- running ---- */

static char *out, *err;

static void redirect(const char *path, int flags, int descriptor)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | flags, 0666);
    CHECK(fd >= 0 && dup2(fd, descriptor) == descriptor);
    close(fd);
}

/* The program with words of one line, split at spaces. Does not return. */
static void run_line(const char *line)
{
    char text[1024], *argv[64] = {"bigram"};
    int argc = 1;
    snprintf(text, sizeof text, "%s", line);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    int code = mlc_main(model, argc, argv);
    stepping = false;
    int allocated = atomic_load(allocations);
    if (allocated)
        fprintf(stderr, "%d allocations from step 0 on\n", allocated);
    _exit(allocated ? 99 : code);
}

static pid_t start(const char *line)
{
    pid_t child = fork();
    if (child)
        return child;
    for (int i = 0; i < 3; i++)
        signal((int[]){SIGINT, SIGHUP, SIGTERM}[i], SIG_DFL); /* a shell's job in the background ignores some, and so would the program */
    redirect("out", O_TRUNC, STDOUT_FILENO);
    redirect("err", O_TRUNC, STDERR_FILENO);
    run_line(line);
    return 0;
}

static int finish(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    free(out);
    free(err);
    out = check_read("out", NULL);
    err = check_read("err", NULL);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD); /* this process is the parent of every orphan */
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void expect(int code, const char *message, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Runs the program; a message is looked for in stderr, or in stdout on success. */
static void expect(int code, const char *message, const char *format, ...)
{
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    int got = finish(start(line));
    if (got != code)
        fprintf(stderr, "%s: exit code %d, expected %d\n%s\n", line, got, code, err);
    CHECK(got == code);
    CHECK_HOLDS(code ? err : out, message);
    CHECK(!code || strlen(out) == 0 || code == MLC_NOT_FINITE);
}

/* The digest on the last line of the output. */
static char *digest(void)
{
    char *line = strstr(out, "digest: ");
    CHECK(line && strlen(line) == 8 + 64 + 1);
    return strdup(line);
}

/* ---- usage ---- */

static void check_usage(void)
{
    expect(0, "--data [INPUT=]PATTERN", "--help");
    expect(0, "--rate X", "--help");
    expect(2, "unknown option --stpes: did you mean --steps?", "--data text --stpes 3");
    expect(2, "unknown option --raet: did you mean --rate?", "--raet=1");
    expect(2, "unknown option --Top_K: did you mean --top-k?", "--Top_K 3");
    expect(2, "unknown option --frobnicate: see --help", "--frobnicate");
    expect(2, "unknown option --lr: here it is --rate", "--lr 3");
    expect(2, "unknown option --learning_rate: here it is --rate", "--learning_rate=3");
    expect(2, "unknown option --weight-decay: the decay is compiled in", "--weight-decay 3");
    expect(2, "unknown option --epochs: steps are counted, not epochs: --steps N", "--epochs 3");
    expect(2, "unknown option --batch-size: the batch is compiled in: mlc compile -D batch=N", "--batch-size 3");
    expect(2, "unknown option --device: a program runs on the CPUs", "--device cuda");
    expect(2, "unknown option --output: what is trained goes to --checkpoint DIR", "--output x");
    expect(2, "-n: options start with --; --sample N writes N tokens", "-n 3");
    expect(2, "-steps: options start with --; did you mean --steps?", "-steps 3");
    expect(2, "-1: options start with --; see --help", "-1");
    expect(2, "text: options start with --; see --help", "text");
    expect(2, "--steps 0: wants a whole number of at least 1", "--data text --steps 0");
    expect(2, "--steps -1: wants a whole number of at least 1", "--data text --steps -1");
    expect(2, "--steps 3x: wants a whole number", "--data text --steps=3x");
    expect(2, "--rate fast: wants a number", "--data text --rate fast");
    expect(2, "--steps wants a value", "--data text --steps");
    expect(2, "--hash takes no value", "--hash=1");
    expect(2, "--order random: wants shuffled or sequential", "--data text --order random");
    expect(2, "--transport mpi: no launcher in the environment; start it with: mpirun -n 1 ./bigram", "--data text --transport mpi");
    expect(2, "--transport tcp: wants one of local|threads|mpi", "--data text --transport tcp");
    expect(2, "wants one of local|threads|mpi", "--data text --transport local|threads");
    expect(2, "--threads 5000: at most 1024", "--data text --threads 5000");
    expect(2, "exclude each other", "--data text --resume auto --checkpoint c --weights w");
    expect(2, "--resume auto wants --checkpoint", "--data text --resume auto");
    expect(2, "nothing to do", "--seed 3");
    expect(2, "--checkpoint wants --data", "--checkpoint c --hash");
    expect(1, "none: no such file", "--data none --steps 3");
    expect(1, "none: no such directory", "--data text --resume none");
    expect(1, "text: not a directory", "--data text --steps 3 --checkpoint text");
    expect(1, "/none/log: No such file or directory", "--data text --steps 1 --log /none/log");
    CHECK(!setenv("OMPI_COMM_WORLD_SIZE", "4", 1));
    expect(2, "OMPI_COMM_WORLD_SIZE=4: a launcher started several ranks", "--data text --steps 3");
    CHECK(!unsetenv("OMPI_COMM_WORLD_SIZE"));
    expect(0, "memory: ", "--data text --dry-run");
    expect(1, "plan.json: No such file or directory", "--print-plan");
}

/* What would be parsed and then ignored is an error that says what is missing. */
static void check_purposes(void)
{
    expect(2, "--prompt wants --sample: nothing is sampled without it", "--data text --prompt The");
    expect(2, "--temperature wants --sample", "--data text --temperature 0");
    expect(2, "--top-k wants --sample", "--data text --top-k 3");
    expect(2, "--steps wants --data, --resume or --dry-run: ", "--evaluate text --steps 3");
    expect(2, "--order wants --data", "--evaluate text --order sequential");
    expect(2, "--log wants --data or --evaluate", "--hash --log l");
    expect(2, "--every wants --checkpoint or --evaluate", "--data text --every 3");
    expect(2, "--every wants --data", "--evaluate text --every 3");
    expect(2, "--profile wants --data or --sample", "--evaluate text --profile");
    expect(2, "--trace wants --data", "--evaluate text --trace t");
    expect(2, "--allow wants --resume, --weights or --checkpoint", "--data text --allow seed");
    expect(2, "--evaluate-batches wants --evaluate", "--data text --evaluate-batches 3");
    expect(2, "--steps is given twice", "--data text --steps 3 --steps 4");
    expect(2, "--rate is given twice", "--data text --rate 3 --rate=4");
    expect(2, "--log wants a value; the one given is empty", "--data text --log=");
    expect(2, "--data wants a value; the one given is empty", "--data=");
    expect(2, "has a line break, or another control character", "--data text --checkpoint 'a\nb'");
    expect(2, "--version ends the program before anything else", "--data text --version");
    expect(2, "--print-plan ends the program before anything else", "--print-plan --rate 3");
    expect(2, "--completion tcsh: wants bash, zsh or fish", "--completion tcsh");
    expect(2, "--steps 99999999999999999999: the largest number is 9223372036854775807", "--data text --steps 99999999999999999999");
    expect(2, "--rate wants --data: only training reads it", "--evaluate text --rate 3");
    expect(0, "evaluation after 0 steps", "--evaluate text --poison 7");
    expect(2, "--top-p 1.5: wants a probability", "--data text --sample 3 --top-p 1.5");
    expect(2, "--temperature 0 takes the likeliest token", "--data text --sample 3 --top-k 5 --temperature 0");
    expect(0, "digest: ", "--hash --hash");
}

static void check_about(void)
{
    expect(0, "--data [INPUT=]PATTERN", "-h");
    expect(0, "bigram: a training program made by mlc ", "--version");
    CHECK_HOLDS(out, "model   b16a");
    CHECK_HOLDS(out, "target  ");
    expect(0, "complete -F _mlc_bigram bigram", "--completion bash");
    expect(0, "#compdef bigram", "--completion=zsh");
    expect(0, "complete -c bigram -l rate -x", "--completion fish");
    static const char *const NAMES[] = {"data", "steps", "evaluate-batches", "help", "rate"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        CHECK_HOLDS(out, NAMES[i]);
}

/* ---- progress ---- */

/* The line is shorter than any terminal is wide, says the step when there is room for it, and more where there is more. */
static void check_progress(void)
{
    mlc_progress_state states[] = {{7, 1000, 3.25, 12345, "tokens", 3661},
                                   {INT64_MAX, INT64_MAX, 1e300, 1e300, "records", 1e300},
                                   {0, 1, -1e-300, 0, "tokens", 0}};
    char text[512];
    for (size_t s = 0; s < sizeof states / sizeof *states; s++)
        for (int width = 1; width < 400; width++) {
            int length = mlc_progress_text(text, sizeof text, width, &states[s]);
            CHECK(length < width && length == (int)strlen(text));
        }
    mlc_progress_text(text, sizeof text, 80, states);
    CHECK(!strcmp(text, "7/1000 steps  loss 3.2500  12345 tokens/s  1:01:01 left"));
    mlc_progress_text(text, sizeof text, 45, states);
    CHECK(!strcmp(text, "7/1000 steps  loss 3.2500  1:01:01 left"));
    mlc_progress_text(text, sizeof text, 30, states);
    CHECK(!strcmp(text, "7/1000 steps  loss 3.2500"));
    mlc_progress_text(text, sizeof text, 20, states);
    CHECK(!strcmp(text, "7/1000 steps"));
    mlc_progress_text(text, sizeof text, 5, states);
    CHECK(!strcmp(text, "7"));
    mlc_progress plain = {.fd = 2};
    CHECK(!mlc_progress_is_due(&plain, states, INT64_C(29999999999)) && mlc_progress_is_due(&plain, states, INT64_C(30000000000)));
    mlc_progress drawn = {.fd = 2, .terminal = true};
    CHECK(!mlc_progress_is_due(&drawn, states, 99999999) && mlc_progress_is_due(&drawn, states, 100000000));
    CHECK(mlc_progress_is_due(&drawn, &states[1], 1)); /* the last step */
}

/* ---- training ---- */

static char *straight;

static void check_bits(void)
{
    expect(0, "trained 12 steps: loss ", "--data text --steps 12 --threads 1 --hash");
    straight = digest();
    for (int threads = 2; threads <= 5; threads++) {
        expect(0, straight, "--data text --steps 12 --threads %d --hash", threads);
        CHECK(!*err);
    }
    expect(0, "digest: ", "--data text --steps 12 --threads 1 --hash --seed 1");
    CHECK(!strstr(out, straight));
    expect(0, "digest: ", "--data text --steps 12 --threads 1 --hash --order sequential");
    CHECK(!strstr(out, straight));
    expect(0, "digest: ", "--data text --steps 12 --threads 1 --hash --rate 20");
    CHECK(!strstr(out, straight));
}

static void check_resume(void)
{
    expect(0, "trained 12 steps", "--data text --steps 12 --checkpoint c --every 5 --threads 2");
    expect(0, straight, "--data text --steps 12 --resume c/step-00000005 --hash --threads 3");
    expect(0, straight, "--data text --steps 12 --resume c --hash");
    expect(0, straight, "--data text --steps 12 --resume auto --checkpoint c --hash");
    CHECK(!truncate("c/step-00000012/state.json", 100) && !truncate("c/step-00000010/model-00001-of-00001.safetensors", 100));
    expect(0, straight, "--data text --steps 12 --resume auto --checkpoint c --hash");
    CHECK_HOLDS(err, "note: checkpoint passed over: c/step-00000012/state.json: damaged");
    CHECK_HOLDS(err, "note: checkpoint passed over: c/step-00000010/model-00001-of-00001.safetensors: damaged");
    expect(0, straight, "--data text --steps 12 --resume c --hash"); /* the damaged one was replaced */
    expect(1, "12 steps are done, more than --steps 7", "--data text --steps 7 --resume c");
    expect(1, "seed: the checkpoint has 0, this run 4 (--allow seed lets it pass)", "--data text --steps 13 --resume c --seed 4");
    expect(1, "order: the checkpoint has shuffled, this program sequential", "--data text --steps 13 --resume c --order sequential");
    expect(0, "trained 1 steps", "--data text --steps 13 --resume c --order sequential --allow order --allow seed --seed 4");
    expect(1, "examples: the checkpoint has ", "--data half --steps 13 --resume c");
    expect(0, straight, "--resume c --hash --dry-run --steps 12");
    expect(0, "trained 1100 steps", "--data text --steps 1100 --threads 1 --checkpoint long");
    expect(0, "digest: ", "--resume long --hash"); /* more steps than the default, which nobody has asked for */
    expect(1, "1100 steps are done, more than --steps 1000", "--data text --resume long");
    expect(0, straight, "--data text --steps 12 --resume auto --checkpoint fresh --hash");
}

/* Kills the program at many moments and resumes it until it is done. */
static void check_kills(void)
{
    int code = -1, kills = 0;
    for (int round = 0; code; round++) {
        CHECK(round < 2000);
        pid_t child = start("--data text --steps 12 --threads 2 --checkpoint k --every 1 --resume auto --hash");
        usleep((useconds_t)(1000 + round * 2711 % 15000 + round * 200));
        kill(child, SIGKILL);
        code = finish(child);
        kills += code == 128 + SIGKILL;
    }
    CHECK_HOLDS(out, straight);
    CHECK(kills);
}

/* The first line of a log shows that the program is in its steps. */
static void wait_for_steps(const char *log)
{
    for (int i = 0; access(log, F_OK) || !strlen(out = (free(out), check_read(log, NULL))); i++) {
        CHECK(i < 20000);
        usleep(1000);
    }
}

static void check_signals(void)
{
    static const int SIGNALS[] = {SIGTERM, SIGUSR1, SIGINT, SIGHUP};
    for (int i = 0; i < 4; i++) {
        char line[256], log[16];
        snprintf(log, sizeof log, "log%d", i);
        snprintf(line, sizeof line, "--data text --steps 100000000 --threads 2 --checkpoint s%d --log %s", i, log);
        pid_t child = start(line);
        wait_for_steps(log);
        kill(child, SIGNALS[i]);
        CHECK(finish(child) == 0);
        CHECK_HOLDS(err, "stopped by signal");
        snprintf(line, sizeof line, "s%d/latest", i);
        free(check_read(line, NULL));
        expect(0, "digest: ", "--resume s%d --hash --dry-run --steps 100000000", i);
    }
    pid_t sampling = start("--resume s0 --steps 100000000 --sample 1000000000 --prompt Hello");
    wait_for_steps("out");
    kill(sampling, SIGTERM);
    CHECK(finish(sampling) == 128 + SIGTERM); /* nothing to save: it ends at once */
}

static void check_not_finite(void)
{
    expect(5, "step 3, stage 0, microbatch 1: the loss is not finite", "--data text --steps 12 --poison 3");
    expect(5, "step 0, stage 0, microbatch 1: the loss is not finite", "--data text --steps 12 --poison 0 --threads 1");
    expect(5, "step 3, stage 0, microbatch 2: the gradient of table is not finite", "--data text --steps 12 --poison 1003");
}

static void check_timeout(void)
{
    expect(4, "no progress for 0.3 s at step 0, action F 0", "--data text --steps 12 --pause 30 --timeout 0.3 --threads 2");
    CHECK_HOLDS(err, "thread 0 waits for the others at a barrier of loss forward");
    CHECK_HOLDS(err, "thread 1 has not finished loss forward");
    expect(0, straight, "--data text --steps 12 --timeout 100 --hash");
}

/* ---- what it writes ---- */

/* Reads every "step" of a log into steps[]; returns how many lines it has. */
static int read_steps(const char *path, int64_t steps[32])
{
    char *text = check_read(path, NULL);
    int count = 0;
    for (char *line = text; *line; line = strchr(line, '\n') + 1) {
        CHECK(strchr(line, '\n') && !strncmp(line, "{\"step\": ", 9));
        steps[count++] = strtoll(line + 9, NULL, 10);
    }
    free(text);
    return count;
}

/* A resumed run writes no step twice, and mends the line that a kill cut. */
static void check_log_of_resumed(void)
{
    int64_t steps[32];
    size_t bytes;
    expect(0, "trained 12 steps", "--data text --steps 12 --log again --checkpoint a --every 5");
    CHECK(read_steps("again", steps) == 12);
    free(check_read("again", &bytes));
    CHECK(!truncate("again", (off_t)bytes - 7));
    expect(0, "trained 7 steps", "--data text --steps 12 --log again --resume a/step-00000005");
    CHECK(read_steps("again", steps) == 12);
    for (int i = 0; i < 12; i++)
        CHECK(steps[i] == i);
}

static void check_log(void)
{
    static const char *const KEYS[] = {"loss", "grad_norm", "rate", "tokens", "step_ms", "tokens_per_s", "mfu", "accuracy"};
    expect(0, straight,
           "--data text --steps 12 --log log --trace trace.json --profile --evaluate half --every 5 --checkpoint w --sample 30 "
           "--prompt The --timeout 60 --hash");
    CHECK_HOLDS(out, "table backward");
    CHECK_HOLDS(out, " GFLOP/s % peak  kernel\n");
    CHECK_HOLDS(out, "evaluation after 10 steps: loss ");
    CHECK_HOLDS(out, "evaluation after 12 steps: loss ");
    CHECK_HOLDS(out, "\nThe");
    char *text = check_read("log", NULL), *line = text;
    mlc_error error = {0};
    mlc_json json;
    int steps = 0, evaluations = 0;
    for (; *line; line = strchr(line, '\n') + 1) {
        CHECK(!mlc_json_parse(&json, line, strcspn(line, "\n"), "log", &error));
        uint64_t step;
        CHECK(mlc_json_whole(mlc_json_member(&json, &json.nodes[0], "step"), &step));
        bool evaluation = mlc_json_member(&json, &json.nodes[0], "evaluate_loss");
        for (size_t k = 0; !evaluation && k < sizeof KEYS / sizeof *KEYS; k++)
            CHECK(mlc_json_member(&json, &json.nodes[0], KEYS[k]));
        CHECK(evaluation || (int)step == steps);
        steps += !evaluation;
        evaluations += evaluation;
        mlc_json_free(&json);
    }
    CHECK(steps == 12 && evaluations == 3);
    free(text);
    size_t bytes;
    text = check_read("trace.json", &bytes);
    CHECK(!mlc_json_parse(&json, text, bytes, "trace", &error));
    CHECK_HOLDS(text, "\"rank 0: place 0, replica 0\"");
    CHECK_HOLDS(text, "\"F 3\"");
    mlc_json_free(&json);
    free(text);
}

static void expect_prompt(const mlc_model *one, const char *prompt, const char *part)
{
    mlc_sampler sampler;
    mlc_error error = {0};
    CHECK(mlc_sampler_open(&sampler, one, prompt, &error));
    CHECK_HOLDS(error.text, part);
    mlc_sampler_close(&sampler);
}

/* What a prompt cannot hold is found before training. */
static void check_prompts(void)
{
    static const int64_t FEW[] = {BATCH, CONTEXT, 100}, MANY[] = {BATCH, CONTEXT, 300};
    layout *all = bigram_make(1, 1);
    mlc_tensor *logits = &all->chunk[0][MLC_SAMPLE][0].logits;
    logits->shape = FEW;
    expect_prompt(&all->model, "Hello", "--prompt: token 101 is not in 0 to 99");
    logits->shape = MANY;
    expect_prompt(&all->model, "1, 2, 300", "--prompt: token 300 is not in 0 to 299");
    expect_prompt(&all->model, "Hello", "--prompt: wants token numbers");
    all->model.samples = 0;
    expect_prompt(&all->model, "Hello", "model bigram cannot be sampled");
    free(all);
}

static void check_samples(void)
{
    expect(0, "\nHello", "--data text --steps 30 --sample 40 --prompt Hello --threads 1 --checkpoint x");
    char *first = strdup(strchr(out, '\n'));
    expect(0, first, "--data text --steps 30 --sample 40 --prompt Hello --threads 2");
    free(first);
    expect(0, "Hello", "--resume x --sample 40 --prompt Hello --temperature 0 --steps 30");
    first = strdup(out);
    CHECK(strlen(first) == 46);
    expect(0, first, "--weights x --sample 40 --prompt Hello --temperature 0");
    expect(0, first, "--weights x --sample 40 --prompt Hello --top-k 1");
    expect(0, first, "--weights x --sample 40 --prompt Hello --top-p 1e-9 --threads 2");
    expect(0, "Hello", "--weights x --sample 40 --prompt Hello --top-k 256");
    char *all = strdup(out);
    expect(0, all, "--weights x --sample 40 --prompt Hello --top-p 1");
    expect(0, all, "--weights x --sample 40 --prompt Hello");
    free(all);
    expect(0, "", "--weights x --sample 3");
    CHECK(strlen(out) == 4);
    free(first);
}

/* Evaluation counts every window once, whatever their number. */
static void check_evaluation(void)
{
    expect(0, "windows", "--evaluate half --seed 9");
    char *all = strdup(out);
    double loss = strtod(strstr(all, "loss ") + 5, NULL), sum = 0;
    long windows = strtol(strstr(all, "over ") + 5, NULL, 10);
    size_t bytes;
    char *text = check_read("half", &bytes);
    CHECK(windows == (long)(bytes - 17) / 16 + 1 && windows % BATCH);
    for (long w = 0; w < windows; w++) {
        check_write("window", text + 16 * w, 17);
        expect(0, "over 1 windows, 16 tokens", "--evaluate window --seed 9 --threads 1");
        sum += strtod(strstr(out, "loss ") + 5, NULL);
    }
    CHECK(fabs(sum / (double)windows - loss) < 1e-6);
    free(all);
    free(text);
}

static double number_behind(const char *text, const char *words)
{
    const char *found = strstr(text, words);
    CHECK(found);
    return strtod(found + strlen(words), NULL);
}

/* The model's own metrics are those of all windows, weighted as the loss is, in text and log; the same in every layout. */
static void check_evaluated_metrics(void)
{
    expect(0, "; accuracy ", "--data text --steps 12 --evaluate half --log metrics --threads 1");
    char *line = strdup(strstr(out, "evaluation after 12")), *log = check_read("metrics", NULL);
    double accuracy = number_behind(line, "accuracy "), logged = number_behind(log, "\"evaluate_accuracy\": ");
    long windows = strtol(strstr(line, "over ") + 5, NULL, 10);
    CHECK(accuracy > 0 && accuracy < 1 && accuracy == logged);
    CHECK(fabs(accuracy * (double)windows * CONTEXT - round(accuracy * (double)windows * CONTEXT)) < 1e-3); /* each position once */
    for (int i = 1; i < 4; i++) {
        use_layout(i / 2 + 1, i % 2 + 1);
        expect(0, line, "--data text --steps 12 --evaluate half --threads 2");
    }
    use_layout(1, 1);
    free(line);
    free(log);
}

/* Some microbatches of an evaluation: always the same windows, spread over the file; all when there are no more. */
static void check_evaluate_batches(void)
{
    expect(0, "over 8 windows, 128 tokens", "--evaluate text --evaluate-batches 2 --seed 9");
    char *some = strdup(out);
    expect(0, some, "--evaluate text --evaluate-batches 2 --seed 9 --threads 3");
    use_layout(2, 2);
    expect(0, some, "--evaluate text --evaluate-batches 2 --seed 9");
    use_layout(1, 1);
    expect(0, "over ", "--evaluate half --seed 9");
    free(some);
    some = strdup(out);
    expect(0, some, "--evaluate half --seed 9 --evaluate-batches 1000000000000");
    free(some);
    size_t bytes;
    char *text = check_read("text", &bytes), *chosen = malloc(8 * 17);
    for (int64_t w = 0, windows = (int64_t)(bytes - 17) / 16 + 1; w < 8; w++)
        memcpy(chosen + 17 * w, text + w * windows / 8 * 16, 17);
    double sum = 0;
    for (int w = 0; w < 8; w++) {
        check_write("window", chosen + 17 * w, 17);
        expect(0, "over 1 windows", "--evaluate window --seed 9");
        sum += number_behind(out, "loss ");
    }
    expect(0, "over 8 windows", "--evaluate text --evaluate-batches 2 --seed 9");
    CHECK(fabs(sum / 8 - number_behind(out, "loss ")) < 1e-6);
    free(text);
    free(chosen);
}

/* A disk that is full while checkpointing: exit code 3, and the run goes on from the last whole one. */
static void check_full_disk(void)
{
    expect(0, "trained", "--data text --steps 12 --checkpoint f --every 4");
    CHECK(!system("rm -r f/step-00000008 f/step-00000012"));
    struct rlimit before, small = {100000, RLIM_INFINITY};
    CHECK(!getrlimit(RLIMIT_FSIZE, &before));
    small.rlim_max = before.rlim_max;
    CHECK(!setrlimit(RLIMIT_FSIZE, &small));
    int code = finish(start("--data text --steps 12 --resume auto --checkpoint f --every 2"));
    CHECK(code == MLC_FAILED);
    CHECK_HOLDS(err, "cannot be written: File too large");
    CHECK(!setrlimit(RLIMIT_FSIZE, &before));
    expect(0, straight, "--data text --steps 12 --resume auto --checkpoint f --hash");
    CHECK(!unlink("out") && !symlink("/dev/full", "out"));
    expect(3, "standard output: cannot be written", "--data text --steps 3");
    CHECK(!unlink("out"));
}

/* ---- several ranks ---- */

static const char *const TRANSPORTS[] = {"local", "threads"};

static void check_layout(int pp, int dp, const char *transport)
{
    use_layout(pp, dp);
    expect(0, straight, "--data text --steps 12 --threads 1 --hash --transport %s", transport);
    CHECK(!*err);
    expect(0, "trained 12 steps", "--data text --steps 12 --checkpoint m --every 5 --transport %s --timeout 60", transport);
    expect(0, straight, "--data text --steps 12 --resume m/step-00000005 --hash --transport %s --threads 2", transport);
    expect(0, straight, "--data text --steps 12 --resume auto --checkpoint m --hash --transport %s", transport);
    expect(0, "memory of a rank of place 0: ", "--data text --dry-run --transport %s", transport);
    expect(0, "evaluation after 0 steps", "--evaluate half --transport %s", transport);
    expect(0, "\nHello", "--weights x --sample 3 --prompt Hello --evaluate half --transport %s", transport);
    use_layout(1, 1);
    expect(0, straight, "--data text --steps 12 --resume m/step-00000005 --hash");
    CHECK(!system("rm -r m"));
}

static void check_layouts(void)
{
    for (int t = 0; t < 2; t++) {
        check_layout(2, 1, TRANSPORTS[t]);
        check_layout(1, 2, TRANSPORTS[t]);
        check_layout(2, 2, TRANSPORTS[t]);
    }
}

/* Each failure is one sentence, with one exit code. */
static void check_one_sentence(int code, const char *sentence, const char *line)
{
    for (int t = 0; t < 2; t++)
        for (int again = 0; again < 5; again++) {
            expect(code, sentence, "%s --transport %s", line, TRANSPORTS[t]);
            CHECK(strchr(err, '\n') == err + strlen(err) - 1);
        }
}

static void check_sentences(void)
{
    use_layout(2, 2);
    check_one_sentence(1, "bigram: error: --data none: no such file", "--data none");
    check_one_sentence(1, "bigram: error: none: no such directory", "--data text --resume none");
    check_one_sentence(1, "bigram: error: /none/log: No such file or directory", "--data text --steps 2 --log /none/log");
    check_one_sentence(1, "bigram: error: /none/trace: No such file or directory", "--data text --steps 2 --trace /none/trace");
    check_one_sentence(1, "bigram: error: text: not a directory", "--data text --steps 2 --checkpoint text");
    check_one_sentence(5, "bigram: error: step 3, stage 1, microbatch 1: the loss is not finite", "--data text --steps 12 --poison 3");
    check_one_sentence(5, "step 3, stage 0, microbatch 2: the gradient of table is not finite", "--data text --steps 12 --poison 1003");
    expect(2, "start it with: mpirun -n 4 ./bigram", "--data text --transport mpi");
}

/* What the kernel says of a process: its state, ' ' when it is gone, and its parent. */
static char look_at(int pid, int *parent)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    size_t bytes = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file)
        fclose(file);
    text[bytes] = 0;
    const char *name = strrchr(text, ')'); /* "7 (name) S 6 ..." */
    *parent = name ? (int)strtol(name + 4, NULL, 10) : -1;
    return name ? name[2] : ' ';
}

/* The processes that a supervisor has started, in that order, once all have. False: it has ended. */
static bool read_children(pid_t supervisor, pid_t children[4])
{
    int parent;
    for (int found = 0; found < 4;) {
        DIR *processes = opendir("/proc");
        CHECK(processes);
        found = 0;
        for (struct dirent *entry; found < 4 && (entry = readdir(processes));) {
            int pid = atoi(entry->d_name);
            if (pid && look_at(pid, &parent) != 'Z' && parent == supervisor)
                children[found++] = pid;
        }
        closedir(processes);
        if (found < 4 && look_at(supervisor, &parent) == 'Z')
            return false;
    }
    return true;
}

/* A run of four ranks that is in its steps; its ranks' processes in ascending order. */
static pid_t start_ranks(const char *more, pid_t children[4])
{
    char line[256];
    unlink("ranks");
    use_layout(2, 2);
    snprintf(line, sizeof line, "--data text --steps 100000000 --threads 1 --log ranks %s", more);
    pid_t parent = start(line);
    CHECK(read_children(parent, children));
    wait_for_steps("ranks");
    return parent;
}

static void check_lost(void)
{
    static const int SIGNALS[] = {SIGKILL, SIGABRT, SIGUSR2, SIGKILL};
    for (int r = 0; r < 4; r++) {
        char sentence[128];
        pid_t children[4], parent = start_ranks("", children);
        kill(children[r], SIGNALS[r]);
        CHECK(finish(parent) == MLC_FAILED);
        snprintf(sentence, sizeof sentence, "error: rank %d (place %d, replica %d) was killed by signal %d ", r, r % 2, r / 2, SIGNALS[r]);
        CHECK_HOLDS(err, sentence);
        CHECK(strchr(err, '\n') == err + strlen(err) - 1);
    }
}

/* A rank that dies right after the supervisor has looked at it is taken at the next look, by name: never as one that has ended well. */
static void check_lost_between(void)
{
    use_layout(2, 2);
    kill_after = 8; /* the second round of looks */
    CHECK(finish(start("--data text --steps 100000000 --threads 1")) == MLC_FAILED);
    kill_after = 0;
    CHECK_HOLDS(err, " was killed by signal 9 ");
    CHECK(strchr(err, '\n') == err + strlen(err) - 1);
}

static void check_stopped(void)
{
    for (int r = 0; r < 4; r++) {
        char late[128], stopped[128];
        pid_t children[4], parent = start_ranks("--timeout 0.5", children);
        kill(children[r], SIGSTOP);
        CHECK(finish(parent) == MLC_HANG);
        snprintf(late, sizeof late, "error: no progress for 0.5 s: rank %d is late\n", r);
        snprintf(stopped, sizeof stopped, "rank %d (place %d, replica %d) was stopped by a signal ", r, r % 2, r / 2);
        CHECK_HOLDS(err, late);
        CHECK_HOLDS(err, stopped);
        CHECK_HOLDS(err, " waits for rank ");
    }
}

/* The late rank knows which of its threads is; nobody else reports. */
static void check_stuck(void)
{
    use_layout(2, 1);
    for (int t = 0; t < 2; t++) {
        expect(4, "error: no progress for 0.3 s: rank 1 is late",
               "--data text --steps 12 --pause 30 --timeout 0.3 --threads 2 --transport %s", TRANSPORTS[t]);
        CHECK_HOLDS(err, "rank 0 (place 0, replica 0) waits for rank 1 (message ");
        CHECK_HOLDS(err, "rank 1 (place 1, replica 0) computes at step 0, action F 0");
        CHECK_HOLDS(err, "thread 1 has not finished loss forward");
        CHECK(strstr(err, "is late") == strstr(strstr(err, "no progress"), "is late") && !strstr(strstr(err, "is late") + 1, "is late"));
    }
}

/* Signals to the supervisor reach the ranks, which agree on the step. */
/* The run saved and ended because of a signal. */
static void check_saved_by(pid_t parent, int signal)
{
    char sentence[64];
    int status = finish(parent);
    if (status)
        fprintf(stderr, "stopped by signal %d, it ended with %d: %s\n", signal, status, err);
    CHECK(status == 0);
    snprintf(sentence, sizeof sentence, "stopped by signal %d after ", signal);
    CHECK_HOLDS(err, sentence);
}

static void check_stops(void)
{
    pid_t children[4], parent = start_ranks("--checkpoint r --timeout 30", children);
    kill(parent, SIGTERM);
    check_saved_by(parent, SIGTERM);
    parent = start_ranks("--resume auto --checkpoint r", children);
    kill(children[2], SIGUSR1); /* one rank is enough */
    check_saved_by(parent, SIGUSR1);
    parent = start_ranks("--resume auto --checkpoint r", children);
    kill(parent, SIGINT);
    kill(parent, SIGINT); /* the same one, as a terminal and a launcher send it */
    check_saved_by(parent, SIGINT);
    parent = start_ranks("--transport local", children);
    kill(children[1], SIGSTOP); /* so that no step ends */
    kill(parent, SIGINT);
    usleep(500000);
    kill(parent, SIGINT); /* a second one */
    CHECK(finish(parent) == 128 + SIGINT && !*err);
    parent = start_ranks("", children);
    kill(parent, SIGKILL);
    CHECK(finish(parent) == 128 + SIGKILL);
    for (int r = 0; r < 4; r++) {
        int status;
        CHECK(waitpid(children[r], &status, 0) == children[r]); /* they end with their supervisor */
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    use_layout(2, 2);
    pid_t sampling = start("--resume r --steps 100000000 --sample 1000000000 --prompt Hello");
    wait_for_steps("out");
    kill(sampling, SIGTERM);
    CHECK(finish(sampling) == 128 + SIGTERM); /* nothing to save: it ends at once */
}

/* Kills one rank of a run at many moments, and resumes it until it is done. */
static void check_rank_kills(void)
{
    int code = -1, kills = 0;
    use_layout(2, 2);
    for (int round = 0; code; round++) {
        CHECK(round < 500);
        pid_t children[4], parent = start("--data text --steps 12 --threads 1 --checkpoint q --every 1 --resume auto --hash");
        if (read_children(parent, children)) {
            usleep((useconds_t)(1000 + round * 2711 % 15000 + round * 500));
            kill(children[round % 4], SIGKILL);
        }
        code = finish(parent);
        CHECK(code == MLC_FAILED || code == 0);
        kills += code == MLC_FAILED;
    }
    CHECK_HOLDS(out, straight);
    CHECK(kills);
}

/* Ranks that a launcher has started meet by the environment. */
static int run_joined(const char *line, const char *sizes)
{
    pid_t ranks[4];
    char number[16], port[16];
    int worst = 0;
    unlink("out"), unlink("err");
    for (int r = 0; r < 4; r++) {
        ranks[r] = fork();
        if (ranks[r])
            continue;
        snprintf(number, sizeof number, "%d", r);
        snprintf(port, sizeof port, "%d", (int)getppid());
        CHECK(!setenv("RANK", number, 1) && !setenv("WORLD_SIZE", sizes, 1) && !setenv("LOCAL_WORLD_SIZE", sizes, 1));
        CHECK(!setenv("MASTER_PORT", port, 1));
        redirect("out", 0, STDOUT_FILENO);
        redirect("err", 0, STDERR_FILENO);
        run_line(line);
    }
    for (int r = 0; r < 4; r++) {
        int status;
        CHECK(waitpid(ranks[r], &status, 0) == ranks[r] && WIFEXITED(status));
        worst = WEXITSTATUS(status) > worst ? WEXITSTATUS(status) : worst;
    }
    free(out);
    free(err);
    out = check_read("out", NULL);
    err = check_read("err", NULL);
    return worst;
}

static void check_joined(void)
{
    use_layout(2, 2);
    CHECK(run_joined("--data text --steps 12 --hash --threads 1 --timeout 30", "4") == 0);
    CHECK(strstr(out, straight) && !strstr(strstr(out, straight) + 1, straight) && !*err);
    CHECK(run_joined("--data none --threads 1", "4") == MLC_BAD_INPUT);
    CHECK(!strcmp(err, "bigram: error: --data none: no such file, and no file matches\n"));
    CHECK(run_joined("--data text --steps 12 --threads 1", "3") == MLC_USAGE);
    CHECK_HOLDS(err, "WORLD_SIZE=3: torchrun started 3 ranks, this program has 4 (pp 2 x dp 2)");
    CHECK(run_joined("--data text --transport threads", "4") == MLC_USAGE);
    CHECK_HOLDS(err, "--transport threads: torchrun started 4 processes");
}

/* One file of all ranks: its actions in the plan's names, its clock that of all. */
static void check_trace(void)
{
    static const char *const HOLDS[] = {"\"rank 3: place 1, replica 1\"", "\"pid\":3,\"tid\":1", "\"F 1\"", "\"STATISTICS\"", "SEND "};
    use_layout(2, 2);
    for (int t = 0; t < 2; t++) {
        expect(0, straight, "--data text --steps 12 --threads 2 --trace ranks.json --hash --transport %s", TRANSPORTS[t]);
        size_t bytes;
        char *text = check_read("ranks.json", &bytes);
        mlc_error error = {0};
        mlc_json json;
        CHECK(!mlc_json_parse(&json, text, bytes, "trace", &error));
        mlc_json_free(&json);
        for (size_t i = 0; i < sizeof HOLDS / sizeof *HOLDS; i++)
            CHECK_HOLDS(text, HOLDS[i]);
        free(text);
    }
}

int main(void)
{
    allocations = mmap(NULL, sizeof *allocations, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(allocations != MAP_FAILED && !prctl(PR_SET_CHILD_SUBREAPER, 1));
    for (int i = 0; i < 4; i++)
        layouts[i / 2][i % 2] = make_counted(i / 2 + 1, i % 2 + 1);
    use_layout(1, 1);
    check_enter_directory();
    char text[5000];
    for (int i = 0; i < 5000; i++)
        text[i] = "the quick brown fox jumps over a lazy dog, and then.\n"[(i * i / 7 + i) % 53];
    check_write("text", text, sizeof text);
    check_write("half", text, 700);
    check_usage();
    check_purposes();
    check_about();
    check_progress();
    check_bits();
    check_resume();
    check_kills();
    check_signals();
    check_not_finite();
    check_timeout();
    check_log();
    check_log_of_resumed();
    check_prompts();
    check_samples();
    check_evaluation();
    check_evaluated_metrics();
    check_evaluate_batches();
    check_full_disk();
    check_layouts();
    check_sentences();
    check_lost();
    check_lost_between();
    check_stopped();
    check_stuck();
    check_stops();
    check_rank_kills();
    check_joined();
    check_trace();
    for (int i = 0; i < 4; i++)
        free(layouts[i / 2][i % 2]);
    free(straight);
    free(out);
    free(err);
    check_leave_directory();
    printf("test_program: ok\n");
    return 0;
}
