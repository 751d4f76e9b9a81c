/* Drafts from a model on a device of its own; draft_model.h says how. */
#include "dataplane/batch/draft_model.h"

#include <math.h>
#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

#define PRIOR      8.0f /* guesses that the chances at the start count for */
#define PRIOR_ANY  0.75f
#define PRIOR_SEQ  4.0f /* guesses that all sequences count for in one */
#define FORGET     0.97f
#define FORGET_ALL 0.998f
#define SMOOTH     (1.0 / 8)
#define CATCH_UP   8u /* more tokens than this in a step say what it takes to catch up */

/* ---- chances ---- */

/* The class of a guess that the draft model gives this log-probability. */
static uint32_t class_of(float logprob)
{
	static const float below[PLX_DMODEL_CLASSES - 1] = {0.1f, 0.25f, 0.4f, 0.6f,
	                                                    0.8f, 0.9f,  0.97f};
	float p = expf(logprob);
	uint32_t c = 0;

	while (c < PLX_DMODEL_CLASSES - 1 && p >= below[c])
		c++;
	return c;
}

static void score_init(struct plx_dmodel_score *s)
{
	static const float prior[PLX_DMODEL_CLASSES] = {0.1f,  0.2f, 0.35f, 0.5f,
	                                                0.65f, 0.8f, 0.9f,  0.95f};

	for (uint32_t c = 0; c < PLX_DMODEL_CLASSES; c++) {
		s->n[c] = PRIOR;
		s->hits[c] = PRIOR * prior[c];
		s->n_other[c] = PRIOR;
		s->hits_other[c] = PRIOR * prior[c];
	}
	s->n_any = PRIOR;
	s->hits_any = PRIOR * PRIOR_ANY;
}

static void score(struct plx_dmodel_score *s, uint32_t class, float hit, float forget)
{
	s->n[class] = forget * s->n[class] + 1;
	s->hits[class] = forget * s->hits[class] + hit;
	s->n_any = forget * s->n_any + 1;
	s->hits_any = forget * s->hits_any + hit;
}

static float chance(const struct plx_dmodel *m, const struct plx_dmodel_slot *x, uint32_t class)
{
	float all = m->all.hits[class] / m->all.n[class];

	return (x->score.hits[class] + PRIOR_SEQ * all) / (x->score.n[class] + PRIOR_SEQ);
}

/* Of another choice than its guess, that one being wrong. */
static float chance_other(const struct plx_dmodel *m, uint32_t class)
{
	return m->all.hits_other[class] / m->all.n_other[class];
}

static float chance_any(const struct plx_dmodel *m, const struct plx_dmodel_slot *x)
{
	float all = m->all.hits_any / m->all.n_any;

	return (x->score.hits_any + PRIOR_SEQ * all) / (x->score.n_any + PRIOR_SEQ);
}

/* ---- memory ---- */

static uint32_t most_blocks(const struct plx_dmodel_conf *c)
{
	return (c->n_ctx + c->block_tokens - 1) / c->block_tokens;
}

size_t plx_dmodel_bytes(const struct plx_dmodel_conf *c)
{
	size_t each = sizeof(struct plx_dmodel_slot) + most_blocks(c) * sizeof(uint32_t) + 64;

	return c->n_slots * each + c->n_blocks * sizeof(uint32_t) + 192;
}

int plx_dmodel_init(struct plx_dmodel *m, struct plx_arena *a, const struct plx_dmodel_conf *c)
{
	memset(m, 0, sizeof(*m));
	m->conf = *c;
	m->slot = plx_arena_take(a, c->n_slots * sizeof(*m->slot), 64);
	m->free = plx_arena_take(a, c->n_blocks * sizeof(*m->free), 64);
	if (!m->slot || !m->free)
		return PLX_E_NOMEM;
	for (uint32_t i = 0; i < c->n_slots; i++) {
		memset(&m->slot[i], 0, sizeof(m->slot[i]));
		m->slot[i].block = plx_arena_take(a, most_blocks(c) * sizeof(uint32_t), 64);
		if (!m->slot[i].block)
			return PLX_E_NOMEM;
	}
	for (; m->n_free < c->n_blocks; m->n_free++)
		m->free[m->n_free] = c->n_blocks - 1 - m->n_free;
	score_init(&m->all);
	return 0;
}

/* ---- a sequence ---- */

static void stop_asking(struct plx_dmodel *m, struct plx_dmodel_slot *x)
{
	m->n_asked -= x->want > 0;
	x->want = 0;
}

/* Blocks go back at once: steps run in order, so whoever has them next writes them later. */
static void end(void *ctx, uint32_t slot)
{
	struct plx_dmodel *m = ctx;
	struct plx_dmodel_slot *x = &m->slot[slot];

	stop_asking(m, x);
	while (x->n_blocks > 0)
		m->free[m->n_free++] = x->block[--x->n_blocks];
	x->ids = NULL;
	x->stale = x->in_flight;
	x->n_run = x->n_given = x->n_judged = x->n_ids = x->n_told = 0;
	x->got.n = 0;
	x->set = false;
	x->failed = false;
}

static void begin(void *ctx, uint32_t slot)
{
	struct plx_dmodel *m = ctx;

	end(ctx, slot);
	memset(&m->slot[slot].score, 0, sizeof(m->slot[slot].score));
}

static void sampling(void *ctx, uint32_t slot, const struct plx_sampler *how)
{
	struct plx_dmodel *m = ctx;

	m->slot[slot].how = *how;
	m->slot[slot].how.n_recent = 0;
}

/* Guess i was wrong: its other choices up to the right one. */
static void judge_others(struct plx_dmodel *m, const struct plx_dmodel_slot *x, uint32_t i,
                         int32_t id)
{
	for (uint32_t k = 0; k < m->conf.n_top; k++) {
		const struct plx_top *t = &x->top[i][k];
		uint32_t class = class_of(t->logprob);

		if (t->id == x->got.id[i])
			continue;
		m->all.n_other[class] = FORGET_ALL * m->all.n_other[class] + 1;
		m->all.hits_other[class] =
		    FORGET_ALL * m->all.hits_other[class] + (t->id == id ? 1.0f : 0.0f);
		if (t->id == id)
			return;
	}
}

/* Judges guesses by the ids that came, up to the first wrong one. */
static uint32_t learn(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t n_prompt,
                      uint32_t most)
{
	struct plx_dmodel *m = ctx;
	struct plx_dmodel_slot *x = &m->slot[slot];
	uint32_t looked = 0;

	(void)n_prompt;
	for (; x->n_judged < x->got.n && x->n_ids + x->n_judged < n && looked < most; looked++) {
		uint32_t i = x->n_judged++;
		bool hit = x->got.id[i] == ids[x->n_ids + i];
		uint32_t class = class_of(x->got.p[i]);

		score(&x->score, class, hit ? 1 : 0, FORGET);
		score(&m->all, class, hit ? 1 : 0, FORGET_ALL);
		if (!hit)
			judge_others(m, x, i, ids[x->n_ids + i]);
		if (!hit)
			x->n_judged = PLX_MAX_DRAFT;
	}
	return looked;
}

/* The draft model's other choices for place i, whose guess stands in out. */
static void add_others(const struct plx_dmodel *m, const struct plx_dmodel_slot *x, uint32_t i,
                       double least, struct plx_draft *out)
{
	float left = 1 - out->p[i], up = i > 0 ? out->all[i - 1] : 1;

	for (uint32_t k = 0; k < m->conf.n_top; k++) {
		const struct plx_top *t = &x->top[i][k];
		float p = left * chance_other(m, class_of(t->logprob));

		if (t->id == x->got.id[i])
			continue;
		if ((double)(up * p) < least)
			return;
		plx_draft_add(out, (int32_t)i - 1, t->id, p);
		left -= p;
	}
}

static void propose(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t most,
                    double least, struct plx_draft *out)
{
	const struct plx_dmodel *m = ctx;
	const struct plx_dmodel_slot *x = &m->slot[slot];
	double all = 1;

	(void)ids;
	if (x->n_ids != n || x->want > 0)
		return;
	for (uint32_t i = 0; i < most && i < x->got.n; i++) {
		float p = chance(m, x, class_of(x->got.p[i]));

		all *= (double)p;
		if (all < least)
			break;
		plx_draft_add(out, (int32_t)i - 1, x->got.id[i], p);
	}
	for (uint32_t i = 0, n_path = out->n; i < n_path && out->tree; i++)
		add_others(m, x, i, least, out);
}

static uint32_t blocks_for(const struct plx_dmodel *m, uint32_t n_tok)
{
	return (n_tok + m->conf.block_tokens - 1) / m->conf.block_tokens;
}

/* Positions of the device's KV that are right for ids[0..n): all but what was guessed wrong. */
static uint32_t still_right(const struct plx_dmodel_slot *x, const int32_t *ids, uint32_t n)
{
	uint32_t right = x->n_ids;

	for (uint32_t i = 0; i < x->got.n && right < n && x->got.id[i] == ids[right]; i++)
		right++;
	right = right < x->n_run ? right : x->n_run;
	/* The last id is run in any case: its sample is the first guess. */
	return right < n ? right : n - 1;
}

static uint32_t expect(void *ctx, uint32_t slot, uint32_t n, uint32_t most,
                       struct plx_draft_hope *out)
{
	const struct plx_dmodel *m = ctx;
	const struct plx_dmodel_slot *x = &m->slot[slot];
	uint32_t seen = x->n_run < n ? x->n_run : n;
	uint32_t room = (x->n_blocks + m->n_free) * m->conf.block_tokens;
	float p = chance_any(m, x);

	if (m->lost || x->failed || x->want > 0 || x->in_flight > 0 || n >= m->conf.n_ctx)
		return 0;
	most = most < PLX_MAX_DRAFT ? most : PLX_MAX_DRAFT;
	most = most < m->conf.n_ctx - n ? most : m->conf.n_ctx - n;
	if (n >= room)
		return 0;
	most = most < room - n ? most : room - n;
	for (uint32_t i = 0; i < most; i++)
		out->p[i] = p;
	out->each_ns = m->step_ns;
	out->behind = n - seen > CATCH_UP ? n - seen : 0;
	out->once_ns = out->behind * m->tok_ns;
	return most;
}

static void ask(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t want)
{
	struct plx_dmodel *m = ctx;
	struct plx_dmodel_slot *x = &m->slot[slot];

	PLX_DCHECK(x->want == 0 && x->in_flight == 0 && n > 0);
	x->n_run = x->ids ? still_right(x, ids, n) : 0;
	x->ids = ids;
	x->n_ids = n;
	x->n_given = x->n_judged = 0;
	x->got.n = 0;
	x->want = want < PLX_MAX_DRAFT ? want : PLX_MAX_DRAFT;
	m->n_asked += x->want > 0;
}

static bool busy(void *ctx)
{
	const struct plx_dmodel *m = ctx;

	return m->n_asked > 0 && !m->lost;
}

struct plx_drafter plx_dmodel_drafter(struct plx_dmodel *m)
{
	return (struct plx_drafter){
	    .name = m->conf.kind == PLX_DRAFT_LAYERS ? "layers" : "model",
	    .ctx = m,
	    .begin = begin,
	    .learn = learn,
	    .propose = propose,
	    .kind = (uint8_t)m->conf.kind,
	    .end = end,
	    .sampling = sampling,
	    .expect = expect,
	    .ask = ask,
	    .busy = busy,
	};
}

/* ---- steps ---- */

static void add_delta(struct plx_step *st, uint32_t kind, uint32_t slot, uint32_t index,
                      uint32_t value)
{
	struct plx_step_delta e = {.kind = kind, .slot = slot, .index = index};

	PLX_DCHECK(st->n_delta < st->max_deltas);
	if (kind == PLX_DELTA_SLOT_SET)
		e.sampler_off = value;
	else
		e.block = value;
	plx_step_deltas(st)[st->n_delta++] = e;
}

static void set_slot(struct plx_dmodel_slot *x, uint32_t slot, struct plx_step *st)
{
	struct plx_sampler *w = &plx_step_samplers(st)[st->n_sampler];

	*w = x->how;
	if (x->on_device)
		add_delta(st, PLX_DELTA_SLOT_CLEAR, slot, 0, 0);
	add_delta(st, PLX_DELTA_SLOT_SET, slot, 0,
	          st->sampler_off + st->n_sampler++ * (uint32_t)sizeof(*w));
	x->set = x->on_device = true;
	x->n_told = 0;
}

/* Blocks for positions up to n_tok; false: there are none. */
static bool take_blocks(struct plx_dmodel *m, struct plx_dmodel_slot *x, uint32_t n_tok)
{
	uint32_t want = blocks_for(m, n_tok);

	if (want > x->n_blocks + m->n_free)
		return false;
	while (x->n_blocks < want)
		x->block[x->n_blocks++] = m->free[--m->n_free];
	return true;
}

/* The next tokens of a sequence that was asked: ids it has not seen, or the last guess. */
static void give(struct plx_dmodel *m, uint32_t slot, struct plx_step *st)
{
	struct plx_dmodel_slot *x = &m->slot[slot];
	bool known = x->n_run < x->n_ids;
	uint32_t left = m->conf.step_tokens - st->n_tok, n = known ? x->n_ids - x->n_run : 1;

	n = n < left ? n : left;
	if (!take_blocks(m, x, x->n_run + n)) {
		/* Those that came stay; a guess in flight comes to nobody. */
		stop_asking(m, x);
		return;
	}
	if (!x->set)
		set_slot(x, slot, st);
	for (; x->n_told < blocks_for(m, x->n_run + n); x->n_told++)
		add_delta(st, PLX_DELTA_BLOCK, slot, x->n_told, x->block[x->n_told]);
	plx_step_seqs(st)[st->n_seq++] = (struct plx_step_seq){
	    .slot = slot, .first_tok = st->n_tok, .n_tok = n, .n_top = m->conf.n_top};
	for (uint32_t i = 0; i < n; i++, x->n_run++) {
		bool last = x->n_run + 1 >= x->n_ids;

		plx_step_toks(st)[st->n_tok++] =
		    (struct plx_step_tok){.id = known ? x->ids[x->n_run] : PLX_TOK_LAST,
		                          .pos = {x->n_run, 0, 0},
		                          .parent = -1,
		                          .flags = last ? (uint32_t)PLX_TOKF_LOGITS : 0u};
		x->n_given += last;
	}
	x->in_flight++;
}

uint32_t plx_dmodel_fill(struct plx_dmodel *m, struct plx_step *st)
{
	if (m->lost || m->n_asked == 0)
		return 0;
	st->n_tok = st->n_seq = st->n_delta = st->n_sampler = 0;
	st->status = 0;
	st->start_ns = st->end_ns = 0;
	__atomic_store_n(&st->cancel, 0u, __ATOMIC_RELAXED);
	for (uint32_t i = 0; i < m->conf.n_slots; i++) {
		const struct plx_dmodel_slot *x = &m->slot[i];

		if (st->n_tok == m->conf.step_tokens || st->n_seq == m->conf.step_seqs)
			break;
		if (x->want > x->n_given)
			give(m, i, st);
	}
	if (st->n_tok == 0)
		return 0;
	st->id = m->next_id++;
	m->n_out++;
	return st->n_tok;
}

/* ---- results ---- */

static void take_guess(struct plx_dmodel *m, struct plx_dmodel_slot *x, const struct plx_step *st,
                       const struct plx_step_out *o)
{
	if (o->status != 0) {
		x->failed = true;
		stop_asking(m, x);
		return;
	}
	if (o->n_out == 0 || x->want == 0)
		return;
	if (o->top_off)
		memcpy(x->top[x->got.n], (const char *)st + o->top_off,
		       m->conf.n_top * sizeof(struct plx_top));
	x->got.id[x->got.n] = o->id[0];
	x->got.p[x->got.n++] = o->logprob[0];
	if (x->got.n == x->want)
		stop_asking(m, x);
}

static void smooth(double *mean, double x)
{
	*mean = *mean > 0 ? *mean + SMOOTH * (x - *mean) : x;
}

static void measure(struct plx_dmodel *m, const struct plx_step *st)
{
	double ns = st->end_ns > st->start_ns ? (double)(st->end_ns - st->start_ns) : 0;

	if (ns <= 0)
		return;
	if (st->n_tok <= 2 * st->n_seq)
		smooth(&m->step_ns, ns);
	else if (st->n_tok >= st->n_seq + CATCH_UP)
		smooth(&m->tok_ns, ns / st->n_tok);
}

static void lose(struct plx_dmodel *m)
{
	m->lost = true;
	for (uint32_t i = 0; i < m->conf.n_slots; i++)
		stop_asking(m, &m->slot[i]);
}

void plx_dmodel_done(struct plx_dmodel *m, struct plx_step *st, int status)
{
	PLX_CHECK(m->n_out > 0);
	m->n_out--;
	if (status != 0)
		lose(m);
	else
		measure(m, st);
	for (uint32_t i = 0; i < st->n_seq; i++) {
		struct plx_dmodel_slot *x = &m->slot[plx_step_seqs(st)[i].slot];

		PLX_CHECK(x->in_flight > 0);
		x->in_flight--;
		if (x->stale > 0)
			x->stale--;
		else if (status == 0)
			take_guess(m, x, st, &plx_step_outs(st)[i]);
	}
}
