/*
 * Records of tokens in chained cells, and messages made of them.
 *
 * A record is a head, then ids, logprobs where asked for, alternatives and text, laid end to end
 * over its cells. The head of a message's first record says how many records the message has.
 */
#include "dataplane/answer.h"

#include <string.h>

#include "fw/base/check.h"

struct rec {
	uint32_t next; /* record after it: index + 1 */
	uint32_t first_idx;
	uint16_t count;
	uint16_t text_bytes;
	uint8_t n_top;
	uint8_t last;
	uint16_t n_recs; /* of the message that begins here; 0: not sent yet, or not a beginning */
};
static_assert(sizeof(struct rec) == 16, "fits a cell's head");

/* Most of each kind that one packet can hold. */
enum {
	MAX_IDS = PLX_TOKENS_ROOM / 4,
	MAX_TOPS = PLX_TOKENS_ROOM / 8,
	MAX_TEXT = PLX_TOKENS_ROOM,
};

void plx_cells_init(struct plx_cells *s, struct plx_cell *cell, uint32_t n)
{
	s->cell = cell;
	s->n = s->n_free = n;
	for (uint32_t i = 0; i < n; i++)
		cell[i].next = i + 2;
	if (n > 0)
		cell[n - 1].next = 0;
	s->free = n > 0;
}

static struct plx_cell *at(const struct plx_cells *c, uint32_t i)
{
	return &c->cell[i - 1];
}

static struct rec *rec_at(const struct plx_cells *c, uint32_t i)
{
	return (struct rec *)(void *)at(c, i)->data;
}

/* A place in a chain of cells. */
struct cursor {
	const struct plx_cells *c;
	uint32_t cell;
	uint32_t off;
};

static void copy_in(struct cursor *u, const void *src, size_t bytes)
{
	const uint8_t *p = src;

	while (bytes > 0) {
		if (u->off == PLX_CELL_BYTES) {
			u->cell = at(u->c, u->cell)->next;
			u->off = 0;
		}
		size_t n = PLX_CELL_BYTES - u->off < bytes ? PLX_CELL_BYTES - u->off : bytes;

		memcpy(at(u->c, u->cell)->data + u->off, p, n);
		u->off += (uint32_t)n;
		p += n;
		bytes -= n;
	}
}

static void copy_out(struct cursor *u, void *dst, size_t bytes)
{
	uint8_t *p = dst;

	while (bytes > 0) {
		if (u->off == PLX_CELL_BYTES) {
			u->cell = at(u->c, u->cell)->next;
			u->off = 0;
		}
		size_t n = PLX_CELL_BYTES - u->off < bytes ? PLX_CELL_BYTES - u->off : bytes;

		memcpy(p, at(u->c, u->cell)->data + u->off, n);
		u->off += (uint32_t)n;
		p += n;
		bytes -= n;
	}
}

/* Take a chain that holds bytes; 0 when there is none. */
static uint32_t take(struct plx_cells *c, size_t bytes)
{
	uint32_t n = (uint32_t)((bytes + PLX_CELL_BYTES - 1) / PLX_CELL_BYTES), first = c->free;

	if (n > c->n_free)
		return 0;
	uint32_t last = first;

	for (uint32_t i = 1; i < n; i++)
		last = at(c, last)->next;
	c->free = at(c, last)->next;
	at(c, last)->next = 0;
	c->n_free -= n;
	return first;
}

static void give(struct plx_cells *c, uint32_t first)
{
	uint32_t last = first;

	c->n_free++;
	while (at(c, last)->next != 0) {
		last = at(c, last)->next;
		c->n_free++;
	}
	at(c, last)->next = c->free;
	c->free = first;
}

int plx_stream_put(struct plx_cells *c, struct plx_stream *s, const struct plx_ev *ev,
                   bool logprobs, uint64_t now_ns)
{
	size_t tops = (size_t)ev->n_ids * ev->n_top, ids = ev->n_ids;
	size_t bytes =
	    sizeof(struct rec) + 4 * ids + (logprobs ? 4 * ids : 0) + 8 * tops + ev->text_bytes;

	if (s->ended || ev->first_idx != s->end_idx || ids > PLX_EV_IDS || tops > PLX_EV_TOPS ||
	    ev->text_bytes > PLX_EV_TEXT)
		return PLX_E_FORMAT;
	uint32_t i = take(c, bytes);

	if (i == 0)
		return PLX_E_FULL;
	*rec_at(c, i) = (struct rec){.first_idx = ev->first_idx,
	                             .count = ev->n_ids,
	                             .text_bytes = ev->text_bytes,
	                             .n_top = (uint8_t)(ids > 0 ? ev->n_top : 0),
	                             .last = ev->last};
	struct cursor u = {c, i, sizeof(struct rec)};

	copy_in(&u, ev->id, 4 * ids);
	if (logprobs)
		copy_in(&u, ev->logprob, 4 * ids);
	copy_in(&u, ev->top, 8 * tops);
	copy_in(&u, ev->text, ev->text_bytes);
	if (s->newest != 0)
		rec_at(c, s->newest)->next = i;
	s->newest = i;
	if (s->oldest == 0)
		s->oldest = i;
	if (s->unsent == 0) {
		s->unsent = i;
		s->since_ns = now_ns;
	}
	s->end_idx += ev->n_ids;
	s->ended = ev->last;
	return PLX_E_OK;
}

/* How many records from i on go into one message, and its fixed part. */
static uint16_t plan(const struct plx_cells *c, uint32_t i, uint16_t fixed_recs, bool logprobs,
                     struct plx_msg_tokens *m)
{
	uint16_t n = 0;

	for (; i != 0 && (fixed_recs == 0 || n < fixed_recs); i = rec_at(c, i)->next) {
		const struct rec *r = rec_at(c, i);
		struct plx_msg_tokens more = *m;

		if (n == 0)
			more.first_idx = r->first_idx;
		if (more.count == 0)
			more.n_top = r->n_top;
		else if (r->count > 0 && r->n_top != more.n_top)
			break;
		more.count = (uint16_t)(more.count + r->count);
		more.text_bytes = (uint16_t)(more.text_bytes + r->text_bytes);
		more.flags = (uint8_t)((logprobs && more.count > 0 ? PLX_TOKENS_LOGPROBS : 0) |
		                       (r->last ? PLX_TOKENS_LAST : 0));
		if (n > 0 && plx_msg_tokens_bytes(&more) > PLX_TOKENS_ROOM)
			break;
		*m = more;
		n++;
	}
	return n;
}

/* The records' parts, gathered. */
struct parts {
	uint32_t ids[MAX_IDS];
	float logprobs[MAX_IDS];
	struct plx_msg_top top[MAX_TOPS];
	char text[MAX_TEXT];
};

static void gather(const struct plx_cells *c, uint32_t i, uint16_t n, bool logprobs,
                   struct parts *g)
{
	uint32_t ids = 0, tops = 0, text = 0;

	for (; n > 0; n--, i = rec_at(c, i)->next) {
		const struct rec *r = rec_at(c, i);
		struct cursor u = {c, i, sizeof(struct rec)};
		uint32_t n_tops = (uint32_t)r->count * r->n_top;

		copy_out(&u, g->ids + ids, 4u * r->count);
		if (logprobs)
			copy_out(&u, g->logprobs + ids, 4u * r->count);
		copy_out(&u, g->top + tops, 8u * n_tops);
		copy_out(&u, g->text + text, r->text_bytes);
		ids += r->count;
		tops += n_tops;
		text += r->text_bytes;
	}
}

bool plx_stream_make(const struct plx_cells *c, const struct plx_stream *s, uint16_t sample,
                     bool logprobs, uint8_t *p, struct plx_stream_msg *out)
{
	uint32_t i = s->resend != 0 ? s->resend : s->unsent;
	struct plx_msg_tokens m = {.sample = sample};
	struct parts g;

	if (i == 0)
		return false;
	out->n_recs = plan(c, i, rec_at(c, i)->n_recs, logprobs, &m);
	out->retx = s->resend != 0;
	out->last = (m.flags & PLX_TOKENS_LAST) != 0;
	gather(c, i, out->n_recs, logprobs, &g);
	int bytes = plx_msg_tokens_encode(p, PLX_TOKENS_ROOM, &m, g.ids, g.logprobs, g.top, g.text);

	PLX_CHECK(bytes > 0);
	out->bytes = (uint32_t)bytes;
	return true;
}

/* The record after n from i on. */
static uint32_t after(const struct plx_cells *c, uint32_t i, uint16_t n)
{
	for (; n > 0 && i != 0; n--)
		i = rec_at(c, i)->next;
	return i;
}

void plx_stream_sent(struct plx_cells *c, struct plx_stream *s, const struct plx_stream_msg *m)
{
	if (m->retx) {
		s->resend = after(c, s->resend, m->n_recs);
		if (s->resend == s->unsent)
			s->resend = 0;
		return;
	}
	rec_at(c, s->unsent)->n_recs = m->n_recs;
	s->unsent = after(c, s->unsent, m->n_recs);
	s->n_msgs++;
}

/* Forget the oldest record; what is left of its message begins with the next one. */
static void drop_oldest(struct plx_cells *c, struct plx_stream *s)
{
	uint32_t i = s->oldest;
	struct rec r = *rec_at(c, i);

	if (r.n_recs > 1 && r.next != 0)
		rec_at(c, r.next)->n_recs = (uint16_t)(r.n_recs - 1);
	if (s->resend == i)
		s->resend = r.next != s->unsent ? r.next : 0;
	if (s->unsent == i)
		s->unsent = r.next;
	if (s->newest == i)
		s->newest = 0;
	s->oldest = r.next;
	give(c, i);
}

bool plx_stream_ack(struct plx_cells *c, struct plx_stream *s, uint32_t next_idx, bool end)
{
	bool news = false;

	if (next_idx > s->end_idx || (end && !s->ended))
		return false; /* speaks of tokens that were never made */
	if (next_idx > s->acked_idx) {
		s->acked_idx = next_idx;
		news = true;
	}
	if (end && !s->end_acked && next_idx == s->end_idx) {
		s->end_acked = true;
		news = true;
	}
	while (s->oldest != 0) {
		const struct rec *r = rec_at(c, s->oldest);

		if (r->first_idx + r->count > s->acked_idx || (r->last && !s->end_acked))
			break;
		drop_oldest(c, s);
	}
	return news;
}

void plx_stream_clear(struct plx_cells *c, struct plx_stream *s)
{
	while (s->oldest != 0)
		drop_oldest(c, s);
	plx_retx_stop(&s->timer);
}

bool plx_answer_settled(const struct plx_answer *a)
{
	if (a->final != PLX_LEG_ACKED)
		return false;
	for (uint16_t i = 0; i < a->n_streams; i++)
		if (a->stream[i].oldest != 0)
			return false;
	return true;
}
