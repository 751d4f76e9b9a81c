/*
 * A device for tests: no arithmetic, but everything else of the contract.
 *
 * It keeps what a real one keeps: slots with block tables, samplers, the id sampled last; and KV
 * blocks, in which each position holds a hash of the token id that was run there, of its position
 * and of what stood before it, and the position that it is rotated to. What it samples is a hash of
 * (seed, sample, all of these from position 0 on as read through the block table), so that a wrong
 * block, a missing prefix, a reused block, one that moved too often or a token that left too early
 * shows as a wrong token. Steps are judged by the same checker as a real device's. plx_fake_expect
 * computes the same ids from the prompt alone.
 */
#ifndef PLX_TESTS_LIB_FAKE_DEVICE_H
#define PLX_TESTS_LIB_FAKE_DEVICE_H

#include "accel/accel.h"

/* What a test can make it do; change it at any time between calls. */
struct plx_fake_conf {
	uint32_t n_vocab;
	uint32_t eog_id; /* sampled once in eog_every tokens; 0: never */
	uint32_t eog_every;
	uint32_t polls;   /* polls that a step takes; 0: done at the first */
	uint64_t step_ns; /* a step takes this and tok_ns a token, on a clock of its own; 0: none */
	uint64_t tok_ns;
	int fail_status;    /* next step to complete ends with this */
	uint32_t nan_slot1; /* 1 + slot whose next result is a FAULT of its own; 0: none */
	int reset_err;      /* what reset returns, having done nothing */
	bool hang;          /* steps do not complete, but for cancel and reset */
	bool refuse_again;  /* submit says AGAIN */
	struct plx_dev_experts experts; /* what it says of them */
	int copy_err;                   /* what a copy from another device returns */
	/* Not a clock of its own, but the test's: a step completes when its time has passed, from
	 * when it was given or the one before ended. NULL: none. */
	const uint64_t *clock;
};

struct plx_fake;

/* plx_fake_open - the device, loaded with limits. Owner: plx_dev_close. */
struct plx_fake *plx_fake_open(const struct plx_dev_limits *lim, const struct plx_fake_conf *conf);
struct plx_dev *plx_fake_dev(struct plx_fake *f);
struct plx_fake_conf *plx_fake_conf(struct plx_fake *f);
uint32_t plx_fake_resets(const struct plx_fake *f);

/* plx_fake_next_ns - with a clock: when the oldest step will be done; UINT64_MAX: never. */
uint64_t plx_fake_next_ns(struct plx_fake *f);

/*
 * plx_fake_expect - the ids an answer has: at most max_new, ended before the first eog id.
 * Returns how many.
 */
uint32_t plx_fake_expect(const struct plx_fake_conf *c, const int32_t *prompt, uint32_t n_prompt,
                         uint64_t seed, uint32_t sample, uint32_t max_new, int32_t *out);

/* A text that may outgrow its context: whenever `window` positions are full, the `drop` tokens
 * behind the first `sinks` leave. window 0: it may not. */
struct plx_fake_window {
	uint32_t window, sinks, drop;
};

/* plx_fake_expect_window - the same ids, with tokens leaving; texts of at most 4,096 tokens. */
uint32_t plx_fake_expect_window(const struct plx_fake_conf *c, const struct plx_fake_window *w,
                                const int32_t *prompt, uint32_t n_prompt, uint64_t seed,
                                uint32_t sample, uint32_t max_new, int32_t *out);

#endif
