/*
 * Ops on host arrays, for tests and for measuring. They return 0 or CUDA's error.
 */
#ifndef PLX_KERNELS_CUDA_LAB_H
#define PLX_KERNELS_CUDA_LAB_H

#include "kernels/cuda/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* plx_kc_lab_matmul - y[t][r] = w x, of a matrix as a file stores it; n_tok up to 4096. */
int plx_kc_lab_matmul(uint32_t type, const void *raw, uint64_t row_bytes, uint32_t n_out,
                      uint32_t n_in, const float *x, uint32_t n_tok, float *y);

/* plx_kc_lab_embed - y[t] = row id[t]. */
int plx_kc_lab_embed(uint32_t type, const void *raw, uint64_t row_bytes, uint32_t n_out,
                     uint32_t n_in, const int32_t *id, uint32_t n_tok, float *y);

/* plx_kc_lab_sample - out[n_row]; @top out [n_row][20]; top_at of how is set here. */
int plx_kc_lab_sample(const float *logits, uint32_t n_row, uint32_t n_vocab,
                      struct plx_kc_sampling *how, struct plx_kc_choice *out,
                      struct plx_kc_top *top);

/* plx_kc_lab_read - the best rate at which a kernel reads so many bytes. */
int plx_kc_lab_read(uint64_t bytes, uint32_t n_run, float *gb_s);

#ifdef __cplusplus
}
#endif

#endif
