/*
 * The scheduler over the fake device with a small pool: every id that comes is compared with the
 * one that the prompt alone gives, each request must end once.
 */
#ifndef PLX_TESTS_LIB_SCHEDRIG_H
#define PLX_TESTS_LIB_SCHEDRIG_H

#include "dataplane/batch/preempt.h"
#include "tests/lib/fake_device.h"

#define RIG_BT       16u
#define RIG_CTX      160u
#define RIG_TEXT     700u /* prompt of one that may go beyond the context */
#define RIG_KEYS     24u
#define RIG_SAMPLES  4u
#define RIG_NEW      200u
#define RIG_EOG      7u
#define RIG_VOCAB    1000u
#define RIG_STEPS    4u
#define RIG_BRANCHES 6u

struct rig_shape {
	uint32_t n_slots, n_blocks, step_tokens, step_seqs, steps;
	bool cache, copies;
	uint32_t n_host;
};

/* What the rig knows of a request. */
struct rig_req {
	bool live, beyond;
	int32_t prompt[RIG_TEXT];
	uint32_t n_prompt, n_samples, max_new;
	int32_t want[RIG_SAMPLES][RIG_NEW];
	uint32_t n_want[RIG_SAMPLES]; /* ids until the first eog or max_new */
	uint32_t n_got[RIG_SAMPLES];  /* with those it had */
	uint8_t ended[RIG_SAMPLES];
	bool stopped[RIG_SAMPLES];
	struct plx_sched_have have[RIG_SAMPLES];
	struct plx_sched_final final;
};

struct rig {
	struct plx_arena arena;
	struct plx_sched_conf conf;
	struct plx_sched s;
	struct plx_fake *fake;
	struct plx_queue *q;
	struct rig_req r[RIG_KEYS];
	uint32_t free_step[RIG_STEPS];
	uint32_t n_free;
	uint64_t now;
	uint64_t n_tokens, n_done, n_rejected, n_cancelled, n_copied;
};

void rig_open(struct rig *g, const struct rig_shape *h);
void rig_close(struct rig *g);

/* rig_job - a job for a key, what it should say noted. */
struct plx_sched_job rig_job(struct rig *g, uint32_t key, const int32_t *prompt, uint32_t n_prompt,
                             uint32_t n_samples, uint32_t max_new, uint64_t seed);

/* rig_had - sample had n of its ids before; end: it was over with them. */
void rig_had(struct rig *g, struct plx_sched_job *j, uint32_t key, uint32_t sample, uint32_t n,
             enum plx_seq_end end);

/* rig_beyond - the job may go beyond the context: what it should say then. After rig_job. */
void rig_beyond(struct rig *g, struct plx_sched_job *j, uint32_t key, uint32_t max_new);
int rig_add(struct rig *g, uint32_t key, const struct plx_sched_job *job);

/* rig_turn - fill and submit what is free, then collect. Returns the tokens given. */
uint32_t rig_turn(struct rig *g);

/* rig_run_out - until nothing is left; then no block may be missing. */
void rig_run_out(struct rig *g);
void rig_prompt(int32_t *p, uint32_t n, int32_t first);

#endif
