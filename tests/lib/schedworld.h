/*
 * The scheduler over the fake device, every id compared with what the prompt alone gives and each
 * request's one end checked, for tests that say turn by turn what they expect. schedrig.h is its
 * sibling for memory under pressure.
 */
#ifndef PLX_TESTS_LIB_SCHEDWORLD_H
#define PLX_TESTS_LIB_SCHEDWORLD_H

#include "dataplane/batch/sched.h"
#include "tests/lib/fake_device.h"

#define WORLD_BT      16u
#define WORLD_CTX     160u
#define WORLD_KEYS    24u
#define WORLD_SAMPLES 4u
#define WORLD_NEW     40u
#define WORLD_EOG     7u
#define WORLD_VOCAB   1000u
#define WORLD_ROOM    100000u
#define WORLD_STEPS   4u

/* What the test knows of a request. */
struct world_req {
	bool live;
	int32_t prompt[WORLD_CTX];
	uint32_t n_prompt, n_samples, max_new;
	uint64_t seed;
	int32_t want[WORLD_SAMPLES][WORLD_NEW];
	uint32_t n_want[WORLD_SAMPLES]; /* ids until the first eog or max_new */
	uint32_t n_got[WORLD_SAMPLES];
	uint8_t ended[WORLD_SAMPLES]; /* end that a token or end record brought */
	bool stopped[WORLD_SAMPLES];
	uint32_t n_finals;
	struct plx_sched_final final;
};

struct world {
	struct plx_arena arena;
	struct plx_sched_conf conf;
	struct plx_sched s;
	struct plx_fake *fake;
	struct plx_queue *q;
	struct world_req e[WORLD_KEYS];
	uint32_t free_step[WORLD_STEPS];
	uint32_t n_free;
	uint64_t now;
	uint64_t step_ns; /* an eighth of a step, and a token of it; 0: steps take no time */
	uint64_t n_tokens, n_done, n_rejected, n_cancelled;
	uint32_t most_live; /* sequences in one step */
};

void world_open(struct world *w, uint32_t n_slots, uint32_t n_blocks, uint32_t step_tokens,
                uint32_t step_seqs, uint32_t steps, bool cache);
void world_close(struct world *w);

/* world_no_eog - no answer ends by itself. */
void world_no_eog(struct world *w);

/* world_prompt - n ids, others for another first. */
void world_prompt(int32_t *p, uint32_t n, int32_t first);

/* world_job - a job for a key, what it should say noted. */
struct plx_sched_job world_job(struct world *w, uint32_t key, const int32_t *prompt,
                               uint32_t n_prompt, uint32_t n_samples, uint32_t max_new,
                               uint64_t seed);
int world_add(struct world *w, uint32_t key, const struct plx_sched_job *job,
              struct plx_sched_admit *out);

/* world_turn - fill and submit what is free, then collect. Returns the tokens given. */
uint32_t world_turn(struct world *w);

/* world_run_out - turns until nothing is left; then nothing may be missing. */
void world_run_out(struct world *w);

#endif
