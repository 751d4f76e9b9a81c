/* What the scheduler's own files share; nobody else includes it. */
#ifndef PLX_DATAPLANE_BATCH_SCHED_INT_H
#define PLX_DATAPLANE_BATCH_SCHED_INT_H

#include "dataplane/batch/sched.h"

enum plx_ent_state { PLX_ENT_FREE, PLX_ENT_WAITING, PLX_ENT_RUNNING };

#define PLX_ENT_NONE UINT32_MAX /* end of a list of keys */

/* plx_sched_wait_remove - take a waiting request out of its list. */
void plx_sched_wait_remove(struct plx_sched *s, uint32_t key);

/* plx_sched_update_load - count queued tokens and running sequences anew. */
void plx_sched_update_load(struct plx_sched *s);

/* plx_sched_seq_leave - free the slot and blocks of a sequence that no step names. */
void plx_sched_seq_leave(struct plx_sched *s, uint32_t slot);

/*
 * plx_sched_sample_end - one sample is over; the request is done when it was the last.
 * plx_sched_ent_end - end a request as a whole, as out.kind says; samples that run get `end`.
 * plx_sched_ent_fail - the same as REJECT err or CANCELLED cause.
 */
void plx_sched_sample_end(struct plx_sched *s, uint32_t slot, enum plx_seq_end end,
                          uint64_t now_ns);
void plx_sched_ent_end(struct plx_sched *s, uint32_t key, enum plx_seq_end end, uint64_t now_ns);
void plx_sched_ent_fail(struct plx_sched *s, uint32_t key, enum plx_sched_final_kind kind, int err,
                        uint8_t cause, uint64_t now_ns);

#define PLX_SCHED_NOT_YET UINT64_MAX /* shared_step: no step has the last shared position yet */

/* plx_sched_records - sink records that one token with n_top alternatives takes. */
static inline uint32_t plx_sched_records(uint32_t n_top)
{
	return 1 + (n_top + 2) / 3;
}

/* plx_sched_start_waiting - start what has room, in the order of the policy (sched_start.c). */
void plx_sched_start_waiting(struct plx_sched *s, uint64_t now_ns);

#endif
