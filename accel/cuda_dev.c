/* The CUDA device: opening a GPU, what it says about itself, memory, closing; the plug-in's door.
 */
#include "accel/cuda_dev.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "fw/base/err.h"

/* Changes with every change of a bit. */
#define NUMERIC_KIND "cuda sm%u mma bf16x2 kv-f16 3"

int plx_cu_error(struct plx_cu *c, cudaError_t e, const char *doing, struct plx_diag *d)
{
	if (e == cudaErrorMemoryAllocation)
		return plx_diag_set(d, PLX_E_NOMEM, "device %s: %s: out of memory", c->conf.name,
		                    doing);
	if (c->dead == cudaSuccess)
		c->dead = e;
	return plx_diag_set(d, PLX_E_FAULT, "device %s: %s: CUDA error %d, %s; restart the program",
	                    c->conf.name, doing, (int)e, cudaGetErrorString(e));
}

void plx_cu_bind(const struct plx_cu *c)
{
	static _Thread_local uint32_t bound = UINT32_MAX;

	if (bound == c->conf.index)
		return;
	(void)cudaSetDevice((int)c->conf.index);
	bound = c->conf.index;
}

/* ---- opening -------------------------------------------------------------------------------- */

static int no_gpu(const struct plx_dev_conf *conf, cudaError_t e, struct plx_diag *d)
{
	if (e == cudaErrorNoDevice)
		return plx_diag_set(d, PLX_E_NOT_FOUND,
		                    "device %.31s: this machine has no NVIDIA GPU; give kind: cpu",
		                    conf->name);
	if (e == cudaErrorInsufficientDriver)
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "device %.31s: no NVIDIA driver, or one older than CUDA %d.%d; "
		                    "install one, or give kind: cpu",
		                    conf->name, CUDART_VERSION / 1000, CUDART_VERSION % 100 / 10);
	return plx_diag_set(d, PLX_E_FAULT, "device %.31s: CUDA does not start: error %d, %s",
	                    conf->name, (int)e, cudaGetErrorString(e));
}

static int gpu_check(struct plx_cu *c, struct plx_diag *d)
{
	struct cudaDeviceProp prop;
	cudaError_t e = cudaGetDeviceProperties(&prop, (int)c->conf.index);

	if (e != cudaSuccess)
		return plx_cu_error(c, e, "asking the GPU what it is", d);
	snprintf(c->name, sizeof(c->name), "%.31s", prop.name);
	c->sm = (uint32_t)(prop.major * 10 + prop.minor);
	c->total_bytes = prop.totalGlobalMem;
	if (prop.major < 9)
		return plx_diag_set(
		    d, PLX_E_UNSUPPORTED,
		    "device %s: %s has compute capability %d.%d; this build runs on "
		    "9.0 (Hopper) and later",
		    c->conf.name, c->name, prop.major, prop.minor);
	if (!prop.canMapHostMemory)
		return plx_diag_set(d, PLX_E_UNSUPPORTED, "device %s: %s can't map host memory",
		                    c->conf.name, c->name);
	return PLX_E_OK;
}

static int gpu_open(struct plx_cu *c, struct plx_diag *d)
{
	int n = 0;
	cudaError_t e = cudaGetDeviceCount(&n);

	if (e != cudaSuccess)
		return no_gpu(&c->conf, e, d);
	if (c->conf.index >= (uint32_t)n)
		return plx_diag_set(d, PLX_E_NOT_FOUND,
		                    "device %s: there is no GPU %u; this machine has %d, from 0 on",
		                    c->conf.name, c->conf.index, n);
	int err = gpu_check(c, d);

	if (err != 0)
		return err;
	plx_cu_bind(c);
	e = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
	return e == cudaSuccess ? PLX_E_OK : plx_cu_error(c, e, "opening a stream", d);
}

static int cu_open(const struct plx_dev_conf *conf, struct plx_dev **out, struct plx_diag *d)
{
	struct plx_cu *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "device %.31s: out of memory", conf->name);
	/* All kernels are loaded at start, none when it is first launched. */
	(void)setenv("CUDA_MODULE_LOADING", "EAGER", 0);
	c->base.ops = &plx_cu_ops;
	const char *bell = getenv("PLX_CUDA_BELL");

	c->chains = bell == NULL || strcmp(bell, "0") != 0;
	c->conf = *conf;
	c->conf.name[sizeof(c->conf.name) - 1] = '\0';
	int err = gpu_open(c, d);

	if (err != 0)
		free(c);
	else
		*out = &c->base;
	return err;
}

/* ---- info, memory, closing ------------------------------------------------------------------- */

/* Blocks of two devices can be copied as they are where these are equal. */
static uint64_t layout_hash(const struct plx_cu *c)
{
	char text[160];
	int n = snprintf(text, sizeof(text), "f16 [layer %u][k, v][head %u][token %u][dim %u]",
	                 c->m->n_layer, c->m->n_head_kv, c->lim.block_tokens, c->m->head_dim);

	return XXH3_64bits(text, (size_t)n);
}

static int cu_info(struct plx_dev *dev, struct plx_dev_info *out)
{
	const struct plx_cu *c = (const struct plx_cu *)(const void *)dev;

	snprintf(out->name, sizeof(out->name), "%s", c->name);
	snprintf(out->numeric_kind, sizeof(out->numeric_kind), NUMERIC_KIND, c->sm);
	out->caps = PLX_CUDA_CAPS;
	out->mem_total_bytes = c->total_bytes;
	out->mem_used_bytes = c->weight_bytes + c->kv_bytes + c->work_bytes;
	if (!c->loaded)
		return PLX_E_OK;
	out->kv_layout_hash = layout_hash(c);
	out->block_bytes = (uint32_t)c->block_bytes;
	out->n_vocab = c->m->n_vocab;
	return PLX_E_OK;
}

static int cu_mem_alloc(struct plx_dev *dev, size_t bytes, void **out)
{
	struct plx_cu *c = (struct plx_cu *)(void *)dev;

	plx_cu_bind(c);
	if (c->n_lent == PLX_CU_LENT)
		return PLX_E_LIMIT;
	if (cudaMalloc(out, bytes) != cudaSuccess) {
		(void)cudaGetLastError();
		return PLX_E_NOMEM;
	}
	c->lent[c->n_lent++] = *out;
	return PLX_E_OK;
}

static int cu_mem_register(struct plx_dev *dev, void *host, size_t bytes)
{
	plx_cu_bind((const struct plx_cu *)(const void *)dev);
	if (cudaHostRegister(host, bytes, cudaHostRegisterMapped | cudaHostRegisterPortable) ==
	    cudaSuccess)
		return PLX_E_OK;
	(void)cudaGetLastError();
	return PLX_E_NOMEM;
}

static int cu_mem_export(struct plx_dev *dev, void *mem, size_t bytes, int *dmabuf_fd)
{
	(void)dev;
	(void)mem;
	(void)bytes;
	(void)dmabuf_fd;
	return PLX_E_UNSUPPORTED;
}

static void cu_close(struct plx_dev *dev)
{
	struct plx_cu *c = (struct plx_cu *)(void *)dev;

	plx_cu_bind(c);
	if (c->bell != NULL)
		__atomic_store_n(&c->bell->abort, 1, __ATOMIC_SEQ_CST);
	(void)cudaStreamSynchronize(c->stream);
	plx_cu_unload(c);
	for (uint32_t i = 0; i < c->n_lent; i++)
		(void)cudaFree(c->lent[i]);
	(void)cudaStreamDestroy(c->stream);
	free(c);
}

const struct plx_dev_ops plx_cu_ops = {
    .info = cu_info,
    .load_begin = plx_cu_load_begin,
    .load_poll = plx_cu_load_poll,
    .mem_alloc = cu_mem_alloc,
    .mem_register = cu_mem_register,
    .mem_export = cu_mem_export,
    .queue_open = plx_cu_queue_open,
    .queue_step = plx_cu_queue_step,
    .submit = plx_cu_submit,
    .poll = plx_cu_poll,
    .copy_blocks = plx_cu_copy_blocks,
    .reset = plx_cu_reset,
    .close = cu_close,
};

static void cu_get_stats(struct plx_dev *dev, struct plx_cuda_stats *out)
{
	const struct plx_cu *c = (const struct plx_cu *)(const void *)dev;

	*out = c->stats;
	out->weight_bytes = c->weight_bytes;
}

/* What the program looks for. */
extern const struct plx_cuda_plugin plx_cuda_plugin;
const struct plx_cuda_plugin plx_cuda_plugin = {
    .abi = PLX_ACCEL_ABI,
    .dev_bytes = sizeof(struct plx_dev_limits),
    .step_bytes = sizeof(struct plx_step) + sizeof(struct plx_sampler),
    .model_bytes = sizeof(struct plx_model),
    .open = cu_open,
    .get_stats = cu_get_stats,
};
