/*
 * The CUDA device's inside, shared by the cuda_*.c and cuda_*.cu files of the plug-in.
 *
 * One stream a device, one queue on it. A step is a fixed sequence of kernels (cuda_pass.c): the
 * first takes the record, named by its place in the bell's ring, out of mapped host memory and
 * applies its deltas; the last writes results into the record and then the count of completed
 * entries, which poll looks at. Steps of up to 32 tokens are graphs, captured at load; larger ones
 * are launched kernel by kernel. What a step samples, and its slots, never leave the GPU in
 * between, so that the next step can be behind it.
 *
 * Graphs make a chain: the host launches the first one; the last kernel of each waits for the bell
 * (n_rung) and launches the graph of the next step itself, so that steps cost no CUDA call. A chain
 * parks when nothing was rung for PLX_CU_IDLE_NS, on abort, and where a step is no graph: what was
 * rung and not completed by then is the host's to launch.
 */
#ifndef PLX_ACCEL_CUDA_INT_H
#define PLX_ACCEL_CUDA_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "accel/accel.h"
#include "kernels/cuda/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PLX_CU_ENTRIES    256u /* steps and copies on their way, a power of two */
#define PLX_CU_PAIRS      4096u
#define PLX_CU_MAX_SEQS   1024u /* of a step: threads of a block */
#define PLX_CU_RING       128u  /* recent ids of a slot */
#define PLX_CU_HEAD_ROWS  64u   /* rows whose logits are held at once */
#define PLX_CU_GRAPH_TOK  32u   /* most tokens of a graph */
#define PLX_CU_GRAPH_SIZE 6u    /* 1, 2, 4 .. 32 tokens */
#define PLX_CU_SPLITS     8u    /* sizes of attention: 1, 4, 16 .. splits */
#define PLX_CU_NO_STEP    UINT32_MAX
#define PLX_CU_NO_GRAPH   UINT32_MAX
#define PLX_CU_IDLE_NS    20000000u /* a chain of graphs waits so long for the next step */

/* What host and GPU tell each other; in mapped host memory. */
struct plx_cu_done {
	int32_t status;
	uint32_t serial;   /* of the entry, modulo 2^32 */
	uint64_t begin_ns; /* the GPU's clock */
	uint64_t end_ns;
};

struct plx_cu_bell {
	uint32_t abort;                /* host: complete what comes as LOST */
	uint32_t chain;                /* host: which chain of graphs runs */
	uint32_t ring[PLX_CU_ENTRIES]; /* host: entry -> record */
	uint32_t
	    shape[PLX_CU_ENTRIES]; /* host: entry -> graph, or NO_GRAPH: the chain ends there */
	uint64_t n_rung;           /* host: entries that a chain may take */
	uint32_t parked;           /* GPU: the last chain that ended */
	uint32_t park_error;       /* GPU: CUDA's error that ended it, or 0 */
	uint64_t n_completed;      /* GPU: entries, in order */
	struct plx_cu_done done[PLX_CU_ENTRIES];
	struct plx_kc_pair pair[PLX_CU_PAIRS];
};

/* A slot, in device memory; accel/sampler.h has the meaning of the fields. */
struct plx_cu_slot {
	struct plx_sampler conf;
	int32_t recent[PLX_CU_RING];
	uint32_t first_pos;
	uint32_t placed;
	uint32_t failed;
	int32_t last_id;
};

/* The step that runs; in device memory. */
struct plx_cu_state {
	uint64_t serial; /* entries begun before */
	uint64_t begin_ns;
	uint8_t *record; /* where the host has it */
	int32_t status;
	uint32_t n_seq;
};

/* Everything the first and the last kernel of a step need; addresses are the GPU's. */
struct plx_cu_mem {
	uint8_t *records; /* mapped */
	struct plx_cu_bell *bell;
	uint8_t *staged; /* [record_bytes] what was taken of the record */
	struct plx_cu_state *state;
	struct plx_kc_count *count;
	int32_t *id;                  /* [max_step_tokens] */
	uint32_t *pos;                /* [max_step_tokens] */
	uint32_t *slot_of;            /* [max_step_tokens] */
	uint32_t *row;                /* [max_step_tokens] tokens that want logits */
	uint32_t *seq_row;            /* [max_step_seqs] a sequence's first row */
	struct plx_kc_sampling *how;  /* [max_step_tokens] by row */
	struct plx_kc_choice *choice; /* [max_step_tokens] by row */
	struct plx_cu_slot *slot;
	uint32_t *table; /* [n_slots][max_seq_blocks] */
	uint32_t max_seq_blocks;
	uint32_t record_bytes;
	uint32_t top_off;
	struct CUgraphExec_st **graph; /* device memory, by shape; NULL: no chain */
};

/* ---- cuda_step.cu ---- */

/* plx_cu_step_begin - take the next record: deltas, tokens, rows. */
void plx_cu_step_begin(const struct plx_cu_mem *m, struct CUstream_st *st);

/* plx_cu_step_finish - accept drafts, write results, complete the entry. */
void plx_cu_step_finish(const struct plx_cu_mem *m, struct CUstream_st *st);

/* plx_cu_copy_finish - complete an entry that is no step. */
void plx_cu_copy_finish(const struct plx_cu_mem *m, struct CUstream_st *st);

#ifdef __cplusplus
}
#endif

#endif
