/*
 * Round trips, timers, and the table of messages that are sent until acknowledged.
 */
#include "dataplane/wire/loss.h"

#include <string.h>

#define GRANULARITY_NS UINT64_C(1000)
#define WINDOW         65u /* fragments that one ACK entry can describe */
#define ACK_EVERY      16u /* ask for an acknowledgement at least this often */

static uint64_t max64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* ---- round trips ----------------------------------------------------------------------------- */

void plx_rtt_init(struct plx_rtt *r, uint64_t floor_ns, uint64_t max_ack_delay_ns)
{
	*r = (struct plx_rtt){.floor_ns = floor_ns, .max_ack_delay_ns = max_ack_delay_ns};
}

/* RFC 9002 section 5.3. */
void plx_rtt_sample(struct plx_rtt *r, uint64_t rtt_ns, uint64_t ack_delay_ns)
{
	r->latest_ns = rtt_ns;
	if (r->n_samples++ == 0) {
		r->min_ns = r->srtt_ns = rtt_ns;
		r->rttvar_ns = rtt_ns / 2;
		return;
	}
	if (rtt_ns < r->min_ns)
		r->min_ns = rtt_ns;
	if (ack_delay_ns > r->max_ack_delay_ns)
		ack_delay_ns = r->max_ack_delay_ns;
	uint64_t adjusted = rtt_ns;

	if (rtt_ns >= r->min_ns + ack_delay_ns)
		adjusted = rtt_ns - ack_delay_ns;
	uint64_t off = r->srtt_ns > adjusted ? r->srtt_ns - adjusted : adjusted - r->srtt_ns;

	r->rttvar_ns = (3 * r->rttvar_ns + off) / 4;
	r->srtt_ns = (7 * r->srtt_ns + adjusted) / 8;
}

uint64_t plx_rtt_timeout(const struct plx_rtt *r)
{
	if (r->n_samples == 0)
		return 10 * r->floor_ns;
	return max64(r->floor_ns,
	             r->srtt_ns + max64(4 * r->rttvar_ns, GRANULARITY_NS) + r->max_ack_delay_ns);
}

/* ---- timers ---------------------------------------------------------------------------------- */

void plx_retx_arm(struct plx_retx *t, const struct plx_rtt *r, uint64_t now_ns)
{
	uint32_t shift =
	    t->n_timeouts < PLX_RETX_BACKOFF_MAX ? t->n_timeouts : PLX_RETX_BACKOFF_MAX;
	uint64_t base = plx_rtt_timeout(r), wait = base << shift;

	if (wait > PLX_RETX_MAX_NS)
		wait = max64(base, PLX_RETX_MAX_NS);
	t->deadline_ns = now_ns + wait;
}

void plx_retx_progress(struct plx_retx *t, const struct plx_rtt *r, uint64_t now_ns)
{
	t->n_timeouts = 0;
	plx_retx_arm(t, r, now_ns);
}

bool plx_retx_due(struct plx_retx *t, uint64_t now_ns)
{
	if (t->deadline_ns == 0 || now_ns < t->deadline_ns)
		return false;
	t->deadline_ns = 0;
	t->n_timeouts++;
	return true;
}

void plx_sent_add(struct plx_sent_ring *s, uint64_t pkt_num, uint64_t now_ns)
{
	uint32_t i = s->at++ % PLX_SENT_RING;

	s->pkt_num[i] = pkt_num + 1;
	s->sent_ns[i] = now_ns;
}

uint64_t plx_sent_take(struct plx_sent_ring *s, uint64_t pkt_num)
{
	for (uint32_t i = 0; i < PLX_SENT_RING; i++)
		if (s->pkt_num[i] == pkt_num + 1) {
			s->pkt_num[i] = 0;
			return s->sent_ns[i];
		}
	return 0;
}

/* ---- messages -------------------------------------------------------------------------------- */

void plx_outbox_init(struct plx_outbox *b, struct plx_outmsg *out, uint32_t n)
{
	memset(b, 0, sizeof(*b));
	memset(out, 0, n * sizeof(*out));
	b->out = out;
	b->n = n;
}

struct plx_outmsg *plx_outbox_add(struct plx_outbox *b, uint8_t type, uint64_t req_id, uint8_t prio,
                                  const uint8_t *msg, uint32_t msg_bytes, uint16_t dgram_bytes)
{
	uint32_t count = plx_frag_count(msg_bytes, dgram_bytes);

	if (count == 0 || b->n_used == b->n)
		return NULL;
	for (uint32_t i = 0; i < b->n; i++) {
		struct plx_outmsg *o = &b->out[i];

		if (o->used)
			continue;
		*o = (struct plx_outmsg){.msg = msg,
		                         .req_id = req_id,
		                         .msg_bytes = msg_bytes,
		                         .frag_count = (uint16_t)count,
		                         .dgram_bytes = dgram_bytes,
		                         .type = type,
		                         .prio = prio,
		                         .used = 1};
		b->n_used++;
		return o;
	}
	return NULL;
}

int plx_outbox_restart(struct plx_outmsg *o, uint16_t dgram_bytes)
{
	uint32_t count = plx_frag_count(o->msg_bytes, dgram_bytes);

	if (count == 0)
		return PLX_E_LIMIT;
	o->frag_count = (uint16_t)count;
	o->dgram_bytes = dgram_bytes;
	o->base = o->next = 0;
	o->acked_map = o->resend_map = o->retx_pkt = 0;
	o->resend_last = 0;
	plx_retx_stop(&o->timer);
	return 0;
}

/* The timer ran out: everything that was sent and not acknowledged goes again. */
static void mark_resend(struct plx_outmsg *o)
{
	uint32_t n = o->next - o->base; /* 1..65 in flight */
	uint64_t unacked = ~(o->acked_map << 1);

	o->resend_map = n >= 64 ? unacked : unacked & ((UINT64_C(1) << n) - 1);
	o->resend_last = n == WINDOW && !(o->acked_map >> 63);
	o->retx_pkt = 0;
}

/* The fragment that o should send now, or -1. */
static int64_t pick(struct plx_outmsg *o, uint64_t now_ns)
{
	if (plx_retx_due(&o->timer, now_ns))
		mark_resend(o);
	if (o->resend_map)
		return o->base + (uint32_t)__builtin_ctzll(o->resend_map);
	if (o->resend_last)
		return o->base + 64u;
	if (o->next < o->frag_count && o->next - o->base < WINDOW)
		return o->next;
	return -1;
}

static void fill(const struct plx_outmsg *o, uint32_t idx, struct plx_out_frag *f)
{
	bool again = idx < o->next;
	bool ask = again || idx + 1u == o->frag_count || idx - o->base == WINDOW - 1 ||
	           idx % ACK_EVERY == ACK_EVERY - 1;
	uint8_t flags = (uint8_t)((ask ? PLX_F_ACK_REQ : 0) | (again ? PLX_F_RETX : 0));

	f->h = (struct plx_hdr){.type = o->type,
	                        .req_id = o->req_id,
	                        .frag_idx = (uint16_t)idx,
	                        .frag_count = o->frag_count,
	                        .payload_bytes =
	                            plx_frag_bytes(o->msg_bytes, o->dgram_bytes, (uint16_t)idx),
	                        .prio_flags = plx_hdr_pack_prio(o->prio, flags)};
	f->bytes = o->msg + (size_t)idx * (o->dgram_bytes - PLX_SEAL_BYTES);
}

int plx_outbox_next(struct plx_outbox *b, uint64_t now_ns, struct plx_out_frag *f)
{
	for (uint32_t i = 0; i < b->n && b->n_used; i++) {
		uint32_t k = (b->turn + i) % b->n;
		int64_t idx = b->out[k].used ? pick(&b->out[k], now_ns) : -1;

		if (idx < 0)
			continue;
		b->turn = k;
		f->out = &b->out[k];
		fill(f->out, (uint32_t)idx, f);
		return 1;
	}
	return 0;
}

void plx_outbox_sent(struct plx_outbox *b, const struct plx_out_frag *f, uint64_t pkt_num,
                     const struct plx_rtt *r, uint64_t now_ns)
{
	struct plx_outmsg *o = f->out;
	uint32_t idx = f->h.frag_idx;

	b->n_sent++;
	if (idx >= o->next) {
		o->next = idx + 1;
	} else {
		if (idx - o->base < 64)
			o->resend_map &= ~(UINT64_C(1) << (idx - o->base));
		else
			o->resend_last = 0;
		if (o->retx_pkt == 0)
			o->retx_pkt = pkt_num;
		o->n_retx++;
		b->n_retx++;
	}
	plx_retx_arm(&o->timer, r, now_ns);
	b->turn = (b->turn + 1) % b->n;
}

struct plx_outmsg *plx_outbox_find(struct plx_outbox *b, uint8_t type, uint64_t req_id)
{
	for (uint32_t i = 0; i < b->n; i++)
		if (b->out[i].used && b->out[i].type == type && b->out[i].req_id == req_id)
			return &b->out[i];
	return NULL;
}

static uint64_t shift_right(uint64_t v, uint32_t n)
{
	return n >= 64 ? 0 : v >> n;
}

/* Move base up by n fragments; maps are relative to it. */
static void advance(struct plx_outmsg *o, uint32_t n)
{
	o->base += n;
	o->acked_map = shift_right(o->acked_map, n);
	if (o->resend_last && n > 0 && n <= 64)
		o->resend_map = shift_right(o->resend_map, n) | (UINT64_C(1) << (64 - n));
	else
		o->resend_map = shift_right(o->resend_map, n);
	if (n > 0)
		o->resend_last = 0;
}

/* Merge the entry into o; returns whether it told anything new. */
static bool merge(struct plx_outmsg *o, const struct plx_msg_ack_entry *e)
{
	uint32_t fm = e->first_missing;
	uint64_t map = e->map, before;
	bool news = fm > o->base;

	if (news)
		advance(o, fm - o->base);
	else
		map = shift_right(map, o->base - fm);
	uint32_t beyond =
	    o->next - o->base; /* fragments base+1 .. next-1 have bits 0 .. beyond-2 */

	if (beyond <= 1)
		map = 0;
	else if (beyond - 1 < 64)
		map &= (UINT64_C(1) << (beyond - 1)) - 1;
	before = o->acked_map;
	o->acked_map |= map;
	o->resend_map &= ~(o->acked_map << 1);
	if (o->acked_map >> 63)
		o->resend_last = 0;
	return news || o->acked_map != before;
}

struct plx_outmsg *plx_outbox_ack(struct plx_outbox *b, const struct plx_msg_ack_entry *e,
                                  uint64_t largest, const struct plx_rtt *r, uint64_t now_ns)
{
	struct plx_outmsg *o = plx_outbox_find(b, e->type, e->req_id);

	if (!o || e->first_missing > o->next)
		return NULL;
	if (!merge(o, e))
		return NULL;
	if (o->retx_pkt && largest < o->retx_pkt) {
		b->n_spurious++;
		o->retx_pkt = 0;
	}
	if (o->base == o->next)
		plx_retx_stop(&o->timer);
	else
		plx_retx_progress(&o->timer, r, now_ns);
	return o->base == o->frag_count ? o : NULL;
}

void plx_outbox_remove(struct plx_outbox *b, struct plx_outmsg *o)
{
	memset(o, 0, sizeof(*o));
	b->n_used--;
}

uint64_t plx_outbox_deadline(const struct plx_outbox *b)
{
	uint64_t first = UINT64_MAX;

	for (uint32_t i = 0; i < b->n && b->n_used; i++) {
		const struct plx_outmsg *o = &b->out[i];

		if (!o->used)
			continue;
		if (o->resend_map || o->resend_last ||
		    (o->next < o->frag_count && o->next - o->base < WINDOW))
			return 0;
		if (o->timer.deadline_ns && o->timer.deadline_ns < first)
			first = o->timer.deadline_ns;
	}
	return first;
}
