/* A loop over independent items on all cores, for what a test computes beside the code it tests. */
#ifndef PLX_TESTS_LIB_PAR_H
#define PLX_TESTS_LIB_PAR_H

#include <stdint.h>

/*
 * plx_t_par - call item(arg, i) for each i < n, in any order, on as many threads as there are cores
 * (16 at most). Returns when all are done.
 */
void plx_t_par(uint32_t n, void (*item)(void *arg, uint32_t i), void *arg);

#endif
