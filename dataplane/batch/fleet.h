/*
 * Several devices, one scheduler each, and requests that go where they are done first, move from
 * those that run prompts to those that answer, and leave a device that fails.
 *
 * Routing. A new request is quoted by every device that may take it: admission (sched.h) knows the
 * measured cost model, what waits, and the longest cached prefix there. It goes where it is
 * expected to be complete first:
 *
 *   first token (the quote) + (ids of an answer - 1) * step time there with it among the others
 *
 * A device of which no time is known is tried with one request. Where all refuse, the answer is
 * that of the device that could take it soonest. `deterministic` requests run on devices of device
 * 0's numeric kind alone: that is what the appliance says it is.
 *
 * Roles. A device is mixed, or runs prompts (PREFILL), or answers (DECODE). On a PREFILL device
 * each sample makes its first id and waits; then the request goes to the answering device that is
 * expected to be done first. Where both have one layout and numeric kind its blocks are copied,
 * taken by the rules of memory there; else, or where the blocks had to be given up meanwhile, what
 * is known is run again. Roles are preferences: where no device of the right one is left, any
 * serves.
 *
 * Failing. A device is out when a step failed (FAULT, TIMEOUT, LOST), or when its oldest step takes
 * stall_times as long as was predicted and longer than stall_ns, from its begin or from when it was
 * last said to be alive. All of its requests go elsewhere
 * with the ids that they have said (move.h): nothing is lost, nothing is said twice. Those that
 * nobody else may take end in DEVICE_LOST, and so do, after failures in close succession, those for
 * whose ids no buffer is left: there are eight for each slot, or one for each sample of all
 * requests where that is less. What its steps in flight still bring is dropped. It is
 * reset, and when its steps came back it is tried again, with probe_keys requests at once until
 * probe_steps steps were good; at once after a first failure, after away_ns, doubled each time,
 * where the one before is no longer ago than forget_ns. With one device nothing can go elsewhere:
 * what failed steps ran ends in DEVICE_LOST, as sched.h says.
 *
 * Invariants: a request is on one device; each ends exactly once; a slot of a PREFILL device is
 * kept for a request that goes on elsewhere no longer than until it started there, moved on or
 * ended, and waits for answering devices alone, which keep none: so nobody waits in a circle.
 *
 * Owner: the batch stage.  Thread: one.  Cost: a new request asks each device; else what the
 *        schedulers cost, and O(requests) a failure. No allocation after init.
 * Source: Patel et al., "Splitwise", ISCA 2024, arXiv:2311.18677, and Zhong et al., "DistServe",
 *         arXiv:2401.09670 (prompts and answers on devices of their own).
 */
#ifndef PLX_DATAPLANE_BATCH_FLEET_H
#define PLX_DATAPLANE_BATCH_FLEET_H

#include "dataplane/batch/move.h"

#define PLX_FLEET_DEVS 8

enum plx_fleet_role { PLX_FLEET_MIXED, PLX_FLEET_PREFILL, PLX_FLEET_DECODE };

enum plx_fleet_state {
	PLX_FLEET_UP,
	PLX_FLEET_PROBE, /* back after a failure: a few requests at a time */
	PLX_FLEET_OUT,
};

struct plx_fleet_dev_conf {
	uint8_t role;                /* enum plx_fleet_role */
	uint32_t kind;               /* equal: equal bits */
	uint64_t layout;             /* equal, and equal kinds: blocks can be copied; 0: never */
	struct plx_sched_conf sched; /* n_keys is the same on all devices */
};

struct plx_fleet_conf {
	uint32_t n_dev;
	uint32_t n_samples; /* of one request, at most */
	uint32_t stall_times;
	uint64_t stall_ns;
	uint32_t probe_steps, probe_keys;
	uint64_t away_ns, away_most_ns, forget_ns;
	uint64_t retry_ns; /* a reset that failed is tried again then */
	struct plx_fleet_dev_conf dev[PLX_FLEET_DEVS];
};

/* What the fleet has devices do. Called from within its functions; must not call back into it. */
struct plx_fleet_io {
	void *ctx;
	/* As plx_sched_set_copy's, within a device; NULL: can't. */
	void (*copy)(void *ctx, uint32_t dev, const struct plx_block_copy *pairs, uint32_t n);
	/* From another device's blocks, as plx_sched_set_move's import; NULL: can't. */
	void (*import)(void *ctx, uint32_t dev, uint32_t from_dev,
	               const struct plx_block_copy *pairs, uint32_t n);
};

/* A kept sequence, by its slot: until when. */
struct plx_fleet_lease {
	uint8_t state; /* enum plx_lease_state */
	uint8_t to;    /* LENT: device that copies its blocks */
	uint32_t key;
	uint64_t step; /* LENT: until this step of that device came back */
};

struct plx_fleet_dev {
	struct plx_fleet *fleet;
	uint32_t idx;
	uint8_t state; /* enum plx_fleet_state */
	bool was_reset;
	uint32_t n_keys;   /* requests that are here */
	uint32_t n_coming; /* of them moved here and not started */
	uint32_t n_failed; /* failures that are not forgotten */
	uint32_t n_good;   /* PROBE: steps */
	uint64_t failed_ns, back_ns, retry_ns;
	uint64_t alive_ns;             /* plx_fleet_alive */
	struct plx_fleet_lease *lease; /* [n_slots] */
	struct plx_sched sched;
};

struct plx_fleet_ent {
	bool live, moved, coming, changed;
	bool due;  /* stands in todo */
	bool hand; /* and is to be handed on, not recomputed */
	uint8_t dev;
	uint32_t place; /* in fleet.live */
	uint32_t cached;
	uint64_t await;      /* one_id: samples whose id has not come */
	uint64_t said_kind1; /* 1 + kind of its ids; 0: none */
	uint64_t admit_ns, start_ns, first_ns;
	struct plx_sched_job job; /* as it came */
};

/* What happened, for counters; only grows. */
struct plx_fleet_stats {
	uint64_t handed;   /* requests that went from a PREFILL device to another */
	uint64_t imported; /* of these and others: that found their blocks copied */
	uint64_t rescued;  /* requests that left a failed device and went on elsewhere */
	uint64_t dropped;  /* that nobody else could take */
	uint64_t failed, stalled,
	    returned; /* devices taken out; of them by stall; taken in again */
};

struct plx_fleet {
	struct plx_fleet_conf conf;
	struct plx_sched_sink sink;
	struct plx_fleet_io io;
	struct plx_fleet_stats stats;
	uint64_t now_ns;
	uint32_t n_live, n_todo, n_lent;
	struct plx_fleet_ent *ent;   /* [n_keys] */
	struct plx_sched_have *have; /* [n_keys][n_samples] of those that moved */
	uint32_t *window;            /* [n_keys][n_samples] as the client has it */
	uint32_t *hold;              /* [n_keys][n_samples] where what it has said is; 0: nowhere */
	int32_t *ids;                /* [n_bufs][max_new] what was said by those that move */
	uint32_t *free_buf;          /* [n_bufs] */
	uint32_t n_bufs, n_free_bufs;
	uint32_t *live; /* [n_keys] */
	uint32_t *todo; /* [n_keys] keys to be moved before the fleet returns */
	struct plx_fleet_dev dev[PLX_FLEET_DEVS];
};

/* plx_fleet_bytes - what init takes from the arena. */
size_t plx_fleet_bytes(const struct plx_fleet_conf *c);

/* plx_fleet_init.  Errors: NOMEM, INVAL (d says which). */
int plx_fleet_init(struct plx_fleet *f, struct plx_arena *a, const struct plx_fleet_conf *c,
                   const struct plx_sched_sink *sink, const struct plx_fleet_io *io,
                   struct plx_diag *d);

/*
 * plx_fleet_add - take a request, as plx_sched_add; ids and have must stay until it is final.
 *
 * Errors: those of plx_sched_add, of the device that could take it soonest; DEVICE_LOST (no device
 * that may run it is left).
 */
int plx_fleet_add(struct plx_fleet *f, uint32_t key, const struct plx_sched_job *job,
                  uint64_t now_ns, struct plx_sched_admit *out);

/* As the scheduler's, wherever the request is. */
void plx_fleet_cancel(struct plx_fleet *f, uint32_t key, uint8_t cause, uint64_t now_ns);
void plx_fleet_reject(struct plx_fleet *f, uint32_t key, int err, uint64_t now_ns);
void plx_fleet_stop(struct plx_fleet *f, uint32_t key, uint32_t sample, uint64_t now_ns);
void plx_fleet_window(struct plx_fleet *f, uint32_t key, uint32_t sample, uint32_t next);

/* plx_fleet_alive - the device's step is not done, but what it waits for is coming: from now on
 * counts what it takes until it stalls. */
void plx_fleet_alive(struct plx_fleet *f, uint32_t dev, uint64_t now_ns);

/* plx_fleet_tick - as plx_sched_tick, and devices that stall, and those that may come back. */
void plx_fleet_tick(struct plx_fleet *f, uint64_t now_ns);

/* plx_fleet_fill, plx_fleet_done - as the scheduler's, for a step of this device. */
uint32_t plx_fleet_fill(struct plx_fleet *f, uint32_t dev, struct plx_step *step, uint32_t room,
                        uint64_t now_ns);
void plx_fleet_done(struct plx_fleet *f, uint32_t dev, struct plx_step *step, int status,
                    uint64_t now_ns);

/* plx_fleet_copy_failed - blocks of from_dev can't be copied to dev after all: not tried again. */
void plx_fleet_copy_failed(struct plx_fleet *f, uint32_t dev, uint32_t from_dev);

/*
 * plx_fleet_wants_reset - reset the device now, steps in flight or not, then call reset_done with
 * what that returned. Not said again in between: the caller remembers.
 */
bool plx_fleet_wants_reset(const struct plx_fleet *f, uint32_t dev, uint64_t now_ns);
void plx_fleet_reset_done(struct plx_fleet *f, uint32_t dev, int err, uint64_t now_ns);

/* plx_fleet_idle - no request is here and no step in flight. */
bool plx_fleet_idle(const struct plx_fleet *f);

/* plx_fleet_check - assert every invariant (tests). */
void plx_fleet_check(const struct plx_fleet *f);

#endif
