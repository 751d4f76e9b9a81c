/* Arrivals, completions and ticks in order of time. */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

#include "fw/base/check.h"

#define NEVER     UINT64_MAX
#define MAX_STEPS 4u

/* One run: which records are free, and which the device has, oldest first. */
struct run {
	struct sim *s;
	struct sim_engine *e;
	struct plx_step *free[MAX_STEPS];
	struct plx_step *out[MAX_STEPS];
	uint32_t n_free, n_out;
	uint64_t device_free_ns; /* end of the last step handed over */
	uint64_t tick_ns;
	uint32_t next; /* request to arrive */
};

void sim_open(struct sim *s, const struct sim_trace *t, uint64_t seed)
{
	*s = (struct sim){.trace = t, .seed = seed};
	s->score = sim_score_open(t);
	sim_dev_open(&s->dev, t, SIM_SLOTS, seed);
	s->n_blocks =
	    (uint32_t)(s->dev.curve.pool_bytes / (s->dev.curve.kv_bytes * SIM_BLOCK_TOKENS));
}

void sim_close(struct sim *s)
{
	sim_score_close(s->score);
	sim_dev_close(&s->dev);
}

static void open_steps(struct run *r)
{
	struct plx_dev_limits lim = {.n_slots = SIM_SLOTS,
	                             .n_blocks = r->s->n_blocks,
	                             .block_tokens = SIM_BLOCK_TOKENS,
	                             .max_seq_blocks = SIM_CONTEXT / SIM_BLOCK_TOKENS,
	                             .max_step_tokens = r->e->max_step_tokens,
	                             .max_step_seqs = SIM_SLOTS,
	                             .steps_in_flight = r->e->steps_in_flight,
	                             .n_threads = 1};
	struct plx_step_layout lay;

	PLX_CHECK(r->e->steps_in_flight <= MAX_STEPS);
	plx_step_layout_make(&lim, &lay);
	for (uint32_t i = 0; i < r->e->steps_in_flight; i++) {
		struct plx_step *st = calloc(1, lay.record_bytes);

		PLX_CHECK(st != NULL);
		plx_step_format(st, &lay);
		r->free[r->n_free++] = st;
	}
}

/* Hand the device as many steps as the engine will fill. */
static void fill(struct run *r, uint64_t now_ns)
{
	while (r->n_free > 0) {
		struct plx_step *st = r->free[r->n_free - 1];

		if (r->e->fill(r->e->ctx, st, now_ns) == 0)
			return;
		uint64_t start = r->device_free_ns > now_ns ? r->device_free_ns : now_ns;

		sim_dev_run(&r->s->dev, st, start);
		r->device_free_ns = st->end_ns;
		r->s->n_steps++;
		if (r->s->watch)
			r->s->watch(r->s->watch_ctx, st, now_ns);
		r->n_free--;
		r->out[r->n_out++] = st;
	}
}

static void complete(struct run *r, uint64_t now_ns)
{
	struct plx_step *st = r->out[0];

	r->n_out--;
	memmove(&r->out[0], &r->out[1], r->n_out * sizeof(struct plx_step *));
	r->e->done(r->e->ctx, st, now_ns);
	r->free[r->n_free++] = st;
}

void sim_run(struct sim *s, struct sim_engine *e)
{
	struct run r = {.s = s, .e = e};

	open_steps(&r);
	while (s->score->n_ended < s->trace->n_req) {
		uint64_t arrival = r.next < s->trace->n_req ? s->trace->req[r.next].at_ns : NEVER;
		uint64_t done = r.n_out ? r.out[0]->end_ns + SIM_HOST_NS : NEVER;
		uint64_t tick = e->idle(e->ctx) ? NEVER : r.tick_ns + SIM_TICK_NS;
		uint64_t now = arrival < done ? arrival : done;

		now = tick < now ? tick : now;
		PLX_CHECK(now != NEVER);
		if (done == now)
			complete(&r, now);
		while (r.next < s->trace->n_req && s->trace->req[r.next].at_ns <= now)
			e->arrive(e->ctx, r.next++, now);
		if (now >= r.tick_ns + SIM_TICK_NS) {
			e->tick(e->ctx, now);
			r.tick_ns = now;
		}
		fill(&r, now);
	}
	while (r.n_out > 0)
		complete(&r, r.out[0]->end_ns + SIM_HOST_NS);
	e->close(e->ctx);
	while (r.n_free > 0)
		free(r.free[--r.n_free]);
}
