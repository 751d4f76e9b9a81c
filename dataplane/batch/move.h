/*
 * A request goes from one scheduler to another: because the device failed, or because it runs
 * prompts and another one answers.
 *
 * What was said is in its sequences' ids, in the memory of the host whatever became of the device:
 * whoever moves it copies them. The scheduler it comes to is given them as plx_sched_have, sends
 * none of them again and goes on behind them, with the same ids that it would have made without the
 * move, where the numeric kind is the same.
 *
 * A sequence may be `kept`: over, but with its slot, ids and blocks (`kept_kv`). The other device
 * copies them instead of running the tokens again, and the sequence goes on at the next position.
 * They are given up where the scheduler that keeps them needs the room, unless they are being
 * copied (`lent`): then somebody computes them again, and nobody waits.
 *
 * Owner: the batch stage, which has both schedulers.  Thread: one.  Cost: O(blocks), no allocation.
 */
#ifndef PLX_DATAPLANE_BATCH_MOVE_H
#define PLX_DATAPLANE_BATCH_MOVE_H

#include "dataplane/batch/sched.h"

/*
 * plx_sched_leave - a request goes on elsewhere: no final, its key is free.
 *
 * @with_kv  keep those sequences that have blocks and that no step in flight names, until
 *           plx_sched_release.
 *
 * Until the next plx_sched_fill ent[key] says how each sample stood (slot, out.end, out.n_out), and
 * seq[slot].ids what it has said. What steps in flight bring is dropped.
 */
void plx_sched_leave(struct plx_sched *s, uint32_t key, bool with_kv);

/* plx_sched_release - a kept sequence started elsewhere, or nobody wants it any more. */
void plx_sched_release(struct plx_sched *s, uint32_t slot);

/* plx_sched_kept_drop - give up the blocks of a kept sequence that no step names. */
void plx_sched_kept_drop(struct plx_sched *s, uint32_t slot);

/* plx_sched_kept_yield - the same for the first that is not lent; false: there is none. */
bool plx_sched_kept_yield(struct plx_sched *s);

/*
 * plx_sched_set_move - there are other schedulers; before anything is added.
 *
 * @from    bit d: device d's blocks can be copied; may lose bits later (s->import_from).
 * @import  called from within plx_sched_fill: give the copies from from_dev's blocks to this
 *          device, behind all copies and steps before and ahead of the step that is being filled.
 * @lost    called from within plx_sched_done: a request that a failed step ran has left, with its
 *          ids kept, instead of ending in DEVICE_LOST.
 */
void plx_sched_set_move(struct plx_sched *s, void *ctx, uint32_t from,
                        void (*import)(void *ctx, uint32_t from_dev,
                                       const struct plx_block_copy *pairs, uint32_t n),
                        void (*lost)(void *ctx, uint32_t key));

/* plx_sched_importable - every sample that goes on has its blocks on another device. */
bool plx_sched_importable(const struct plx_sched *s, const struct plx_sched_job *j);

/* plx_sched_import_pairs - blocks that starting it would copy, at most. */
uint32_t plx_sched_import_pairs(const struct plx_sched *s, uint32_t key);

/* plx_sched_import - the request starts (sched_start.c): take blocks and have them filled. */
void plx_sched_import(struct plx_sched *s, uint32_t key);

#endif
