/* advice.c: see advice.h. A table of what people type. Names are compared in small letters, and `_` is `-`. */
#include "command/advice.h"

#include "command/options.h"

#include <stdio.h>
#include <string.h>

enum { LONGEST = 64 };

/* names: what people type, between blanks.
 * own:   a constant of the model whose name holds this word is what is meant; NULL: none is.
 * said:  what holds otherwise. */
typedef struct row {
    const char *names, *own, *said;
} row;

#define IN_RECIPE "is compiled in: it stands in the @train function of the model, or is a constant there: mlc compile -D NAME=VALUE"

static const row ROWS[] = {
    {" lr learning-rate base-lr max-lr peak-lr initial-lr init-lr rate step-size alpha eta ", "rate", "the rate " IN_RECIPE},
    {" lr learning-rate base-lr max-lr peak-lr initial-lr init-lr rate ", "lr", "the rate " IN_RECIPE},
    {" warmup warmup-steps warmup-iters num-warmup-steps warmup-ratio lr-warmup ", "warmup", "the warmup " IN_RECIPE},
    {" wd weight-decay decay l2 ", "decay", "the decay " IN_RECIPE},
    {" momentum beta beta1 beta2 betas adam-beta1 adam-beta2 eps epsilon adam-epsilon optimizer optim lr-scheduler scheduler "
     "lr-scheduler-type lr-decay-iters min-lr dropout ",
     NULL, "that " IN_RECIPE},
    {" clip grad-clip clip-grad gradient-clip max-grad-norm clip-norm gradient-clip-val clip-grad-norm ", "clip", "clipping " IN_RECIPE},
    {" epochs epoch num-epochs n-epochs max-epochs num-train-epochs e ", NULL, "steps are counted, not epochs: --steps N"},
    {" iterations iters max-iters num-iters num-iterations train-iters max-steps num-steps n-steps total-steps train-steps "
     "num-train-steps step max-step ",
     NULL, "the number of steps is --steps N"},
    {" batch batch-size bs b micro-batch-size microbatch-size mini-batch-size train-batch-size global-batch-size "
     "per-device-train-batch-size per-device-batch-size device-batch-size total-batch-size eval-batch-size ",
     NULL, "the batch is compiled in: mlc compile -D batch=N, if so it is called in the model"},
    {" gradient-accumulation-steps grad-accum grad-accum-steps accumulate accumulation-steps accumulate-grad-batches microbatches "
     "num-microbatches groups ",
     NULL, "microbatches are compiled in: mlc compile --microbatches N"},
    {" context context-length block-size seq-len seq-length sequence-length max-length max-seq-len max-seq-length n-ctx depth width heads "
     "layers n-layer n-layers num-layers n-head n-heads num-heads n-embd d-model dim hidden-size vocab vocab-size ",
     NULL, "sizes of the model are compiled in: mlc compile -D NAME=N, with the names of the constants in its file"},
    {" device gpu gpus cuda no-cuda use-cuda cpu local-rank accelerator backend ", NULL,
     "a program runs on the CPUs it was compiled for: how many of them is --threads T"},
    {" dtype precision fp16 bf16 float16 bfloat16 fp32 amp half mixed-precision compile no-compile ", NULL,
     "dtypes and code are compiled in: dtypes stand in the file of the model"},
    {" nproc nproc-per-node np world-size rank ranks nnodes nodes pp dp tp pipeline-parallel data-parallel master-addr master-port "
     "schedule chunks ",
     NULL, "the layout is compiled in: mlc compile --pp N --dp N; the program starts its ranks itself, mpirun and srun may"},
    {" output out output-dir out-dir outdir o save save-dir save-path save-to ckpt checkpoint-dir ckpt-dir checkpoints work-dir run-dir "
     "exp-dir results ",
     NULL, "what is trained goes to --checkpoint DIR, what is measured to --log FILE"},
    {" save-every save-steps save-interval save-freq checkpoint-every checkpoint-interval ckpt-every ckpt-interval eval-interval eval-steps "
     "eval-every eval-freq evaluate-every evaluation-steps val-interval save-strategy ",
     NULL, "--every K writes a checkpoint, and evaluates, every K steps"},
    {" save-total-limit keep-last max-checkpoints keep-checkpoints ", NULL, "--keep N keeps the last N checkpoints, and the best"},
    {" resume-from resume-from-checkpoint resume-path load load-checkpoint load-ckpt restore continue auto-resume ", NULL,
     "--resume DIR|auto goes on from a checkpoint; --weights FILE|DIR starts from safetensors"},
    {" init-from pretrained model model-path model-name-or-path from-pretrained load-weights pretrained-model checkpoint-path m ", NULL,
     "--weights FILE|DIR starts from safetensors; the model itself is compiled in"},
    {" train train-data train-file train-path training-data dataset dataset-path data-dir data-path data-file input inputs file files corpus "
     "text d f i input-bin ",
     NULL, "data to train on is --data PATTERN"},
    {" eval val valid validate validation test val-data valid-data eval-data validation-data test-data validation-file eval-file test-file "
     "val-file input-val-bin do-eval eval-only ",
     NULL, "data to evaluate on is --evaluate PATTERN"},
    {" eval-iters eval-batches val-batches max-eval-samples limit-val-batches ", NULL,
     "--evaluate-batches N evaluates so many microbatches"},
    {" num-workers workers n-threads num-threads nthreads jobs j t cores cpus omp-num-threads ", NULL,
     "the number of worker threads is --threads T"},
    {" random-seed manual-seed rng-seed s ", NULL, "the seed is --seed S"},
    {" shuffle no-shuffle shuffle-data ", NULL, "the order of examples is --order shuffled|sequential"},
    {" generate n num-tokens max-new-tokens max-tokens n-predict num-samples n-samples tokens ", NULL, "--sample N writes N tokens"},
    {" temp ", NULL, "the temperature of sampling is --temperature X"},
    {" k topk ", NULL, "sampling from the K likeliest tokens is --top-k K"},
    {" p topp nucleus ", NULL, "--top-p P samples from the likeliest tokens of that probability; --prompt TEXT is what it starts from"},
    {" log-file log-dir logdir logging-dir tensorboard wandb report-to metrics ", NULL, "--log FILE writes one JSON object a step"},
    {" force overwrite overwrite-output-dir ", NULL,
     "--fresh begins a run of its own in a --checkpoint directory that holds steps of others"},
    {" strict no-strict ignore ignore-mismatched-sizes ", NULL, "--allow ITEM lets a difference pass by its name"},
    {" deterministic use-deterministic-algorithms ", NULL, "every run is deterministic: --hash prints the digest"},
    {" validate-only check dry no-train ", NULL, "--dry-run opens everything and takes no step"},
};

enum { ROW_COUNT = sizeof ROWS / sizeof *ROWS };

/* ---- names ---- */

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* A name as it is compared: `around` is put before and behind. Longer ones are cut. */
static void fold(const char *name, size_t length, char folded[LONGEST], const char *around)
{
    size_t most = LONGEST - 1 - 2 * strlen(around), used = 0;
    for (const char *c = around; *c; c++)
        folded[used++] = *c;
    for (size_t i = 0; i < length && i < most; i++)
        folded[used++] = name[i] == '_' ? '-' : name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] - 'A' + 'a') : name[i];
    for (const char *c = around; *c; c++)
        folded[used++] = *c;
    folded[used] = 0;
}

/* Letters to insert, delete, replace, or to swap with their neighbour, until a is b (optimal string alignment). */
static int edits(const char *a, const char *b)
{
    int rows[3][LONGEST], width = (int)strlen(b), *before = rows[0], *row = rows[1], *next = rows[2];
    for (int j = 0; j <= width; j++)
        row[j] = j;
    for (int i = 0; a[i]; i++) {
        next[0] = i + 1;
        for (int j = 0; j < width; j++) {
            next[j + 1] = least(least(row[j + 1] + 1, next[j] + 1), row[j] + (a[i] != b[j]));
            if (i && j && a[i] == b[j - 1] && a[i - 1] == b[j])
                next[j + 1] = least(next[j + 1], before[j - 1] + 1);
        }
        int *spent = before;
        before = row;
        row = next;
        next = spent;
    }
    return row[width];
}

typedef struct nearest {
    const char *name;
    int edits;
} nearest;

static void consider(nearest *best, const char *folded, const char *candidate)
{
    char other[LONGEST];
    fold(candidate, strlen(candidate), other, "");
    int apart = edits(folded, other);
    if (apart < best->edits)
        *best = (nearest){candidate, apart};
}

/* The option that is surely meant: a third of the letters may be wrong, and one of two. NULL: none. */
static const char *find_nearest(const mlc_model *model, const char *folded)
{
    int count, length = (int)strlen(folded);
    const mlc_option *table = mlc_options_table(&count);
    int most = length < 2 ? 0 : length < 6 ? 1 : length / 3;
    nearest best = {NULL, most + 1};
    for (int i = 0; i < count; i++)
        consider(&best, folded, table[i].name);
    for (int i = 0; i < model->scalar_count; i++)
        if (model->scalars[i].option)
            consider(&best, folded, model->scalars[i].name);
    return best.name;
}

/* ---- the table ---- */

/* The names of the model's options that hold `word`, as "--a or --b"; returns how many. */
static int own_options(const mlc_model *model, const char *word, char *text, size_t bytes)
{
    int found = 0;
    size_t used = 0;
    for (int i = 0; i < model->scalar_count && used < bytes; i++)
        if (model->scalars[i].option && strstr(model->scalars[i].name, word))
            used += (size_t)snprintf(text + used, bytes - used, "%s--%s", found++ ? " or " : "", model->scalars[i].name);
    return found;
}

/* The first row that has the name and whose own word the model knows; else the first that has the name. */
static const row *find_row(const mlc_model *model, const char *name, size_t length, char *own, size_t bytes)
{
    char word[LONGEST];
    const row *first = NULL;
    fold(name, length, word, " ");
    own[0] = 0;
    for (int i = 0; i < ROW_COUNT; i++) {
        if (!strstr(ROWS[i].names, word))
            continue;
        if (ROWS[i].own && own_options(model, ROWS[i].own, own, bytes))
            return &ROWS[i];
        first = first ? first : &ROWS[i];
    }
    return first;
}

void mlc_advice_of_option(const mlc_model *model, const char *name, size_t length, char *text, size_t bytes)
{
    char own[256], folded[LONGEST];
    const row *row = find_row(model, name, length, own, sizeof own);
    if (row) {
        snprintf(text, bytes, *own ? "here it is %s" : "%s", *own ? own : row->said);
        return;
    }
    fold(name, length, folded, "");
    const char *near = length < LONGEST ? find_nearest(model, folded) : NULL;
    snprintf(text, bytes, near ? "did you mean --%s?" : "see --help", near);
}
