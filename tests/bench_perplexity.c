/*
 * What arithmetic costs a model's text: perplexity of tests/golden/perplexity.txt by the device,
 * against the double-precision reference.
 *
 *   bench_perplexity [model.gguf [tokens [text]]]
 *   bench_perplexity roundings [model.gguf [tokens [text]]]
 *   bench_perplexity kv [model.gguf [tokens [text]]]
 *   bench_perplexity files tokens model.gguf other.gguf...
 *   bench_perplexity golden [model.gguf]
 *
 * The first 1,024 tokens are run where no number is given, since double takes its time.
 *
 * One line an arithmetic: perplexity, its ratio to double's (and how much of it is chance), the
 * mean divergence of the next token's distribution, how often the best id is the same, the largest
 * difference of a token's log-probability. "roundings" adds the reference with one rounding of the
 * device at a time, a line of columns[] each. "kv" holds the device with KV in 8 and in 4 bits
 * against the device with KV in f16, over the whole text. "files" holds the device with other files
 * of the same model against it with the first. "golden" prints the file of
 * tests/test_perplexity.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "tests/lib/devkit.h"
#include "tests/lib/model_path.h"
#include "tests/lib/ppl.h"
#include "tests/lib/ref.h"

#define CHUNK   128u /* tokens whose rows are held at once */
#define DEFAULT 1024u

#define MAX_FILES 16u

/* One arithmetic: a device of an instruction set, or the reference with roundings. */
struct column {
	const char *name;
	const char *isa; /* NULL: the reference */
	uint32_t round;  /* enum plx_ref_round */
	uint32_t kv_type;
	const char *path; /* NULL: the model that all columns share */
};

/* The first is what the others are compared with. */
static const struct column columns[] = {
    {"double", NULL, 0, 0, NULL},
    {"device", "auto", 0, PLX_KV_F16, NULL},
    {"double, all the device rounds", NULL, PLX_REF_A8 | PLX_REF_KV16, 0, NULL},
    {"double, 8-bit activations", NULL, PLX_REF_A8, 0, NULL},
    {"double, 8-bit into q, k, v", NULL, PLX_REF_A8_QKV, 0, NULL},
    {"double, 8-bit into wo", NULL, PLX_REF_A8_WO, 0, NULL},
    {"double, 8-bit into gate, up", NULL, PLX_REF_A8_GATE_UP, 0, NULL},
    {"double, 8-bit into down", NULL, PLX_REF_A8_DOWN, 0, NULL},
    {"double, 8-bit into the head", NULL, PLX_REF_A8_HEAD, 0, NULL},
    {"double, f16 K and V", NULL, PLX_REF_KV16, 0, NULL},
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]))

static const struct column kv_columns[] = {
    {"device, KV in f16", "auto", 0, PLX_KV_F16, NULL},
    {"device, KV in q8", "auto", 0, PLX_KV_Q8, NULL},
    {"device, KV in q4", "auto", 0, PLX_KV_Q4, NULL},
};
#define N_KV_COLUMNS (sizeof(kv_columns) / sizeof(kv_columns[0]))

/* A column at work. */
struct runner {
	const struct column *c;
	struct plx_model *m;
	struct devkit dev;
	struct plx_ref *ref;
	double *rows; /* [CHUNK][n_vocab] */
	uint32_t from;
	uint64_t ns;
	struct plx_ppl_sum sum;
};

/* A text, and the room for rows that all columns share. */
struct work {
	struct plx_model *m;
	const char *path;
	uint32_t n;
	int32_t ids[PLX_PPL_MAX];
	double *rows;
	double *ref_rows;
};

static void work_open(struct work *w, const char *path, const char *text)
{
	w->path = path;
	PLX_CHECK(plx_model_open(path, &w->m, NULL) == 0);
	w->n = plx_ppl_ids(w->m, text, w->ids, PLX_PPL_MAX) - 1;
	w->rows = calloc((size_t)CHUNK * w->m->n_vocab, sizeof(double));
	w->ref_rows = calloc((size_t)CHUNK * w->m->n_vocab, sizeof(double));
	PLX_CHECK(w->rows != NULL && w->ref_rows != NULL);
}

static void work_close(struct work *w)
{
	plx_model_close(w->m);
	free(w->rows);
	free(w->ref_rows);
}

static void runner_open(struct runner *r, const struct column *c, const struct work *w, bool first)
{
	struct plx_dev_limits lim = plx_ppl_limits();

	*r = (struct runner){.c = c, .m = w->m, .rows = first ? w->ref_rows : w->rows};
	lim.kv_type = c->kv_type;
	if (c->isa != NULL) {
		devkit_open(&r->dev, c->path != NULL ? c->path : w->path, c->isa, &lim);
		return;
	}
	r->ref = plx_ref_open(w->m, PLX_PPL_MAX);
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

/* Rows after tokens from..to-1. */
static void runner_run(struct runner *r, const int32_t *ids, uint32_t from, uint32_t to)
{
	uint64_t t0 = plx_clock_ns();

	r->from = from;
	if (r->c->isa != NULL)
		plx_ppl_dev(&r->dev, ids, from, to, PLX_PPL_DEV_ROWS, row_keep, r);
	else
		plx_ref_run(r->ref, ids + from, to - from, to - from, r->rows);
	r->ns += plx_clock_ns() - t0;
}

/* Holds rows after tokens from..to-1 against the first column's. */
static void runner_compare(struct runner *r, const struct work *w, uint32_t from, uint32_t to)
{
	size_t n_vocab = w->m->n_vocab;

	for (uint32_t i = 0; i < to - from; i++)
		plx_ppl_add(&r->sum, r->rows + i * n_vocab, w->ref_rows + i * n_vocab,
		            w->m->n_vocab, w->ids[from + i + 1]);
}

static void line(const struct runner *r, const struct plx_ppl_sum *ref)
{
	const struct plx_ppl_sum *s = &r->sum;

	printf("perplexity, %-30s %9.4f  %+.3f %% (error %.3f)  divergence %.5f nats (error %.5f)  "
	       "same best "
	       "%5.1f %%  log-probability off by at most %.3f  (%.0f tokens/s)\n",
	       r->c->name, plx_ppl_of(s), 100 * (plx_ppl_of(s) / plx_ppl_of(ref) - 1),
	       100 * plx_ppl_error(s, ref), s->kl / s->n, plx_ppl_kl_error(s),
	       100.0 * s->n_top / s->n, s->worst, s->n * 1e9 / (double)r->ns);
}

/* Columns c[1..n_columns-1] against c[0]. */
static void table(struct work *w, const struct column *c, uint32_t n_columns)
{
	static struct runner run[MAX_FILES > N_COLUMNS ? MAX_FILES : N_COLUMNS];

	for (uint32_t i = 0; i < n_columns; i++)
		runner_open(&run[i], &c[i], w, i == 0);
	for (uint32_t from = 0; from < w->n; from += CHUNK) {
		uint32_t to = w->n - from < CHUNK ? w->n : from + CHUNK;

		for (uint32_t i = 0; i < n_columns; i++) {
			runner_run(&run[i], w->ids, from, to);
			runner_compare(&run[i], w, from, to);
		}
	}
	printf("perplexity of %u tokens, %s\n", w->n, w->m->name);
	for (uint32_t i = 0; i < n_columns; i++) {
		line(&run[i], &run[0].sum);
		runner_close(&run[i]);
	}
}

/* argv[0] is how many tokens, then the files. */
static void files(struct work *w, int argc, char **argv)
{
	static struct column c[MAX_FILES];
	uint32_t n = (uint32_t)argc - 1, n_tok = (uint32_t)strtoul(argv[0], NULL, 10);

	n = n < MAX_FILES ? n : MAX_FILES;
	w->n = n_tok < w->n ? n_tok : w->n;
	for (uint32_t i = 0; i < n; i++)
		c[i] = (struct column){
		    strrchr(argv[i + 1], '/') != NULL ? strrchr(argv[i + 1], '/') + 1 : argv[i + 1],
		    "auto", 0, PLX_KV_F16, argv[i + 1]};
	table(w, c, n);
}

static void golden(struct work *w)
{
	static struct runner ref;

	runner_open(&ref, &columns[0], w, true);
	for (uint32_t from = 0; from < w->n; from += CHUNK) {
		uint32_t to = w->n - from < CHUNK ? w->n : from + CHUNK;

		runner_run(&ref, w->ids, from, to);
		for (uint32_t i = from; i < to; i++) {
			struct plx_ppl_gold g =
			    plx_ppl_gold_make(w->ref_rows + (size_t)(i - from) * w->m->n_vocab,
			                      w->m->n_vocab, i, w->ids[i + 1]);

			plx_ppl_gold_print(&g);
		}
	}
	runner_close(&ref);
}

int main(int argc, char **argv)
{
	static struct work w;
	const char *mode = argc > 1 ? argv[1] : "";
	bool kv = strcmp(mode, "kv") == 0;
	bool words = kv || strcmp(mode, "roundings") == 0 || strcmp(mode, "golden") == 0;

	if (strcmp(mode, "files") == 0) {
		if (argc < 5) {
			fprintf(stderr, "bench_perplexity files TOKENS MODEL OTHER...\n");
			return 2;
		}
		work_open(&w, argv[3], PLX_PPL_TEXT);
		files(&w, argc - 2, argv + 2);
		work_close(&w);
		return 0;
	}
	argc -= words;
	argv += words;
	const char *path = argc > 1 ? argv[1] : plx_test_model();

	if (path == NULL) {
		printf("bench_perplexity: SKIPPED, no model\n");
		return 0;
	}
	work_open(&w, path, argc > 3 ? argv[3] : PLX_PPL_TEXT);
	if (strcmp(mode, "golden") == 0) {
		golden(&w);
	} else {
		uint32_t n = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : kv ? w.n : DEFAULT;

		w.n = n < w.n ? n : w.n;
		if (kv)
			table(&w, kv_columns, N_KV_COLUMNS);
		else
			table(&w, columns, strcmp(mode, "roundings") == 0 ? N_COLUMNS : 2);
	}
	work_close(&w);
	return 0;
}
