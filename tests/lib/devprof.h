/*
 * Where a step of the CPU device spends its time: for each op its wall time, the bytes it has to
 * read, and how long its lanes stood idle before their first item and after their last.
 *
 * An op's wall time runs from the last item of the phase before to its own last item, so the
 * parts of a step add up to the step. Figures are medians over the fastest quarter of
 * the steps, which leaves out those that something else on the machine interrupted.
 */
#ifndef PLX_TESTS_LIB_DEVPROF_H
#define PLX_TESTS_LIB_DEVPROF_H

#include "tests/lib/devkit.h"

struct devprof;

/* devprof_begin - look on from now; the device must be idle. */
struct devprof *devprof_begin(struct devkit *k);

/*
 * devprof_end - stop looking, print the table, free.
 *
 * @what     names the run in every line.
 * @context  positions of K and V that a step reads, on average.
 */
void devprof_end(struct devprof *p, const char *what, uint32_t context);

#endif
