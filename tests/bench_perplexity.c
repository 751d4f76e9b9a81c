/*
 * What arithmetic costs a model's text: perplexity of tests/golden/perplexity.txt by the device and
 * by the reference with one rounding at a time, each against the double-precision reference.
 *
 *   bench_perplexity [model.gguf [tokens [text]]]
 *
 * One line a column of numbers: perplexity, its ratio to double's (and how much of it is chance),
 * the mean divergence of the next token's distribution, how often the best id is the same, the
 * largest difference of a token's log-probability. A new format is a line in columns[].
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/check.h"
#include "tests/lib/devkit.h"
#include "tests/lib/model_path.h"
#include "tests/lib/ppl.h"
#include "tests/lib/ref.h"

#define MAX_IDS 4096u
#define CHUNK   64u /* tokens whose rows are held at once */

/* One arithmetic: a device of an instruction set, or the reference with roundings. */
struct column {
	const char *name;
	const char *isa; /* NULL: the reference */
	uint32_t round;  /* enum plx_ref_round */
};

static const struct column columns[] = {
    {"device", "auto", 0},
    {"double, all the device rounds", NULL, PLX_REF_A8 | PLX_REF_KV16},
    {"double, 8-bit activations", NULL, PLX_REF_A8},
    {"double, 8-bit into q, k, v", NULL, PLX_REF_A8_QKV},
    {"double, 8-bit into wo", NULL, PLX_REF_A8_WO},
    {"double, 8-bit into gate, up", NULL, PLX_REF_A8_GATE_UP},
    {"double, 8-bit into down", NULL, PLX_REF_A8_DOWN},
    {"double, 8-bit into the head", NULL, PLX_REF_A8_HEAD},
    {"double, f16 K and V", NULL, PLX_REF_KV16},
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]))

/* A column at work. */
struct runner {
	const struct column *c;
	struct plx_model *m;
	struct devkit dev;
	struct plx_ref *ref;
	double *rows; /* [CHUNK][n_vocab], shared by all */
	uint32_t from;
	struct plx_ppl_sum sum;
};

static void runner_open(struct runner *r, const struct column *c, const char *path,
                        struct plx_model *m, double *rows)
{
	struct plx_dev_limits lim = devkit_limits();

	*r = (struct runner){.c = c, .m = m, .rows = rows};
	lim.max_seq_blocks = MAX_IDS / lim.block_tokens;
	lim.n_blocks = lim.max_seq_blocks;
	if (c->isa != NULL) {
		devkit_open(&r->dev, path, c->isa, &lim);
		return;
	}
	r->ref = plx_ref_open(m, MAX_IDS);
	plx_ref_round(r->ref, c->round);
}

static void runner_close(struct runner *r)
{
	if (r->c->isa != NULL)
		devkit_close(&r->dev);
	else
		plx_ref_close(r->ref);
}

static void row_keep(void *arg, uint32_t pos, const float *logits)
{
	struct runner *r = arg;
	double *row = r->rows + (size_t)(pos - r->from) * r->m->n_vocab;

	for (uint32_t i = 0; i < r->m->n_vocab; i++)
		row[i] = (double)logits[i];
}

/* Rows after ids[from..to), held against the reference's. */
static void runner_run(struct runner *r, const int32_t *ids, uint32_t from, uint32_t to,
                       const double *ref)
{
	size_t n_vocab = r->m->n_vocab;

	r->from = from;
	if (r->c->isa != NULL)
		plx_ppl_dev(&r->dev, ids, from, to, PLX_PPL_DEV_ROWS, row_keep, r);
	else
		plx_ref_run(r->ref, ids + from, to - from, to - from, r->rows);
	for (uint32_t i = from; i < to; i++)
		plx_ppl_add(&r->sum, r->rows + (i - from) * n_vocab, ref + (i - from) * n_vocab,
		            r->m->n_vocab, ids[i + 1]);
}

static void line(const char *name, const struct plx_ppl_sum *s, const struct plx_ppl_sum *ref)
{
	printf("perplexity, %-30s %9.4f  %+.3f %% (error %.3f)  divergence %.5f nats  same best "
	       "%5.1f %%  "
	       "log-probability off by at most %.3f\n",
	       name, plx_ppl_of(s), 100 * (plx_ppl_of(s) / plx_ppl_of(ref) - 1),
	       100 * plx_ppl_error(s, ref), s->kl / s->n, 100.0 * s->n_top / s->n, s->worst);
}

static void table(const char *path, uint32_t max_tokens, const char *text)
{
	static struct runner run[N_COLUMNS];
	static int32_t ids[MAX_IDS];
	static const struct column plain = {"double", NULL, 0};
	struct runner ref;
	struct plx_model *m;

	PLX_CHECK(plx_model_open(path, &m, NULL) == 0);
	double *rows = calloc((size_t)CHUNK * m->n_vocab, sizeof(double));
	double *ref_rows = calloc((size_t)CHUNK * m->n_vocab, sizeof(double));
	uint32_t n = plx_ppl_ids(m, text, ids, MAX_IDS) - 1;

	PLX_CHECK(rows != NULL && ref_rows != NULL);
	n = max_tokens < n ? max_tokens : n;
	runner_open(&ref, &plain, path, m, ref_rows);
	for (uint32_t i = 0; i < N_COLUMNS; i++)
		runner_open(&run[i], &columns[i], path, m, rows);
	for (uint32_t from = 0; from < n; from += CHUNK) {
		uint32_t to = n - from < CHUNK ? n : from + CHUNK;

		runner_run(&ref, ids, from, to, ref_rows);
		for (uint32_t i = 0; i < N_COLUMNS; i++)
			runner_run(&run[i], ids, from, to, ref_rows);
	}
	printf("perplexity of %u tokens, %s\n", n, m->name);
	line(plain.name, &ref.sum, &ref.sum);
	for (uint32_t i = 0; i < N_COLUMNS; i++) {
		line(columns[i].name, &run[i].sum, &ref.sum);
		runner_close(&run[i]);
	}
	runner_close(&ref);
	plx_model_close(m);
	free(rows);
	free(ref_rows);
}

int main(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : plx_test_model();

	if (path == NULL) {
		printf("bench_perplexity: SKIPPED, no model\n");
		return 0;
	}
	table(path, argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : MAX_IDS,
	      argc > 3 ? argv[3] : PLX_PPL_TEXT);
	return 0;
}
