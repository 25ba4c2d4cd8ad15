/* profile_peak.c: see profile.h. */
#include "mlc_kernel.h"
#include "report/profile.h"
#include "report/trace.h"

typedef struct race {
    bool wide; /* f64 */
    _Atomic(double) rate;
} race;

/* Each thread adds the best of some rounds. */
static void run_race(mlc_env *env, void *context)
{
    enum { ROUNDS = 5 };
    race *of = context;
    double best = 0;
    for (int i = 0; i < ROUNDS; i++) {
        int64_t started = mlc_clock();
        double flops = of->wide ? mlc_peak_f64(env) : mlc_peak(env), rate = flops / (double)(mlc_clock() - started);
        best = rate > best ? rate : best;
    }
    double sum = atomic_load(&of->rate);
    while (!atomic_compare_exchange_weak(&of->rate, &sum, sum + best))
        ;
}

double mlc_profile_peak(const mlc_rank *rank)
{
    race of = {.wide = mlc_wide_bytes(rank->model) == sizeof(double)};
    mlc_team_run(rank->team, run_race, &of);
    return atomic_load(&of.rate) * 1e9;
}
