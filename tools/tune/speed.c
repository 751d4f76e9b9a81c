/* The batch stage's loop, with a load that follows its answers. */
#include "tools/tune/speed.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <xxhash.h>

#include "dataplane/batch/sched.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "tools/gguf/out.h"

#define WARM_ANSWER 8u

/* A request in flight. */
struct asked {
	uint64_t begin_ns, last_ns;
	uint32_t number;
	bool over;
};

struct run {
	const struct plx_speed_load *load;
	struct plx_rig *rig;
	struct plx_sched sched;
	struct plx_arena arena;
	struct asked by_key[PLX_SPEED_BATCH];
	uint32_t n_asked, n_over, n_first; /* requests: begun, ended, with a first id */
	uint32_t n_requests, answer;       /* of this part */
	double *gap, *first;               /* ms */
	uint32_t n_gap, n_first_of;
	uint64_t sent_ns[PLX_SCHED_MAX_STEPS], done_ns; /* steps */
	uint64_t first_ns, last_ns, n_ids, hash;
	int err; /* the scheduler's, of a request */
};

static uint64_t now(const struct run *r)
{
	struct timespec t;

	if (!r->load->cpu_time)
		return plx_clock_ns();
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * PLX_NS_PER_S + (uint64_t)t.tv_nsec;
}

/* ---- what the scheduler says ---- */

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                     float logprob, const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns)
{
	struct run *r = ctx;
	struct asked *a = &r->by_key[key];
	uint64_t at = now(r), mix[2] = {r->hash, (uint64_t)a->number << 32 | (uint32_t)id};

	(void)sample, (void)logprob, (void)top, (void)n_top, (void)end, (void)device_ns;
	/* In whatever order answers come, the sum is the same. */
	mix[0] = index;
	r->hash += XXH3_64bits(mix, sizeof mix);
	if (index == 0) {
		r->first[r->n_first_of++] = (double)(at - a->begin_ns) / 1e6;
		r->n_first++;
		if (r->first_ns == 0)
			r->first_ns = at;
	} else {
		r->gap[r->n_gap++] = (double)(at - a->last_ns) / 1e6;
		r->n_ids++;
	}
	a->last_ns = r->last_ns = at;
}

static void on_end(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
                   uint64_t device_ns)
{
	(void)ctx, (void)key, (void)sample, (void)end, (void)device_ns;
}

static void on_final(void *ctx, uint32_t key, const struct plx_sched_final *f)
{
	struct run *r = ctx;

	r->by_key[key].over = true;
	r->n_over++;
	if (f->kind != PLX_SCHED_DONE && !r->err)
		r->err = f->err ? f->err : PLX_E_CANCELLED;
}

/* ---- the load ---- */

static int ask(struct run *r, uint32_t key)
{
	const struct plx_speed_load *l = r->load;
	uint32_t span = l->n_ids - l->prompt + 1, at = r->n_asked * l->prompt % span;
	struct plx_sched_job j = {.ids = l->ids + at,
	                          .n_ids = l->prompt,
	                          .max_new = r->answer,
	                          .n_samples = 1,
	                          .flags = plx_limits_sparse(&r->rig->lim) ? PLX_SEQF_SPARSE : 0u,
	                          .ignore_eos = true,
	                          .ttft_slo_ns = 86400 * PLX_NS_PER_S,
	                          .sampler = {.top_p = 1, .repeat_penalty = 1}};
	struct plx_sched_admit said;

	r->by_key[key] = (struct asked){.begin_ns = now(r), .number = r->n_asked++};
	return plx_sched_add(&r->sched, key, &j, now(r), &said);
}

/* Requests that come now: at the start one behind another, later one for each that ended. */
static int ask_more(struct run *r)
{
	int err = 0;

	while (!err && r->n_asked < r->load->batch && r->n_asked < r->n_requests &&
	       r->n_first >= r->n_asked)
		err = ask(r, r->n_asked);
	for (uint32_t k = 0; k < r->load->batch && !err && r->n_asked < r->n_requests; k++)
		if (r->n_asked >= r->load->batch && r->by_key[k].over)
			err = ask(r, k);
	return err;
}

/*
 * Where processor time is measured the scheduler has to live in it as well: it makes steps as long
 * as it saw others take, and on a busy machine would make them after what the others did.
 */
static void stamp(struct run *r, struct plx_step *s, uint32_t idx)
{
	uint64_t before = r->done_ns;

	r->done_ns = now(r);
	if (!r->load->cpu_time)
		return;
	s->start_ns = r->sent_ns[idx] > before ? r->sent_ns[idx] : before;
	s->end_ns = r->done_ns;
}

static int turn(struct run *r, uint32_t *free_step, uint32_t *n_free)
{
	int err = ask_more(r), idx;

	while (!err && *n_free > 0) {
		idx = (int)free_step[*n_free - 1];
		if (!plx_sched_fill(&r->sched, plx_queue_step(r->rig->q, (uint32_t)idx),
		                    PLX_SPEED_GAPS, now(r)))
			break;
		--*n_free;
		r->sent_ns[idx] = now(r);
		err = plx_queue_submit(r->rig->q, (uint32_t)idx);
	}
	if (err || *n_free == r->rig->lim.steps_in_flight)
		return err;
	idx = plx_rig_wait(r->rig);
	if (idx < 0)
		return idx;
	struct plx_step *s = plx_queue_step(r->rig->q, (uint32_t)idx);

	stamp(r, s, (uint32_t)idx);
	plx_sched_done(&r->sched, s, s->status, now(r));
	free_step[(*n_free)++] = (uint32_t)idx;
	return s->status ? s->status : r->err;
}

/* n requests, served until all have ended. */
static int serve(struct run *r, uint32_t n, uint32_t answer, struct plx_diag *d)
{
	uint32_t free_step[PLX_SCHED_MAX_STEPS], n_free = 0;
	int err = 0;

	for (; n_free < r->rig->lim.steps_in_flight; n_free++)
		free_step[n_free] = n_free;
	r->n_requests = n;
	r->answer = answer;
	r->n_asked = r->n_over = r->n_first = r->n_gap = r->n_first_of = 0;
	r->first_ns = r->n_ids = r->hash = 0;
	while (!err && (r->n_over < n || n_free < r->rig->lim.steps_in_flight)) {
		if (plx_out_interrupted())
			return plx_diag_set(d, PLX_E_CANCELLED, "interrupted");
		err = turn(r, free_step, &n_free);
	}
	return err ? plx_diag_set(d, err, "the scheduler or the device refused the load: %s",
	                          plx_err_help(err))
	           : 0;
}

/* ---- open and close ---- */

static uint32_t blocks_of(const struct plx_speed_load *l, const struct plx_tune_setup *s)
{
	return (l->prompt + l->answer + s->block_tokens - 1) / s->block_tokens + 1;
}

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

void plx_speed_effect(const struct plx_speed_load *l, struct plx_tune_setup *s)
{
	uint32_t most = l->prompt > 1 + PLX_MAX_DRAFT ? l->prompt : 1 + PLX_MAX_DRAFT;

	if (least(l->prompt + l->answer, l->n_places) <= l->sparse_from ||
	    l->n_places < l->prompt + l->answer)
		s->sparse_mass = s->sparse_chunks = 0;
	s->draft_tokens = least(s->draft_tokens, l->prompt + l->answer);
	s->step_seqs = least(s->step_seqs, l->batch);
	s->step_tokens = least(s->step_tokens, l->batch * most);
}

/* As polluxd does it: as many slots as sequences may wait in the device, and a pool for all. */
struct plx_dev_limits plx_speed_limits(const struct plx_speed_load *l,
                                       const struct plx_tune_setup *s)
{
	return (struct plx_dev_limits){.n_slots = l->batch,
	                               .n_blocks = (l->batch + 1) * blocks_of(l, s),
	                               .block_tokens = s->block_tokens,
	                               .max_seq_blocks = blocks_of(l, s),
	                               .max_step_tokens = s->step_tokens,
	                               .max_step_seqs =
	                                   s->step_seqs < l->batch ? s->step_seqs : l->batch,
	                               .steps_in_flight = s->steps_in_flight,
	                               .n_threads = l->n_threads,
	                               .kv_type = s->kv_type,
	                               .sparse_mass = s->sparse_mass,
	                               .sparse_chunks = s->sparse_chunks,
	                               .sparse_from = l->sparse_from};
}

static int run_open(struct run *r, const struct plx_speed_load *l, const struct plx_tune_setup *s,
                    struct plx_rig *rig, struct plx_diag *d)
{
	struct plx_sched_sink sink = {r, on_token, on_end, on_final};
	uint32_t ctx = l->prompt + l->answer;
	struct plx_sched_conf c = {.n_keys = l->batch,
	                           .n_slots = rig->lim.n_slots,
	                           .n_blocks = rig->lim.n_blocks,
	                           .block_tokens = rig->lim.block_tokens,
	                           .ctx_tokens = ctx,
	                           .max_prompt = l->prompt,
	                           .max_new = l->answer,
	                           .step_tokens = rig->lim.max_step_tokens,
	                           .step_seqs = rig->lim.max_step_seqs,
	                           .steps_in_flight = rig->lim.steps_in_flight,
	                           .window = ctx,
	                           .pause_ns = UINT64_MAX,
	                           .draft_ids = s->draft_tokens < ctx ? s->draft_tokens : ctx};

	r->load = l;
	r->rig = rig;
	r->gap = calloc((size_t)l->n_requests * l->answer, sizeof(double));
	r->first = calloc(l->n_requests, sizeof(double));
	if (!r->gap || !r->first)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for the load");
	int err = plx_arena_open(&r->arena, plx_sched_bytes(&c), d);

	return err ? err : plx_sched_init(&r->sched, &r->arena, &c, &sink, d);
}

static void run_close(struct run *r)
{
	plx_arena_close(&r->arena);
	free(r->gap);
	free(r->first);
}

/* ---- figures ---- */

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* A quantile between the two values nearest to it. */
static double quantile(double *x, uint32_t n, double q)
{
	double at = q * (n - 1);
	uint32_t i = (uint32_t)at;

	qsort(x, n, sizeof *x, by_value);
	return i + 1 < n ? x[i] + (at - i) * (x[i + 1] - x[i]) : x[i];
}

static void report(struct run *r, struct plx_speed *out)
{
	*out = (struct plx_speed){
	    .rate = (double)r->n_ids * 1e9 / (double)(r->last_ns - r->first_ns),
	    .first_ms = quantile(r->first, r->n_first_of, 0.5),
	    .p50_ms = quantile(r->gap, r->n_gap, 0.5),
	    .p99_ms = quantile(r->gap, r->n_gap, 0.99),
	    .text = r->hash,
	};
	for (uint32_t i = 0; i < PLX_DRAFTERS; i++) {
		out->drafted += r->sched.draft.drafted[i];
		out->accepted += r->sched.draft.accepted[i];
	}
}

int plx_speed_run(struct plx_speed *out, const struct plx_speed_load *l,
                  const struct plx_tune_setup *s, struct plx_rig *rig, struct plx_diag *d)
{
	static struct run r;
	int err;

	memset(&r, 0, sizeof r);
	err = run_open(&r, l, s, rig, d);
	if (!err)
		err = serve(&r, l->batch, l->answer < WARM_ANSWER ? l->answer : WARM_ANSWER, d);
	if (!err)
		err = serve(&r, l->n_requests, l->answer, d);
	if (!err)
		report(&r, out);
	run_close(&r);
	return err;
}
