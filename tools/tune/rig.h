/*
 * A CPU device with a model on it and the threads that lend it their cores, as polluxd's accel and
 * worker stages do.
 */
#ifndef PLX_TOOLS_TUNE_RIG_H
#define PLX_TOOLS_TUNE_RIG_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "accel/accel.h"
#include "accel/model/model.h"
#include "fw/base/diag.h"

#define PLX_RIG_THREADS 64u

struct plx_rig {
	struct plx_model *model;
	struct plx_dev *dev;
	struct plx_queue *q;
	struct plx_dev_limits lim;
	uint32_t slice_us;
	uint32_t n_workers;
	pthread_t worker[PLX_RIG_THREADS];
	_Atomic uint32_t next_worker;
	_Atomic bool stop;
};

/*
 * plx_rig_open - open the file, load it, start lim->n_threads - 1 threads.
 *
 * @cache_base  repacked weights are kept in this and ".plx", so that the next opening is quick; "":
 *              in none.
 *
 * Errors: as plx_model_open, plx_dev_open and loading; NOMEM where no thread can be made. On error
 * nothing stays open.
 */
int plx_rig_open(struct plx_rig *r, const char *path, const char *cache_base,
                 const struct plx_dev_limits *lim, uint32_t slice_us, struct plx_diag *d);
void plx_rig_close(struct plx_rig *r);

/* plx_rig_wait - poll until a step is done; its index, or a negative error. */
int plx_rig_wait(struct plx_rig *r);

#endif
