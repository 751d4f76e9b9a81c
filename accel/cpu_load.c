/*
 * Loading a model onto the CPU device: what is needed against what there is, weights read from the
 * cache or repacked, memory touched, tables made.
 *
 * Loading is a sequence of phases, each cut into items that any lane may claim (work.h), as a step
 * is. The owner opens a phase, helps with its items, and goes on to the next one when all are done;
 * what lies between phases is its alone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "accel/cpu.h"
#include "accel/cpu_weights.h"
#include "accel/experts.h"
#include "accel/forward_moe.h"
#include "accel/forward_tree.h"
#include "accel/work.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "fw/base/log.h"
#include "fw/base/mem.h"
#include "fw/base/numa.h"
#include "kernels/cpu/layout.h"

#define MIB (UINT64_C(1) << 20)

#define TOUCH_BYTES (512u << 10)
#define ROPE_ROWS   64u /* positions of an item */

enum phase {
	PHASE_OPEN,   /* owner: arenas, cache, the disk's first bytes asked for */
	PHASE_PAGES,  /* the weights' pages, where the disk writes to them itself */
	PHASE_KV,     /* while they come: the KV pool's pages */
	PHASE_WORK,   /* and those of activations and tables */
	PHASE_ASK,    /* embedding rows are asked for, where nobody else does */
	PHASE_READ,   /* weights from the cache */
	PHASE_PACK,   /* or from the model */
	PHASE_TABLES, /* owner: what lies in them */
	PHASE_ROPE,
	PHASE_EMBED,   /* the model's embedding rows are brought into memory */
	PHASE_EXPERTS, /* experts' threads make their file, if it is not there */
	PHASE_DONE,
};

struct plx_cpu_load {
	struct plx_work work;
	_Atomic uint32_t phase_over; /* all items of the open phase are done */
	_Atomic uint32_t sink;
	enum phase phase; /* owner; items read it */
	bool open;        /* owner: phase has items out */
	int err;          /* owner: loading ended with it */
	uint32_t n_items; /* owner: of the open phase */
	uint32_t n_made;  /* owner: experts that are in their file */
	uint64_t begin_ns;
	uint64_t ns[PHASE_DONE]; /* owner: what each phase took */
	uint64_t kv_bytes;
	uint64_t host_bytes;
	uint64_t work_bytes;
	uint64_t expert_bytes; /* of the pool of experts; 0: all are among the weights */
	uint64_t done_bytes;   /* owner: of finished phases */
	struct plx_cpu_weights weights;
	struct plx_cache_plan plan;
	char cache_path[PLX_CACHE_PATH_BYTES]; /* "": no cache */
	struct plx_cache_writer writer;
};

/* ---- memory --------------------------------------------------------------------------------- */

static int memory_check(const struct plx_cpu *c, const struct plx_cpu_load *l, struct plx_diag *d)
{
	uint64_t avail = plx_mem_available();
	uint64_t fixed = l->weights.bytes + l->expert_bytes + l->work_bytes;
	uint64_t block = plx_fwd_block_bytes(c->m, &c->lim);

	if (fixed + l->kv_bytes + l->host_bytes <= avail)
		return PLX_E_OK;
	if (fixed + l->kv_bytes <= avail)
		return plx_diag_set(d, PLX_E_NOMEM,
		                    "device %s: after weights and KV pool %llu of %u host blocks "
		                    "of %llu KiB would fit; lower n_host_blocks",
		                    c->conf.name,
		                    (unsigned long long)((avail - fixed - l->kv_bytes) / block),
		                    c->lim.n_host_blocks, (unsigned long long)(block / 1024));
	if (fixed >= avail)
		return plx_diag_set(
		    d, PLX_E_NOMEM,
		    "device %s: %s needs %llu MiB for weights and %llu MiB for "
		    "activations and tables, but only %llu MiB are free; take a smaller "
		    "model or quantisation, or lower step_tokens and step_seqs",
		    c->conf.name, c->m->name,
		    (unsigned long long)((l->weights.bytes + l->expert_bytes) / MIB),
		    (unsigned long long)(l->work_bytes / MIB), (unsigned long long)(avail / MIB));
	return plx_diag_set(
	    d, PLX_E_NOMEM,
	    "device %s: weights %llu MiB + KV %llu MiB (%u blocks of %llu KiB) + tables %llu MiB "
	    "do not "
	    "fit in the %llu MiB that are free; at most %llu KV blocks would fit: lower "
	    "n_kv_blocks",
	    c->conf.name, (unsigned long long)(l->weights.bytes / MIB),
	    (unsigned long long)(l->kv_bytes / MIB), c->lim.n_blocks,
	    (unsigned long long)(block / 1024), (unsigned long long)(l->work_bytes / MIB),
	    (unsigned long long)(avail / MIB), (unsigned long long)((avail - fixed) / block));
}

/* ---- tables --------------------------------------------------------------------------------- */

static void work_make(struct plx_cpu *c, const struct plx_cpu_load *l)
{
	int err = plx_fwd_init(&c->fwd, c->m, c->k, &c->lim, &c->work);

	PLX_CHECK(err == 0); /* plx_fwd_work_bytes counts the same things */
	PLX_CHECK(c->fwd.head_group <= PLX_CPU_HEAD_ROWS);
	plx_cpu_weights_layers(c, &l->weights);
	if (c->fwd.moe != NULL)
		c->fwd.moe->store = c->experts;
	c->fwd.kv = c->kv.base;
	plx_cpu_tables_make(c);
	plx_arena_seal(&c->work);
}

static uint32_t n_positions(const struct plx_cpu *c)
{
	return c->lim.max_seq_blocks * c->lim.block_tokens;
}

static void rope_item(struct plx_cpu *c, uint32_t item)
{
	const struct plx_model *m = c->m;
	uint32_t end = (item + 1) * ROPE_ROWS;

	if (end > n_positions(c))
		end = n_positions(c);
	for (uint32_t pos = item * ROPE_ROWS; pos < end; pos++)
		plx_k_rope_row(c->fwd.rope + (size_t)pos * m->n_rot, pos, m->n_rot,
		               (double)m->rope_base, (double)m->rope_scale, m->rope_factors);
}

/* A load's own memory; freed by unload_free, whatever of it is there. */
static struct plx_cpu_load *load_new(void)
{
	struct plx_cpu_load *l = aligned_alloc(64, (sizeof(*l) + 63) & ~(size_t)63);

	if (l == NULL)
		return NULL;
	memset(l, 0, sizeof(*l));
	return l;
}

static void load_free(struct plx_cpu_load *l)
{
	if (l == NULL)
		return;
	plx_cache_write_stop(&l->writer);
	plx_cpu_weights_free(&l->weights);
	free(l);
}

/* The cache's name and what it must be for; a model that is no file has none. */
static void cache_name(const struct plx_cpu *c, struct plx_cpu_load *l)
{
	l->plan = (struct plx_cache_plan){.layout_id = PLX_K_LAYOUT_ID,
	                                  .n_mat = l->weights.n_mat,
	                                  .model_bytes = plx_gguf_file_bytes(c->m->gguf),
	                                  .model_mtime_ns = plx_gguf_mtime_ns(c->m->gguf),
	                                  .mat = l->weights.mat,
	                                  .data_bytes = l->weights.bytes};
	_Static_assert(sizeof(l->plan.model_hash) == sizeof(c->m->hash), "one is the other");
	memcpy(l->plan.model_hash, c->m->hash, sizeof(c->m->hash));
	if (c->conf.cache_base[0] != '\0' && l->plan.model_mtime_ns != 0)
		snprintf(l->cache_path, sizeof(l->cache_path), "%s%s%s", c->conf.cache_base,
		         l->weights.n_apart > 0 ? ".dense" : "", PLX_CACHE_SUFFIX);
}

int plx_cpu_load_begin(struct plx_dev *dev, const struct plx_model *model,
                       const struct plx_dev_limits *limits, struct plx_diag *d)
{
	struct plx_cpu *c = (struct plx_cpu *)(void *)dev;

	if (c->load != NULL)
		return plx_diag_set(d, PLX_E_EXISTS, "device %s: a model is loaded already",
		                    c->conf.name);
	int err = plx_fwd_check(model, limits, d);

	if (err == 0)
		err = plx_experts_check(model, limits, d);
	if (err != 0)
		return err;
	struct plx_cpu_load *l = load_new();

	if (l == NULL || plx_cpu_weights_lay(&l->weights, model, limits) != 0) {
		load_free(l);
		return plx_diag_set(d, PLX_E_NOMEM, "device %s: out of memory", c->conf.name);
	}
	c->m = model;
	c->lim = *limits;
	c->load = l;
	l->begin_ns = plx_clock_ns();
	l->kv_bytes =
	    plx_fwd_block_bytes(model, limits) * (limits->n_blocks + plx_fwd_tree_blocks(limits));
	l->host_bytes = plx_fwd_block_bytes(model, limits) * limits->n_host_blocks;
	l->work_bytes = plx_fwd_work_bytes(model, limits) + plx_cpu_table_bytes(limits, model);
	l->expert_bytes = plx_experts_pool_bytes(model, limits);
	cache_name(c, l);
	err = memory_check(c, l, d);
	if (err != 0)
		plx_cpu_unload(c);
	return err;
}

/* ---- phases --------------------------------------------------------------------------------- */

static uint32_t pieces(uint64_t n, uint64_t piece)
{
	return (uint32_t)((n + piece - 1) / piece);
}

static void cache_unused(const struct plx_cpu_load *l, const char *why)
{
	plx_log(PLX_LOG_INFO, "weights cache: %s is not used: %s", l->cache_path, why);
}

static void cache_open(const struct plx_cpu *c, struct plx_cpu_load *l)
{
	struct plx_diag why = {0};

	if (l->cache_path[0] == '\0')
		return;
	int err = plx_cache_open(&l->weights.cache, l->cache_path, &l->plan, &why);

	if (err != 0 && err != PLX_E_NOT_FOUND)
		cache_unused(l, why.text);
	if (err == 0)
		(void)plx_fetch_start(&l->weights.fetch, &l->weights.cache, c->weights.base,
		                      c->conf.cpus);
}

/* Weights are read by all lanes, all of them each time: no node shall carry that alone. KV and
 * activations lie where the lcore is that polls. */
static void nodes_set(const struct plx_cpu *c)
{
	uint64_t owner[PLX_NUMA_CPU_WORDS] = {0};
	uint64_t nodes = plx_numa_nodes(c->conf.cpus);

	if ((nodes & (nodes - 1)) == 0)
		return;
	owner[c->conf.owner_cpu / 64 % PLX_NUMA_CPU_WORDS] = UINT64_C(1) << c->conf.owner_cpu % 64;
	(void)plx_numa_interleave(c->weights.base, c->weights.size_bytes, nodes);
	nodes = plx_numa_nodes(owner);
	(void)plx_numa_prefer(c->kv.base, c->kv.size_bytes, nodes);
	(void)plx_numa_prefer(c->work.base, c->work.size_bytes, nodes);
}

static int arenas_map(struct plx_cpu *c, const struct plx_cpu_load *l, struct plx_diag *d)
{
	int err = plx_arena_map(&c->weights, l->weights.bytes, d);

	if (err == 0)
		err = plx_arena_map(&c->kv, l->kv_bytes, d);
	if (err == 0 && l->host_bytes > 0)
		err = plx_arena_map(&c->host, l->host_bytes, d);
	if (err == 0)
		err = plx_arena_map(&c->work, l->work_bytes, d);
	if (err == 0 && l->expert_bytes > 0)
		err = plx_arena_map(&c->expert_pool, l->expert_bytes, d);
	return err;
}

/* The store's threads go to work at once, beside the lanes. */
static int experts_open(struct plx_cpu *c, const struct plx_cpu_load *l, struct plx_diag *d)
{
	struct plx_experts_conf conf = {.m = c->m,
	                                .pool = &c->expert_pool,
	                                .base = c->conf.cache_base,
	                                .plan = &l->plan,
	                                .cpus = c->conf.cpus};

	if (l->expert_bytes == 0)
		return PLX_E_OK;
	plx_arena_seal(&c->expert_pool);
	conf.n_slot = (uint32_t)(l->expert_bytes / plx_experts_slot_bytes(c->m));
	return plx_experts_open(&conf, &c->experts, d);
}

static uint32_t phase_items(const struct plx_cpu *c, const struct plx_cpu_load *l)
{
	switch (l->phase) {
	case PHASE_PAGES:
		return l->weights.fetch.on ? l->weights.fetch.n_piece : 0;
	case PHASE_ASK:
		return plx_cpu_weights_n_ask(&l->weights, c->m);
	case PHASE_READ:
		return plx_cpu_weights_cached(&l->weights) ? l->weights.cache.n_chunk : 0;
	case PHASE_PACK:
		return plx_cpu_weights_cached(&l->weights)
		           ? 0
		           : l->weights.first_item[l->weights.n_mat];
	case PHASE_KV:
		return pieces(c->kv.size_bytes, TOUCH_BYTES) +
		       pieces(c->host.size_bytes, TOUCH_BYTES);
	case PHASE_WORK:
		return pieces(c->work.size_bytes, TOUCH_BYTES);
	case PHASE_ROPE:
		return pieces(n_positions(c), ROPE_ROWS);
	case PHASE_EMBED:
		return pieces(c->m->tok_embd.bytes, PLX_CPU_EMBED_BYTES);
	case PHASE_OPEN:
	case PHASE_TABLES:
	case PHASE_EXPERTS:
	case PHASE_DONE:
		break;
	}
	return 0;
}

/* The pieces of the pool, then those of the host's blocks. */
static void pool_touch(struct plx_cpu *c, uint32_t item)
{
	uint32_t n_kv = pieces(c->kv.size_bytes, TOUCH_BYTES);
	struct plx_arena *a = item < n_kv ? &c->kv : &c->host;
	size_t off = (size_t)(item < n_kv ? item : item - n_kv) * TOUCH_BYTES;

	plx_arena_touch(a, off, off + TOUCH_BYTES);
}

static void item_run(struct plx_cpu *c, struct plx_cpu_load *l, uint32_t item)
{
	size_t off = (size_t)item * TOUCH_BYTES;

	switch (l->phase) {
	case PHASE_PAGES:
		plx_cpu_weights_touch(c, &l->weights, item);
		break;
	case PHASE_ASK:
		plx_cpu_weights_ask_embed(c->m, item);
		break;
	case PHASE_READ:
		plx_cpu_weights_read(c, &l->weights, item);
		break;
	case PHASE_PACK:
		plx_cpu_weights_pack(c, &l->weights, item);
		break;
	case PHASE_KV:
		pool_touch(c, item);
		break;
	case PHASE_WORK:
		plx_arena_touch(&c->work, off, off + TOUCH_BYTES);
		break;
	case PHASE_ROPE:
		rope_item(c, item);
		break;
	case PHASE_EMBED:
		(void)atomic_fetch_xor_explicit(
		    &l->sink, plx_cpu_weights_embed(c, &l->weights, item), memory_order_relaxed);
		break;
	case PHASE_OPEN:
	case PHASE_TABLES:
	case PHASE_EXPERTS:
	case PHASE_DONE:
		break;
	}
}

/* The owner's part of a phase, before its items. */
static int phase_begin(struct plx_cpu *c, struct plx_cpu_load *l, struct plx_diag *d)
{
	int err = PLX_E_OK;

	if (l->phase == PHASE_OPEN) {
		err = arenas_map(c, l, d);
		if (err == 0) {
			nodes_set(c);
			plx_cpu_weights_place(c, &l->weights);
			cache_open(c, l);
			plx_cpu_weights_ask(&l->weights, c->m);
			err = experts_open(c, l, d);
		}
	} else if (l->phase == PHASE_TABLES) {
		work_make(c, l);
	} else if (l->phase == PHASE_EXPERTS && c->experts != NULL) {
		err = plx_experts_poll(c->experts, &l->n_made, d);
	}
	return err;
}

/* The owner's part of a phase, after its items. */
static void phase_end(struct plx_cpu *c, struct plx_cpu_load *l)
{
	const uint64_t bytes[PHASE_DONE] = {[PHASE_PACK] = l->weights.bytes,
	                                    [PHASE_KV] = l->kv_bytes + l->host_bytes,
	                                    [PHASE_WORK] = l->work_bytes};

	l->done_bytes += bytes[l->phase];
	if (l->phase == PHASE_READ)
		plx_fetch_stop(&l->weights.fetch); /* before anybody else writes there */
	if (l->phase == PHASE_READ && l->weights.cache.table != NULL &&
	    !plx_cpu_weights_cached(&l->weights)) {
		cache_unused(l, "its data is damaged");
		plx_cpu_weights_ask(&l->weights, c->m);
	}
	if (l->phase == PHASE_PACK) {
		(void)plx_arena_take(&c->weights, l->weights.bytes, 64);
		plx_arena_seal(&c->weights);
	}
	if (l->phase == PHASE_KV)
		plx_arena_seal(&c->kv);
	if (l->phase == PHASE_KV && l->host_bytes > 0)
		plx_arena_seal(&c->host);
	l->phase++;
}

/* Claims items until none is left or the time is up. */
static bool items_run(struct plx_cpu *c, struct plx_cpu_load *l, uint64_t deadline_ns)
{
	struct plx_claim it;
	bool did = false;

	while (plx_work_claim(&l->work, &it)) {
		item_run(c, l, it.item);
		did = true;
		if (plx_work_finish(&l->work, &it)) {
			plx_work_close(&l->work);
			/* L1: pairs with L2, so that the owner sees what the items did. */
			atomic_store_explicit(&l->phase_over, 1, memory_order_release);
		}
		if (plx_clock_ns() >= deadline_ns)
			break;
	}
	return did;
}

/* Goes on with the phase that is open, or opens the next one; AGAIN when the time is up. */
static int phase_poll(struct plx_cpu *c, struct plx_cpu_load *l, uint64_t deadline_ns,
                      struct plx_diag *d)
{
	uint64_t t0 = plx_clock_ns();
	int err = PLX_E_OK;

	if (!l->open) {
		err = phase_begin(c, l, d);
		l->n_items = err == 0 ? phase_items(c, l) : 0;
		l->open = l->n_items > 0;
		atomic_store_explicit(&l->phase_over, l->open ? 0 : 1, memory_order_relaxed);
		if (l->open)
			plx_work_open(&l->work, l->n_items);
	}
	if (l->open)
		(void)items_run(c, l, deadline_ns);
	/* L2: pairs with L1. */
	bool over = atomic_load_explicit(&l->phase_over, memory_order_acquire) != 0;

	l->ns[l->phase] += plx_clock_ns() - t0;
	if (err == PLX_E_AGAIN)
		return PLX_E_OK; /* experts: asked again in a while */
	if (err == 0 && over) {
		phase_end(c, l);
		l->open = false;
	}
	return err;
}

/* ---- what is said of it --------------------------------------------------------------------- */

static const char *phase_what(enum phase p)
{
	static const char *const what[] = {
	    [PHASE_OPEN] = "weights",     [PHASE_PAGES] = "weights",
	    [PHASE_ASK] = "embeddings",   [PHASE_KV] = "KV pool",
	    [PHASE_WORK] = "activations", [PHASE_READ] = "weights",
	    [PHASE_PACK] = "weights",     [PHASE_TABLES] = "activations",
	    [PHASE_ROPE] = "rotation",    [PHASE_EMBED] = "embeddings",
	    [PHASE_EXPERTS] = "experts",  [PHASE_DONE] = "ready"};

	return what[p];
}

static void progress_set(const struct plx_cpu *c, const struct plx_cpu_load *l,
                         struct plx_load_progress *out)
{
	const uint64_t bytes[PHASE_DONE + 1] = {[PHASE_READ] = l->weights.bytes,
	                                        [PHASE_PACK] = l->weights.bytes,
	                                        [PHASE_KV] = l->kv_bytes + l->host_bytes,
	                                        [PHASE_WORK] = l->work_bytes};
	uint32_t n = l->open ? atomic_load_explicit(&l->work.n_done, memory_order_relaxed) : 0;

	out->done_bytes = l->done_bytes + (n == 0 ? 0 : bytes[l->phase] / l->n_items * n);
	out->total_bytes = l->weights.bytes + l->kv_bytes + l->host_bytes + l->work_bytes;
	if (l->weights.n_apart > 0) {
		uint64_t n_all = (uint64_t)c->m->n_layer * l->weights.n_apart;

		out->done_bytes += l->expert_bytes * l->n_made / n_all;
		out->total_bytes += l->expert_bytes;
	}
	out->what = phase_what(l->phase);
}

static unsigned ms(const struct plx_cpu_load *l, enum phase p)
{
	return (unsigned)(l->ns[p] / PLX_NS_PER_MS);
}

static void note_set(const struct plx_cpu_load *l, struct plx_load_progress *out)
{
	snprintf(out->note, sizeof(out->note),
	         "weights %s in %u ms, KV pool %u ms, activations %u ms, rotation %u ms, "
	         "embeddings %u ms",
	         plx_cpu_weights_cached(&l->weights) ? "read from their cache" : "repacked",
	         ms(l, PHASE_OPEN) + ms(l, PHASE_PAGES) + ms(l, PHASE_READ) + ms(l, PHASE_PACK),
	         ms(l, PHASE_KV), ms(l, PHASE_WORK) + ms(l, PHASE_TABLES), ms(l, PHASE_ROPE),
	         ms(l, PHASE_ASK) + ms(l, PHASE_EMBED));
}

/* ---- the slices ----------------------------------------------------------------------------- */

/* The last slice: a cache that was not there, or not good, is made from now on. */
static void load_end(struct plx_cpu *c, struct plx_cpu_load *l)
{
	bool have = plx_cpu_weights_cached(&l->weights);
	struct plx_diag why = {0};

	plx_cache_close(&l->weights.cache);
	if (l->cache_path[0] != '\0' && !have &&
	    plx_cache_write_start(&l->writer, l->cache_path, &l->plan, c->weights.base, &why) != 0)
		plx_log(PLX_LOG_INFO, "weights cache: no %s: %s", l->cache_path, why.text);
	c->loaded = true;
}

int plx_cpu_load_poll(struct plx_dev *dev, uint32_t budget_us, struct plx_load_progress *out,
                      struct plx_diag *d)
{
	struct plx_cpu *c = (struct plx_cpu *)(void *)dev;
	struct plx_cpu_load *l = c->load;
	uint64_t deadline = plx_clock_ns() + budget_us * PLX_NS_PER_US;

	if (l == NULL || l->err != 0)
		return l == NULL ? PLX_E_INVAL : l->err;
	if (c->loaded)
		return PLX_E_OK;
	while (l->phase != PHASE_DONE) {
		int err = phase_poll(c, l, deadline, d);

		progress_set(c, l, out);
		l->err = err; /* what is there stays until close: a lane may be looking at it */
		if (err != 0)
			return err;
		if (plx_clock_ns() >= deadline)
			return PLX_E_AGAIN;
	}
	note_set(l, out);
	load_end(c, l);
	return PLX_E_OK;
}

int plx_cpu_load_help(struct plx_cpu *c, uint32_t lane, uint32_t budget_us)
{
	if (c->load == NULL || lane >= c->lim.n_threads)
		return PLX_E_INVAL;
	return items_run(c, c->load, plx_clock_ns() + budget_us * PLX_NS_PER_US) ? 1 : 0;
}

void plx_cpu_unload(struct plx_cpu *c)
{
	load_free(c->load);
	c->load = NULL;
	c->loaded = false;
	plx_experts_close(c->experts);
	c->experts = NULL;
	plx_arena_close(&c->expert_pool);
	plx_arena_close(&c->weights);
	plx_arena_close(&c->kv);
	plx_arena_close(&c->host);
	plx_arena_close(&c->work);
}
