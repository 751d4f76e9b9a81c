/* A second device that drafts; see draftdev.h. */
#include "tests/lib/draftdev.h"

#include <string.h>

#include "fw/base/check.h"

static void make(struct draftdev *d, const struct plx_dev_limits *lim, enum plx_draft_kind kind)
{
	struct plx_dmodel_conf c = {.n_slots = lim->n_slots,
	                            .n_ctx = lim->max_seq_blocks * lim->block_tokens,
	                            .n_blocks = lim->n_blocks,
	                            .block_tokens = lim->block_tokens,
	                            .step_tokens = lim->max_step_tokens,
	                            .step_seqs = lim->max_step_seqs,
	                            .kind = kind,
	                            .n_top = lim->tree_branches > 0 ? PLX_DMODEL_TOP : 0};
	struct plx_diag diag = {""};

	PLX_CHECK(plx_arena_open(&d->arena, plx_dmodel_bytes(&c), &diag) == 0);
	PLX_CHECK(plx_dmodel_init(&d->m, &d->arena, &c) == 0);
	PLX_CHECK(lim->steps_in_flight <= 8);
	d->fail = 0;
	d->step_ns = 0;
	for (d->n_free = 0; d->n_free < lim->steps_in_flight; d->n_free++)
		d->free_step[d->n_free] = d->n_free;
}

void draftdev_open(struct draftdev *d, const char *model_path, const struct plx_dev_limits *lim)
{
	devkit_open(&d->kit, model_path, "auto", lim);
	make(d, lim, PLX_DRAFT_MODEL);
}

void draftdev_open_model(struct draftdev *d, struct plx_model *m, const struct plx_dev_limits *lim,
                         enum plx_draft_kind kind)
{
	devkit_open_model(&d->kit, m, "auto", lim);
	make(d, lim, kind);
}

void draftdev_close(struct draftdev *d)
{
	devkit_close(&d->kit);
	plx_arena_close(&d->arena);
}

bool draftdev_turn(struct draftdev *d)
{
	while (d->n_free > 0) {
		uint32_t idx = d->free_step[d->n_free - 1];

		if (plx_dmodel_fill(&d->m, plx_queue_step(d->kit.q, idx)) == 0)
			break;
		d->n_free--;
		PLX_CHECK(plx_queue_submit(d->kit.q, idx) == 0);
	}
	if (d->m.n_out == 0)
		return false;
	uint32_t idx = devkit_wait(&d->kit);
	struct plx_step *st = plx_queue_step(d->kit.q, idx);

	if (d->step_ns > 0)
		st->end_ns = st->start_ns + d->step_ns;
	plx_dmodel_done(&d->m, st, d->fail ? d->fail : st->status);
	d->fail = 0;
	d->free_step[d->n_free++] = idx;
	return true;
}
