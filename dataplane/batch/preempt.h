/*
 * Memory under pressure: who gets the next KV block, and who gives one up.
 *
 * Sequences take blocks as their positions are given to the device, so that what runs is bounded by
 * what is used, not by what might be. The price: a running sequence may find no block. Then others
 * are preempted: they keep their slot and their ids, lose their blocks (the full ones stay in the
 * prefix cache as long as there is room) and later run what they know again. Ids that were sent are
 * not sent again, and by DESIGN.md's Numerics those that follow are the same.
 *
 * The order. Whoever started is ordered for good by
 *
 *   keep = admission time - priority * PLX_QUEUE_HORIZON_NS + lag of its session's fair share
 *
 * then by start, then by sample: "ahead" is smaller. This is the hook for policy; what follows only
 * needs an order that never changes while a request runs.
 *
 * The rules.
 * 1. A sequence that finds no block makes those behind it leave, the last first, until as many
 *    blocks will come free as are asked for; so do sequences whose client has not opened its
 *    window, wherever they stand. One that steps in flight name is given nothing more and leaves
 *    when they came back.
 * 2. The first in the order that found none is `hungry`. While there is one, nobody behind it takes
 *    a block.
 * 3. A preempted sequence goes on when there is room for all it knows and one block for each that
 *    runs; a new request starts when there is room for that and for what others' prompts still
 *    need. The first of all in the order goes on at once.
 *
 * The reserve: no livelock. Let H be the first of all in the order. It is never preempted (but for
 * its own closed window). When it finds no block it becomes hungry, so each block that comes free
 * is for H; everybody else who holds blocks is behind it and leaves. A step that was accepted
 * completes, so after the steps in flight all blocks are H's or free, but for the quarantined.
 * Admission refuses what needs more blocks than there are, so H has enough and ends, after at most
 * as many turns as it has tokens; then the same holds for the next. In numbers, at any time
 *
 *   n_blocks - n_quarantined >= what H needs at most        (plx_sched_check)
 *
 * The only way to break that is a fault's quarantine. When H is hungry and nothing is in flight,
 * plx_sched_wants_reset asks for the device's reset at once; who still runs is then preempted too.
 *
 * Thinning out. Before anybody is preempted, requests that allowed it (job.evict_late) lose of
 * their prompt's KV what is attended to least, the last in the order first, each once; those that
 * run on by themselves alone, so that their blocks come free after a step.
 *
 * Beyond the context (shift.h). Before the oldest tokens leave, the blocks that are to move must be
 * the sequence's own: what others hold is copied, one block at a time, each taking the place of the
 * shared one at once, so that the sequence is whole at any time and never holds more than its
 * context, and one block. What only the cache knows is copied where there is room that nobody
 * needs, and forgotten where there is none. That keeps the proof above: when H is hungry all others
 * leave, so nobody shares its blocks any more, and it needs no block to go on.
 *
 * Owner: the batch stage.  Thread: one.
 * Cost:  plx_sched_blocks_for O(blocks taken) while there is room; O(sequences + their blocks) for
 *        each one preempted. No allocation.
 */
#ifndef PLX_DATAPLANE_BATCH_PREEMPT_H
#define PLX_DATAPLANE_BATCH_PREEMPT_H

#include "dataplane/batch/sched.h"

/* plx_sched_keep - a request starts: its place in the order. */
void plx_sched_keep(struct plx_sched *s, struct plx_sched_ent *e);

/* plx_sched_memory_turn - a step begins to be filled: nothing was asked for yet. */
void plx_sched_memory_turn(struct plx_sched *s);

/*
 * plx_sched_goes_on - whether the sequence may be given tokens. One that was preempted takes what
 * the prefix cache still has; false where it has to wait.
 */
bool plx_sched_goes_on(struct plx_sched *s, uint32_t slot);

/*
 * plx_sched_blocks_for - how many of the sequence's next n tokens have blocks; takes those it
 * lacks and makes others leave where there are none. Where tokens leave the context before the
 * next one, they do, when the steps in flight came back; where they leave later, so far and no
 * further. 0: it has to wait.
 */
uint32_t plx_sched_blocks_for(struct plx_sched *s, uint32_t slot, uint32_t n);

/*
 * plx_sched_gave - a step with this id has tokens of the sequence: where the prompt's shared blocks
 * are complete with them, the other samples hold them from now on.
 */
void plx_sched_gave(struct plx_sched *s, uint32_t slot, uint64_t step_id);

/*
 * plx_sched_hold_prefix - hold the cached blocks of ids from block n on, up to most.
 *
 * @fetch  also those that lie in host blocks, where copying is cheaper than computing.
 *
 * Returns n and those held; *at is moved behind them.
 */
uint32_t plx_sched_hold_prefix(struct plx_sched *s, struct plx_prefix_at *at, const int32_t *ids,
                               uint32_t *block, uint32_t n, uint32_t most, bool fetch);

/*
 * Samples of one request share the prompt's full blocks. Where blocks can be copied, those that do
 * not run the prompt get a copy of the block that the prompt ends in and run its last token alone.
 *
 * plx_sched_share - the other samples of a running request hold the shared blocks of slot. */
void plx_sched_share(struct plx_sched *s, uint32_t key, uint32_t slot);

/* plx_sched_lead - a sample ended: another one runs the shared prompt if that is not done. */
void plx_sched_lead(struct plx_sched *s, uint32_t key);

/* plx_sched_will_leave - a sequence is over or preempted: count what it will free. */
void plx_sched_will_leave(struct plx_sched *s, uint32_t slot);

/* plx_sched_let_go - the steps in flight of a leaving sequence came back. */
void plx_sched_let_go(struct plx_sched *s, uint32_t slot);

/* plx_sched_forget - a sequence gives up its place: it ended. */
void plx_sched_forget(struct plx_sched *s, uint32_t slot);

/* plx_sched_restart_all - the device was reset: whatever runs begins anew. */
void plx_sched_restart_all(struct plx_sched *s);

/* plx_sched_owed - blocks that running sequences lack for what they know already, and a block each
 * for what runs. */
uint64_t plx_sched_owed(const struct plx_sched *s);

/* plx_sched_preempt - make a running sequence leave (tests, and whoever has a reason). */
void plx_sched_preempt(struct plx_sched *s, uint32_t slot);

/* plx_sched_memory_check - the rules above, asserted (tests). */
void plx_sched_memory_check(const struct plx_sched *s);

/* plx_sched_evict - what a sequence's keep lets go of its prompt goes with its next token.
 * plx_sched_evict_came - the step that told the device came back: its blocks come free. */
void plx_sched_evict(struct plx_sched *s, struct plx_seq *q);
void plx_sched_evict_came(struct plx_sched *s, struct plx_seq *q);

#endif
