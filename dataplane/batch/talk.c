/* Chains of cells, a table by owner, and the order of use; see talk.h. */
#include "dataplane/batch/talk.h"

#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

/* ---- start ---- */

static uint32_t cells_for(const struct plx_talk_conf *c)
{
	return (c->n_tokens + PLX_TALK_CELL_IDS - 1) / PLX_TALK_CELL_IDS;
}

static uint32_t buckets_for(const struct plx_talk_conf *c)
{
	uint32_t n = 1;

	while (n < c->n_entries)
		n *= 2;
	return n;
}

size_t plx_talk_bytes(const struct plx_talk_conf *c)
{
	size_t chain = c->n_samples * sizeof(struct plx_talk_chain);

	return cells_for(c) * sizeof(struct plx_talk_cell) +
	       c->n_entries * (sizeof(struct plx_talk_entry) + chain) +
	       c->n_running * (chain + sizeof(bool)) + buckets_for(c) * sizeof(uint32_t) + 512;
}

static void link_free(struct plx_talk *t)
{
	for (uint32_t i = t->n_cells; i-- > 0;) {
		t->cell[i].next = t->free_cell;
		t->free_cell = i + 1;
	}
	t->n_free_cells = t->n_cells;
	for (uint32_t i = t->conf.n_entries; i-- > 0;) {
		t->entry[i].bucket_next = t->free_entry;
		t->free_entry = i + 1;
	}
}

int plx_talk_init(struct plx_talk *t, struct plx_arena *a, const struct plx_talk_conf *c)
{
	size_t n_answers = (size_t)c->n_entries * c->n_samples;

	memset(t, 0, sizeof(*t));
	t->conf = *c;
	t->n_cells = cells_for(c);
	t->n_buckets = buckets_for(c);
	t->cell = plx_arena_take(a, t->n_cells * sizeof(*t->cell), 64);
	t->entry = plx_arena_take(a, c->n_entries * sizeof(*t->entry), 64);
	t->answer = plx_arena_take(a, n_answers * sizeof(*t->answer), 64);
	t->live = plx_arena_take(a, (size_t)c->n_running * c->n_samples * sizeof(*t->live), 64);
	t->bucket = plx_arena_take(a, t->n_buckets * sizeof(*t->bucket), 64);
	t->lost = plx_arena_take(a, c->n_running * sizeof(*t->lost), 64);
	if (!t->cell || !t->entry || !t->answer || !t->live || !t->bucket || !t->lost)
		return PLX_E_NOMEM;
	link_free(t);
	return 0;
}

/* ---- entries ---- */

static uint32_t *bucket_of(struct plx_talk *t, uint64_t owner)
{
	uint64_t h = owner * UINT64_C(0x9e3779b97f4a7c15);

	return &t->bucket[(h >> 32) & (t->n_buckets - 1)];
}

static void give_chain(struct plx_talk *t, struct plx_talk_chain *c)
{
	if (c->first) {
		t->cell[c->last - 1].next = t->free_cell;
		t->free_cell = c->first;
		t->n_free_cells += (c->n + PLX_TALK_CELL_IDS - 1) / PLX_TALK_CELL_IDS;
	}
	*c = (struct plx_talk_chain){0};
}

static struct plx_talk_chain *answer_of(const struct plx_talk *t, uint32_t entry, uint32_t sample)
{
	return &t->answer[(size_t)entry * t->conf.n_samples + sample];
}

static struct plx_talk_chain *live_of(const struct plx_talk *t, uint32_t run, uint32_t sample)
{
	return &t->live[(size_t)run * t->conf.n_samples + sample];
}

static void order_remove(struct plx_talk *t, uint32_t i)
{
	struct plx_talk_entry *e = &t->entry[i];

	*(e->newer ? &t->entry[e->newer - 1].older : &t->newest) = e->older;
	*(e->older ? &t->entry[e->older - 1].newer : &t->oldest) = e->newer;
}

static void order_add(struct plx_talk *t, uint32_t i)
{
	struct plx_talk_entry *e = &t->entry[i];

	e->newer = 0;
	e->older = t->newest;
	*(t->newest ? &t->entry[t->newest - 1].newer : &t->oldest) = i + 1;
	t->newest = i + 1;
}

static void forget(struct plx_talk *t, uint32_t i)
{
	struct plx_talk_entry *e = &t->entry[i];
	uint32_t *at = bucket_of(t, e->owner);

	while (*at != i + 1)
		at = &t->entry[*at - 1].bucket_next;
	*at = e->bucket_next;
	order_remove(t, i);
	give_chain(t, &e->prompt);
	for (uint32_t s = 0; s < e->n_samples; s++)
		give_chain(t, answer_of(t, i, s));
	e->n_samples = 0;
	e->bucket_next = t->free_entry;
	t->free_entry = i + 1;
	t->n_kept--;
}

/* ---- cells ---- */

/* A cell, at the cost of the entry used longest ago; 0: none. */
static uint32_t take_cell(struct plx_talk *t)
{
	while (!t->free_cell && t->oldest)
		forget(t, t->oldest - 1);
	uint32_t c = t->free_cell;

	if (c) {
		t->free_cell = t->cell[c - 1].next;
		t->n_free_cells--;
		t->cell[c - 1].next = 0;
	}
	return c;
}

static bool append(struct plx_talk *t, struct plx_talk_chain *c, const int32_t *ids, uint32_t n)
{
	while (n > 0) {
		uint32_t at = c->n % PLX_TALK_CELL_IDS;

		if (at == 0) {
			uint32_t cell = take_cell(t);

			if (!cell)
				return false;
			*(c->last ? &t->cell[c->last - 1].next : &c->first) = cell;
			c->last = cell;
		}
		uint32_t room = PLX_TALK_CELL_IDS - at, k = n < room ? n : room;

		memcpy(&t->cell[c->last - 1].id[at], ids, k * sizeof(*ids));
		c->n += k;
		ids += k;
		n -= k;
	}
	return true;
}

static int32_t *read_out(const struct plx_talk *t, const struct plx_talk_chain *c, int32_t *out)
{
	uint32_t left = c->n;

	for (uint32_t i = c->first; i != 0; i = t->cell[i - 1].next) {
		uint32_t k = left < PLX_TALK_CELL_IDS ? left : PLX_TALK_CELL_IDS;

		memcpy(out, t->cell[i - 1].id, k * sizeof(*out));
		out += k;
		left -= k;
	}
	return out;
}

/* ---- requests under way ---- */

void plx_talk_begin(struct plx_talk *t, uint32_t run)
{
	for (uint32_t s = 0; s < t->conf.n_samples; s++)
		PLX_DCHECK(live_of(t, run, s)->n == 0);
	t->lost[run] = t->n_cells == 0;
}

void plx_talk_drop(struct plx_talk *t, uint32_t run)
{
	for (uint32_t s = 0; s < t->conf.n_samples; s++)
		give_chain(t, live_of(t, run, s));
}

void plx_talk_add(struct plx_talk *t, uint32_t run, uint16_t sample, const int32_t *ids, uint32_t n)
{
	if (t->lost[run] || append(t, live_of(t, run, sample), ids, n))
		return;
	plx_talk_drop(t, run);
	t->lost[run] = true;
}

/* ---- kept ones ---- */

/* The owner's oldest goes while it has its full number. */
static void make_way(struct plx_talk *t, uint64_t owner)
{
	uint32_t n = 0, oldest = 0;

	/* A bucket has the newest first. */
	for (uint32_t i = *bucket_of(t, owner); i != 0; i = t->entry[i - 1].bucket_next)
		if (t->entry[i - 1].owner == owner) {
			n++;
			oldest = i;
		}
	if (n >= t->conf.per_owner && oldest)
		forget(t, oldest - 1);
}

static uint32_t take_entry(struct plx_talk *t)
{
	if (!t->free_entry && t->oldest)
		forget(t, t->oldest - 1);
	uint32_t i = t->free_entry;

	if (i)
		t->free_entry = t->entry[i - 1].bucket_next;
	return i;
}

static void enter(struct plx_talk *t, uint32_t i, uint32_t run, const struct plx_talk_end *e,
                  const struct plx_talk_chain *prompt)
{
	uint32_t *bucket = bucket_of(t, e->owner);

	t->entry[i] = (struct plx_talk_entry){.owner = e->owner,
	                                      .req_id = e->req_id,
	                                      .bucket_next = *bucket,
	                                      .n_samples = e->n_samples,
	                                      .prompt = *prompt};
	*bucket = i + 1;
	for (uint32_t s = 0; s < e->n_samples; s++) {
		*answer_of(t, i, s) = *live_of(t, run, s);
		*live_of(t, run, s) = (struct plx_talk_chain){0};
	}
	order_add(t, i);
	t->n_kept++;
}

bool plx_talk_keep(struct plx_talk *t, uint32_t run, const struct plx_talk_end *e)
{
	struct plx_talk_chain prompt = {0};

	PLX_DCHECK(e->n_samples > 0 && e->n_samples <= t->conf.n_samples);
	if (t->lost[run] || t->conf.per_owner == 0)
		goto drop;
	make_way(t, e->owner);
	if (!append(t, &prompt, e->prompt, e->n_prompt))
		goto drop;
	uint32_t i = take_entry(t);

	if (!i)
		goto drop;
	enter(t, i - 1, run, e, &prompt);
	return true;
drop:
	give_chain(t, &prompt);
	plx_talk_drop(t, run);
	return false;
}

uint32_t plx_talk_find(struct plx_talk *t, uint64_t owner, uint64_t req_id)
{
	uint32_t i = t->conf.n_entries ? *bucket_of(t, owner) : 0;

	while (i && (t->entry[i - 1].owner != owner || t->entry[i - 1].req_id != req_id))
		i = t->entry[i - 1].bucket_next;
	if (!i)
		return PLX_TALK_NONE;
	order_remove(t, i - 1);
	order_add(t, i - 1);
	return i - 1;
}

uint32_t plx_talk_len(const struct plx_talk *t, uint32_t entry, uint32_t sample)
{
	const struct plx_talk_entry *e = &t->entry[entry];

	return sample < e->n_samples ? e->prompt.n + answer_of(t, entry, sample)->n : 0;
}

void plx_talk_copy(const struct plx_talk *t, uint32_t entry, uint32_t sample, int32_t *out)
{
	out = read_out(t, &t->entry[entry].prompt, out);
	read_out(t, answer_of(t, entry, sample), out);
}

uint32_t plx_talk_walk(struct plx_talk *t, uint32_t n, bool (*is_there)(void *ctx, uint64_t owner),
                       void *ctx)
{
	uint32_t gone = 0;

	for (uint32_t k = 0; t->n_kept > 0 && k < n; k++) {
		uint32_t i = t->walk;

		t->walk = i + 1 < t->conf.n_entries ? i + 1 : 0;
		if (t->entry[i].n_samples == 0 || is_there(ctx, t->entry[i].owner))
			continue;
		forget(t, i);
		gone++;
	}
	return gone;
}

/* ---- invariants ---- */

static uint32_t cells_of(const struct plx_talk *t, const struct plx_talk_chain *c)
{
	uint32_t n = 0;

	for (uint32_t i = c->first; i != 0; i = t->cell[i - 1].next)
		n++;
	PLX_CHECK(n == (c->n + PLX_TALK_CELL_IDS - 1) / PLX_TALK_CELL_IDS);
	return n;
}

void plx_talk_check(const struct plx_talk *t)
{
	uint32_t n_cells = 0, n_kept = 0, n_ordered = 0;

	for (uint32_t i = t->free_cell; i != 0; i = t->cell[i - 1].next)
		n_cells++;
	PLX_CHECK(n_cells == t->n_free_cells);
	for (uint32_t i = 0; i < t->conf.n_entries; i++) {
		n_kept += t->entry[i].n_samples != 0;
		for (uint32_t s = 0; s < t->entry[i].n_samples; s++)
			n_cells += cells_of(t, answer_of(t, i, s));
		if (t->entry[i].n_samples)
			n_cells += cells_of(t, &t->entry[i].prompt);
	}
	for (uint32_t i = 0; i < t->conf.n_running * t->conf.n_samples; i++)
		n_cells += cells_of(t, &t->live[i]);
	for (uint32_t i = t->newest; i != 0; i = t->entry[i - 1].older)
		n_ordered++;
	PLX_CHECK(n_cells == t->n_cells && n_kept == t->n_kept && n_ordered == n_kept);
}
