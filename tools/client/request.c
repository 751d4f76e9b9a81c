/*
 * Submitted requests: encoded at once, begun in order of submission as credit allows, and ended
 * here when the session is lost.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/client/core.h"

static_assert((int)PLX_CLIENT_TOOL == (int)PLX_ROLE_TOOL, "public roles are the wire's");

void plx_client_request_init(struct plx_client_request *r)
{
	*r = (struct plx_client_request){.max_new = 256,
	                                 .n_samples = 1,
	                                 .top_p = 1,
	                                 .repeat_penalty = 1,
	                                 .resubmit = PLX_CLIENT_RESUBMIT_UNSTARTED};
}

struct plx_client_slot *plx_client_slot_of(struct plx_client *c, uint64_t req_id)
{
	if (!req_id)
		return NULL;
	for (uint32_t i = 0; i < c->cfg.n_requests; i++)
		if (c->slot[i].handle && c->slot[i].req_id == req_id)
			return &c->slot[i];
	return NULL;
}

/* ---- encoding ---- */

static size_t padded(size_t n)
{
	return (n + 3) & ~(size_t)3;
}

/* An upper bound of the message's bytes. */
static size_t message_bound(const struct plx_client_request *r)
{
	size_t n = PLX_REQ_BLOCK_BYTES + r->text_bytes + 4 * (size_t)r->n_ids;

	for (uint32_t i = 0; i < r->n_stops; i++)
		n += sizeof(struct plx_req_tlv) + padded(strlen(r->stops[i]));
	if (r->n_messages)
		n += sizeof(struct plx_req_tlv) + 4;
	for (uint32_t i = 0; i < r->n_messages; i++)
		n += sizeof(struct plx_req_message) + padded(r->messages[i].n_bytes);
	if (r->continues)
		n += sizeof(struct plx_req_tlv) + 12;
	n += sizeof(struct plx_req_tlv) + sizeof(struct plx_req_compress) +
	     r->n_keeps * sizeof(struct plx_req_keep);
	n += r->best_of ? sizeof(struct plx_req_tlv) + sizeof(struct plx_req_best) : 0;
	if (r->attend_mass || r->attend_chunks)
		n += sizeof(struct plx_req_tlv) + sizeof(struct plx_req_sparse);
	return n;
}

static uint32_t flags_of(const struct plx_client_request *r)
{
	uint32_t f = PLX_REQ_STREAM;

	f |= r->messages ? PLX_REQ_MESSAGES : r->ids ? PLX_REQ_IDS : PLX_REQ_TEXT;
	f |= r->logprobs ? PLX_REQ_LOGPROBS : 0;
	f |= r->deterministic ? PLX_REQ_DETERMINISTIC : 0;
	f |= r->ids_only ? PLX_REQ_NO_TEXT : 0;
	f |= r->ignore_eos ? PLX_REQ_IGNORE_EOS : 0;
	f |= r->no_drafts ? PLX_REQ_NO_DRAFT : 0;
	f |= r->special ? PLX_REQ_SPECIAL : 0;
	f |= r->allow_compression ? PLX_REQ_COMPRESS : 0;
	return f;
}

static struct plx_msg_req block_of(const struct plx_client_request *r)
{
	struct plx_msg_req m = plx_msg_req_init();

	m.flags = flags_of(r);
	m.n_logprobs = r->n_logprobs;
	m.n_samples = r->n_samples;
	m.model_id = r->model_id;
	m.max_new = r->max_new;
	m.deadline_us = r->deadline_us;
	m.seed = r->seed;
	m.temperature = r->temperature;
	m.top_p = r->top_p;
	m.min_p = r->min_p;
	m.repeat_penalty = r->repeat_penalty;
	m.top_k = r->top_k;
	return m;
}

static bool prunes(const struct plx_client_request *r)
{
	return r->keep_ratio > 0 || r->max_loss > 0;
}

static uint8_t how_of(const struct plx_client_request *r)
{
	unsigned how = !r->evict || r->prune_too ? PLX_COMPRESS_PROMPT : 0u;

	how |= r->evict ? PLX_COMPRESS_KV : 0u;
	return (uint8_t)(how | (r->evict && r->evict_late ? PLX_COMPRESS_LATE : 0u));
}

/* The spans as they lie in what is sent: messages, bytes or ids of it are known already. */
static uint32_t shift_keeps(const struct plx_client_request *r, size_t known,
                            struct plx_req_keep *out)
{
	uint32_t n = 0, by = (uint32_t)known;

	for (uint32_t i = 0; i < r->n_keeps; i++) {
		struct plx_client_keep k = r->keeps[i];
		bool gone = r->messages ? k.message < by : k.end <= by;

		if (gone)
			continue;
		if (r->messages)
			k.message -= by;
		else
			k.first = k.first > by ? k.first - by : 0;
		k.end -= r->messages ? 0 : by;
		out[n++] = (struct plx_req_keep){k.message, k.first, k.end};
	}
	return n;
}

static void write_prune(struct plx_req_writer *w, const struct plx_client_request *r, size_t known)
{
	struct plx_req_keep keep[PLX_REQ_KEEP_MAX];
	bool ratio = r->keep_ratio > 0;
	struct plx_req_compress c = {.by =
	                                 (uint8_t)(ratio ? PLX_COMPRESS_RATIO : PLX_COMPRESS_LOSS),
	                             .keep_roles = r->keep_roles,
	                             .how = how_of(r),
	                             .target = ratio ? r->keep_ratio : r->max_loss,
	                             .n_keep = shift_keeps(r, known, keep)};

	plx_req_prune(w, &c, keep);
}

/* The whole request, or, with more, what it adds to the one it continues. */
static int encode(uint8_t *p, size_t cap, const struct plx_client_request *r, bool more)
{
	size_t known = more ? r->n_known : 0;
	struct plx_msg_req m = block_of(r);
	struct plx_req_writer w;

	plx_req_begin(&w, p, cap, &m);
	if (more)
		plx_req_continue(&w, r->continues, r->continue_sample); /* the id comes at begin */
	for (uint32_t i = 0; i < r->n_stops; i++)
		plx_req_stop(&w, r->stops[i], strlen(r->stops[i]));
	if (prunes(r))
		write_prune(&w, r, known);
	if (r->best_of)
		plx_req_best_of(&w, r->best_of);
	if (r->attend_mass || r->attend_chunks)
		plx_req_sparse(&w, r->attend_mass, r->attend_chunks);
	for (size_t i = known; i < r->n_messages; i++)
		plx_req_message(&w, (enum plx_req_role)r->messages[i].role, r->messages[i].text,
		                r->messages[i].n_bytes);
	if (r->text)
		plx_req_prompt_text(&w, r->text + known, r->text_bytes - known);
	if (r->ids)
		plx_req_prompt_ids(&w, r->ids + known, r->n_ids - (uint32_t)known);
	return plx_req_end(&w);
}

/* Encoded into memory of its own; its bytes, or an error. */
static int encode_new(uint8_t **msg, size_t cap, const struct plx_client_request *r, bool more,
                      struct plx_diag *d)
{
	*msg = malloc(cap);
	if (!*msg)
		return plx_diag_set(d, PLX_E_NOMEM, "no memory for a request of %zu bytes", cap);
	int n = encode(*msg, cap, r, more);

	if (n >= 0)
		return n;
	free(*msg);
	*msg = NULL;
	return plx_diag_set(d, PLX_E_INVAL,
	                    "the request can't be encoded (%s); check stop strings, messages "
	                    "and that text is UTF-8",
	                    plx_err_name(n));
}

static int check_prune(const struct plx_client_request *r, struct plx_diag *d)
{
	/* Written so that a NaN fails both. */
	if (!(r->keep_ratio >= 0 && r->keep_ratio <= 1))
		return plx_diag_set(d, PLX_E_INVAL, "keep_ratio is %g; give above 0 to 1",
		                    (double)r->keep_ratio);
	if (!(r->max_loss >= 0 && r->max_loss < 1))
		return plx_diag_set(d, PLX_E_INVAL, "max_loss is %g; give above 0 and below 1",
		                    (double)r->max_loss);
	if (r->keep_ratio > 0 && r->max_loss > 0)
		return plx_diag_set(d, PLX_E_INVAL, "keep_ratio and max_loss; give one of them");
	if (prunes(r) && !r->allow_compression)
		return plx_diag_set(d, PLX_E_INVAL,
		                    "keep_ratio or max_loss without allow_compression");
	if (r->n_keeps > PLX_REQ_KEEP_MAX || (r->n_keeps > 0 && !prunes(r)))
		return plx_diag_set(d, PLX_E_INVAL,
		                    "%u keeps; give at most %u, with keep_ratio or max_loss",
		                    r->n_keeps, PLX_REQ_KEEP_MAX);
	return 0;
}

static int check_known(const struct plx_client_request *r, struct plx_diag *d)
{
	size_t have = r->text ? r->text_bytes : r->ids ? r->n_ids : r->n_messages;

	if (!r->continues)
		return 0;
	if (r->continue_sample >= PLX_CLIENT_SAMPLES_MAX)
		return plx_diag_set(d, PLX_E_INVAL, "continue_sample is %u; give 0 to %u",
		                    r->continue_sample, PLX_CLIENT_SAMPLES_MAX - 1);
	if (r->n_known > have || (r->messages && r->n_known == have))
		return plx_diag_set(d, PLX_E_INVAL,
		                    "n_known is %zu of %zu; give what the earlier request and its "
		                    "answer cover",
		                    r->n_known, have);
	return 0;
}

static int check(const struct plx_client *c, const struct plx_client_request *r, struct plx_diag *d)
{
	int n_prompts = !!r->text + !!r->ids + !!r->messages;

	if (n_prompts != 1)
		return plx_diag_set(d, PLX_E_INVAL,
		                    "a request has %d prompts; give one of text, ids, messages",
		                    n_prompts);
	if (r->n_samples < 1 || r->n_samples > PLX_CLIENT_SAMPLES_MAX)
		return plx_diag_set(d, PLX_E_INVAL, "n_samples is %u; give 1 to %u", r->n_samples,
		                    PLX_CLIENT_SAMPLES_MAX);
	if (r->best_of &&
	    (r->best_of < r->n_samples || r->best_of < 2 || r->best_of > PLX_CLIENT_SAMPLES_MAX))
		return plx_diag_set(d, PLX_E_INVAL,
		                    "best_of is %u; give n_samples or more of them, 2 to %u",
		                    r->best_of, PLX_CLIENT_SAMPLES_MAX);
	if (r->attend_mass > 1000)
		return plx_diag_set(d, PLX_E_INVAL, "attend_mass is %u; give 0 to 1000",
		                    r->attend_mass);
	if (r->priority > 15)
		return plx_diag_set(d, PLX_E_INVAL, "priority is %u; give 0 to 15", r->priority);
	if (!r->max_new)
		return plx_diag_set(d, PLX_E_INVAL, "max_new is 0; give at least 1");
	if (message_bound(r) > c->cfg.request_bytes)
		return plx_diag_set(d, PLX_E_TOO_LARGE,
		                    "the request takes %zu bytes, over this client's limit of %u; "
		                    "shorten the prompt or raise request_bytes",
		                    message_bound(r), c->cfg.request_bytes);
	return 0;
}

static struct plx_client_slot *free_slot(struct plx_client *c)
{
	for (uint32_t i = 0; i < c->cfg.n_requests; i++)
		if (!c->slot[i].handle)
			return &c->slot[i];
	return NULL;
}

static void slot_init(struct plx_client *c, struct plx_client_slot *s,
                      const struct plx_client_request *r)
{
	memset(s, 0, sizeof(*s));
	s->handle = ++c->last_handle;
	s->n_samples = r->n_samples;
	s->prio = r->priority;
	s->no_resume = r->best_of > 0; /* all of them begin anew */
	s->resubmit = (uint8_t)r->resubmit;
	s->submit_ns = c->env.now_ns(c->env.ctx);
	c->n_slots_used++;
	c->n_waiting++;
}

int plx_client_submit(struct plx_client *c, const struct plx_client_request *r, uint64_t *req,
                      struct plx_diag *d)
{
	int err = check(c, r, d);

	err = err ? err : check_known(r, d);
	err = err ? err : check_prune(r, d);
	if (err)
		return err;
	if (c->state == PLX_CL_CLOSED)
		return plx_diag_set(d, PLX_E_CLOSED, "the session is over: %s", c->why);
	struct plx_client_slot *s = free_slot(c);

	if (!s)
		return plx_diag_set(d, PLX_E_FULL,
		                    "%u requests are unfinished; take their final events first, or "
		                    "raise n_requests",
		                    c->cfg.n_requests);
	size_t cap = message_bound(r);
	uint8_t *msg, *more = NULL;
	int n = encode_new(&msg, cap, r, false, d);
	int n_more = n > 0 && r->continues ? encode_new(&more, cap, r, true, d) : 0;

	if (n < 0 || n_more < 0) {
		free(msg);
		return n < 0 ? n : n_more;
	}
	slot_init(c, s, r);
	s->msg = msg;
	s->msg_bytes = (uint32_t)n;
	s->more = more;
	s->more_bytes = (uint32_t)n_more;
	s->continues = r->continues;
	c->wake = true;
	*req = s->handle;
	return 0;
}

/* ---- the way out ---- */

static void forget_type(struct plx_client *c, uint8_t type, uint64_t req_id)
{
	struct plx_outmsg *o = req_id ? plx_outbox_find(&c->outbox, type, req_id) : NULL;

	if (o)
		plx_outbox_remove(&c->outbox, o);
}

static void forget_out(struct plx_client *c, uint64_t req_id)
{
	forget_type(c, PLX_T_REQ, req_id);
	forget_type(c, PLX_T_CANCEL, req_id);
}

void plx_client_req_arrived(struct plx_client *c, struct plx_client_slot *s)
{
	struct plx_outmsg *o =
	    s->arrived ? NULL : plx_outbox_find(&c->outbox, PLX_T_REQ, s->req_id);

	s->arrived = true;
	if (!o)
		return;
	s->retx_pkt = o->retx_pkt;
	plx_outbox_remove(&c->outbox, o);
}

static void drop_held(struct plx_client *c, struct plx_client_slot *s)
{
	struct plx_client_held *h = s->held, *next;

	s->held = NULL;
	for (; h; h = next) {
		next = h->next;
		plx_client_node_drop(c, h->node);
		free(h);
	}
}

static void free_messages(struct plx_client_slot *s)
{
	free(s->msg);
	free(s->more);
	free(s->again);
	s->msg = s->more = s->again = NULL;
	for (uint32_t i = 0; i < PLX_CLIENT_SAMPLES_MAX; i++) {
		free(s->had[i].id);
		s->had[i] = (struct plx_client_had){0};
	}
}

void plx_client_slot_end(struct plx_client *c, struct plx_client_slot *s)
{
	if (!s->req_id)
		c->n_waiting--;
	forget_out(c, s->req_id);
	drop_held(c, s);
	free_messages(s);
	s->final_here = s->final_queued = true;
	if (s->fin.ev.type == PLX_CLIENT_EV_DONE)
		c->past[s->handle % PLX_CLIENT_PAST] =
		    (struct plx_client_past){s->handle, s->req_id};
	s->fin.kind = PLX_NODE_FIXED;
	s->fin.ev.req = s->handle;
	plx_client_queue(c, &s->fin);
}

void plx_client_slot_free(struct plx_client *c, struct plx_client_slot *s)
{
	s->handle = 0;
	s->req_id = 0;
	c->n_slots_used--;
}

static void end_local_reject(struct plx_client *c, struct plx_client_slot *s, int err,
                             const char *detail)
{
	snprintf(s->detail, sizeof(s->detail), "%s", detail);
	s->fin.ev = (struct plx_client_event){.type = PLX_CLIENT_EV_REJECT,
	                                      .reject = {.err = err, .detail = s->detail}};
	plx_client_slot_end(c, s);
}

static struct plx_client_slot *first_waiting(struct plx_client *c)
{
	struct plx_client_slot *first = NULL;
	uint64_t now_ns = c->env.now_ns(c->env.ctx);

	for (uint32_t i = 0; i < c->cfg.n_requests; i++) {
		struct plx_client_slot *s = &c->slot[i];

		if (s->handle && !s->req_id && !s->final_queued && s->wait_ns <= now_ns &&
		    (!first || s->handle < first->handle))
			first = s;
	}
	return first;
}

/* Whether the next id stays within the appliance's window above our oldest unfinished request. */
static bool window_open(const struct plx_client *c)
{
	uint64_t oldest = c->last_req_id + 1;

	for (uint32_t i = 0; i < c->cfg.n_requests; i++) {
		const struct plx_client_slot *s = &c->slot[i];

		if (s->handle && s->req_id && !s->final_here && s->req_id < oldest)
			oldest = s->req_id;
	}
	return c->last_req_id + 1 - oldest < 4 * (uint64_t)c->ack.limits.max_in_flight;
}

/* Whether the appliance may have what s goes on from; then its id stands in the short message. */
static bool can_go_on(const struct plx_client *c, const struct plx_client_slot *s)
{
	const struct plx_client_past *p = &c->past[s->continues % PLX_CLIENT_PAST];

	if (!s->more || s->not_kept || p->handle != s->continues ||
	    !(c->ack.features & PLX_FEAT_CONTINUE))
		return false;
	memcpy(s->more + PLX_REQ_CONTINUE_AT, &p->req_id, sizeof(p->req_id));
	return true;
}

/* A message on its way: one of the slot's. */
struct msg {
	uint8_t *p;
	uint32_t bytes;
};

static uint64_t resume_bytes(const struct plx_client_slot *s)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < s->n_samples; i++)
		if (s->had[i].n)
			n += sizeof(struct plx_req_tlv) + 8 + 4 * (uint64_t)s->had[i].n;
	return n;
}

static bool has_any(const struct plx_client_slot *s)
{
	return resume_bytes(s) > 0;
}

/* Put what came behind a message's options; false: it can't be done here. */
static bool add_resume(const struct plx_client *c, struct plx_client_slot *s, struct msg *m)
{
	uint32_t max_new = plx_get_u32(s->msg + offsetof(struct plx_msg_req, max_new));
	uint64_t cap = m->bytes + resume_bytes(s);
	struct plx_msg_req b;
	struct plx_req_writer w;

	free(s->again);
	s->again = NULL;
	if (s->no_resume || !(c->ack.features & PLX_FEAT_RESUME) ||
	    cap > c->ack.limits.max_request_bytes || !(s->again = malloc(cap)))
		return false;
	memcpy(&b, m->p, sizeof(b));
	size_t head = sizeof(b) + b.options_bytes;

	plx_req_begin(&w, s->again, cap, &b);
	memcpy(s->again, m->p, head);
	w.used = head;
	for (uint16_t i = 0; i < s->n_samples; i++) {
		uint32_t n = s->had[i].n < max_new ? s->had[i].n : max_new - 1;

		if (n)
			plx_req_resume(&w, i, s->had[i].id, n);
	}
	b.options_bytes = (uint32_t)w.used - (uint32_t)sizeof(b);
	b.message_bytes = (uint32_t)w.used + b.prompt_bytes;
	memcpy(s->again, &b, sizeof(b));
	memcpy(s->again + w.used, m->p + head, b.prompt_bytes);
	*m = (struct msg){s->again, b.message_bytes};
	return true;
}

static void start_over(struct plx_client *c, struct plx_client_slot *s);

/* What to send in this session. */
static struct msg choose(struct plx_client *c, struct plx_client_slot *s)
{
	struct msg m = {s->msg, s->msg_bytes};

	s->sent_more = can_go_on(c, s);
	if (s->sent_more)
		m = (struct msg){s->more, s->more_bytes};
	if (has_any(s) && !add_resume(c, s, &m))
		start_over(c, s);
	return m;
}

/* True when s was begun or ended; false when it has to wait. */
static bool begin(struct plx_client *c, struct plx_client_slot *s)
{
	s->wait_ns = 0;
	struct msg m = choose(c, s);
	uint32_t packets = plx_credit_packets(m.bytes);

	if (m.bytes > c->ack.limits.max_request_bytes || packets > c->ack.credit_packets) {
		end_local_reject(c, s, PLX_E_TOO_LARGE,
		                 "the request is larger than this appliance takes");
		return true;
	}
	if (!window_open(c) || plx_credit_tx_take(&c->credit, packets))
		return false;
	s->req_id = ++c->last_req_id;
	s->cancel.packets = packets;
	c->n_waiting--;
	/* There is room: two places for each slot. A message under the appliance's limit and
	 * credit takes fewer than 65,535 fragments. */
	PLX_CHECK(
	    plx_outbox_add(&c->outbox, PLX_T_REQ, s->req_id, s->prio, m.p, m.bytes, c->pmtu.bytes));
	return true;
}

void plx_client_begin(struct plx_client *c)
{
	struct plx_client_slot *s;

	while (c->n_waiting && (s = first_waiting(c)) && begin(c, s))
		;
}

static void end_local_cancel(struct plx_client *c, struct plx_client_slot *s)
{
	s->fin.ev = (struct plx_client_event){.type = PLX_CLIENT_EV_CANCELLED,
	                                      .cancelled = {.cause = PLX_CLIENT_CANCEL_ASKED}};
	plx_client_slot_end(c, s);
}

int plx_client_cancel(struct plx_client *c, uint64_t req)
{
	struct plx_client_slot *s = NULL;

	for (uint32_t i = 0; req && i < c->cfg.n_requests; i++)
		if (c->slot[i].handle == req)
			s = &c->slot[i];
	if (!s || s->final_here)
		return PLX_E_NOT_FOUND;
	if (s->cancel_asked)
		return 0;
	s->cancel_asked = c->wake = true;
	if (!s->req_id) {
		end_local_cancel(c, s);
		return 0;
	}
	plx_outbox_add(&c->outbox, PLX_T_CANCEL, s->req_id, s->prio, (const uint8_t *)&s->cancel,
	               sizeof(s->cancel), PLX_DGRAM_MIN_BYTES);
	return 0;
}

/* ---- a lost session ---- */

static bool may_go_again(const struct plx_client_slot *s)
{
	if (s->cancel_asked || s->resubmit == PLX_CLIENT_RESUBMIT_NEVER)
		return false;
	return s->resubmit == PLX_CLIENT_RESUBMIT_ALWAYS ||
	       s->resubmit == PLX_CLIENT_RESUBMIT_RESUME || !s->handed_tokens;
}

/* Forget what came of the answer, and say so where the caller has seen some. */
static void start_over(struct plx_client *c, struct plx_client_slot *s)
{
	bool tell = s->handed_tokens || s->restart_queued;

	plx_client_events_drop(c, s->handle);
	memset(s->sample, 0, sizeof(s->sample));
	for (uint32_t i = 0; i < PLX_CLIENT_SAMPLES_MAX; i++)
		s->had[i].n = 0;
	s->first_ns = 0;
	s->accepted = false;
	s->restart_queued = tell;
	if (!tell)
		return;
	s->restart.kind = PLX_NODE_FIXED;
	s->restart.ev = (struct plx_client_event){.type = PLX_CLIENT_EV_RESTART, .req = s->handle};
	s->handed_tokens = false;
	plx_client_queue(c, &s->restart);
}

static void go_again(struct plx_client *c, struct plx_client_slot *s)
{
	drop_held(c, s);
	forget_out(c, s->req_id);
	s->req_id = 0;
	s->lack_ns = s->retx_pkt = 0;
	s->final_here = s->arrived = false;
	c->n_waiting++;
	if (s->resubmit != PLX_CLIENT_RESUBMIT_RESUME || !has_any(s))
		start_over(c, s);
}

void plx_client_had(struct plx_client_slot *s, const struct plx_client_tokens *t)
{
	struct plx_client_had *h = &s->had[t->sample];

	if (s->resubmit != PLX_CLIENT_RESUBMIT_RESUME || t->count == 0)
		return;
	if (h->n + t->count > h->cap) {
		uint32_t cap = 2 * (h->n + t->count);
		uint32_t *id = realloc(h->id, cap * sizeof(*id));

		if (!id) { /* it can't be resumed: it may begin anew */
			s->resubmit = PLX_CLIENT_RESUBMIT_ALWAYS;
			return;
		}
		h->id = id;
		h->cap = cap;
	}
	memcpy(h->id + h->n, t->ids, t->count * sizeof(*h->id));
	h->n += t->count;
}

uint64_t plx_client_waits_until(const struct plx_client *c)
{
	uint64_t first = UINT64_MAX;

	for (uint32_t i = 0; i < c->cfg.n_requests; i++) {
		const struct plx_client_slot *s = &c->slot[i];

		if (s->handle && !s->req_id && !s->final_queued && s->wait_ns && s->wait_ns < first)
			first = s->wait_ns;
	}
	return first;
}

bool plx_client_rejected(struct plx_client *c, struct plx_client_slot *s, uint64_t now_ns)
{
	const struct plx_client_reject *r = &s->fin.ev.reject;
	bool not_kept =
	    s->sent_more && r->err == PLX_E_BAD_REQUEST && r->option == PLX_OPT_CONTINUE;
	bool no_resume =
	    s->again && !not_kept && (r->err == PLX_E_BAD_REQUEST || r->err == PLX_E_TOO_LARGE);
	bool lost = r->err == PLX_E_DEVICE_LOST && s->resubmit == PLX_CLIENT_RESUBMIT_RESUME &&
	            s->n_again < PLX_CLIENT_AGAIN;

	if (s->cancel_asked || (!not_kept && !no_resume && !lost))
		return false;
	s->not_kept |= not_kept;
	s->no_resume |= no_resume;
	s->n_again = (uint8_t)(s->n_again + lost);
	s->wait_ns = lost ? now_ns + r->retry_after_us * PLX_NS_PER_US : 0;
	c->wake = true;
	go_again(c, s);
	return true;
}

void plx_client_slot_fail(struct plx_client *c, struct plx_client_slot *s, int err, const char *why)
{
	snprintf(s->detail, sizeof(s->detail), "%s", why);
	s->fin.ev = (struct plx_client_event){.type = PLX_CLIENT_EV_FAILED,
	                                      .failed = {.err = err, .why = s->detail}};
	plx_client_slot_end(c, s);
}

void plx_client_slots_lost(struct plx_client *c, int err, const char *why, bool again)
{
	for (uint32_t i = 0; i < c->cfg.n_requests; i++) {
		struct plx_client_slot *s = &c->slot[i];

		if (!s->handle || s->final_queued || (again && !s->req_id))
			continue;
		if (again && may_go_again(s))
			go_again(c, s);
		else
			plx_client_slot_fail(c, s, err, why);
	}
}
