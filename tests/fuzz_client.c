/*
 * An appliance that lies: after a real handshake and with four requests under way, one of which may
 * be resumed and one of which goes on from another, the client gets packets of any type and
 * content, properly sealed, and others that are not; and its appliance is restarted. It must
 * neither crash nor end a request twice.
 *
 * Input: records of {type, flags, req_id, frag_idx, frag_count, length u16, payload}; type 0: the
 * payload is a whole datagram as it is; type 255: a restart.
 */
#include <stdint.h>
#include <string.h>

#include "tests/lib/client_rig.h"

static const uint8_t *record(struct plx_crig *r, const uint8_t *p, const uint8_t *end)
{
	uint8_t pkt[PLX_DGRAM_MAX_BYTES];
	struct plx_hdr h = {.type = p[0],
	                    .prio_flags = plx_hdr_pack_prio(0, p[1] & 3),
	                    .req_id = p[2] & 7,
	                    .frag_idx = p[3],
	                    .frag_count = p[4]};
	uint32_t n = (uint32_t)p[5] | (uint32_t)p[6] << 8;

	p += 7;
	if (n > (size_t)(end - p))
		n = (uint32_t)(end - p);
	if (n > PLX_PAYLOAD_MAX)
		n = PLX_PAYLOAD_MAX;
	h.payload_bytes = (uint16_t)n;
	if (h.type == 255) {
		plx_peer_restart(r->peer);
	} else if (h.type) {
		plx_peer_say(r->peer, &h, p, r->now_ns);
	} else {
		memcpy(pkt, p, n);
		plx_client_input(r->client, pkt, n, r->now_ns);
	}
	plx_crig_run(r, 300000, NULL, NULL);
	return p + n;
}

static void go_on(struct plx_crig *r, uint64_t from)
{
	struct plx_client_request q;
	uint64_t req;

	plx_client_request_init(&q);
	q.text = "c and more";
	q.text_bytes = 10;
	q.continues = from;
	q.n_known = 1;
	q.resubmit = PLX_CLIENT_RESUBMIT_RESUME;
	PLX_CHECK(!plx_client_submit(r->client, &q, &req, NULL));
	plx_crig_log_of(r, req);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	const uint8_t *p = data, *end = data + n_bytes;
	struct plx_client_config cc;
	struct plx_peer_cfg pc = {.insecure = true, .token_ns = 1000000};

	plx_client_config_init(&cc);
	cc.host = "box";
	cc.insecure = true;
	struct plx_crig *r = plx_crig_open(&cc, &pc, NULL);

	plx_crig_submit(r, "a", 50, PLX_CLIENT_RESUBMIT_NEVER);
	plx_crig_submit(r, "b", 50, PLX_CLIENT_RESUBMIT_ALWAYS);
	uint64_t c = plx_crig_submit(r, "c", 1, PLX_CLIENT_RESUBMIT_RESUME)->req;

	plx_crig_run(r, 3000000, NULL, NULL);
	go_on(r, c);
	plx_crig_run(r, 3000000, NULL, NULL);
	for (int i = 0; i < 64 && end - p >= 7; i++)
		p = record(r, p, end);
	plx_client_cancel(r->client, 1);
	plx_crig_run(r, 10000000, NULL, NULL);
	for (uint32_t i = 0; i < r->n_log; i++)
		PLX_CHECK(r->log[i].n_finals <= 1);
	plx_crig_close(r);
	return 0;
}
