/* A slot's sampler: recent ids by position, and one choice from one row of logits. */
#include "accel/sampler.h"

#include <string.h>

#include "fw/base/err.h"

void plx_slot_sampler_set(struct plx_slot_sampler *s, const struct plx_sampler *conf)
{
	memset(s, 0, sizeof(*s));
	s->conf = *conf;
	s->last_id = -1;
}

/* The first position that runs tells where the ids before it belong. */
static void place(struct plx_slot_sampler *s, uint32_t pos)
{
	uint32_t n = s->conf.n_recent < pos ? s->conf.n_recent : pos;

	for (uint32_t i = 0; i < n; i++)
		s->recent[(pos - n + i) % PLX_RECENT_RING] =
		    s->conf.recent[s->conf.n_recent - n + i];
	s->first_pos = pos - n;
	s->placed = true;
}

void plx_slot_sampler_note(struct plx_slot_sampler *s, uint32_t pos, int32_t id)
{
	if (!s->placed)
		place(s, pos);
	s->recent[pos % PLX_RECENT_RING] = id;
}

uint32_t plx_slot_sampler_recent(const struct plx_slot_sampler *s, uint32_t pos,
                                 uint32_t out[PLX_PENALTY_WINDOW])
{
	uint32_t known = pos > s->first_pos ? pos - s->first_pos : 0;
	uint32_t n = s->conf.penalty_window < known ? s->conf.penalty_window : known;

	for (uint32_t i = 0; i < n; i++)
		out[i] = (uint32_t)s->recent[(pos - n + i) % PLX_RECENT_RING];
	return n;
}

void plx_slot_sampler_begin(struct plx_choosing *g, const struct plx_slot_sampler *s,
                            const struct plx_kernels *k, float *logits, uint32_t n_vocab,
                            uint32_t pos, struct plx_top *top, uint32_t n_top, void *scratch)
{
	const struct plx_sampler *c = &s->conf;
	struct plx_k_sampling how = {c->temperature, c->top_p,  c->min_p, c->repeat_penalty,
	                             c->top_k,       c->sample, c->seed};

	g->k = k;
	g->logits = logits;
	g->top = top;
	g->n_top = n_top;
	g->n_vocab = n_vocab;
	g->state = PLX_CHOOSING_ID;
	g->choice = (struct plx_choice){.status = PLX_E_FAULT, .id = -1};
	g->n_recent = 0;
	if (c->repeat_penalty < 1 || c->repeat_penalty > 1)
		g->n_recent = plx_slot_sampler_recent(s, pos, g->recent);
	for (uint32_t i = 0; i < g->n_recent; i++)
		g->was[i] = logits[g->recent[i]];
	if (g->n_recent > 0)
		plx_k_penalise(logits, n_vocab, g->recent, g->n_recent, c->repeat_penalty);
	plx_k_sample_begin(scratch, k, &how, logits, n_vocab, pos, 0);
}

void plx_slot_score_begin(struct plx_choosing *g, const struct plx_kernels *k, float *logits,
                          uint32_t n_vocab, uint32_t id, void *scratch)
{
	g->k = k;
	g->logits = logits;
	g->top = NULL;
	g->n_top = 0;
	g->n_vocab = n_vocab;
	g->n_recent = 0;
	g->state = PLX_CHOOSING_LOGPROBS;
	g->choice = (struct plx_choice){.status = PLX_E_FAULT, .id = (int32_t)id};
	plx_k_logprobs_begin(scratch, k, logits, n_vocab, id, 0);
}

/* When the id is known the logits become what they were. */
static void id_step(struct plx_choosing *g, uint32_t budget, void *scratch)
{
	int64_t id = plx_k_sample_step(scratch, budget);

	if (id == PLX_E_AGAIN)
		return;
	for (uint32_t i = 0; i < g->n_recent; i++)
		g->logits[g->recent[i]] = g->was[i];
	if (id < 0) {
		g->state = PLX_CHOOSING_DONE;
		return;
	}
	g->choice.id = (int32_t)id;
	g->state = PLX_CHOOSING_LOGPROBS;
	plx_k_logprobs_begin(scratch, g->k, g->logits, g->n_vocab, (uint32_t)id, g->n_top);
}

static void logprobs_step(struct plx_choosing *g, uint32_t budget, void *scratch)
{
	struct plx_k_logprob lp[PLX_K_TOP_MAX];

	int err = plx_k_logprobs_step(scratch, budget, &g->choice.logprob, lp);

	if (err == PLX_E_AGAIN)
		return;
	g->state = PLX_CHOOSING_DONE;
	if (err != 0) {
		g->choice.id = -1;
		return;
	}
	for (uint32_t i = 0; i < g->n_top; i++)
		g->top[i] = (struct plx_top){(int32_t)lp[i].id, lp[i].logprob};
	g->choice.status = PLX_E_OK;
}

bool plx_slot_sampler_step(struct plx_choosing *g, uint32_t budget, void *scratch)
{
	if (g->state == PLX_CHOOSING_ID)
		id_step(g, budget, scratch);
	else if (g->state == PLX_CHOOSING_LOGPROBS)
		logprobs_step(g, budget, scratch);
	return g->state == PLX_CHOOSING_DONE;
}

struct plx_choice plx_slot_sampler_choose(const struct plx_slot_sampler *s,
                                          const struct plx_kernels *k, float *logits,
                                          uint32_t n_vocab, uint32_t pos, struct plx_top *top,
                                          uint32_t n_top, void *scratch)
{
	struct plx_choosing g;

	plx_slot_sampler_begin(&g, s, k, logits, n_vocab, pos, top, n_top, scratch);
	while (!plx_slot_sampler_step(&g, UINT32_MAX, scratch))
		;
	return g.choice;
}
