/* Puts events together to requests and tokens; see tokens.h. */
#include "tools/scope/tokens.h"

#include <stdlib.h>
#include <string.h>

#include "fw/base/err.h"

#define NONE UINT32_MAX

struct key {
	uint64_t req_id;
	uint32_t session;
	uint32_t index; /* NONE: the request itself */
	uint16_t sample;
};

static uint64_t hash(const struct key *k)
{
	uint64_t h = k->req_id * UINT64_C(0x9e3779b97f4a7c15);

	h ^= ((uint64_t)k->session << 32 | k->index) * UINT64_C(0xc2b2ae3d27d4eb4f);
	h ^= k->sample * UINT64_C(0x165667b19e3779f9);
	return h ^ h >> 29;
}

/* Entries above NONE/2 are tokens. */
#define TOKEN_BIT 0x80000000u

static bool is_key(const struct plx_tokens *t, uint32_t slot, const struct key *k)
{
	if (slot & TOKEN_BIT) {
		const struct plx_token_times *e = &t->tok[slot & ~TOKEN_BIT];

		return e->req_id == k->req_id && e->session == k->session && e->index == k->index &&
		       e->sample == k->sample;
	}
	const struct plx_request_times *e = &t->req[slot];

	return k->index == NONE && e->req_id == k->req_id && e->session == k->session;
}

/* Where a key is or would be. The table is never full. */
static uint32_t *find(const struct plx_tokens *t, const struct key *k)
{
	uint32_t at = (uint32_t)hash(k) & t->mask;

	while (t->slot[at] != NONE && !is_key(t, t->slot[at], k))
		at = (at + 1) & t->mask;
	return &t->slot[at];
}

static struct plx_request_times *request(struct plx_tokens *t, const struct plx_trace_ev *e)
{
	struct key k = {.req_id = e->req_id, .session = e->session, .index = NONE};
	uint32_t *slot = find(t, &k);

	if (*slot == NONE) {
		*slot = t->n_req;
		t->req[t->n_req++] =
		    (struct plx_request_times){.session = e->session, .req_id = e->req_id};
	}
	return &t->req[*slot];
}

static struct plx_token_times *token(struct plx_tokens *t, const struct plx_trace_ev *e,
                                     uint32_t index)
{
	struct key k = {e->req_id, e->session, index, e->sample};
	uint32_t *slot = find(t, &k);

	if (*slot == NONE) {
		*slot = t->n_tok | TOKEN_BIT;
		t->tok[t->n_tok++] = (struct plx_token_times){.session = e->session,
		                                              .req_id = e->req_id,
		                                              .index = index,
		                                              .sample = e->sample};
	}
	return &t->tok[*slot & ~TOKEN_BIT];
}

static const struct plx_token_times *known(const struct plx_tokens *t, uint32_t session,
                                           uint64_t req_id, uint16_t sample, uint32_t index)
{
	struct key k = {req_id, session, index, sample};
	uint32_t slot = *find(t, &k);

	return slot == NONE ? NULL : &t->tok[slot & ~TOKEN_BIT];
}

/* Events name ranges of tokens; one that is damaged could name any. */
#define MOST_AT_ONCE 64u

static void add_token(struct plx_tokens *t, const struct plx_scope_ev *ev)
{
	const struct plx_trace_ev *e = &ev->e;
	struct plx_token_times *k = token(t, e, e->index);
	struct plx_request_times *r = request(t, e);

	k->batch_ns = e->ns;
	k->device_ns = e->a;
	k->batch_page = ev->page;
	k->before_ns = e->index == 0 ? r->taken_ns : r->last_ns;
	if (e->sample != 0)
		return;
	if (r->n_tokens++ == 0)
		r->first_ns = e->a;
	else if (e->a - r->last_ns > r->worst_ns && r->last_ns != 0 && e->a > r->last_ns) {
		r->worst_ns = e->a - r->last_ns;
		r->worst = e->index;
	}
	r->last_ns = e->a;
}

static void add_range(struct plx_tokens *t, const struct plx_scope_ev *ev)
{
	const struct plx_trace_ev *e = &ev->e;
	uint32_t n = e->n < MOST_AT_ONCE ? e->n : MOST_AT_ONCE;

	for (uint32_t i = 0; i < n; i++) {
		struct key k = {e->req_id, e->session, e->index + i, e->sample};
		uint32_t slot = *find(t, &k);

		if (slot == NONE)
			continue;
		struct plx_token_times *to = &t->tok[slot & ~TOKEN_BIT];

		if (e->kind == PLX_TR_TEXT) {
			to->text_ns = e->ns;
			to->tok_page = ev->page;
		} else {
			to->io_ns = e->ns;
			to->io_page = ev->page;
		}
	}
}

/* Everything up to e->index is sent; go back to what was before. */
static void add_sent(struct plx_tokens *t, const struct plx_trace_ev *e)
{
	for (uint32_t back = 1; back <= MOST_AT_ONCE && back <= e->index; back++) {
		struct key k = {e->req_id, e->session, e->index - back, e->sample};
		uint32_t slot = *find(t, &k);

		if (slot == NONE || t->tok[slot & ~TOKEN_BIT].sent_ns != 0)
			return;
		if (t->tok[slot & ~TOKEN_BIT].io_ns != 0)
			t->tok[slot & ~TOKEN_BIT].sent_ns = e->ns;
	}
}

static void add_request(struct plx_request_times *r, const struct plx_trace_ev *e)
{
	switch (e->kind) {
	case PLX_TR_REQ_WHOLE:
		r->rx_ns = e->a;
		r->whole_ns = e->ns;
		break;
	case PLX_TR_REQ_ENCODED:
		r->encode_ns = e->a;
		r->encoded_ns = e->ns;
		r->n_prompt = e->n;
		break;
	case PLX_TR_REQ_TAKEN:
		r->taken_ns = e->ns;
		break;
	case PLX_TR_REQ_ACCEPTED:
		r->n_cached = e->n;
		r->said_ns = e->a;
		break;
	case PLX_TR_REQ_END:
	case PLX_TR_REQ_GONE:
	default:
		r->end = e->n;
		r->code = e->index;
		r->end_ns = r->end_ns != 0 ? r->end_ns : e->ns;
	}
}

static void add(struct plx_tokens *t, const struct plx_scope_ev *ev)
{
	switch (ev->e.kind) {
	case PLX_TR_TOKEN:
		add_token(t, ev);
		break;
	case PLX_TR_TEXT:
	case PLX_TR_TAKEN_TX:
		add_range(t, ev);
		break;
	case PLX_TR_SENT:
		add_sent(t, &ev->e);
		break;
	case PLX_TR_REQ_WHOLE:
	case PLX_TR_REQ_ENCODED:
	case PLX_TR_REQ_TAKEN:
	case PLX_TR_REQ_ACCEPTED:
	case PLX_TR_REQ_END:
	case PLX_TR_REQ_GONE:
		add_request(request(t, &ev->e), &ev->e);
		break;
	default:
		break;
	}
}

static int by_end(const void *a, const void *b)
{
	const struct plx_scope_ev *const *x = a, *const *y = b;

	return ((*x)->e.b > (*y)->e.b) - ((*x)->e.b < (*y)->e.b);
}

/* Each token's step is the one that ended when the token was done. */
static int join_steps(struct plx_tokens *t, const struct plx_snap *s)
{
	const struct plx_scope_ev **step = malloc((s->n_evs + 1) * sizeof(*step));
	uint32_t n = 0;

	if (step == NULL)
		return PLX_E_NOMEM;
	for (uint32_t i = 0; i < s->n_evs; i++)
		if (s->ev[i].e.kind == PLX_TR_STEP)
			step[n++] = &s->ev[i];
	qsort(step, n, sizeof(*step), by_end);
	for (uint32_t i = 0; i < t->n_tok && n > 0; i++) {
		struct plx_scope_ev want = {.e.b = t->tok[i].device_ns};
		const struct plx_scope_ev *key = &want;
		const struct plx_scope_ev **hit = bsearch(&key, step, n, sizeof(*step), by_end);

		if (hit == NULL)
			continue;
		t->tok[i].given_ns = (*hit)->e.c;
		t->tok[i].start_ns = (*hit)->e.a;
		t->tok[i].step_tokens = (*hit)->e.n;
		t->tok[i].accel_page = (*hit)->page;
	}
	free(step);
	return PLX_E_OK;
}

int plx_tokens_make(struct plx_tokens *t, const struct plx_snap *s)
{
	uint32_t size = 64;

	/* An event makes one request and one token at most. */
	while (size < 4 * s->n_evs)
		size *= 2;
	memset(t, 0, sizeof(*t));
	t->mask = size - 1;
	t->slot = malloc(size * sizeof(*t->slot));
	t->req = malloc((s->n_evs + 1) * sizeof(*t->req));
	t->tok = malloc((s->n_evs + 1) * sizeof(*t->tok));
	if (t->slot == NULL || t->req == NULL || t->tok == NULL) {
		plx_tokens_free(t);
		return PLX_E_NOMEM;
	}
	memset(t->slot, 0xff, size * sizeof(*t->slot));
	for (uint32_t i = 0; i < s->n_evs; i++)
		add(t, &s->ev[i]);
	int err = join_steps(t, s);

	if (err != 0)
		plx_tokens_free(t);
	return err;
}

void plx_tokens_free(struct plx_tokens *t)
{
	free(t->slot);
	free(t->req);
	free(t->tok);
	memset(t, 0, sizeof(*t));
}

const struct plx_request_times *plx_tokens_request(const struct plx_tokens *t, uint32_t session,
                                                   uint64_t req_id)
{
	struct key k = {.req_id = req_id, .session = session, .index = NONE};
	uint32_t slot = *find(t, &k);

	return slot == NONE ? NULL : &t->req[slot];
}

const struct plx_token_times *plx_tokens_token(const struct plx_tokens *t, uint32_t session,
                                               uint64_t req_id, uint16_t sample, uint32_t index)
{
	return known(t, session, req_id, sample, index);
}
