/*
 * Any series of fragments, drops, expiries and acknowledgements into reassembly and an outbox: each
 * input byte string is a program of 8-byte steps. Memory must balance at the end, whatever came.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "dataplane/wire/loss.h"
#include "dataplane/wire/reasm.h"
#include "fw/base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REGION (64u << 10)

static _Alignas(64) uint8_t region[REGION];
static _Alignas(8) uint8_t book[1024];
static uint8_t payload[PLX_DGRAM_MAX_BYTES];
static uint8_t message[1u << 17];

struct state {
	struct plx_pieces mem;
	struct plx_reasm r;
	struct plx_reasm_msg msg[4];
	struct plx_reasm_session ses[2];
	struct plx_outbox box;
	struct plx_outmsg out[4];
	struct plx_rtt rtt;
	uint64_t now, pkt_num;
};

/* op, request, session, count, index (2), size selector (2) */
static void fragment(struct state *s, const uint8_t *p)
{
	struct plx_reasm_whole w;
	uint32_t msg_bytes = (uint32_t)(p[6] | p[7] << 8) * 2;
	uint16_t room = p[0] & 0x40 ? 1152 : 1424;
	struct plx_hdr h = {.type = PLX_T_REQ,
	                    .req_id = p[1] % 4,
	                    .pkt_num = s->pkt_num++,
	                    .frag_idx = (uint16_t)(p[4] % 64),
	                    .frag_count = (uint16_t)(p[3] % 64 + 2),
	                    .payload_bytes = room};

	if (p[0] & 0x20) /* what a true sender would write */
		h.frag_count = (uint16_t)plx_frag_count(msg_bytes, (uint16_t)(room + 48));
	if (h.frag_count < 2)
		return;
	h.frag_idx = (uint16_t)(h.frag_idx % h.frag_count);
	if (h.frag_idx + 1 == h.frag_count)
		h.payload_bytes = p[0] & 0x20
		                      ? plx_frag_bytes(msg_bytes, (uint16_t)(room + 48), h.frag_idx)
		                      : (uint16_t)(p[5] * 5);
	if (h.frag_idx == 0)
		plx_put_u32(payload, msg_bytes);
	if (plx_reasm_add(&s->r, &s->ses[p[2] % 2], &h, payload, s->now, &w) == PLX_REASM_DONE) {
		PLX_CHECK(plx_get_u32(w.buf) == w.msg_bytes);
		memset(w.buf, 0xee, w.msg_bytes);
		plx_pieces_give(&s->mem, w.buf);
	}
}

static void send_and_ack(struct state *s, const uint8_t *p)
{
	struct plx_out_frag f;
	struct plx_msg_ack_entry e = {.req_id = p[1] % 4, .type = PLX_T_REQ};

	if (p[0] & 0x40)
		(void)plx_outbox_add(&s->box, PLX_T_REQ, e.req_id, 0, message,
		                     (uint32_t)(p[6] | p[7] << 8) * 2, 1200);
	for (uint32_t i = 0; i < p[5] && plx_outbox_next(&s->box, s->now, &f); i++) {
		PLX_CHECK(f.bytes + f.h.payload_bytes <= message + sizeof(message));
		PLX_CHECK(f.h.frag_idx < f.h.frag_count);
		plx_outbox_sent(&s->box, &f, s->pkt_num++, &s->rtt, s->now);
	}
	e.first_missing = p[4];
	memcpy(&e.map, p, 8);
	struct plx_outmsg *o = plx_outbox_ack(&s->box, &e, p[3], &s->rtt, s->now);

	if (o)
		plx_outbox_remove(&s->box, o);
	(void)plx_outbox_deadline(&s->box);
}

static void step(struct state *s, const uint8_t *p)
{
	struct plx_msg_ack_entry e;

	s->now += p[2];
	switch (p[0] % 8) {
	case 0:
		(void)plx_reasm_drop(&s->r, &s->ses[p[2] % 2], PLX_T_REQ, p[1] % 4);
		break;
	case 1:
		(void)plx_reasm_expire(&s->r, s->now, p[3]);
		break;
	case 2:
		(void)plx_reasm_state(&s->r, &s->ses[p[2] % 2], PLX_T_REQ, p[1] % 4, &e);
		break;
	case 3:
		send_and_ack(s, p);
		break;
	default:
		fragment(s, p);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct state s;
	const struct plx_reasm_caps caps = {
	    .max_msg_bytes = 60000, .session_bytes = 80000, .session_msgs = 3, .timeout_ns = 500};

	memset(&s, 0, sizeof(s));
	PLX_CHECK(plx_pieces_footprint(REGION) <= sizeof(book));
	PLX_CHECK(plx_pieces_init(&s.mem, region, REGION, book) == 0);
	plx_reasm_init(&s.r, &s.mem, s.msg, 4, &caps);
	plx_outbox_init(&s.box, s.out, 4);
	plx_rtt_init(&s.rtt, 100, 10);
	for (size_t i = 0; i + 8 <= size; i += 8)
		step(&s, data + i);
	plx_reasm_drop_all(&s.r, &s.ses[0]);
	plx_reasm_drop_all(&s.r, &s.ses[1]);
	PLX_CHECK(s.ses[0].held_bytes == 0 && s.ses[1].n_msgs == 0);
	PLX_CHECK(s.mem.n_free == s.mem.n_units && s.r.oldest == 0);
	return 0;
}
