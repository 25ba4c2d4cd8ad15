/* peak.c: fused multiply-adds on registers, as many chains as a tile has: what no kernel exceeds that widens what it multiplies. */
#include "tile.h"

double MLC_OF_ELEMENT(mlc_peak)(const mlc_env *env)
{
    enum { CHAINS = 10, TURNS = 100000 };
    mlc_vector c[CHAINS];
    const mlc_vector a = mlc_vector_of((mlc_element)0.5), b = mlc_vector_of(1);
    for (int i = 0; i < CHAINS; i++)
        c[i] = mlc_vector_of((mlc_element)(i + 2)); /* distinct: equal chains would be merged */
    for (int turn = 0; turn < TURNS; turn++)
        for (int i = 0; i < CHAINS; i++)
            c[i] = mlc_vector_fma(c[i], a, b);
    for (int i = 1; i < CHAINS; i++)
        c[0] += c[i];
    mlc_vector_store((mlc_element *)env->scratch, c[0]);
    return 2.0 * CHAINS * TURNS * MLC_LANES;
}
