/* The same figures under the names that people's dashboards already use; see prom.h. */
#ifndef PLX_TOOLS_SCOPE_PROM_OTHER_H
#define PLX_TOOLS_SCOPE_PROM_OTHER_H

#include "tools/scope/snap.h"
#include "tools/scope/text.h"

/*
 * plx_prom_buckets - a histogram's samples.
 *
 * @labels  at least one, without braces.
 * @after   called at the end of each bucket's line with its edges; may be NULL.
 */
void plx_prom_buckets(struct plx_text *t, const char *name, const char *labels,
                      const struct plx_hist *h, void (*after)(void *, uint64_t, uint64_t),
                      void *ctx);

/* plx_prom_vllm - vllm:*, summed over stages. plx_prom_gen_ai - gen_ai.server.*, likewise. */
void plx_prom_vllm(struct plx_text *t, const struct plx_snap *s, bool open);
void plx_prom_gen_ai(struct plx_text *t, const struct plx_snap *s, bool open);

#endif
