/* The registry of device kinds, and the argument checks that are the same for all of them. */
#include "accel/accel.h"

#include <string.h>

#include "accel/cpu.h"
#include "accel/cuda.h"
#include "accel/step.h"
#include "fw/base/check.h"
#include "fw/base/err.h"

int plx_dev_open(const struct plx_dev_conf *conf, struct plx_dev **out, struct plx_diag *d)
{
	if (strncmp(conf->kind, "cpu", sizeof(conf->kind)) == 0)
		return plx_cpu_open(conf, out, d);
	if (strncmp(conf->kind, "cuda", sizeof(conf->kind)) == 0)
		return plx_cuda_open(conf, out, d);
	return plx_diag_set(
	    d, PLX_E_UNSUPPORTED,
	    "device %.31s: this build has no devices of kind '%.15s'; it has: cpu, cuda",
	    conf->name, conf->kind);
}

uint32_t plx_dev_kind_caps(const char *kind)
{
	return strcmp(kind, "cpu") == 0    ? PLX_CPU_CAPS
	       : strcmp(kind, "cuda") == 0 ? PLX_CUDA_CAPS
	                                   : 0;
}

int plx_dev_info_get(struct plx_dev *dev, struct plx_dev_info *out)
{
	memset(out, 0, sizeof(*out));
	return dev->ops->info(dev, out);
}

int plx_dev_sparse_get(struct plx_dev *dev, struct plx_dev_sparse *out)
{
	return dev->ops->sparse != NULL ? dev->ops->sparse(dev, out) : PLX_E_UNSUPPORTED;
}

int plx_dev_experts_get(struct plx_dev *dev, struct plx_dev_experts *out)
{
	return dev->ops->experts != NULL ? dev->ops->experts(dev, out) : PLX_E_UNSUPPORTED;
}

int plx_dev_load_begin(struct plx_dev *dev, const struct plx_model *model,
                       const struct plx_dev_limits *limits, struct plx_diag *d)
{
	int err = plx_limits_check(limits, d);
	struct plx_dev_info info;

	if (err == 0 && model->n_expert > 0 && (err = plx_dev_info_get(dev, &info)) == 0 &&
	    (info.caps & PLX_CAP_EXPERTS) == 0)
		err = plx_diag_set(d, PLX_E_UNSUPPORTED,
		                   "%s: this device does not run experts; give a model without "
		                   "them, or a device of kind cpu",
		                   model->name);
	return err != 0 ? err : dev->ops->load_begin(dev, model, limits, d);
}

int plx_dev_load_poll(struct plx_dev *dev, uint32_t budget_us, struct plx_load_progress *out,
                      struct plx_diag *d)
{
	return dev->ops->load_poll(dev, budget_us, out, d);
}

int plx_queue_open(struct plx_dev *dev, struct plx_queue **out, struct plx_diag *d)
{
	return dev->ops->queue_open(dev, out, d);
}

struct plx_step *plx_queue_step(struct plx_queue *q, uint32_t step_idx)
{
	return q->dev->ops->queue_step(q, step_idx);
}

int plx_queue_submit(struct plx_queue *q, uint32_t step_idx)
{
	if (plx_queue_step(q, step_idx) == NULL)
		return PLX_E_INVAL;
	return q->dev->ops->submit(q, step_idx);
}

int plx_queue_poll(struct plx_queue *q, uint32_t budget_us, uint32_t *done_idx, uint32_t max_done)
{
	return q->dev->ops->poll(q, budget_us, done_idx, max_done);
}

int plx_dev_worker(struct plx_dev *dev, uint32_t worker_idx, uint32_t budget_us)
{
	if (dev->ops->worker == NULL)
		return PLX_E_UNSUPPORTED;
	return dev->ops->worker(dev, worker_idx, budget_us);
}

int plx_queue_copy_blocks(struct plx_queue *dst, struct plx_queue *src,
                          const struct plx_block_copy *pairs, uint32_t n)
{
	if (dst->dev->ops != src->dev->ops || dst->dev->ops->copy_blocks == NULL)
		return PLX_E_UNSUPPORTED;
	return dst->dev->ops->copy_blocks(dst, src, pairs, n);
}

int plx_dev_reset(struct plx_dev *dev)
{
	return dev->ops->reset(dev);
}

void plx_dev_close(struct plx_dev *dev)
{
	if (dev != NULL)
		dev->ops->close(dev);
}
