/* Items are stretches of rows of about a million bytes; each thread has its own buffers. */
#include "tools/gguf/emit.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"
#include "tools/gguf/out.h"
#include "tools/gguf/pool.h"
#include "tools/gguf/progress.h"

#define ITEM_ELEMS 262144u
#define F16_LIMIT  65520.0f /* rounds to infinity from here on */

struct sums {
	double square, error;
};

struct job {
	struct plx_emit_tensor *t;
	const struct plx_gw_place *place;
	uint32_t n;
	uint64_t *first;    /* [n + 1] first item of each tensor */
	struct sums *sums;  /* [items] */
	uint64_t max_elems; /* of an item */
	uint64_t max_bytes; /* written by an item */
	float *x;           /* [n_threads][2][max_elems]: values, and what they became */
	uint8_t *bytes;     /* [n_threads][max_bytes] */
	struct plx_out out;
	struct plx_progress bar;
	enum plx_q_effort effort;
	pthread_mutex_t lock; /* of the two below */
	uint64_t failed_item;
	struct plx_diag *d;
};

/* A stretch of rows of one tensor. */
struct item {
	struct plx_emit_tensor *t;
	const struct plx_gw_place *place;
	uint64_t idx;
	uint64_t row, n_rows;
	uint64_t from_row_bytes, to_row_bytes;
};

uint64_t plx_emit_pair_row(uint64_t r, uint64_t n_rows, uint32_t n_heads)
{
	uint64_t head_rows = n_rows / n_heads, in_head = r % head_rows;

	return r - in_head + in_head % 2 * (head_rows / 2) + in_head / 2;
}

static uint64_t rows_of(const struct plx_emit_tensor *t)
{
	return t->dim[1] * t->dim[2] * t->dim[3];
}

static uint64_t item_rows(const struct plx_emit_tensor *t)
{
	return t->dim[0] < ITEM_ELEMS ? ITEM_ELEMS / t->dim[0] : 1;
}

static uint64_t row_bytes(uint32_t type, uint64_t n)
{
	uint32_t elems = 1, bytes = 0;

	PLX_CHECK(plx_gguf_tensor_type_size(type, &elems, &bytes) && n % elems == 0);
	return n / elems * bytes;
}

static struct item item_at(const struct job *j, uint64_t idx)
{
	uint32_t lo = 0, hi = j->n;

	while (hi - lo > 1) {
		uint32_t mid = (lo + hi) / 2;

		if (j->first[mid] <= idx)
			lo = mid;
		else
			hi = mid;
	}
	struct plx_emit_tensor *t = &j->t[lo];
	uint64_t step = item_rows(t), row = (idx - j->first[lo]) * step, left = rows_of(t) - row;

	return (struct item){.t = t,
	                     .place = &j->place[lo],
	                     .idx = idx,
	                     .row = row,
	                     .n_rows = left < step ? left : step,
	                     .from_row_bytes = row_bytes(t->from, t->dim[0]),
	                     .to_row_bytes = row_bytes(t->to, t->dim[0])};
}

static const uint8_t *source_row(const struct item *i, uint64_t r)
{
	const struct plx_emit_tensor *t = i->t;
	uint64_t n_rows = rows_of(t), part_rows = n_rows / t->n_src;

	if (t->n_pair_heads > 0)
		r = plx_emit_pair_row(r, n_rows, t->n_pair_heads);
	return t->src[r / part_rows] + r % part_rows * i->from_row_bytes;
}

/* The message of the lowest item that failed stays. */
static int fail(struct job *j, const struct item *i, int err, const struct plx_diag *why)
{
	pthread_mutex_lock(&j->lock);
	if (i->idx < j->failed_item) {
		j->failed_item = i->idx;
		if (j->d)
			*j->d = *why;
	}
	pthread_mutex_unlock(&j->lock);
	return err;
}

static int check_values(const struct item *i, const float *x, struct plx_diag *d)
{
	uint64_t n_cols = i->t->dim[0];
	float limit = i->t->to == PLX_Q_F16 ? F16_LIMIT : INFINITY;

	for (uint64_t k = 0; k < i->n_rows * n_cols; k++) {
		if (fabsf(x[k]) < limit)
			continue;
		if (!isfinite(x[k]))
			return plx_diag_set(d, PLX_E_FORMAT,
			                    "tensor '%s', row %llu: a value is %s; the model is "
			                    "damaged, fetch it again",
			                    i->t->name, (unsigned long long)(i->row + k / n_cols),
			                    isnan(x[k]) ? "no number" : "infinite");
		return plx_diag_set(
		    d, PLX_E_FORMAT, "tensor '%s', row %llu: %g does not fit F16; give BF16 or F32",
		    i->t->name, (unsigned long long)(i->row + k / n_cols), (double)x[k]);
	}
	return 0;
}

static struct sums measure(const float *x, const float *y, uint64_t n)
{
	struct sums s = {0};

	for (uint64_t k = 0; k < n; k++) {
		double v = (double)x[k], e = v - (double)y[k];

		s.square += v * v;
		s.error += e * e;
	}
	return s;
}

/* The search is left out where it makes perplexity worse, as tests/BENCH.md has measured it. */
static enum plx_q_effort effort_of(const struct job *j, enum plx_qtype to)
{
	return to == PLX_Q_Q4_0 || to == PLX_Q_Q4_1 ? PLX_Q_PLAIN : j->effort;
}

static int convert(struct job *j, const struct item *i, float *x, uint8_t *bytes)
{
	const struct plx_emit_tensor *t = i->t;
	uint64_t n_cols = t->dim[0], n = i->n_rows * n_cols;
	float *y = x + j->max_elems;
	struct plx_diag why = {0};

	for (uint64_t r = 0; r < i->n_rows; r++)
		plx_q_dequant((enum plx_qtype)t->from, source_row(i, i->row + r), x + r * n_cols,
		              n_cols);
	int err = check_values(i, x, &why);

	if (err)
		return fail(j, i, err, &why);
	plx_q_quantise((enum plx_qtype)t->to, effort_of(j, (enum plx_qtype)t->to), x, bytes, n);
	plx_q_dequant((enum plx_qtype)t->to, bytes, y, n);
	j->sums[i->idx] = measure(x, y, n);
	return 0;
}

static void copy(const struct item *i, uint8_t *bytes)
{
	for (uint64_t r = 0; r < i->n_rows; r++)
		memcpy(bytes + r * i->to_row_bytes, source_row(i, i->row + r), i->to_row_bytes);
}

static int do_item(void *ctx, uint32_t thread, uint64_t idx)
{
	struct job *j = ctx;
	struct item i = item_at(j, idx);
	uint8_t *bytes = j->bytes + thread * j->max_bytes;
	struct plx_diag why = {0};
	int err = 0;

	/* Blocks of the same format stay as they are; floats are looked at, since they may be what
	 * a training run left. */
	if (i.t->from == i.t->to && i.t->from != PLX_Q_F32 && i.t->from != PLX_Q_F16 &&
	    i.t->from != PLX_Q_BF16)
		copy(&i, bytes);
	else
		err = convert(j, &i, j->x + thread * 2 * j->max_elems, bytes);
	if (err)
		return err;
	err = plx_out_write(&j->out, bytes, i.n_rows * i.to_row_bytes,
	                    i.place->off + i.row * i.to_row_bytes, &why);
	if (err)
		return fail(j, &i, err, &why);
	plx_progress_add(&j->bar, thread, i.n_rows * i.from_row_bytes);
	return 0;
}

/* Items, the largest of them, and the bytes that will be read. */
static int plan(struct job *j, uint64_t *read_bytes)
{
	j->first = calloc(j->n + 1u, sizeof *j->first);
	if (!j->first)
		return PLX_E_NOMEM;
	*read_bytes = 0;
	for (uint32_t i = 0; i < j->n; i++) {
		const struct plx_emit_tensor *t = &j->t[i];
		uint64_t step = item_rows(t), rows = rows_of(t), n = rows < step ? rows : step;
		uint64_t elems = n * t->dim[0], bytes = n * row_bytes(t->to, t->dim[0]);

		PLX_CHECK(rows % t->n_src == 0);
		j->first[i + 1] = j->first[i] + (rows + step - 1) / step;
		j->max_elems = elems > j->max_elems ? elems : j->max_elems;
		j->max_bytes = bytes > j->max_bytes ? bytes : j->max_bytes;
		*read_bytes += rows * row_bytes(t->from, t->dim[0]);
	}
	j->sums = calloc(j->first[j->n] + 1, sizeof *j->sums);
	return j->sums ? 0 : PLX_E_NOMEM;
}

static int buffers(struct job *j, uint32_t n_threads)
{
	j->x = calloc(n_threads * 2 * j->max_elems + 1, sizeof *j->x);
	j->bytes = malloc(n_threads * j->max_bytes + 1);
	return j->x && j->bytes ? 0 : PLX_E_NOMEM;
}

static void add_sums(struct job *j)
{
	for (uint32_t i = 0; i < j->n; i++) {
		j->t[i].square = j->t[i].error = 0;
		for (uint64_t k = j->first[i]; k < j->first[i + 1]; k++) {
			j->t[i].square += j->sums[k].square;
			j->t[i].error += j->sums[k].error;
		}
	}
}

static int write_all(struct job *j, const struct plx_gw *w, const struct plx_emit_options *o,
                     uint64_t read_bytes)
{
	int err = plx_out_open(&j->out, o->path, o->force, w->file_bytes, j->d);

	if (err)
		return err;
	plx_progress_begin(&j->bar, o->verb, read_bytes, !o->quiet);
	err = plx_out_write(&j->out, w->head.p, w->head.n, 0, j->d);
	if (!err)
		err = plx_pool_run(o->n_threads, j->first[j->n], do_item, j);
	plx_progress_end(&j->bar);
	if (!err && plx_out_interrupted())
		err = PLX_E_CANCELLED;
	if (err == PLX_E_CANCELLED)
		plx_diag_set(j->d, err, "interrupted; %s was not written", o->path);
	if (!err)
		return plx_out_commit(&j->out, j->d);
	plx_out_abort(&j->out);
	return err;
}

int plx_emit(struct plx_gw *w, struct plx_emit_tensor *t, uint32_t n,
             const struct plx_emit_options *o, struct plx_diag *d)
{
	struct job j = {.t = t,
	                .n = n,
	                .effort = o->effort,
	                .lock = PTHREAD_MUTEX_INITIALIZER,
	                .failed_item = UINT64_MAX,
	                .d = d};
	uint64_t read_bytes = 0;
	int err;

	for (uint32_t i = 0; i < n; i++)
		plx_gw_tensor(w, plx_gw_name(t[i].name), t[i].to, t[i].n_dims, t[i].dim);
	err = plx_gw_finish(w, d);
	j.place = w->place;
	if (!err && (plan(&j, &read_bytes) || buffers(&j, o->n_threads)))
		err = plx_diag_set(d, PLX_E_NOMEM, "no memory for %u threads' buffers; give fewer",
		                   o->n_threads);
	if (!err)
		err = write_all(&j, w, o, read_bytes);
	if (!err)
		add_sums(&j);
	free(j.first);
	free(j.sums);
	free(j.x);
	free(j.bytes);
	return err;
}
