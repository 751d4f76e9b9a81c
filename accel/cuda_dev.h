/* The CUDA device's state, for the plug-in's C files; cuda_int.h has what the GPU shares. */
#ifndef PLX_ACCEL_CUDA_DEV_H
#define PLX_ACCEL_CUDA_DEV_H

#include <cuda_runtime_api.h>

#include "accel/cuda.h"
#include "accel/cuda_int.h"
#include "accel/model/model.h"
#include "accel/step.h"

/* A layer in device memory. */
struct plx_cu_layer {
	struct plx_kc_mat wq, wk, wv, wo, gate, up, down;
	const float *attn_norm, *ffn_norm;
	const float *bq, *bk, *bv;    /* or NULL */
	const float *q_norm, *k_norm; /* or NULL */
};

/* How large the kernels of a pass are launched. */
struct plx_cu_size {
	uint32_t max_tok;
	uint32_t max_row;
	uint32_t n_split; /* 0: attention one split after another */
};

enum plx_cu_kind {
	PLX_CU_STEP = 1,
	PLX_CU_COPY = 2,
};

struct plx_cu_entry {
	enum plx_cu_kind kind;
	uint32_t step_idx; /* STEP */
	struct plx_cu_size size;
	uint32_t first_pair; /* COPY */
	uint32_t n_pair;
	uint64_t pair_end; /* pairs ever queued, with these */
	uint32_t n_launch; /* kernels it puts on the stream; 0: a graph */
	uint32_t shape;    /* STEP: its graph, or PLX_CU_NO_GRAPH */
};

struct plx_cu;

struct plx_cu_queue {
	struct plx_queue base; /* first */
	struct plx_cu *cu;
	uint8_t *records; /* mapped host memory */
	bool *busy_step;  /* [steps_in_flight] submitted and not yet returned */
	struct plx_step_checker check;
	struct plx_cu_entry entry[PLX_CU_ENTRIES];
	uint64_t n_submitted; /* entries accepted */
	uint64_t n_launched;  /* entries put on the stream */
	uint64_t n_collected; /* entries returned */
	uint64_t n_pair;      /* pairs ever queued */
	uint64_t n_pair_done;
	uint64_t lost_from; /* entries that a reset took */
	uint64_t lost_to;
	uint32_t n_outstanding; /* kernels launched one by one and not yet known to be done */
	uint64_t looked_ns;     /* when CUDA was last asked how it is */
	uint64_t moved_ns;      /* when an entry last completed, or the first one was accepted */
	bool chained;           /* a chain of graphs runs, or has parked unseen */
};

struct plx_cu_load; /* cuda_load.c */

#define PLX_CU_LENT 64u /* mem_alloc calls of a device, at most */

struct plx_cu {
	struct plx_dev base; /* first */
	struct plx_dev_conf conf;
	const struct plx_model *m;
	struct plx_dev_limits lim;
	char name[PLX_DEV_NAME_BYTES];
	uint32_t sm; /* 90: compute capability 9.0 */
	uint64_t total_bytes;
	cudaStream_t stream;
	void *lent[PLX_CU_LENT]; /* mem_alloc's, until close */
	uint32_t n_lent;
	cudaError_t dead; /* CUDA's error, once there is one: final for this process */
	bool loaded;
	struct plx_cu_load *load;

	/* device memory */
	uint8_t *weights, *kv, *work;
	uint64_t weight_bytes, kv_bytes, work_bytes;
	/* host memory that the GPU sees */
	uint8_t *records, *host_blocks;
	struct plx_cu_bell *bell;

	struct plx_cu_layer *layer;
	struct plx_kc_mat embd, head;
	const float *output_norm;
	uint64_t block_bytes;
	struct plx_cu_mem mem;
	const float *rope;
	float *x, *qkv, *att, *gate, *up, *logits, *part;
	uint64_t part_floats;
	uint32_t *arrived;        /* [n_head] splits of a unit that are there; zero between steps */
	struct plx_kc_scan *scan; /* [PLX_CU_HEAD_ROWS] */
	uint32_t logit_stride;
	struct plx_kc_act act_norm, act_att, act_mid, act_last;

	cudaGraphExec_t graph[PLX_CU_GRAPH_SIZE][PLX_CU_SPLITS]; /* NULL: launched one by one */
	cudaGraphExec_t *graph_table; /* device memory: the same, for chains */
	bool chains;                  /* graphs launch one another */
	struct plx_cu_queue *queue;   /* NULL until opened */
	struct plx_cu_queue *spare;   /* its memory */
	uint64_t generation;
	struct plx_cuda_stats stats;
};

/* ---- cuda_dev.c ---- */

/* plx_cu_error - CUDA's error as ours; d says what was being done. Final ones mark the device. */
int plx_cu_error(struct plx_cu *c, cudaError_t e, const char *doing, struct plx_diag *d);

/* plx_cu_bind - let the calling thread's CUDA calls go to this device. Cost: none after the first.
 */
void plx_cu_bind(const struct plx_cu *c);

extern const struct plx_dev_ops plx_cu_ops;

/* ---- cuda_load.c ---- */
int plx_cu_load_begin(struct plx_dev *dev, const struct plx_model *model,
                      const struct plx_dev_limits *limits, struct plx_diag *d);
int plx_cu_load_poll(struct plx_dev *dev, uint32_t budget_us, struct plx_load_progress *out,
                     struct plx_diag *d);
/* plx_cu_unload - free what loading took, finished or not. */
void plx_cu_unload(struct plx_cu *c);

/* ---- cuda_tables.c ---- */

/* plx_cu_work_bytes - device memory beside weights and KV. */
uint64_t plx_cu_work_bytes(const struct plx_model *m, const struct plx_dev_limits *lim);

/* plx_cu_tables_make - lay c->work out, by c->m and c->lim. */
void plx_cu_tables_make(struct plx_cu *c);

/* plx_cu_queue_make - the queue's host memory. Errors: NOMEM. */
int plx_cu_queue_make(struct plx_cu *c, struct plx_diag *d);

/* ---- cuda_pass.c ---- */

/* plx_cu_pass_launch - put a step's kernels on the stream. Returns how many there were. */
uint32_t plx_cu_pass_launch(struct plx_cu *c, struct plx_cu_size size);

/* plx_cu_pass_size - the size that a step of n_tok tokens up to position last_pos has. */
struct plx_cu_size plx_cu_pass_size(const struct plx_cu *c, uint32_t n_tok, uint32_t n_row,
                                    uint32_t last_pos);

/* plx_cu_graph_at - which graph a size has, an index into all of them; NO_GRAPH: none. */
uint32_t plx_cu_graph_at(const struct plx_cu *c, struct plx_cu_size size);

/* plx_cu_graph_make - capture graph i of all of them; returns 1 after the last one. */
int plx_cu_graph_make(struct plx_cu *c, uint32_t i, struct plx_diag *d);

/* ---- cuda_queue.c ---- */
int plx_cu_queue_open(struct plx_dev *dev, struct plx_queue **out, struct plx_diag *d);
struct plx_step *plx_cu_queue_step(struct plx_queue *q, uint32_t step_idx);
int plx_cu_submit(struct plx_queue *q, uint32_t step_idx);
int plx_cu_poll(struct plx_queue *q, uint32_t budget_us, uint32_t *done_idx, uint32_t max_done);
int plx_cu_copy_blocks(struct plx_queue *dst, struct plx_queue *src,
                       const struct plx_block_copy *pairs, uint32_t n);
int plx_cu_reset(struct plx_dev *dev);

#endif
