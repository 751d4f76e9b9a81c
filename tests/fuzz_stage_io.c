/*
 * An authenticated client that says anything: the input is a list of messages, sealed properly and
 * sent to an io stage, with answers from tok and time in between. Nothing may crash, and when the
 * session has gone everything it held must have been given back.
 */
#include <stdlib.h>
#include <string.h>

#include "dataplane/stage_io_state.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "tests/lib/iorig.h"

static struct plx_rig rig;

/* Take n bytes of the input; zeros when it is used up. */
struct input {
	const uint8_t *p;
	size_t left;
};

static void take(struct input *in, void *out, size_t n)
{
	size_t k = n < in->left ? n : in->left;

	memset(out, 0, n);
	memcpy(out, in->p, k);
	in->p += k;
	in->left -= k;
}

static void say_something(struct input *in, struct plx_rig_client *c)
{
	static const uint8_t types[] = {PLX_T_REQ,  PLX_T_CANCEL, PLX_T_TOK_ACK,      PLX_T_ACK,
	                                PLX_T_PING, PLX_T_PONG,   PLX_T_PATH_RESPONSE};
	uint8_t b[8], payload[1152];

	take(in, b, sizeof(b));
	uint32_t bytes = b[6] | (uint32_t)(b[7] & 3) << 8;
	struct plx_hdr h = {.type = types[b[0] % sizeof(types)],
	                    .req_id = b[1],
	                    .frag_idx = b[2] & 3,
	                    .frag_count = 1,
	                    .prio_flags = b[3] & 0x3f};

	if (h.type == PLX_T_REQ) {
		h.frag_count = 1 + (b[2] >> 6);
		h.frag_idx %= h.frag_count;
	} else {
		h.frag_idx = 0;
	}
	if (h.frag_count > 1 && h.frag_idx + 1 < h.frag_count)
		bytes = sizeof(payload);
	take(in, payload, bytes);
	(void)plx_rig_send(c, &h, payload, bytes);
}

/* A request that is right, so that answers exist for the rest to act on. */
static void ask(struct input *in, struct plx_rig_client *c)
{
	uint8_t msg[400], b[1];
	uint32_t n = plx_rig_req(msg, sizeof(msg), "fuzz", 4);

	take(in, b, 1);
	plx_rig_say(c, PLX_T_REQ, b[0] % 20, msg, n);
}

static struct plx_req *running[16];
static uint32_t made[16];

static void end(uint32_t i)
{
	running[i]->res.kind = 1 + made[i] % 3;
	running[i]->res.err = PLX_E_KV_PRESSURE;
	running[i]->res.cause = PLX_CANCEL_CLIENT;
	plx_rig_event(&rig, running[i], PLX_EV_FINAL);
	running[i] = NULL;
}

static void answer(uint8_t how)
{
	uint32_t i = how % 16;

	if (running[i] == NULL)
		return;
	if (how & 16)
		plx_rig_tokens(&rig, running[i], made[i]++, 7, "ab", false);
	else if (how & 32)
		plx_rig_event(&rig, running[i], PLX_EV_ACCEPTED);
	else
		end(i);
}

static void turn(uint64_t ns)
{
	struct plx_req *r;
	void *m;

	plx_rig_turn(&rig, ns);
	while ((r = plx_rig_take(&rig, 0)) != NULL) {
		running[r->idx] = r;
		made[r->idx] = 0;
	}
	while (rte_ring_dequeue(rig.from_io[0], &m) == 0)
		rte_pktmbuf_free(m);
}

static void check_all_is_back(void)
{
	struct plx_stage_io *io = rig.io[0];

	for (uint32_t i = 0; i < 16; i++)
		if (running[i] != NULL)
			end(i);
	for (int i = 0; i < 8; i++)
		turn(1000);
	PLX_CHECK(plx_req_busy(&rig.links) == 0);
	PLX_CHECK(io->sessions.n_used == 0 && io->n_half == 0);
	PLX_CHECK(io->cells.n_free == io->cells.n);
	PLX_CHECK(io->pieces.n_free == io->pieces.n_units);
	PLX_CHECK(atomic_load(&rig.keys.use[0].n_sessions) == 0);
}

static void close_rig(void)
{
	plx_rig_close(&rig);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static int ready;
	struct plx_config cfg = plx_rig_config();
	struct input in = {data, bytes};
	struct plx_rig_client c;
	struct plx_msg_close bye = {0};

	if (!ready) {
		PLX_CHECK(plx_rig_eal() == 0 && plx_rig_open(&rig, &cfg, 1, NULL) == 0);
		ready = atexit(close_rig) == 0;
	}
	rig.now_ns += 12 * PLX_NS_PER_S; /* handshakes of before are forgotten */
	plx_rig_client_init(&c, &rig, 0, NULL, 40000);
	PLX_CHECK(plx_rig_connect(&c) == 0);
	for (int i = 0; i < 200 && in.left > 0; i++) {
		uint8_t op[2];

		take(&in, op, sizeof(op));
		if (op[0] < 140)
			say_something(&in, &c);
		else if (op[0] < 180)
			ask(&in, &c);
		else
			answer(op[1]);
		turn(op[1] * UINT64_C(40000));
	}
	plx_rig_say(&c, PLX_T_CLOSE, 0, &bye, sizeof(bye));
	for (int i = 0; i < 3; i++)
		turn(1000);
	if (rig.io[0]->sessions.n_used != 0) /* it was given up before, or the CLOSE was lost */
		for (int i = 0; i < 40; i++)
			turn(100 * PLX_NS_PER_MS);
	check_all_is_back();
	plx_rig_client_end(&c);
	return 0;
}
