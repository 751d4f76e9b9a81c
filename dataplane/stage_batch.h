/*
 * stage_batch: admits requests, keeps the device fed, turns results into records. The scheduling
 * itself is dataplane/batch, pure logic; this stage gives it rings, a clock and the requests.
 *
 * A turn: results of the device, notices (stop, window), new requests, cancels and deadlines, then
 * as many steps as records are free. Load figures are published at the end of each turn.
 */
#ifndef PLX_DATAPLANE_STAGE_BATCH_H
#define PLX_DATAPLANE_STAGE_BATCH_H

#include "dataplane/batch/draft_model.h"
#include "dataplane/batch/fleet.h"
#include "dataplane/request.h"
#include "dataplane/stage.h"

#define PLX_BATCH_MAX_STEPS    16
#define PLX_BATCH_FLEET_COUNTS 7
#define PLX_BATCH_COUNTS       40

/* What the stage needs to know of model and device. */
struct plx_batch_model {
	uint32_t model_id; /* what REQ may name beside 0 */
	uint32_t n_ctx;    /* of the model */
	uint32_t n_vocab;
	uint32_t caps; /* enum plx_dev_cap that all devices have; LAST is needed */
	const int32_t *eog;
	uint32_t n_eog;
	bool prefix_cache;
	uint64_t secret; /* random at each start: seeds the prefix cache's hashes */
	/* The last accel stage's device drafts; n_slots 0: none does. */
	struct plx_dev_limits draft_lim;
	enum plx_draft_kind draft_kind;
};

/* A device, by the accel stage that feeds it. */
struct plx_batch_dev {
	struct plx_queue *queue;
	enum plx_cfg_role role;
	uint32_t kind;   /* hash of its numeric kind, as DONE tells it */
	uint64_t layout; /* of its KV blocks */
};

/* What stands between the fleet and one device. */
struct plx_batch_lane {
	struct plx_batch_dev dev;
	uint64_t read_bytes; /* of experts, as the device's stage said last */
	bool resetting;      /* PLX_CMD_RESET is on its way */
	uint32_t copy_batch; /* of the copies given last */
	uint32_t n_free;
	uint32_t free_step[PLX_BATCH_MAX_STEPS];
};

struct plx_stage_batch {
	struct plx_links *links;
	struct plx_page *page;
	uint64_t room_waits; /* turns short of room towards tok, as the scheduler counts them */
	struct plx_batch_model model;
	struct plx_fleet fleet;
	uint32_t n_dev;
	struct plx_batch_lane lane[PLX_FLEET_DEVS]; /* behind n_dev: the one that drafts */
	bool has_draft;
	struct plx_dmodel draft;
	uint64_t counted[PLX_BATCH_COUNTS]; /* what the page has of the schedulers' counts */
	uint64_t fleet_counted[PLX_BATCH_FLEET_COUNTS];
	uint64_t tick_ns;            /* of the last tick */
	uint64_t now_ns;             /* of this turn */
	bool gone;                   /* the only device's last reset failed: requests are refused */
	uint32_t n_live;             /* keys the scheduler has */
	uint32_t *live;              /* [n_requests] them, in no order */
	uint32_t *place;             /* [n_requests] where in live a key is */
	uint32_t n_scored;           /* of scored */
	uint32_t *scored;            /* [n_requests] keys whose prompts were scored, to be pruned */
	struct plx_sched_have *have; /* [n_requests][n_samples] of resumed requests */
	uint64_t
	    *said_ns; /* [n_requests] when ACCEPT said that the first token comes; 0: a guess */
	uint64_t *last_ns; /* [n_requests] device time of the last token, for ITL; 0: none yet */
};

/*
 * plx_batch_dev_limits - the limits to load a device with, from the configuration and the model's
 * context. n_threads: lcores that will compute.
 */
struct plx_dev_limits plx_batch_dev_limits(const struct plx_config *cfg, uint32_t n_ctx,
                                           uint32_t n_threads);

/*
 * plx_batch_draft_limits - the limits of a device that drafts with a model of draft_ctx positions
 * for one of n_ctx.
 */
struct plx_dev_limits plx_batch_draft_limits(const struct plx_config *cfg, uint32_t n_ctx,
                                             uint32_t draft_ctx, uint32_t n_threads);

/* plx_stage_batch_bytes - what init takes from the arena. */
size_t plx_stage_batch_bytes(const struct plx_config *cfg, uint32_t n_ctx);

/*
 * plx_stage_batch_init - make the stage for the queues of loaded devices.
 *
 * @dev  [links->n_accel]
 *
 * Errors: NOMEM, LIMIT, INVAL, UNSUPPORTED (the device lacks LAST); d says what.
 */
int plx_stage_batch_init(struct plx_stage_batch *s, struct plx_links *links, struct plx_arena *a,
                         const struct plx_batch_dev *dev, const struct plx_batch_model *model,
                         struct plx_page *page, struct plx_diag *d);

/* plx_stage_batch_poll - a turn. */
uint32_t plx_stage_batch_poll(void *state, uint64_t now_ns);

#endif
