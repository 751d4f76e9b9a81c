/*
 * One io lcore on a port made of rings: how many requests it can take and answer in a second, with
 * the cipher both ways, beside what the cipher alone allows. Client and tok run between the
 * stage's turns and are not counted; time is what passes inside plx_stage_io_poll, the median of
 * many rounds.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/stage_io.h"
#include "fw/base/clock.h"
#include "tests/lib/iorig.h"

#define CLIENTS  8u
#define PER_TURN 16u  /* requests of one client at once: its credit */
#define TEXT     120u /* with block, header and tag: a datagram of 256 bytes */
#define ROUNDS   3000u

static struct plx_rig rig;
static struct plx_rig_client client[CLIENTS];
static uint64_t busy_ns;
static uint64_t round_ns[ROUNDS];

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* Median of n times: what the work costs when nobody else takes the core meanwhile. */
static double median(uint64_t *t, uint32_t n)
{
	qsort(t, n, sizeof(*t), by_value);
	return (double)t[n / 2];
}

/* Turns of the stage alone, timed, until it finds nothing to do. */
static void run_io(void)
{
	uint64_t t0 = plx_clock_ns(), t1;
	uint32_t n;

	do {
		n = plx_stage_io_poll(rig.io[0], t0);
		t1 = plx_clock_ns();
		busy_ns += t1 - t0;
		t0 = t1;
	} while (n > 0);
	rig.now_ns = t1;
}

static void answer_all(bool tokens)
{
	struct plx_req *r;

	while ((r = plx_rig_take(&rig, 0)) != NULL) {
		if (tokens)
			plx_rig_tokens(&rig, r, 0, 42, " word", true);
		r->res.kind = PLX_FINAL_DONE;
		r->res.sample[0] =
		    (struct plx_msg_done_sample){.n_tokens = tokens, .reason = PLX_FINISH_LENGTH};
		plx_rig_event(&rig, r, PLX_EV_FINAL);
	}
}

/* The client's side of a round: everything that came is opened; DONE and tokens are acknowledged.
 */
static uint32_t take_answers(struct plx_rig_client *c)
{
	struct plx_msg_ack_entry e[PLX_ACK_MAX];
	struct plx_msg_tok_ack_entry te[PLX_ACK_MAX];
	uint8_t payload[2048], p[1200];
	uint32_t n = 0, nt = 0;
	struct plx_hdr h;

	while (n < PLX_ACK_MAX && nt < PLX_ACK_MAX && plx_rig_hear(c, &h, payload)) {
		if (h.type == PLX_T_DONE)
			e[n++] = plx_ack_whole(h.type, h.req_id, 1);
		if (h.type == PLX_T_TOKENS)
			te[nt++] = (struct plx_msg_tok_ack_entry){
			    .req_id = h.req_id, .next_idx = 1, .flags = PLX_TOK_ACK_LAST};
	}
	if (nt > 0) {
		struct plx_msg_ack_head head =
		    plx_conn_ack_fill(&c->conn, (uint16_t)nt, rig.now_ns);
		int bytes = plx_msg_tok_ack_encode(p, sizeof(p), &head, te);

		plx_rig_say(c, PLX_T_TOK_ACK, 0, p, (uint32_t)bytes);
	}
	if (n > 0) {
		struct plx_msg_ack_head head = plx_conn_ack_fill(&c->conn, (uint16_t)n, rig.now_ns);
		int bytes = plx_msg_ack_encode(p, sizeof(p), &head, e);

		plx_rig_say(c, PLX_T_ACK, 0, p, (uint32_t)bytes);
	}
	return n;
}

/* Requests a second that the stage's own time allows. */
static double requests(bool tokens)
{
	uint8_t msg[600];
	char text[TEXT];
	uint64_t done = 0, asked = 0;

	memset(text, 'q', sizeof(text));
	uint32_t n = plx_rig_req(msg, sizeof(msg), text, sizeof(text));

	for (uint32_t round = 0; round < ROUNDS; round++) {
		busy_ns = 0;
		for (uint32_t i = 0; i < CLIENTS; i++)
			for (uint32_t k = 0; k < PER_TURN; k++, asked++)
				plx_rig_say(&client[i], PLX_T_REQ, client[i].next_req++, msg, n);
		run_io();
		answer_all(tokens);
		run_io();
		for (uint32_t i = 0; i < CLIENTS; i++)
			done += take_answers(&client[i]);
		run_io();
		for (uint32_t i = 0; i < CLIENTS; i++)
			(void)take_answers(&client[i]); /* CREDIT */
		round_ns[round] = busy_ns;
	}
	if (done != asked)
		printf("bench_io: %lu of %lu requests were answered\n", (unsigned long)done,
		       (unsigned long)asked);
	return CLIENTS * PER_TURN * 1e9 / median(round_ns, ROUNDS);
}

static double pings(void)
{
	struct plx_msg_ping m = {.token = 1};

	for (uint32_t round = 0; round < ROUNDS; round++) {
		busy_ns = 0;
		for (uint32_t i = 0; i < CLIENTS; i++)
			for (uint32_t k = 0; k < PER_TURN; k++)
				plx_rig_say(&client[i], PLX_T_PING, 0, &m, sizeof(m));
		run_io();
		for (uint32_t i = 0; i < CLIENTS; i++)
			(void)take_answers(&client[i]);
		round_ns[round] = busy_ns;
	}
	return CLIENTS * PER_TURN * 1e9 / median(round_ns, ROUNDS);
}

/* Open and seal of a 256-byte datagram, ns for the pair. */
static double cipher_ns(void)
{
	uint8_t secret[32] = {1}, pkt[256] = {0};
	struct plx_aead key;
	struct plx_crypt x;

	if (plx_crypt_open(&x, true, NULL) != 0)
		return 0;
	plx_aead_init(&key, &x, (enum plx_cipher)plx_crypt_pick(x.ciphers, x.ciphers), secret);
	for (uint32_t rep = 0; rep < ROUNDS; rep++) {
		uint64_t t0 = plx_clock_ns();

		for (uint32_t i = 0; i < 128; i++) {
			plx_seal(&x, &key, pkt, 256 - PLX_SEAL_BYTES);
			if (plx_open(&x, &key, pkt, 256 - PLX_SEAL_BYTES) != 0)
				return 0;
		}
		round_ns[rep] = plx_clock_ns() - t0;
	}
	plx_crypt_close(&x);
	return median(round_ns, ROUNDS) / 128;
}

int main(void)
{
	struct plx_config cfg = plx_rig_config();

	cfg.lim.n_session_requests = PER_TURN;
	cfg.lim.n_requests = CLIENTS * PER_TURN;
	cfg.lim.ring_entries = 1024;
	cfg.lim.n_mbufs = 8191;
	cfg.tmr.keepalive_ms = 100000;
	cfg.tmr.rtt_floor_us = 1000000; /* the box may be busy with other things */
	if (plx_rig_eal() != 0 || plx_rig_open(&rig, &cfg, 1, NULL) != 0)
		return 1;
	for (uint32_t i = 0; i < CLIENTS; i++) {
		plx_rig_client_init(&client[i], &rig, 0, NULL, (uint16_t)(40000 + i));
		if (plx_rig_connect(&client[i]) != 0)
			return 1;
	}
	double pair = cipher_ns();

	printf("io: cipher alone, open and seal of 256 bytes: %.0f ns, %.2f M/s\n", pair,
	       1e3 / pair);
	double rate = requests(false);

	printf("io: 256-byte requests in, DONE out, one lcore, in-memory port: %.2f M requests/s "
	       "(%.0f ns each, %.2f of the cipher alone)\n",
	       rate / 1e6, 1e9 / rate, rate * pair / 1e9);
	rate = requests(true);
	printf("io: the same with a token before DONE: %.2f M requests/s (%.0f ns each)\n",
	       rate / 1e6, 1e9 / rate);
	rate = pings();
	printf("io: PING in, PONG out: %.2f M/s (%.0f ns each)\n", rate / 1e6, 1e9 / rate);
	for (uint32_t i = 0; i < CLIENTS; i++)
		plx_rig_client_end(&client[i]);
	plx_rig_close(&rig);
	return 0;
}
