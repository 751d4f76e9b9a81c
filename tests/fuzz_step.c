/*
 * Step records as another process might write them: whatever they hold, acceptance stays in bounds,
 * and a refused step leaves the slots as they were. Input: records of 4 counts and the arrays'
 * bytes.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "accel/step.h"
#include "fw/base/check.h"

#define N_SLOTS 4u
#define CHUNK   512u /* bytes of input a record takes at most */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct plx_step_checker *checker(void)
{
	static struct plx_step_checker c;

	if (c.slot != NULL)
		return &c;
	c.lim = (struct plx_dev_limits){.n_slots = N_SLOTS,
	                                .n_blocks = 8,
	                                .block_tokens = 16,
	                                .max_seq_blocks = 4,
	                                .max_step_tokens = 8,
	                                .max_step_seqs = 3,
	                                .steps_in_flight = 2,
	                                .n_threads = 1};
	c.caps = PLX_CAP_LAST | PLX_CAP_DRAFT | PLX_CAP_LOGPROBS | PLX_CAP_SHIFT;
	c.n_vocab = 100;
	plx_step_layout_make(&c.lim, &c.lay);
	c.slot = calloc(N_SLOTS, sizeof(*c.slot));
	c.undo = calloc(plx_step_undo_entries(&c.lim, &c.lay), sizeof(*c.undo));
	PLX_CHECK(c.slot != NULL && c.undo != NULL);
	return &c;
}

/* Spreads n bytes over the arrays: tokens, sequences, deltas and the first sampler in turn. */
static void fill(struct plx_step *s, const struct plx_step_layout *y, const uint8_t *p, size_t n)
{
	const uint32_t off[4] = {y->delta_off, y->seq_off, y->tok_off, y->sampler_off};
	const size_t room[4] = {120, 96, 192, 104};

	for (uint32_t i = 0; i < 4 && n > 0; i++) {
		size_t take = n < room[i] ? n : room[i];

		memcpy((char *)s + off[i], p, take);
		p += take;
		n -= take;
	}
	/* Offsets that are right by chance are rare: small numbers stand for them. */
	for (uint32_t i = 0; i < 6; i++)
		if (plx_step_deltas(s)[i].sampler_off < 3)
			plx_step_deltas(s)[i].sampler_off =
			    s->sampler_off + plx_step_deltas(s)[i].sampler_off *
						 (uint32_t)sizeof(struct plx_sampler);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct plx_step_checker *c = checker();
	struct plx_slot_shadow was[N_SLOTS];
	struct plx_step *s = aligned_alloc(64, c->lay.record_bytes);

	PLX_CHECK(s != NULL);
	plx_step_checker_reset(c);
	while (size >= 4) {
		size_t n = size - 4 < CHUNK ? size - 4 : CHUNK;

		memset(s, 0, c->lay.record_bytes);
		plx_step_format(s, &c->lay);
		s->n_tok = data[0];
		s->n_seq = data[1];
		s->n_delta = data[2];
		s->n_sampler = data[3];
		fill(s, &c->lay, data + 4, n);
		memcpy(was, c->slot, sizeof(was));
		int err = plx_step_accept(c, s);

		for (uint32_t i = 0; i < N_SLOTS; i++) {
			PLX_CHECK(c->slot[i].n_blocks <= c->lim.max_seq_blocks);
			PLX_CHECK(c->slot[i].next_pos <=
			          c->lim.max_seq_blocks * c->lim.block_tokens);
			PLX_CHECK(err == 0 || (c->slot[i].live == was[i].live &&
			                       c->slot[i].n_blocks == was[i].n_blocks &&
			                       c->slot[i].next_pos == was[i].next_pos &&
			                       c->slot[i].has_last == was[i].has_last));
		}
		data += 4 + n;
		size -= 4 + n;
	}
	free(s);
	return 0;
}
