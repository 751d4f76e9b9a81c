/*
 * Any bytes through every decoder: the header from both sides, each payload as its type, and REQ
 * with all its iterators. First byte: which decoder; the rest: what it is given. What a decoder
 * accepts must survive an encoder, and come out the same.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/wire/req.h"
#include "fw/base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t out[65536];

static void try_header(const uint8_t *p, size_t n)
{
	struct plx_hdr h;
	uint8_t back[PLX_HDR_BYTES];

	for (int side = 0; side < 2; side++)
		if (plx_hdr_decode(&h, p, n, (enum plx_wire_side)side) == 0) {
			plx_hdr_encode(back, &h);
			PLX_CHECK(memcmp(back, p, sizeof(back)) == 0);
			PLX_CHECK(h.frag_idx < h.frag_count);
		}
}

static void try_lists(const uint8_t *p, size_t n)
{
	struct plx_msg_ack_head h;
	struct plx_msg_ack_entry e[PLX_ACK_MAX];
	struct plx_msg_tok_ack_entry t[PLX_ACK_MAX];

	if (plx_msg_ack_decode(&h, e, p, n) == 0)
		PLX_CHECK(plx_msg_ack_encode(out, sizeof(out), &h, e) == (int)n &&
		          memcmp(out, p, n) == 0);
	if (plx_msg_tok_ack_decode(&h, t, p, n) == 0)
		PLX_CHECK(plx_msg_tok_ack_encode(out, sizeof(out), &h, t) == (int)n &&
		          memcmp(out, p, n) == 0);
}

static void try_ends(const uint8_t *p, size_t n)
{
	struct plx_msg_reject r;
	struct plx_msg_done d;
	struct plx_msg_done_sample s[PLX_SAMPLES_MAX];
	struct plx_msg_done_tail dc;
	struct plx_msg_cancelled c;
	uint32_t tokens[PLX_SAMPLES_MAX];
	const char *detail;

	if (plx_msg_reject_decode(&r, &detail, p, n) == 0)
		PLX_CHECK(plx_msg_reject_encode(out, sizeof(out), &r, detail) == (int)n &&
		          memcmp(out, p, n) == 0);
	if (plx_msg_done_decode(&d, s, &dc, p, n) == 0)
		PLX_CHECK(plx_msg_done_encode(out, sizeof(out), &d, s, &dc) == (int)n &&
		          memcmp(out, p, n) == 0);
	if (plx_msg_cancelled_decode(&c, tokens, p, n) == 0)
		PLX_CHECK(plx_msg_cancelled_encode(out, sizeof(out), &c, tokens) == (int)n &&
		          memcmp(out, p, n) == 0);
}

static void try_tokens(const uint8_t *p, size_t n)
{
	struct plx_msg_tokens_view v;
	const uint8_t *values;
	struct plx_msg_vectors vec;

	if (plx_msg_tokens_decode(&v, p, n) == 0) {
		PLX_CHECK(plx_msg_tokens_bytes(&v.m) == n);
		PLX_CHECK((const uint8_t *)v.text + v.m.text_bytes == p + n);
	}
	if (plx_msg_vectors_decode(&vec, &values, p, n) == 0)
		PLX_CHECK(values + 4u * (size_t)vec.n_vectors * vec.dim == p + n);
}

static void try_models(const uint8_t *p, size_t n)
{
	struct plx_models_reader r;
	struct plx_msg_model m;
	const char *name;
	uint32_t count = 0;

	if (plx_models_open(&r, p, n))
		return;
	while (plx_models_next(&r, &m, &name)) {
		PLX_CHECK((const uint8_t *)name + m.name_bytes <= p + n);
		count++;
	}
	PLX_CHECK(count == r.n_models);
}

static void try_fixed(const uint8_t *p, size_t n)
{
	struct plx_msg_cancel cancel;
	struct plx_msg_close close_;
	struct plx_msg_ping ping;
	struct plx_msg_pong pong;
	struct plx_msg_accept accept_;

	(void)plx_msg_get(PLX_T_CANCEL, &cancel, sizeof(cancel), p, n);
	(void)plx_msg_get(PLX_T_CLOSE, &close_, sizeof(close_), p, n);
	(void)plx_msg_get(PLX_T_PING, &ping, sizeof(ping), p, n);
	(void)plx_msg_get(PLX_T_PONG, &pong, sizeof(pong), p, n);
	(void)plx_msg_get(PLX_T_ACCEPT, &accept_, sizeof(accept_), p, n);
}

static void walk_req(const struct plx_req_view *v)
{
	struct plx_req_tlv tlv;
	struct plx_req_message m;
	const uint8_t *value, *end = v->options + v->m.options_bytes;
	const char *content;
	uint32_t off = 0, n = 0, sum = 0;

	while (plx_req_opt_next(v, &off, 0, &tlv, &value)) {
		PLX_CHECK(value + tlv.bytes <= end);
		for (uint32_t i = 0; i < tlv.bytes; i++)
			sum += value[i];
	}
	PLX_CHECK(off == v->m.options_bytes);
	for (uint16_t k = 0; k < v->m.n_samples; k++) {
		const uint8_t *ids = plx_req_resumed(v, k, &n);

		for (uint32_t i = 0; i < n; i++)
			sum += plx_get_u32(ids + 4 * (size_t)i);
	}
	n = 0;
	for (off = 0; plx_req_message_next(v, &off, &m, &content); n++) {
		PLX_CHECK((const uint8_t *)content + m.bytes <= end);
		for (uint32_t i = 0; i < m.bytes; i++)
			sum += (uint8_t)content[i];
	}
	PLX_CHECK(n == v->n_messages);
	for (uint32_t i = 0; i < v->m.prompt_tokens; i++)
		sum += plx_req_id(v, i);
	*(volatile uint32_t *)&n = sum;
}

static void try_req(const uint8_t *p, size_t n)
{
	static const struct plx_wire_limits lim = {.max_request_bytes = 1u << 20,
	                                           .max_prompt_tokens = 1u << 16,
	                                           .max_new = 1u << 16,
	                                           .max_samples = PLX_SAMPLES_MAX,
	                                           .max_stops = 16,
	                                           .max_stop_bytes = 256,
	                                           .max_logprobs = 20};
	struct plx_req_view v;
	struct plx_req_fault f = {0};

	if (plx_req_decode(&v, p, n, &lim, UINT32_MAX, &f) == 0)
		walk_req(&v);
	else
		PLX_CHECK(f.detail[0] && plx_err_wire(f.err));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const targets[])(const uint8_t *, size_t) = {
	    try_header, try_lists, try_ends, try_tokens, try_models, try_fixed, try_req};

	if (size < 1 || size > 60000)
		return 0;
	uint8_t *copy = malloc(size); /* exactly as long as the input, for the address sanitizer */

	memcpy(copy, data + 1, size - 1);
	targets[data[0] % 7](copy, size - 1);
	free(copy);
	return 0;
}
