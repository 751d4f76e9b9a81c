/* Admission: what can run, when its first token would come, and what is refused at once. */
#include "dataplane/batch/move.h"
#include "dataplane/batch/sched_int.h"

#include <math.h>
#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

#define ABSURD_NS   UINT64_C(10000)       /* no device makes a token in less */
#define PATIENCE_NS UINT64_C(60000000000) /* the longest queue for who names no objective */
#define GUESS_NS    UINT64_C(10000000)    /* a step, before any was measured */
#define TOKEN_NS    50000.0               /* a token, likewise */
#define HARM_LOOK   64u                   /* requests behind a new one that it must not harm */
#define HARM_ROUNDS 4u
#define RETRY_LEAST UINT64_C(1000000)
#define MEANWHILE   2.0 /* others come while one waits to come again */

/* Whether the oldest tokens of the request may leave its context. */
static bool beyond(const struct plx_sched *s, const struct plx_sched_job *j)
{
	return j->beyond && !j->score && !plx_sched_evicts(s, j) && s->conf.can_shift &&
	       s->shift.drop > 0 && s->tier.copy != NULL;
}

/*
 * Prompt blocks that may be shared: the last prompt token always runs in a block of one's own, and
 * so does whatever is run after tokens left the context.
 */
static uint32_t shareable_blocks(const struct plx_sched *s, const struct plx_sched_job *j)
{
	bool sparse = (j->flags & PLX_SEQF_SPARSE) != 0;
	uint32_t last = sparse ? plx_sparse_pooled(j->n_ids) : j->n_ids - 1;
	uint32_t n = last / s->conf.block_tokens;

	if (j->score || plx_sched_evicts(s, j))
		return 0;
	return beyond(s, j) && n > s->shift.n_blocks ? s->shift.n_blocks : n;
}

/* Blocks of the prompt that are in the cache; *held: of them, those that others hold anyway. */
static uint32_t cached_now(const struct plx_sched *s, const struct plx_sched_job *j, uint32_t *held)
{
	struct plx_prefix_at at = plx_prefix_begin(plx_sched_space(j));
	uint32_t bt = s->conf.block_tokens, n = shareable_blocks(s, j), i = 0;

	*held = 0;
	for (; i < n; i++) {
		uint32_t b = plx_prefix_find(&s->prefix, &at, &j->ids[i * bt]);

		if (b == PLX_KV_NONE)
			break;
		*held += b < s->conf.n_blocks && s->kv.block[b].ref > 0;
	}
	return i;
}

static int refuse(struct plx_sched_admit *out, int err, const char *why, double retry_ns)
{
	out->why = why;
	out->retry_ns = retry_ns > 0 ? (uint64_t)fmax(MEANWHILE * retry_ns, RETRY_LEAST) : 0;
	return err;
}

/* Whether what its samples said before leaves something to say: each that is not over, and one. */
static bool goes_on(const struct plx_sched_job *j, uint32_t max_new)
{
	uint32_t n_live = 0;

	for (uint32_t i = 0; j->have && i < j->n_samples; i++) {
		bool over = j->have[i].end != PLX_SEQ_END_NONE;

		if (!over && j->have[i].n >= max_new)
			return false;
		n_live += !over;
	}
	return !j->have || n_live > 0;
}

/* The prompt against its limits. */
static int check_prompt(const struct plx_sched *s, const struct plx_sched_job *j,
                        struct plx_sched_admit *out)
{
	const struct plx_sched_conf *c = &s->conf;

	if (j->n_ids == 0 || j->n_samples == 0)
		return refuse(out, PLX_E_BAD_REQUEST, "the prompt has no tokens", 0);
	if (j->n_ids > c->max_prompt)
		return refuse(out, PLX_E_TOO_LARGE, "the prompt is over the limit of tokens", 0);
	if (j->n_ids < c->ctx_tokens || beyond(s, j) || (j->score && c->can_shift))
		return 0;
	return refuse(out, PLX_E_TOO_LARGE,
	              c->can_shift && !j->beyond
	                  ? "the prompt is longer than the context, and may not be compressed"
	                  : "the prompt is longer than the context",
	              0);
}

/* The most blocks of one sample, and of all of them. */
static void size_blocks(const struct plx_sched *s, const struct plx_sched_job *j,
                        struct plx_sched_ent *e)
{
	uint32_t shared = shareable_blocks(s, j);

	e->shared_end = shared * s->conf.block_tokens;
	e->max_blocks = plx_seq_blocks(j->n_ids, e->max_new, s->conf.block_tokens);
	if (e->beyond && e->max_blocks > s->shift.n_blocks) {
		e->max_blocks = s->shift.n_blocks;
		shared = shared < PLX_SHIFT_SINKS ? shared : PLX_SHIFT_SINKS;
	}
	if (j->score && e->max_blocks > plx_sched_score_span(s) / s->conf.block_tokens)
		e->max_blocks = plx_sched_score_span(s) / s->conf.block_tokens;
	e->need_blocks = shared + j->n_samples * (e->max_blocks - shared);
}

/* Whether the request can run at all; fills max_new and the blocks it needs. */
static int size_up(const struct plx_sched *s, const struct plx_sched_job *j,
                   struct plx_sched_ent *e, struct plx_sched_admit *out)
{
	const struct plx_sched_conf *c = &s->conf;

	int err = check_prompt(s, j, out);

	if (err)
		return err;
	if (j->n_samples > c->n_slots || j->n_samples > c->step_seqs ||
	    j->n_samples > PLX_SCHED_MAX_SAMPLES)
		return refuse(out, PLX_E_TOO_LARGE, "more samples than can run at once", 0);
	e->beyond = beyond(s, j);
	uint32_t limit = c->max_new;
	uint32_t ctx_left = e->beyond || j->score ? UINT32_MAX : c->ctx_tokens - j->n_ids;

	limit = j->score ? 1 : limit;
	e->max_new = j->max_new && j->max_new < limit ? j->max_new : limit;
	e->by_context = e->max_new > ctx_left;
	if (e->by_context)
		e->max_new = ctx_left;
	if (!goes_on(j, e->max_new))
		return refuse(out, PLX_E_BAD_REQUEST, "its answers are complete already", 0);
	size_blocks(s, j, e);
	/* One sample has to fit whole; that the others leave for it is preempt.h's matter. */
	uint32_t least = e->beyond ? e->need_blocks : e->max_blocks;

	if (least > c->n_blocks || plx_sched_known_blocks(s, e) > c->n_blocks)
		return refuse(out, PLX_E_TOO_LARGE,
		              "prompt and answer need more KV blocks than there are", 0);
	return 0;
}

/* A new request as it would stand in the order. */
struct place {
	uint64_t ttft_slo_ns, itl_slo_ns; /* 0: none */
	uint64_t horizon_ns;
	uint64_t turn_ns; /* its session's */
	uint32_t own;     /* tokens to run */
	uint64_t ahead;   /* tokens before them */
	uint32_t blocks;  /* it takes to start */
	double own_ns;    /* alone on the device */
	double slots_ns;  /* until slots are free */
	double memory_ns; /* until blocks are, of the pool and of its tenant's share */
	double need_ns;   /* first token */
};

static uint64_t least_of(uint64_t a, uint64_t b)
{
	return a == 0 || (b != 0 && b < a) ? b : a;
}

static void find_place(struct plx_sched *s, const struct plx_sched_job *j, struct plx_sched_ent *e,
                       uint64_t now_ns, struct place *p, struct plx_sched_admit *out)
{
	double token_ns = s->load.tok_ns ? (double)s->load.tok_ns : TOKEN_NS;

	p->turn_ns = plx_fair_turn_ns(&s->fair, j->session, now_ns, token_ns);
	uint64_t hard = j->deadline_ns > now_ns ? j->deadline_ns - now_ns : 0;

	p->ttft_slo_ns = j->ttft_slo_ns ? j->ttft_slo_ns : s->conf.ttft_slo_ns;
	p->itl_slo_ns = j->itl_slo_ns ? j->itl_slo_ns : s->conf.itl_slo_ns;
	p->horizon_ns = least_of(p->ttft_slo_ns, hard);
	p->own = j->n_ids - out->cached_tokens;
	p->own_ns = plx_sched_prompt_ns(s, p->own);
	bool hurry = p->horizon_ns != 0;

	uint64_t since_ns = j->since_ns ? j->since_ns : now_ns;

	e->rank = plx_queue_rank(since_ns, hurry ? p->horizon_ns : PLX_QUEUE_NO_HURRY,
	                         hurry ? (uint64_t)p->own_ns : 0, j->priority, p->turn_ns - now_ns);
}

/* What stands ahead of its rank. */
static void look_ahead(const struct plx_sched *s, const struct plx_sched_job *j,
                       const struct plx_sched_ent *e, struct place *p, struct plx_sched_admit *out)
{
	struct plx_order_ahead w = plx_order_ahead(&s->wait, e->rank);

	uint64_t blocks = w.tokens / s->conf.block_tokens + w.count + p->blocks;
	uint64_t share =
	    (uint64_t)s->tenant_held[j->tenant] + s->tenant_waits[j->tenant] + e->need_blocks;

	p->ahead = w.tokens + plx_order_ahead(&s->prefill, e->rank).tokens;
	out->queue_position = w.count;
	p->slots_ns = plx_sched_slots_ns(s, w.count + j->n_samples);
	p->memory_ns = plx_sched_blocks_ns(s, blocks);
	if (j->tenant_blocks && share > j->tenant_blocks)
		p->memory_ns =
		    fmax(p->memory_ns, plx_sched_tenant_ns(s, j->tenant, share - j->tenant_blocks));
}

/* When the first token would come, as far as anything is known of the device's time. */
static void estimate(struct plx_sched *s, struct plx_sched_ent *e, uint64_t now_ns, struct place *p,
                     struct plx_sched_admit *out)
{
	uint64_t tokens = p->ahead + p->own;

	e->raw_ns = 0;
	if (!plx_cost_ready(&s->cost, true)) {
		out->est_ttft_ns = GUESS_NS * (1 + tokens / s->conf.step_tokens);
		return;
	}
	double queue = plx_sched_ttft_ns(s, p->ahead, p->own, now_ns);
	double place = fmax(p->slots_ns, p->memory_ns) + p->own_ns;

	e->by_place = place > queue;
	p->need_ns = fmax(queue, place);
	e->raw_ns = (uint64_t)p->need_ns;
	out->est_ttft_ns = (uint64_t)(p->need_ns * s->pace.truth[e->by_place]);
}

/* The first behind it that its tokens would make miss an objective that holds without them. */
static uint32_t harmed(const struct plx_sched *s, const struct plx_sched_ent *e,
                       const struct place *p, uint64_t now_ns)
{
	const struct plx_order *o[2] = {&s->prefill, &s->wait};
	uint32_t k[2] = {plx_order_after(o[0], e->rank), plx_order_after(o[1], e->rank)};
	double per_token = p->need_ns / (double)(p->ahead + p->own);
	double tokens = (double)p->ahead;

	for (uint32_t i = 0; i < HARM_LOOK; i++) {
		int w = k[0] == PLX_QUEUE_NONE ||
		        (k[1] != PLX_QUEUE_NONE && o[1]->node[k[1]].rank < o[0]->node[k[0]].rank);

		if (k[w] == PLX_QUEUE_NONE)
			break;
		const struct plx_sched_ent *b = &s->ent[k[w]];

		uint32_t key = k[w];

		tokens += o[w]->node[key].tokens;
		k[w] = plx_order_next(o[w], key);
		if (b->due_ns == 0 || b->late)
			continue;
		double now = (double)now_ns, due = (double)b->due_ns;

		if (now + tokens * per_token <= due && now + (tokens + p->own) * per_token > due)
			return key;
	}
	return PLX_QUEUE_NONE;
}

static int check_absurd(const struct plx_sched *s, const struct plx_sched_job *j,
                        const struct place *p, uint64_t now_ns, struct plx_sched_admit *out)
{
	struct plx_cost_work one = {.decodes = 1, .context = j->n_ids};

	if (j->deadline_ns && now_ns >= j->deadline_ns)
		return refuse(out, PLX_E_DEADLINE_UNMEETABLE, "the deadline has passed", 0);
	if ((p->ttft_slo_ns && p->ttft_slo_ns < ABSURD_NS) ||
	    (p->itl_slo_ns && p->itl_slo_ns < ABSURD_NS))
		return refuse(out, PLX_E_DEADLINE_UNMEETABLE,
		              "no device is as fast as the objective asks", 0);
	if (plx_cost_ready(&s->cost, false) && p->itl_slo_ns &&
	    plx_cost_ns(&s->cost, &one) > (double)p->itl_slo_ns)
		return refuse(out, PLX_E_DEADLINE_UNMEETABLE,
		              "even alone its tokens would not come as fast as it asks", 0);
	if (p->horizon_ns && p->own_ns > (double)p->horizon_ns)
		return refuse(out, PLX_E_DEADLINE_UNMEETABLE,
		              "even alone its first token would come too late", 0);
	return 0;
}

/* How long it may take until its first token: what it asks for, or the longest queue. */
static double patience(const struct place *p)
{
	return p->horizon_ns ? (double)p->horizon_ns : (double)PATIENCE_NS + p->own_ns;
}

static int check_pressure(const struct plx_sched *s, const struct plx_sched_job *j,
                          const struct plx_sched_ent *e, const struct place *p,
                          struct plx_sched_admit *out)
{
	double late = p->memory_ns + p->own_ns - patience(p);

	if (j->tenant_blocks && e->need_blocks > j->tenant_blocks)
		return refuse(out, PLX_E_KV_PRESSURE, "the key's share of KV memory is too small",
		              0);
	if (plx_cost_ready(&s->cost, true) && p->memory_ns > 0 && late > 0)
		return refuse(out, PLX_E_KV_PRESSURE,
		              "KV memory will not be free before the first token is due", late);
	return 0;
}

static int too_slow(const struct plx_sched_job *j, const struct place *p, uint64_t now_ns,
                    struct plx_sched_admit *out)
{
	if (j->deadline_ns && (double)now_ns + p->need_ns > (double)j->deadline_ns)
		return refuse(out, PLX_E_DEADLINE_UNMEETABLE,
		              "the first token is expected after the deadline",
		              (double)now_ns + p->need_ns - (double)j->deadline_ns);
	uint64_t most = p->ttft_slo_ns ? p->ttft_slo_ns : PATIENCE_NS + (uint64_t)p->own_ns;

	if (p->need_ns > (double)most)
		return refuse(out, PLX_E_QUEUE_FULL,
		              "too much waits for its first token to come as wanted",
		              fmax(p->need_ns - (double)most, p->own_ns));
	return 0;
}

/* In time, and at nobody's cost: whom it would harm goes first, as far as it can wait itself. */
static int check_time(struct plx_sched *s, const struct plx_sched_job *j, struct plx_sched_ent *e,
                      struct place *p, uint64_t now_ns, struct plx_sched_admit *out)
{
	if (!plx_cost_ready(&s->cost, true))
		return 0;
	for (uint32_t i = 0; i < HARM_ROUNDS; i++) {
		int err = too_slow(j, p, now_ns, out);
		uint32_t k = err ? PLX_QUEUE_NONE : harmed(s, e, p, now_ns);

		if (k == PLX_QUEUE_NONE)
			return err;
		e->rank = s->ent[k].rank;
		look_ahead(s, j, e, p, out);
		estimate(s, e, now_ns, p, out);
	}
	return refuse(out, PLX_E_QUEUE_FULL,
	              "others that were promised their first token would lose it", p->own_ns);
}

static int admit(struct plx_sched *s, const struct plx_sched_job *j, struct plx_sched_ent *e,
                 uint64_t now_ns, struct place *p, struct plx_sched_admit *out)
{
	int err;

	e->job = *j;
	err = size_up(s, j, e, out);
	if (err)
		return err;
	uint32_t held, cached = cached_now(s, j, &held);

	out->cached_tokens = cached * s->conf.block_tokens;
	p->blocks = plx_sched_known_blocks(s, e) - held;
	if (plx_sched_importable(s, j))
		out->cached_tokens = j->n_ids - 1;
	find_place(s, j, e, now_ns, p, out);
	look_ahead(s, j, e, p, out);
	estimate(s, e, now_ns, p, out);
	if (j->since_ns) {
		e->raw_ns = 0; /* what it was told is not judged by a second journey */
		return 0;
	}
	err = check_absurd(s, j, p, now_ns, out);
	err = err ? err : check_pressure(s, j, e, p, out);
	return err ? err : check_time(s, j, e, p, now_ns, out);
}

static void count_refusal(struct plx_sched *s, int err)
{
	s->stats.full += err == PLX_E_QUEUE_FULL;
	s->stats.pressed += err == PLX_E_KV_PRESSURE;
	s->stats.unmeetable += err == PLX_E_DEADLINE_UNMEETABLE;
}

int plx_sched_quote(struct plx_sched *s, uint32_t key, const struct plx_sched_job *job,
                    uint64_t now_ns, struct plx_sched_admit *out)
{
	struct place p = {0};

	PLX_CHECK(key < s->conf.n_keys && s->ent[key].state == PLX_ENT_FREE);
	memset(out, 0, sizeof(*out));
	return admit(s, job, &s->ent[key], now_ns, &p, out);
}

int plx_sched_add(struct plx_sched *s, uint32_t key, const struct plx_sched_job *job,
                  uint64_t now_ns, struct plx_sched_admit *out)
{
	struct plx_sched_ent *e = &s->ent[key];
	struct place p = {0};

	PLX_CHECK(key < s->conf.n_keys && e->state == PLX_ENT_FREE &&
	          job->tenant < PLX_SCHED_TENANTS && job->priority < PLX_SCHED_PRIORITIES);
	memset(out, 0, sizeof(*out));
	int err = admit(s, job, e, now_ns, &p, out);

	if (err) {
		count_refusal(s, err);
		return err;
	}
	e->state = PLX_ENT_WAITING;
	e->priority = job->priority;
	e->late = false;
	e->n_live = 0;
	e->tenant_held = 0;
	e->admit_ns = now_ns;
	e->start_ns = 0;
	e->first_ns = job->first_ns;
	e->imported = false;
	uint64_t since_ns = job->since_ns ? job->since_ns : now_ns;

	e->said_ns = out->est_ttft_ns;
	e->due_ns = p.ttft_slo_ns && !job->first_ns ? since_ns + p.ttft_slo_ns : 0;
	e->itl_ns = p.itl_slo_ns;
	memset(&e->out, 0, sizeof(e->out));
	e->flow = plx_fair_enter(&s->fair, job->session, job->weight, job->n_ids, &e->fair_start);
	plx_fair_took_turn(&s->fair, e->flow, p.turn_ns);
	plx_sched_wait_add(s, key, out->cached_tokens);
	return 0;
}
