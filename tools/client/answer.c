/*
 * What the appliance says about requests: tokens put in order, final answers held until the tokens
 * before them have come, acknowledgements of both.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/client/core.h"

static_assert((int)PLX_CLIENT_FINISH_FAULT == (int)PLX_FINISH_FAULT, "public enum is the wire's");
static_assert((int)PLX_CLIENT_NS_COUNT == (int)PLX_NS_COUNT, "public enum is the wire's");
static_assert((int)PLX_CLIENT_NS_TTFT == (int)PLX_NS_TTFT, "public enum is the wire's");
static_assert((int)PLX_CLIENT_CANCEL_REVOKED == (int)PLX_CANCEL_REVOKED, "public enum");
static_assert(PLX_CLIENT_SAMPLES_MAX == PLX_SAMPLES_MAX, "as many as the wire has");
static_assert(sizeof(struct plx_client_top) == sizeof(struct plx_msg_top), "read in place");

static struct plx_client_load load_of(const struct plx_msg_load *m)
{
	return (struct plx_client_load){.queued_tokens = m->queued_tokens,
	                                .running_sequences = m->running_sequences,
	                                .free_kv_blocks = m->free_kv_blocks,
	                                .step_time_us = m->step_time_us};
}

/* ---- TOKENS ---- */

static void tok_ack_by(struct plx_client *c, uint64_t at_ns)
{
	if (!c->tok_ack_due_ns || at_ns < c->tok_ack_due_ns)
		c->tok_ack_due_ns = at_ns;
}

/* A request that is over: say again that its tokens came. */
static void late_tokens(struct plx_client *c, uint64_t req_id, const struct plx_msg_tokens *m,
                        uint64_t now_ns)
{
	struct plx_msg_tok_ack_entry e = {.req_id = req_id,
	                                  .next_idx = m->first_idx + m->count,
	                                  .sample = m->sample,
	                                  .flags =
	                                      m->flags & PLX_TOKENS_LAST ? PLX_TOK_ACK_LAST : 0};

	if (!req_id || req_id > c->last_req_id || c->n_late == PLX_ACK_MAX)
		return;
	c->late[c->n_late++] = e;
	tok_ack_by(c, now_ns);
}

/* A packet's payload copied behind a node whose event describes it; NULL without room. */
static struct plx_client_node *tokens_node(struct plx_client *c, struct plx_client_slot *s,
                                           const uint8_t *payload, size_t n_bytes)
{
	struct plx_client_node *n;
	struct plx_msg_tokens_view v;

	if (c->n_packets >= c->cfg.n_packets || !(n = malloc(sizeof(*n) + n_bytes)))
		return NULL;
	uint8_t *copy = (uint8_t *)(n + 1);

	memcpy(copy, payload, n_bytes);
	if (plx_msg_tokens_decode(&v, copy, n_bytes)) {
		free(n);
		return NULL;
	}
	c->n_packets++;
	n->kind = PLX_NODE_HEAP;
	n->ev = (struct plx_client_event){.type = PLX_CLIENT_EV_TOKENS,
	                                  .req = s->handle,
	                                  .tokens = {.sample = v.m.sample,
	                                             .count = v.m.count,
	                                             .first_idx = v.m.first_idx,
	                                             .last = v.m.flags & PLX_TOKENS_LAST,
	                                             .n_top = v.m.n_top,
	                                             .text_bytes = v.m.text_bytes,
	                                             .ids = (const void *)v.ids,
	                                             .logprobs = (const void *)v.logprobs,
	                                             .top = (const void *)v.top,
	                                             .text = v.text}};
	return n;
}

static void take_in_order(struct plx_client *c, struct plx_client_slot *s,
                          struct plx_client_node *n)
{
	struct plx_client_sample_state *st = &s->sample[n->ev.tokens.sample];

	st->next = n->ev.tokens.first_idx + n->ev.tokens.count;
	st->last |= n->ev.tokens.last;
	plx_client_had(s, &n->ev.tokens);
	plx_client_queue(c, n);
}

/* Whether the tokens [first, first + count) tell nothing new. */
static bool is_old(const struct plx_client_sample_state *st, uint32_t first, uint32_t count,
                   bool last)
{
	if (st->last)
		return true;
	return first + count <= st->next && !(last && first + count == st->next);
}

/* Packets that waited for what just came. */
static void take_held(struct plx_client *c, struct plx_client_slot *s)
{
	bool again = true;

	while (again) {
		again = false;
		for (struct plx_client_held **at = &s->held; *at;) {
			struct plx_client_held *h = *at;
			const struct plx_client_tokens *t = &h->node->ev.tokens;
			struct plx_client_sample_state *st = &s->sample[t->sample];

			if (t->first_idx > st->next) {
				at = &h->next;
				continue;
			}
			*at = h->next;
			if (t->first_idx == st->next && !st->last) {
				take_in_order(c, s, h->node);
				again = true;
			} else {
				plx_client_node_drop(c, h->node);
			}
			free(h);
		}
	}
}

static void hold(struct plx_client *c, struct plx_client_slot *s, const uint8_t *payload,
                 size_t n_bytes, const struct plx_msg_tokens *m)
{
	for (struct plx_client_held *h = s->held; h; h = h->next)
		if (h->node->ev.tokens.sample == m->sample &&
		    h->node->ev.tokens.first_idx == m->first_idx)
			return;
	/* One place in four stays free for what comes in order, so that held packets can't block
	 * the one that they wait for. */
	if (c->n_packets >= c->cfg.n_packets - c->cfg.n_packets / 4)
		return;
	struct plx_client_held *h = malloc(sizeof(*h));

	if (!h)
		return;
	h->node = tokens_node(c, s, payload, n_bytes);
	if (!h->node) {
		free(h);
		return;
	}
	h->next = s->held;
	s->held = h;
}

static bool complete(const struct plx_client_slot *s)
{
	if (s->fin.ev.type != PLX_CLIENT_EV_DONE)
		return true;
	for (uint32_t i = 0; i < s->n_samples; i++)
		if (!s->sample[i].last)
			return false;
	return true;
}

static void end_if_complete(struct plx_client *c, struct plx_client_slot *s)
{
	if (!s->final_here || s->final_queued || !complete(s))
		return;
	if (s->fin.ev.type == PLX_CLIENT_EV_DONE && s->first_ns)
		s->fin.ev.done.ttft_ns = s->first_ns - s->submit_ns;
	plx_client_tok_acks(c, c->env.now_ns(c->env.ctx));
	plx_client_slot_end(c, s);
}

static void on_tokens(struct plx_client *c, const struct plx_hdr *h, const uint8_t *payload,
                      uint64_t now_ns)
{
	struct plx_client_slot *s = plx_client_slot_of(c, h->req_id);
	struct plx_msg_tokens_view v;

	if (plx_msg_tokens_decode(&v, payload, h->payload_bytes)) {
		c->count.packets_dropped++;
		return;
	}
	if (!s || s->final_queued) {
		late_tokens(c, h->req_id, &v.m, now_ns);
		return;
	}
	if (v.m.sample >= s->n_samples)
		return;
	plx_client_req_arrived(c, s);
	struct plx_client_sample_state *st = &s->sample[v.m.sample];
	bool last = v.m.flags & PLX_TOKENS_LAST, now = plx_hdr_flags(h) & PLX_F_ACK_REQ;

	if (!s->first_ns)
		s->first_ns = now_ns;
	st->ack_due = true;
	if (is_old(st, v.m.first_idx, v.m.count, last)) {
		now = true;
	} else if (v.m.first_idx == st->next) {
		struct plx_client_node *n = tokens_node(c, s, payload, h->payload_bytes);

		if (n) {
			take_in_order(c, s, n);
			take_held(c, s);
		} else {
			c->count.packets_dropped++;
		}
	} else if (v.m.first_idx > st->next) {
		hold(c, s, payload, h->payload_bytes, &v.m);
	} else {
		st->resend = now = true; /* overlaps: ask from where we are */
	}
	tok_ack_by(c, now ? now_ns : now_ns + c->ack.limits.max_ack_delay_us * UINT64_C(500));
	end_if_complete(c, s);
}

/* ---- TOK_ACK ---- */

static uint32_t fill_tok_acks(struct plx_client *c, struct plx_msg_tok_ack_entry *e)
{
	uint32_t n = c->n_late;

	memcpy(e, c->late, n * sizeof(*e));
	c->n_late = 0;
	for (uint32_t i = 0; i < c->cfg.n_requests; i++) {
		struct plx_client_slot *s = &c->slot[i];

		if (!s->handle || !s->req_id || s->final_queued)
			continue;
		for (uint16_t k = 0; k < s->n_samples && n < PLX_ACK_MAX; k++) {
			struct plx_client_sample_state *st = &s->sample[k];

			if (!st->ack_due)
				continue;
			e[n++] = (struct plx_msg_tok_ack_entry){
			    .req_id = s->req_id,
			    .next_idx = st->next,
			    .sample = k,
			    .flags = (uint16_t)((st->resend ? PLX_TOK_ACK_RESEND : 0) |
			                        (st->last ? PLX_TOK_ACK_LAST : 0))};
			st->ack_due = st->resend = false;
		}
	}
	return n;
}

void plx_client_tok_acks(struct plx_client *c, uint64_t now_ns)
{
	struct plx_msg_tok_ack_entry e[PLX_ACK_MAX];
	uint8_t payload[sizeof(struct plx_msg_ack_head) + sizeof(e)];
	uint32_t n;

	c->tok_ack_due_ns = 0;
	while ((n = fill_tok_acks(c, e))) {
		struct plx_msg_ack_head head = plx_conn_ack_fill(&c->conn, (uint16_t)n, now_ns);
		int bytes = plx_msg_tok_ack_encode(payload, sizeof(payload), &head, e);

		PLX_CHECK(bytes > 0);
		plx_client_send_msg(c, PLX_T_TOK_ACK, 0, 0, payload, (uint16_t)bytes, now_ns);
	}
}

/* ---- the rest ---- */

static void on_accept(struct plx_client *c, struct plx_client_slot *s, const uint8_t *payload,
                      size_t n_bytes)
{
	struct plx_msg_accept m;

	if (plx_msg_get(PLX_T_ACCEPT, &m, sizeof(m), payload, n_bytes) || s->accepted)
		return;
	plx_client_req_arrived(c, s);
	s->accepted = true;
	s->accept.kind = PLX_NODE_FIXED;
	s->accept.ev = (struct plx_client_event){.type = PLX_CLIENT_EV_ACCEPT,
	                                         .req = s->handle,
	                                         .accept = {.queue_position = m.queue_position,
	                                                    .est_ttft_us = m.est_ttft_us,
	                                                    .cached_tokens = m.cached_tokens,
	                                                    .prompt_tokens = m.prompt_tokens}};
	plx_client_queue(c, &s->accept);
}

static int read_done(struct plx_client_slot *s, const uint8_t *payload, size_t n_bytes,
                     uint64_t now_ns)
{
	struct plx_msg_done m;
	struct plx_msg_done_sample ds[PLX_SAMPLES_MAX];
	struct plx_msg_done_tail t;

	if (plx_msg_done_decode(&m, ds, &t, payload, n_bytes) || m.n_samples != s->n_samples)
		return PLX_E_FORMAT;
	struct plx_client_done done = {.n_samples = m.n_samples,
	                               .kind_changed = m.flags & PLX_DONE_KIND_CHANGED,
	                               .numeric_kind = m.numeric_kind,
	                               .prompt_tokens = m.prompt_tokens,
	                               .cached_tokens = m.cached_tokens,
	                               .total_ns = now_ns - s->submit_ns,
	                               .samples = s->result,
	                               .pruned_tokens = t.compress.n_pruned,
	                               .evicted_tokens = t.compress.n_evicted,
	                               .loss = t.compress.loss,
	                               .made_samples = t.best.n_made,
	                               .made_tokens = t.best.n_tokens,
	                               .share_mean = t.sparse.mean,
	                               .share_least = t.sparse.least,
	                               .share_read = t.sparse.read};

	memcpy(done.stage_ns, m.ns, sizeof(done.stage_ns));
	for (uint32_t i = 0; i < m.n_samples; i++)
		s->result[i] =
		    (struct plx_client_sample){.n_tokens = ds[i].n_tokens,
		                               .finish = (enum plx_client_finish)ds[i].reason,
		                               .left_tokens = plx_done_left(&ds[i]),
		                               .mean_logprob = t.mean[i]};
	s->fin.ev = (struct plx_client_event){.type = PLX_CLIENT_EV_DONE, .done = done};
	return 0;
}

static int read_reject(struct plx_client_slot *s, const uint8_t *payload, size_t n_bytes)
{
	struct plx_msg_reject m;
	const char *detail;

	if (plx_msg_reject_decode(&m, &detail, payload, n_bytes))
		return PLX_E_FORMAT;
	snprintf(s->detail, sizeof(s->detail), "%.*s", (int)m.detail_bytes, detail);
	s->fin.ev = (struct plx_client_event){.type = PLX_CLIENT_EV_REJECT,
	                                      .reject = {.err = plx_err_from_wire(m.code),
	                                                 .option = m.option,
	                                                 .retry_after_us = m.retry_after_us,
	                                                 .load = load_of(&m.load),
	                                                 .detail = s->detail}};
	return 0;
}

static int read_cancelled(struct plx_client_slot *s, const uint8_t *payload, size_t n_bytes)
{
	struct plx_msg_cancelled m;
	uint32_t n_tokens[PLX_SAMPLES_MAX];

	if (plx_msg_cancelled_decode(&m, n_tokens, payload, n_bytes))
		return PLX_E_FORMAT;
	for (uint32_t i = 0; i < m.n_samples; i++)
		s->result[i] = (struct plx_client_sample){.n_tokens = n_tokens[i]};
	s->fin.ev = (struct plx_client_event){.type = PLX_CLIENT_EV_CANCELLED,
	                                      .cancelled = {.cause = (enum plx_client_cause)m.cause,
	                                                    .n_samples = m.n_samples,
	                                                    .samples = s->result}};
	return 0;
}

static void on_final(struct plx_client *c, struct plx_client_slot *s, const struct plx_hdr *h,
                     const uint8_t *payload, uint64_t now_ns)
{
	int err = h->type == PLX_T_DONE     ? read_done(s, payload, h->payload_bytes, now_ns)
	          : h->type == PLX_T_REJECT ? read_reject(s, payload, h->payload_bytes)
	                                    : read_cancelled(s, payload, h->payload_bytes);

	if (err) {
		plx_client_lose(c, PLX_E_FORMAT, "the appliance sent an answer that makes no sense",
		                now_ns);
		return;
	}
	if (s->fin.ev.type == PLX_CLIENT_EV_REJECT && plx_client_rejected(c, s, now_ns))
		return;
	s->final_here = true;
	end_if_complete(c, s);
	if (s->final_queued)
		return;
	s->lack_ns = now_ns + c->ack.limits.result_ttl_ms * PLX_NS_PER_MS + PLX_RETX_MAX_NS;
	if (!c->lack_ns || s->lack_ns < c->lack_ns)
		c->lack_ns = s->lack_ns;
}

/* The appliance keeps tokens for result_ttl from its DONE on, and sends them at least as often as
 * the longest timeout: after both, what has not come can't come. */
void plx_client_lacking(struct plx_client *c, uint64_t now_ns)
{
	char why[PLX_CLIENT_WHY_BYTES];

	snprintf(why, sizeof(why),
	         "the answer was made, but not all of its tokens were taken in the %.1f s that the "
	         "appliance keeps them; ask again, and take events sooner",
	         c->ack.limits.result_ttl_ms / 1000.0);
	c->lack_ns = 0;
	for (uint32_t i = 0; i < c->cfg.n_requests; i++) {
		struct plx_client_slot *s = &c->slot[i];

		if (!s->handle || !s->lack_ns || s->final_queued)
			continue;
		if (now_ns >= s->lack_ns)
			plx_client_slot_fail(c, s, PLX_E_TIMEOUT, why);
		else if (!c->lack_ns || s->lack_ns < c->lack_ns)
			c->lack_ns = s->lack_ns;
	}
}

void plx_client_answer(struct plx_client *c, const struct plx_hdr *h, const uint8_t *payload,
                       uint64_t now_ns)
{
	struct plx_client_slot *s = plx_client_slot_of(c, h->req_id);

	if (!h->req_id || h->req_id > c->last_req_id)
		return;
	if (h->type == PLX_T_TOKENS) {
		on_tokens(c, h, payload, now_ns);
		return;
	}
	/* Acknowledged also when the request is over: then our first acknowledgement was lost. */
	struct plx_msg_ack_entry e = plx_ack_whole(h->type, h->req_id, h->frag_count);

	plx_conn_ack(&c->conn, &e, true, now_ns);
	if (!s || s->final_here)
		return;
	if (h->type == PLX_T_ACCEPT)
		on_accept(c, s, payload, h->payload_bytes);
	else
		on_final(c, s, h, payload, now_ns);
}
