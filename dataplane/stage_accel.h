/*
 * stage_accel: hands steps to a device, lets it work, collects what is done; and stage_worker,
 * which lends an lcore to a CPU device.
 *
 * The stage watches the oldest step. Past timers.step_deadline_ms, in which time that the step
 * waits for experts to come from a disk does not count while they do come, it asks the device to
 * drop it; if that does not help within half as long again, it resets the device, and everything
 * accepted comes back as LOST. batch hears TIMEOUT for a step that was dropped so. batch may ask
 * for the reset itself at any time; commands that wait ahead of it are then dropped, steps among
 * them as LOST.
 */
#ifndef PLX_DATAPLANE_STAGE_ACCEL_H
#define PLX_DATAPLANE_STAGE_ACCEL_H

#include "dataplane/request.h"
#include "dataplane/stage.h"

#define PLX_ACCEL_MAX_STEPS 16
/* A step that waits for experts is in time as long as one was read within this: a disk that is
 * there answers or fails sooner (Linux gives up after 30 s). */
#define PLX_ACCEL_READ_MOST_MS 30000u
#define PLX_ACCEL_PAIRS        64 /* as many as a batch has: PLX_TIER_PAIRS */

struct plx_stage_accel {
	struct plx_links *links;
	struct plx_dev *dev;
	struct plx_queue *queue; /* peer[idx] */
	struct plx_queue *peer[PLX_CFG_MAX_DEVS];
	uint32_t idx; /* which accel stage this is: its rings */
	struct plx_page *page;
	uint32_t slice_us;
	uint64_t deadline_ns;
	uint64_t oldest_ns; /* since when the oldest step is the oldest */
	uint64_t asked_ns;  /* since when asked */
	bool asked;         /* to drop the oldest step */
	bool held;          /* cmd waits: the device said AGAIN */
	struct plx_cmd cmd;
	uint32_t n_pairs; /* COPY commands of one batch, to be given to the device next */
	uint32_t batch;
	uint32_t from; /* whose blocks they copy */
	bool refused;  /* another device's could not be copied: the next step has to fail */
	int refused_err;
	struct plx_block_copy pair[PLX_ACCEL_PAIRS];
	uint32_t n_out; /* steps on the device, oldest first */
	uint32_t out[PLX_ACCEL_MAX_STEPS];
	uint64_t given_ns[PLX_ACCEL_MAX_STEPS]; /* when the device took each */
	struct plx_dev_experts experts;         /* counted so far */
	struct plx_dev_sparse sparse;           /* likewise */
	uint64_t read_bytes;                    /* of experts, as last seen; */
	uint64_t read_ns;      /* when it grew, or the oldest step became the oldest; */
	uint64_t read_most_ns; /* how long it may not */
};

/*
 * plx_stage_accel_init - a stage for one queue of a loaded device.
 *
 * @queue  [links->n_accel] of all accel stages, its own at idx.
 *
 * Errors: LIMIT (steps_in_flight over PLX_ACCEL_MAX_STEPS).
 */
int plx_stage_accel_init(struct plx_stage_accel *s, struct plx_links *links, uint32_t idx,
                         struct plx_dev *dev, struct plx_queue *const *queue, struct plx_page *page,
                         struct plx_diag *d);

/* plx_stage_accel_poll - a turn; counts as work while a step is on the device. */
uint32_t plx_stage_accel_poll(void *state, uint64_t now_ns);

struct plx_stage_worker {
	struct plx_dev *dev;
	uint32_t idx; /* 1.. */
	uint32_t slice_us;
};

/* plx_stage_worker_poll - compute for a slice, if there is something to compute. */
uint32_t plx_stage_worker_poll(void *state, uint64_t now_ns);

#endif
