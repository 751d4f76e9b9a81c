/* What the fleet's own files share; nobody else includes it. */
#ifndef PLX_DATAPLANE_BATCH_FLEET_INT_H
#define PLX_DATAPLANE_BATCH_FLEET_INT_H

#include "dataplane/batch/fleet.h"
#include "dataplane/batch/sched_int.h"

enum plx_lease_state {
	PLX_LEASE_NONE,
	PLX_LEASE_WAIT, /* until its request started elsewhere */
	PLX_LEASE_LENT, /* until the copy of its blocks is done */
};

/* fleet.hold: a buffer, or 1 + device << 16 | slot that is kept there. */
#define PLX_HOLD_BUF UINT32_C(0x80000000)

/* ---- where to (fleet_route.c) ---- */

/* What a device is wanted for. */
enum plx_fleet_want { PLX_WANT_ANY, PLX_WANT_PROMPT, PLX_WANT_ANSWER };

/*
 * plx_fleet_may - whether a request may go to a device now.
 *
 * @strict  only where the device's role is the wanted one or mixed.
 */
bool plx_fleet_may(const struct plx_fleet *f, uint32_t key, uint32_t dev, enum plx_fleet_want want,
                   bool strict);

/*
 * plx_fleet_best - the device where a job is expected to be complete first; PLX_KV_NONE: none takes
 * it, *err says why, and *refuser who could take it soonest (PLX_KV_NONE: there is nobody to ask).
 *
 * @not  a device that is not asked; PLX_KV_NONE.
 */
uint32_t plx_fleet_best(struct plx_fleet *f, uint32_t key, const struct plx_sched_job *job,
                        enum plx_fleet_want want, uint32_t not, int *err, uint32_t *refuser);

/* plx_fleet_prompts_only - whether the request is to leave this device behind its first ids. */
bool plx_fleet_prompts_only(const struct plx_fleet *f, uint32_t key, uint32_t dev);

/* ---- moving (fleet_move.c) ---- */

/* plx_fleet_due - the request is to be moved before the fleet returns; hand: with its blocks. */
void plx_fleet_due(struct plx_fleet *f, uint32_t key, bool hand);

/* plx_fleet_settle - move what is due. */
void plx_fleet_settle(struct plx_fleet *f);

/* plx_fleet_started - requests that had been moved to the device and started in this fill. */
void plx_fleet_started(struct plx_fleet *f, uint32_t dev, uint64_t step_id);

/* plx_fleet_unlend - a step of dev came back: copies that it waited for are done. */
void plx_fleet_unlend(struct plx_fleet *f, uint32_t dev, uint64_t step_id);

/* plx_fleet_let_go - what is kept for a request is wanted no more, but for what is lent. */
void plx_fleet_let_go(struct plx_fleet *f, uint32_t key);

/* plx_fleet_take_out - a device failed. */
void plx_fleet_take_out(struct plx_fleet *f, uint32_t dev);

/* plx_fleet_try_back - an OUT device that was reset comes back when it may. */
void plx_fleet_try_back(struct plx_fleet *f, uint32_t dev);

/* plx_fleet_close - a request is over, however that came; its ent is free. */
void plx_fleet_close(struct plx_fleet *f, uint32_t key, struct plx_sched_final *out);

static inline size_t plx_fleet_at(const struct plx_fleet *f, uint32_t key, uint32_t sample)
{
	return (size_t)key * f->conf.n_samples + sample;
}

static inline struct plx_sched *plx_fleet_sched(struct plx_fleet *f, uint32_t key)
{
	return &f->dev[f->ent[key].dev].sched;
}

#endif
