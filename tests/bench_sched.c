/*
 * What a scheduling step costs: filling a record and taking its results, with 256 sequences
 * decoding, and with a prompt beside them. The device is a loop that writes ids into the record.
 * One line a figure; also the heap that was taken meanwhile.
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/step.h"
#include "dataplane/batch/sched.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"

#define N_SEQ  256u
#define BT     32u
#define CTX    4096u
#define ROUNDS 1500u

static uint64_t n_records;

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                     float logprob, const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns)
{
	(void)ctx, (void)key, (void)sample, (void)index, (void)id, (void)logprob, (void)top;
	(void)n_top, (void)end, (void)device_ns;
	n_records++;
}

static void on_end(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
                   uint64_t device_ns)
{
	(void)ctx, (void)key, (void)sample, (void)end, (void)device_ns;
}

static void on_final(void *ctx, uint32_t key, const struct plx_sched_final *f)
{
	(void)ctx, (void)key, (void)f;
}

static uint32_t draft_ids; /* of the look-up drafter; 0: no drafts */

struct bench {
	struct plx_arena arena;
	struct plx_sched s;
	struct plx_step *step[2];
	uint64_t fill_ns[ROUNDS], done_ns[ROUNDS];
	uint32_t n;
};

static struct plx_step *make_step(const struct plx_dev_limits *lim)
{
	struct plx_step_layout lay;

	plx_step_layout_make(lim, &lay);
	struct plx_step *st = calloc(1, lay.record_bytes);

	PLX_CHECK(st != NULL);
	plx_step_format(st, &lay);
	return st;
}

static void bench_open(struct bench *b, bool cache)
{
	struct plx_diag d = {""};
	struct plx_sched_sink sink = {b, on_token, on_end, on_final};
	struct plx_dev_limits lim = {.n_slots = N_SEQ + 8,
	                             .n_blocks = 40000,
	                             .block_tokens = BT,
	                             .max_seq_blocks = CTX / BT,
	                             .max_step_tokens = 1024,
	                             .max_step_seqs = N_SEQ + 8,
	                             .steps_in_flight = 2,
	                             .n_threads = 1};
	struct plx_sched_conf c = {.n_keys = N_SEQ + 8,
	                           .n_slots = lim.n_slots,
	                           .n_blocks = lim.n_blocks,
	                           .block_tokens = BT,
	                           .ctx_tokens = CTX,
	                           .max_prompt = CTX,
	                           .max_new = CTX,
	                           .step_tokens = lim.max_step_tokens,
	                           .step_seqs = lim.max_step_seqs,
	                           .steps_in_flight = 2,
	                           .window = UINT32_MAX,
	                           .pause_ns = UINT64_MAX,
	                           .prefix_cache = cache,
	                           .draft_ids = draft_ids};

	memset(b, 0, sizeof(*b));
	PLX_CHECK(plx_arena_open(&b->arena, plx_sched_bytes(&c), &d) == 0);
	PLX_CHECK(plx_sched_init(&b->s, &b->arena, &c, &sink, &d) == 0);
	b->step[0] = make_step(&lim);
	b->step[1] = make_step(&lim);
}

static void bench_close(struct bench *b)
{
	free(b->step[0]);
	free(b->step[1]);
	plx_arena_close(&b->arena);
}

static void add(struct bench *b, uint32_t key, uint32_t n_ids, uint32_t max_new)
{
	static int32_t ids[CTX];
	struct plx_sched_admit out;

	for (uint32_t i = 0; i < n_ids; i++)
		ids[i] = (int32_t)(key * 7919 + i);
	struct plx_sched_job j = {.ids = ids,
	                          .n_ids = n_ids,
	                          .max_new = max_new,
	                          .n_samples = 1,
	                          .sampler = {.top_p = 1, .repeat_penalty = 1}};

	PLX_CHECK(plx_sched_add(&b->s, key, &j, 1, &out) == 0);
}

/* The device: every sampled position gets an id, and the step a time that can be learnt. */
static void run(struct plx_step *st, uint64_t start_ns)
{
	st->start_ns = start_ns;
	st->end_ns = start_ns + 8000000 + UINT64_C(20000) * st->n_tok;
	for (uint32_t i = 0; i < st->n_seq; i++) {
		const struct plx_step_seq *q = &plx_step_seqs(st)[i];
		struct plx_step_out *o = &plx_step_outs(st)[i];
		uint32_t last = q->first_tok + q->n_tok - 1;

		o->status = 0;
		o->n_out = plx_step_toks(st)[last].flags & PLX_TOKF_LOGITS ? 1 : 0;
		o->top_off = 0;
		o->id[0] = (int32_t)(i & 1023);
	}
}

static void one_step(struct bench *b, uint32_t i)
{
	struct plx_step *st = b->step[i & 1];
	uint64_t t0 = plx_clock_ns();
	uint32_t n = plx_sched_fill(&b->s, st, UINT32_MAX, i);
	uint64_t t1 = plx_clock_ns();

	PLX_CHECK(n > 0);
	run(st, (uint64_t)i * 100000000);
	uint64_t t2 = plx_clock_ns();

	plx_sched_done(&b->s, st, 0, i);
	b->fill_ns[b->n % ROUNDS] = t1 - t0;
	b->done_ns[b->n % ROUNDS] = plx_clock_ns() - t2;
	b->n++;
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static double median_us(uint64_t *ns)
{
	qsort(ns, ROUNDS, sizeof(*ns), by_value);
	return (double)ns[ROUNDS / 2] / 1e3;
}

/* The median of many steps: the machine has other work. */
static size_t measure(const char *what, bool cache, bool prompt)
{
	static struct bench b;

	bench_open(&b, cache);
	for (uint32_t k = 0; k < N_SEQ; k++)
		add(&b, k, 16, 3500);
	for (uint32_t i = 0; i < 20; i++)
		one_step(&b, i);
	b.n = 0;
	size_t before = mallinfo2().uordblks;

	for (uint32_t i = 0; i < ROUNDS; i++) {
		uint32_t key = N_SEQ + i / 8 % 8;

		if (prompt && i % 8 == 0 && b.s.ent[key].state == 0)
			add(&b, key, 4000, 1);
		one_step(&b, i);
	}
	size_t grown = mallinfo2().uordblks - before;
	double fill = median_us(b.fill_ns), done = median_us(b.done_ns);

	printf("sched %-44s %7.2f us a step (fill %.2f, results %.2f)\n", what, fill + done, fill,
	       done);
	bench_close(&b);
	return grown;
}

int main(void)
{
	size_t grown = measure("256 sequences decode", false, false);

	grown += measure("256 sequences decode, prefix cache", true, false);
	grown += measure("256 decode beside chunks of prompts, cache", true, true);
	draft_ids = CTX;
	grown += measure("256 decode beside prompts, cache, drafts on", true, true);
	printf("sched %-44s %7zu bytes\n", "heap taken while they ran", grown);
	return 0;
}
