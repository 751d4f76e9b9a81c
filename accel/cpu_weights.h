/*
 * A model's matrices on their way into the CPU device's memory: where each lies there, the items in
 * which lanes repack it from the model or read it from the cache, and what the disk is asked for
 * before that.
 *
 * Both ways read a stream of bytes in the order in which items are claimed: matrices as the model
 * file has them, or the cache's data; then the embedding rows, which stay in the model file. The
 * item that crosses a multiple of STEP asks the disk for the STEP that comes AHEAD later, so that
 * each byte is asked for once and the disk always has something to do. A cache that is not in the
 * kernel's memory needs no asking: it comes past it (cpu_fetch.h), and lanes check it.
 */
#ifndef PLX_ACCEL_CPU_WEIGHTS_H
#define PLX_ACCEL_CPU_WEIGHTS_H

#include "accel/cpu.h"
#include "accel/cpu_cache.h"
#include "accel/cpu_fetch.h"

struct plx_cpu_weights {
	uint64_t bytes;            /* repacked */
	uint32_t n_apart;          /* experts of a layer that are in a store of their own */
	uint32_t n_layer_mat;      /* plx_fwd_layer_mats, but for those experts' */
	uint32_t first_ffn;        /* plx_fwd_first_ffn */
	uint32_t n_mat;            /* those of each layer, and the output last */
	struct plx_cache_mat *mat; /* [n_mat] */
	uint32_t *first_item;      /* repacking: [n_mat + 1] */
	uint64_t *stream;          /* repacking: [n_mat + 1], where each begins in the stream */
	struct plx_k_mat *packed;  /* [n_mat] */
	struct plx_cache cache;
	struct plx_fetch fetch;   /* on: the cache comes past the kernel's memory */
	_Atomic uint32_t damaged; /* a chunk of the cache is not what was written */
};

/*
 * plx_cpu_weights_lay - decide where each matrix lies; plx_cpu_weights_free frees what it took.
 *
 * @lim  says whether routed experts are among them, or in a store of their own (experts.h).
 *
 * Errors: NOMEM.
 */
int plx_cpu_weights_lay(struct plx_cpu_weights *w, const struct plx_model *m,
                        const struct plx_dev_limits *lim);
void plx_cpu_weights_free(struct plx_cpu_weights *w);

/* plx_cpu_weights_cached - whether the weights came, or will come, from the open cache. */
bool plx_cpu_weights_cached(const struct plx_cpu_weights *w);

/* plx_cpu_weights_ask - ask the disk for the stream's beginning. Thread: the loading's owner. */
void plx_cpu_weights_ask(const struct plx_cpu_weights *w, const struct plx_model *m);

/*
 * plx_cpu_weights_touch - make the pages of one of fetch.n_piece pieces, which may come then.
 * plx_cpu_weights_ask_embed - ask the disk for one of plx_cpu_weights_n_ask stretches of embedding
 * rows: beside a fetch, where no item asks for what comes later.
 *
 * Thread: any, different ones at the same time.
 */
void plx_cpu_weights_touch(const struct plx_cpu *c, struct plx_cpu_weights *w, uint32_t piece);
uint32_t plx_cpu_weights_n_ask(const struct plx_cpu_weights *w, const struct plx_model *m);
void plx_cpu_weights_ask_embed(const struct plx_model *m, uint32_t item);

/*
 * plx_cpu_weights_read, plx_cpu_weights_pack - one chunk of the cache, or one of first_item[n_mat]
 * items of the model, into c->weights. plx_cpu_weights_embed - EMBED_BYTES of embedding rows are
 * brought into memory; returns something of them, so that it is not left out.
 *
 * Thread: any, different items at the same time.
 */
#define PLX_CPU_EMBED_BYTES (UINT64_C(512) << 10)

void plx_cpu_weights_read(struct plx_cpu *c, struct plx_cpu_weights *w, uint32_t item);
void plx_cpu_weights_pack(struct plx_cpu *c, const struct plx_cpu_weights *w, uint32_t item);
uint8_t plx_cpu_weights_embed(const struct plx_cpu *c, const struct plx_cpu_weights *w,
                              uint32_t item);

/* plx_cpu_weights_place - say where the matrices lie, once c->weights is mapped. */
void plx_cpu_weights_place(const struct plx_cpu *c, struct plx_cpu_weights *w);

/* plx_cpu_weights_layers - tell the pass about them. */
void plx_cpu_weights_layers(struct plx_cpu *c, const struct plx_cpu_weights *w);

#endif
