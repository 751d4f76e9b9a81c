/* Pieces of memory, fragments to messages, and the caps on both. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/wire/reasm.h"

#define REGION (256u << 10)
#define FRAG   1152u

static _Alignas(64) uint8_t region[REGION];
static _Alignas(8) uint8_t book[4096];
static struct plx_pieces mem;
static struct plx_reasm_msg slots[4];
static struct plx_reasm r;
static struct plx_reasm_session ses;
static const struct plx_reasm_caps caps = {
    .max_msg_bytes = 100000, .session_bytes = 150000, .session_msgs = 3, .timeout_ns = 1000};

static int setup(void **state)
{
	(void)state;
	if (plx_pieces_footprint(REGION) > sizeof(book))
		return -1;
	memset(&ses, 0, sizeof(ses));
	if (plx_pieces_init(&mem, region, REGION, book))
		return -1;
	plx_reasm_init(&r, &mem, slots, 4, &caps);
	return 0;
}

static uint8_t byte_at(uint64_t req_id, uint32_t i)
{
	return (uint8_t)(i * 31 + req_id * 7);
}

static int add_at(uint64_t req_id, uint32_t msg_bytes, uint16_t dgram, uint16_t idx,
                  uint64_t pkt_num, uint64_t now, struct plx_reasm_whole *out)
{
	uint8_t payload[9216];
	uint16_t room = (uint16_t)(dgram - PLX_SEAL_BYTES);
	struct plx_hdr h = {.type = PLX_T_REQ,
	                    .req_id = req_id,
	                    .pkt_num = pkt_num,
	                    .frag_idx = idx,
	                    .frag_count = (uint16_t)plx_frag_count(msg_bytes, dgram),
	                    .payload_bytes = plx_frag_bytes(msg_bytes, dgram, idx)};

	for (uint32_t i = 0; i < h.payload_bytes; i++)
		payload[i] = byte_at(req_id, (uint32_t)idx * room + i);
	if (idx == 0)
		plx_put_u32(payload, msg_bytes);
	return plx_reasm_add(&r, &ses, &h, payload, now, out);
}

static int add(uint64_t req_id, uint32_t msg_bytes, uint16_t idx, struct plx_reasm_whole *out)
{
	return add_at(req_id, msg_bytes, 1200, idx, 1, 0, out);
}

static void check_whole(const struct plx_reasm_whole *w, uint64_t req_id, uint32_t msg_bytes)
{
	assert_int_equal(w->req_id, req_id);
	assert_int_equal(w->msg_bytes, msg_bytes);
	assert_int_equal(plx_get_u32(w->buf), msg_bytes);
	for (uint32_t i = 4; i < msg_bytes; i++)
		assert_int_equal(w->buf[i], byte_at(req_id, i));
	plx_pieces_give(&mem, w->buf);
}

static void test_pieces_split_and_merge(void **state)
{
	void *p[128];

	(void)state;
	assert_int_equal(mem.n_units, 128);
	for (int i = 0; i < 128; i++) {
		p[i] = plx_pieces_take(&mem, 2048);
		assert_non_null(p[i]);
	}
	assert_null(plx_pieces_take(&mem, 1));
	for (int i = 0; i < 128; i++)
		plx_pieces_give(&mem, p[(i * 37) % 128]);
	assert_int_equal(mem.n_free, 128);
	p[0] = plx_pieces_take(&mem, REGION); /* all merged again */
	assert_ptr_equal(p[0], region);
	assert_null(plx_pieces_take(&mem, 1));
	plx_pieces_give(&mem, p[0]);
	assert_null(plx_pieces_take(&mem, REGION + 1));
	assert_null(plx_pieces_take(&mem, UINT32_MAX));
	assert_int_equal(plx_pieces_init(&mem, region + 1, REGION - 64, book), PLX_E_INVAL);
	assert_int_equal(plx_pieces_init(&mem, region, 2047, book), PLX_E_INVAL);
}

/* Random takes and gives against a map of owners: no two pieces overlap, all comes back. */
static void test_pieces_never_overlap(void **state)
{
	static uint8_t owner[128];
	struct held {
		uint8_t *p;
		uint32_t units;
	} held[128] = {0};
	uint64_t x = 42;
	uint32_t n = 0;

	(void)state;
	for (int step = 0; step < 20000; step++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		if ((x >> 33) % 2 && n < 128) {
			uint32_t bytes = (uint32_t)(x >> 40) % 20000 + 1, units = 1;
			uint8_t *p = plx_pieces_take(&mem, bytes);

			while (units * 2048 < bytes)
				units *= 2;
			if (!p)
				continue;
			for (uint32_t u = 0; u < units; u++)
				assert_int_equal(owner[(p - region) / 2048 + u]++, 0);
			held[n++] = (struct held){p, units};
		} else if (n) {
			uint32_t k = (uint32_t)(x >> 40) % n;

			for (uint32_t u = 0; u < held[k].units; u++)
				owner[(held[k].p - region) / 2048 + u]--;
			plx_pieces_give(&mem, held[k].p);
			held[k] = held[--n];
		}
	}
	while (n)
		plx_pieces_give(&mem, held[--n].p);
	assert_int_equal(mem.n_free, 128);
	assert_ptr_equal(plx_pieces_take(&mem, REGION), region);
}

static void test_reasm_takes_any_order_after_the_first(void **state)
{
	struct plx_reasm_whole w;
	struct plx_msg_ack_entry e;

	(void)state;
	assert_int_equal(add(1, 4 * FRAG + 5, 3, &w), PLX_E_NOT_FOUND);
	assert_int_equal(r.n_early, 1);
	assert_int_equal(mem.n_free, 128); /* nothing was taken for it */
	assert_int_equal(add(1, 4 * FRAG + 5, 0, &w), PLX_REASM_MORE);
	assert_int_equal(add(1, 4 * FRAG + 5, 4, &w), PLX_REASM_MORE);
	assert_int_equal(add(1, 4 * FRAG + 5, 2, &w), PLX_REASM_MORE);
	assert_int_equal(add(1, 4 * FRAG + 5, 2, &w), PLX_REASM_MORE);
	assert_int_equal(r.n_dup, 1);
	assert_int_equal(plx_reasm_state(&r, &ses, PLX_T_REQ, 1, &e), 0);
	assert_int_equal(e.first_missing, 1);
	assert_int_equal(e.map, 5); /* fragments 2 and 4 */
	assert_int_equal(add(1, 4 * FRAG + 5, 1, &w), PLX_REASM_MORE);
	assert_int_equal(add(1, 4 * FRAG + 5, 3, &w), PLX_REASM_DONE);
	check_whole(&w, 1, 4 * FRAG + 5);
	assert_int_equal(w.frag_count, 5);
	assert_int_equal(mem.n_free, 128);
	assert_int_equal(ses.held_bytes, 0);
	assert_int_equal(plx_reasm_state(&r, &ses, PLX_T_REQ, 1, &e), PLX_E_NOT_FOUND);
}

static void test_reasm_checks_size_at_the_first_fragment(void **state)
{
	struct plx_reasm_whole w;
	uint8_t payload[FRAG] = {0};
	struct plx_hdr h = {.type = PLX_T_REQ, .req_id = 1, .frag_count = 3, .payload_bytes = FRAG};

	(void)state;
	assert_int_equal(add(1, 100001, 0, &w), PLX_E_TOO_LARGE);
	plx_put_u32(payload, 2 * FRAG); /* that would be 2 fragments, not 3 */
	assert_int_equal(plx_reasm_add(&r, &ses, &h, payload, 0, &w), PLX_E_FORMAT);
	plx_put_u32(payload, 3 * FRAG + 1);
	assert_int_equal(plx_reasm_add(&r, &ses, &h, payload, 0, &w), PLX_E_FORMAT);
	h.payload_bytes = 4; /* tiny fragments would waste bookkeeping */
	plx_put_u32(payload, 12);
	assert_int_equal(plx_reasm_add(&r, &ses, &h, payload, 0, &w), PLX_E_FORMAT);
	assert_int_equal(r.n_bad, 4);
	assert_int_equal(mem.n_free, 128);
}

static void test_reasm_refuses_contradictions(void **state)
{
	struct plx_reasm_whole w;
	uint8_t payload[2000] = {0};
	struct plx_hdr h = {.type = PLX_T_REQ,
	                    .req_id = 1,
	                    .frag_idx = 1,
	                    .frag_count = 3,
	                    .payload_bytes = FRAG - 1};

	(void)state;
	assert_int_equal(add(1, 3 * FRAG, 0, &w), PLX_REASM_MORE);
	assert_int_equal(plx_reasm_add(&r, &ses, &h, payload, 0, &w), PLX_E_FORMAT);
	h.payload_bytes = FRAG, h.frag_count = 4;
	assert_int_equal(plx_reasm_add(&r, &ses, &h, payload, 0, &w), PLX_E_FORMAT);
	h.frag_count = 3, h.frag_idx = 2, h.payload_bytes = FRAG + 1;
	assert_int_equal(plx_reasm_add(&r, &ses, &h, payload, 0, &w), PLX_E_FORMAT);
	assert_int_equal(add(1, 3 * FRAG, 1, &w), PLX_REASM_MORE);
	assert_int_equal(add(1, 3 * FRAG, 2, &w), PLX_REASM_DONE);
	check_whole(&w, 1, 3 * FRAG);
}

static void test_reasm_begins_anew_in_other_datagrams(void **state)
{
	struct plx_reasm_whole w;

	(void)state;
	assert_int_equal(add_at(1, 5000, 1472, 0, 10, 0, &w), PLX_REASM_MORE);
	assert_int_equal(add_at(1, 5000, 1472, 1, 11, 0, &w), PLX_REASM_MORE);
	assert_int_equal(add_at(1, 5000, 1200, 0, 9, 0, &w), PLX_E_FORMAT); /* older */
	assert_int_equal(add_at(1, 5000, 1200, 0, 20, 0, &w), PLX_REASM_MORE);
	assert_int_equal(add_at(1, 5000, 1472, 2, 12, 0, &w), PLX_E_FORMAT);
	for (uint16_t i = 1; i < 4; i++)
		assert_int_equal(add_at(1, 5000, 1200, i, 21, 0, &w), PLX_REASM_MORE);
	assert_int_equal(add_at(1, 5000, 1200, 4, 25, 0, &w), PLX_REASM_DONE);
	check_whole(&w, 1, 5000);
}

static void test_reasm_caps(void **state)
{
	struct plx_reasm_whole w;
	struct plx_reasm_session other = {0};

	(void)state;
	assert_int_equal(add(1, 60000, 0, &w), PLX_REASM_MORE);
	assert_int_equal(add(2, 60000, 0, &w), PLX_REASM_MORE);
	assert_int_equal(add(3, 60000, 0, &w), PLX_E_FULL); /* session bytes */
	assert_int_equal(add(3, 3000, 0, &w), PLX_REASM_MORE);
	assert_int_equal(add(4, 3000, 0, &w), PLX_E_FULL); /* session messages */
	assert_int_equal(r.n_full, 2);
	assert_int_equal(plx_reasm_drop(&r, &ses, PLX_T_REQ, 2), 0);
	assert_int_equal(plx_reasm_drop(&r, &ses, PLX_T_REQ, 2), PLX_E_NOT_FOUND);
	assert_int_equal(add(4, 3000, 0, &w), PLX_REASM_MORE);
	plx_reasm_drop_all(&r, &ses);
	assert_int_equal(ses.n_msgs, 0);
	assert_int_equal(mem.n_free, 128);
	plx_reasm_drop_all(&r, &other);
}

static void test_reasm_gives_memory_back_after_the_limit(void **state)
{
	struct plx_reasm_whole w;

	(void)state;
	assert_int_equal(add_at(1, 3000, 1200, 0, 1, 100, &w), PLX_REASM_MORE);
	assert_int_equal(add_at(2, 3000, 1200, 0, 1, 200, &w), PLX_REASM_MORE);
	assert_int_equal(add_at(1, 3000, 1200, 1, 1, 900, &w), PLX_REASM_MORE); /* no new life */
	assert_int_equal(plx_reasm_expire(&r, 1099, 10), 0);
	struct plx_reasm_gone gone;

	assert_true(plx_reasm_expire_next(&r, 1100, &gone));
	assert_ptr_equal(gone.session, &ses);
	assert_int_equal(gone.req_id, 1);
	assert_int_equal(gone.type, PLX_T_REQ);
	assert_false(plx_reasm_expire_next(&r, 1199, &gone));
	assert_false(plx_reasm_known(&r, &ses, PLX_T_REQ, 1));
	assert_true(plx_reasm_known(&r, &ses, PLX_T_REQ, 2));
	assert_int_equal(plx_reasm_expire(&r, 1200, 10), 1);
	assert_int_equal(mem.n_free, 128);
	assert_int_equal(r.n_expired, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(test_pieces_split_and_merge, setup),
	    cmocka_unit_test_setup(test_pieces_never_overlap, setup),
	    cmocka_unit_test_setup(test_reasm_takes_any_order_after_the_first, setup),
	    cmocka_unit_test_setup(test_reasm_checks_size_at_the_first_fragment, setup),
	    cmocka_unit_test_setup(test_reasm_refuses_contradictions, setup),
	    cmocka_unit_test_setup(test_reasm_begins_anew_in_other_datagrams, setup),
	    cmocka_unit_test_setup(test_reasm_caps, setup),
	    cmocka_unit_test_setup(test_reasm_gives_memory_back_after_the_limit, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
