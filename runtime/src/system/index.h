/* index.h: indices that are out of range while a model runs, and values of inputs that are not what the model states of them. */
#ifndef MLC_INDEX_H
#define MLC_INDEX_H

#include "mlc_abi.h"
#include "system/error.h"

#include <stdbool.h>
#include <stddef.h>

/* The first index of a pass that is out of range: by microbatch, then lookup of the model, then element. `site` -1: there is none. */
typedef struct mlc_refusal {
    int64_t microbatch;
    int64_t site;
    int64_t element;
    int64_t each; /* elements of a record, 0: not known */
    int32_t value;
    int32_t extent;
    char where[160];
} mlc_refusal;

static inline mlc_refusal mlc_refusal_none(void)
{
    return (mlc_refusal){.site = -1};
}

/* into = the first of the two; of any number of them, one after the other (mlc_combine). */
void mlc_refusal_combine(void *into, const void *from, size_t bytes);

/* The first element of rows of an i32 input, `elements` in all, that its domains do not hold, -1: none. *domain: the one it breaks. */
int64_t mlc_domain_find(const mlc_model *model, int input, const int32_t *values, int64_t elements, const mlc_domain **domain);

/* "-3 to 1", or "0 to 4, nor -100" where a value passes. */
void mlc_domain_text(char text[80], const mlc_domain *domain);

#endif
