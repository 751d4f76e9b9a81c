/*
 * The scheduler over the CPU device, with the tiny llama3 model unless said: requests are added,
 * run out, and what each said is kept. One at a time.
 */
#ifndef PLX_TESTS_LIB_DEVSCHED_H
#define PLX_TESTS_LIB_DEVSCHED_H

#include "dataplane/batch/preempt.h"
#include "tests/lib/devkit.h"

#define DS_KEYS 4u
#define DS_NEW  60u /* ids of an answer */
#define DS_CTX  256u
#define DS_BT   16u

struct devsched {
	struct devkit kit;
	struct plx_sched sched;
	struct plx_arena arena;
	struct plx_model *whole; /* what a model without layers is of */
	/* Set before open: */
	const char *path;        /* of the model; NULL: the tiny one */
	uint32_t n_threads;      /* 0: 1 */
	bool no_cache;           /* prefixes are not found again */
	uint32_t n_host;         /* blocks of the cache's second level */
	uint32_t early_layers;   /* of the device */
	const char *skip_layers; /* of its model; NULL: none */
	/* By key: */
	struct plx_sched_final final[DS_KEYS];
	bool ended[DS_KEYS];
	int32_t said[DS_KEYS][DS_NEW];
	float logprob[DS_KEYS][DS_NEW];
	uint32_t n_said[DS_KEYS];
};

extern struct devsched ds;

/* devsched_open, devsched_close - device and scheduler; closing, no block may be missing. */
void devsched_open(uint32_t step_tokens, uint32_t n_blocks);
void devsched_close(void);

/* devsched_job - ids to be answered, greedily, with DS_NEW ids. */
struct plx_sched_job devsched_job(const int32_t *ids, uint32_t n);
void devsched_add(uint32_t key, const struct plx_sched_job *j);

/* devsched_turn - a step back, after as many were given as can be; false: nothing is under way. */
bool devsched_turn(void);

/* devsched_run - until all is done; with preempts a few sequences leave and come back. */
void devsched_run(bool preempts);

#endif
