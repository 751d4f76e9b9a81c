/*
 * Pools and rings of a request's way. Sizes: a return ring holds everything of its kind that can
 * exist, so its push can't fail.
 */
#include "dataplane/request.h"

#include <stdio.h>
#include <string.h>

#include "dataplane/detok.h"
#include "fw/base/check.h"

#define EVS_PER_SLOT    4u
#define EVS_LEAST       256u
#define EVS_BY_TEXT     10u /* of one answer, that text rather than tokens fills */
#define RETRY_LEAST_US  1000u
#define RETRY_MOST_US   10000000u
#define TOPS_PER_RECORD 3u

uint32_t plx_links_events(const struct plx_config *cfg)
{
	const struct plx_cfg_limits *m = &cfg->lim;
	uint32_t by_top = m->n_logprobs ? (uint32_t)PLX_EV_TOPS / m->n_logprobs : PLX_EV_IDS;
	uint32_t a_event = by_top < PLX_EV_IDS ? by_top : PLX_EV_IDS;
	uint32_t worst = 1 + m->n_samples * (PLX_DETOK_HOLD / a_event + EVS_BY_TEXT);
	uint32_t n = EVS_PER_SLOT * m->n_slots + 2 * m->n_requests + worst;

	return n < EVS_LEAST ? EVS_LEAST : n;
}

uint32_t plx_links_accels(const struct plx_config *cfg)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < cfg->n_stages; i++)
		n += cfg->stage[i].kind == PLX_STAGE_ACCEL;
	return n ? n : 1;
}

/* Two records a request (ACCEPT, FINAL), and all that two rounds of full steps can produce. */
static uint32_t n_records(const struct plx_config *cfg)
{
	uint32_t per_token = 2 + (PLX_MAX_TOP + TOPS_PER_RECORD - 1) / TOPS_PER_RECORD;

	return 2 * cfg->lim.n_requests + 2 * plx_links_accels(cfg) * cfg->lim.steps_in_flight *
	                                     cfg->lim.step_seqs * per_token;
}

static size_t body_bytes(const struct plx_config *cfg)
{
	return ((size_t)cfg->lim.request_bytes + 63) & ~(size_t)63;
}

size_t plx_links_bytes(const struct plx_config *cfg, uint32_t n_io)
{
	const struct plx_cfg_limits *m = &cfg->lim;
	size_t ptr = sizeof(void *), evs = plx_links_events(cfg);
	size_t pools = m->n_requests * (sizeof(struct plx_req) + body_bytes(cfg) +
	                                9 * (size_t)m->prompt_tokens + 192) +
	               evs * sizeof(struct plx_ev) + 4096;
	size_t per_io = plx_ring_bytes(m->ring_entries, (uint32_t)ptr) +
	                2 * plx_ring_bytes((uint32_t)evs, (uint32_t)ptr) +
	                plx_ring_bytes(m->ring_entries, sizeof(struct plx_note));
	size_t sessions = m->n_sessions * sizeof(_Atomic uint32_t) + 64;
	size_t shared =
	    2 * plx_ring_bytes(m->n_requests, (uint32_t)ptr) +
	    plx_ring_bytes(m->n_requests * m->n_samples, sizeof(struct plx_note)) +
	    plx_ring_bytes(n_records(cfg), sizeof(struct plx_out)) +
	    plx_links_accels(cfg) * (plx_ring_bytes(plx_cmd_entries(cfg), sizeof(struct plx_cmd)) +
	                             plx_ring_bytes(plx_cmd_answers(cfg), sizeof(struct plx_cmd)));

	return pools + n_io * (per_io + sessions) + shared;
}

static int check_limits(const struct plx_config *cfg, uint32_t n_io, struct plx_diag *d)
{
	const struct plx_cfg_limits *m = &cfg->lim;

	if (n_io == 0 || n_io > PLX_MAX_IO)
		return plx_diag_set(d, PLX_E_LIMIT, "%u io stages; give 1 to %d", n_io, PLX_MAX_IO);
	if (m->n_samples > PLX_SAMPLES_MAX)
		return plx_diag_set(d, PLX_E_LIMIT, "limits.n_samples is %u; give at most %u",
		                    m->n_samples, PLX_SAMPLES_MAX);
	if (m->n_logprobs > PLX_MAX_TOP)
		return plx_diag_set(d, PLX_E_LIMIT, "limits.n_logprobs is %u; give at most %d",
		                    m->n_logprobs, PLX_MAX_TOP);
	if (m->steps_in_flight < 2)
		return plx_diag_set(d, PLX_E_LIMIT, "limits.steps_in_flight is %u; give 2 or more",
		                    m->steps_in_flight);
	return 0;
}

static int open_rings_of_io(struct plx_links *l, struct plx_arena *a, uint32_t i)
{
	const struct plx_cfg_limits *m = &l->cfg->lim;
	int e = plx_ring_req_open(&l->io_tok[i], a, m->ring_entries, PLX_RING_SPSC);

	e = e ? e : plx_ring_ev_open(&l->tok_io[i], a, l->n_evs, PLX_RING_SPSC);
	e = e ? e : plx_ring_ev_open(&l->ev_free[i], a, l->n_evs, PLX_RING_SPSC);
	return e ? e : plx_ring_note_open(&l->io_note[i], a, m->ring_entries, PLX_RING_SPSC);
}

static int open_rings(struct plx_links *l, struct plx_arena *a)
{
	const struct plx_cfg_limits *m = &l->cfg->lim;
	int e = plx_ring_req_open(&l->req_free, a, m->n_requests, PLX_RING_MPMC);

	e = e ? e : plx_ring_req_open(&l->tok_req, a, m->n_requests, PLX_RING_SPSC);
	e = e ? e
	      : plx_ring_note_open(&l->tok_note, a, m->n_requests * m->n_samples, PLX_RING_SPSC);
	e = e ? e : plx_ring_out_open(&l->batch_tok, a, n_records(l->cfg), PLX_RING_SPSC);
	for (uint32_t i = 0; i < l->n_accel && !e; i++) {
		e = plx_ring_cmd_open(&l->batch_accel[i], a, plx_cmd_entries(l->cfg),
		                      PLX_RING_SPSC);
		e = e ? e
		      : plx_ring_cmd_open(&l->accel_batch[i], a, plx_cmd_answers(l->cfg),
		                          PLX_RING_SPSC);
	}
	for (uint32_t i = 0; i < l->n_io && !e; i++)
		e = open_rings_of_io(l, a, i);
	return e;
}

static int open_pools(struct plx_links *l, struct plx_arena *a)
{
	const struct plx_cfg_limits *m = &l->cfg->lim;

	l->req = plx_arena_take(a, m->n_requests * sizeof(*l->req), 64);
	l->ev = plx_arena_take(a, l->n_evs * sizeof(*l->ev), 64);
	if (!l->req || !l->ev)
		return PLX_E_NOMEM;
	for (uint32_t i = 0; i < l->n_io; i++) {
		l->open_session[i] =
		    plx_arena_take(a, m->n_sessions * sizeof(*l->open_session[i]), 64);
		if (!l->open_session[i])
			return PLX_E_NOMEM;
	}
	for (uint32_t i = 0; i < m->n_requests; i++) {
		struct plx_req *r = &l->req[i];

		r->idx = i;
		r->body = plx_arena_take(a, body_bytes(l->cfg), 64);
		r->ids = plx_arena_take(a, 4 * (size_t)m->prompt_tokens, 64);
		r->mark = plx_arena_take(a, m->prompt_tokens, 64);
		r->score = plx_arena_take(a, 4 * (size_t)m->prompt_tokens, 64);
		if (!r->body || !r->ids || !r->mark || !r->score)
			return PLX_E_NOMEM;
		PLX_CHECK(plx_ring_req_push(&l->req_free, &r));
	}
	return 0;
}

int plx_links_open(struct plx_links *l, struct plx_arena *a, const struct plx_config *cfg,
                   uint32_t n_io, struct plx_diag *d)
{
	int e = check_limits(cfg, n_io, d);

	if (e)
		return e;
	memset(l, 0, sizeof(*l));
	l->cfg = cfg;
	l->n_io = n_io;
	l->n_accel = plx_links_accels(cfg);
	l->n_evs = plx_links_events(cfg);
	e = open_rings(l, a);
	e = e ? e : open_pools(l, a);
	if (e)
		return plx_diag_set(d, e, "the request pools need %zu MiB",
		                    plx_links_bytes(cfg, n_io) >> 20);
	return 0;
}

struct plx_req *plx_req_take(struct plx_links *l)
{
	struct plx_req *r;

	if (!plx_ring_req_pop(&l->req_free, &r))
		return NULL;
	r->gen++;
	r->n_ids = r->n_kept = 0;
	r->tok_ns = 0;
	r->batch_ns = 0;
	memset(&r->res, 0, sizeof(r->res));
	atomic_store_explicit(&r->cancel, 0, memory_order_relaxed);
	for (uint32_t i = 0; i < PLX_SAMPLES_MAX; i++)
		atomic_store_explicit(&r->window[i], 0, memory_order_relaxed);
	return r;
}

void plx_req_give(struct plx_links *l, struct plx_req *r)
{
	PLX_CHECK(plx_ring_req_push(&l->req_free, &r));
}

uint32_t plx_req_busy(const struct plx_links *l)
{
	return l->cfg->lim.n_requests - plx_ring_req_count(&l->req_free);
}

bool plx_req_push(struct plx_links *l, struct plx_req *r)
{
	PLX_DCHECK(r->io_idx < l->n_io && r->tenant < PLX_MAX_TENANTS);
	return plx_ring_req_push(&l->io_tok[r->io_idx], &r);
}

struct plx_ev *plx_ev_next(struct plx_links *l, uint32_t io_idx)
{
	struct plx_ev *ev;

	return plx_ring_ev_pop(&l->tok_io[io_idx], &ev) ? ev : NULL;
}

void plx_ev_give(struct plx_links *l, struct plx_ev *ev)
{
	PLX_CHECK(plx_ring_ev_push(&l->ev_free[ev->io_idx], &ev));
}

bool plx_note_window(struct plx_links *l, const struct plx_req *r, uint16_t sample, uint32_t next)
{
	/* B1: read relaxed by tok, which sends what batch has finished; the number speaks of
	 * nothing else. */
	if (r->view.n_made) {
		atomic_store_explicit(&l->req[r->idx].window[sample], next, memory_order_relaxed);
		return true;
	}
	struct plx_note n = {.req_idx = r->idx,
	                     .gen = r->gen,
	                     .sample = sample,
	                     .kind = PLX_NOTE_WINDOW,
	                     .next = next};

	return plx_ring_note_push(&l->io_note[r->io_idx], &n);
}

/* The low half of a session's id is its place in its io stage's table. */
static _Atomic uint32_t *place_of(const struct plx_links *l, uint32_t io_idx, uint32_t session_id)
{
	uint32_t i = session_id & 0xffffu;

	return i < l->cfg->lim.n_sessions ? &l->open_session[io_idx][i] : NULL;
}

void plx_session_mark(struct plx_links *l, uint32_t io_idx, uint32_t session_id, bool open)
{
	_Atomic uint32_t *p = place_of(l, io_idx, session_id);

	/* Relaxed: the ring that carries a request orders its mark before it, and a mark that goes
	 * may be seen late. */
	if (p)
		atomic_store_explicit(p, open ? session_id : 0, memory_order_relaxed);
}

bool plx_session_marked(const struct plx_links *l, uint32_t io_idx, uint32_t session_id)
{
	const _Atomic uint32_t *p = place_of(l, io_idx, session_id);

	return p && atomic_load_explicit(p, memory_order_relaxed) == session_id;
}

struct plx_msg_load plx_load_read(const struct plx_links *l)
{
	const struct plx_load *s = &l->load;

	return (struct plx_msg_load){
	    .queued_tokens = atomic_load_explicit(&s->queued_tokens, memory_order_relaxed),
	    .running_sequences = atomic_load_explicit(&s->running_sequences, memory_order_relaxed),
	    .free_kv_blocks = atomic_load_explicit(&s->free_kv_blocks, memory_order_relaxed),
	    .step_time_us = atomic_load_explicit(&s->step_time_us, memory_order_relaxed),
	};
}

uint32_t plx_load_retry_us(const struct plx_links *l)
{
	uint32_t us = atomic_load_explicit(&l->load.retry_us, memory_order_relaxed);

	if (us < RETRY_LEAST_US)
		return RETRY_LEAST_US;
	return us > RETRY_MOST_US ? RETRY_MOST_US : us;
}

static bool can_retry(int err)
{
	return err == PLX_E_QUEUE_FULL || err == PLX_E_KV_PRESSURE || err == PLX_E_DEVICE_LOST ||
	       err == PLX_E_DEADLINE_UNMEETABLE;
}

void plx_req_reject(const struct plx_links *l, struct plx_req *r, int err, const char *detail)
{
	r->res.kind = PLX_FINAL_REJECT;
	r->res.err = err;
	r->res.retry_after_us = can_retry(err) ? plx_load_retry_us(l) : 0;
	r->res.load = plx_load_read(l);
	if (detail)
		snprintf(r->res.detail, sizeof(r->res.detail), "%s", detail);
}
