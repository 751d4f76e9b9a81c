/* One drafter over a tiny model; see draftrig.h. */
#include "tests/lib/draftrig.h"

#include <string.h>

#include "accel/model/layers.h"
#include "fw/base/check.h"

#define BT 16u
#define P  0.7f /* the chance that each draft is said to have */

static struct plx_drafter inner; /* of the rig that is open */

/* What it proposes, however unlikely it thinks that is. */
static void propose(void *ctx, uint32_t slot, const int32_t *ids, uint32_t n, uint32_t most,
                    double least, struct plx_draft *out)
{
	float left[PLX_DRAFT_NODES + 1];

	(void)least;
	inner.propose(ctx, slot, ids, n, most, 0, out);
	for (uint32_t i = 0; i <= PLX_DRAFT_NODES; i++)
		left[i] = 1;
	for (uint32_t i = 0; i < out->n; i++) {
		int32_t up = out->parent[i];

		out->p[i] = P * left[up + 1];
		left[up + 1] -= out->p[i];
		out->all[i] = out->p[i] * (up < 0 ? 1 : out->all[up]);
	}
}

static uint32_t expect(void *ctx, uint32_t slot, uint32_t n, uint32_t most,
                       struct plx_draft_hope *out)
{
	uint32_t can = inner.expect(ctx, slot, n, most, out);

	for (uint32_t i = 0; i < can; i++)
		out->p[i] = P;
	return can;
}

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                     float logprob, const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns)
{
	struct draftrig *r = ctx;

	(void)sample, (void)logprob, (void)top, (void)n_top, (void)end, (void)device_ns;
	r->token(r->ctx, key, index, id);
}

static void on_end(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
                   uint64_t device_ns)
{
	(void)ctx, (void)key, (void)sample, (void)end, (void)device_ns;
}

static void on_final(void *ctx, uint32_t key, const struct plx_sched_final *f)
{
	struct draftrig *r = ctx;

	r->final(r->ctx, key, f);
}

static void add_device(struct draftrig *r)
{
	struct plx_dev_limits lim = r->kit.lim;
	struct plx_model *m;
	struct plx_diag d = {""};

	lim.n_blocks = DRAFTRIG_BLOCKS;
	if (r->who == PLX_DRAFT_LAYERS)
		PLX_CHECK(plx_model_without(r->kit.model, "1", &m, &d) == 0);
	else
		PLX_CHECK(plx_model_open("tests/golden/tiny/qwen2.gguf", &m, &d) == 0);
	draftdev_open_model(&r->draft, m, &lim, (enum plx_draft_kind)r->who);
	r->draft.step_ns = 10000;
	struct plx_drafter by = plx_dmodel_drafter(&r->draft.m);

	PLX_CHECK(plx_sched_add_drafter(&r->sched, &by) == 0);
}

static bool has_device(const struct draftrig *r)
{
	return r->who == PLX_DRAFT_MODEL || r->who == PLX_DRAFT_LAYERS;
}

static void sched_open(struct draftrig *r, bool trees, uint32_t n_blocks)
{
	struct plx_sched_sink sink = {r, on_token, on_end, on_final};
	struct plx_diag d = {""};
	struct plx_sched_conf c = {.n_keys = DRAFTRIG_KEYS,
	                           .n_slots = DRAFTRIG_SLOTS,
	                           .n_blocks = n_blocks,
	                           .block_tokens = BT,
	                           .ctx_tokens = DRAFTRIG_CTX,
	                           .max_prompt = DRAFTRIG_CTX,
	                           .max_new = DRAFTRIG_CTX,
	                           .step_tokens = r->kit.lim.max_step_tokens,
	                           .step_seqs = DRAFTRIG_SLOTS,
	                           .steps_in_flight = 2,
	                           .window = 1000,
	                           .pause_ns = UINT64_MAX,
	                           .prefix_cache = true,
	                           .draft_ids = r->who == PLX_DRAFT_LOOKUP ? DRAFTRIG_CTX : 0,
	                           .ahead_ids = r->who == PLX_DRAFT_AHEAD ? 6 : 0,
	                           .tree_branches = trees ? r->kit.lim.tree_branches : 0};

	PLX_CHECK(plx_arena_open(&r->arena, plx_sched_bytes(&c), &d) == 0);
	PLX_CHECK(plx_sched_init(&r->sched, &r->arena, &c, &sink, &d) == 0);
}

void draftrig_open(struct draftrig *r, uint32_t who, bool trees, uint32_t n_blocks)
{
	struct plx_dev_limits lim = devkit_limits();

	memset(r, 0, sizeof(*r));
	r->who = who;
	lim.n_slots = lim.max_step_seqs = DRAFTRIG_SLOTS;
	lim.n_blocks = n_blocks;
	lim.block_tokens = BT;
	lim.max_seq_blocks = DRAFTRIG_CTX / BT;
	lim.max_step_tokens = 320;
	lim.n_threads = 1;
	lim.tree_branches = trees ? 48 : 0;
	devkit_open(&r->kit, "tests/golden/tiny/llama3.gguf", "auto", &lim);
	sched_open(r, trees, n_blocks);
	if (has_device(r))
		add_device(r);
	if (r->sched.draft.n_by > 0) {
		inner = r->sched.draft.by[0];
		r->sched.draft.by[0].propose = propose;
		r->sched.draft.by[0].expect = inner.expect ? expect : NULL;
	}
	r->n_free = 2;
	r->free_step[1] = 1;
}

void draftrig_close(struct draftrig *r)
{
	plx_sched_check(&r->sched);
	PLX_CHECK(plx_kv_room(&r->sched.kv) == r->sched.conf.n_blocks);
	if (has_device(r)) {
		while (draftdev_turn(&r->draft)) /* guesses that nobody waits for */
			;
		PLX_CHECK(r->draft.m.n_free == r->draft.m.conf.n_blocks);
		draftdev_close(&r->draft);
	}
	devkit_close(&r->kit);
	plx_arena_close(&r->arena);
}

static void collect(struct draftrig *r)
{
	uint32_t idx = devkit_wait(&r->kit);
	struct plx_step *st = plx_queue_step(r->kit.q, idx);

	PLX_CHECK(st->status == 0);
	st->start_ns = r->clock + 10000;
	r->clock = st->end_ns = st->start_ns + 900000 + st->n_tok * 100;
	plx_sched_done(&r->sched, st, 0, 1);
	r->free_step[r->n_free++] = idx;
	r->sched.draft.credit_ns = 1e9; /* whatever it lost */
	for (uint32_t i = 0; i < DRAFTRIG_SLOTS; i++)
		r->sched.seq[i].purse_ns = 1e9;
	r->sched.load.step_ns = 100000000; /* so that all ids are learnt at once */
}

bool draftrig_turn(struct draftrig *r)
{
	while (r->n_free > 0) {
		uint32_t idx = r->free_step[r->n_free - 1];

		if (!plx_sched_fill(&r->sched, plx_queue_step(r->kit.q, idx), 10000, 1))
			break;
		r->n_free--;
		PLX_CHECK(plx_queue_submit(r->kit.q, idx) == 0);
	}
	if (has_device(r) && draftdev_turn(&r->draft) && r->n_free == 2)
		return true;
	if (r->n_free == 2)
		return !plx_sched_idle(&r->sched) && r->n_idle++ < 1000;
	r->n_idle = 0;
	collect(r);
	return true;
}

const char *draftrig_name(uint32_t who)
{
	static const char *const name[] = {[PLX_DRAFT_LOOKUP] = "lookup",
	                                   [PLX_DRAFT_MODEL] = "model",
	                                   [PLX_DRAFT_LAYERS] = "layers",
	                                   [PLX_DRAFT_AHEAD] = "lookahead",
	                                   [DRAFTRIG_NONE] = "none"};

	return who <= DRAFTRIG_NONE ? name[who] : "?";
}
