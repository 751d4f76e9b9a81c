/*
 * Tensors into a GGUF file: read, converted, checked and written by several threads, each row to
 * the place that the table gives it. So the file is the same whatever the number of threads.
 */
#ifndef PLX_TOOLS_GGUF_EMIT_H
#define PLX_TOOLS_GGUF_EMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/quant.h"
#include "tools/gguf/write.h"

struct plx_emit_tensor {
	char name[PLX_GGUF_MAX_NAME_BYTES + 1];
	uint32_t n_dims;
	uint64_t dim[PLX_GGUF_MAX_DIMS]; /* of the file; those beyond n_dims are 1 */
	uint32_t from;                   /* stored type of the source; ggml's number */
	uint32_t to;                     /* of the file; may differ only between those of quant.h */
	/*
	 * The source: n_src stretches of equally many rows, one behind another, each row_bytes of
	 * from. A model's experts lie in tensors of their own and become one.
	 */
	const uint8_t *const *src;
	uint32_t n_src;
	/* llama's q and k: in each of n_pair_heads heads row i + j * half becomes row 2 i + j; 0:
	 * rows stay where they are. */
	uint32_t n_pair_heads;
	/* out: sums of squares, of the values and of what conversion changed */
	double square, error;
};

struct plx_emit_options {
	const char *path;
	const char *verb;         /* of the progress bar: "quantising" */
	enum plx_q_effort effort; /* FIT: but for Q4_0 and Q4_1, whose perplexity it makes worse */
	uint32_t n_threads;       /* 1.. */
	bool force;               /* replace a file that is there */
	bool quiet;               /* no progress bar */
};

/*
 * plx_emit - add the tensors to w, finish it, and write the whole file.
 *
 * @w    metadata, no tensors yet; the caller frees it.
 * @t    in order of the file; square and error are filled in.
 *
 * Errors: FORMAT (a value that is no number or does not fit F16; named by tensor and row), NOMEM,
 *         EXISTS, IO, CANCELLED (a signal). No file is left then.
 */
int plx_emit(struct plx_gw *w, struct plx_emit_tensor *t, uint32_t n,
             const struct plx_emit_options *o, struct plx_diag *d);

/* plx_emit_pair_row - the source row of row r in a matrix of n_rows rows and n_heads heads. */
uint64_t plx_emit_pair_row(uint64_t r, uint64_t n_rows, uint32_t n_heads);

#endif
