/* What the files of the experts' store (experts*.c) share; nobody else includes it. */
#ifndef PLX_ACCEL_EXPERTS_INT_H
#define PLX_ACCEL_EXPERTS_INT_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "accel/experts.h"

#define PLX_EXPERTS_NONE    UINT32_MAX
#define PLX_EXPERTS_THREADS (PLX_EXPERTS_READERS + 1) /* one that watches */

struct plx_expert_slot {
	/* Runner: to QUEUED and to EMPTY; a reader: QUEUED to READING to READY or FAILED. */
	_Atomic uint32_t state;
	uint32_t expert; /* layer * n_expert + e, or NONE; readers read it while READING */
	uint32_t turn;   /* runner, as are the rest: the turn that holds it */
	bool asked;      /* it stands in the ring of needs */
	bool ahead;      /* guessed for a layer that has not begun */
	bool early;      /* and read for that guess */
	bool before;     /* its read began before it was needed */
};

/* Slots to be read, in order. One producer (the runner), several consumers. */
struct plx_expert_ring {
	uint32_t *slot;
	uint32_t mask;
	_Alignas(64) _Atomic uint32_t head; /* runner writes */
	_Alignas(64) _Atomic uint32_t tail; /* readers claim */
};

/* Where an expert's matrices lie in its slot. */
struct plx_expert_shape {
	struct plx_fwd_ffn ffn; /* data NULL */
	uint64_t up_off;
	uint64_t down_off;
	uint64_t bytes;
};

enum plx_experts_stage {
	PLX_EXPERTS_MAKING,
	PLX_EXPERTS_TOUCHING,
	PLX_EXPERTS_SERVING,
	PLX_EXPERTS_BROKEN,
};

struct plx_experts {
	const struct plx_model *m;
	const struct plx_arena *pool;
	uint32_t n_expert;
	uint32_t n_total; /* n_layer * n_expert */
	uint32_t n_slot;
	uint64_t slot_bytes;
	struct plx_expert_shape *shape; /* [n_layer] */

	/* runner */
	struct plx_expert_slot *slot; /* [n_slot] */
	uint32_t *slot_of;            /* [n_total] or NONE */
	float *heat;                  /* [n_total], in units of gain */
	float gain;                   /* what a use adds now */
	float growth;                 /* of gain from one turn to the next */
	uint32_t turn;
	_Atomic uint32_t n_turn; /* turns so far, for who watches */
	uint32_t hand;           /* where the next search for a slot begins */
	uint32_t n_early;
	uint32_t last_il; /* the layer of the turn before */
	float luck;       /* of guesses, lately: the share that came true */
	uint32_t n_skip;  /* guesses left out since luck is low */
	struct plx_expert_ring needs, guesses;
	_Atomic uint64_t hits, misses, ahead, ahead_used; /* runner writes */
	_Atomic uint64_t read_bytes;                      /* readers add */
	_Atomic uint32_t n_failed;                        /* likewise */

	/* file */
	char path[PLX_CACHE_PATH_BYTES];
	char tmp[PLX_CACHE_PATH_BYTES + 8];
	struct plx_cache_plan plan;
	struct plx_cache_mat *mat; /* [n_total] */
	struct plx_cache cache;
	int direct_fd; /* past the kernel's cache; -1 where the file system can't */

	/* making it, and threads */
	int tmp_fd; /* -1: nothing to make */
	uint8_t *table;
	_Atomic uint32_t next, n_made, n_touched;
	_Atomic uint32_t stage;   /* enum plx_experts_stage */
	_Atomic uint32_t failing; /* the first thread that fails says why */
	struct plx_diag why;      /* BROKEN */
	int err;
	_Atomic bool stop;
	_Atomic uint32_t n_started;
	sem_t work[2]; /* readers of needs, and of anything */
	uint32_t n_thread;
	pthread_t thread[PLX_EXPERTS_THREADS];
	const uint64_t *cpus;
};

/* ---- experts_file.c ---- */

void plx_expert_shape_make(const struct plx_model *m, uint32_t il, struct plx_expert_shape *s);

/* plx_expert_pack - expert i of the model as it lies in a slot, the rest of the slot zero. */
void plx_expert_pack(const struct plx_experts *x, uint32_t i, uint8_t *slot);

/* plx_expert_file_open - 0, or NOT_FOUND where it is to be made: then tmp_fd and table are set. */
int plx_expert_file_open(struct plx_experts *x, struct plx_diag *d);

/* plx_expert_file_put - expert i, packed at slot, into the file that is being made. */
int plx_expert_file_put(struct plx_experts *x, uint32_t i, const uint8_t *slot, struct plx_diag *d);

/* plx_expert_file_end - all are in it: give it its name and open it. */
int plx_expert_file_end(struct plx_experts *x, struct plx_diag *d);

/* plx_expert_file_close - close what is open, remove what is half made. */
void plx_expert_file_close(struct plx_experts *x);

/* plx_expert_read - expert i into its slot; IO, or FORMAT where the bytes are not those written. */
int plx_expert_read(struct plx_experts *x, uint32_t i, uint8_t *slot, struct plx_diag *d);

/* ---- experts_io.c ---- */

/* plx_experts_threads - start them; the number that could be. */
uint32_t plx_experts_threads(struct plx_experts *x);
void plx_experts_threads_end(struct plx_experts *x);

/* plx_expert_ring_push - false when full. plx_expert_ring_pop - false when empty. */
bool plx_expert_ring_push(struct plx_expert_ring *r, uint32_t slot);
bool plx_expert_ring_pop(struct plx_expert_ring *r, uint32_t *slot);

static inline uint8_t *plx_expert_slot_at(const struct plx_experts *x, uint32_t slot)
{
	return x->pool->base + slot * x->slot_bytes;
}

#endif
