/*
 * Reassembly: an entry for each message under way, found through its session's list, aged through
 * one list from oldest to newest (the time limit counts from the first fragment).
 */
#include "dataplane/wire/reasm.h"

#include <string.h>

#include "fw/base/check.h"

#define FRAG_MIN_BYTES (PLX_DGRAM_MIN_BYTES - PLX_SEAL_BYTES)

static struct plx_reasm_msg *at(const struct plx_reasm *r, uint32_t idx1)
{
	return idx1 ? &r->msg[idx1 - 1] : NULL;
}

static uint32_t idx_of(const struct plx_reasm *r, const struct plx_reasm_msg *m)
{
	return (uint32_t)(m - r->msg) + 1;
}

void plx_reasm_init(struct plx_reasm *r, struct plx_pieces *mem, struct plx_reasm_msg *msg,
                    uint32_t n, const struct plx_reasm_caps *caps)
{
	memset(r, 0, sizeof(*r));
	memset(msg, 0, n * sizeof(*msg));
	r->mem = mem;
	r->msg = msg;
	r->n = n;
	r->caps = *caps;
	for (uint32_t i = 0; i < n; i++)
		msg[i].next = i + 1 < n ? i + 2 : 0;
	r->free = n ? 1 : 0;
}

static struct plx_reasm_msg *find(const struct plx_reasm *r, const struct plx_reasm_session *s,
                                  uint8_t type, uint64_t req_id)
{
	struct plx_reasm_msg *m = at(r, s->head);

	while (m && (m->req_id != req_id || m->type != type))
		m = at(r, m->s_next);
	return m;
}

bool plx_reasm_known(const struct plx_reasm *r, const struct plx_reasm_session *s, uint8_t type,
                     uint64_t req_id)
{
	return find(r, s, type, req_id) != NULL;
}

/* ---- entering and leaving the lists ---------------------------------------------------------- */

static void enter(struct plx_reasm *r, struct plx_reasm_session *s, struct plx_reasm_msg *m)
{
	uint32_t idx = idx_of(r, m);

	r->free = m->next;
	m->next = 0;
	m->prev = r->newest;
	if (r->newest)
		at(r, r->newest)->next = idx;
	else
		r->oldest = idx;
	r->newest = idx;
	m->owner = s;
	m->s_next = s->head;
	s->head = idx;
	s->n_msgs++;
	s->held_bytes += m->held_bytes;
}

static void leave(struct plx_reasm *r, struct plx_reasm_msg *m)
{
	struct plx_reasm_session *s = m->owner;
	uint32_t idx = idx_of(r, m), *link = &s->head;

	while (*link != idx)
		link = &at(r, *link)->s_next;
	*link = m->s_next;
	s->n_msgs--;
	s->held_bytes -= m->held_bytes;
	if (m->prev)
		at(r, m->prev)->next = m->next;
	else
		r->oldest = m->next;
	if (m->next)
		at(r, m->next)->prev = m->prev;
	else
		r->newest = m->prev;
	memset(m, 0, sizeof(*m));
	m->next = r->free;
	r->free = idx;
}

static void drop(struct plx_reasm *r, struct plx_reasm_msg *m)
{
	plx_pieces_give(r->mem, m->buf);
	leave(r, m);
}

/* ---- fragments ------------------------------------------------------------------------------- */

static size_t seen_off(uint32_t msg_bytes)
{
	return ((size_t)msg_bytes + 7u) & ~(size_t)7u;
}

static int reserve(struct plx_reasm *r, struct plx_reasm_session *s, uint32_t need,
                   struct plx_reasm_msg **out)
{
	*out = at(r, r->free);
	if (!*out || s->n_msgs >= r->caps.session_msgs || s->held_bytes > r->caps.session_bytes ||
	    need > r->caps.session_bytes - s->held_bytes)
		return PLX_E_FULL;
	(*out)->buf = plx_pieces_take(r->mem, need);
	return (*out)->buf ? 0 : PLX_E_FULL;
}

/* Fragment 0 begins a message: it says how long, and what every other must look like. */
static int begin(struct plx_reasm *r, struct plx_reasm_session *s, const struct plx_hdr *h,
                 const uint8_t *payload, uint64_t now_ns, struct plx_reasm_msg **out)
{
	if (h->payload_bytes < FRAG_MIN_BYTES)
		return PLX_E_FORMAT;
	uint32_t msg_bytes = plx_get_u32(payload);

	if (msg_bytes > r->caps.max_msg_bytes)
		return PLX_E_TOO_LARGE;
	if (plx_frag_count(msg_bytes, (uint16_t)(h->payload_bytes + PLX_SEAL_BYTES)) !=
	    h->frag_count)
		return PLX_E_FORMAT;
	uint32_t need = (uint32_t)(seen_off(msg_bytes) + (h->frag_count + 7u) / 8u);
	int err = reserve(r, s, need, out);

	if (err)
		return err;
	struct plx_reasm_msg *m = *out;

	m->seen = m->buf + seen_off(msg_bytes);
	memset(m->seen, 0, (h->frag_count + 7u) / 8u);
	m->req_id = h->req_id;
	m->first_pkt = h->pkt_num;
	m->expires_ns = now_ns + r->caps.timeout_ns;
	m->msg_bytes = msg_bytes;
	m->held_bytes = need;
	m->frag_bytes = h->payload_bytes;
	m->frag_count = h->frag_count;
	m->type = h->type;
	m->prio = plx_hdr_prio(h);
	enter(r, s, m);
	return 0;
}

/* Whether a fragment looks as fragment 0 said it would. */
static bool fits(const struct plx_reasm_msg *m, const struct plx_hdr *h)
{
	return h->frag_count == m->frag_count &&
	       h->payload_bytes == plx_frag_bytes(m->msg_bytes,
	                                          (uint16_t)(m->frag_bytes + PLX_SEAL_BYTES),
	                                          h->frag_idx);
}

static bool seen(const struct plx_reasm_msg *m, uint32_t i)
{
	return (m->seen[i / 8] >> (i % 8)) & 1;
}

static void store(struct plx_reasm_msg *m, const struct plx_hdr *h, const uint8_t *payload)
{
	memcpy(m->buf + (size_t)h->frag_idx * m->frag_bytes, payload, h->payload_bytes);
	m->seen[h->frag_idx / 8] |= (uint8_t)(1u << (h->frag_idx % 8));
	m->n_seen++;
	while (m->first_missing < m->frag_count && seen(m, m->first_missing))
		m->first_missing++;
}

/* Hand the finished buffer over; the entry is free again. */
static int finish(struct plx_reasm *r, struct plx_reasm_msg *m, struct plx_reasm_whole *out)
{
	*out = (struct plx_reasm_whole){.buf = m->buf,
	                                .msg_bytes = m->msg_bytes,
	                                .frag_count = m->frag_count,
	                                .type = m->type,
	                                .prio = m->prio,
	                                .req_id = m->req_id};
	leave(r, m);
	r->n_done++;
	return PLX_REASM_DONE;
}

/* The message h belongs to, begun (again) if h is its first fragment. */
static int locate(struct plx_reasm *r, struct plx_reasm_session *s, const struct plx_hdr *h,
                  const uint8_t *payload, uint64_t now_ns, struct plx_reasm_msg **out)
{
	struct plx_reasm_msg *m = *out = find(r, s, h->type, h->req_id);

	if (!m)
		return h->frag_idx ? PLX_E_NOT_FOUND : begin(r, s, h, payload, now_ns, out);
	if (fits(m, h))
		return 0;
	if (h->frag_idx || h->pkt_num <= m->first_pkt)
		return PLX_E_FORMAT;
	drop(r, m);
	return begin(r, s, h, payload, now_ns, out);
}

static int count_error(struct plx_reasm *r, int err)
{
	if (err == PLX_E_NOT_FOUND)
		r->n_early++;
	else if (err == PLX_E_FULL)
		r->n_full++;
	else
		r->n_bad++;
	return err;
}

int plx_reasm_add(struct plx_reasm *r, struct plx_reasm_session *s, const struct plx_hdr *h,
                  const uint8_t *payload, uint64_t now_ns, struct plx_reasm_whole *out)
{
	struct plx_reasm_msg *m;
	int err = locate(r, s, h, payload, now_ns, &m);

	if (err)
		return count_error(r, err);
	if (h->frag_idx == 0 && plx_get_u32(payload) != m->msg_bytes)
		return count_error(r, PLX_E_FORMAT);
	if (seen(m, h->frag_idx)) {
		r->n_dup++;
		return PLX_REASM_MORE;
	}
	store(m, h, payload);
	return m->n_seen == m->frag_count ? finish(r, m, out) : PLX_REASM_MORE;
}

int plx_reasm_state(const struct plx_reasm *r, const struct plx_reasm_session *s, uint8_t type,
                    uint64_t req_id, struct plx_msg_ack_entry *e)
{
	const struct plx_reasm_msg *m = find(r, s, type, req_id);

	if (!m)
		return PLX_E_NOT_FOUND;
	*e = (struct plx_msg_ack_entry){
	    .req_id = req_id, .type = type, .first_missing = m->first_missing};
	for (uint32_t i = 0; i < 64; i++) {
		uint32_t f = m->first_missing + 1u + i;

		if (f < m->frag_count && seen(m, f))
			e->map |= UINT64_C(1) << i;
	}
	return 0;
}

/* ---- giving up ------------------------------------------------------------------------------- */

int plx_reasm_drop(struct plx_reasm *r, struct plx_reasm_session *s, uint8_t type, uint64_t req_id)
{
	struct plx_reasm_msg *m = find(r, s, type, req_id);

	if (!m)
		return PLX_E_NOT_FOUND;
	drop(r, m);
	return 0;
}

void plx_reasm_drop_all(struct plx_reasm *r, struct plx_reasm_session *s)
{
	while (s->head)
		drop(r, at(r, s->head));
}

bool plx_reasm_expire_next(struct plx_reasm *r, uint64_t now_ns, struct plx_reasm_gone *gone)
{
	struct plx_reasm_msg *m = at(r, r->oldest);

	if (!m || now_ns < m->expires_ns)
		return false;
	*gone = (struct plx_reasm_gone){.session = m->owner, .req_id = m->req_id, .type = m->type};
	drop(r, m);
	r->n_expired++;
	return true;
}

uint32_t plx_reasm_expire(struct plx_reasm *r, uint64_t now_ns, uint32_t max)
{
	struct plx_reasm_gone gone;
	uint32_t n = 0;

	while (n < max && plx_reasm_expire_next(r, now_ns, &gone))
		n++;
	return n;
}
