/* Finds examples in the events; see exemplar.h. */
#include "tools/scope/exemplar.h"

#include <string.h>

#define OPEN 256 /* sequences followed at once; a newer one takes the place of another */

/* When a sequence's last event was: its arrival at the batcher, then each token. */
struct follow {
	uint64_t req_id;
	uint32_t session;
	uint64_t last_ns;
	bool any;
};

static struct follow *place(struct follow f[OPEN], const struct plx_trace_ev *e)
{
	uint64_t h =
	    (e->req_id + e->session * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xff51afd7ed558ccd);

	return &f[h >> 56];
}

static bool is_of(const struct follow *f, const struct plx_trace_ev *e)
{
	return f->req_id == e->req_id && f->session == e->session && f->last_ns != 0;
}

static void measured(struct plx_exemplars *x, struct follow *f, const struct plx_trace_ev *e)
{
	struct plx_exemplar *to = &x->e[x->n++ % PLX_EXEMPLARS];

	*to = (struct plx_exemplar){.hist = f->any ? PLX_H_ITL : PLX_H_TTFT,
	                            .session = e->session,
	                            .req_id = e->req_id,
	                            .token = e->index,
	                            .value_ns = e->a > f->last_ns ? e->a - f->last_ns : 0,
	                            .ns = e->ns};
	f->any = true;
	f->last_ns = e->a;
}

void plx_exemplars_gather(struct plx_exemplars *x, const struct plx_snap *s)
{
	struct follow open[OPEN];

	memset(open, 0, sizeof(open));
	x->n = 0;
	for (uint32_t i = 0; i < s->n_evs; i++) {
		const struct plx_trace_ev *e = &s->ev[i].e;
		struct follow *f = place(open, e);

		if (e->kind == PLX_TR_REQ_TAKEN)
			*f = (struct follow){
			    .req_id = e->req_id, .session = e->session, .last_ns = e->ns};
		else if (e->kind == PLX_TR_TOKEN && e->sample == 0 && is_of(f, e))
			measured(x, f, e);
	}
}

bool plx_exemplar_find(const struct plx_exemplars *x, uint32_t hist, uint64_t low_ns,
                       uint64_t high_ns, struct plx_exemplar *out)
{
	uint32_t n = x->n < PLX_EXEMPLARS ? x->n : PLX_EXEMPLARS;

	for (uint32_t back = 1; back <= n; back++) {
		const struct plx_exemplar *e = &x->e[(x->n - back) % PLX_EXEMPLARS];

		if (e->hist != hist || e->value_ns <= low_ns || e->value_ns > high_ns)
			continue;
		*out = *e;
		return true;
	}
	return false;
}
