/*
 * A device in a test: loads a model on it, and runs sequences through it the way the batcher does,
 * with chunks, batches, steps in flight and lent threads as the test wants them.
 */
#ifndef PLX_TESTS_LIB_DEVKIT_H
#define PLX_TESTS_LIB_DEVKIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <pthread.h>

#include "accel/accel.h"
#include "accel/model/model.h"
#include "fw/base/hist.h"

#define DEVKIT_MAX_THREADS 8

struct devkit {
	struct plx_model *model;
	struct plx_dev *dev;
	struct plx_queue *q;
	struct plx_dev_limits lim;
	uint32_t budget_us; /* of each poll; 200 */
	uint64_t step_id;
	struct plx_hist polls; /* how long each poll of devkit_wait took */
	uint32_t n_worker;
	_Atomic uint32_t next_worker;
	pthread_t worker[DEVKIT_MAX_THREADS];
	_Atomic(struct plx_dev *) twin; /* the workers serve this one too */
	_Atomic bool stop;
	/* What devkit_lend runs; one round a call. */
	void (*task)(void *arg, uint32_t lane);
	void *task_arg;
	_Atomic uint32_t round, n_ready;
};

/* One sequence of a test: a prompt, and what came out. Zero-initialise. */
struct devseq {
	const int32_t *prompt;
	uint32_t n_prompt;
	uint32_t n_new; /* ids wanted, at most 512 */
	uint32_t chunk; /* prompt tokens a step; 0: all at once */
	uint32_t start; /* it joins in this step */
	struct plx_sampler sampler;
	uint32_t slot;  /* set by devkit_run */
	uint32_t n_run; /* tokens of the prompt that ran */
	uint32_t n_out;
	uint64_t first_ns; /* when the first id was there */
	int32_t out[512];
	float logprob[512];
	uint64_t hash; /* of the bits of every row of logits */
	int32_t status;
	uint32_t flags; /* enum plx_seq_flag */
	/* With own: how sparse attention chooses (PLX_DELTA_SPARSE); what it read. */
	bool own;
	uint32_t mass, chunks, n_pool;
	struct plx_step_share share;
};

/* devkit_limits - small limits that suit most tests: 8 slots, contexts of 2,048. */
struct plx_dev_limits devkit_limits(void);

/* devkit_open - open, load and start lim.n_threads - 1 worker threads; fails the test on error. */
void devkit_open(struct devkit *k, const char *model_path, const char *isa,
                 const struct plx_dev_limits *lim);
/* devkit_open_model - the same with an open model, which devkit_close closes. */
void devkit_open_model(struct devkit *k, struct plx_model *m, const char *isa,
                       const struct plx_dev_limits *lim);
/* devkit_open_cached - the same, with files of repacked weights named cache_base and a suffix. */
void devkit_open_cached(struct devkit *k, struct plx_model *m, const char *isa,
                        const struct plx_dev_limits *lim, const char *cache_base);
/* devkit_open_twin - the same beside of, whose workers serve both, so that their steps can take
 * turns; lim has as many threads as of's, and the twin is closed after it. */
void devkit_open_twin(struct devkit *k, struct plx_model *m, const char *isa,
                      const struct plx_dev_limits *lim, struct devkit *of);
void devkit_close(struct devkit *k);

/* devkit_has_isa - whether this machine can run it. */
bool devkit_has_isa(const char *isa);

/* devkit_step - record idx, emptied for filling. */
struct plx_step *devkit_step(struct devkit *k, uint32_t idx);

/* Deltas and tokens of a step that is being filled. devkit_blocks sets entries from..to-1 of the
 * slot's table to blocks first, first + 1, ... */
void devkit_set(struct plx_step *s, uint32_t slot, const struct plx_sampler *p);
void devkit_clear(struct plx_step *s, uint32_t slot);
void devkit_sparse(struct plx_step *s, uint32_t slot, uint32_t mass, uint32_t chunks,
                   uint32_t n_pool);
void devkit_blocks(struct plx_step *s, uint32_t slot, uint32_t from, uint32_t to, uint32_t first);
/* devkit_seq - tokens ids[0..n) from position pos; the last one is sampled where want says so. */
struct plx_step_seq *devkit_seq(struct plx_step *s, uint32_t slot, const int32_t *ids, uint32_t pos,
                                uint32_t n, bool want);

/* devkit_wait - poll until a step completes; returns its index. */
uint32_t devkit_wait(struct devkit *k);

/*
 * devkit_lend - run task(arg, lane) once on every lane at the same time, the caller as lane 0, and
 * wait for all of them. The device must be idle; meanwhile nothing polls it.
 */
void devkit_lend(struct devkit *k, void (*task)(void *arg, uint32_t lane), void *arg);

/* devkit_greedy - a sampler that takes the best. */
struct plx_sampler devkit_greedy(void);

/* devkit_run - run sequences together until all have what they want; one step at a time. */
void devkit_run(struct devkit *k, struct devseq *seq, uint32_t n);

/* devkit_logits - row i of the logits of the last step (CPU devices; at most 8 rows a step). */
const float *devkit_logits(const struct devkit *k, uint32_t i);

#endif
