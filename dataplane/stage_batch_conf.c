/* The batch stage's sizes from the board file; see stage_batch_int.h. */
#include "dataplane/stage_batch_int.h"
#include "fw/base/clock.h"

static_assert(PLX_SCHED_MAX_SAMPLES == PLX_SAMPLES_MAX, "one limit");
static_assert(PLX_FLEET_DEVS == PLX_CFG_MAX_DEVS, "one limit");
static_assert(PLX_CFG_PREFILL == (int)PLX_FLEET_PREFILL && PLX_CFG_DECODE == (int)PLX_FLEET_DECODE,
              "one numbering");
static_assert((int)PLX_CFG_KV_F16 == PLX_KV_F16 && (int)PLX_CFG_KV_Q8 == PLX_KV_Q8 &&
                  (int)PLX_CFG_KV_Q4 == PLX_KV_Q4,
              "one list");
static_assert(PLX_SCHED_TENANTS == PLX_MAX_TENANTS, "one limit");

static uint32_t ctx_tokens(const struct plx_config *cfg, uint32_t n_ctx)
{
	uint64_t most = (uint64_t)cfg->lim.prompt_tokens + cfg->lim.max_new_tokens;
	uint64_t pool = (uint64_t)cfg->lim.n_kv_blocks * cfg->lim.block_tokens;
	uint32_t own = cfg->lim.context_tokens;

	most = most < n_ctx ? most : n_ctx;
	most = own == 0 || most < own ? most : own;
	return (uint32_t)(most < pool ? most : pool);
}

static uint32_t step_seqs(const struct plx_config *cfg)
{
	return cfg->lim.step_seqs < cfg->lim.n_slots ? cfg->lim.step_seqs : cfg->lim.n_slots;
}

/* Branches of drafts' trees that the device is to have room for: sparse attention has none. */
static uint32_t branches(const struct plx_config *cfg)
{
	bool drafts = cfg->lim.draft_tokens > 0 || cfg->lim.draft_ahead > 0;

	for (uint32_t i = 0; i < cfg->n_devs; i++)
		drafts = drafts || cfg->dev[i].role == PLX_CFG_DRAFT;
	if (!drafts || cfg->lim.sparse_mass > 0 || cfg->lim.sparse_chunks > 0 ||
	    cfg->lim.sparse_least > 0)
		return 0;
	return cfg->lim.draft_branches;
}

struct plx_dev_limits plx_batch_dev_limits(const struct plx_config *cfg, uint32_t n_ctx,
                                           uint32_t n_threads)
{
	const struct plx_cfg_limits *m = &cfg->lim;

	return (struct plx_dev_limits){
	    .n_slots = m->n_slots,
	    .n_blocks = m->n_kv_blocks,
	    .n_host_blocks = m->n_host_blocks,
	    .block_tokens = m->block_tokens,
	    .max_seq_blocks = (ctx_tokens(cfg, n_ctx) + m->block_tokens - 1) / m->block_tokens,
	    .max_step_tokens = m->step_tokens,
	    .max_step_seqs = step_seqs(cfg),
	    .steps_in_flight = m->steps_in_flight,
	    .n_threads = n_threads,
	    .kv_type = (uint32_t)cfg->kv_type,
	    .expert_mem_bytes = (uint64_t)m->expert_mem_mib << 20,
	    .sparse_mass = m->sparse_mass,
	    .sparse_chunks = m->sparse_chunks,
	    .sparse_from = m->sparse_from,
	    .sparse_own = m->sparse_least,
	    .early_layers = m->score_layers,
	    .tree_branches = branches(cfg),
	};
}

struct plx_dev_limits plx_batch_draft_limits(const struct plx_config *cfg, uint32_t n_ctx,
                                             uint32_t draft_ctx, uint32_t n_threads)
{
	struct plx_dev_limits l =
	    plx_batch_dev_limits(cfg, n_ctx < draft_ctx ? n_ctx : draft_ctx, n_threads);

	l.n_host_blocks = 0;
	l.sparse_mass = l.sparse_chunks = l.sparse_own = l.tree_branches = l.early_layers = 0;
	for (uint32_t i = 0; i < cfg->n_devs; i++)
		if (cfg->dev[i].role == PLX_CFG_DRAFT && cfg->dev[i].n_kv_blocks > 0)
			l.n_blocks = cfg->dev[i].n_kv_blocks;
	return l;
}

struct plx_dmodel_conf plx_batch_dmodel_conf(const struct plx_dev_limits *l,
                                             enum plx_draft_kind kind)
{
	return (struct plx_dmodel_conf){.n_slots = l->n_slots,
	                                .n_ctx = l->max_seq_blocks * l->block_tokens,
	                                .n_blocks = l->n_blocks,
	                                .block_tokens = l->block_tokens,
	                                .step_tokens = l->max_step_tokens,
	                                .step_seqs = l->max_step_seqs,
	                                .kind = kind};
}

static uint32_t draft_ids(const struct plx_config *cfg, uint32_t n_ctx)
{
	uint32_t ctx = ctx_tokens(cfg, n_ctx);

	return cfg->lim.draft_tokens < ctx ? cfg->lim.draft_tokens : ctx;
}

struct plx_sched_conf plx_batch_sched_conf(const struct plx_config *cfg,
                                           const struct plx_batch_model *model)
{
	const struct plx_cfg_limits *m = &cfg->lim;
	struct plx_sched_conf c = {
	    .n_keys = m->n_requests,
	    .n_slots = m->n_slots,
	    .n_blocks = m->n_kv_blocks,
	    .n_host_blocks = model->prefix_cache ? m->n_host_blocks : 0,
	    .step_copies = plx_cmd_copies(cfg),
	    .block_tokens = m->block_tokens,
	    .ctx_tokens = ctx_tokens(cfg, model->n_ctx),
	    .can_shift = (model->caps & PLX_CAP_SHIFT) != 0,
	    .can_evict = (model->caps & PLX_CAP_EVICT) != 0,
	    .max_prompt = m->prompt_tokens,
	    .max_new = m->max_new_tokens,
	    .step_tokens = m->step_tokens,
	    .step_seqs = step_seqs(cfg),
	    .steps_in_flight = m->steps_in_flight,
	    .window = m->unacked_tokens,
	    .pause_ns = cfg->tmr.pause_ms * PLX_NS_PER_MS,
	    .ttft_slo_ns = cfg->tmr.ttft_slo_us * PLX_NS_PER_US,
	    .itl_slo_ns = cfg->tmr.itl_slo_us * PLX_NS_PER_US,
	    .wait_ns = cfg->tmr.batch_wait_us * PLX_NS_PER_US,
	    .prefix_cache = model->prefix_cache,
	    .draft_ids = model->caps & PLX_CAP_DRAFT ? draft_ids(cfg, model->n_ctx) : 0,
	    .tree_branches = model->caps & PLX_CAP_TREE ? branches(cfg) : 0,
	    .ahead_ids = model->caps & PLX_CAP_DRAFT ? m->draft_ahead : 0,
	    .secret = model->secret,
	    .n_eog = model->n_eog,
	};

	for (uint32_t i = 0; i < model->n_eog && i < PLX_SCHED_MAX_EOG; i++)
		c.eog[i] = model->eog[i];
	return c;
}

size_t plx_stage_batch_bytes(const struct plx_config *cfg, uint32_t n_ctx)
{
	/* Whatever the device can turn out to do. */
	struct plx_batch_model model = {.n_ctx = n_ctx, .prefix_cache = true, .caps = UINT32_MAX};
	struct plx_sched_conf c = plx_batch_sched_conf(cfg, &model);

	size_t have = cfg->lim.n_samples * sizeof(struct plx_sched_have);

	struct plx_fleet_conf f = {.n_dev = plx_links_accels(cfg), .n_samples = cfg->lim.n_samples};

	for (uint32_t i = 0; i < f.n_dev; i++)
		f.dev[i].sched = c;
	struct plx_dev_limits draft = plx_batch_draft_limits(cfg, n_ctx, n_ctx, 1);
	struct plx_dmodel_conf dm = plx_batch_dmodel_conf(&draft, PLX_DRAFT_MODEL);

	return plx_fleet_bytes(&f) + plx_dmodel_bytes(&dm) +
	       cfg->lim.n_requests * (3 * sizeof(uint32_t) + 16 + have) + 384;
}
