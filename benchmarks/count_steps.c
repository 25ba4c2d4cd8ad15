/* count_steps.c: opens a model's library, takes steps on zeros, and prints how often the allocator was called meanwhile.
 *
 *   cc -O2 -I INCLUDE -o count_steps count_steps.c -ldl
 *   LD_PRELOAD=./count_calls.so ./count_steps ./libgpt2.so 5
 */
#define _GNU_SOURCE
#include "mlc.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#define CALL(library, name) ((__typeof__(&name))dlsym(library, #name))

static const void *zeros(mlc_view input, int64_t microbatches)
{
    int64_t elements = microbatches;
    for (int axis = 0; axis < input.rank; axis++)
        elements *= input.shape[axis];
    return calloc((size_t)elements, 4);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    void *library = dlopen(argv[1], RTLD_NOW);
    long (*count)(void) = (long (*)(void))dlsym(RTLD_DEFAULT, "count_calls");
    if (!library || !count) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    char message[512];
    int status;
    const mlc_model *model = dlsym(library, "mlc_emitted_model");
    mlc_open_options options = {.threads = 2};
    mlc_session *session = CALL(library, mlc_open)(model, &options, &status, message, sizeof message);
    if (!session) {
        fprintf(stderr, "%s\n", message);
        return 1;
    }
    const void *inputs[64];
    for (int i = 0; i < CALL(library, mlc_input_count)(session); i++)
        inputs[i] = zeros(CALL(library, mlc_input_view)(session, i), model->microbatches);
    __typeof__(&mlc_session_step) step = CALL(library, mlc_session_step);
    double loss;
    long before = count();
    for (int i = 0; i < atoi(argv[2]); i++)
        if (step(session, inputs, model->microbatches * model->batch, &loss))
            return 1;
    printf("%ld\n", count() - before);
    return 0;
}
