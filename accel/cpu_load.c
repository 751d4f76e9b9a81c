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
#include "accel/cpu_cache.h"
#include "accel/forward_moe.h"
#include "accel/work.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "fw/base/log.h"
#include "fw/base/mem.h"
#include "fw/base/numa.h"
#include "kernels/cpu/layout.h"

#define MIB        (UINT64_C(1) << 20)
#define PAGE_BYTES 4096u

#define PACK_ELEMS  65536u /* weights of an item: 20 us on Zen 4 */
#define TOUCH_BYTES (512u << 10)
#define ROPE_ROWS   64u /* positions of an item */
#define EMBED_BYTES (512u << 10)
#define AHEAD_BYTES (UINT64_C(16) << 20) /* of the model file, asked of the disk before use */

enum phase {
	PHASE_OPEN,   /* owner: arenas, cache */
	PHASE_READ,   /* weights from the cache */
	PHASE_PACK,   /* or from the model */
	PHASE_KV,     /* the KV pool's pages */
	PHASE_WORK,   /* and those of activations and tables */
	PHASE_TABLES, /* owner: what lies in them */
	PHASE_ROPE,
	PHASE_EMBED, /* the model's embedding rows are brought into memory */
	PHASE_DONE,
};

struct plx_cpu_load {
	struct plx_work work;
	_Atomic uint32_t phase_over; /* all items of the open phase are done */
	_Atomic uint32_t damaged;    /* READ: a chunk is not what was written */
	_Atomic uint32_t sink;
	enum phase phase; /* owner; items read it */
	bool open;        /* owner: phase has items out */
	int err;          /* owner: loading ended with it */
	uint32_t n_items; /* owner: of the open phase */
	uint64_t begin_ns;
	uint64_t ns[PHASE_DONE]; /* owner: what each phase took */
	uint64_t weight_bytes;
	uint64_t kv_bytes;
	uint64_t host_bytes;
	uint64_t work_bytes;
	uint64_t done_bytes;       /* owner: of finished phases */
	uint32_t n_layer_mat;      /* plx_fwd_layer_mats */
	uint32_t first_ffn;        /* plx_fwd_first_ffn */
	uint32_t n_mat;            /* those of each layer, and the output last */
	struct plx_cache_mat *mat; /* [n_mat] */
	uint32_t *first_item;      /* PACK: [n_mat + 1] */
	struct plx_k_mat *packed;  /* [n_mat] */
	struct plx_cache_plan plan;
	char cache_path[PLX_CACHE_PATH_BYTES]; /* "": no cache */
	struct plx_cache cache;
	struct plx_cache_writer writer;
};

/* ---- memory --------------------------------------------------------------------------------- */

static uint64_t align64(uint64_t v)
{
	return (v + 63) & ~UINT64_C(63);
}

static int memory_check(const struct plx_cpu *c, const struct plx_cpu_load *l, struct plx_diag *d)
{
	uint64_t avail = plx_mem_available();
	uint64_t fixed = l->weight_bytes + l->work_bytes;
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
		    c->conf.name, c->m->name, (unsigned long long)(l->weight_bytes / MIB),
		    (unsigned long long)(l->work_bytes / MIB), (unsigned long long)(avail / MIB));
	return plx_diag_set(
	    d, PLX_E_NOMEM,
	    "device %s: weights %llu MiB + KV %llu MiB (%u blocks of %llu KiB) + tables %llu MiB "
	    "do not "
	    "fit in the %llu MiB that are free; at most %llu KV blocks would fit: lower "
	    "n_kv_blocks",
	    c->conf.name, (unsigned long long)(l->weight_bytes / MIB),
	    (unsigned long long)(l->kv_bytes / MIB), c->lim.n_blocks,
	    (unsigned long long)(block / 1024), (unsigned long long)(l->work_bytes / MIB),
	    (unsigned long long)(avail / MIB), (unsigned long long)((avail - fixed) / block));
}

/* ---- weights -------------------------------------------------------------------------------- */

static struct plx_tensor source(const struct plx_cpu_load *l, const struct plx_model *m,
                                uint32_t mat)
{
	if (mat + 1 == l->n_mat)
		return m->output;
	return plx_fwd_layer_mat(m, mat / l->n_layer_mat, mat % l->n_layer_mat);
}

/* What lies granule by granule with another one; down follows gate and up. */
enum part {
	PART_GATE,
	PART_UP,
	PART_WHOLE,
};

static enum part part_of(const struct plx_cpu_load *l, uint32_t mat)
{
	uint32_t i = mat % l->n_layer_mat;

	if (mat + 1 == l->n_mat || i < l->first_ffn)
		return PART_WHOLE;
	return (enum part)((i - l->first_ffn) % 3);
}

/* Rows of one item of PACK: whole tiles and granules. */
static uint32_t item_rows(const struct plx_cache_mat *m)
{
	return (PACK_ELEMS / m->n_in + PLX_FWD_GRAIN) / PLX_FWD_GRAIN * PLX_FWD_GRAIN;
}

/* Of a gate or an up matrix. */
static uint64_t granule_bytes(const struct plx_cache_mat *m)
{
	return plx_k_pack_bytes(m->type, PLX_FWD_GRAIN, m->n_in);
}

/* From one granule of gate to the next: gate's and up's. */
static uint64_t ffn_stride(const struct plx_cache_mat *gate)
{
	return granule_bytes(&gate[0]) + granule_bytes(&gate[1]);
}

/* Puts up's granules between those of gate, which stands before it. */
static void ffn_lay(struct plx_cache_mat *gate)
{
	gate[1].off = gate[0].off + granule_bytes(&gate[0]);
}

/* Where each matrix will lie, and which items make it. */
static void mats_lay(struct plx_cpu_load *l, const struct plx_model *m)
{
	uint64_t off = 0;

	for (uint32_t i = 0; i < l->n_mat; i++) {
		struct plx_tensor t = source(l, m, i);
		struct plx_cache_mat *x = &l->mat[i];

		*x = (struct plx_cache_mat){.off = off,
		                            .bytes = plx_k_pack_bytes(t.type, t.n_rows, t.n_cols),
		                            .type = t.type,
		                            .n_out = t.n_rows,
		                            .n_in = t.n_cols};
		off += align64(x->bytes);
		if (part_of(l, i) == PART_UP)
			ffn_lay(x - 1);
		l->first_item[i + 1] =
		    l->first_item[i] + (x->n_out + item_rows(x) - 1) / item_rows(x);
	}
	PLX_CHECK(off == l->weight_bytes); /* plx_fwd_weight_bytes counts the same things */
}

/* The matrix that an item of PACK belongs to: the last one that begins at or before it. */
static uint32_t mat_of(const struct plx_cpu_load *l, uint32_t item)
{
	uint32_t lo = 0, hi = l->n_mat;

	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (l->first_item[mid] <= item)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

/* Asks the disk for the model's bytes that items will want soon. */
static void ahead(const struct plx_model *m, const uint8_t *from, uint64_t bytes)
{
	uint64_t n;
	const uint8_t *base = plx_gguf_head(m->gguf, &n);
	uint64_t end = plx_gguf_file_bytes(m->gguf);

	if ((uintptr_t)from < (uintptr_t)base || (uintptr_t)from >= (uintptr_t)base + end)
		return; /* a vector of the model, which is not in the file as it is packed */
	uint64_t off = ((uint64_t)(from - base) + AHEAD_BYTES) & ~(uint64_t)(PAGE_BYTES - 1);

	if (off < end)
		(void)madvise((void *)(uintptr_t)(base + off),
		              end - off < bytes ? end - off : bytes, MADV_WILLNEED);
}

/* Whole granules, each a matrix of its own. */
static void pack_granules(uint8_t *to, uint64_t stride, const struct plx_tensor *t, uint32_t row,
                          uint32_t end)
{
	for (; row < end; row += PLX_FWD_GRAIN)
		plx_k_pack(to + row / PLX_FWD_GRAIN * stride, (enum plx_qtype)t->type,
		           t->data + row * t->row_bytes, PLX_FWD_GRAIN, t->n_cols, 0,
		           PLX_FWD_GRAIN);
}

static void pack_item(struct plx_cpu *c, const struct plx_cpu_load *l, uint32_t item)
{
	uint32_t i = mat_of(l, item);
	const struct plx_cache_mat *x = &l->mat[i];
	struct plx_tensor t = source(l, c->m, i);
	uint32_t rows = item_rows(x), row = (item - l->first_item[i]) * rows;
	uint32_t end = rows < x->n_out - row ? row + rows : x->n_out;

	ahead(c->m, t.data + row * t.row_bytes, (end - row) * t.row_bytes);
	uint8_t *to = c->weights.base + x->off;

	if (part_of(l, i) == PART_GATE)
		pack_granules(to, ffn_stride(x), &t, row, end);
	else if (part_of(l, i) == PART_UP)
		pack_granules(to, ffn_stride(x - 1), &t, row, end);
	else
		plx_k_pack(to, (enum plx_qtype)t.type, t.data, t.n_rows, t.n_cols, row, end);
}

static void read_item(struct plx_cpu *c, struct plx_cpu_load *l, uint32_t item)
{
	if (atomic_load_explicit(&l->damaged, memory_order_relaxed) == 0 &&
	    plx_cache_read(&l->cache, item, c->weights.base) != 0)
		atomic_store_explicit(&l->damaged, 1, memory_order_relaxed);
}

static void packed_set(struct plx_cpu *c, struct plx_cpu_load *l)
{
	for (uint32_t i = 0; i < l->n_mat; i++)
		l->packed[i] = (struct plx_k_mat){c->weights.base + l->mat[i].off,
		                                  (enum plx_qtype)l->mat[i].type, l->mat[i].n_out,
		                                  l->mat[i].n_in};
}

/* ---- tables --------------------------------------------------------------------------------- */

/* The network whose gate is matrix i. */
static struct plx_fwd_ffn ffn_at(const struct plx_cpu_load *l, size_t i)
{
	return (struct plx_fwd_ffn){l->packed[i], l->packed[i + 1], l->packed[i + 2],
	                            ffn_stride(&l->mat[i])};
}

static void experts_set(struct plx_cpu *c, const struct plx_cpu_load *l, uint32_t il, size_t gate)
{
	uint32_t n = plx_fwd_n_ffn(c->m);
	struct plx_fwd_ffn *ffn = c->fwd.moe->ffn + (size_t)il * n;

	for (uint32_t e = 0; e < n; e++)
		ffn[e] = ffn_at(l, gate + 3 * (size_t)e);
	c->fwd.layer[il].router = l->packed[(size_t)il * l->n_layer_mat + 4];
	if (c->m->n_ff_shared > 0)
		c->fwd.layer[il].shared_gate = l->packed[gate - 1];
	c->fwd.layer[il].expert = ffn;
}

static void layers_set(struct plx_cpu *c, const struct plx_cpu_load *l)
{
	for (uint32_t il = 0; il < c->m->n_layer; il++) {
		size_t i = (size_t)il * l->n_layer_mat, gate = i + l->first_ffn;
		const struct plx_k_mat *p = l->packed + i;
		struct plx_fwd_layer *out = &c->fwd.layer[il];

		*out = (struct plx_fwd_layer){.wq = p[0], .wk = p[1], .wv = p[2], .wo = p[3]};
		if (c->m->n_expert > 0) {
			experts_set(c, l, il, gate);
			continue;
		}
		struct plx_fwd_ffn f = ffn_at(l, gate);

		out->gate = f.gate;
		out->up = f.up;
		out->down = f.down;
		out->ffn_stride = f.stride;
	}
	c->fwd.head = l->packed[l->n_mat - 1];
}

static void work_make(struct plx_cpu *c, const struct plx_cpu_load *l)
{
	int err = plx_fwd_init(&c->fwd, c->m, c->k, &c->lim, &c->work);

	PLX_CHECK(err == 0); /* plx_fwd_work_bytes counts the same things */
	PLX_CHECK(c->fwd.head_group <= PLX_CPU_HEAD_ROWS);
	layers_set(c, l);
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

/* Reads a byte of each page of the embeddings, so that no token waits for the page to be mapped. */
static void embed_item(struct plx_cpu *c, struct plx_cpu_load *l, uint32_t item)
{
	uint64_t off = (uint64_t)item * EMBED_BYTES, end = off + EMBED_BYTES;
	uint8_t sink = 0;

	if (end > c->m->tok_embd.bytes)
		end = c->m->tok_embd.bytes;
	ahead(c->m, c->m->tok_embd.data + off, end - off);
	for (; off < end; off += PAGE_BYTES)
		sink ^= *(const volatile uint8_t *)(c->m->tok_embd.data + off);
	(void)atomic_fetch_xor_explicit(&l->sink, sink, memory_order_relaxed);
}

/* A load's own memory; freed by unload_free, whatever of it is there. */
static struct plx_cpu_load *load_new(const struct plx_model *model)
{
	struct plx_cpu_load *l = aligned_alloc(64, (sizeof(*l) + 63) & ~(size_t)63);

	if (l == NULL)
		return NULL;
	memset(l, 0, sizeof(*l));
	l->n_layer_mat = plx_fwd_layer_mats(model);
	l->first_ffn = plx_fwd_first_ffn(model);
	l->n_mat = l->n_layer_mat * model->n_layer + 1;
	l->packed = calloc(l->n_mat, sizeof(*l->packed));
	l->mat = calloc(l->n_mat, sizeof(*l->mat));
	l->first_item = calloc(l->n_mat + 1, sizeof(*l->first_item));
	return l;
}

static void load_free(struct plx_cpu_load *l)
{
	if (l == NULL)
		return;
	plx_cache_write_stop(&l->writer);
	plx_cache_close(&l->cache);
	free(l->packed);
	free(l->mat);
	free(l->first_item);
	free(l);
}

/* The cache's name and what it must be for; a model that is no file has none. */
static void cache_name(const struct plx_cpu *c, struct plx_cpu_load *l)
{
	l->plan = (struct plx_cache_plan){.layout_id = PLX_K_LAYOUT_ID,
	                                  .n_mat = l->n_mat,
	                                  .model_bytes = plx_gguf_file_bytes(c->m->gguf),
	                                  .model_mtime_ns = plx_gguf_mtime_ns(c->m->gguf),
	                                  .mat = l->mat,
	                                  .data_bytes = l->weight_bytes};
	_Static_assert(sizeof(l->plan.model_hash) == sizeof(c->m->hash), "one is the other");
	memcpy(l->plan.model_hash, c->m->hash, sizeof(c->m->hash));
	if (c->conf.cache_base[0] != '\0' && l->plan.model_mtime_ns != 0)
		snprintf(l->cache_path, sizeof(l->cache_path), "%s%s", c->conf.cache_base,
		         PLX_CACHE_SUFFIX);
}

int plx_cpu_load_begin(struct plx_dev *dev, const struct plx_model *model,
                       const struct plx_dev_limits *limits, struct plx_diag *d)
{
	struct plx_cpu *c = (struct plx_cpu *)(void *)dev;

	if (c->load != NULL)
		return plx_diag_set(d, PLX_E_EXISTS, "device %s: a model is loaded already",
		                    c->conf.name);
	int err = plx_fwd_check(model, limits, d);

	if (err != 0)
		return err;
	struct plx_cpu_load *l = load_new(model);

	if (l == NULL || l->packed == NULL || l->mat == NULL || l->first_item == NULL) {
		load_free(l);
		return plx_diag_set(d, PLX_E_NOMEM, "device %s: out of memory", c->conf.name);
	}
	c->m = model;
	c->lim = *limits;
	c->load = l;
	l->begin_ns = plx_clock_ns();
	l->weight_bytes = plx_fwd_weight_bytes(model);
	l->kv_bytes = plx_fwd_block_bytes(model, limits) * limits->n_blocks;
	l->host_bytes = plx_fwd_block_bytes(model, limits) * limits->n_host_blocks;
	l->work_bytes = plx_fwd_work_bytes(model, limits) + plx_cpu_table_bytes(limits);
	mats_lay(l, model);
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

static void cache_open(struct plx_cpu_load *l)
{
	struct plx_diag why = {0};

	if (l->cache_path[0] == '\0')
		return;
	int err = plx_cache_open(&l->cache, l->cache_path, &l->plan, &why);

	if (err != 0 && err != PLX_E_NOT_FOUND)
		cache_unused(l, why.text);
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
	int err = plx_arena_map(&c->weights, l->weight_bytes, d);

	if (err == 0)
		err = plx_arena_map(&c->kv, l->kv_bytes, d);
	if (err == 0 && l->host_bytes > 0)
		err = plx_arena_map(&c->host, l->host_bytes, d);
	if (err == 0)
		err = plx_arena_map(&c->work, l->work_bytes, d);
	return err;
}

/* Whether the weights came, or will come, from the cache. */
static bool cached(const struct plx_cpu_load *l)
{
	return l->cache.table != NULL &&
	       atomic_load_explicit(&l->damaged, memory_order_relaxed) == 0;
}

static uint32_t phase_items(const struct plx_cpu *c, const struct plx_cpu_load *l)
{
	switch (l->phase) {
	case PHASE_READ:
		return cached(l) ? l->cache.n_chunk : 0;
	case PHASE_PACK:
		return cached(l) ? 0 : l->first_item[l->n_mat];
	case PHASE_KV:
		return pieces(c->kv.size_bytes, TOUCH_BYTES) +
		       pieces(c->host.size_bytes, TOUCH_BYTES);
	case PHASE_WORK:
		return pieces(c->work.size_bytes, TOUCH_BYTES);
	case PHASE_ROPE:
		return pieces(n_positions(c), ROPE_ROWS);
	case PHASE_EMBED:
		return pieces(c->m->tok_embd.bytes, EMBED_BYTES);
	case PHASE_OPEN:
	case PHASE_TABLES:
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
	case PHASE_READ:
		read_item(c, l, item);
		break;
	case PHASE_PACK:
		pack_item(c, l, item);
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
		embed_item(c, l, item);
		break;
	case PHASE_OPEN:
	case PHASE_TABLES:
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
			packed_set(c, l);
			cache_open(l);
		}
	} else if (l->phase == PHASE_TABLES) {
		work_make(c, l);
	}
	return err;
}

/* The owner's part of a phase, after its items. */
static void phase_end(struct plx_cpu *c, struct plx_cpu_load *l)
{
	const uint64_t bytes[PHASE_DONE] = {[PHASE_PACK] = l->weight_bytes,
	                                    [PHASE_KV] = l->kv_bytes + l->host_bytes,
	                                    [PHASE_WORK] = l->work_bytes};

	l->done_bytes += bytes[l->phase];
	if (l->phase == PHASE_READ && l->cache.table != NULL && !cached(l))
		cache_unused(l, "its data is damaged");
	if (l->phase == PHASE_PACK) {
		(void)plx_arena_take(&c->weights, l->weight_bytes, 64);
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
	if (err == 0 && over) {
		phase_end(c, l);
		l->open = false;
	}
	return err;
}

/* ---- what is said of it --------------------------------------------------------------------- */

static const char *phase_what(enum phase p)
{
	static const char *const what[] = {"weights",  "weights",     "weights",
	                                   "KV pool",  "activations", "activations",
	                                   "rotation", "embeddings",  "ready"};

	return what[p];
}

static void progress_set(const struct plx_cpu_load *l, struct plx_load_progress *out)
{
	const uint64_t bytes[PHASE_DONE + 1] = {[PHASE_READ] = l->weight_bytes,
	                                        [PHASE_PACK] = l->weight_bytes,
	                                        [PHASE_KV] = l->kv_bytes + l->host_bytes,
	                                        [PHASE_WORK] = l->work_bytes};
	uint32_t n = l->open ? atomic_load_explicit(&l->work.n_done, memory_order_relaxed) : 0;

	out->done_bytes = l->done_bytes + (n == 0 ? 0 : bytes[l->phase] / l->n_items * n);
	out->total_bytes = l->weight_bytes + l->kv_bytes + l->host_bytes + l->work_bytes;
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
	         cached(l) ? "read from their cache" : "repacked",
	         ms(l, PHASE_OPEN) + ms(l, PHASE_READ) + ms(l, PHASE_PACK), ms(l, PHASE_KV),
	         ms(l, PHASE_WORK) + ms(l, PHASE_TABLES), ms(l, PHASE_ROPE), ms(l, PHASE_EMBED));
}

/* ---- the slices ----------------------------------------------------------------------------- */

/* The last slice: a cache that was not there, or not good, is made from now on. */
static void load_end(struct plx_cpu *c, struct plx_cpu_load *l)
{
	bool have = cached(l);
	struct plx_diag why = {0};

	plx_cache_close(&l->cache);
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

		progress_set(l, out);
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
	plx_arena_close(&c->weights);
	plx_arena_close(&c->kv);
	plx_arena_close(&c->host);
	plx_arena_close(&c->work);
}
