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

/* Samples from penalised logits and puts the penalised ones back as they were. */
static int64_t sample(const struct plx_slot_sampler *s, const struct plx_kernels *k, float *logits,
                      uint32_t n_vocab, uint32_t pos, void *scratch)
{
	const struct plx_sampler *c = &s->conf;
	struct plx_k_sampling how = {c->temperature, c->top_p,  c->min_p, c->repeat_penalty,
	                             c->top_k,       c->sample, c->seed};
	uint32_t recent[PLX_PENALTY_WINDOW];
	float was[PLX_PENALTY_WINDOW];
	uint32_t n = 0;

	if (c->repeat_penalty < 1 || c->repeat_penalty > 1)
		n = plx_slot_sampler_recent(s, pos, recent);
	for (uint32_t i = 0; i < n; i++)
		was[i] = logits[recent[i]];
	if (n > 0)
		plx_k_penalise(logits, n_vocab, recent, n, c->repeat_penalty);
	int64_t id = plx_k_sample(k, &how, logits, n_vocab, pos, 0, scratch);

	for (uint32_t i = 0; i < n; i++)
		logits[recent[i]] = was[i];
	return id;
}

struct plx_choice plx_slot_sampler_choose(const struct plx_slot_sampler *s,
                                          const struct plx_kernels *k, float *logits,
                                          uint32_t n_vocab, uint32_t pos, struct plx_top *top,
                                          uint32_t n_top, void *scratch)
{
	struct plx_k_logprob lp[PLX_K_TOP_MAX];
	struct plx_choice c = {.status = PLX_E_FAULT, .id = -1};
	int64_t id = sample(s, k, logits, n_vocab, pos, scratch);

	if (id < 0)
		return c;
	if (plx_k_logprobs(k, logits, n_vocab, (uint32_t)id, &c.logprob, lp, n_top, scratch) != 0)
		return c;
	for (uint32_t i = 0; i < n_top; i++)
		top[i] = (struct plx_top){(int32_t)lp[i].id, lp[i].logprob};
	c.status = PLX_E_OK;
	c.id = (int32_t)id;
	return c;
}
