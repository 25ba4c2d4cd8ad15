/* dtype.h: element types. One row each, and no code elsewhere that takes one for another: what is asked of a dtype is a column here.
 *
 * A model has a wide dtype, f32 or f64: that of masters, gradients, optimizer states, run-time scalars, losses and weights.
 */
#ifndef MLC_DTYPE_H
#define MLC_DTYPE_H

#include "mlc_abi.h"

#include <stdbool.h>

enum mlc_dtype_kind { MLC_KIND_FLOAT, MLC_KIND_INTEGER, MLC_KIND_BOOL };

/* What is done with arrays of a wide dtype, in index order. */
typedef struct mlc_wide {
    void (*add)(void *restrict sum, const void *restrict x, int64_t count); /* sum += x */
    void (*scale)(void *x, double factor, int64_t count);                   /* by the factor in this dtype */
    double (*squares)(const void *x, int64_t count);                        /* their sum in f64, of 1024 elements at most */
    void (*squares_eight)(const void *x, double *sums);                     /* the same of eight blocks of 1024 */
    bool (*finite)(const void *x, int64_t count);                           /* all of them */
    void (*to_bf16)(uint16_t *restrict to, const void *restrict x, int64_t count); /* to nearest, ties to even; a NaN stays one */
    int least_digits, most_digits;                                          /* of a decimal that reads as the same number */
} mlc_wide;

typedef struct mlc_dtype_row {
    const char *name;   /* in programs and messages */
    const char *stored; /* in safetensors and digests */
    int64_t bytes;      /* of an element */
    enum mlc_dtype_kind kind;
    double (*load)(const void *elements, int64_t i);               /* any alignment; exact */
    void (*store)(void *elements, int64_t i, double value);        /* any alignment; a float is rounded once to nearest, ties to even */
    const mlc_wide *wide;                                          /* NULL: no wide dtype */
} mlc_dtype_row;

/* NULL where there is no such dtype: mlc_executor_check_model and mlc_executor_check_place have looked at those of a model. */
const mlc_dtype_row *mlc_dtype_of(int32_t dtype);

/* By the name in safetensors; NULL: not one of ours. */
const mlc_dtype_row *mlc_dtype_stored(const char *name);

/* Of the wide dtype of a model. */
static inline const mlc_dtype_row *mlc_dtype_wide(const mlc_model *model)
{
    return mlc_dtype_of(model->wide);
}

static inline uint64_t mlc_wide_bytes(const mlc_model *model)
{
    return (uint64_t)mlc_dtype_of(model->wide)->bytes;
}

/* A number rounded to a dtype. */
double mlc_dtype_round(const mlc_dtype_row *dtype, double value);

/* The shortest decimal that reads as the same number of a wide dtype; "null" where it is not finite. */
void mlc_dtype_print(const mlc_dtype_row *wide, char text[32], double value);

/* IEEE half and bfloat16 to f32 (exact), and f64 to them (one rounding to nearest, ties to even). */
float mlc_convert_from_f16(uint16_t bits);
float mlc_convert_from_bf16(uint16_t bits);
uint16_t mlc_convert_to_f16(double value);
uint16_t mlc_convert_to_bf16(double value);

#endif
