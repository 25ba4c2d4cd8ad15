/* index.c: see index.h. */
#include "system/index.h"

#include "mlc_kernel.h"
#include "system/threads.h"

#include <stdio.h>
#include <string.h>

static bool comes_before(const mlc_refusal *a, const mlc_refusal *b)
{
    if (a->site < 0 || b->site < 0)
        return a->site >= 0 && b->site < 0;
    if (a->microbatch != b->microbatch)
        return a->microbatch < b->microbatch;
    return a->site != b->site ? a->site < b->site : a->element < b->element;
}

void mlc_refusal_combine(void *into, const void *from, size_t bytes)
{
    mlc_refusal *own = into;
    const mlc_refusal *other = from;
    for (size_t i = 0; i < bytes / sizeof *own; i++)
        if (comes_before(&other[i], &own[i]))
            own[i] = other[i];
}

void mlc_index_refuse(const mlc_env *env, int32_t value, int32_t extent, int64_t element, int64_t each, int32_t site, const char *where)
{
    mlc_refusal *first = &mlc_worker_of(env)->refused;
    mlc_refusal found = {*env->microbatch, site, element, each, value, extent, {0}};
    if (!comes_before(&found, first))
        return;
    snprintf(found.where, sizeof found.where, "%s", where);
    *first = found;
}

static bool is_allowed(const mlc_domain *domain, int32_t value)
{
    return (value >= domain->low && value <= domain->high) || (domain->passed != MLC_NO_VALUE && value == domain->passed);
}

int64_t mlc_domain_find(const mlc_model *model, int input, const int32_t *values, int64_t elements, const mlc_domain **domain)
{
    int first = 0, end;
    while (first < model->domain_count && model->domains[first].input != input)
        first++;
    for (end = first; end < model->domain_count && model->domains[end].input == input;)
        end++;
    for (int64_t at = 0; first < end && at < elements; at += model->domains[end - 1].end) {
        int64_t place = at;
        for (int i = first; i < end; i++)
            for (; place < at + model->domains[i].end && place < elements; place++)
                if (!is_allowed(&model->domains[i], values[place])) {
                    *domain = &model->domains[i];
                    return place;
                }
    }
    return -1;
}

void mlc_domain_text(char text[80], const mlc_domain *domain)
{
    int used = snprintf(text, 80, "%lld to %lld", (long long)domain->low, (long long)domain->high);
    if (domain->passed != MLC_NO_VALUE)
        snprintf(text + used, 80 - (size_t)used, ", nor %lld", (long long)domain->passed);
}
