/* plx_sched as an engine: keys for requests, prompts written out, everything that comes back
 * scored. */
#include <stdlib.h>
#include <string.h>

#include "dataplane/batch/sched.h"
#include "fw/base/check.h"
#include "fw/base/err.h"
#include "tests/sim/sim.h"

#define MS 1000000u

struct ours {
	struct sim *s;
	struct sim_ours_conf conf;
	struct plx_arena arena;
	struct plx_sched sched;
	uint32_t n_keys;
	uint32_t *free_key;
	uint32_t n_free;
	uint32_t *req; /* [n_keys] */
	int32_t **ids; /* [n_keys] prompt; NULL: key is free */
	uint64_t now_ns;
	struct again *again; /* [n_again], conf.again */
	uint32_t n_again;
	uint64_t again_ns; /* the next */
};

/* A request that was refused and comes again. */
struct again {
	uint64_t at_ns;
	uint32_t req;
};

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                     float logprob, const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns)
{
	struct ours *o = ctx;

	(void)sample, (void)logprob, (void)top, (void)n_top, (void)end;
	sim_score_token(o->s->score, o->req[key], index, id, device_ns);
}

static void on_end(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
                   uint64_t device_ns)
{
	(void)ctx, (void)key, (void)sample, (void)end, (void)device_ns;
}

static void on_final(void *ctx, uint32_t key, const struct plx_sched_final *f)
{
	struct ours *o = ctx;
	bool whole = f->kind == PLX_SCHED_DONE && f->end[0] == PLX_SEQ_END_EOS;
	enum sim_end end = whole ? SIM_DONE : f->kind == PLX_SCHED_REJECT ? SIM_REJECTED : SIM_CUT;

	sim_score_end(o->s->score, o->req[key], end, end == SIM_REJECTED ? f->err : 0, o->now_ns);
	free(o->ids[key]);
	o->ids[key] = NULL;
	o->free_key[o->n_free++] = key;
}

static int32_t *write_prompt(const struct sim_req *r)
{
	int32_t *ids = malloc(4 * (size_t)r->n_prompt);

	PLX_CHECK(ids != NULL);
	for (uint32_t i = 0; i < r->n_prompt; i++)
		ids[i] = sim_text_id(&r->text, i);
	return ids;
}

static struct plx_sched_job job_of(const struct ours *o, uint32_t req, const int32_t *ids)
{
	const struct sim_req *r = &o->s->trace->req[req];
	const struct sim_objective *want = &sim_objectives[r->kind];
	struct plx_sched_job j = {
	    .ids = ids,
	    .n_ids = r->n_prompt,
	    .max_new = r->max_new,
	    .n_samples = 1,
	    .session = r->session,
	    .sampler = {.top_p = 1, .repeat_penalty = 1, .seed = req},
	};

	j.ttft_slo_ns = (uint64_t)want->first_ms * MS;
	j.itl_slo_ns = (uint64_t)want->between_ms * MS;
	if (o->conf.edit)
		o->conf.edit(req, &j);
	return j;
}

/* 0, or what it is refused with. */
static int ask(struct ours *o, uint32_t req, struct plx_sched_admit *out)
{
	if (o->n_free == 0) {
		out->retry_ns = plx_sched_retry_ns(&o->sched);
		return PLX_E_QUEUE_FULL;
	}
	uint32_t key = o->free_key[o->n_free - 1];
	int32_t *ids = write_prompt(&o->s->trace->req[req]);
	struct plx_sched_job j = job_of(o, req, ids);
	int e = plx_sched_add(&o->sched, key, &j, o->now_ns, out);

	if (e) {
		free(ids);
		return e;
	}
	o->n_free--;
	o->req[key] = req;
	o->ids[key] = ids;
	return 0;
}

static void comes_again(struct ours *o, uint32_t req, uint64_t at_ns)
{
	o->again[o->n_again++] = (struct again){.at_ns = at_ns, .req = req};
	o->again_ns = at_ns < o->again_ns ? at_ns : o->again_ns;
}

static void arrive(void *ctx, uint32_t req, uint64_t now_ns)
{
	struct ours *o = ctx;
	struct plx_sched_admit out;

	o->now_ns = now_ns;
	int e = ask(o, req, &out);

	if (!e)
		sim_score_estimate(o->s->score, req, out.est_ttft_ns);
	else if (o->conf.again && out.retry_ns > 0)
		comes_again(o, req, now_ns + out.retry_ns);
	else
		sim_score_end(o->s->score, req, SIM_REJECTED, e, now_ns);
}

/* Those whose time it is. */
static void ask_again(struct ours *o)
{
	struct plx_sched_admit out;
	uint32_t n = o->n_again;

	o->n_again = 0;
	o->again_ns = UINT64_MAX;
	for (uint32_t i = 0; i < n; i++) {
		struct again a = o->again[i];

		if (a.at_ns > o->now_ns) {
			comes_again(o, a.req, a.at_ns);
			continue;
		}
		int e = ask(o, a.req, &out);

		o->s->score->n_again++;
		o->s->score->n_again_in += e == 0;
		if (e)
			sim_score_end(o->s->score, a.req, SIM_REJECTED, e, o->now_ns);
	}
}

static uint32_t fill(void *ctx, struct plx_step *st, uint64_t now_ns)
{
	struct ours *o = ctx;

	o->now_ns = now_ns;
	return plx_sched_fill(&o->sched, st, UINT32_MAX, now_ns);
}

/* Clients take what the step brought, but for the deaf ones. */
static void clients_read(struct ours *o, struct plx_step *st)
{
	for (uint32_t i = 0; i < st->n_seq; i++) {
		const struct plx_seq *q = &o->sched.seq[plx_step_seqs(st)[i].slot];
		uint32_t req = q->state == PLX_SEQ_RUN ? o->req[q->ent] : 0;

		if (q->state == PLX_SEQ_RUN && (req + 1) % o->conf.deaf_mod != 0)
			plx_sched_window(&o->sched, q->ent, 0, q->n_out + o->conf.window);
	}
}

static void done(void *ctx, struct plx_step *st, uint64_t now_ns)
{
	struct ours *o = ctx;

	o->now_ns = now_ns;
	plx_sched_done(&o->sched, st, st->status, now_ns);
	if (o->conf.window)
		clients_read(o, st);
}

static void tick(void *ctx, uint64_t now_ns)
{
	struct ours *o = ctx;

	o->now_ns = now_ns;
	plx_sched_tick(&o->sched, now_ns);
	if (now_ns >= o->again_ns)
		ask_again(o);
}

static bool idle(void *ctx)
{
	struct ours *o = ctx;

	return o->n_again == 0 && plx_sched_idle(&o->sched);
}

static void close_ours(void *ctx)
{
	struct ours *o = ctx;

	plx_sched_check(&o->sched);
	memcpy(o->s->step_err, o->sched.stats.step_err, sizeof(o->s->step_err));
	PLX_CHECK(plx_sched_idle(&o->sched) && o->n_free == o->n_keys);
	PLX_CHECK(plx_kv_room(&o->sched.kv) == o->sched.conf.n_blocks);
	plx_arena_close(&o->arena);
	free(o->free_key);
	free(o->req);
	free(o->ids);
	free(o->again);
	free(o);
}

static struct plx_sched_conf sched_conf(const struct ours *o)
{
	const struct sim_ours_conf *c = &o->conf;

	return (struct plx_sched_conf){
	    .n_keys = o->n_keys,
	    .n_slots = SIM_SLOTS,
	    .n_blocks = c->n_blocks ? c->n_blocks : o->s->n_blocks,
	    .block_tokens = SIM_BLOCK_TOKENS,
	    .ctx_tokens = SIM_CONTEXT,
	    .max_prompt = SIM_MAX_PROMPT,
	    .max_new = SIM_MAX_NEW,
	    .step_tokens = c->step_tokens ? c->step_tokens : 2048,
	    .step_seqs = SIM_SLOTS,
	    .steps_in_flight = 2,
	    .window = c->window ? c->window : UINT32_MAX,
	    .pause_ns = c->pause_ns ? c->pause_ns : UINT64_MAX,
	    .prefix_cache = true,
	    .secret = sim_mix(o->s->seed),
	    .eog = {SIM_EOS},
	    .n_eog = 1,
	};
}

static_assert(sizeof(((struct sim *)0)->step_err) ==
                  sizeof(((struct plx_sched_stats *)0)->step_err),
              "one set of bins");

struct sim_engine sim_ours(struct sim *s, const struct sim_ours_conf *conf)
{
	struct ours *o = calloc(1, sizeof(*o));
	struct plx_diag d = {""};

	PLX_CHECK(o != NULL);
	o->s = s;
	o->conf = *conf;
	o->n_keys = conf->n_keys ? conf->n_keys : 1024;
	struct plx_sched_conf c = sched_conf(o);
	struct plx_sched_sink sink = {o, on_token, on_end, on_final};

	PLX_CHECK(plx_arena_open(&o->arena, plx_sched_bytes(&c), &d) == 0);
	PLX_CHECK(plx_sched_init(&o->sched, &o->arena, &c, &sink, &d) == 0);
	o->free_key = calloc(o->n_keys, sizeof(*o->free_key));
	o->req = calloc(o->n_keys, sizeof(*o->req));
	o->ids = calloc(o->n_keys, sizeof(*o->ids));
	o->again = calloc(s->trace->n_req, sizeof(*o->again));
	o->again_ns = UINT64_MAX;
	PLX_CHECK(o->free_key && o->req && o->ids && o->again);
	for (uint32_t k = o->n_keys; k-- > 0;)
		o->free_key[o->n_free++] = k;
	return (struct sim_engine){.name = "ours",
	                           .steps_in_flight = 2,
	                           .max_step_tokens = c.step_tokens,
	                           .ctx = o,
	                           .arrive = arrive,
	                           .fill = fill,
	                           .done = done,
	                           .tick = tick,
	                           .idle = idle,
	                           .close = close_ours};
}
