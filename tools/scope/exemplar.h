/*
 * Examples for a histogram's buckets: requests and tokens of the trace whose time fell there, so
 * that a point on a dashboard leads to `plx-scope why`.
 */
#ifndef PLX_TOOLS_SCOPE_EXEMPLAR_H
#define PLX_TOOLS_SCOPE_EXEMPLAR_H

#include "tools/scope/snap.h"

#define PLX_EXEMPLARS 4096 /* newest that are looked at */

struct plx_exemplar {
	uint32_t hist; /* enum plx_hist_idx */
	uint32_t session;
	uint64_t req_id;
	uint32_t token;
	uint64_t value_ns;
	uint64_t ns; /* when it was measured */
};

struct plx_exemplars {
	uint32_t n;
	struct plx_exemplar e[PLX_EXEMPLARS];
};

/* plx_exemplars_gather - first tokens (TTFT) and later ones (ITL) of the events, by their times. */
void plx_exemplars_gather(struct plx_exemplars *x, const struct plx_snap *s);

/* plx_exemplar_find - the newest whose value is above low and at most high; false: none. */
bool plx_exemplar_find(const struct plx_exemplars *x, uint32_t hist, uint64_t low_ns,
                       uint64_t high_ns, struct plx_exemplar *out);

#endif
