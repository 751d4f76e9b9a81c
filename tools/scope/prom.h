/*
 * What a polluxd says of itself as Prometheus text or OpenMetrics, with names made from the one
 * list: counter REQ_DONE is plx_req_done_total, histogram TTFT is plx_ttft_seconds; nanoseconds
 * become seconds. Beside them, when wanted, the names that dashboards for other serving engines
 * use.
 *
 * Source: Prometheus exposition format 0.0.4; OpenMetrics 1.0; OpenTelemetry semantic conventions
 * for generative AI, metrics; vLLM's metrics documentation.
 */
#ifndef PLX_TOOLS_SCOPE_PROM_H
#define PLX_TOOLS_SCOPE_PROM_H

#include "tools/scope/snap.h"
#include "tools/scope/text.h"

#define PLX_PROM_BYTES ((size_t)4 << 20) /* room that a scrape is sure to fit in */

enum plx_prom_names {
	PLX_PROM_VLLM = 1,   /* vllm:* */
	PLX_PROM_GEN_AI = 2, /* gen_ai.server.* as Prometheus spells it */
};

/*
 * plx_prom_write - one scrape.
 *
 * @open   OpenMetrics, with exemplars from the events and # EOF; else Prometheus text.
 * @names  of enum plx_prom_names, or'ed.
 *
 * A file whose process is dead or has ended is plx_up 0 and nothing more.
 */
void plx_prom_write(struct plx_text *t, const struct plx_snap *s, bool open, unsigned int names);

/* plx_prom_doc - the list of names as a Markdown table: tools/scope/METRICS.md. */
void plx_prom_doc(struct plx_text *t);

/* plx_prom_owner - whether a stage kind writes a metric: such a one is shown from zero on. */
bool plx_prom_owner(const char *metric, uint32_t stage_kind);

#endif
