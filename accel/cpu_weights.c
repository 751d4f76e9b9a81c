/* Where matrices lie, the items that make them, and what the disk is asked for meanwhile. */
#include "accel/cpu_weights.h"

#include <stdlib.h>
#include <string.h>

#include "accel/experts.h"
#include "accel/forward_moe.h"
#include "fw/base/check.h"
#include "fw/base/err.h"

#define PAGE_BYTES  4096u
#define PACK_ELEMS  65536u /* weights of an item: 20 us on Zen 4 */
#define STEP_BYTES  (UINT64_C(4) << 20)
#define AHEAD_BYTES (UINT64_C(64) << 20) /* a multiple of STEP_BYTES */

static uint64_t align64(uint64_t v)
{
	return (v + 63) & ~UINT64_C(63);
}

/* ---- where they lie ------------------------------------------------------------------------- */

static struct plx_tensor source(const struct plx_cpu_weights *w, const struct plx_model *m,
                                uint32_t mat)
{
	if (mat + 1 == w->n_mat)
		return m->output;
	uint32_t i = mat % w->n_layer_mat;

	return plx_fwd_layer_mat(m, mat / w->n_layer_mat,
	                         i < w->first_ffn ? i : i + 3 * w->n_apart);
}

/* What lies granule by granule with another one; down follows gate and up. */
enum part {
	PART_GATE,
	PART_UP,
	PART_WHOLE,
};

static enum part part_of(const struct plx_cpu_weights *w, uint32_t mat)
{
	uint32_t i = mat % w->n_layer_mat;

	if (mat + 1 == w->n_mat || i < w->first_ffn)
		return PART_WHOLE;
	return (enum part)((i - w->first_ffn) % 3);
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
static void mats_lay(struct plx_cpu_weights *w, const struct plx_model *m)
{
	uint64_t off = 0;

	for (uint32_t i = 0; i < w->n_mat; i++) {
		struct plx_tensor t = source(w, m, i);
		struct plx_cache_mat *x = &w->mat[i];

		*x = (struct plx_cache_mat){.off = off,
		                            .bytes = plx_k_pack_bytes(t.type, t.n_rows, t.n_cols),
		                            .type = t.type,
		                            .n_out = t.n_rows,
		                            .n_in = t.n_cols};
		off += align64(x->bytes);
		if (part_of(w, i) == PART_UP)
			ffn_lay(x - 1);
		w->first_item[i + 1] =
		    w->first_item[i] + (x->n_out + item_rows(x) - 1) / item_rows(x);
		w->stream[i + 1] = w->stream[i] + t.bytes;
	}
	PLX_CHECK(w->n_apart > 0 || off == plx_fwd_weight_bytes(m));
	w->bytes = off;
}

int plx_cpu_weights_lay(struct plx_cpu_weights *w, const struct plx_model *m,
                        const struct plx_dev_limits *lim)
{
	w->n_apart = plx_experts_stream(m, lim) ? m->n_expert : 0;
	w->n_layer_mat = plx_fwd_layer_mats(m) - 3 * w->n_apart;
	w->first_ffn = plx_fwd_first_ffn(m);
	w->n_mat = w->n_layer_mat * m->n_layer + 1;
	w->packed = calloc(w->n_mat, sizeof(*w->packed));
	w->mat = calloc(w->n_mat, sizeof(*w->mat));
	w->first_item = calloc(w->n_mat + 1, sizeof(*w->first_item));
	w->stream = calloc(w->n_mat + 1, sizeof(*w->stream));
	if (w->packed == NULL || w->mat == NULL || w->first_item == NULL || w->stream == NULL)
		return PLX_E_NOMEM;
	mats_lay(w, m);
	return PLX_E_OK;
}

void plx_cpu_weights_free(struct plx_cpu_weights *w)
{
	plx_fetch_stop(&w->fetch);
	plx_cache_close(&w->cache);
	free(w->packed);
	free(w->mat);
	free(w->first_item);
	free(w->stream);
}

/* ---- what the disk is asked for ------------------------------------------------------------- */

bool plx_cpu_weights_cached(const struct plx_cpu_weights *w)
{
	return w->cache.table != NULL &&
	       atomic_load_explicit(&w->damaged, memory_order_relaxed) == 0;
}

/* Where the embedding rows begin in the stream. */
static uint64_t embed_off(const struct plx_cpu_weights *w)
{
	return plx_cpu_weights_cached(w) ? w->cache.data_bytes : w->stream[w->n_mat];
}

/* The last entry of v that is at or before at; v[0] is 0. */
static uint32_t last_before(const uint64_t *v, uint32_t n, uint64_t at)
{
	uint32_t lo = 0, hi = n;

	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (v[mid] <= at)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

/* Bytes [off, end) of the model's matrices in their order. */
static void ask_mats(const struct plx_cpu_weights *w, const struct plx_model *m, uint64_t off,
                     uint64_t end)
{
	for (uint32_t i = last_before(w->stream, w->n_mat, off); i < w->n_mat && off < end; i++) {
		uint64_t to = end < w->stream[i + 1] ? end : w->stream[i + 1];

		if (to > off)
			plx_gguf_ask(m->gguf, source(w, m, i).data + (off - w->stream[i]),
			             to - off);
		off = to > off ? to : off;
	}
}

static void ask(const struct plx_cpu_weights *w, const struct plx_model *m, uint64_t off,
                uint64_t end)
{
	uint64_t embed = embed_off(w), bytes = m->tok_embd.bytes;
	uint64_t from = off > embed ? off - embed : 0;

	if (w->fetch.on)
		return;
	if (plx_cpu_weights_cached(w))
		plx_cache_ask(&w->cache, off, end - off);
	else
		ask_mats(w, m, off, end);
	if (end > embed && from < bytes)
		plx_gguf_ask(m->gguf, m->tok_embd.data + from,
		             end - embed < bytes ? end - embed - from : bytes - from);
}

void plx_cpu_weights_ask(const struct plx_cpu_weights *w, const struct plx_model *m)
{
	ask(w, m, 0, AHEAD_BYTES);
}

uint32_t plx_cpu_weights_n_ask(const struct plx_cpu_weights *w, const struct plx_model *m)
{
	return w->fetch.on ? (uint32_t)((m->tok_embd.bytes + STEP_BYTES - 1) / STEP_BYTES) : 0;
}

void plx_cpu_weights_ask_embed(const struct plx_model *m, uint32_t item)
{
	uint64_t off = item * STEP_BYTES, rest = m->tok_embd.bytes - off;

	plx_gguf_ask(m->gguf, m->tok_embd.data + off, rest < STEP_BYTES ? rest : STEP_BYTES);
}

/* An item reads [off, end) of the stream: asks for what comes later, where it is its turn. */
static void ask_ahead(const struct plx_cpu_weights *w, const struct plx_model *m, uint64_t off,
                      uint64_t end)
{
	uint64_t first = (off + STEP_BYTES - 1) / STEP_BYTES * STEP_BYTES;

	for (uint64_t at = first; at < end; at += STEP_BYTES)
		ask(w, m, at + AHEAD_BYTES, at + AHEAD_BYTES + STEP_BYTES);
}

/* ---- items ---------------------------------------------------------------------------------- */

/* The matrix that an item of PACK belongs to: the last one that begins at or before it. */
static uint32_t mat_of(const struct plx_cpu_weights *w, uint32_t item)
{
	uint32_t lo = 0, hi = w->n_mat;

	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (w->first_item[mid] <= item)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
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

void plx_cpu_weights_pack(struct plx_cpu *c, const struct plx_cpu_weights *w, uint32_t item)
{
	uint32_t i = mat_of(w, item);
	const struct plx_cache_mat *x = &w->mat[i];
	struct plx_tensor t = source(w, c->m, i);
	uint32_t rows = item_rows(x), row = (item - w->first_item[i]) * rows;
	uint32_t end = rows < x->n_out - row ? row + rows : x->n_out;

	uint64_t from = w->stream[i];
	uint8_t *to = c->weights.base + x->off;

	ask_ahead(w, c->m, from + row * t.row_bytes, from + end * t.row_bytes);

	if (part_of(w, i) == PART_GATE)
		pack_granules(to, ffn_stride(x), &t, row, end);
	else if (part_of(w, i) == PART_UP)
		pack_granules(to, ffn_stride(x - 1), &t, row, end);
	else
		plx_k_pack(to, (enum plx_qtype)t.type, t.data, t.n_rows, t.n_cols, row, end);
}

void plx_cpu_weights_touch(const struct plx_cpu *c, struct plx_cpu_weights *w, uint32_t piece)
{
	uint64_t off = piece * PLX_FETCH_PIECE;

	plx_arena_touch(&c->weights, off, off + PLX_FETCH_PIECE);
	plx_fetch_allow(&w->fetch, piece);
}

/* A chunk of the cache into its place. */
static int chunk_take(struct plx_cpu *c, struct plx_cpu_weights *w, uint32_t i)
{
	_Static_assert(PLX_FETCH_PIECE % PLX_CACHE_CHUNK == 0, "a chunk lies in one piece");
	if (!w->fetch.on)
		return plx_cache_read(&w->cache, i, c->weights.base);
	int err = plx_fetch_wait(&w->fetch, (uint32_t)(i * PLX_CACHE_CHUNK / PLX_FETCH_PIECE));

	return err != 0 ? err : plx_cache_check(&w->cache, i, c->weights.base);
}

void plx_cpu_weights_read(struct plx_cpu *c, struct plx_cpu_weights *w, uint32_t item)
{
	uint64_t off = item * PLX_CACHE_CHUNK;

	if (!plx_cpu_weights_cached(w))
		return;
	ask_ahead(w, c->m, off, off + PLX_CACHE_CHUNK);
	if (chunk_take(c, w, item) != 0)
		atomic_store_explicit(&w->damaged, 1, memory_order_relaxed);
}

uint8_t plx_cpu_weights_embed(const struct plx_cpu *c, const struct plx_cpu_weights *w,
                              uint32_t item)
{
	const struct plx_tensor *e = &c->m->tok_embd;
	uint64_t off = item * PLX_CPU_EMBED_BYTES, end = off + PLX_CPU_EMBED_BYTES;
	uint8_t sink = 0;

	end = end < e->bytes ? end : e->bytes;
	ask_ahead(w, c->m, embed_off(w) + off, embed_off(w) + end);
	for (; off < end; off += PAGE_BYTES)
		sink ^= *(const volatile uint8_t *)(e->data + off);
	return sink;
}

/* ---- the pass ------------------------------------------------------------------------------- */

void plx_cpu_weights_place(const struct plx_cpu *c, struct plx_cpu_weights *w)
{
	for (uint32_t i = 0; i < w->n_mat; i++)
		w->packed[i] = (struct plx_k_mat){c->weights.base + w->mat[i].off,
		                                  (enum plx_qtype)w->mat[i].type, w->mat[i].n_out,
		                                  w->mat[i].n_in};
}

/* The network whose gate is matrix i. */
static struct plx_fwd_ffn ffn_at(const struct plx_cpu_weights *w, size_t i)
{
	return (struct plx_fwd_ffn){w->packed[i], w->packed[i + 1], w->packed[i + 2],
	                            ffn_stride(&w->mat[i])};
}

static void experts_set(struct plx_cpu *c, const struct plx_cpu_weights *w, uint32_t il,
                        size_t gate)
{
	uint32_t n = plx_fwd_n_ffn(c->m);
	struct plx_fwd_ffn *ffn = c->fwd.moe->ffn + (size_t)il * n;

	for (uint32_t e = 0; e < n; e++)
		ffn[e] = e < w->n_apart ? plx_experts_shape(c->m, il)
		                        : ffn_at(w, gate + 3 * (size_t)(e - w->n_apart));
	c->fwd.layer[il].router = w->packed[(size_t)il * w->n_layer_mat + 4];
	if (c->m->n_ff_shared > 0)
		c->fwd.layer[il].shared_gate = w->packed[gate - 1];
	c->fwd.layer[il].expert = ffn;
}

void plx_cpu_weights_layers(struct plx_cpu *c, const struct plx_cpu_weights *w)
{
	for (uint32_t il = 0; il < c->m->n_layer; il++) {
		size_t i = (size_t)il * w->n_layer_mat, gate = i + w->first_ffn;
		const struct plx_k_mat *p = w->packed + i;
		struct plx_fwd_layer *out = &c->fwd.layer[il];

		*out = (struct plx_fwd_layer){.wq = p[0], .wk = p[1], .wv = p[2], .wo = p[3]};
		if (c->m->n_expert > 0) {
			experts_set(c, w, il, gate);
			continue;
		}
		struct plx_fwd_ffn f = ffn_at(w, gate);

		out->gate = f.gate;
		out->up = f.up;
		out->down = f.down;
		out->ffn_stride = f.stride;
	}
	c->fwd.head = w->packed[w->n_mat - 1];
}
