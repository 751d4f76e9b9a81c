/* A device in a test. Plays the batcher: fills steps, keeps positions, collects results. */
#include "tests/lib/devkit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "accel/cpu.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "fw/base/diag.h"
#include "fw/base/err.h"

struct plx_dev_limits devkit_limits(void)
{
	return (struct plx_dev_limits){.n_slots = 8,
	                               .n_blocks = 8 * 128,
	                               .block_tokens = 16,
	                               .max_seq_blocks = 128,
	                               .max_step_tokens = 512,
	                               .max_step_seqs = 8,
	                               .steps_in_flight = 2,
	                               .n_threads = 1,
	                               .n_host_blocks = 4};
}

struct plx_sampler devkit_greedy(void)
{
	return (struct plx_sampler){.top_p = 1, .repeat_penalty = 1};
}

static void *worker_main(void *arg)
{
	struct devkit *k = arg;
	uint32_t idx = 1 + atomic_fetch_add(&k->next_worker, 1);

	for (uint32_t round = 0; !atomic_load(&k->stop);) {
		if (atomic_load(&k->round) == round) {
			struct plx_dev *twin = atomic_load(&k->twin);

			(void)plx_dev_worker(k->dev, idx, 50);
			if (twin != NULL)
				(void)plx_dev_worker(twin, idx, 50);
			continue;
		}
		round++;
		/* Counts to n_worker when all are here, to twice that when all are done. */
		atomic_fetch_add(&k->n_ready, 1);
		while (atomic_load(&k->n_ready) < k->n_worker)
			__builtin_ia32_pause();
		k->task(k->task_arg, idx);
		atomic_fetch_add(&k->n_ready, 1);
	}
	return NULL;
}

void devkit_lend(struct devkit *k, void (*task)(void *arg, uint32_t lane), void *arg)
{
	k->task = task;
	k->task_arg = arg;
	atomic_store(&k->n_ready, 0);
	atomic_fetch_add(&k->round, 1);
	while (atomic_load(&k->n_ready) < k->n_worker)
		__builtin_ia32_pause();
	task(arg, 0);
	while (atomic_load(&k->n_ready) < 2 * k->n_worker)
		__builtin_ia32_pause();
}

static void ok(int err, const struct plx_diag *d)
{
	if (err != 0)
		fprintf(stderr, "devkit: %s: %s\n", plx_err_name(err), d->text);
	PLX_CHECK(err == 0);
}

static void load(struct devkit *k)
{
	struct plx_diag d = {0};
	struct plx_load_progress pr;
	int err;

	ok(plx_dev_load_begin(k->dev, k->model, &k->lim, &d), &d);
	do
		err = plx_dev_load_poll(k->dev, 1000, &pr, &d);
	while (err == PLX_E_AGAIN);
	ok(err, &d);
	ok(plx_queue_open(k->dev, &k->q, &d), &d);
}

void devkit_open_model(struct devkit *k, struct plx_model *m, const char *isa,
                       const struct plx_dev_limits *lim)
{
	devkit_open_cached(k, m, isa, lim, "");
}

/* All but the workers. */
static void open_device(struct devkit *k, struct plx_model *m, const char *isa,
                        const struct plx_dev_limits *lim, const char *cache_base)
{
	struct plx_dev_conf conf = {.name = "test", .kind = "cpu"};
	struct plx_diag d = {0};

	memset(k, 0, sizeof(*k));
	snprintf(conf.isa, sizeof(conf.isa), "%s", isa);
	snprintf(conf.cache_base, sizeof(conf.cache_base), "%s", cache_base);
	k->lim = *lim;
	k->budget_us = 200;
	k->model = m;
	ok(plx_dev_open(&conf, &k->dev, &d), &d);
	load(k);
}

void devkit_open_cached(struct devkit *k, struct plx_model *m, const char *isa,
                        const struct plx_dev_limits *lim, const char *cache_base)
{
	open_device(k, m, isa, lim, cache_base);
	k->n_worker = lim->n_threads - 1;
	PLX_CHECK(k->n_worker <= DEVKIT_MAX_THREADS);
	for (uint32_t i = 0; i < k->n_worker; i++)
		PLX_CHECK(pthread_create(&k->worker[i], NULL, worker_main, k) == 0);
}

void devkit_open_twin(struct devkit *k, struct plx_model *m, const char *isa,
                      const struct plx_dev_limits *lim, struct devkit *of)
{
	open_device(k, m, isa, lim, "");
	PLX_CHECK(lim->n_threads == of->lim.n_threads);
	atomic_store(&of->twin, k->dev);
}

void devkit_open(struct devkit *k, const char *model_path, const char *isa,
                 const struct plx_dev_limits *lim)
{
	struct plx_diag d = {0};
	struct plx_model *m;

	ok(plx_model_open(model_path, &m, &d), &d);
	devkit_open_model(k, m, isa, lim);
}

bool devkit_has_isa(const char *isa)
{
	struct plx_dev_conf conf = {.name = "test", .kind = "cpu"};
	struct plx_dev *dev;

	snprintf(conf.isa, sizeof(conf.isa), "%s", isa);
	if (plx_dev_open(&conf, &dev, NULL) != 0)
		return false;
	plx_dev_close(dev);
	return true;
}

void devkit_close(struct devkit *k)
{
	atomic_store(&k->stop, true);
	for (uint32_t i = 0; i < k->n_worker; i++)
		pthread_join(k->worker[i], NULL);
	plx_dev_close(k->dev);
	plx_model_close(k->model);
}

struct plx_step *devkit_step(struct devkit *k, uint32_t idx)
{
	struct plx_step *s = plx_queue_step(k->q, idx);

	s->id = k->step_id++;
	s->n_tok = 0;
	s->n_seq = 0;
	s->n_delta = 0;
	s->n_sampler = 0;
	s->cancel = 0;
	return s;
}

void devkit_set(struct plx_step *s, uint32_t slot, const struct plx_sampler *p)
{
	uint32_t off = s->sampler_off + s->n_sampler * (uint32_t)sizeof(*p);

	plx_step_samplers(s)[s->n_sampler++] = *p;
	plx_step_deltas(s)[s->n_delta++] =
	    (struct plx_step_delta){.kind = PLX_DELTA_SLOT_SET, .slot = slot, .sampler_off = off};
}

void devkit_clear(struct plx_step *s, uint32_t slot)
{
	plx_step_deltas(s)[s->n_delta++] =
	    (struct plx_step_delta){.kind = PLX_DELTA_SLOT_CLEAR, .slot = slot};
}

void devkit_sparse(struct plx_step *s, uint32_t slot, uint32_t mass, uint32_t chunks,
                   uint32_t n_pool)
{
	plx_step_deltas(s)[s->n_delta++] =
	    (struct plx_step_delta){PLX_DELTA_SPARSE, slot, n_pool, mass, {chunks}};
}

void devkit_blocks(struct plx_step *s, uint32_t slot, uint32_t from, uint32_t to, uint32_t first)
{
	for (uint32_t i = from; i < to; i++)
		plx_step_deltas(s)[s->n_delta++] =
		    (struct plx_step_delta){PLX_DELTA_BLOCK, slot, i, first + i - from, {0}};
}

struct plx_step_seq *devkit_seq(struct plx_step *s, uint32_t slot, const int32_t *ids, uint32_t pos,
                                uint32_t n, bool want)
{
	struct plx_step_seq *q = &plx_step_seqs(s)[s->n_seq++];

	*q = (struct plx_step_seq){.slot = slot, .first_tok = s->n_tok, .n_tok = n};
	for (uint32_t i = 0; i < n; i++)
		plx_step_toks(s)[s->n_tok++] = (struct plx_step_tok){
		    .id = ids[i], .pos = {pos + i, pos + i, pos + i}, .parent = -1};
	if (want)
		plx_step_toks(s)[s->n_tok - 1].flags = PLX_TOKF_LOGITS;
	return q;
}

uint32_t devkit_wait(struct devkit *k)
{
	uint32_t done;
	int n;

	do {
		uint64_t t0 = plx_clock_ns();

		n = plx_queue_poll(k->q, k->budget_us, &done, 1);
		plx_hist_add(&k->polls, plx_clock_ns() - t0);
	} while (n == 0);
	PLX_CHECK(n == 1);
	return done;
}

const float *devkit_logits(const struct devkit *k, uint32_t i)
{
	const struct plx_cpu *c = (const struct plx_cpu *)(const void *)k->dev;

	return c->fwd.logits + (size_t)i * c->fwd.logit_stride;
}

/* ---- running sequences ---------------------------------------------------------------------- */

/* Every slot owns a stretch of the pool, handed out in descending order to mix the tables up. */
static uint32_t block_of(const struct devkit *k, uint32_t slot, uint32_t i)
{
	uint32_t each = k->lim.n_blocks / k->lim.n_slots;

	return slot * each + (each - 1 - i);
}

static void grow(struct devkit *k, struct plx_step *s, uint32_t slot, uint32_t pos, uint32_t n)
{
	uint32_t bt = k->lim.block_tokens;
	uint32_t have = (pos + bt - 1) / bt;

	for (uint32_t i = have; i < (pos + n + bt - 1) / bt; i++)
		devkit_blocks(s, slot, i, i + 1, block_of(k, slot, i));
}

/* Adds what the sequence runs in this step; false when it waits or has finished. */
static bool add(struct devkit *k, struct plx_step *s, struct devseq *q, uint32_t step)
{
	static const int32_t last = PLX_TOK_LAST;
	uint32_t left = q->n_prompt - q->n_run;

	if (step < q->start || q->n_out == q->n_new || q->status != 0)
		return false;
	if (left == 0) {
		uint32_t pos = q->n_prompt + q->n_out - 1;

		grow(k, s, q->slot, pos, 1);
		devkit_seq(s, q->slot, &last, pos, 1, true)->flags = q->flags;
		return true;
	}
	uint32_t n = q->chunk > 0 && q->chunk < left ? q->chunk : left;
	uint32_t room = k->lim.max_step_tokens - s->n_tok;

	n = n < room ? n : room;
	if (q->own && q->n_run + n < q->n_pool)
		n -= (q->n_run + n) % PLX_SPARSE_POOL;
	if (n == 0)
		return false;
	if (q->n_run == 0)
		devkit_set(s, q->slot, &q->sampler);
	if (q->n_run == 0 && q->own)
		devkit_sparse(s, q->slot, q->mass, q->chunks, q->n_pool);
	grow(k, s, q->slot, q->n_run, n);
	devkit_seq(s, q->slot, q->prompt + q->n_run, q->n_run, n, n == left)->flags = q->flags;
	q->n_run += n;
	return true;
}

static void take(struct devkit *k, const struct plx_step_out *o, struct devseq *q, uint32_t *row)
{
	q->status = o->status;
	if (q->status != 0 || o->n_out == 0)
		return;
	if (q->n_out == 0)
		q->first_ns = plx_clock_ns();
	q->out[q->n_out] = o->id[0];
	q->logprob[q->n_out++] = o->logprob[0];
	q->hash = XXH3_64bits_withSeed(devkit_logits(k, (*row)++),
	                               k->model->n_vocab * sizeof(float), q->hash);
}

static void add_share(struct plx_step_share *to, const struct plx_step_share *s)
{
	if (s->n > 0 && (to->n == 0 || s->least < to->least))
		to->least = s->least;
	to->n += s->n;
	to->sum += s->sum;
	to->chunks += s->chunks;
	to->read += s->read;
}

void devkit_run(struct devkit *k, struct devseq *seq, uint32_t n)
{
	bool busy = true;

	PLX_CHECK(n <= k->lim.max_step_seqs);
	for (uint32_t step = 0; busy; step++) {
		struct plx_step *s = devkit_step(k, step % k->lim.steps_in_flight);
		uint32_t who[64], n_who = 0, row = 0;

		busy = false;
		for (uint32_t i = 0; i < n; i++) {
			seq[i].slot = i;
			if (add(k, s, &seq[i], step))
				who[n_who++] = i;
			busy = busy || (seq[i].n_out < seq[i].n_new && seq[i].status == 0);
		}
		if (n_who == 0)
			continue;
		PLX_CHECK(plx_queue_submit(k->q, step % k->lim.steps_in_flight) == 0);
		PLX_CHECK(devkit_wait(k) == step % k->lim.steps_in_flight);
		PLX_CHECK(s->status == 0);
		for (uint32_t i = 0; i < n_who; i++) {
			add_share(&seq[who[i]].share, &plx_step_shares(s)[i]);
			take(k, &plx_step_outs(s)[i], &seq[who[i]], &row);
		}
	}
	struct plx_step *s = devkit_step(k, 0);

	for (uint32_t i = 0; i < n; i++)
		devkit_clear(s, i);
	PLX_CHECK(plx_queue_submit(k->q, 0) == 0);
	(void)devkit_wait(k);
}
