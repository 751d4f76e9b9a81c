/* Round trips, timers, the outbox; and outbox to reassembly over a link that loses, repeats and
 * reorders, with every packet sealed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/wire/conn.h"
#include "dataplane/wire/reasm.h"

#define US(n) ((n)*UINT64_C(1000))
#define MS(n) ((n)*UINT64_C(1000000))

/* ---- estimator and timers -------------------------------------------------------------------- */

static void test_rtt_follows_rfc9002(void **state)
{
	struct plx_rtt r;

	(void)state;
	plx_rtt_init(&r, US(200), US(100));
	assert_int_equal(plx_rtt_timeout(&r), US(2000)); /* 10 floors before the first sample */
	plx_rtt_sample(&r, US(1000), US(500));
	assert_int_equal(r.srtt_ns, US(1000));
	assert_int_equal(r.rttvar_ns, US(500));
	assert_int_equal(plx_rtt_timeout(&r), US(1000 + 4 * 500 + 100));
	plx_rtt_sample(&r, US(2000), US(500)); /* delay is capped at 100 us: 1,900 counts */
	assert_int_equal(r.srtt_ns, (7 * US(1000) + US(1900)) / 8);
	assert_int_equal(r.rttvar_ns, (3 * US(500) + US(900)) / 4);
	plx_rtt_sample(&r, US(1050), US(100)); /* less than min + delay: not adjusted */
	assert_int_equal(r.min_ns, US(1000));
	for (int i = 0; i < 200; i++)
		plx_rtt_sample(&r, US(10), 0);
	assert_int_equal(plx_rtt_timeout(&r), US(200)); /* the floor */
}

static void test_retx_backs_off_and_recovers(void **state)
{
	struct plx_rtt r;
	struct plx_retx t = {0};
	uint64_t now = US(10);

	(void)state;
	plx_rtt_init(&r, US(200), 0);
	assert_false(plx_retx_due(&t, now));
	for (uint32_t i = 0; i < 6; i++) {
		plx_retx_arm(&t, &r, now);
		assert_int_equal(t.deadline_ns, now + (US(2000) << i));
		assert_false(plx_retx_due(&t, t.deadline_ns - 1));
		now = t.deadline_ns;
		assert_true(plx_retx_due(&t, now));
	}
	for (int i = 0; i < 10; i++) {
		plx_retx_arm(&t, &r, now);
		now = t.deadline_ns;
		assert_true(plx_retx_due(&t, now));
	}
	plx_retx_arm(&t, &r, now);
	assert_int_equal(t.deadline_ns - now, US(2000) << PLX_RETX_BACKOFF_MAX);
	plx_retx_progress(&t, &r, now);
	assert_int_equal(t.deadline_ns, now + US(2000));
}

static void test_sent_ring_forgets_the_oldest(void **state)
{
	static struct plx_sent_ring s;

	(void)state;
	for (uint64_t i = 0; i < 70; i++)
		plx_sent_add(&s, i, 100 + i);
	assert_int_equal(plx_sent_take(&s, 5), 0);
	assert_int_equal(plx_sent_take(&s, 6), 106);
	assert_int_equal(plx_sent_take(&s, 6), 0);
	assert_int_equal(plx_sent_take(&s, 69), 169);
}

/* ---- the outbox alone -------------------------------------------------------------------------
 */

static uint8_t message[200000];
static struct plx_outmsg slots[8];
static struct plx_outbox box;
static struct plx_rtt rtt;
static uint64_t pkt_num;

static int setup_box(void **state)
{
	(void)state;
	plx_outbox_init(&box, slots, 8);
	plx_rtt_init(&rtt, MS(1), 0);
	pkt_num = 1;
	return 0;
}

/* Send all that may go; returns how many fragments. */
static int drain(uint64_t now, uint8_t *last_flags)
{
	struct plx_out_frag f;
	int n = 0;

	while (plx_outbox_next(&box, now, &f)) {
		assert_in_range(n, 0, 1000);
		plx_outbox_sent(&box, &f, pkt_num++, &rtt, now);
		*last_flags = plx_hdr_flags(&f.h);
		n++;
	}
	return n;
}

static struct plx_outmsg *ack(uint32_t first_missing, uint64_t map, uint64_t largest, uint64_t now)
{
	struct plx_msg_ack_entry e = {
	    .req_id = 1, .type = PLX_T_REQ, .first_missing = first_missing, .map = map};

	return plx_outbox_ack(&box, &e, largest, &rtt, now);
}

static void test_outbox_window_is_what_an_ack_can_say(void **state)
{
	uint8_t flags = 0;

	(void)state;
	assert_non_null(plx_outbox_add(&box, PLX_T_REQ, 1, 0, message, 100 * 1152, 1200));
	assert_int_equal(plx_outbox_deadline(&box), 0);
	assert_int_equal(drain(MS(1), &flags), 65);
	assert_int_equal(flags, PLX_F_ACK_REQ);
	assert_null(ack(10, 0, 5, MS(2)));
	assert_int_equal(drain(MS(2), &flags), 10);
	assert_null(ack(70, 0, 70, MS(2)));
	assert_int_equal(drain(MS(2), &flags), 25);
	assert_null(ack(101, 0, 80, MS(2))); /* more than there is */
	struct plx_outmsg *o = ack(100, 0, 100, MS(3));

	assert_non_null(o);
	plx_outbox_remove(&box, o);
	assert_int_equal(box.n_used, 0);
	assert_int_equal(plx_outbox_deadline(&box), UINT64_MAX);
}

static void test_outbox_resends_only_what_is_missing(void **state)
{
	uint8_t flags = 0;

	(void)state;
	plx_outbox_add(&box, PLX_T_REQ, 1, 0, message, 10 * 1152, 1200);
	assert_int_equal(drain(MS(1), &flags), 10);
	assert_null(ack(2, 0x15, 9, MS(2)));       /* 3, 5, 7 are there; 2, 4, 6, 8, 9 missing */
	assert_int_equal(drain(MS(2), &flags), 0); /* an ACK causes no retransmission */
	assert_null(ack(2, 0x15, 9, MS(3)));       /* a duplicate neither */
	assert_int_equal(drain(MS(3), &flags), 0);
	assert_int_equal(plx_outbox_deadline(&box), MS(12));
	assert_int_equal(drain(MS(12), &flags), 5);
	assert_int_equal(flags, PLX_F_ACK_REQ | PLX_F_RETX);
	assert_int_equal(box.n_retx, 5);
	assert_int_equal(slots[0].timer.n_timeouts, 1);
	assert_non_null(ack(10, 0, 15, MS(13)));
	assert_int_equal(box.n_spurious, 0);
}

static void test_outbox_counts_spurious_retransmissions(void **state)
{
	uint8_t flags = 0;

	(void)state;
	plx_outbox_add(&box, PLX_T_REQ, 1, 0, message, 100, 1200);
	assert_int_equal(drain(MS(1), &flags), 1);  /* packet 1 */
	assert_int_equal(drain(MS(11), &flags), 1); /* packet 2 */
	assert_non_null(ack(1, 0, 1, MS(12)));      /* the first one did arrive */
	assert_int_equal(box.n_spurious, 1);
}

static void test_outbox_table_is_bounded(void **state)
{
	(void)state;
	for (uint64_t i = 0; i < 8; i++)
		assert_non_null(plx_outbox_add(&box, PLX_T_REQ, i, 0, message, 1, 1200));
	assert_null(plx_outbox_add(&box, PLX_T_REQ, 9, 0, message, 1, 1200));
	plx_outbox_remove(&box, plx_outbox_find(&box, PLX_T_REQ, 3));
	assert_null(plx_outbox_find(&box, PLX_T_REQ, 3));
	assert_null(plx_outbox_add(&box, PLX_T_REQ, 9, 0, message, 1152 * 65535 + 1, 1200));
	assert_non_null(plx_outbox_add(&box, PLX_T_REQ, 9, 0, message, 1, 1200));
}

static void test_outbox_restarts_in_smaller_datagrams(void **state)
{
	uint8_t flags = 0;

	(void)state;
	struct plx_outmsg *o = plx_outbox_add(&box, PLX_T_REQ, 1, 0, message, 10000, 9000);

	assert_int_equal(drain(MS(1), &flags), 2);
	ack(1, 0, 1, MS(2));
	assert_int_equal(plx_outbox_restart(o, 1200), 0);
	assert_int_equal(drain(MS(3), &flags), 9);
	assert_non_null(ack(9, 0, 11, MS(4)));
}

/* Any ACK whatever leaves the table sane: base never passes next, what is sent again was sent. */
static void test_outbox_survives_nonsense(void **state)
{
	uint64_t x = 7, now = MS(1);
	uint8_t flags = 0;

	(void)state;
	plx_outbox_add(&box, PLX_T_REQ, 1, 0, message, 150 * 1152, 1200);
	for (int i = 0; i < 20000 && box.n_used; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		now += x >> 46;
		drain(now, &flags);
		struct plx_outmsg *o = &slots[0];
		uint32_t fm = (uint32_t)((x >> 20) % (o->next + 2));

		if (fm > o->base + 3)
			fm = o->base;
		if (ack(fm, x * (x >> 7), (x >> 30) % pkt_num, now))
			plx_outbox_remove(&box, o);
		assert_true(o->base <= o->next && o->next <= 150 && o->next - o->base <= 65);
	}
	assert_int_equal(box.n_used, 0);
}

/* ---- outbox, seal, link, open, reassembly ------------------------------------------------------
 */

#define REGION  (1u << 20)
#define N_MSGS  40u
#define MAX_PKT 4096u

struct flying {
	uint64_t at_ns;
	uint16_t bytes;
	uint8_t to_app, used;
	uint8_t pkt[1472];
};

struct world {
	struct plx_crypt x;
	struct plx_wire_conn cli, app;
	struct plx_outbox box;
	struct plx_outmsg out[16];
	struct plx_pieces mem;
	struct plx_reasm reasm;
	struct plx_reasm_msg rmsg[16];
	struct plx_reasm_session ses;
	struct flying air[MAX_PKT];
	uint32_t msg_bytes[N_MSGS];
	uint8_t delivered[N_MSGS], acked[N_MSGS];
	uint32_t loss_percent;
	uint64_t now, rnd, n_lost;
};

static _Alignas(64) uint8_t region[REGION];
static _Alignas(8) uint8_t book[16384];

static uint64_t rnd(struct world *w)
{
	w->rnd ^= w->rnd << 13, w->rnd ^= w->rnd >> 7, w->rnd ^= w->rnd << 17;
	return w->rnd * 0x2545F4914F6CDD1Du >> 16;
}

static void put_in_air(struct world *w, const uint8_t *pkt, int n, bool to_app)
{
	assert_true(n > 0);
	int copies = rnd(w) % 100 < w->loss_percent ? 2 : 1;

	if (rnd(w) % 100 < w->loss_percent) {
		w->n_lost++;
		return;
	}
	for (uint32_t i = 0; i < MAX_PKT && copies; i++) {
		struct flying *f = &w->air[i];

		if (f->used)
			continue;
		bool late = rnd(w) % 100 < w->loss_percent;

		*f = (struct flying){.at_ns = w->now + US(50) + (late ? rnd(w) % MS(3) : 0),
		                     .bytes = (uint16_t)n,
		                     .to_app = to_app,
		                     .used = 1};
		memcpy(f->pkt, pkt, (size_t)n);
		copies--;
	}
}

/* What the appliance does with one fragment of a request. */
static void app_takes(struct world *w, const struct plx_hdr *h, const uint8_t *payload)
{
	struct plx_reasm_whole whole;
	struct plx_msg_ack_entry e;
	uint64_t id = h->req_id;
	bool done = w->delivered[id];
	const uint8_t *body = payload;

	if (!done && h->frag_count > 1) {
		int rc = plx_reasm_add(&w->reasm, &w->ses, h, payload, w->now, &whole);

		assert_true(rc >= 0 || rc == PLX_E_NOT_FOUND || rc == PLX_E_FULL);
		done = rc == PLX_REASM_DONE;
		body = done ? whole.buf : NULL;
	} else if (!done) {
		done = true;
	}
	if (done && !w->delivered[id]) {
		assert_memory_equal(body + 4, message + id + 4, w->msg_bytes[id] - 4);
		assert_int_equal(plx_get_u32(body), w->msg_bytes[id]);
		w->delivered[id] = 1;
		if (h->frag_count > 1)
			plx_pieces_give(&w->mem, whole.buf);
	}
	bool at_once = done || (plx_hdr_flags(h) & PLX_F_ACK_REQ);

	if (done)
		e = plx_ack_whole(PLX_T_REQ, id, h->frag_count);
	else if (plx_reasm_state(&w->reasm, &w->ses, PLX_T_REQ, id, &e))
		return;
	plx_conn_ack(&w->app, &e, at_once, w->now);
}

static void cli_takes(struct world *w, const struct plx_hdr *h, const uint8_t *payload)
{
	struct plx_msg_ack_head head;
	struct plx_msg_ack_entry e[PLX_ACK_MAX];

	assert_int_equal(h->type, PLX_T_ACK);
	assert_int_equal(plx_msg_ack_decode(&head, e, payload, h->payload_bytes), 0);
	plx_conn_acked(&w->cli, &head, w->now);
	for (uint32_t i = 0; i < head.n_entries; i++) {
		struct plx_outmsg *o =
		    plx_outbox_ack(&w->box, &e[i], head.largest_pkt_num, &w->cli.rtt, w->now);

		if (!o)
			continue;
		w->acked[o->req_id]++;
		plx_outbox_remove(&w->box, o);
	}
}

static void land(struct world *w)
{
	for (uint32_t i = 0; i < MAX_PKT; i++) {
		struct flying *f = &w->air[i];
		struct plx_hdr h;

		if (!f->used || f->at_ns > w->now)
			continue;
		f->used = 0;
		int err = plx_conn_open(f->to_app ? &w->app : &w->cli, &w->x, &h, f->pkt, f->bytes,
		                        w->now);

		if (err == PLX_E_REPLAY || (err == PLX_E_AUTH && w->loss_percent))
			continue; /* the link repeats packets, or kept one beyond its epoch */
		assert_int_equal(err, 0);
		if (f->to_app)
			app_takes(w, &h, f->pkt + PLX_HDR_BYTES);
		else
			cli_takes(w, &h, f->pkt + PLX_HDR_BYTES);
	}
}

static void send_due(struct world *w)
{
	struct plx_out_frag f;
	uint8_t pkt[1472];
	int n;

	for (int i = 0; i < 8 && plx_outbox_next(&w->box, w->now, &f); i++) {
		memcpy(pkt + PLX_HDR_BYTES, f.bytes, f.h.payload_bytes);
		if (f.h.frag_idx == 0)
			plx_put_u32(pkt + PLX_HDR_BYTES, f.out->msg_bytes);
		n = plx_conn_seal(&w->cli, &w->x, &f.h, pkt, w->now);
		plx_outbox_sent(&w->box, &f, f.h.pkt_num, &w->cli.rtt, w->now);
		put_in_air(w, pkt, n, true);
	}
	n = plx_conn_ack_flush(&w->app, &w->x, pkt, sizeof(pkt), w->now);
	if (n)
		put_in_air(w, pkt, n, false);
}

static void world_init(struct world *w, uint64_t seed, uint32_t loss_percent)
{
	const struct plx_wire_limits lim = {.retx_floor_us = 200, .max_ack_delay_us = 100};
	const struct plx_reasm_caps caps = {.max_msg_bytes = 200000,
	                                    .session_bytes = REGION,
	                                    .session_msgs = 16,
	                                    .timeout_ns = MS(100000)};
	struct plx_hs_keys keys = {.secret_c2a = {1}, .secret_a2c = {2}};

	memset(w, 0, sizeof(*w));
	w->rnd = seed;
	w->loss_percent = loss_percent;
	w->now = MS(1);
	assert_int_equal(plx_crypt_open(&w->x, true, NULL), 0);
	keys.cipher = (enum plx_cipher)plx_crypt_pick(w->x.ciphers, 6);
	plx_conn_init(&w->cli, &w->x, PLX_SIDE_CLIENT, 1, 2, &keys, &lim, w->now);
	plx_conn_init(&w->app, &w->x, PLX_SIDE_APPLIANCE, 2, 1, &keys, &lim, w->now);
	w->cli.rekey_after = 300; /* several epochs on the way */
	plx_outbox_init(&w->box, w->out, 16);
	assert_true(plx_pieces_footprint(REGION) <= sizeof(book));
	assert_int_equal(plx_pieces_init(&w->mem, region, loss_percent ? REGION / 4 : REGION, book),
	                 0);
	plx_reasm_init(&w->reasm, &w->mem, w->rmsg, 16, &caps);
	for (uint32_t i = 0; i < N_MSGS; i++)
		w->msg_bytes[i] = (uint32_t)(4 + (i % 5 ? rnd(w) % 9000 : rnd(w) % 50000));
}

static void run_world(uint64_t seed, uint32_t loss_percent)
{
	static struct world w;
	uint32_t next = 0, steps = 0;

	world_init(&w, seed, loss_percent);
	while (next < N_MSGS || w.box.n_used) {
		while (next < N_MSGS &&
		       plx_outbox_add(&w.box, PLX_T_REQ, next, 0, message + next, w.msg_bytes[next],
		                      (uint16_t)(1200 + next % 3 * 100)))
			next++;
		send_due(&w);
		land(&w);
		w.now += US(10);
		assert_in_range(++steps, 1, 2000000);
	}
	for (uint32_t i = 0; i < N_MSGS; i++) {
		assert_int_equal(w.delivered[i], 1);
		assert_int_equal(w.acked[i], 1);
	}
	assert_int_equal(w.ses.held_bytes, 0);
	assert_int_equal(w.mem.n_free, w.mem.n_units);
	assert_int_equal(w.app.n_auth_fail, 0);
	assert_true(w.app.rx_epoch >= 1);
	if (loss_percent == 0) {
		assert_int_equal(w.box.n_retx, 0);
		assert_int_equal(w.n_lost, 0);
	} else {
		assert_true(w.box.n_retx > 0 && w.n_lost > 0);
	}
	plx_crypt_close(&w.x);
}

static void fill_message(void)
{
	for (uint32_t i = 0; i < sizeof(message); i++)
		message[i] = (uint8_t)(i * 2654435761u >> 13);
}

static void test_messages_arrive_over_a_clean_link(void **state)
{
	(void)state;
	fill_message();
	run_world(1, 0);
}

static void test_messages_arrive_whatever_the_link_does(void **state)
{
	(void)state;
	fill_message();
	for (uint64_t seed = 1; seed <= 6; seed++)
		run_world(seed * 7919, (uint32_t)(seed * 5)); /* 5 to 30 % */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_rtt_follows_rfc9002),
	    cmocka_unit_test(test_retx_backs_off_and_recovers),
	    cmocka_unit_test(test_sent_ring_forgets_the_oldest),
	    cmocka_unit_test_setup(test_outbox_window_is_what_an_ack_can_say, setup_box),
	    cmocka_unit_test_setup(test_outbox_resends_only_what_is_missing, setup_box),
	    cmocka_unit_test_setup(test_outbox_counts_spurious_retransmissions, setup_box),
	    cmocka_unit_test_setup(test_outbox_table_is_bounded, setup_box),
	    cmocka_unit_test_setup(test_outbox_restarts_in_smaller_datagrams, setup_box),
	    cmocka_unit_test_setup(test_outbox_survives_nonsense, setup_box),
	    cmocka_unit_test(test_messages_arrive_over_a_clean_link),
	    cmocka_unit_test(test_messages_arrive_whatever_the_link_does),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
