/*
 * The three baselines. They share what they don't differ in: a queue in order of arrival, the pool
 * with its prefix cache, slots, and one step in flight whose results they have before they fill the
 * next. KV blocks are taken as an answer grows (static batching takes all at the start); when none
 * is left, the request that started last gives its own back and is computed again later. No request
 * is ever refused. Sources: Yu et al., "Orca", OSDI 2022; Kwon et al., arXiv:2309.06180; Agrawal et
 * al., arXiv:2403.02310.
 */
#include <stdlib.h>
#include <string.h>

#include "fw/base/check.h"
#include "tests/sim/pool.h"
#include "tests/sim/sim.h"

#define BT             SIM_BLOCK_TOKENS
#define STATIC_WAIT_NS 50000000u /* a batch that is not full goes after so long */
#define STATIC_PREFILL 8192u     /* prompt tokens of a static batch in one step, or one prompt */
#define SPARE_SHARE    100u      /* 1/100 of the pool is kept for answers that grow */

enum mode { MODE_STATIC, MODE_ORCA, MODE_SARATHI };

struct seq {
	uint32_t req;
	uint32_t n_run; /* positions given to the device */
	uint32_t n_out; /* ids received, before a restart too */
	uint32_t n_blocks, n_published;
	bool told; /* the device knows whom the slot holds */
	uint32_t block[SIM_CONTEXT / BT + 1];
};

struct base {
	struct sim *s;
	enum mode mode;
	uint32_t n_most; /* static: requests; else tokens a step */
	struct sim_pool pool;
	struct seq *seq;         /* [SIM_SLOTS] */
	uint32_t run[SIM_SLOTS]; /* slots, in order of start */
	uint32_t free[SIM_SLOTS];
	uint32_t n_run, n_free;
	uint32_t *queue; /* [n_req] */
	uint32_t head, tail;
	uint64_t n_restarts;
};

static const struct sim_req *req_of(const struct base *b, const struct seq *q)
{
	return &b->s->trace->req[q->req];
}

/* Positions to run before the next id comes. */
static uint32_t left_of(const struct base *b, const struct seq *q)
{
	return req_of(b, q)->n_prompt + q->n_out - q->n_run;
}

static bool decodes(const struct base *b, const struct seq *q)
{
	return q->n_out > 0 && left_of(b, q) == 1;
}

/* ---- blocks ---- */

static uint32_t blocks_for(uint32_t n_tokens)
{
	return (n_tokens + BT - 1) / BT;
}

static void release(struct base *b, uint32_t at)
{
	uint32_t slot = b->run[at];
	struct seq *q = &b->seq[slot];

	while (q->n_blocks > 0)
		sim_pool_drop(&b->pool, q->block[--q->n_blocks]);
	memmove(&b->run[at], &b->run[at + 1], (b->n_run - at - 1) * sizeof(b->run[0]));
	b->n_run--;
	b->free[b->n_free++] = slot;
}

/* The request that started last goes back to the front of the queue. */
static void restart_last(struct base *b)
{
	PLX_CHECK(b->n_run > 0 && b->head > 0);
	b->queue[--b->head] = b->seq[b->run[b->n_run - 1]].req;
	release(b, b->n_run - 1);
	b->n_restarts++;
}

/* Blocks for the first n positions of run[at]; false: it had to give up its place itself. */
static bool reserve(struct base *b, uint32_t at, uint32_t n)
{
	struct seq *q = &b->seq[b->run[at]];

	while (q->n_blocks < blocks_for(n)) {
		uint32_t k = sim_pool_take(&b->pool);

		if (k != SIM_NO_BLOCK) {
			q->block[q->n_blocks++] = k;
			continue;
		}
		bool own = at == b->n_run - 1;

		restart_last(b);
		if (own)
			return false;
	}
	return true;
}

static void publish(struct base *b, struct seq *q)
{
	for (; (q->n_published + 1) * BT <= q->n_run; q->n_published++)
		sim_pool_publish(&b->pool, q->block[q->n_published],
		                 sim_pool_key(&req_of(b, q)->text, q->n_published, BT));
}

/* ---- starts ---- */

/* Cached blocks at the start of the next n positions of a request; with q, it holds them. */
static uint32_t find_cached(struct base *b, uint32_t req, uint32_t n, struct seq *q,
                            uint32_t *n_idle)
{
	uint32_t most = (n - 1) / BT, i = 0;

	*n_idle = 0;
	for (; i < most; i++) {
		uint32_t k =
		    sim_pool_find(&b->pool, sim_pool_key(&b->s->trace->req[req].text, i, BT));

		if (k == SIM_NO_BLOCK)
			break;
		*n_idle += b->pool.block[k].ref == 0;
		if (q) {
			sim_pool_hold(&b->pool, k);
			q->block[q->n_blocks++] = k;
		}
	}
	return i;
}

/*
 * Start the head of the queue if its prompt (all it can need, for static batching) fits the pool.
 * At most n_tokens of it may be left to run, any number with n_tokens 0. Returns whether it did.
 */
static bool start_head(struct base *b, uint32_t n_tokens)
{
	uint32_t req = b->queue[b->head], n_out = b->s->score->fate[req].n_got, n_idle;
	const struct sim_req *r = &b->s->trace->req[req];
	uint32_t n = r->n_prompt + n_out, hold = b->mode == MODE_STATIC ? r->max_new : 0;
	uint32_t spare = b->n_run ? b->pool.n_blocks / SPARE_SHARE : 0;

	if (b->n_free == 0)
		return false;
	uint32_t cached = find_cached(b, req, n, NULL, &n_idle);

	if (n_tokens && n - cached * BT > n_tokens)
		return false;
	if (blocks_for(n + hold) - cached + n_idle + spare > b->pool.n_free)
		return false;
	uint32_t slot = b->free[--b->n_free];
	struct seq *q = &b->seq[slot];

	*q = (struct seq){.req = req, .n_out = n_out};
	find_cached(b, req, n, q, &n_idle);
	q->n_run = cached * BT;
	q->n_published = cached;
	b->run[b->n_run++] = slot;
	b->head++;
	PLX_CHECK(reserve(b, b->n_run - 1, n + hold));
	return true;
}

/* ---- steps ---- */

static void add_tokens(struct plx_step *st, uint32_t first_pos, uint32_t n, bool decode, bool last)
{
	struct plx_step_tok *t = &plx_step_toks(st)[st->n_tok];

	for (uint32_t i = 0; i < n; i++)
		t[i] = (struct plx_step_tok){
		    .id = decode ? PLX_TOK_LAST : 0, .pos = {first_pos + i, 0, 0}, .parent = -1};
	if (last)
		t[n - 1].flags = PLX_TOKF_LOGITS;
	st->n_tok += n;
}

static void give(struct base *b, struct plx_step *st, uint32_t slot, uint32_t n)
{
	struct seq *q = &b->seq[slot];

	if (!q->told) {
		struct plx_sampler *w = &plx_step_samplers(st)[st->n_sampler];

		memset(w, 0, sizeof(*w));
		w->seed = q->req;
		plx_step_deltas(st)[st->n_delta++] = (struct plx_step_delta){
		    .kind = PLX_DELTA_SLOT_SET,
		    .slot = slot,
		    .sampler_off =
			st->sampler_off + st->n_sampler * (uint32_t)sizeof(struct plx_sampler)};
		st->n_sampler++;
		q->told = true;
	}
	plx_step_seqs(st)[st->n_seq++] =
	    (struct plx_step_seq){.slot = slot, .first_tok = st->n_tok, .n_tok = n};
	add_tokens(st, q->n_run, n, decodes(b, q), left_of(b, q) == n);
	q->n_run += n;
}

/* One id for each answer that runs, oldest first, so that whoever must restart is not in yet. */
static void give_decodes(struct base *b, struct plx_step *st)
{
	for (uint32_t i = 0; i < b->n_run; i++) {
		const struct seq *q = &b->seq[b->run[i]];

		if (!decodes(b, q))
			continue;
		if (!reserve(b, i, q->n_run + 1))
			return;
		give(b, st, b->run[i], 1);
	}
}

/* What is left of prompts, in order of start, up to n_tokens in the step. */
static void give_prompts(struct base *b, struct plx_step *st, uint32_t n_tokens)
{
	for (uint32_t i = 0; i < b->n_run && st->n_tok < n_tokens; i++) {
		const struct seq *q = &b->seq[b->run[i]];
		uint32_t left = left_of(b, q), room = n_tokens - st->n_tok;

		if (left == 0 || decodes(b, q))
			continue;
		give(b, st, b->run[i], left < room ? left : room);
	}
}

/* Decodes, then chunks: of what runs, then of what starts now. */
static void fill_sarathi(struct base *b, struct plx_step *st)
{
	give_decodes(b, st);
	give_prompts(b, st, b->n_most);
	while (st->n_tok < b->n_most && b->head < b->tail && start_head(b, 0)) {
		uint32_t slot = b->run[b->n_run - 1], room = b->n_most - st->n_tok;
		uint32_t left = left_of(b, &b->seq[slot]);

		give(b, st, slot, left < room ? left : room);
	}
}

/* Whole prompts while they fit the step, one in any case, and decodes beside them. */
static void fill_orca(struct base *b, struct plx_step *st)
{
	give_decodes(b, st);
	uint32_t n_decodes = st->n_tok;

	while (b->head < b->tail) {
		uint32_t given = st->n_tok - n_decodes;

		if (given >= b->n_most || !start_head(b, given ? b->n_most - given : 0))
			return;
		uint32_t slot = b->run[b->n_run - 1];

		give(b, st, slot, left_of(b, &b->seq[slot]));
	}
}

static bool may_go(const struct base *b, uint64_t now_ns)
{
	if (b->head == b->tail)
		return false;
	return b->tail - b->head >= b->n_most ||
	       now_ns >= b->s->trace->req[b->queue[b->head]].at_ns + STATIC_WAIT_NS;
}

static void fill_static(struct base *b, struct plx_step *st, uint64_t now_ns)
{
	bool prompts = false;

	if (b->n_run == 0 && may_go(b, now_ns))
		while (b->n_run < b->n_most && b->head < b->tail && start_head(b, 0))
			;
	for (uint32_t i = 0; i < b->n_run; i++) {
		const struct seq *q = &b->seq[b->run[i]];
		uint32_t left = left_of(b, q);

		if (q->n_out > 0 || left == 0 || (prompts && st->n_tok + left > STATIC_PREFILL))
			continue;
		give(b, st, b->run[i], left);
		prompts = true;
	}
	if (!prompts)
		give_decodes(b, st);
}

static uint32_t fill(void *ctx, struct plx_step *st, uint64_t now_ns)
{
	struct base *b = ctx;

	st->n_tok = st->n_seq = st->n_delta = st->n_sampler = 0;
	st->id = b->s->n_steps + 1;
	if (b->mode == MODE_STATIC)
		fill_static(b, st, now_ns);
	else if (b->mode == MODE_ORCA)
		fill_orca(b, st);
	else
		fill_sarathi(b, st);
	return st->n_tok;
}

/* ---- results ---- */

static void arrive(void *ctx, uint32_t req, uint64_t now_ns)
{
	struct base *b = ctx;

	(void)now_ns;
	b->queue[b->tail++] = req;
}

static uint32_t place_of(const struct base *b, uint32_t slot)
{
	uint32_t i = 0;

	while (b->run[i] != slot)
		i++;
	return i;
}

static void done(void *ctx, struct plx_step *st, uint64_t now_ns)
{
	struct base *b = ctx;

	for (uint32_t i = 0; i < st->n_seq; i++) {
		uint32_t slot = plx_step_seqs(st)[i].slot;
		const struct plx_step_out *o = &plx_step_outs(st)[i];
		struct seq *q = &b->seq[slot];

		publish(b, q);
		if (o->n_out == 0)
			continue;
		if (o->id[0] == SIM_EOS) {
			sim_score_end(b->s->score, q->req, SIM_DONE, 0, now_ns);
			release(b, place_of(b, slot));
			continue;
		}
		sim_score_token(b->s->score, q->req, q->n_out++, o->id[0], st->end_ns);
	}
}

static void tick(void *ctx, uint64_t now_ns)
{
	(void)ctx, (void)now_ns;
}

static bool idle(void *ctx)
{
	struct base *b = ctx;

	return b->n_run == 0 && b->head == b->tail;
}

static void close_base(void *ctx)
{
	struct base *b = ctx;

	PLX_CHECK(idle(b) && b->n_free == SIM_SLOTS && b->pool.n_free == b->pool.n_blocks);
	sim_pool_close(&b->pool);
	free(b->seq);
	free(b->queue);
	free(b);
}

static struct sim_engine base_open(struct sim *s, enum mode mode, uint32_t n_most)
{
	static const char *const names[] = {"static", "orca", "sarathi"};
	struct base *b = calloc(1, sizeof(*b));

	PLX_CHECK(b != NULL && n_most > 0);
	b->s = s;
	b->mode = mode;
	b->n_most = n_most;
	b->seq = calloc(SIM_SLOTS, sizeof(*b->seq));
	b->queue = calloc(s->trace->n_req, sizeof(*b->queue));
	PLX_CHECK(b->seq && b->queue);
	sim_pool_open(&b->pool, s->n_blocks);
	for (uint32_t i = SIM_SLOTS; i-- > 0;)
		b->free[b->n_free++] = i;
	return (struct sim_engine){.name = names[mode],
	                           .steps_in_flight = 1,
	                           .max_step_tokens = SIM_CONTEXT + SIM_SLOTS,
	                           .ctx = b,
	                           .arrive = arrive,
	                           .fill = fill,
	                           .done = done,
	                           .tick = tick,
	                           .idle = idle,
	                           .close = close_base};
}

struct sim_engine sim_static(struct sim *s, uint32_t n_batch)
{
	return base_open(s, MODE_STATIC, n_batch < SIM_SLOTS ? n_batch : SIM_SLOTS);
}

struct sim_engine sim_orca(struct sim *s, uint32_t n_tokens)
{
	return base_open(s, MODE_ORCA, n_tokens < SIM_CONTEXT ? n_tokens : SIM_CONTEXT);
}

struct sim_engine sim_sarathi(struct sim *s, uint32_t n_tokens)
{
	return base_open(s, MODE_SARATHI, n_tokens > SIM_SLOTS ? n_tokens : SIM_SLOTS);
}
