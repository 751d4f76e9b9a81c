/* Which experts are in memory: the runner's side of the store, its making and its end. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/experts_int.h"
#include "fw/base/check.h"
#include "fw/base/err.h"

#define SAMPLE   64u /* slots that are looked at for the coldest: 0.1 us each at most */
#define GAIN_MAX 1e12f
/* Guesses that come true less often than this take more from a disk than they give: then only one
 * in so many is tried. */
#define LUCK_LEAST 0.3f
#define LUCK_TRY   8u
#define LUCK_SPAN  64.0f

/* ---- slots ---------------------------------------------------------------------------------- */

static uint32_t key_of(const struct plx_experts *x, uint32_t il, uint32_t e)
{
	return il * x->n_expert + e;
}

static enum plx_expert_state state_of(const struct plx_expert_slot *s)
{
	/* E6: pairs with E5. */
	return (enum plx_expert_state)atomic_load_explicit(&s->state, memory_order_acquire);
}

static void guess_end(struct plx_experts *x, struct plx_expert_slot *s)
{
	x->n_early -= s->early;
	s->early = false;
	s->ahead = false;
}

static void forget(struct plx_experts *x, struct plx_expert_slot *s)
{
	guess_end(x, s);
	if (s->expert != PLX_EXPERTS_NONE)
		x->slot_of[s->expert] = PLX_EXPERTS_NONE;
	s->expert = PLX_EXPERTS_NONE;
	s->turn = 0;
	atomic_store_explicit(&s->state, PLX_EXPERT_EMPTY, memory_order_relaxed);
}

/* How gladly a slot is given up: the least first; INFINITY: not at all. */
static float worth(const struct plx_experts *x, const struct plx_expert_slot *s)
{
	enum plx_expert_state state = state_of(s);

	if (state == PLX_EXPERT_EMPTY)
		return -1;
	if (state == PLX_EXPERT_QUEUED || state == PLX_EXPERT_READING || s->turn == x->turn)
		return INFINITY;
	/* What was guessed for the next layer goes when nothing else is left. */
	return s->ahead ? 2 * GAIN_MAX + x->heat[s->expert] : x->heat[s->expert];
}

/* The coldest of a sample, of more where the sample is all held; NONE when all are. */
static uint32_t victim(struct plx_experts *x)
{
	uint32_t best = PLX_EXPERTS_NONE;
	float least = INFINITY;

	for (uint32_t n = 0; n < x->n_slot && (n < SAMPLE || best == PLX_EXPERTS_NONE); n++) {
		uint32_t i = x->hand;
		float w = worth(x, &x->slot[i]);

		x->hand = i + 1 == x->n_slot ? 0 : i + 1;
		if (w < least) {
			least = w;
			best = i;
		}
		if (w < 0)
			break;
	}
	return best;
}

/* Gives the expert a slot and has it read; NULL: not now. */
static struct plx_expert_slot *take(struct plx_experts *x, uint32_t key,
                                    struct plx_expert_ring *ring)
{
	uint32_t i = victim(x);

	if (i == PLX_EXPERTS_NONE)
		return NULL;
	struct plx_expert_slot *s = &x->slot[i];

	forget(x, s);
	s->expert = key;
	s->asked = ring == &x->needs;
	s->before = false;
	x->slot_of[key] = i;
	atomic_store_explicit(&s->state, PLX_EXPERT_QUEUED, memory_order_release);
	if (plx_expert_ring_push(ring, i))
		return s;
	/* An older entry of this slot may still stand in a ring, so that it may be being read. */
	uint32_t want = PLX_EXPERT_QUEUED;

	if (!atomic_compare_exchange_strong_explicit(&s->state, &want, PLX_EXPERT_EMPTY,
	                                             memory_order_acquire, memory_order_relaxed))
		return s;
	forget(x, s);
	return NULL;
}

static struct plx_expert_slot *slot_of(struct plx_experts *x, uint32_t key)
{
	return x->slot_of[key] == PLX_EXPERTS_NONE ? NULL : &x->slot[x->slot_of[key]];
}

/* Only the runner adds; relaxed, since who reads wants a count and nothing that it stands for. */
static void count(_Atomic uint64_t *c)
{
	uint64_t v = atomic_load_explicit(c, memory_order_relaxed);

	atomic_store_explicit(c, v + 1, memory_order_relaxed);
}

/* ---- a layer's use -------------------------------------------------------------------------- */

/* Heat decays by what a use adds growing; before it is too large all is divided by it. */
static void heat_turn(struct plx_experts *x)
{
	x->gain *= x->growth;
	if (x->gain < GAIN_MAX / 1e4f)
		return;
	for (uint32_t i = 0; i < x->n_total; i++)
		x->heat[i] /= x->gain;
	x->gain = 1;
}

/* What was read on a guess for the last layer, and it did not want. */
static void guesses_judge(struct plx_experts *x)
{
	for (uint32_t e = 0; e < x->n_expert; e++) {
		struct plx_expert_slot *s = slot_of(x, key_of(x, x->last_il, e));

		if (s == NULL || !s->early)
			continue;
		x->luck -= x->luck / LUCK_SPAN;
		guess_end(x, s);
	}
}

void plx_experts_turn(struct plx_experts *x, uint32_t il)
{
	guesses_judge(x);
	x->last_il = il;
	x->turn++;
	x->turn += x->turn == 0; /* which means: not held */
	atomic_store_explicit(&x->n_turn, x->turn, memory_order_relaxed);
	heat_turn(x);
	for (uint32_t e = 0; e < x->n_expert; e++) {
		struct plx_expert_slot *s = slot_of(x, key_of(x, il, e));

		if (s != NULL)
			s->ahead = false;
	}
}

void plx_experts_need(struct plx_experts *x, uint32_t il, uint32_t e)
{
	uint32_t key = key_of(x, il, e);
	struct plx_expert_slot *s = slot_of(x, key);

	x->heat[key] += x->gain;
	count(s != NULL && state_of(s) == PLX_EXPERT_READY ? &x->hits : &x->misses);
	if (s != NULL && s->early) {
		count(&x->ahead_used);
		x->luck += (1 - x->luck) / LUCK_SPAN;
	}
	if (s != NULL) {
		guess_end(x, s);
		s->before = true;
	}
	(void)plx_experts_ask(x, il, e);
}

void plx_experts_guess(struct plx_experts *x, uint32_t il, uint32_t e)
{
	uint32_t key = key_of(x, il, e);
	struct plx_expert_slot *s = slot_of(x, key);

	if (s == NULL && x->luck < LUCK_LEAST && ++x->n_skip % LUCK_TRY != 0)
		return;
	if (s == NULL && x->n_early < x->n_slot / 4) {
		s = take(x, key, &x->guesses);
		if (s == NULL)
			return;
		s->early = true;
		x->n_early++;
		count(&x->ahead);
	}
	if (s != NULL)
		s->ahead = true;
}

enum plx_expert_state plx_experts_ask(struct plx_experts *x, uint32_t il, uint32_t e)
{
	uint32_t key = key_of(x, il, e);
	struct plx_expert_slot *s = slot_of(x, key);

	if (s == NULL)
		s = take(x, key, &x->needs);
	if (s == NULL)
		return PLX_EXPERT_EMPTY;
	s->turn = x->turn;
	enum plx_expert_state state = state_of(s);

	if (state == PLX_EXPERT_FAILED) {
		bool before = s->before;

		forget(x, s);
		/* What failed for a step that has ended, or on a guess, is no fault of this one. */
		return before ? plx_experts_ask(x, il, e) : PLX_EXPERT_FAILED;
	}
	/* What was only guessed is wanted now, and may stand behind other guesses. */
	if (state == PLX_EXPERT_QUEUED && !s->asked)
		s->asked = plx_expert_ring_push(&x->needs, x->slot_of[key]);
	return state;
}

void plx_experts_bind(const struct plx_experts *x, uint32_t il, uint32_t e, struct plx_fwd_ffn *w)
{
	const struct plx_expert_shape *s = &x->shape[il];
	const uint8_t *at = plx_expert_slot_at(x, x->slot_of[key_of(x, il, e)]);

	*w = s->ffn;
	w->gate.data = at;
	w->up.data = at + s->up_off;
	w->down.data = at + s->down_off;
}

void plx_experts_done(struct plx_experts *x, uint32_t il, uint32_t e)
{
	struct plx_expert_slot *s = slot_of(x, key_of(x, il, e));

	if (s != NULL)
		s->turn = 0;
}

void plx_experts_counts(const struct plx_experts *x, struct plx_dev_experts *out)
{
	out->hits = atomic_load_explicit(&x->hits, memory_order_relaxed);
	out->misses = atomic_load_explicit(&x->misses, memory_order_relaxed);
	out->ahead = atomic_load_explicit(&x->ahead, memory_order_relaxed);
	out->ahead_used = atomic_load_explicit(&x->ahead_used, memory_order_relaxed);
	out->read_bytes = atomic_load_explicit(&x->read_bytes, memory_order_relaxed);
}

/* ---- limits --------------------------------------------------------------------------------- */

static uint64_t n_total(const struct plx_model *m)
{
	return (uint64_t)m->n_layer * m->n_expert;
}

bool plx_experts_stream(const struct plx_model *m, const struct plx_dev_limits *lim)
{
	return m->n_expert > 0 && lim->expert_mem_bytes > 0 &&
	       lim->expert_mem_bytes / plx_experts_slot_bytes(m) < n_total(m);
}

uint64_t plx_experts_pool_bytes(const struct plx_model *m, const struct plx_dev_limits *lim)
{
	if (!plx_experts_stream(m, lim))
		return 0;
	uint64_t slot = plx_experts_slot_bytes(m);

	return lim->expert_mem_bytes / slot * slot;
}

int plx_experts_check(const struct plx_model *m, const struct plx_dev_limits *lim,
                      struct plx_diag *d)
{
	if (!plx_experts_stream(m, lim))
		return PLX_E_OK;
	uint64_t slot = plx_experts_slot_bytes(m), least = m->n_expert_used * slot;

	if (lim->expert_mem_bytes >= least)
		return PLX_E_OK;
	return plx_diag_set(
	    d, PLX_E_LIMIT,
	    "%s: %llu KiB for experts hold %llu of them, and a token of this model uses %u of %llu "
	    "KiB each in a layer; give expert_mem_mib at least %llu, or 0 for all (%llu)",
	    m->name, (unsigned long long)(lim->expert_mem_bytes >> 10),
	    (unsigned long long)(lim->expert_mem_bytes / slot), m->n_expert_used,
	    (unsigned long long)(slot >> 10), (unsigned long long)((least + (1 << 20) - 1) >> 20),
	    (unsigned long long)(n_total(m) * slot >> 20));
}

/* ---- making and ending ---------------------------------------------------------------------- */

static void mats_set(struct plx_experts *x)
{
	for (uint32_t i = 0; i < x->n_total; i++) {
		const struct plx_expert_shape *s = &x->shape[i / x->n_expert];

		x->mat[i] = (struct plx_cache_mat){.off = i * x->slot_bytes,
		                                   .bytes = s->bytes,
		                                   .type = (uint32_t)s->ffn.gate.type << 16 |
		                                           (uint32_t)s->ffn.up.type << 8 |
		                                           (uint32_t)s->ffn.down.type,
		                                   .n_out = s->ffn.gate.n_out,
		                                   .n_in = s->ffn.gate.n_in};
	}
}

static bool ring_make(struct plx_expert_ring *r, uint32_t n_slot)
{
	uint32_t n = 2;

	while (n < 2 * n_slot)
		n *= 2;
	r->mask = n - 1;
	r->slot = calloc(n, sizeof(*r->slot));
	return r->slot != NULL;
}

static bool tables_make(struct plx_experts *x)
{
	const struct plx_model *m = x->m;

	x->shape = calloc(m->n_layer, sizeof(*x->shape));
	x->slot = calloc(x->n_slot, sizeof(*x->slot));
	x->slot_of = malloc(x->n_total * sizeof(*x->slot_of));
	x->heat = calloc(x->n_total, sizeof(*x->heat));
	x->mat = calloc(x->n_total, sizeof(*x->mat));
	if (x->shape == NULL || x->slot == NULL || x->slot_of == NULL || x->heat == NULL ||
	    x->mat == NULL || !ring_make(&x->needs, x->n_slot) ||
	    !ring_make(&x->guesses, x->n_slot))
		return false;
	for (uint32_t i = 0; i < x->n_total; i++)
		x->slot_of[i] = PLX_EXPERTS_NONE;
	for (uint32_t i = 0; i < x->n_slot; i++)
		x->slot[i].expert = PLX_EXPERTS_NONE;
	for (uint32_t il = 0; il < m->n_layer; il++)
		plx_expert_shape_make(m, il, &x->shape[il]);
	mats_set(x);
	return true;
}

static struct plx_experts *store_new(const struct plx_experts_conf *conf)
{
	struct plx_experts *x = aligned_alloc(64, (sizeof(*x) + 63) & ~(size_t)63);

	if (x == NULL)
		return NULL;
	memset(x, 0, sizeof(*x));
	x->m = conf->m;
	x->pool = conf->pool;
	x->cpus = conf->cpus;
	x->n_expert = conf->m->n_expert;
	x->n_total = (uint32_t)n_total(conf->m);
	x->n_slot = conf->n_slot;
	x->slot_bytes = plx_experts_slot_bytes(conf->m);
	x->gain = 1;
	x->luck = 1;
	x->growth = exp2f(1.0f / (float)(PLX_EXPERTS_HALF_LIFE * conf->m->n_layer));
	x->turn = 1;
	x->tmp_fd = -1;
	x->direct_fd = -1;
	x->cache.fd = -1;
	(void)sem_init(&x->work[0], 0, 0);
	(void)sem_init(&x->work[1], 0, 0);
	return x;
}

static int name_it(struct plx_experts *x, const struct plx_experts_conf *conf, struct plx_diag *d)
{
	x->plan = *conf->plan;
	x->plan.mat = x->mat;
	x->plan.n_mat = x->n_total;
	x->plan.chunk_bytes = x->slot_bytes;
	x->plan.data_bytes = x->n_total * x->slot_bytes;
	if (conf->base[0] == '\0' || x->plan.model_mtime_ns == 0)
		return plx_diag_set(d, PLX_E_INVAL,
		                    "expert_mem_mib keeps experts in a file beside the model: give "
		                    "weights_cache: auto and a model that is a file, or "
		                    "expert_mem_mib: 0");
	int n = snprintf(x->path, sizeof(x->path), "%s%s", conf->base, PLX_EXPERTS_SUFFIX);

	if (n >= (int)sizeof(x->path))
		return plx_diag_set(d, PLX_E_LIMIT, "the path %s is too long", conf->base);
	snprintf(x->tmp, sizeof(x->tmp), "%s.tmp", x->path);
	return PLX_E_OK;
}

int plx_experts_open(const struct plx_experts_conf *conf, struct plx_experts **out,
                     struct plx_diag *d)
{
	struct plx_experts *x = store_new(conf);
	int err = PLX_E_OK;

	if (x == NULL || !tables_make(x))
		err = plx_diag_set(d, PLX_E_NOMEM, "out of memory");
	if (err == 0)
		err = name_it(x, conf, d);
	if (err == 0)
		err = plx_expert_file_open(x, d);
	if (err == 0 || err == PLX_E_NOT_FOUND) {
		atomic_init(&x->stage, err == 0 ? PLX_EXPERTS_TOUCHING : PLX_EXPERTS_MAKING);
		err = plx_experts_threads(x) > 0
		          ? PLX_E_OK
		          : plx_diag_set(d, PLX_E_NOMEM, "no thread can be started");
	}
	if (err != 0)
		plx_experts_close(x);
	else
		*out = x;
	return err;
}

int plx_experts_poll(struct plx_experts *x, uint32_t *n_made, struct plx_diag *d)
{
	enum plx_experts_stage s =
	    (enum plx_experts_stage)atomic_load_explicit(&x->stage, memory_order_acquire);

	*n_made = s == PLX_EXPERTS_MAKING ? atomic_load_explicit(&x->n_made, memory_order_relaxed)
	                                  : x->n_total;
	if (s == PLX_EXPERTS_BROKEN)
		return plx_diag_set(d, x->err, "%s", x->why.text);
	return s == PLX_EXPERTS_SERVING ? PLX_E_OK : PLX_E_AGAIN;
}

void plx_experts_close(struct plx_experts *x)
{
	if (x == NULL)
		return;
	plx_experts_threads_end(x);
	plx_expert_file_close(x);
	(void)sem_destroy(&x->work[0]);
	(void)sem_destroy(&x->work[1]);
	free(x->needs.slot);
	free(x->guesses.slot);
	free(x->shape);
	free(x->slot);
	free(x->slot_of);
	free(x->heat);
	free(x->mat);
	free(x);
}
