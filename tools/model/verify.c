/*
 * plx-model verify: reads every byte of a model file.
 *
 * Structure is what the readers check at open: the container, and whether this build can run the
 * model. Then each tensor's XXH3-128 (which sees damage, not malice), values that are no numbers,
 * the ranges of values and scales; and, tensor by tensor, the difference to another file.
 */
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "accel/model/model.h"
#include "accel/model/tokenizer.h"
#include "fw/base/err.h"
#include "kernels/quant.h"
#include "tools/model/commands.h"
#include "tools/gguf/out.h"
#include "tools/gguf/pool.h"
#include "tools/gguf/progress.h"

#define SLICE_ELEMS 65536u
#define HEX_BYTES   33

/* What was found out about one tensor. */
struct finding {
	const struct plx_gguf_tensor *t, *other;
	char hash[HEX_BYTES];
	uint64_t n_bad;               /* NaN or infinite */
	uint64_t n_zero;              /* of the values */
	double low, high;             /* of the finite values */
	double square;                /* their sum of squares */
	double scale_low, scale_high; /* magnitudes of block scales; low of those that aren't 0 */
	uint64_t n_scale, n_scale_zero;
	bool listed; /* --check's list has it */
	/* against the other file */
	bool same;
	double worst, error, dot, other_square;
};

struct check {
	struct plx_gguf *g, *other;
	struct finding *f;
	uint32_t n;
	float *x;         /* [threads][2][SLICE_ELEMS] */
	json_t *troubles; /* --json: what is wrong, in words; else NULL, and it is printed */
	bool sound;
	struct plx_progress bar;
};

/* A line about something that is not as it should be. */
static void __attribute__((format(printf, 2, 3))) trouble(struct check *c, const char *fmt, ...)
{
	char line[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	c->sound = false;
	if (c->troubles)
		json_array_append_new(c->troubles, json_string(line));
	else
		puts(line);
}

/* ---- one tensor ------------------------------------------------------------------------------ */

/* Offsets of a block's f16 scales; -1: none. */
static void scale_offsets(uint32_t type, int off[2])
{
	bool two = type == PLX_Q_Q4_K || type == PLX_Q_Q5_K;

	off[0] = type == PLX_Q_Q6_K ? 208 : 0;
	off[1] = two ? 2 : -1; /* the minimum of Q4_1 and Q5_1 is a value, not a scale */
}

static void look_at_scales(struct finding *f, const uint8_t *p, uint64_t n_blocks, uint32_t bytes)
{
	int off[2];

	scale_offsets(f->t->type, off);
	for (uint64_t b = 0; b < n_blocks; b++, p += bytes)
		for (int k = 0; k < 2 && off[k] >= 0; k++) {
			double d = fabs((double)plx_f16_to_f32(
			    (uint16_t)(p[off[k]] | (unsigned)p[off[k] + 1] << 8)));

			f->n_scale++;
			if (d == 0)
				f->n_scale_zero++;
			else if (f->scale_low == 0 || d < f->scale_low)
				f->scale_low = d;
			if (d > f->scale_high)
				f->scale_high = d;
		}
}

static void look_at_values(struct finding *f, const float *x, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		double v = (double)x[i];

		if (!isfinite(v)) {
			f->n_bad++;
			continue;
		}
		f->n_zero += v == 0;
		f->low = v < f->low ? v : f->low;
		f->high = v > f->high ? v : f->high;
		f->square += v * v;
	}
}

static void compare(struct finding *f, const float *x, const float *y, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		double a = (double)x[i], b = (double)y[i], e = fabs(a - b);

		if (!isfinite(a) || !isfinite(b))
			continue;
		f->worst = e > f->worst ? e : f->worst;
		f->error += e * e;
		f->dot += a * b;
		f->other_square += b * b;
	}
}

static const uint8_t *at(const struct plx_gguf_tensor *t, uint64_t elem)
{
	uint32_t elems = plx_qtype_block_elems(t->type);

	return t->data + elem / elems * plx_qtype_block_bytes(t->type);
}

static void hash(struct finding *f)
{
	XXH128_canonical_t c;
	char *out = f->hash;

	XXH128_canonicalFromHash(&c, XXH3_128bits(f->t->data, f->t->bytes));
	for (size_t i = 0; i < sizeof c.digest; i++, out += 2)
		snprintf(out, 3, "%02x", c.digest[i]);
}

static bool readable(const struct plx_gguf_tensor *t)
{
	return plx_qtype_known(t->type) != 0;
}

static int do_tensor(void *ctx, uint32_t thread, uint64_t idx)
{
	struct check *c = ctx;
	struct finding *f = &c->f[idx];
	float *x = c->x + (size_t)thread * 2 * SLICE_ELEMS, *y = x + SLICE_ELEMS;
	uint32_t elems = plx_qtype_block_elems(f->t->type);

	hash(f);
	f->low = HUGE_VAL;
	f->high = -HUGE_VAL;
	for (uint64_t i = 0; i < f->t->n_elem && readable(f->t); i += SLICE_ELEMS) {
		uint64_t n = f->t->n_elem - i < SLICE_ELEMS ? f->t->n_elem - i : SLICE_ELEMS;

		if (plx_out_interrupted())
			return PLX_E_CANCELLED;
		plx_q_dequant((enum plx_qtype)f->t->type, at(f->t, i), x, n);
		look_at_values(f, x, n);
		if (elems > 1)
			look_at_scales(f, at(f->t, i), n / elems,
			               plx_qtype_block_bytes(f->t->type));
		if (f->other) {
			plx_q_dequant((enum plx_qtype)f->other->type, at(f->other, i), y, n);
			compare(f, x, y, n);
		}
	}
	if (f->other)
		f->same = f->other->type == f->t->type &&
		          memcmp(f->other->data, f->t->data, f->t->bytes) == 0;
	plx_progress_add(&c->bar, thread, f->t->bytes);
	return 0;
}

/* ---- the whole file -------------------------------------------------------------------------- */

/* A tensor of the other file that can be compared with t, or NULL. */
static const struct plx_gguf_tensor *partner(const struct plx_gguf *g,
                                             const struct plx_gguf_tensor *t)
{
	char name[PLX_GGUF_MAX_NAME_BYTES + 1];

	memcpy(name, t->name.ptr, t->name.len);
	name[t->name.len] = '\0';
	const struct plx_gguf_tensor *o = g ? plx_gguf_tensor_find(g, name) : NULL;

	if (!o || memcmp(o->dim, t->dim, sizeof t->dim) != 0 || !readable(o) || !readable(t))
		return NULL;
	return o;
}

static int run(struct check *c, const struct plx_mtool_options *o, struct plx_diag *d)
{
	uint32_t threads = plx_pool_threads(o->n_threads);
	uint64_t bytes = 0;

	c->n = plx_gguf_n_tensor(c->g);
	c->f = calloc(c->n + 1u, sizeof *c->f);
	c->x = malloc((size_t)threads * 2 * SLICE_ELEMS * sizeof *c->x);
	if (!c->f || !c->x)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for %u threads; give fewer",
		                    threads);
	for (uint32_t i = 0; i < c->n; i++) {
		c->f[i].t = plx_gguf_tensor_at(c->g, i);
		c->f[i].other = partner(c->other, c->f[i].t);
		bytes += c->f[i].t->bytes;
	}
	plx_progress_begin(&c->bar, "verifying", bytes, !o->quiet);
	int err = plx_pool_run(threads, c->n, do_tensor, c);

	plx_progress_end(&c->bar);
	return err ? plx_diag_set(d, err, "interrupted") : 0;
}

/* ---- lists of hashes ------------------------------------------------------------------------- */

static const char *shown_name(const struct finding *f, char buf[PLX_GGUF_MAX_NAME_BYTES + 1])
{
	return plx_gguf_printable(f->t->name, buf, PLX_GGUF_MAX_NAME_BYTES + 1);
}

/* "hash  type  name" a line. */
static int write_list(const struct check *c, const struct plx_mtool_options *o, struct plx_diag *d)
{
	char name[PLX_GGUF_MAX_NAME_BYTES + 1];
	struct plx_out out;
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	if (!f)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for the list");
	for (uint32_t i = 0; i < c->n; i++)
		fprintf(f, "%s  %s  %s\n", c->f[i].hash, plx_gguf_tensor_type_name(c->f[i].t->type),
		        shown_name(&c->f[i], name));
	int err = fclose(f) ? plx_diag_set(d, PLX_E_NOMEM, "no memory for the list") : 0;

	if (!err)
		err = plx_out_open(&out, o->hashes, o->force, 0, d);
	if (!err) {
		err = plx_out_write(&out, text, n, 0, d);
		if (!err)
			err = plx_out_commit(&out, d);
		else
			plx_out_abort(&out);
	}
	free(text);
	return err;
}

static struct finding *find(const struct check *c, const char *name)
{
	struct plx_gguf_str s = {.ptr = name, .len = strlen(name)};

	for (uint32_t i = 0; i < c->n; i++)
		if (c->f[i].t->name.len == s.len && memcmp(c->f[i].t->name.ptr, name, s.len) == 0)
			return &c->f[i];
	return NULL;
}

/* Compare with a list, of which each tensor has to be a line. */
static int read_list(struct check *c, const char *path, struct plx_diag *d)
{
	FILE *f = fopen(path, "re");
	char line[256], hex[40], type[16], name[PLX_GGUF_MAX_NAME_BYTES + 1];
	uint32_t n = 0;

	if (!f)
		return plx_diag_set(d, PLX_E_NOT_FOUND,
		                    "%s: can't open it; give a list that "
		                    "--hashes wrote",
		                    path);
	while (fgets(line, sizeof line, f)) {
		if (sscanf(line, "%39s %15s %64s", hex, type, name) != 3) {
			fclose(f);
			return plx_diag_set(d, PLX_E_FORMAT,
			                    "%s: line %u is not \"hash type name\"; give a list "
			                    "that --hashes wrote",
			                    path, n + 1);
		}
		struct finding *t = find(c, name);

		n++;
		if (!t)
			trouble(c, "%s: is missing", name);
		else if (t->listed)
			trouble(c, "%s: is in the list twice", name);
		else if (strcmp(t->hash, hex) != 0 ||
		         strcmp(plx_gguf_tensor_type_name(t->t->type), type) != 0)
			trouble(c, "%s: is not what the list says", name);
		if (t)
			t->listed = true;
	}
	fclose(f);
	for (uint32_t i = 0; i < c->n; i++)
		if (!c->f[i].listed)
			trouble(c, "%s: is not in the list", shown_name(&c->f[i], name));
	return 0;
}

/* ---- what is said ---------------------------------------------------------------------------- */

static double rms(const struct finding *f)
{
	return sqrt(f->square / (double)f->t->n_elem);
}

static double cosine(const struct finding *f)
{
	double n = sqrt(f->square) * sqrt(f->other_square);

	return n > 0 ? f->dot / n : f->square == f->other_square ? 1 : 0;
}

static bool suspicious(const struct finding *f)
{
	/* A bias may be zero; a matrix that is was lost on the way. */
	return f->n_bad > 0 || (readable(f->t) && f->t->n_dims > 1 && f->n_zero == f->t->n_elem);
}

static void say_tensor(const struct check *c, const struct finding *f)
{
	char name[PLX_GGUF_MAX_NAME_BYTES + 1];

	printf("%-36s %-6s %s", shown_name(f, name), plx_gguf_tensor_type_name(f->t->type),
	       f->hash);
	if (readable(f->t))
		printf("  %.3g to %.3g, rms %.3g", f->low, f->high, rms(f));
	if (f->n_scale > 0)
		printf(", scales %.2g to %.2g", f->scale_low, f->scale_high);
	if (f->other && f->same)
		printf(", the same");
	else if (f->other)
		printf(", off by %.3g at most, cosine %.6f", f->worst, cosine(f));
	else if (c->other)
		printf(", not in the other file");
	putchar('\n');
}

static void say_troubles(struct check *c)
{
	char name[PLX_GGUF_MAX_NAME_BYTES + 1];

	for (uint32_t i = 0; i < c->n; i++) {
		const struct finding *f = &c->f[i];

		if (!suspicious(f))
			continue;
		if (f->n_bad > 0)
			trouble(c, "%s: %llu values are no finite numbers", shown_name(f, name),
			        (unsigned long long)f->n_bad);
		else
			trouble(c, "%s: all values are 0", shown_name(f, name));
	}
}

/* Counts of what differs from the other file, over all tensors. */
struct difference {
	uint32_t n_same, n_compared, n_alone; /* alone: missing, or of another shape */
	double worst, error, square, least_cosine;
	const struct finding *worst_at;
};

static struct difference add_up(const struct check *c)
{
	struct difference s = {.least_cosine = 1};

	for (uint32_t i = 0; i < c->n; i++) {
		const struct finding *f = &c->f[i];

		s.n_alone += !f->other;
		s.n_same += f->other && f->same;
		s.n_compared += f->other != NULL;
		if (!f->other)
			continue;
		s.error += f->error;
		s.square += f->other_square;
		if (f->worst > s.worst || !s.worst_at) {
			s.worst = f->worst;
			s.worst_at = f;
		}
		s.least_cosine = fmin(s.least_cosine, cosine(f));
	}
	for (uint32_t i = 0; i < plx_gguf_n_tensor(c->other); i++)
		s.n_alone += !partner(c->g, plx_gguf_tensor_at(c->other, i));
	return s;
}

static void say_difference(struct check *c)
{
	char name[PLX_GGUF_MAX_NAME_BYTES + 1];
	struct difference s = add_up(c);

	if (s.n_alone > 0)
		trouble(c, "%u tensors have no partner of their shape in the other file",
		        s.n_alone);
	if (c->troubles)
		return;
	printf("against %s: %u of %u tensors the same", plx_gguf_name(c->other), s.n_same,
	       s.n_compared);
	if (s.n_same < s.n_compared)
		printf("; relative error %.3e, off by %.3g at most (%s), least cosine %.6f",
		       s.square > 0 ? sqrt(s.error / s.square) : 0.0, s.worst,
		       shown_name(s.worst_at, name), s.least_cosine);
	putchar('\n');
}

/* Whether this build can run the file; a sentence either way. */
static void say_model(const struct plx_mtool_options *o, struct plx_diag *why, bool *runs)
{
	struct plx_model *m = NULL;
	struct plx_tok *t = NULL;
	int err = plx_model_open(o->in, &m, why);

	if (!err)
		err = plx_tok_open(&t, m->gguf, why);
	*runs = err == 0;
	plx_tok_free(t);
	plx_model_close(m);
}

static void say_json(const struct check *c, bool runs, const char *why)
{
	json_t *list = json_array(), *all;

	for (uint32_t i = 0; i < c->n; i++) {
		const struct finding *f = &c->f[i];
		char name[PLX_GGUF_MAX_NAME_BYTES + 1];
		json_t *t =
		    json_pack("{s:s,s:s,s:s,s:I,s:I}", "name", shown_name(f, name), "type",
		              plx_gguf_tensor_type_name(f->t->type), "xxh3_128", f->hash,
		              "not_finite", (json_int_t)f->n_bad, "zeros", (json_int_t)f->n_zero);

		if (readable(f->t))
			json_object_update_new(
			    t, json_pack("{s:f,s:f,s:f}", "low", isfinite(f->low) ? f->low : 0.0,
			                 "high", isfinite(f->high) ? f->high : 0.0, "rms", rms(f)));
		if (f->n_scale > 0)
			json_object_update_new(
			    t, json_pack("{s:f,s:f,s:I}", "scale_low", f->scale_low, "scale_high",
			                 isfinite(f->scale_high) ? f->scale_high : 0.0,
			                 "scales_zero", (json_int_t)f->n_scale_zero));
		if (f->other)
			json_object_update_new(t, json_pack("{s:b,s:f,s:f}", "same", f->same,
			                                    "max_error", f->worst, "cosine",
			                                    cosine(f)));
		json_array_append_new(list, t);
	}
	all = json_pack("{s:s,s:b,s:O,s:b,s:s,s:o}", "file", plx_gguf_name(c->g), "sound", c->sound,
	                "troubles", c->troubles, "runs", runs, "why_not", why, "tensors", list);
	json_dumpf(all, stdout, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(all);
}

static int report(struct check *c, const struct plx_mtool_options *o, struct plx_diag *d)
{
	struct plx_diag why = {0};
	bool runs;
	int err = 0;

	say_model(o, &why, &runs);
	for (uint32_t i = 0; i < c->n && o->verbose && !o->json; i++)
		say_tensor(c, &c->f[i]);
	say_troubles(c);
	if (o->check)
		err = read_list(c, o->check, d);
	if (!err && c->other)
		say_difference(c);
	if (!err && o->hashes)
		err = write_list(c, o, d);
	if (!err && o->json) {
		say_json(c, runs, why.text);
	} else if (!err && !o->quiet) {
		printf("%s: %u tensors, %s; ", o->in, c->n, c->sound ? "sound" : "NOT sound");
		printf(runs ? "this build runs it\n" : "this build does not run it: %s\n",
		       why.text);
	}
	return err;
}

int plx_mtool_verify(const struct plx_mtool_options *o, bool *sound, struct plx_diag *d)
{
	struct check c = {.sound = true, .troubles = o->json ? json_array() : NULL};
	int err = o->hashes ? plx_out_check(o->hashes, o->force, d) : 0;

	if (!err)
		err = plx_gguf_open(o->in, &c.g, d);
	if (!err && o->against)
		err = plx_gguf_open(o->against, &c.other, d);
	if (!err)
		err = run(&c, o, d);
	if (!err)
		err = report(&c, o, d);
	*sound = c.sound;
	json_decref(c.troubles);
	free(c.f);
	free(c.x);
	plx_gguf_close(c.other);
	plx_gguf_close(c.g);
	return err;
}
