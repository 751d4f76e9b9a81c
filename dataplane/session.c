/*
 * The session table and its timer wheel. Everything is carved once; a session that ends gives its
 * place back and is wiped.
 */
#include "dataplane/session.h"

#include <string.h>

#include "fw/base/check.h"

size_t plx_sessions_bytes(uint32_t n, uint32_t n_requests, uint32_t n_samples)
{
	size_t one = sizeof(struct plx_session) + 4 * (size_t)n_requests * sizeof(struct plx_slot) +
	             n_requests * plx_answer_bytes(n_samples) + 192;

	return n * one + PLX_WHEEL_SLOTS * sizeof(uint32_t) + PLX_WHEEL_SLOTS / 8 + 4096;
}

static int carve_session(struct plx_sessions *t, struct plx_arena *a, struct plx_session *s)
{
	s->slot = plx_arena_take(a, t->n_slots * sizeof(struct plx_slot), 64);
	uint8_t *answers = plx_arena_take(a, t->n_answers * t->answer_bytes, 64);

	if (s->slot == NULL || answers == NULL)
		return PLX_E_NOMEM;
	for (uint32_t i = 0; i < t->n_answers; i++) {
		struct plx_answer *ans = (void *)(answers + i * t->answer_bytes);

		ans->next = s->spare;
		s->spare = ans;
	}
	return PLX_E_OK;
}

int plx_sessions_open(struct plx_sessions *t, struct plx_arena *a, uint32_t n, uint32_t n_requests,
                      uint32_t n_samples, uint32_t io_idx, uint16_t gen_base, uint64_t now_ns)
{
	if (n == 0 || n > 65536 || io_idx > 15 || n_requests == 0)
		return PLX_E_LIMIT;
	memset(t, 0, sizeof(*t));
	t->n = n;
	t->io_idx = io_idx;
	t->n_slots = 4 * n_requests;
	t->n_answers = n_requests;
	t->answer_bytes = plx_answer_bytes(n_samples);
	t->gen_base = gen_base;
	t->wheel_now = now_ns >> PLX_WHEEL_SHIFT;
	t->s = plx_arena_take(a, n * sizeof(*t->s), 64);
	t->wheel = plx_arena_take(a, PLX_WHEEL_SLOTS * sizeof(*t->wheel), 64);
	t->wheel_bits = plx_arena_take(a, PLX_WHEEL_SLOTS / 8, 64);
	if (t->s == NULL || t->wheel == NULL || t->wheel_bits == NULL)
		return PLX_E_NOMEM;
	for (uint32_t i = n; i-- > 0;) {
		if (carve_session(t, a, &t->s[i]) != PLX_E_OK)
			return PLX_E_NOMEM;
		t->s[i].dirty_next = t->free;
		t->free = i + 1;
	}
	return PLX_E_OK;
}

/* The next id of a place: the generation moves on and the id is never 0. */
static uint32_t next_id(const struct plx_sessions *t, uint32_t i)
{
	uint32_t before = t->s[i].id, gen;

	gen = before == 0 ? t->gen_base : (before >> PLX_SESSION_GEN_SHIFT) + 1;
	gen %= PLX_SESSION_GENS;
	uint32_t id = t->io_idx << PLX_SESSION_IO_SHIFT | gen << PLX_SESSION_GEN_SHIFT | i;

	return id != 0 ? id : 1u << PLX_SESSION_GEN_SHIFT;
}

struct plx_session *plx_session_new(struct plx_sessions *t)
{
	if (t->free == 0)
		return NULL;
	uint32_t i = t->free - 1;
	struct plx_session *s = &t->s[i];

	t->free = s->dirty_next;
	t->n_used++;
	s->dirty_next = 0;
	s->id = next_id(t, i);
	s->state = PLX_SESSION_WAIT;
	s->retx_ns = s->flush_ns = PLX_NEVER;
	return s;
}

static void wheel_remove(struct plx_sessions *t, struct plx_session *s)
{
	uint32_t w = s->wheel_slot - 1;

	if (s->wheel_slot == 0)
		return;
	if (s->wheel_prev != 0)
		t->s[s->wheel_prev - 1].wheel_next = s->wheel_next;
	else
		t->wheel[w] = s->wheel_next;
	if (s->wheel_next != 0)
		t->s[s->wheel_next - 1].wheel_prev = s->wheel_prev;
	if (t->wheel[w] == 0)
		t->wheel_bits[w / 64] &= ~(UINT64_C(1) << (w % 64));
	s->wheel_slot = s->wheel_next = s->wheel_prev = 0;
}

void plx_session_give(struct plx_sessions *t, struct plx_session *s)
{
	uint32_t id = s->id;
	struct plx_slot *slot = s->slot;
	struct plx_answer *spare = s->spare;
	bool dirty = s->dirty;
	uint32_t dirty_next = s->dirty_next;

	PLX_DCHECK(s->live == NULL);
	wheel_remove(t, s);
	plx_conn_wipe(&s->conn);
	memset(s, 0, sizeof(*s));
	memset(slot, 0, t->n_slots * sizeof(*slot));
	s->id = id;
	s->slot = slot;
	s->spare = spare;
	t->n_used--;
	s->dirty = dirty;
	if (dirty)
		s->dirty_next = dirty_next;
	else
		plx_session_recycle(t, s);
}

void plx_session_recycle(struct plx_sessions *t, struct plx_session *s)
{
	s->dirty_next = t->free;
	t->free = plx_sessions_index(t, s) + 1;
}

void plx_session_begin(struct plx_session *s, struct plx_crypt *x, const struct plx_hs_keys *keys,
                       uint32_t peer_id, const struct plx_wire_limits *lim, uint64_t packets,
                       uint64_t now_ns)
{
	struct plx_wire_addr addr = plx_net_to_wire(&s->peer);

	s->state = PLX_SESSION_HALF;
	s->limits = *lim;
	plx_conn_init(&s->conn, x, PLX_SIDE_APPLIANCE, s->id, peer_id, keys, lim, now_ns);
	plx_path_init(&s->path, &addr);
	plx_credit_rx_init(&s->credit, packets, lim->max_in_flight);
	plx_req_window_init(&s->window, lim->max_in_flight);
	plx_outbox_init(&s->outbox, s->out, PLX_SESSION_OUTBOX);
}

struct plx_answer *plx_session_answer(struct plx_session *s, uint32_t slot)
{
	struct plx_answer *a = s->spare;

	if (a == NULL)
		return NULL;
	s->spare = a->next;
	memset(a, 0, sizeof(*a));
	a->slot = slot;
	a->req_id = s->slot[slot].req_id;
	a->next = s->live;
	if (s->live != NULL)
		s->live->prev = a;
	s->live = a;
	s->slot[slot].ans = a;
	return a;
}

void plx_session_settle(struct plx_session *s, struct plx_answer *a)
{
	if (a->prev != NULL)
		a->prev->next = a->next;
	else
		s->live = a->next;
	if (a->next != NULL)
		a->next->prev = a->prev;
	s->slot[a->slot].ans = NULL;
	a->next = s->spare;
	a->prev = NULL;
	s->spare = a;
}

void plx_session_arm(struct plx_sessions *t, struct plx_session *s, uint64_t when_ns)
{
	if (when_ns == PLX_NEVER || (s->wheel_slot != 0 && s->wheel_ns <= when_ns))
		return;
	wheel_remove(t, s);
	/* Rounded up, so that a deadline never fires early; at least one tick ahead. */
	uint64_t tick = (when_ns >> PLX_WHEEL_SHIFT) + 1;

	if (tick <= t->wheel_now)
		tick = t->wheel_now + 1;
	if (tick - t->wheel_now >= PLX_WHEEL_SLOTS)
		tick = t->wheel_now + PLX_WHEEL_SLOTS - 1;
	uint32_t w = (uint32_t)(tick % PLX_WHEEL_SLOTS), i = plx_sessions_index(t, s);

	s->wheel_ns = when_ns;
	s->wheel_slot = w + 1;
	s->wheel_prev = 0;
	s->wheel_next = t->wheel[w];
	if (s->wheel_next != 0)
		t->s[s->wheel_next - 1].wheel_prev = i + 1;
	t->wheel[w] = i + 1;
	t->wheel_bits[w / 64] |= UINT64_C(1) << (w % 64);
}

/* First slot with a session in (wheel_now, upto], or none: then wheel_now has moved to upto. */
static bool seek(struct plx_sessions *t, uint64_t upto, uint32_t *slot)
{
	while (t->wheel_now < upto) {
		uint64_t tick = t->wheel_now + 1;
		uint32_t w = (uint32_t)(tick % PLX_WHEEL_SLOTS);
		uint64_t bits = t->wheel_bits[w / 64] >> (w % 64);
		uint64_t step = bits != 0 ? (uint64_t)__builtin_ctzll(bits) : 64 - w % 64;

		if (step > upto - tick || bits == 0) {
			t->wheel_now = tick + step - 1 < upto ? tick + step - 1 : upto;
			continue;
		}
		t->wheel_now = tick + step - 1; /* the slot stays ahead until it is empty */
		*slot = (uint32_t)((tick + step) % PLX_WHEEL_SLOTS);
		return true;
	}
	return false;
}

struct plx_session *plx_sessions_due(struct plx_sessions *t, uint64_t now_ns)
{
	uint64_t upto = now_ns >> PLX_WHEEL_SHIFT;
	uint32_t w;

	if (upto - t->wheel_now > PLX_WHEEL_SLOTS && upto > t->wheel_now)
		t->wheel_now = upto - PLX_WHEEL_SLOTS; /* a long sleep: every slot once is enough */
	if (!seek(t, upto, &w))
		return NULL;
	struct plx_session *s = &t->s[t->wheel[w] - 1];

	wheel_remove(t, s);
	return s;
}

struct plx_wire_addr plx_net_to_wire(const struct plx_net_peer *p)
{
	struct plx_wire_addr a = {.port = p->port};

	if (p->family == 4)
		return plx_wire_addr_v4(p->addr, p->port);
	memcpy(a.ip, p->addr, sizeof(a.ip));
	return a;
}
