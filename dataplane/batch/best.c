/* Chains of cells, one a sample; best.h says what for. */
#include "dataplane/batch/best.h"

#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

static uint32_t cells_for(uint64_t units)
{
	return (uint32_t)((units + PLX_BEST_CELL_UNITS - 1) / PLX_BEST_CELL_UNITS);
}

static struct plx_best_sample *sample_of(const struct plx_best *b, uint32_t run, uint32_t sample)
{
	return &b->sample[(size_t)run * b->conf.n_samples + sample];
}

size_t plx_best_bytes(const struct plx_best_conf *c)
{
	return (size_t)cells_for(c->n_units) * sizeof(struct plx_best_cell) +
	       (size_t)c->n_running * c->n_samples * sizeof(struct plx_best_sample) +
	       c->n_running * sizeof(uint32_t) + 256;
}

int plx_best_init(struct plx_best *b, struct plx_arena *a, const struct plx_best_conf *c)
{
	size_t n = (size_t)c->n_running * c->n_samples;

	memset(b, 0, sizeof(*b));
	b->conf = *c;
	b->n_cells = cells_for(c->n_units);
	b->cell = plx_arena_take(a, b->n_cells * sizeof(*b->cell), 64);
	b->sample = plx_arena_take(a, n * sizeof(*b->sample), 64);
	b->reserved = plx_arena_take(a, c->n_running * sizeof(*b->reserved), 64);
	if (!b->cell || !b->sample || !b->reserved)
		return PLX_E_NOMEM;
	memset(b->sample, 0, n * sizeof(*b->sample));
	memset(b->reserved, 0, c->n_running * sizeof(*b->reserved));
	for (uint32_t i = b->n_cells; i-- > 0;) {
		b->cell[i].next = b->free_cell;
		b->free_cell = i + 1;
	}
	return 0;
}

int plx_best_begin(struct plx_best *b, uint32_t run, uint32_t n, uint32_t max_new, uint32_t n_top)
{
	uint64_t units = (uint64_t)max_new * (1 + n_top);

	PLX_CHECK(b->reserved[run] == 0 && n <= b->conf.n_samples);
	if (units > b->conf.n_units || (uint64_t)n * cells_for(units) > b->n_cells)
		return PLX_E_TOO_LARGE;
	uint32_t need = n * cells_for(units);

	if (need > b->n_cells - b->n_reserved)
		return PLX_E_QUEUE_FULL;
	b->n_reserved += need;
	b->reserved[run] = need;
	memset(sample_of(b, run, 0), 0, n * sizeof(struct plx_best_sample));
	return 0;
}

static struct plx_top *next_unit(struct plx_best *b, struct plx_best_sample *s)
{
	uint32_t at = s->n_units++ % PLX_BEST_CELL_UNITS;

	if (at == 0) {
		uint32_t i = b->free_cell;

		PLX_CHECK(i != 0); /* begin reserved it */
		b->free_cell = b->cell[i - 1].next;
		b->cell[i - 1].next = 0;
		if (s->last)
			b->cell[s->last - 1].next = i;
		else
			s->first = i;
		s->last = i;
	}
	return &b->cell[s->last - 1].unit[at];
}

void plx_best_add(struct plx_best *b, uint32_t run, uint32_t sample, const struct plx_top *id,
                  const struct plx_top *top, uint32_t n_top)
{
	struct plx_best_sample *s = sample_of(b, run, sample);

	*next_unit(b, s) = *id;
	for (uint32_t i = 0; i < n_top; i++)
		*next_unit(b, s) = top[i];
}

void plx_best_count(struct plx_best *b, uint32_t run, uint32_t sample, float logprob)
{
	struct plx_best_sample *s = sample_of(b, run, sample);

	s->n_ids++;
	s->sum += (double)logprob;
}

void plx_best_failed(struct plx_best *b, uint32_t run, uint32_t sample)
{
	sample_of(b, run, sample)->failed = true;
}

float plx_best_mean(const struct plx_best *b, uint32_t run, uint32_t sample)
{
	const struct plx_best_sample *s = sample_of(b, run, sample);

	return s->n_ids ? (float)(s->sum / s->n_ids) : 0;
}

uint32_t plx_best_ids(const struct plx_best *b, uint32_t run, uint32_t n)
{
	uint32_t ids = 0;

	for (uint32_t i = 0; i < n; i++)
		ids += sample_of(b, run, i)->n_ids;
	return ids;
}

/* Those with ids, those without, those that failed. */
static int class_of(const struct plx_best_sample *s)
{
	return s->failed ? 2 : s->n_ids == 0;
}

static bool better(const struct plx_best_sample *x, const struct plx_best_sample *y)
{
	if (class_of(x) != class_of(y))
		return class_of(x) < class_of(y);
	return class_of(x) == 0 && x->sum / x->n_ids > y->sum / y->n_ids;
}

void plx_best_rank(const struct plx_best *b, uint32_t run, uint32_t n, uint16_t *order)
{
	for (uint16_t i = 0; i < n; i++) {
		uint32_t at = i;

		for (; at > 0 && better(sample_of(b, run, i), sample_of(b, run, order[at - 1]));
		     at--)
			order[at] = order[at - 1];
		order[at] = i;
	}
}

bool plx_best_next(const struct plx_best *b, uint32_t run, uint32_t sample, struct plx_best_at *at,
                   struct plx_top *out)
{
	const struct plx_best_sample *s = sample_of(b, run, sample);
	uint32_t i = at->unit % PLX_BEST_CELL_UNITS;

	if (at->unit == s->n_units)
		return false;
	if (i == 0)
		at->cell = at->unit == 0 ? s->first : b->cell[at->cell - 1].next;
	*out = b->cell[at->cell - 1].unit[i];
	at->unit++;
	return true;
}

void plx_best_end(struct plx_best *b, uint32_t run)
{
	for (uint32_t i = 0; b->reserved[run] && i < b->conf.n_samples; i++) {
		struct plx_best_sample *s = sample_of(b, run, i);

		if (s->last) {
			b->cell[s->last - 1].next = b->free_cell;
			b->free_cell = s->first;
		}
		memset(s, 0, sizeof(*s));
	}
	b->n_reserved -= b->reserved[run];
	b->reserved[run] = 0;
}

void plx_best_check(const struct plx_best *b)
{
	uint32_t n = 0, reserved = 0;

	for (uint32_t i = b->free_cell; i; i = b->cell[i - 1].next)
		n++;
	for (uint32_t run = 0; run < b->conf.n_running; run++) {
		uint32_t used = 0;

		for (uint32_t i = 0; i < b->conf.n_samples; i++)
			used += cells_for(sample_of(b, run, i)->n_units);
		PLX_CHECK(used <= b->reserved[run]);
		n += used;
		reserved += b->reserved[run];
	}
	PLX_CHECK(n == b->n_cells && reserved == b->n_reserved);
}
