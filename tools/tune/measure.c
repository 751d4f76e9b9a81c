/* What a run stands on: files, ids, the journal's key; and single measurements. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <xxhash.h>

#include "accel/model/tokenizer.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "kernels/kernels.h"
#include "tools/gguf/out.h"
#include "tools/gguf/pool.h"
#include "tools/tune/tune.h"

#define MAX_TEXT    (4u << 20)
#define MAX_IDS     1048577u
#define SLICE_US    1000u  /* while accuracy is measured */
#define POOL        16384u /* tokens: polluxd's default */
#define SPARSE_FROM 2048u  /* likewise */
#define NO_CACHE    ""
#define MAX_CACHED  220u /* bytes of a path that the device takes */

/* ---- the text ---- */

static int read_text(const char *path, char **text, size_t *n, struct plx_diag *d)
{
	FILE *f = fopen(path, "r");

	if (!f)
		return plx_diag_set(d, PLX_E_IO, "%s: can't read it: %s", path, strerror(errno));
	*text = malloc(MAX_TEXT + 1);
	*n = *text ? fread(*text, 1, MAX_TEXT + 1, f) : 0;
	bool bad = ferror(f) != 0;

	fclose(f);
	if (!*text)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for %s", path);
	if (bad)
		return plx_diag_set(d, PLX_E_IO, "%s: can't read it: %s", path, strerror(errno));
	if (*n > MAX_TEXT)
		*n = MAX_TEXT; /* a tail that nothing would look at */
	return 0;
}

static int encode(const struct plx_model *m, const char *text, size_t n, int32_t *ids,
                  struct plx_diag *d)
{
	struct plx_tok_scratch *s = NULL;
	struct plx_tok *tok;
	int err = plx_tok_open(&tok, m->gguf, d);

	if (err)
		return err;
	err = plx_tok_scratch_new(&s, tok, (uint32_t)n + 1, d);
	if (!err)
		err = plx_tok_encode(s, text, (uint32_t)n, PLX_TOK_BOS, ids, MAX_IDS);
	plx_tok_scratch_free(s);
	plx_tok_free(tok);
	return err < 0 ? plx_diag_set(d, err, "the text can't be made into tokens: %s",
	                              plx_err_help(err))
	               : err;
}

/* The text's ids, which must be the same for both models. */
static int take_ids(struct plx_tune *t, const struct plx_model *m, const struct plx_model *ref,
                    struct plx_diag *d)
{
	int32_t *other = calloc(MAX_IDS, sizeof *other);
	char *text = NULL;
	size_t n_bytes = 0;
	int n, k = 0;

	t->ids = calloc(MAX_IDS, sizeof *t->ids);
	n = t->ids && other ? read_text(t->o->text, &text, &n_bytes, d)
	                    : plx_diag_set(d, PLX_E_NOMEM, "no memory for the text");
	if (n == 0)
		n = encode(m, text, n_bytes, t->ids, d);
	if (n >= 0)
		k = encode(ref, text, n_bytes, other, d);
	if (n >= 0 && k >= 0 &&
	    (n != k || m->n_vocab != ref->n_vocab ||
	     memcmp(t->ids, other, (size_t)n * sizeof *other) != 0))
		n = plx_diag_set(
		    d, PLX_E_INVAL,
		    "%s: its tokens are not those of %s; give the same model unquantised",
		    t->o->reference, t->o->model);
	free(other);
	free(text);
	if (n < 0 || k < 0)
		return n < 0 ? n : k;
	t->n_ids = (uint32_t)n;
	return 0;
}

static int check_text(struct plx_tune *t, const struct plx_model *m, struct plx_diag *d)
{
	const struct plx_tune_options *o = t->o;
	uint32_t most = t->n_ids > 0 ? t->n_ids - 1 : 0;

	t->n_places = o->tokens < most ? o->tokens : most;
	t->load.n_places = t->n_places;
	t->n_ctx = m->n_ctx;
	if (t->n_places < PLX_ACCURACY_LEAST || t->n_ids < o->prompt)
		return plx_diag_set(
		    d, PLX_E_INVAL,
		    "%s: %u tokens are too few for a perplexity of %u tokens with an "
		    "interval and prompts of %u; give a longer text",
		    o->text, t->n_ids, o->tokens, o->prompt);
	if (o->prompt + o->answer > m->n_ctx)
		return plx_diag_set(
		    d, PLX_E_INVAL,
		    "--prompt and --answer together are over the model's context of "
		    "%u tokens",
		    m->n_ctx);
	return 0;
}

/* ---- what the journal holds for ---- */

static uint64_t machine_hash(struct plx_tune *t)
{
	const char *kind = plx_kernels_select(PLX_K_ISA_BEST)->numeric_kind;
	char line[256], name[96] = "unknown CPU", all[320];
	FILE *f = fopen("/proc/cpuinfo", "r");

	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "model name : %95[^\n]", name) == 1)
			break;
	if (f)
		fclose(f);
	snprintf(t->machine, sizeof t->machine, "%s, %u thread%s", name, t->n_threads,
	         t->n_threads > 1 ? "s" : "");
	snprintf(all, sizeof all, "%s %s %s", t->machine, kind, t->load.cpu_time ? "cpu" : "wall");
	return XXH3_64bits(all, strlen(all));
}

static uint64_t hash_of(const struct plx_model *m)
{
	uint64_t h;

	memcpy(&h, m->hash, sizeof h);
	return h;
}

static struct plx_journal_key key_of(struct plx_tune *t, const struct plx_model *m,
                                     const struct plx_model *ref)
{
	const struct plx_speed_load *l = &t->load;
	uint32_t load[] = {l->batch,    l->n_requests,  l->prompt,     l->answer,
	                   t->n_places, t->pool_tokens, l->sparse_from};

	return (struct plx_journal_key){
	    .model = hash_of(m),
	    .reference = hash_of(ref),
	    .text = XXH3_64bits(t->ids, t->n_ids * sizeof *t->ids),
	    .machine = machine_hash(t),
	    .load = XXH3_64bits(load, sizeof load),
	    .knobs = plx_tune_knobs_hash(),
	};
}

/* ---- opening ---- */

static void take_options(struct plx_tune *t)
{
	const struct plx_tune_options *o = t->o;
	uint32_t of_board = t->board.n_threads;

	t->n_threads = o->n_threads ? o->n_threads : of_board ? of_board : plx_pool_threads(0);
	if (t->n_threads > PLX_RIG_THREADS)
		t->n_threads = PLX_RIG_THREADS;
	t->pool_tokens = of_board ? t->board.pool_tokens : POOL;
	t->space = o->space;
	t->load =
	    (struct plx_speed_load){.batch = o->batch,
	                            .n_requests = o->n_requests,
	                            .prompt = o->prompt,
	                            .answer = o->answer,
	                            .n_threads = t->n_threads,
	                            .sparse_from = of_board ? t->board.sparse_from : SPARSE_FROM,
	                            .cpu_time = o->cpu_time};
}

/* Formats that are larger than what they are made from gain nothing. */
static void drop_formats(struct plx_tune *t, const struct plx_model *source)
{
	double bits = 8 * (double)source->weight_bytes / (double)source->n_param;

	for (uint32_t v = 1; v < plx_tune_knobs[0].n; v++)
		if (plx_weights_larger(v, bits))
			plx_tune_space_drop(&t->space, 0, v);
}

/* ---- values that come to the same ---- */

static bool same_effect(const struct plx_tune *t, uint32_t k, uint32_t a, uint32_t b)
{
	struct plx_tune_point p;
	struct plx_tune_setup s[2];

	plx_tune_point_usual(&p);
	for (uint32_t i = 0; i < 2; i++) {
		p.v[k] = (uint8_t)(i ? b : a);
		plx_tune_point_setup(&p, &s[i]);
		plx_speed_effect(&t->load, &s[i]);
	}
	return memcmp(&s[0], &s[1], sizeof s[0]) == 0;
}

void plx_tune_same_as(const struct plx_tune *t, struct plx_tune_point *p)
{
	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++) {
		uint32_t like = p->v[k];
		bool have = false;

		for (uint32_t i = 0; i < t->space.n[k]; i++) {
			uint32_t v = t->space.value[k][i];

			have = have || v == p->v[k];
			like = same_effect(t, k, v, p->v[k]) ? v : like;
		}
		p->v[k] = (uint8_t)(have ? p->v[k] : like);
	}
}

/* Of values that come to the same the one that runs now stays, or the first. */
static void drop_same(struct plx_tune *t)
{
	struct plx_tune_point now;

	plx_tune_point_usual(&now);
	if (t->board.n_threads)
		now = t->board.point;
	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++)
		for (uint32_t i = 0; i < t->space.n[k]; i++) {
			uint32_t keep = t->space.value[k][i];

			for (uint32_t j = 0; j < t->space.n[k]; j++)
				if (t->space.value[k][j] == now.v[k] &&
				    same_effect(t, k, keep, now.v[k]))
					keep = now.v[k];
			for (uint32_t v = 0; v < plx_tune_knobs[k].n; v++)
				if (v != keep && same_effect(t, k, v, keep))
					plx_tune_space_drop(&t->space, k, v);
		}
}

static int open_journal(struct plx_tune *t, const struct plx_model *m, const struct plx_model *ref,
                        struct plx_diag *d)
{
	struct plx_journal_key key = key_of(t, m, ref);
	char path[PLX_WEIGHTS_PATH];
	int err;

	if (mkdir(t->o->work, 0777) != 0 && errno != EEXIST)
		return plx_diag_set(d, PLX_E_IO, "%s: can't make the folder: %s", t->o->work,
		                    strerror(errno));
	if ((size_t)snprintf(path, sizeof path, "%s/journal", t->o->work) >= sizeof path)
		return plx_diag_set(d, PLX_E_LIMIT, "%s: the path is too long", t->o->work);
	err = plx_journal_open(&t->journal, path, &key, t->o->restart, d);
	for (uint32_t i = 0; i < t->journal.n && !err; i++)
		t->before_s += t->journal.rec[i].v[6];
	return err;
}

static int open_reference(struct plx_tune *t, struct plx_diag *d)
{
	struct plx_dev_limits lim =
	    plx_accuracy_limits(t->n_places, t->n_ctx, PLX_KV_F16, t->n_threads);
	struct plx_rig rig;
	int err = plx_rig_open(&rig, t->weights.source, NO_CACHE, &lim, SLICE_US, d);

	if (err)
		return err;
	err = plx_accuracy_ref_run(&t->ref, &rig, t->ids, t->n_places, d);
	plx_rig_close(&rig);
	return err;
}

static int open_models(struct plx_tune *t, struct plx_diag *d)
{
	struct plx_model *m = NULL, *ref = NULL;
	int err = plx_model_open(t->o->model, &m, d);

	if (!err)
		err = plx_model_open(t->weights.source, &ref, d);
	if (!err)
		err = take_ids(t, m, ref, d);
	if (!err)
		err = check_text(t, m, d);
	if (!err) {
		t->load.ids = t->ids;
		t->load.n_ids = t->n_ids;
		t->weights.source_hash = hash_of(ref);
		drop_formats(t, ref);
		drop_same(t);
		err = open_journal(t, m, ref, d);
	}
	plx_model_close(m);
	plx_model_close(ref);
	return err;
}

int plx_tune_open(struct plx_tune *t, const struct plx_tune_options *o, struct plx_diag *d)
{
	int err = 0;

	memset(t, 0, sizeof *t);
	t->o = o;
	t->journal.fd = -1;
	t->start_ns = plx_clock_ns();
	if (o->board)
		err = plx_board_read(&t->board, o->board, d);
	if (!err && o->out)
		err = plx_out_check(o->out, o->force, d);
	if (err)
		return err;
	take_options(t);
	t->weights = (struct plx_weights){.given = o->model,
	                                  .source = o->reference ? o->reference : o->model,
	                                  .folder = o->work,
	                                  .n_threads = t->n_threads,
	                                  .quiet = o->quiet};
	err = open_models(t, d);
	if (!err)
		err = open_reference(t, d);
	if (err)
		plx_tune_close(t);
	return err;
}

void plx_tune_close(struct plx_tune *t)
{
	plx_search_close(&t->search);
	plx_accuracy_ref_free(&t->ref);
	plx_journal_close(&t->journal);
	free(t->ids);
	t->ids = NULL;
}

double plx_tune_elapsed(const struct plx_tune *t)
{
	return t->before_s + (double)(plx_clock_ns() - t->start_ns) / 1e9;
}

/* ---- measuring ---- */

int plx_tune_file(const struct plx_tune *t, const struct plx_tune_point *p,
                  char path[PLX_WEIGHTS_PATH], struct plx_diag *d)
{
	struct plx_tune_setup s;

	plx_tune_point_setup(p, &s);
	return plx_weights_file(&t->weights, s.weights, path, d);
}

static double since(uint64_t t0)
{
	return (double)(plx_clock_ns() - t0) / 1e9;
}

static void say(const struct plx_tune *t, const struct plx_journal_rec *r)
{
	static const char *const kind[] = {"accuracy", "speed", "compare"};
	char text[PLX_TUNE_TEXT_BYTES];

	if (!t->o->verbose)
		return;
	plx_tune_point_short(&r->point, text);
	if (r->kind == PLX_JOURNAL_ACCURACY)
		printf("%6.1f s  accuracy  perplexity %+.2f %% +- %.2f, divergence %.4f, agreement "
		       "%.1f %%: %s\n",
		       plx_tune_elapsed(t), 100 * expm1(r->v[1]), 196 * r->v[2], r->v[3],
		       100 * r->v[5], text);
	else
		printf(
		    "%6.1f s  %-8s  %.1f tokens/s, p50 %.2f ms, p99 %.2f ms, first %.1f ms: %s\n",
		    plx_tune_elapsed(t), kind[r->kind], r->v[1], r->v[2], r->v[3], r->v[4], text);
	fflush(stdout);
}

/* The device's own file of repacked weights, in the work folder. */
static void cache_base(const struct plx_tune *t, const struct plx_tune_setup *s, char *buf,
                       size_t bytes)
{
	int n = snprintf(buf, bytes, "%s/%s-%016llx", t->o->work,
	                 plx_tune_knobs[0].value[s->weights].text,
	                 (unsigned long long)t->weights.source_hash);

	if (n < 0 || (size_t)n >= bytes)
		buf[0] = '\0';
}

int plx_tune_accuracy(struct plx_tune *t, const struct plx_tune_point *p,
                      struct plx_journal_rec *out, struct plx_diag *d)
{
	struct plx_tune_point own = plx_tune_point_accuracy(p);
	char path[PLX_WEIGHTS_PATH], cache[MAX_CACHED];
	struct plx_dev_limits lim;
	struct plx_tune_setup s;
	struct plx_accuracy a;
	struct plx_rig rig;
	uint64_t t0 = plx_clock_ns();

	for (uint32_t i = 0; i < t->journal.n; i++)
		if (t->journal.rec[i].kind == PLX_JOURNAL_ACCURACY &&
		    plx_tune_point_same(&t->journal.rec[i].point, &own)) {
			*out = t->journal.rec[i];
			return 0;
		}
	plx_tune_point_setup(&own, &s);
	lim = plx_accuracy_limits(t->n_places, t->n_ctx, s.kv_type, t->n_threads);
	lim.sparse_mass = s.sparse_mass;
	lim.sparse_chunks = s.sparse_chunks;
	lim.sparse_from = t->load.sparse_from;
	cache_base(t, &s, cache, sizeof cache);
	int err = plx_tune_file(t, &own, path, d);

	if (!err)
		err = plx_rig_open(&rig, path, cache, &lim, SLICE_US, d);
	if (err)
		return err;
	err = plx_accuracy_run(&a, &t->ref, &rig, d);
	plx_rig_close(&rig);
	if (err)
		return err;
	*out = (struct plx_journal_rec){
	    .kind = PLX_JOURNAL_ACCURACY,
	    .point = own,
	    .v = {a.n, a.ln_ppl, a.ln_ppl_sd, a.kl, a.kl_sd, a.top, since(t0)}};
	err = plx_journal_add(&t->journal, out, d);
	if (!err)
		say(t, out);
	return err;
}

int plx_tune_speed(struct plx_tune *t, const struct plx_tune_point *p, enum plx_journal_kind kind,
                   uint32_t block, struct plx_journal_rec *out, struct plx_diag *d)
{
	char path[PLX_WEIGHTS_PATH], cache[MAX_CACHED];
	struct plx_dev_info info = {.n_vocab = 0};
	struct plx_tune_setup s;
	struct plx_speed v;
	struct plx_rig rig;
	uint64_t t0 = plx_clock_ns();

	plx_tune_point_setup(p, &s);
	struct plx_dev_limits lim = plx_speed_limits(&t->load, &s);
	int err = plx_tune_file(t, p, path, d);

	cache_base(t, &s, cache, sizeof cache);
	if (!err)
		err = plx_rig_open(&rig, path, cache, &lim, s.slice_us, d);
	if (err)
		return err;
	err = plx_dev_info_get(rig.dev, &info);
	if (!err)
		err = plx_speed_run(&v, &t->load, &s, &rig, d);
	uint64_t bytes = rig.model->weight_bytes +
	                 (uint64_t)info.block_bytes * (t->pool_tokens / s.block_tokens);

	plx_rig_close(&rig);
	if (err)
		return err;
	*out = (struct plx_journal_rec){.kind = kind,
	                                .point = *p,
	                                .v = {block, v.rate, v.p50_ms, v.p99_ms, v.first_ms,
	                                      (double)bytes / 0x1p20, since(t0)}};
	err = plx_journal_add(&t->journal, out, d);
	if (!err)
		say(t, out);
	return err;
}
