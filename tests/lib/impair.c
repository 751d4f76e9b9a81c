/*
 * The bad network's logic. Held packets stand in one array, taken out by earliest due time and
 * then by order of arrival; at most PLX_IMPAIR_QUEUE of them, so a scan is cheap enough.
 */
#include "tests/lib/impair.h"

#include <stdlib.h>
#include <string.h>

struct held {
	uint64_t due_ns; /* 0: a free place */
	uint64_t order;
	struct plx_impair_packet p;
};

struct lane {
	struct plx_impair_cfg cfg;
	struct plx_impair_counts counts;
	uint64_t rng;
	uint32_t n_history;
	struct plx_impair_packet history[PLX_IMPAIR_HISTORY];
};

struct plx_impair {
	struct lane lane[PLX_IMPAIR_DIRS];
	uint64_t order;
	uint32_t n_held;
	uint32_t top; /* all places from here on are free */
	struct held held[PLX_IMPAIR_QUEUE];
};

/* SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014. */
static uint64_t draw(struct lane *l)
{
	uint64_t z = (l->rng += UINT64_C(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

static bool chance(struct lane *l, double p)
{
	return (double)(draw(l) >> 11) * 0x1.0p-53 < p;
}

struct plx_impair *plx_impair_new(const struct plx_impair_cfg cfg[PLX_IMPAIR_DIRS])
{
	struct plx_impair *im = calloc(1, sizeof(*im));

	if (!im)
		return NULL;
	for (int d = 0; d < PLX_IMPAIR_DIRS; d++) {
		im->lane[d].cfg = cfg[d];
		im->lane[d].rng = cfg[d].seed ^ ((uint64_t)d << 32);
	}
	return im;
}

void plx_impair_free(struct plx_impair *im)
{
	free(im);
}

void plx_impair_set(struct plx_impair *im, enum plx_impair_dir dir,
                    const struct plx_impair_cfg *cfg)
{
	im->lane[dir].cfg = *cfg;
}

static void hold(struct plx_impair *im, const struct plx_impair_packet *p, uint64_t due_ns)
{
	for (uint32_t i = 0; i < PLX_IMPAIR_QUEUE; i++) {
		struct held *h = &im->held[i];

		if (h->due_ns)
			continue;
		h->due_ns = due_ns ? due_ns : 1;
		h->order = im->order++;
		h->p = *p;
		im->n_held++;
		if (i >= im->top)
			im->top = i + 1;
		return;
	}
	im->lane[p->dir].counts.full++;
}

static void remember(struct lane *l, const struct plx_impair_packet *p)
{
	l->history[l->n_history++ % PLX_IMPAIR_HISTORY] = *p;
}

/* An old packet of the same flow, if a random place of the history has one. */
static void replay(struct plx_impair *im, struct lane *l, uint32_t flow, uint64_t due_ns)
{
	uint32_t n = l->n_history < PLX_IMPAIR_HISTORY ? l->n_history : PLX_IMPAIR_HISTORY;

	if (!n)
		return;
	const struct plx_impair_packet *old = &l->history[draw(l) % n];

	if (old->flow != flow)
		return;
	l->counts.replayed++;
	hold(im, old, due_ns);
}

/* Flip a bit or cut; true when p was changed. */
static bool damage(struct lane *l, struct plx_impair_packet *p)
{
	bool changed = false;

	if (chance(l, l->cfg.corrupt) && p->n_bytes) {
		uint64_t bit = draw(l) % ((uint64_t)p->n_bytes * 8);

		p->data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		l->counts.corrupted++;
		changed = true;
	}
	if (chance(l, l->cfg.truncate) && p->n_bytes) {
		p->n_bytes = (uint32_t)(draw(l) % p->n_bytes);
		l->counts.truncated++;
		changed = true;
	}
	return changed;
}

static uint64_t due_of(struct lane *l, uint64_t now_ns)
{
	uint64_t due = now_ns + (uint64_t)l->cfg.delay_us * 1000;

	if (chance(l, l->cfg.reorder)) {
		l->counts.reordered++;
		due += (uint64_t)(l->cfg.reorder_us ? l->cfg.reorder_us : 3000) * 1000;
	}
	return due;
}

void plx_impair_put(struct plx_impair *im, enum plx_impair_dir dir, uint32_t flow,
                    const uint8_t *data, uint32_t n_bytes, uint64_t now_ns)
{
	struct lane *l = &im->lane[dir];
	struct plx_impair_packet p = {.dir = dir, .flow = flow, .n_bytes = n_bytes};

	l->counts.in++;
	if (n_bytes > sizeof(p.data) || (l->cfg.mtu_bytes && n_bytes > l->cfg.mtu_bytes)) {
		l->counts.too_big++;
		return;
	}
	memcpy(p.data, data, n_bytes);
	uint64_t due = due_of(l, now_ns);

	if (chance(l, l->cfg.replay))
		replay(im, l, flow, due);
	remember(l, &p);
	if (chance(l, l->cfg.loss)) {
		l->counts.lost++;
		return;
	}
	if (chance(l, l->cfg.duplicate)) {
		l->counts.duplicated++;
		hold(im, &p, due + 1000);
	}
	struct plx_impair_packet original = p;

	if (damage(l, &p) && l->cfg.spare_originals)
		hold(im, &original, due);
	hold(im, &p, due);
}

static struct held *earliest(struct plx_impair *im)
{
	struct held *best = NULL;

	for (uint32_t i = 0; i < im->top; i++) {
		struct held *h = &im->held[i];

		if (h->due_ns && (!best || h->due_ns < best->due_ns ||
		                  (h->due_ns == best->due_ns && h->order < best->order)))
			best = h;
	}
	return best;
}

bool plx_impair_get(struct plx_impair *im, uint64_t now_ns, struct plx_impair_packet *out)
{
	if (!im->n_held)
		return false;
	struct held *h = earliest(im);

	if (!h || h->due_ns > now_ns)
		return false;
	*out = h->p;
	h->due_ns = 0;
	im->n_held--;
	while (im->top && !im->held[im->top - 1].due_ns)
		im->top--;
	im->lane[out->dir].counts.out++;
	return true;
}

uint64_t plx_impair_next_ns(const struct plx_impair *im)
{
	uint64_t next = UINT64_MAX;

	for (uint32_t i = 0; i < im->top; i++)
		if (im->held[i].due_ns && im->held[i].due_ns < next)
			next = im->held[i].due_ns;
	return next;
}

const struct plx_impair_counts *plx_impair_counts_of(const struct plx_impair *im,
                                                     enum plx_impair_dir dir)
{
	return &im->lane[dir].counts;
}
