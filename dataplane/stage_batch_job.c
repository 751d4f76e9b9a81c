/* A request as the scheduler takes it; see stage_batch_int.h. */
#include <math.h>

#include "dataplane/batch/compress.h"
#include "dataplane/stage_batch_int.h"
#include "fw/base/clock.h"

struct plx_compress_goal plx_batch_goal(const struct plx_req_compress *c)
{
	bool both = (c->how & PLX_COMPRESS_PROMPT) && (c->how & PLX_COMPRESS_KV);
	bool by_loss = c->by == PLX_COMPRESS_LOSS;
	float half = by_loss ? c->target / 2 : sqrtf(c->target);

	return (struct plx_compress_goal){by_loss, both ? half : c->target};
}

/* How much attention reads: as the request says, but no less than the board lets it; without a word
 * as the board says, but never less than all for what must not depend on the board. */
static struct plx_req_sparse sparse_of(const struct plx_stage_batch *s, const struct plx_req *r)
{
	const struct plx_cfg_limits *l = &s->links->cfg->lim;
	uint16_t floor = (uint16_t)(l->sparse_least > 0 ? l->sparse_least : 1000);
	struct plx_req_sparse w = r->view.sparse;

	if (r->view.m.flags & PLX_REQ_DETERMINISTIC)
		return (struct plx_req_sparse){0};
	if (w.mass == 0 && w.chunks == 0)
		return (struct plx_req_sparse){(uint16_t)l->sparse_mass,
		                               (uint16_t)l->sparse_chunks};
	w.mass = w.mass > floor ? w.mass : floor;
	return w.mass == 1000 ? (struct plx_req_sparse){0} : w;
}

static uint32_t flags_of(const struct plx_req *r, struct plx_req_sparse w)
{
	if (r->view.m.flags & PLX_REQ_DETERMINISTIC)
		return PLX_SEQF_DETERMINISTIC;
	return w.mass > 0 || w.chunks > 0 ? (uint32_t)PLX_SEQF_SPARSE : 0u;
}

uint32_t plx_batch_sparse_kind(const struct plx_stage_batch *s, const struct plx_req *r,
                               uint32_t kind)
{
	struct plx_req_sparse w = sparse_of(s, r);

	if (flags_of(r, w) != PLX_SEQF_SPARSE)
		return kind;
	uint32_t way = (uint32_t)w.mass << 16 | w.chunks;

	return (kind ^ way) * 0x9e3779b1u + s->links->cfg->lim.sparse_from;
}

struct plx_msg_done_sparse plx_batch_share(const struct plx_step_share *h)
{
	if (h->n == 0)
		return (struct plx_msg_done_sparse){1, 1, 1, 0};
	return (struct plx_msg_done_sparse){
	    .mean = (float)((double)h->sum / (double)h->n / PLX_SHARE_ONE),
	    .least = (float)h->least / PLX_SHARE_ONE,
	    .read = (float)((double)h->read / (double)h->chunks)};
}

struct plx_sched_job plx_batch_job(const struct plx_stage_batch *s, const struct plx_req *r)
{
	const struct plx_msg_req *m = &r->view.m;
	bool penalised = m->repeat_penalty < 1.0f || m->repeat_penalty > 1.0f;
	struct plx_req_sparse sparse = sparse_of(s, r);

	return (struct plx_sched_job){
	    .ids = r->ids,
	    .n_ids = r->n_ids - r->res.compress.n_pruned,
	    .max_new = m->max_new,
	    .n_samples = plx_req_runs(&r->view),
	    .n_top = m->flags & PLX_REQ_LOGPROBS ? m->n_logprobs : 0u,
	    .flags = flags_of(r, sparse),
	    .sparse_mass = sparse.mass,
	    .sparse_chunks = sparse.chunks,
	    .tenant = r->tenant,
	    .share_prefix = r->share_prefix,
	    .tenant_blocks = r->tenant_kv_blocks,
	    .session = r->session_id,
	    .weight = 1,
	    .priority = r->priority,
	    .ignore_eos = (m->flags & PLX_REQ_IGNORE_EOS) != 0,
	    .held = r->view.n_made != 0,
	    .no_drafts = (m->flags & PLX_REQ_NO_DRAFT) != 0,
	    .beyond = (m->flags & PLX_REQ_COMPRESS) != 0,
	    .evict = (r->view.compress.how & PLX_COMPRESS_KV) != 0,
	    .evict_late = (r->view.compress.how & PLX_COMPRESS_LATE) != 0,
	    .evict_goal = plx_batch_goal(&r->view.compress),
	    .deadline_ns = r->deadline_ns,
	    .ttft_slo_ns = m->ttft_slo_us * PLX_NS_PER_US,
	    .itl_slo_ns = m->itl_slo_us * PLX_NS_PER_US,
	    .sampler = {.temperature = m->temperature,
	                .top_p = m->top_p,
	                .min_p = m->min_p,
	                .repeat_penalty = m->repeat_penalty,
	                .top_k = m->top_k,
	                .seed = m->seed,
	                .penalty_window = penalised ? PLX_PENALTY_WINDOW : 0u},
	};
}

/* What the client of a resumed request has; NULL: it begins. */
const struct plx_sched_have *plx_batch_have(struct plx_stage_batch *s, const struct plx_req *r)
{
	struct plx_sched_have *h = &s->have[(size_t)r->idx * s->links->cfg->lim.n_samples];

	if (r->view.n_resumed == 0)
		return NULL;
	for (uint16_t i = 0; i < r->view.m.n_samples; i++) {
		h[i] = (struct plx_sched_have){0};
		/* In the message, which stays: little-endian, at a multiple of 4. */
		h[i].ids = (const void *)plx_req_resumed(&r->view, i, &h[i].n);
	}
	return h;
}

int plx_batch_check(const struct plx_stage_batch *s, const struct plx_req *r, const char **why)
{
	const struct plx_msg_req *m = &r->view.m;

	*why = NULL;
	if (s->gone) {
		*why = "the device did not come back after a reset";
		return PLX_E_DEVICE_LOST;
	}
	if (m->model_id != 0 && m->model_id != s->model.model_id) {
		*why = "no model has this id";
		return PLX_E_NO_MODEL;
	}
	if (m->adapter_id != 0) {
		*why = "no adapters are loaded";
		return PLX_E_NO_MODEL;
	}
	if (m->kind != PLX_REQ_GENERATE) {
		*why = "only generation runs here";
		return PLX_E_BAD_REQUEST;
	}
	if ((m->flags & PLX_REQ_LOGPROBS) && m->n_logprobs > 0 &&
	    !(s->model.caps & PLX_CAP_LOGPROBS)) {
		*why = "the device gives no log-probabilities";
		return PLX_E_BAD_REQUEST;
	}
	if (r->view.n_made && !(s->model.caps & PLX_CAP_LOGPROBS)) {
		*why = "the device gives no log-probabilities to choose the best by";
		return PLX_E_BAD_REQUEST;
	}
	return 0;
}

static bool scores_early(const struct plx_stage_batch *s)
{
	return (s->model.caps & PLX_CAP_EARLY) && s->links->cfg->lim.score_layers > 0;
}

uint32_t plx_batch_kind(const struct plx_stage_batch *s, const struct plx_req *r, uint32_t dev)
{
	uint32_t layers = scores_early(s) ? s->links->cfg->lim.score_layers : 0;
	bool pruned = (r->view.compress.how & PLX_COMPRESS_PROMPT) != 0;

	return s->lane[dev].dev.kind ^ (pruned ? layers * 0x9e3779b1u : 0);
}

/* First the prompt is scored; what is asked of the answer comes afterwards. */
struct plx_sched_job plx_batch_score_job(const struct plx_stage_batch *s, const struct plx_req *r)
{
	struct plx_sched_job job = plx_batch_job(s, r);

	job.n_samples = 1;
	job.n_top = 0;
	job.held = false;
	job.beyond = job.evict = false;
	job.score = r->score;
	job.flags &= ~(uint32_t)PLX_SEQF_SPARSE;
	if (scores_early(s))
		job.flags |= PLX_SEQF_EARLY;
	return job;
}
