/* A device in this process. */
#include "tools/tune/rig.h"

#include <stdio.h>
#include <string.h>

#include "fw/base/err.h"

static void *work(void *arg)
{
	struct plx_rig *r = arg;
	uint32_t idx = 1 + atomic_fetch_add(&r->next_worker, 1);

	while (!atomic_load_explicit(&r->stop, memory_order_relaxed))
		if (plx_dev_worker(r->dev, idx, r->slice_us) == 0)
			__builtin_ia32_pause();
	return NULL;
}

static int start_workers(struct plx_rig *r, struct plx_diag *d)
{
	while (r->n_workers + 1 < r->lim.n_threads) {
		if (pthread_create(&r->worker[r->n_workers], NULL, work, r) != 0)
			return plx_diag_set(d, PLX_E_NOMEM,
			                    "can't start %u threads; give --threads",
			                    r->lim.n_threads);
		r->n_workers++;
	}
	return 0;
}

static int load(struct plx_rig *r, struct plx_diag *d)
{
	struct plx_load_progress p;
	int err = plx_dev_load_begin(r->dev, r->model, &r->lim, d);

	if (!err)
		err = start_workers(r, d);
	if (err)
		return err;
	do
		err = plx_dev_load_poll(r->dev, 1000, &p, d);
	while (err == PLX_E_AGAIN);
	return err ? err : plx_queue_open(r->dev, &r->q, d);
}

int plx_rig_open(struct plx_rig *r, const char *path, const char *cache_base,
                 const struct plx_dev_limits *lim, uint32_t slice_us, struct plx_diag *d)
{
	struct plx_dev_conf conf = {.name = "tune", .kind = "cpu", .isa = "auto"};
	int err;

	memset(r, 0, sizeof *r);
	r->lim = *lim;
	r->slice_us = slice_us;
	if (strlen(cache_base) < sizeof conf.cache_base)
		snprintf(conf.cache_base, sizeof conf.cache_base, "%s", cache_base);
	if (lim->n_threads == 0 || lim->n_threads > PLX_RIG_THREADS)
		return plx_diag_set(d, PLX_E_INVAL, "--threads: give 1 to %u", PLX_RIG_THREADS);
	err = plx_model_open(path, &r->model, d);
	if (!err)
		err = plx_dev_open(&conf, &r->dev, d);
	if (!err)
		err = load(r, d);
	if (err)
		plx_rig_close(r);
	return err;
}

void plx_rig_close(struct plx_rig *r)
{
	atomic_store(&r->stop, true);
	for (uint32_t i = 0; i < r->n_workers; i++)
		pthread_join(r->worker[i], NULL);
	if (r->dev)
		plx_dev_close(r->dev);
	plx_model_close(r->model);
	r->n_workers = 0;
	r->dev = NULL;
	r->model = NULL;
}

int plx_rig_wait(struct plx_rig *r)
{
	uint32_t done = 0;
	int n;

	do
		n = plx_queue_poll(r->q, r->slice_us, &done, 1);
	while (n == 0);
	return n < 0 ? n : (int)done;
}
