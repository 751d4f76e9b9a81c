/* The packet header and the payloads of every message but REQ. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/wire/msg.h"
#include "dataplane/wire/req.h"

static struct plx_hdr good(void)
{
	return (struct plx_hdr){.magic = PLX_WIRE_MAGIC,
	                        .version = 1,
	                        .type = PLX_T_REQ,
	                        .session_id = 0x01020304,
	                        .pkt_num = 0x1112131415161718,
	                        .req_id = 0x2122232425262728,
	                        .frag_idx = 2,
	                        .frag_count = 3,
	                        .payload_bytes = 8,
	                        .prio_flags = plx_hdr_pack_prio(5, PLX_F_RETX),
	                        .epoch = 7};
}

static int decode(const struct plx_hdr *in, size_t n_bytes, enum plx_wire_side from)
{
	static uint8_t pkt[PLX_DGRAM_MAX_BYTES + 1];
	struct plx_hdr h;

	plx_hdr_encode(pkt, in);
	return plx_hdr_decode(&h, pkt, n_bytes, from);
}

static void test_header_bytes(void **state)
{
	static const uint8_t want[32] = {0x50, 0x58, 1,    16,   0x04, 0x03, 0x02, 0x01,
	                                 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
	                                 0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21,
	                                 2,    0,    3,    0,    8,    0,    0x25, 7};
	uint8_t pkt[56] = {0};
	struct plx_hdr h = good(), back;

	(void)state;
	plx_hdr_encode(pkt, &h);
	assert_memory_equal(pkt, want, 32);
	assert_int_equal(plx_hdr_decode(&back, pkt, sizeof(pkt), PLX_SIDE_CLIENT), 0);
	assert_memory_equal(&back, &h, sizeof(h));
	assert_int_equal(plx_hdr_prio(&back), 5);
	assert_int_equal(plx_hdr_flags(&back), PLX_F_RETX);
}

static void test_header_refuses(void **state)
{
	struct plx_hdr h = good();

	(void)state;
	assert_int_equal(decode(&h, 56, PLX_SIDE_CLIENT), 0);
	assert_int_equal(decode(&h, 56, PLX_SIDE_APPLIANCE), PLX_E_FORMAT);
	assert_int_equal(decode(&h, 55, PLX_SIDE_CLIENT), PLX_E_FORMAT);
	assert_int_equal(decode(&h, 57, PLX_SIDE_CLIENT), PLX_E_FORMAT);
	assert_int_equal(decode(&h, 31, PLX_SIDE_CLIENT), PLX_E_FORMAT);
	h.version = 2;
	assert_int_equal(decode(&h, 56, PLX_SIDE_CLIENT), PLX_E_UNSUPPORTED);
	h = good(), h.magic = 0x5851;
	assert_int_equal(decode(&h, 56, PLX_SIDE_CLIENT), PLX_E_FORMAT);
	h = good(), h.type = 15;
	assert_int_equal(decode(&h, 56, PLX_SIDE_CLIENT), PLX_E_FORMAT);
	h = good(), h.type = 255;
	assert_int_equal(decode(&h, 56, PLX_SIDE_CLIENT), PLX_E_FORMAT);
	h = good(), h.frag_idx = 3;
	assert_int_equal(decode(&h, 56, PLX_SIDE_CLIENT), PLX_E_FORMAT);
	h = good(), h.frag_count = h.frag_idx = 0;
	assert_int_equal(decode(&h, 56, PLX_SIDE_CLIENT), PLX_E_FORMAT);
	h = good(), h.type = PLX_T_PING; /* never fragmented */
	assert_int_equal(decode(&h, 56, PLX_SIDE_CLIENT), PLX_E_FORMAT);
	h = good(), h.epoch = 0x17;
	assert_int_equal(decode(&h, 56, PLX_SIDE_CLIENT), PLX_E_FORMAT);
	h = good(), h.prio_flags |= 0x40;
	assert_int_equal(decode(&h, 56, PLX_SIDE_CLIENT), PLX_E_FORMAT);
	h = good(), h.payload_bytes = (uint16_t)(PLX_PAYLOAD_MAX + 1);
	assert_int_equal(decode(&h, PLX_DGRAM_MAX_BYTES + 1, PLX_SIDE_CLIENT), PLX_E_FORMAT);
}

static void test_types_have_names(void **state)
{
	int n = 0;

	(void)state;
	for (int t = 0; t < 256; t++)
		n += strcmp(plx_type_name((uint8_t)t), "?") != 0;
	assert_int_equal(n, 23);
	assert_string_equal(plx_type_name(PLX_T_TOK_ACK), "TOK_ACK");
}

static void test_frag_arithmetic(void **state)
{
	(void)state;
	assert_int_equal(plx_frag_count(0, 1200), 1);
	assert_int_equal(plx_frag_count(1152, 1200), 1);
	assert_int_equal(plx_frag_count(1153, 1200), 2);
	assert_int_equal(plx_frag_bytes(1153, 1200, 0), 1152);
	assert_int_equal(plx_frag_bytes(1153, 1200, 1), 1);
	assert_int_equal(plx_frag_bytes(1153, 1200, 2), 0);
	assert_int_equal(plx_frag_count(1152 * 65535, 1200), 65535);
	assert_int_equal(plx_frag_count(1152 * 65535 + 1, 1200), 0);
}

static void test_fixed_messages(void **state)
{
	struct plx_msg_pong in = {7, {1, 2}, {3, 4, 5, 6}}, out;
	struct plx_msg_cancel c = {.packets = 3}, c2;
	uint8_t p[64] = {0};

	(void)state;
	assert_int_equal(plx_msg_put(PLX_T_PONG, p, 39, &in, sizeof(in)), PLX_E_LIMIT);
	assert_int_equal(plx_msg_put(PLX_T_PONG, p, 40, &in, sizeof(in)), 40);
	assert_int_equal(plx_msg_get(PLX_T_PONG, &out, sizeof(out), p, 40), 0);
	assert_memory_equal(&in, &out, sizeof(in));
	assert_int_equal(plx_msg_get(PLX_T_PONG, &out, sizeof(out), p, 39), PLX_E_FORMAT);
	assert_int_equal(plx_msg_get(PLX_T_PONG, &out, sizeof(out), p, 41), PLX_E_FORMAT);
	assert_int_equal(plx_msg_put(PLX_T_CANCEL, p, 8, &c, sizeof(c)), 8);
	assert_int_equal(plx_msg_get(PLX_T_CANCEL, &c2, sizeof(c2), p, 8), 0);
	assert_int_equal(c2.packets, 3);
	p[7] = 1; /* reserved */
	assert_int_equal(plx_msg_get(PLX_T_CANCEL, &c2, sizeof(c2), p, 8), PLX_E_FORMAT);
	struct plx_msg_ping ping;

	assert_int_equal(plx_msg_get(PLX_T_PING, &ping, sizeof(ping), p, 64), 0); /* padding */
	assert_int_equal(plx_msg_get(PLX_T_PING, &ping, sizeof(ping), p, 7), PLX_E_FORMAT);
}

static void test_ack_lists(void **state)
{
	struct plx_msg_ack_head h = {.largest_pkt_num = 9, .ack_delay_us = 10, .n_entries = 2};
	struct plx_msg_ack_entry in[2] = {{.req_id = 1, .map = 5, .first_missing = 6, .type = 16},
	                                  {.req_id = 2, .type = 36}},
				 out[PLX_ACK_MAX];
	struct plx_msg_tok_ack_entry t[1] = {{.req_id = 3, .next_idx = 4, .sample = 1}},
				     t2[PLX_ACK_MAX];
	uint8_t p[128];

	(void)state;
	assert_int_equal(plx_msg_ack_encode(p, sizeof(p), &h, in), 64);
	assert_int_equal(plx_msg_ack_decode(&h, out, p, 64), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(plx_msg_ack_decode(&h, out, p, 63), PLX_E_FORMAT);
	assert_int_equal(plx_msg_ack_decode(&h, out, p, 40), PLX_E_FORMAT);
	p[16 + 21] = 1; /* reserved byte of the first entry */
	assert_int_equal(plx_msg_ack_decode(&h, out, p, 64), PLX_E_FORMAT);
	h.n_entries = PLX_ACK_MAX + 1;
	assert_int_equal(plx_msg_ack_encode(p, sizeof(p), &h, in), PLX_E_INVAL);
	h.n_entries = 1;
	assert_int_equal(plx_msg_tok_ack_encode(p, sizeof(p), &h, t), 32);
	assert_int_equal(plx_msg_tok_ack_decode(&h, t2, p, 32), 0);
	assert_memory_equal(t, t2, sizeof(t));
	p[16 + 14] = 4; /* unknown flag */
	assert_int_equal(plx_msg_tok_ack_decode(&h, t2, p, 32), PLX_E_FORMAT);
}

static void test_reject_carries_text_for_a_person(void **state)
{
	struct plx_msg_reject in = {.code = 8,
	                            .option = 6,
	                            .load = {1, 2, 3, 4},
	                            .detail_bytes = 9},
			      out;
	const char *detail;
	uint8_t p[300];

	(void)state;
	assert_int_equal(plx_msg_reject_encode(p, sizeof(p), &in, "grammar 6"), 41);
	assert_int_equal(plx_msg_reject_decode(&out, &detail, p, 41), 0);
	assert_int_equal(plx_err_from_wire(out.code), PLX_E_BAD_REQUEST);
	assert_int_equal(out.option, 6);
	assert_memory_equal(detail, "grammar 6", 9);
	assert_int_equal(plx_msg_reject_decode(&out, &detail, p, 40), PLX_E_FORMAT);
	p[35] = 0x1b; /* an escape sequence must not reach a terminal */
	assert_int_equal(plx_msg_reject_decode(&out, &detail, p, 41), PLX_E_FORMAT);
	p[35] = 'm', p[0] = 10; /* no such code */
	assert_int_equal(plx_msg_reject_decode(&out, &detail, p, 41), PLX_E_FORMAT);
}

static void test_tokens_view_points_into_packet(void **state)
{
	const uint32_t ids[2] = {5, 70000};
	const float lp[2] = {-0.5f, -1.5f};
	const struct plx_msg_top top[4] = {{5, -0.5f}, {6, -2.0f}, {70000, -1.5f}, {1, -3.0f}};
	struct plx_msg_tokens m = {.sample = 1,
	                           .count = 2,
	                           .first_idx = 30,
	                           .text_bytes = 4,
	                           .flags = PLX_TOKENS_LOGPROBS | PLX_TOKENS_LAST,
	                           .n_top = 2};
	struct plx_msg_tokens_view v;
	uint8_t p[128];

	(void)state;
	int n = plx_msg_tokens_encode(p, sizeof(p), &m, ids, lp, top, "d\xc3\xa9!");

	assert_int_equal(n, 16 + 8 + 8 + 32 + 4);
	assert_int_equal(plx_msg_tokens_decode(&v, p, (size_t)n), 0);
	assert_int_equal(v.m.first_idx, 30);
	assert_int_equal(plx_get_u32(v.ids + 4), 70000);
	assert_true(plx_get_f32(v.logprobs + 4) == -1.5f);
	assert_int_equal(plx_get_u32(v.top + 16), 70000);
	assert_memory_equal(v.text, "d\xc3\xa9!", 4);
	assert_int_equal(plx_msg_tokens_encode(p, (size_t)n - 1, &m, ids, lp, top, "d\xc3\xa9!"),
	                 PLX_E_LIMIT);
	assert_int_equal(plx_msg_tokens_decode(&v, p, (size_t)n - 1), PLX_E_FORMAT);
	p[66] = 'x'; /* half a character before it */
	assert_int_equal(plx_msg_tokens_decode(&v, p, (size_t)n), PLX_E_FORMAT);
	m.flags = 0; /* n_top without logprobs */
	assert_int_equal(plx_msg_tokens_encode(p, sizeof(p), &m, ids, lp, top, ""), PLX_E_INVAL);
}

static void test_done_and_cancelled(void **state)
{
	struct plx_msg_done d = {.n_samples = 2,
	                         .prompt_tokens = 7,
	                         .ns = {1, 2, 3, 4, 5, 6, 7, 8}},
			    d2;
	struct plx_msg_done_sample s[2] = {{10, PLX_FINISH_EOS, {0}},
	                                   {20, PLX_FINISH_STOP, {1, 2, 3}}},
				   s2[PLX_SAMPLES_MAX];
	struct plx_msg_cancelled c = {.cause = PLX_CANCEL_CLIENT, .n_samples = 1}, c2;
	struct plx_msg_done_tail dc = {.compress = {.n_pruned = 5, .n_evicted = 6, .loss = 0.25f},
	                               .best = {3, 90},
	                               .mean = {-0.5f, -1.5f}},
				 c3;
	uint32_t tokens[1] = {33}, tokens2[PLX_SAMPLES_MAX];
	uint8_t p[160];

	(void)state;
	assert_int_equal(plx_msg_done_encode(p, sizeof(p), &d, s, NULL), 96);
	assert_int_equal(plx_msg_done_decode(&d2, s2, &c3, p, 96), 0);
	assert_memory_equal(&d, &d2, sizeof(d));
	assert_memory_equal(s, s2, sizeof(s));
	assert_int_equal(plx_done_left(&s2[1]), 0x030201);
	plx_done_left_set(&s2[1], 70000);
	assert_int_equal(plx_done_left(&s2[1]), 70000);
	plx_done_left_set(&s2[1], UINT32_MAX);
	assert_int_equal(plx_done_left(&s2[1]), 0xffffff);
	assert_int_equal(plx_msg_done_decode(&d2, s2, &c3, p, 88), PLX_E_FORMAT);
	d.flags = PLX_DONE_COMPRESSED;
	assert_int_equal(plx_msg_done_encode(p, 111, &d, s, &dc), PLX_E_LIMIT);
	assert_int_equal(plx_msg_done_encode(p, sizeof(p), &d, s, &dc), 112);
	assert_int_equal(plx_msg_done_decode(&d2, s2, &c3, p, 96), PLX_E_FORMAT);
	assert_int_equal(plx_msg_done_decode(&d2, s2, &c3, p, 112), 0);
	assert_memory_equal(&dc.compress, &c3.compress, sizeof(dc.compress));
	assert_int_equal(c3.best.n_made, 0); /* not named */
	p[107] = 0x7f;                       /* a loss of more than all */
	assert_int_equal(plx_msg_done_decode(&d2, s2, &c3, p, 112), PLX_E_FORMAT);
	p[2] = 0;
	assert_int_equal(plx_msg_done_decode(&d2, s2, &c3, p, 96), 0);
	assert_int_equal(c3.compress.n_pruned, 0);
	p[84] = 0; /* no reason */
	assert_int_equal(plx_msg_done_decode(&d2, s2, &c3, p, 96), PLX_E_FORMAT);
	d.flags = PLX_DONE_COMPRESSED | PLX_DONE_BEST;
	assert_int_equal(plx_msg_done_encode(p, 127, &d, s, &dc), PLX_E_LIMIT);
	assert_int_equal(plx_msg_done_encode(p, sizeof(p), &d, s, &dc), 128);
	assert_int_equal(plx_msg_done_decode(&d2, s2, &c3, p, 124), PLX_E_FORMAT);
	assert_int_equal(plx_msg_done_decode(&d2, s2, &c3, p, 128), 0);
	assert_memory_equal(&dc, &c3, sizeof(dc));
	p[112] = 1; /* fewer made than sent */
	assert_int_equal(plx_msg_done_decode(&d2, s2, &c3, p, 128), PLX_E_FORMAT);
	p[112] = 2;
	p[122] = 0x80, p[123] = 0x7f; /* infinitely likely */
	assert_int_equal(plx_msg_done_decode(&d2, s2, &c3, p, 128), PLX_E_FORMAT);
	assert_int_equal(plx_msg_cancelled_encode(p, sizeof(p), &c, tokens), 12);
	assert_int_equal(plx_msg_cancelled_decode(&c2, tokens2, p, 12), 0);
	assert_int_equal(tokens2[0], 33);
	p[0] = 9;
	assert_int_equal(plx_msg_cancelled_decode(&c2, tokens2, p, 12), PLX_E_FORMAT);
}

static void test_models_table(void **state)
{
	struct plx_msg_model m = {.model_id = 1,
	                          .context_tokens = 2048,
	                          .vocab_size = 49152,
	                          .n_embd = 576,
	                          .flags = PLX_MODEL_CHAT,
	                          .name_bytes = 5};
	struct plx_models_writer w;
	struct plx_models_reader r;
	struct plx_msg_model out;
	const char *name;
	uint8_t p[256];

	(void)state;
	plx_models_begin(&w, p, sizeof(p));
	plx_models_add(&w, &m, "smol2");
	m.model_id = 2;
	m.name_bytes = 4;
	plx_models_add(&w, &m, "qwen");
	int n = plx_models_end(&w);

	assert_int_equal(n, 8 + 56 + 8 + 56 + 4);
	assert_int_equal(plx_get_u32(p), n);
	assert_int_equal(plx_models_open(&r, p, (size_t)n), 0);
	assert_int_equal(plx_models_next(&r, &out, &name), 1);
	assert_int_equal(out.vocab_size, 49152);
	assert_memory_equal(name, "smol2", 5);
	assert_int_equal(plx_models_next(&r, &out, &name), 1);
	assert_int_equal(out.model_id, 2);
	assert_int_equal(plx_models_next(&r, &out, &name), 0);
	for (int cut = 0; cut < n; cut++) {
		plx_put_u32(p, (uint32_t)cut);
		assert_int_equal(plx_models_open(&r, p, (size_t)cut), PLX_E_FORMAT);
	}
	plx_models_begin(&w, p, 60);
	plx_models_add(&w, &m, "qwen");
	assert_int_equal(plx_models_end(&w), PLX_E_LIMIT);
}

static void test_vectors(void **state)
{
	const float in[6] = {1, 2, 3, 4, 5, 6};
	struct plx_msg_vectors m = {.message_bytes = 40, .dim = 3, .n_vectors = 2}, out;
	const uint8_t *values;
	uint8_t p[40];

	(void)state;
	assert_int_equal(plx_msg_vectors_encode(p, 40, &m, in), 40);
	assert_int_equal(plx_msg_vectors_decode(&out, &values, p, 40), 0);
	assert_true(plx_get_f32(values + 20) == 6.0f);
	plx_put_u32(p + 4, UINT32_MAX); /* a product that overflows 32 bits */
	assert_int_equal(plx_msg_vectors_decode(&out, &values, p, 40), PLX_E_FORMAT);
	m.dim = 4;
	assert_int_equal(plx_msg_vectors_encode(p, 40, &m, in), PLX_E_INVAL);
}

static void test_utf8(void **state)
{
	static const char *const ok[] = {"",
	                                 "plain ascii, over eight bytes",
	                                 "\xc2\x80",
	                                 "\xe0\xa0\x80",
	                                 "\xed\x9f\xbf",
	                                 "\xf0\x90\x80\x80",
	                                 "\xf4\x8f\xbf\xbf",
	                                 "12345678\xe2\x82\xac"
	                                 "87654321"};
	static const char *const bad[] = {"\x80",
	                                  "\xc1\xbf",
	                                  "\xe0\x9f\xbf",
	                                  "\xed\xa0\x80",
	                                  "\xf0\x8f\xbf\xbf",
	                                  "\xf4\x90\x80\x80",
	                                  "\xf5\x80\x80\x80",
	                                  "\xe2\x82",
	                                  "12345678\xff",
	                                  "\xe2\x82"
	                                  "a"};

	(void)state;
	for (size_t i = 0; i < sizeof(ok) / sizeof(*ok); i++)
		assert_true(plx_utf8_valid((const uint8_t *)ok[i], strlen(ok[i])));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_false(plx_utf8_valid((const uint8_t *)bad[i], strlen(bad[i])));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_header_bytes),
	    cmocka_unit_test(test_header_refuses),
	    cmocka_unit_test(test_types_have_names),
	    cmocka_unit_test(test_frag_arithmetic),
	    cmocka_unit_test(test_fixed_messages),
	    cmocka_unit_test(test_ack_lists),
	    cmocka_unit_test(test_reject_carries_text_for_a_person),
	    cmocka_unit_test(test_tokens_view_points_into_packet),
	    cmocka_unit_test(test_done_and_cancelled),
	    cmocka_unit_test(test_models_table),
	    cmocka_unit_test(test_vectors),
	    cmocka_unit_test(test_utf8),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
