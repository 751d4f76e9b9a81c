/* Trees of drafts: built by drafters, laid out for the device; see draft.h. */
#include "dataplane/batch/draft.h"

#include "fw/base/check.h"

#define NONE (-1)

int32_t plx_draft_add(struct plx_draft *d, int32_t parent, int32_t id, float p)
{
	for (uint32_t i = (uint32_t)(parent + 1); i < d->n; i++)
		if (d->parent[i] == parent && d->id[i] == id)
			return (int32_t)i;
	if (d->n == PLX_DRAFT_NODES)
		return NONE;
	uint32_t i = d->n++;

	PLX_DCHECK(parent < (int32_t)i);
	d->id[i] = id;
	d->parent[i] = parent;
	d->p[i] = p;
	d->all[i] = p * (parent < 0 ? 1.0f : d->all[parent]);
	return (int32_t)i;
}

/* Stable, so that parents stay before children that are as likely. */
void plx_draft_sort(struct plx_draft *d)
{
	struct plx_draft was = *d;
	int32_t order[PLX_DRAFT_NODES], place[PLX_DRAFT_NODES];

	for (uint32_t i = 0; i < d->n; i++) {
		uint32_t k = i;

		for (; k > 0 && was.all[order[k - 1]] < was.all[i]; k--)
			order[k] = order[k - 1];
		order[k] = (int32_t)i;
	}
	for (uint32_t k = 0; k < d->n; k++)
		place[order[k]] = (int32_t)k;
	for (uint32_t k = 0; k < d->n; k++) {
		int32_t from = order[k], parent = was.parent[from];

		d->id[k] = was.id[from];
		d->p[k] = was.p[from];
		d->all[k] = was.all[from];
		d->parent[k] = parent < 0 ? NONE : place[parent];
	}
}

uint32_t plx_draft_depth(const struct plx_draft *d, uint32_t n)
{
	uint32_t depth[PLX_DRAFT_NODES], most = 0;

	for (uint32_t i = 0; i < n; i++) {
		depth[i] = d->parent[i] < 0 ? 1 : depth[d->parent[i]] + 1;
		most = depth[i] > most ? depth[i] : most;
	}
	return most;
}

/* Which of the first n stay: not too deep, not behind one that goes, no branch too many. */
static uint32_t choose(const struct plx_draft *d, uint32_t n, uint32_t depth, uint32_t branches,
                       bool *stays)
{
	uint32_t at[PLX_DRAFT_NODES], left = branches;
	bool child[PLX_DRAFT_NODES + 1] = {false}; /* [0]: of the committed token */

	for (uint32_t i = 0; i < n; i++) {
		int32_t up = d->parent[i];

		at[i] = up < 0 ? 1 : at[up] + 1;
		bool forks = child[up + 1];

		stays[i] = (up < 0 || stays[up]) && at[i] <= depth && (!forks || left > 0);
		left -= stays[i] && forks;
		child[up + 1] = forks || stays[i];
	}
	return branches - left;
}

uint32_t plx_draft_lay(const struct plx_draft *d, uint32_t n, uint32_t depth, uint32_t branches,
                       struct plx_draft *out)
{
	bool left[PLX_DRAFT_NODES];
	int32_t place[PLX_DRAFT_NODES], up = NONE;
	uint32_t used = choose(d, n, depth, branches, left), i = 0;

	plx_draft_begin(out, d->tree);
	out->tell = d->tell;
	/* Down to the first child that was not laid yet; where there is none, up again. */
	for (;;) {
		for (i = (uint32_t)(up + 1); i < n && !(left[i] && d->parent[i] == up); i++)
			;
		if (i == n && up < 0)
			return used;
		if (i == n) {
			up = d->parent[up];
			continue;
		}
		left[i] = false;
		place[i] = (int32_t)out->n;
		out->id[out->n] = d->id[i];
		out->p[out->n] = d->p[i];
		out->all[out->n] = d->all[i];
		out->parent[out->n++] = up < 0 ? NONE : place[up];
		up = (int32_t)i;
	}
}
