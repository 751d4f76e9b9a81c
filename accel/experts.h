/*
 * Experts whose weights are larger than memory (CPU): some are in memory, the rest in a file of
 * repacked weights, from which threads of this store's own read them, ahead of need where a need
 * can be guessed.
 *
 *   pool   n_slot slots of slot_bytes, each one expert as the kernels take it: gate's and up's
 *          granules in turn, then down
 *   file   MODEL.experts.plx (cpu_cache.h): expert e of layer l is chunk l * n_expert + e, one slot
 *          long, with its XXH3-64. Made at the first start by the same threads, from the model
 *
 * Which experts stay is decided by heat: every step that uses an expert adds to its heat, which
 * halves every PLX_EXPERTS_HALF_LIFE steps; what is fetched takes the place of the coldest of some
 * that are looked at. An expert that the current layer still wants is never displaced.
 *
 * A layer's use of it, by the runner:
 *
 *   plx_experts_turn(x, il)            the layer begins
 *   plx_experts_need(x, il, e)         once for each expert that was chosen
 *   plx_experts_guess(x, il + 1, e)    for those that may be wanted next
 *   plx_experts_ask(x, il, e)          until it says READY: then plx_experts_bind, compute,
 *                                      plx_experts_done
 *
 * Nothing of that waits, allocates or enters the kernel. Bits do not depend on where an expert was.
 *
 * Source: Eliseev and Mazur, "Fast Inference of Mixture-of-Experts Language Models with
 *         Offloading", arXiv:2312.17238 (a layer's state guesses the next layer's experts); Shah et
 *         al., "An O(1) algorithm for implementing the LFU cache eviction scheme", 2010, here with
 *         decay and a sample in place of a list.
 */
#ifndef PLX_ACCEL_EXPERTS_H
#define PLX_ACCEL_EXPERTS_H

#include <stdbool.h>
#include <stdint.h>

#include "accel/accel.h"
#include "accel/cpu_cache.h"
#include "accel/forward.h"
#include "fw/base/arena.h"

#define PLX_EXPERTS_SUFFIX    ".experts" PLX_CACHE_SUFFIX
#define PLX_EXPERTS_READERS   4u   /* threads; half of them read what is needed now alone */
#define PLX_EXPERTS_HALF_LIFE 128u /* steps */

struct plx_experts;

enum plx_expert_state {
	PLX_EXPERT_EMPTY,
	PLX_EXPERT_QUEUED,
	PLX_EXPERT_READING,
	PLX_EXPERT_READY,
	PLX_EXPERT_FAILED, /* could not be read; the log says what and where */
};

/* plx_experts_stream - whether these limits leave experts on disk. */
bool plx_experts_stream(const struct plx_model *m, const struct plx_dev_limits *lim);

/* plx_experts_slot_bytes - an expert in memory and in the file; a multiple of 4096. */
uint64_t plx_experts_slot_bytes(const struct plx_model *m);

/* plx_experts_pool_bytes - of all slots that fit into lim->expert_mem_bytes. */
uint64_t plx_experts_pool_bytes(const struct plx_model *m, const struct plx_dev_limits *lim);

/*
 * plx_experts_check - whether the memory holds at least a token's experts.
 * Errors: LIMIT, with how much is needed.
 */
int plx_experts_check(const struct plx_model *m, const struct plx_dev_limits *lim,
                      struct plx_diag *d);

/* What a store is made from. */
struct plx_experts_conf {
	const struct plx_model *m;
	const struct plx_arena *pool; /* plx_experts_pool_bytes */
	uint32_t n_slot;
	const char *base; /* the file's name without its suffix */
	const struct plx_cache_plan
	    *plan;            /* layout_id and what names the model are taken from it */
	const uint64_t *cpus; /* [16] bit map of CPUs that compute: readers keep off them where
	                       * there are others */
};

/*
 * plx_experts_open - open the file, or begin to make it.
 *
 * Owner:  the caller; what conf points to outlives the store.
 * Errors: INVAL (a model that is no file, or no name), NOMEM, LIMIT, AGAIN made IO (another process
 *         makes the file), FULL, IO; d says what and where.
 */
int plx_experts_open(const struct plx_experts_conf *conf, struct plx_experts **out,
                     struct plx_diag *d);

/*
 * plx_experts_poll - 0 once experts can be needed, AGAIN while the file is being made.
 *
 * @n_made  out: experts in the file, of n_layer * n_expert.
 *
 * Errors: as plx_experts_open.  Thread: the owner.
 */
int plx_experts_poll(struct plx_experts *x, uint32_t *n_made, struct plx_diag *d);

/* plx_experts_close - end the threads and free all; NULL is accepted. */
void plx_experts_close(struct plx_experts *x);

/* plx_experts_shape - a routed expert of a layer: its matrices without data. */
struct plx_fwd_ffn plx_experts_shape(const struct plx_model *m, uint32_t il);

/* ---- the runner's --------------------------------------------------------------------------- */

/* plx_experts_turn - a layer begins; whatever was held is free. Cost: O(n_expert). */
void plx_experts_turn(struct plx_experts *x, uint32_t il);

/* plx_experts_need - count the use of an expert, and have it read if it is not there. */
void plx_experts_need(struct plx_experts *x, uint32_t il, uint32_t e);

/* plx_experts_guess - have it read when nothing that is needed is waiting, if there is room. */
void plx_experts_guess(struct plx_experts *x, uint32_t il, uint32_t e);

/*
 * plx_experts_ask - where a needed expert is: READY (it is held until plx_experts_done or the next
 * turn), FAILED (it is forgotten: the next need reads anew), else not yet: ask again later. A read
 * that began before the need, for an ended step or on a guess, does not fail it: it is read again.
 */
enum plx_expert_state plx_experts_ask(struct plx_experts *x, uint32_t il, uint32_t e);

/* plx_experts_bind - point w's matrices at a READY expert. */
void plx_experts_bind(const struct plx_experts *x, uint32_t il, uint32_t e, struct plx_fwd_ffn *w);

/* plx_experts_done - it is not wanted any more in this layer. */
void plx_experts_done(struct plx_experts *x, uint32_t il, uint32_t e);

/* plx_experts_counts - fill the counts of the store. Thread: any. */
void plx_experts_counts(const struct plx_experts *x, struct plx_dev_experts *out);

#endif
