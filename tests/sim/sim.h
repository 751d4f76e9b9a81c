/*
 * The event loop: requests arrive, an engine (a scheduler under test) fills step records, the
 * simulated device runs them one after the other, results go back. Time is a number.
 *
 * Everybody pays the same for being a host: an engine sees a completed step HOST_NS after it ended
 * on the device. An engine with two steps in flight hides it, an engine with one does not.
 */
#ifndef PLX_TESTS_SIM_SIM_H
#define PLX_TESTS_SIM_SIM_H

#include "accel/step.h"
#include "tests/sim/device.h"
#include "tests/sim/score.h"

#define SIM_HOST_NS      20000u
#define SIM_TICK_NS      1000000u
#define SIM_BLOCK_TOKENS 32u
#define SIM_SLOTS        256u
#define SIM_CONTEXT      (SIM_MAX_PROMPT + SIM_MAX_NEW)

struct sim;

/* A scheduler under test. Its functions are called in order of time. */
struct sim_engine {
	const char *name;
	uint32_t steps_in_flight;
	uint32_t max_step_tokens;
	void *ctx;
	void (*arrive)(void *ctx, uint32_t req, uint64_t now_ns);
	/* Fill a free record; 0: nothing to run now. */
	uint32_t (*fill)(void *ctx, struct plx_step *st, uint64_t now_ns);
	void (*done)(void *ctx, struct plx_step *st, uint64_t now_ns);
	/* Every SIM_TICK_NS while something waits or runs. */
	void (*tick)(void *ctx, uint64_t now_ns);
	bool (*idle)(void *ctx);
	void (*close)(void *ctx); /* checks that nothing leaked, frees */
};

/* Sees each step as it is handed to the device, its times already known. */
typedef void (*sim_watch_fn)(void *ctx, struct plx_step *st, uint64_t now_ns);

struct sim {
	const struct sim_trace *trace;
	struct sim_score *score;
	struct sim_dev dev;
	uint64_t seed;
	uint32_t n_blocks; /* of the device's pool */
	uint64_t n_steps;
	uint64_t step_err[5]; /* ours: as plx_sched_stats.step_err */
	sim_watch_fn watch;
	void *watch_ctx;
};

/* sim_open - a device and a score for a trace. Owner: sim_close. */
void sim_open(struct sim *s, const struct sim_trace *t, uint64_t seed);
void sim_close(struct sim *s);

/* sim_run - the whole trace through an engine, to the last answer; closes the engine. */
void sim_run(struct sim *s, struct sim_engine *e);

struct plx_sched_job; /* dataplane/batch/sched.h */

/* How ours is configured where a test or a sweep differs from the default (0). */
struct sim_ours_conf {
	uint32_t step_tokens;
	uint32_t n_keys;
	uint32_t n_blocks;
	uint32_t window;   /* ids a client takes before it must say that it read some */
	uint32_t deaf_mod; /* with a window: every so manieth request's client never reads */
	uint64_t pause_ns;
	bool again; /* who was refused comes again, once, when it was told to */
	void (*edit)(uint32_t req, struct plx_sched_job *job); /* before it is added */
};

/*
 * The engines. Each draws on the same pool of KV blocks and has a prefix cache.
 *
 * sim_static   static batching: up to n_batch requests start together, and the next ones when all
 *              of them have ended
 * sim_orca     continuous batching, first come first served: prompts run whole, before decodes, up
 *              to n_tokens a step
 * sim_sarathi  chunked prefill: decodes first, then prompts in order, n_tokens a step
 * sim_ours     plx_sched
 */
struct sim_engine sim_static(struct sim *s, uint32_t n_batch);
struct sim_engine sim_orca(struct sim *s, uint32_t n_tokens);
struct sim_engine sim_sarathi(struct sim *s, uint32_t n_tokens);
struct sim_engine sim_ours(struct sim *s, const struct sim_ours_conf *conf);

#endif
