/*
 * The fleet over fake devices of different speed, on a clock of the test's: every id that comes is
 * compared with the one that the prompt alone gives, each request must end once.
 */
#ifndef PLX_TESTS_LIB_FLEETRIG_H
#define PLX_TESTS_LIB_FLEETRIG_H

#include "dataplane/batch/fleet.h"
#include "tests/lib/fake_device.h"

#define FLEET_BT      16u
#define FLEET_CTX     160u
#define FLEET_KEYS    32u
#define FLEET_SAMPLES 3u
#define FLEET_NEW     60u
#define FLEET_EOG     7u
#define FLEET_VOCAB   1000u
#define FLEET_STEPS   2u

struct fleet_dev_shape {
	uint8_t role;
	uint32_t kind;
	uint64_t layout;
	uint32_t n_slots, n_blocks, step_tokens;
	uint64_t base_ns, tok_ns; /* a step's time */
	uint32_t n_host;
};

struct fleet_shape {
	uint32_t n_dev;
	bool no_cache;
	struct fleet_dev_shape dev[PLX_FLEET_DEVS];
};

struct fleet_req {
	bool live, beyond;
	int32_t prompt[FLEET_CTX];
	uint32_t n_prompt, n_samples, max_new;
	int32_t want[FLEET_SAMPLES][FLEET_NEW];
	uint32_t n_want[FLEET_SAMPLES], n_got[FLEET_SAMPLES];
	uint8_t ended[FLEET_SAMPLES];
	bool stopped[FLEET_SAMPLES];
	uint64_t first_ns, final_ns;
	struct plx_sched_final final;
};

struct fleet_rig_dev {
	struct plx_fake *fake;
	struct plx_queue *q;
	uint32_t free_step[FLEET_STEPS], n_free;
	bool poison; /* a copy was refused: the next step must not run */
	uint32_t poison_from;
	uint64_t n_tokens, n_copied;
};

struct fleet_rig {
	struct plx_arena arena;
	struct plx_fleet f;
	struct fleet_rig_dev dev[PLX_FLEET_DEVS];
	struct fleet_req r[FLEET_KEYS];
	uint64_t now;
	uint64_t n_tokens, n_done, n_rejected, n_cancelled, n_lost;
};

void fleet_open(struct fleet_rig *g, const struct fleet_shape *h);
void fleet_close(struct fleet_rig *g);

/* fleet_job - a job for a key, what it should say noted. */
struct plx_sched_job fleet_job(struct fleet_rig *g, uint32_t key, const int32_t *prompt,
                               uint32_t n_prompt, uint32_t n_samples, uint32_t max_new,
                               uint64_t seed);
/* fleet_beyond - the job may outgrow its context: what it should say then. After fleet_job. */
void fleet_beyond(struct fleet_rig *g, struct plx_sched_job *j, uint32_t key, uint32_t max_new);
int fleet_add(struct fleet_rig *g, uint32_t key, const struct plx_sched_job *job);

/* fleet_turn - fill, submit and collect on every device, resets too; then time moves on. */
void fleet_turn(struct fleet_rig *g, uint64_t ns);

/* fleet_run_quiet - until every request ended, whatever devices still have. */
void fleet_run_quiet(struct fleet_rig *g);

/* fleet_run_out - until nothing is left; then nothing may be missing anywhere. */
void fleet_run_out(struct fleet_rig *g);
void fleet_prompt(int32_t *p, uint32_t n, int32_t first);

#endif
