/* bench_kernels.c: contractions and attention in GFLOP/s, and as a share of the peak that a loop in registers reaches here.
 *
 *   bench_kernels [THREADS] [REPETITIONS] [NAME]    defaults: 1, 7, all
 *
 * The machine may be shared: times are CPU times of a thread, minima of repetitions, and of several threads the slowest one's.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../kernels/tile.h"
#include "team.h"

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int threads = 1, repetitions = 7;
static const char *only;
static double peak; /* GFLOP/s of all threads */

enum { MOST_THREADS = 16 };

/* What is timed: all threads run it `inner` times between two barriers. */
typedef struct timing {
    void (*run)(const mlc_env *env, const void *argument);
    const void *argument;
    int inner;
    double *best; /* of each thread */
} timing;

static void run_timed(const mlc_env *env, const void *timing_)
{
    const timing *t = timing_;
    double *best = t->best + env->thread;
    for (int r = 0; r < repetitions; r++) {
        mlc_barrier(env);
        const double start = seconds();
        for (int i = 0; i < t->inner; i++)
            t->run(env, t->argument);
        const double taken = (seconds() - start) / t->inner;
        if (*best == 0 || taken < *best)
            *best = taken;
    }
}

static double time_of(team_function run, const void *argument, size_t scratch_bytes, double flops)
{
    static const mlc_record record;
    double best[MOST_THREADS] = {0}, slowest = 0;
    const int inner = 1 + (int)(2e8 * threads / flops);
    const timing t = {run, argument, inner, best};
    team_run(threads, scratch_bytes, &record, run_timed, &t);
    for (int i = 0; i < threads; i++)
        slowest = best[i] > slowest ? best[i] : slowest;
    return slowest;
}

static void report(const char *name, const char *what, double flops, double taken)
{
    const double rate = 1e-9 * flops / taken;
    printf("%-24s %-20s %10.1f us %8.1f GFLOP/s %5.1f %%\n", name, what, 1e6 * taken, rate, 100 * rate / peak);
}

static void run_registers(const mlc_env *env, const void *flops)
{
    *((double *)flops + env->thread) = mlc_peak(env);
}

static void measure_peak(void)
{
    double flops[MOST_THREADS];
    const double taken = time_of(run_registers, flops, 4096, 2e8 * threads);
    peak = 1e-9 * threads * flops[0] / taken;
    printf("peak of %d thread%s: %.1f GFLOP/s in f32, %d lanes\n", threads, threads > 1 ? "s" : "", peak, MLC_LANES);
}

typedef struct product {
    const char *what;
    int64_t batch, m, n, k;
    int a_transposed, b_transposed, dtype;
} product;

typedef struct product_run {
    mlc_contraction shape;
    const product *of;
    const void *a, *b;
    float *c;
} product_run;

static void store_block(const mlc_env *env, const void *closure, const float *c, int64_t pitch, int64_t batch, int64_t m0, int64_t rows,
    int64_t n0, int64_t columns)
{
    const product_run *x = closure;
    (void)env;
    for (int64_t i = 0; i < rows; i++) {
        float *to = x->c + (batch * x->of->m + m0 + i) * x->of->n + n0;
        const float *from = c + i * pitch;
        MLC_SIMD for (int64_t j = 0; j < columns; j++) to[j] = from[j];
    }
}

static void run_product(const mlc_env *env, const void *argument)
{
    const product_run *x = argument;
    mlc_contract(env, &x->shape, x->a, x->b, store_block, x);
}

static void *filled(int64_t count, int dtype)
{
    const size_t bytes = ((size_t)count * (dtype == MLC_F32 ? 4 : 2) + 63) / 64 * 64;
    void *x = aligned_alloc(64, bytes);
    for (int64_t i = 0; i < count; i++)
        if (dtype == MLC_F32)
            ((float *)x)[i] = (float)(i * 7 % 17) * 0.125f - 1.0f;
        else
            ((uint16_t *)x)[i] = mlc_bf16_of_f32((float)(i * 7 % 17) * 0.125f - 1.0f);
    return x;
}

static void bench_product(const product *p)
{
    char name[64];
    snprintf(name, sizeof name, "%s%lld x %lld x %lld%s", p->batch > 1 ? "48 of " : "", (long long)p->m, (long long)p->n, (long long)p->k,
        p->dtype == MLC_BF16 ? " bf16" : "");
    if (only && !strstr(name, only) && !strstr(p->what, only))
        return;
    product_run x = {.of = p, .a = filled(p->batch * p->m * p->k, p->dtype), .b = filled(p->batch * p->k * p->n, p->dtype)};
    x.c = filled(p->batch * p->m * p->n, MLC_F32);
    const mlc_contraction shape = {
        .batch_rank = 1, .m_rank = 1, .n_rank = 1, .k_rank = 1,
        .batch = {{p->batch, p->m * p->k, p->k * p->n}},
        .m = {{p->m, p->a_transposed ? 1 : p->k, 0}},
        .n = {{p->n, 0, p->b_transposed ? p->k : 1}},
        .k = {{p->k, p->a_transposed ? p->m : 1, p->b_transposed ? 1 : p->n}},
        .a_dtype = p->dtype, .b_dtype = p->dtype,
    };
    x.shape = shape;
    const double flops = 2.0 * (double)p->batch * (double)p->m * (double)p->n * (double)p->k;
    report(name, p->what, flops, time_of(run_product, &x, MLC_CONTRACT_SCRATCH_BYTES, flops));
    free((void *)x.a);
    free((void *)x.b);
    free(x.c);
}

static const product products[] = {
    {"x w^T", 1, 256, 1152, 384, 0, 1, MLC_F32},
    {"x w^T", 1, 256, 384, 384, 0, 1, MLC_F32},
    {"x w^T", 1, 256, 1536, 384, 0, 1, MLC_F32},
    {"x w^T", 1, 256, 384, 1536, 0, 1, MLC_F32},
    {"x w^T", 1, 256, 8192, 384, 0, 1, MLC_F32},
    {"dy w", 1, 256, 384, 1152, 0, 0, MLC_F32},
    {"dy w", 1, 256, 384, 384, 0, 0, MLC_F32},
    {"dy w", 1, 256, 384, 1536, 0, 0, MLC_F32},
    {"dy w", 1, 256, 1536, 384, 0, 0, MLC_F32},
    {"dy w", 1, 256, 384, 8192, 0, 0, MLC_F32},
    {"dy^T x", 1, 1152, 384, 256, 1, 0, MLC_F32},
    {"dy^T x", 1, 384, 384, 256, 1, 0, MLC_F32},
    {"dy^T x", 1, 1536, 384, 256, 1, 0, MLC_F32},
    {"dy^T x", 1, 384, 1536, 256, 1, 0, MLC_F32},
    {"dy^T x", 1, 8192, 384, 256, 1, 0, MLC_F32},
    {"x w^T", 1, 64, 192, 64, 0, 1, MLC_F32},
    {"x w^T", 1, 64, 64, 64, 0, 1, MLC_F32},
    {"x w^T", 1, 64, 64, 256, 0, 1, MLC_F32},
    {"dy w", 1, 64, 64, 256, 0, 0, MLC_F32},
    {"dy^T x", 1, 64, 256, 64, 1, 0, MLC_F32},
    {"dy^T x", 1, 64, 64, 64, 1, 0, MLC_F32},
    {"x w", 1, 1024, 1152, 384, 0, 0, MLC_F32},
    {"x w^T", 1, 1024, 1152, 384, 0, 1, MLC_F32},
    {"x w", 1, 1024, 384, 1536, 0, 0, MLC_F32},
    {"x w^T", 1, 1024, 384, 1536, 0, 1, MLC_F32},
    {"x^T dy", 1, 384, 1536, 1024, 1, 0, MLC_F32},
    {"x^T dy", 1, 1536, 384, 1024, 1, 0, MLC_F32},
    {"x w", 1, 1024, 8192, 384, 0, 0, MLC_F32},
    {"x w^T", 1, 1024, 8192, 384, 0, 1, MLC_F32},
    {"x^T dy", 1, 8192, 384, 1024, 1, 0, MLC_F32},
    {"x w", 1, 1024, 384, 8192, 0, 0, MLC_F32},
    {"x w^T", 1, 512, 2304, 768, 0, 1, MLC_F32},
    {"x w", 1, 768, 50304, 512, 0, 0, MLC_F32},
    {"x^T dy", 1, 768, 50304, 512, 1, 0, MLC_F32},
    {"x w^T", 1, 512, 50304, 768, 0, 1, MLC_F32},
    {"x w", 1, 256, 192, 64, 0, 0, MLC_F32},
    {"x w^T", 1, 256, 192, 64, 0, 1, MLC_F32},
    {"x^T dy", 1, 64, 256, 256, 1, 0, MLC_F32},
    {"x w", 1, 256, 256, 64, 0, 0, MLC_F32},
    {"x^T dy", 1, 64, 64, 768, 1, 0, MLC_F32},
    {"x^T dy", 1, 128, 512, 768, 1, 0, MLC_F32},
    {"q k^T", 48, 64, 64, 32, 0, 1, MLC_F32},
    {"p v", 48, 64, 32, 64, 0, 0, MLC_F32},
    {"x w", 1, 1, 2304, 768, 0, 0, MLC_F32},
    {"x w^T", 1, 1, 2304, 768, 0, 1, MLC_F32},
    {"x w^T", 1, 8, 2304, 768, 0, 1, MLC_F32},
    {"x w", 1, 1024, 1152, 384, 0, 0, MLC_BF16},
    {"x w^T", 1, 1024, 1152, 384, 0, 1, MLC_BF16},
    {"x^T dy", 1, 384, 1536, 1024, 1, 0, MLC_BF16},
};

/* Attention on one packed [batch, time, 3, heads, head] tensor, as transformers have it. Causal products count half. */

typedef struct attention_run {
    mlc_attention shape;
    const char *qkv;
    char *y, *dy, *dqkv;
    float *lse;
} attention_run;

static void run_forward(const mlc_env *env, const void *argument)
{
    const attention_run *x = argument;
    const int64_t third = x->shape.heads * x->shape.head * (x->shape.dtype == MLC_F32 ? 4 : 2);
    mlc_attention_forward(env, &x->shape, x->qkv, x->qkv + third, x->qkv + 2 * third, NULL, x->y, x->lse);
}

static void run_vjp(const mlc_env *env, const void *argument)
{
    const attention_run *x = argument;
    const int64_t third = x->shape.heads * x->shape.head * (x->shape.dtype == MLC_F32 ? 4 : 2);
    mlc_attention_vjp(env, &x->shape, x->qkv, x->qkv + third, x->qkv + 2 * third, NULL, x->y, x->lse, x->dy, x->dqkv, x->dqkv + third,
        x->dqkv + 2 * third);
}

static void bench_attention(int64_t batch, int64_t time, int64_t heads, int64_t head, int dtype)
{
    char name[64];
    snprintf(name, sizeof name, "attention %lld %lld %lld %lld%s", (long long)batch, (long long)time, (long long)heads, (long long)head,
        dtype == MLC_BF16 ? " bf16" : "");
    if (only && !strstr(name, only))
        return;
    const int64_t width = heads * head;
    attention_run x = {.shape = {.batch = batch, .time = time, .keys = time, .heads = heads, .groups = heads, .head = head, .value = head,
                                 .scale = 0.125f, .causal = 1, .dtype = dtype}};
    mlc_attention *s = &x.shape;
    s->q_batch = s->k_batch = s->v_batch = s->dq_batch = s->dk_batch = s->dv_batch = 3 * width * time;
    s->q_time = s->k_time = s->v_time = s->dq_time = s->dk_time = s->dv_time = 3 * width;
    s->q_head = s->k_head = s->v_head = s->dq_head = s->dk_head = s->dv_head = s->y_head = s->dy_head = head;
    s->y_batch = s->dy_batch = width * time;
    s->y_time = s->dy_time = width;
    x.qkv = filled(3 * batch * time * width, dtype), x.dqkv = filled(3 * batch * time * width, dtype);
    x.y = filled(batch * time * width, dtype), x.dy = filled(batch * time * width, dtype);
    x.lse = filled(batch * heads * time, MLC_F32);
    const double flops = (double)batch * (double)heads * (double)time * (double)(time + 1) * (double)head;
    report(name, "forward", 2 * flops, time_of(run_forward, &x, (size_t)MLC_ATTENTION_FORWARD_SCRATCH_BYTES(head, head), 2 * flops));
    report(name, "vjp", 5 * flops, time_of(run_vjp, &x, (size_t)MLC_ATTENTION_VJP_SCRATCH_BYTES(time, head, head), 5 * flops));
    free((void *)x.qkv), free(x.dqkv), free(x.y), free(x.dy), free(x.lse);
}

int main(int argc, char **argv)
{
    threads = argc > 1 ? atoi(argv[1]) : 1;
    if (threads < 1 || threads > MOST_THREADS) {
        fprintf(stderr, "bench_kernels: 1 to %d threads\n", MOST_THREADS);
        return 2;
    }
    repetitions = argc > 2 ? atoi(argv[2]) : 7;
    only = argc > 3 ? argv[3] : NULL;
    measure_peak();
    for (unsigned i = 0; i < sizeof products / sizeof *products; i++)
        bench_product(products + i);
    bench_attention(1, 256, 6, 64, MLC_F32);
    bench_attention(1, 64, 4, 16, MLC_F32);
    bench_attention(12, 64, 4, 32, MLC_F32);
    bench_attention(4, 256, 6, 64, MLC_F32);
    bench_attention(1, 1024, 12, 64, MLC_F32);
    bench_attention(1, 1024, 12, 64, MLC_BF16);
    bench_attention(1, 2048, 4, 128, MLC_F32);
    return 0;
}
