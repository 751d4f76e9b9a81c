/* Submit, poll, deadlines, reset; see stage_accel.h. */
#include "dataplane/stage_accel.h"

#include <string.h>

#include "fw/base/check.h"
#include "fw/base/clock.h"

int plx_stage_accel_init(struct plx_stage_accel *s, struct plx_links *links, uint32_t idx,
                         struct plx_dev *dev, struct plx_queue *const *queue, struct plx_page *page,
                         struct plx_diag *d)
{
	const struct plx_config *cfg = links->cfg;

	memset(s, 0, sizeof(*s));
	if (cfg->lim.steps_in_flight > PLX_ACCEL_MAX_STEPS)
		return plx_diag_set(d, PLX_E_LIMIT, "limits.steps_in_flight is %u; give at most %d",
		                    cfg->lim.steps_in_flight, PLX_ACCEL_MAX_STEPS);
	s->links = links;
	s->dev = dev;
	s->queue = queue[idx];
	s->idx = idx;
	memcpy(s->peer, queue, links->n_accel * sizeof(*queue));
	s->page = page;
	s->slice_us = cfg->tmr.slice_us;
	s->deadline_ns = cfg->tmr.step_deadline_ms * PLX_NS_PER_MS;
	s->read_most_ns = PLX_ACCEL_READ_MOST_MS * PLX_NS_PER_MS;
	return 0;
}

static void answer(struct plx_stage_accel *s, enum plx_cmd_kind kind, uint32_t idx, int err)
{
	struct plx_cmd back = {
	    .kind = (uint16_t)kind, .from = (uint16_t)s->from, .step_idx = idx, .err = err};

	PLX_CHECK(plx_ring_cmd_push(&s->links->accel_batch[s->idx], &back));
}

static void reset(struct plx_stage_accel *s)
{
	plx_count(s->page, PLX_M_DEV_RESETS, 1);
	s->n_pairs = 0;
	s->refused = false;
	int e = plx_dev_reset(s->dev);

	if (s->held && s->cmd.kind == PLX_CMD_RESET) {
		atomic_store_explicit(&s->links->reset_asked[s->idx], 0, memory_order_relaxed);
		answer(s, PLX_CMD_RESET, 0, e);
		s->held = false;
	}
}

/* Give the copies that were collected to the device; false: not now. */
static bool give_copies(struct plx_stage_accel *s)
{
	if (s->n_pairs == 0)
		return true;
	int e = plx_queue_copy_blocks(s->queue, s->peer[s->from], s->pair, s->n_pairs);

	if (e == PLX_E_AGAIN)
		return false;
	/* A device that is gone has no blocks; the step behind will hear of it. */
	PLX_CHECK(e == 0 || e == PLX_E_LOST || s->from != s->idx);
	s->n_pairs = 0;
	if (e && e != PLX_E_LOST && !s->refused) {
		s->refused = true;
		answer(s, PLX_CMD_COPY, 0, e);
	}
	return true;
}

static bool collect_copy(struct plx_stage_accel *s)
{
	bool other = s->batch != s->cmd.batch || s->from != s->cmd.from;

	if ((s->n_pairs == PLX_ACCEL_PAIRS || other) && !give_copies(s))
		return false;
	s->from = s->cmd.from;
	s->batch = s->cmd.batch;
	s->pair[s->n_pairs++] = (struct plx_block_copy){.src = s->cmd.src, .dst = s->cmd.dst};
	s->held = false;
	return true;
}

/* Carry out the command at hand; false: not now. */
static bool carry_out(struct plx_stage_accel *s, uint64_t now_ns)
{
	if (s->cmd.kind == PLX_CMD_COPY)
		return collect_copy(s);
	if (s->cmd.kind == PLX_CMD_RESET) {
		reset(s);
		return true;
	}
	if (!give_copies(s))
		return false;
	/* Without the blocks that it counts on it must not run. */
	int e = s->refused ? PLX_E_FAULT : plx_queue_submit(s->queue, s->cmd.step_idx);

	s->refused = false;

	if (e == PLX_E_AGAIN)
		return false;
	s->held = false;
	if (e) {
		plx_count(s->page, PLX_M_DEV_FAULTS, 1);
		answer(s, PLX_CMD_STEP, s->cmd.step_idx, e);
		return true;
	}
	if (s->n_out == 0)
		s->oldest_ns = now_ns;
	PLX_CHECK(s->n_out < PLX_ACCEL_MAX_STEPS);
	s->given_ns[s->n_out] = plx_clock_ns();
	s->out[s->n_out++] = s->cmd.step_idx;
	return true;
}

/* Whether the command at hand stands ahead of a reset that batch asked for. */
static bool is_overtaken(const struct plx_stage_accel *s)
{
	return s->cmd.kind != PLX_CMD_RESET &&
	       atomic_load_explicit(&s->links->reset_asked[s->idx], memory_order_relaxed) != 0;
}

static void drop(struct plx_stage_accel *s)
{
	s->n_pairs = 0;
	s->held = false;
	if (s->cmd.kind == PLX_CMD_STEP)
		answer(s, PLX_CMD_STEP, s->cmd.step_idx, PLX_E_LOST);
}

static uint32_t take_commands(struct plx_stage_accel *s, uint64_t now_ns)
{
	for (uint32_t n = 0;; n++) {
		if (!s->held)
			s->held = plx_ring_cmd_pop(&s->links->batch_accel[s->idx], &s->cmd);
		if (!s->held)
			return n;
		if (is_overtaken(s))
			drop(s);
		else if (!carry_out(s, now_ns)) {
			plx_regime_say(s->page, PLX_REGIME_BACKPRESSURED);
			return n;
		}
	}
}

static void account_experts(struct plx_stage_accel *s)
{
	struct plx_dev_experts now;

	if (plx_dev_experts_get(s->dev, &now) != 0)
		return;
	plx_count(s->page, PLX_M_EXPERT_TOKENS, now.tokens - s->experts.tokens);
	plx_count(s->page, PLX_M_EXPERT_PASSES, now.passes - s->experts.passes);
	plx_count(s->page, PLX_M_EXPERT_BUSIEST, now.busiest - s->experts.busiest);
	plx_count(s->page, PLX_M_EXPERT_HITS, now.hits - s->experts.hits);
	plx_count(s->page, PLX_M_EXPERT_MISSES, now.misses - s->experts.misses);
	plx_count(s->page, PLX_M_EXPERT_AHEAD, now.ahead - s->experts.ahead);
	plx_count(s->page, PLX_M_EXPERT_AHEAD_USED, now.ahead_used - s->experts.ahead_used);
	plx_count(s->page, PLX_M_EXPERT_READ, now.read_bytes - s->experts.read_bytes);
	plx_count(s->page, PLX_M_EXPERT_WAIT_NS, now.wait_ns - s->experts.wait_ns);
	plx_count(s->page, PLX_M_EXPERT_HOT, now.hot - s->experts.hot);
	s->experts = now;
}

static void account_sparse(struct plx_stage_accel *s)
{
	struct plx_dev_sparse now;

	if (plx_dev_sparse_get(s->dev, &now) != 0)
		return;
	plx_count(s->page, PLX_M_SPARSE_QUERIES, now.tokens - s->sparse.tokens);
	plx_count(s->page, PLX_M_SPARSE_CHUNKS, now.chunks - s->sparse.chunks);
	plx_count(s->page, PLX_M_SPARSE_READ, now.read - s->sparse.read);
	s->sparse = now;
}

static void account(struct plx_stage_accel *s, const struct plx_step *st, int err)
{
	uint64_t ns = st->end_ns > st->start_ns ? st->end_ns - st->start_ns : 0;

	plx_count(s->page, PLX_M_DEV_STEPS, 1);
	plx_count(s->page, PLX_M_DEV_NS, ns);
	plx_hist_add(&s->page->hist[PLX_H_STEP], ns);
	account_experts(s);
	account_sparse(s);
	if (err)
		plx_count(s->page, PLX_M_DEV_FAULTS, 1);
}

static void step_done(struct plx_stage_accel *s, uint32_t idx)
{
	const struct plx_step *st = plx_queue_step(s->queue, idx);

	PLX_CHECK(st != NULL && s->n_out > 0 && s->out[0] == idx);
	int err = s->asked && st->status == PLX_E_CANCELLED ? PLX_E_TIMEOUT : st->status;

	struct plx_trace_ev ev = {.ns = plx_clock_ns(),
	                          .kind = PLX_TR_STEP,
	                          .n = st->n_tok,
	                          .index = st->n_seq,
	                          .a = st->start_ns,
	                          .b = st->end_ns,
	                          .c = s->given_ns[0]};

	plx_trace(s->page, &ev);
	s->n_out--;
	memmove(&s->out[0], &s->out[1], s->n_out * sizeof(s->out[0]));
	memmove(&s->given_ns[0], &s->given_ns[1], s->n_out * sizeof(s->given_ns[0]));
	s->oldest_ns = ev.ns;
	s->asked = false;
	account(s, st, err);
	answer(s, PLX_CMD_STEP, idx, err);
}

static uint32_t collect(struct plx_stage_accel *s)
{
	uint32_t done[PLX_ACCEL_MAX_STEPS];
	int n = plx_queue_poll(s->queue, s->slice_us, done, PLX_ACCEL_MAX_STEPS);

	if (n < 0) {
		reset(s);
		return 0;
	}
	for (int i = 0; i < n; i++)
		step_done(s, done[i]);
	return (uint32_t)n;
}

/* How long the oldest step has waited for experts; 0 where none of them has come for long. */
static uint64_t waited(struct plx_stage_accel *s, uint64_t now_ns)
{
	struct plx_dev_experts now;

	if (plx_dev_experts_get(s->dev, &now) != 0)
		return 0;
	if (now.read_bytes != s->read_bytes || s->read_ns < s->oldest_ns) {
		s->read_bytes = now.read_bytes;
		s->read_ns = now_ns;
		/* Relaxed: it orders nothing; batch wants to know that it moves. */
		atomic_store_explicit(&s->links->dev_read[s->idx], now.read_bytes,
		                      memory_order_relaxed);
	}
	return now_ns - s->read_ns < s->read_most_ns ? now.wait_ns - s->experts.wait_ns : 0;
}

static void watch(struct plx_stage_accel *s)
{
	uint64_t now_ns = plx_clock_ns();
	uint64_t since_ns = s->oldest_ns + waited(s, now_ns);
	uint64_t age = now_ns > since_ns ? now_ns - since_ns : 0;

	if (age < s->deadline_ns)
		return;
	if (!s->asked) {
		struct plx_step *st = plx_queue_step(s->queue, s->out[0]);

		plx_count(s->page, PLX_M_DEV_TIMEOUTS, 1);
		__atomic_store_n(&st->cancel, 1u, __ATOMIC_RELEASE);
		s->asked = true;
		s->asked_ns = now_ns;
	} else if (now_ns - s->asked_ns >= s->deadline_ns / 2) {
		reset(s);
		s->oldest_ns = now_ns;
	}
}

uint32_t plx_stage_accel_poll(void *state, uint64_t now_ns)
{
	struct plx_stage_accel *s = state;
	uint32_t work = take_commands(s, now_ns);

	if (s->n_out == 0 && s->n_pairs == 0)
		return work;
	work += 1 + collect(s);
	if (s->n_out > 0)
		watch(s);
	return work;
}

uint32_t plx_stage_worker_poll(void *state, uint64_t now_ns)
{
	struct plx_stage_worker *s = state;

	(void)now_ns;
	return plx_dev_worker(s->dev, s->idx, s->slice_us) > 0 ? 1 : 0;
}
