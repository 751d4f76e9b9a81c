/*
 * What a text pays for outgrowing its context: perplexity of tests/golden/perplexity.txt behind the
 * first context, by the device, and the time that moving takes.
 *
 *   bench_beyond [model.gguf [context [tokens [q8|q4]]]]
 *
 * A context of 512, the first 1,536 tokens and KV in f16 where nothing else is said. The columns:
 *
 *   all            every token sees all before it
 *   sinks, 1/4     dataplane/batch/shift.h: the first block stays, a quarter of the others leaves
 *   sinks, 1/8, 1/2   the same with less or more at once
 *   no sinks       the oldest quarter leaves, the first block with it
 *   anew           the oldest quarter leaves, and the rest is computed again from its ids alone
 *
 * One line a column: perplexity of the tokens behind the first context, its ratio to "all" (and how
 * much of it is chance), tokens run for each token of text, the device's time a token. Then what
 * one move takes, and how long a poll of 200 us held its lcore meanwhile.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/batch/shift.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "tests/lib/devkit.h"
#include "tests/lib/model_path.h"
#include "tests/lib/ppl.h"
#include "tests/lib/ref.h"

#define MAX_BLOCKS 256u

struct column {
	const char *name;
	uint32_t sinks; /* blocks */
	uint32_t part;  /* of the context that leaves at once; 0: nothing ever does */
	bool anew;
};

static const struct column columns[] = {
    {"all", 0, 0, false},
    {"sinks, 1/4", PLX_SHIFT_SINKS, 4, false},
    {"sinks, 1/8", PLX_SHIFT_SINKS, 8, false},
    {"sinks, 1/2", PLX_SHIFT_SINKS, 2, false},
    {"no sinks", 0, 4, false},
    {"anew", 0, 4, true},
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]))

struct text {
	uint32_t n, window; /* tokens */
	int32_t ids[PLX_PPL_MAX + 1];
	double want[PLX_PPL_MAX]; /* log p of the id after token i, by the first column */
};

struct runner {
	const struct column *c;
	struct devkit dev;
	struct text *t;
	uint32_t block[MAX_BLOCKS]; /* the slot's table */
	uint32_t n_left;            /* tokens that left */
	uint32_t n_run;             /* tokens run, again or not */
	uint32_t n_moves;
	uint64_t run_ns, move_ns;
	struct plx_hist polls; /* of moves */
	double *row;
	struct plx_ppl_sum sum;
};

static void submit(struct runner *r)
{
	PLX_CHECK(plx_queue_submit(r->dev.q, 0) == 0);
	(void)devkit_wait(&r->dev);
	PLX_CHECK(plx_queue_step(r->dev.q, 0)->status == 0);
}

/* The row after token i of the text. */
static void take_row(struct runner *r, uint32_t i, const float *logits)
{
	uint32_t n_vocab = r->dev.model->n_vocab;
	struct text *t = r->t;

	for (uint32_t k = 0; k < n_vocab; k++)
		r->row[k] = (double)logits[k];
	double p = r->row[t->ids[i + 1]] - plx_ref_log_sum(r->row, n_vocab);

	if (r->c == &columns[0])
		t->want[i] = p;
	if (i < t->window)
		return;
	double delta = p - t->want[i];

	r->sum.n++;
	r->sum.logprob += p;
	r->sum.delta2 += delta * delta;
}

/* Tokens from..to-1 of the text, rows for all of them where they are new. */
static void run(struct runner *r, uint32_t from, uint32_t to, bool is_new)
{
	uint32_t bt = r->dev.lim.block_tokens, pos = from - r->n_left, n = to - from;
	struct plx_step *s = devkit_step(&r->dev, 0);
	struct plx_sampler greedy = devkit_greedy();
	uint64_t t0 = plx_clock_ns();

	if (pos == 0)
		devkit_set(s, 0, &greedy);
	for (uint32_t b = (pos + bt - 1) / bt; b < (pos + n + bt - 1) / bt; b++)
		devkit_blocks(s, 0, b, b + 1, r->block[b]);
	struct plx_step_seq *q = devkit_seq(s, 0, r->t->ids + from, pos, n, is_new);

	q->n_draft = is_new ? n - 1 : 0;
	for (uint32_t i = 0; is_new && i < n; i++)
		plx_step_toks(s)[i].flags = PLX_TOKF_LOGITS;
	submit(r);
	r->run_ns += plx_clock_ns() - t0;
	r->n_run += n;
	for (uint32_t i = 0; is_new && i < n; i++)
		take_row(r, from + i, devkit_logits(&r->dev, i));
}

/* `drop` blocks behind the sinks leave: the others move down, and these come after them. */
static void move(struct runner *r, uint32_t drop)
{
	uint32_t bt = r->dev.lim.block_tokens, n = r->t->window / bt, first = r->c->sinks;
	uint32_t gone[MAX_BLOCKS];
	struct plx_step *s = devkit_step(&r->dev, 0);

	memcpy(gone, &r->block[first], drop * sizeof(*gone));
	memmove(&r->block[first], &r->block[first + drop], (n - first - drop) * sizeof(*gone));
	memcpy(&r->block[n - drop], gone, drop * sizeof(*gone));
	for (uint32_t b = first; b < n - drop; b++)
		devkit_blocks(s, 0, b, b + 1, r->block[b]);
	plx_step_deltas(s)[s->n_delta++] = (struct plx_step_delta){
	    .kind = PLX_DELTA_SHIFT, .index = first, .block = drop, .n_blocks = n - drop};
	uint64_t t0 = plx_clock_ns();

	memset(&r->dev.polls, 0, sizeof(r->dev.polls));
	submit(r);
	r->move_ns += plx_clock_ns() - t0;
	r->polls = r->dev.polls;
	r->n_moves++;
	r->n_left += drop * bt;
}

/* The same, but what stays is computed anew. */
static void begin_anew(struct runner *r, uint32_t drop, uint32_t at)
{
	struct plx_step *s = devkit_step(&r->dev, 0);
	uint32_t most = r->dev.lim.max_step_tokens;

	devkit_clear(s, 0);
	submit(r);
	r->n_left += drop * r->dev.lim.block_tokens;
	for (uint32_t i = r->n_left; i < at; i += most)
		run(r, i, at - i < most ? at : i + most, false);
}

static void column_run(struct runner *r)
{
	const struct text *t = r->t;
	uint32_t bt = r->dev.lim.block_tokens;

	for (uint32_t i = 0, end; i < t->n; i = end) {
		if (r->c->part && i - r->n_left == t->window) {
			uint32_t drop = t->window / bt / r->c->part;

			if (r->c->anew)
				begin_anew(r, drop, i);
			else
				move(r, drop);
		}
		end = i + PLX_PPL_DEV_ROWS < t->n ? i + PLX_PPL_DEV_ROWS : t->n;
		run(r, i, end, true);
	}
}

static void report(const struct runner *r, const struct plx_ppl_sum *all)
{
	double ppl = plx_ppl_of(&r->sum);

	printf("beyond, %-11s perplexity %8.4f  %+.2f %% (error %.2f)  %.2f run a token, %.2f ms a "
	       "token",
	       r->c->name, ppl, 100 * (ppl / plx_ppl_of(all) - 1),
	       100 * plx_ppl_error(&r->sum, all), (double)r->n_run / r->t->n,
	       (double)r->run_ns / 1e6 / r->t->n);
	if (r->n_moves)
		printf(", a move %.2f ms, polls p99 %.0f us", (double)r->move_ns / 1e6 / r->n_moves,
		       (double)plx_hist_quantile(&r->polls, 0.99) / 1e3);
	printf("\n");
}

int main(int argc, char **argv)
{
	static struct text t;
	static struct runner r;
	struct plx_ppl_sum all = {0};
	const char *path = argc > 1 ? argv[1] : plx_test_model();
	struct plx_dev_limits lim = plx_ppl_limits();

	if (path == NULL) {
		printf("bench_beyond: no model; see the Makefile's `model`\n");
		return 0;
	}
	t.window = argc > 2 ? (uint32_t)atoi(argv[2]) : 512;
	t.n = argc > 3 ? (uint32_t)atoi(argv[3]) : 3 * 512;
	if (argc > 4)
		lim.kv_type = argv[4][1] == '8' ? PLX_KV_Q8 : PLX_KV_Q4;
	PLX_CHECK(t.window % (8 * lim.block_tokens) == 0);
	for (uint32_t i = 0; i < N_COLUMNS; i++) {
		r = (struct runner){.c = &columns[i], .t = &t};
		devkit_open(&r.dev, path, "auto", &lim);
		uint32_t n = plx_ppl_ids(r.dev.model, PLX_PPL_TEXT, t.ids, PLX_PPL_MAX) - 1;

		t.n = t.n < n ? t.n : n;
		for (uint32_t b = 0; b < MAX_BLOCKS; b++)
			r.block[b] = b;
		r.row = calloc(r.dev.model->n_vocab, sizeof(*r.row));
		PLX_CHECK(r.row != NULL && lim.max_seq_blocks <= MAX_BLOCKS);
		column_run(&r);
		all = i == 0 ? r.sum : all;
		report(&r, &all);
		free(r.row);
		devkit_close(&r.dev);
	}
	return 0;
}
