/*
 * The CUDA device's door: finds the plug-in that holds it, so that nothing else is linked with
 * CUDA. The device itself is accel/cuda_*.c; who loads it sees accel.h alone.
 */
#ifndef PLX_ACCEL_CUDA_H
#define PLX_ACCEL_CUDA_H

#include <stdint.h>

#include "accel/accel.h"

#define PLX_CUDA_PLUGIN "plx_cuda.so" /* beside the program */
#define PLX_CUDA_SYMBOL "plx_cuda_plugin"

#define PLX_CUDA_CAPS (PLX_CAP_LAST | PLX_CAP_DRAFT | PLX_CAP_LOGPROBS | PLX_CAP_COPY)

/* What a CUDA device counts, for benchmarks. */
struct plx_cuda_stats {
	uint64_t n_graphs;  /* steps that were one graph launch of the host's */
	uint64_t n_kernels; /* kernels launched one by one */
	uint64_t n_queries; /* times that CUDA was asked, while waiting, whether the GPU is well */
	uint64_t weight_bytes;
	uint64_t n_rung; /* steps that the GPU took by itself: no CUDA call */
};

/* What the plug-in offers. A plug-in whose first fields differ was built from other sources. */
struct plx_cuda_plugin {
	uint32_t abi;        /* PLX_ACCEL_ABI */
	uint32_t dev_bytes;  /* sizes of contract structs that both sides know */
	uint32_t step_bytes; /* sizeof(struct plx_step) + sizeof(struct plx_sampler) */
	uint32_t model_bytes;
	int (*open)(const struct plx_dev_conf *conf, struct plx_dev **out, struct plx_diag *d);
	void (*get_stats)(struct plx_dev *dev, struct plx_cuda_stats *out);
};

/*
 * plx_cuda_open - load the plug-in, once, and open a GPU through it.
 *
 * Errors: UNSUPPORTED (no plug-in, one of another build, no driver, a GPU too old), NOT_FOUND (no
 *         GPU of that index), NOMEM, FAULT; d says what to do.
 */
int plx_cuda_open(const struct plx_dev_conf *conf, struct plx_dev **out, struct plx_diag *d);

/*
 * plx_cuda_plugin_file - the plug-in's path: beside the running program.
 * Returns 0, or NOT_FOUND where the path is too long or /proc is absent.
 */
int plx_cuda_plugin_file(char *path, uint32_t path_bytes);

#endif
