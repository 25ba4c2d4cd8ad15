/* about.c: see about.h. The target is what the C compiler said of it when this file was compiled, as all others are. */
#include "command/about.h"

#include "mlc.h"

#if defined(__x86_64__)
#define MACHINE "x86-64"
#elif defined(__aarch64__)
#define MACHINE "aarch64"
#elif defined(__riscv)
#define MACHINE "riscv"
#else
#define MACHINE "another machine"
#endif

#if defined(__AVX512F__)
#define VECTORS " avx512f"
#elif defined(__AVX2__)
#define VECTORS " avx2"
#elif defined(__AVX__)
#define VECTORS " avx"
#elif defined(__ARM_FEATURE_SVE)
#define VECTORS " sve"
#else
#define VECTORS ""
#endif

#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
#define FUSED " fma"
#else
#define FUSED ""
#endif

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "another C compiler"
#endif

#if defined(__GLIBC__)
#define LIBRARY "glibc"
#elif defined(__linux__)
#define LIBRARY "another C library"
#else
#define LIBRARY "another system"
#endif

bool mlc_counts_tokens(const mlc_model *model)
{
    return model->input_count && model->inputs[0].tensor.dtype == MLC_I32 && model->inputs[0].tensor.rank == 2;
}

const char *mlc_unit(const mlc_model *model)
{
    return mlc_counts_tokens(model) ? "tokens" : "records";
}

void mlc_about_print(const mlc_model *model, FILE *out)
{
    fprintf(out, "%s: a training program made by mlc %s\n", model->name, model->compiler ? model->compiler : "(unknown)");
    fprintf(out, "model   %s (%d parameters, %d microbatches of %lld)\n", model->hash, model->parameter_count, model->microbatches,
            (long long)model->batch);
    fprintf(out, "layout  pp %d, dp %d, %d stages\n", model->mesh.size[MLC_PP], model->mesh.size[MLC_DP], model->stages);
    fprintf(out, "target  %s%s%s, %s, %s\n", MACHINE, VECTORS, FUSED, COMPILER, LIBRARY);
}
