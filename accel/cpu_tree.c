/* Trees of drafts on the CPU device; see cpu_tree.h. */
#include "accel/cpu_tree.h"

#include "accel/forward_tree.h"
#include "fw/base/check.h"

static bool is_tree(const struct plx_cpu *c, const struct plx_step_seq *q)
{
	return c->fwd.tree != NULL && c->fwd.tree->n_branch > 0 && q->n_draft > 1;
}

void plx_cpu_tree_lay(struct plx_cpu *c, const struct plx_step_tok *tok,
                      const struct plx_step_seq *q)
{
	uint32_t *end = c->fwd.tree->sub_end;

	for (uint32_t at = q->first_tok; at < q->first_tok + q->n_tok; at++)
		end[at] = at + 1;
	for (uint32_t at = q->first_tok + q->n_tok - 1; at > q->first_tok; at--) {
		uint32_t up = plx_cpu_tok_parent(tok, at);

		end[up] = end[at] > end[up] ? end[at] : end[up];
	}
}

const struct plx_slot_sampler *plx_cpu_tree_sampler(const struct plx_cpu *c, uint32_t row,
                                                    const struct plx_step_seq *q,
                                                    const struct plx_cpu_slot *slot,
                                                    struct plx_slot_sampler *own)
{
	const struct plx_step_tok *tok = plx_step_toks(c->step);
	uint32_t root = q->first_tok + q->n_tok - 1 - q->n_draft, at = c->fwd.row[row];

	if (!is_tree(c, q))
		return &slot->sampler;
	*own = slot->sampler;
	for (; at > root; at = plx_cpu_tok_parent(tok, at))
		plx_slot_sampler_note(own, slot->n_left + c->fwd.pos[at], c->fwd.id[at]);
	return own;
}

/* The row of the child that is id; 0: there is none. */
static uint32_t child(const struct plx_step_tok *tok, uint32_t root, uint32_t n_draft,
                      uint32_t rank, int32_t id)
{
	for (uint32_t i = rank + 1; i <= n_draft; i++)
		if (tok[root + i].id == id && plx_cpu_tok_parent(tok, root + i) == root + rank)
			return i;
	return 0;
}

void plx_cpu_path_take(const struct plx_cpu *c, const struct plx_step_seq *q, uint32_t row,
                       struct plx_cpu_path *out)
{
	const struct plx_step_tok *tok = plx_step_toks(c->step);
	uint32_t root = q->first_tok + q->n_tok - 1 - q->n_draft, rank = 0;

	out->n = 0;
	do {
		const struct plx_choice *ch = &c->choice[row + rank];

		out->status = ch->status;
		out->rank[out->n++] = rank;
		if (ch->status != 0)
			return;
		rank = child(tok, root, q->n_draft, rank, ch->id);
	} while (rank > 0);
}

/* The table of the branch that token `at` is in. */
static const uint32_t *table_of(const struct plx_cpu *c, uint32_t at)
{
	const struct plx_fwd *f = &c->fwd;

	for (uint32_t i = f->n_seq; i-- > 0;)
		if (f->seq[i].first_tok <= at)
			return f->seq[i].table;
	return NULL;
}

static void seq_settle(struct plx_cpu *c, const struct plx_step_seq *q, uint32_t row)
{
	struct plx_cpu_slot *slot = &c->slot[q->slot];
	uint32_t root = q->first_tok + q->n_tok - 1 - q->n_draft;
	struct plx_cpu_path path;

	plx_cpu_path_take(c, q, row, &path);
	uint32_t last = root + path.rank[path.n - 1];
	const uint32_t *table = table_of(c, last);

	if (path.status == 0 && table != slot->table)
		plx_fwd_tree_settle(&c->fwd, table, slot->table, c->fwd.pos[root],
		                    c->fwd.pos[last]);
}

bool plx_cpu_tree_settle(struct plx_cpu *c, struct plx_cut *out)
{
	struct plx_fwd *f = &c->fwd;
	uint32_t row = 0;

	if (f->tree == NULL || f->tree->n_branch == 0 || f->err != 0)
		return false;
	f->tree->n_copy = 0;
	for (uint32_t i = 0; i < c->step->n_seq; i++) {
		const struct plx_step_seq *q = &plx_step_seqs(c->step)[i];
		uint32_t first = row;

		while (row < f->n_row && c->row_seq[row] == i)
			row++;
		if (q->n_draft > 0)
			seq_settle(c, q, first);
	}
	return plx_fwd_tree_go(f, out);
}
