/*
 * What the codec costs beside the cipher: header, a small request, tokens, a fragment, a message
 * through the outbox. One line a figure; the best of several runs counts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/wire/loss.h"
#include "dataplane/wire/reasm.h"
#include "dataplane/wire/req.h"
#include "fw/base/clock.h"
#include "tests/lib/best.h"

#define CHUNKS 15u
#define REGION (1u << 20)

static uint8_t pkt[1472], msg[64u << 10];
static _Alignas(64) uint8_t region[REGION];
static _Alignas(8) uint8_t book[16384];
static struct plx_pieces mem;
static struct plx_reasm reasm;
static struct plx_reasm_msg slots[8];
static struct plx_reasm_session session;
static struct plx_outmsg out[8];
static struct plx_outbox box;
static struct plx_rtt rtt;
static size_t req_bytes;
static volatile uint32_t sink;

static void bench(const char *what, uint32_t rounds, uint32_t per_round, void (*once)(uint32_t i))
{
	printf("wire  %-44s %9.1f ns\n", what, plx_best_ns(CHUNKS, rounds, once) / per_round);
}

static void must(bool ok)
{
	if (!ok) {
		fprintf(stderr, "bench_wire: a step failed\n");
		exit(1);
	}
}

static void header(uint32_t i)
{
	struct plx_hdr h = {.magic = PLX_WIRE_MAGIC,
	                    .version = PLX_WIRE_VERSION,
	                    .type = PLX_T_REQ,
	                    .pkt_num = i,
	                    .frag_count = 1,
	                    .payload_bytes = 256};

	plx_hdr_encode(pkt, &h);
	must(plx_hdr_decode(&h, pkt, 256 + PLX_SEAL_BYTES, PLX_SIDE_CLIENT) == 0);
}

static void write_req(uint32_t i)
{
	static char text[150];
	struct plx_msg_req m = plx_msg_req_init();
	struct plx_req_writer w;

	m.seed = i;
	memset(text, 'a', sizeof(text));
	plx_req_begin(&w, msg, sizeof(msg), &m);
	plx_req_stop(&w, "\n\n", 2);
	plx_req_prompt_text(&w, text, sizeof(text));
	req_bytes = (size_t)plx_req_end(&w);
}

static void read_req(uint32_t i)
{
	static const struct plx_wire_limits lim = {.max_request_bytes = 4096,
	                                           .max_prompt_tokens = 4096,
	                                           .max_new = 4096,
	                                           .max_samples = 4,
	                                           .max_stops = 4,
	                                           .max_stop_bytes = 64};
	struct plx_req_view v;
	struct plx_req_fault f;

	(void)i;
	must(plx_req_decode(&v, msg, req_bytes, &lim, UINT32_MAX, &f) == 0);
	sink = v.n_stops;
}

static void tokens(uint32_t i)
{
	const uint32_t ids[4] = {1, 2, 3, i};
	struct plx_msg_tokens m = {.count = 4, .first_idx = i, .text_bytes = 16};
	struct plx_msg_tokens_view v;
	int n = plx_msg_tokens_encode(pkt, sizeof(pkt), &m, ids, NULL, NULL, "sixteen bytes ok");

	must(plx_msg_tokens_decode(&v, pkt, (size_t)n) == 0);
}

/* A message of 50 fragments, in order, and its memory given back. */
static void reassemble(uint32_t i)
{
	struct plx_reasm_whole w;
	struct plx_hdr h = {
	    .type = PLX_T_REQ, .req_id = i, .frag_count = 50, .payload_bytes = 1152};

	plx_put_u32(pkt, 50 * 1152);
	for (uint16_t k = 0; k < 50; k++) {
		h.frag_idx = k;
		int rc = plx_reasm_add(&reasm, &session, &h, pkt, 0, &w);

		must(rc == (k == 49 ? PLX_REASM_DONE : PLX_REASM_MORE));
	}
	plx_pieces_give(&mem, w.buf);
}

static void send_message(uint32_t i)
{
	struct plx_out_frag f;
	struct plx_msg_ack_entry e = {.req_id = i, .first_missing = 50, .type = PLX_T_REQ};

	must(plx_outbox_add(&box, PLX_T_REQ, i, 0, msg, 50 * 1152, 1200) != NULL);
	while (plx_outbox_next(&box, 1, &f))
		plx_outbox_sent(&box, &f, i, &rtt, 1);
	struct plx_outmsg *o = plx_outbox_ack(&box, &e, i, &rtt, 2);

	must(o != NULL);
	plx_outbox_remove(&box, o);
}

int main(void)
{
	const struct plx_reasm_caps caps = {
	    .max_msg_bytes = 1u << 16, .session_bytes = REGION, .session_msgs = 8, .timeout_ns = 1};

	must(plx_pieces_footprint(REGION) <= sizeof(book) &&
	     plx_pieces_init(&mem, region, REGION, book) == 0);
	plx_reasm_init(&reasm, &mem, slots, 8, &caps);
	plx_outbox_init(&box, out, 8);
	plx_rtt_init(&rtt, 1000, 0);
	bench("header, encode and decode", 5000, 1, header);
	bench("request of 150 bytes and a stop, write", 5000, 1, write_req);
	bench("request of 150 bytes and a stop, check", 5000, 1, read_req);
	bench("tokens, 4 ids and 16 bytes, both ways", 5000, 1, tokens);
	bench("reassembly of 50 x 1,152 bytes, a fragment", 200, 50, reassemble);
	bench("outbox of 50 x 1,152 bytes, a fragment", 200, 50, send_message);
	return 0;
}
