/* test_program.c: the program as its users see it: exit codes, messages, files; the same bits for every number of threads and
 * through kills; no allocation from step 0 on. The program runs in a child of the test. */
#include "bigram.h"
#include "check.h"
#include "json.h"
#include "sample.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/resource.h>

/* ---- counting allocations ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

static volatile bool stepping; /* a row has run, and mlc_main has not returned */
static volatile int allocations;

#ifndef SANITIZED
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);

void *malloc(size_t bytes)
{
    allocations += stepping;
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    allocations += stepping;
    return __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes)
{
    allocations += stepping;
    return __libc_realloc(old, bytes);
}
#endif

static void look_up_counted(const mlc_env *env, const uint64_t *at)
{
    if (env->thread == 0)
        stepping = true;
    bigram_look_up(env, at);
}

static mlc_row rows[2];
static mlc_chain train_chain;
static mlc_model counted;

static void make_counted(void)
{
    memcpy(rows, BIGRAM_FORWARD, sizeof rows);
    rows[0].run = look_up_counted;
    train_chain = BIGRAM_TRAIN;
    train_chain.forward.rows = rows;
    counted = BIGRAM;
    counted.train = &train_chain;
}

/* ---- running ---- */

static char *out, *err;

static void redirect(const char *path, int descriptor)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    CHECK(fd >= 0 && dup2(fd, descriptor) == descriptor);
    close(fd);
}

/* Starts the program with words of one line, split at spaces. */
static pid_t start(const char *line)
{
    pid_t child = fork();
    if (child)
        return child;
    char text[1024], *argv[64] = {"bigram"};
    int argc = 1;
    snprintf(text, sizeof text, "%s", line);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    redirect("out", STDOUT_FILENO);
    redirect("err", STDERR_FILENO);
    int code = mlc_main(&counted, argc, argv);
    stepping = false;
    if (allocations)
        fprintf(stderr, "%d allocations from step 0 on\n", allocations);
    _exit(allocations ? 99 : code);
}

static int finish(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    free(out);
    free(err);
    out = check_read("out", NULL);
    err = check_read("err", NULL);
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
    expect(2, "unknown option --stpes; the nearest is --steps", "--data text --stpes 3");
    expect(2, "unknown option --raet; the nearest is --rate", "--raet=1");
    expect(2, "text: options start with --", "text");
    expect(2, "--steps 0: wants a whole number of at least 1", "--data text --steps 0");
    expect(2, "--steps -1: wants a whole number of at least 1", "--data text --steps -1");
    expect(2, "--steps 3x: wants a whole number", "--data text --steps=3x");
    expect(2, "--rate fast: wants a number", "--data text --rate fast");
    expect(2, "--steps wants a value", "--data text --steps");
    expect(2, "--hash takes no value", "--hash=1");
    expect(2, "--order random: wants shuffled or sequential", "--data text --order random");
    expect(2, "--transport mpi: this program has one rank", "--data text --transport mpi");
    expect(2, "--threads 5000: at most 1024", "--data text --threads 5000");
    expect(2, "exclude each other", "--data text --resume auto --checkpoint c --weights w");
    expect(2, "--resume auto wants --checkpoint", "--data text --resume auto");
    expect(2, "nothing to do", "--steps 3");
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
    static const int SIGNALS[] = {SIGTERM, SIGUSR1};
    for (int i = 0; i < 2; i++) {
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
    expect(5, "step 3, microbatch 1: the loss is not finite", "--data text --steps 12 --poison 3");
    expect(5, "step 0, microbatch 1: the loss is not finite", "--data text --steps 12 --poison 0 --threads 1");
    expect(5, "step 3, microbatch 2: the gradient of table is not finite", "--data text --steps 12 --poison 1003");
}

static void check_timeout(void)
{
    expect(4, "no progress for 0.3 s after step 0", "--data text --steps 12 --pause 30 --timeout 0.3 --threads 2");
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
    expect(0, straight, "--data text --steps 12 --log log --trace trace.json --profile --evaluate half --every 5 --checkpoint w --sample 30 "
                        "--prompt The --timeout 60 --hash");
    CHECK_HOLDS(out, "table backward");
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
    CHECK(json.nodes[0].count % (12 * (4 * 4 + 2)) == 0);
    mlc_json_free(&json);
    free(text);
}

static void expect_prompt(const mlc_model *model, const char *prompt, const char *part)
{
    mlc_sampler sampler;
    mlc_error error = {0};
    CHECK(mlc_sampler_open(&sampler, model, prompt, &error));
    CHECK_HOLDS(error.text, part);
    mlc_sampler_close(&sampler);
}

/* What a prompt cannot hold is found before training. */
static void check_prompts(void)
{
    static const int64_t FEW[] = {BATCH, CONTEXT, 100}, MANY[] = {BATCH, CONTEXT, 300};
    mlc_chain sample = BIGRAM_SAMPLE;
    mlc_model model = BIGRAM;
    model.sample = &sample;
    sample.logits.shape = FEW;
    expect_prompt(&model, "Hello", "--prompt: token 101 is not in 0 to 99");
    sample.logits.shape = MANY;
    expect_prompt(&model, "1, 2, 300", "--prompt: token 300 is not in 0 to 299");
    expect_prompt(&model, "Hello", "--prompt: wants token numbers");
    model.sample = NULL;
    expect_prompt(&model, "Hello", "model bigram cannot be sampled");
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

/* A disk that is full while checkpointing: exit code 3, and the run goes on from the last whole one. */
static void check_full_disk(void)
{
    expect(0, "trained", "--data text --steps 12 --checkpoint f --every 4");
    CHECK(!system("rm -r f/step-00000008 f/step-00000012"));
    struct rlimit before, small = {100000, RLIM_INFINITY};
    CHECK(!getrlimit(RLIMIT_FSIZE, &before));
    signal(SIGXFSZ, SIG_IGN);
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

int main(void)
{
    make_counted();
    check_enter_directory();
    char text[5000];
    for (int i = 0; i < 5000; i++)
        text[i] = "the quick brown fox jumps over a lazy dog, and then.\n"[(i * i / 7 + i) % 53];
    check_write("text", text, sizeof text);
    check_write("half", text, 700);
    check_usage();
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
    check_full_disk();
    free(straight);
    free(out);
    free(err);
    check_leave_directory();
    printf("test_program: ok\n");
    return 0;
}
