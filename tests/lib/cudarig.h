/*
 * A CUDA device with the tiny model, or why there is none, and texts run on it: what the tests of
 * the device share. Without a GPU cudarig_or_skip says so and skips.
 */
#ifndef PLX_TESTS_LIB_CUDARIG_H
#define PLX_TESTS_LIB_CUDARIG_H

#include "tests/lib/devkit.h"

#define CUDARIG_TINY   "tests/golden/tiny/qwen3.gguf"
#define CUDARIG_N_TEXT 24u

/* A text and what the device said to it. */
struct cudarig_text {
	const int32_t *prompt;
	uint32_t n_prompt;
	uint32_t n_new; /* ids to come */
	uint32_t chunk; /* prompt tokens a step; 0: all at once */
	struct plx_sampler sampler;
	uint32_t n_run, n_out;
	int32_t out[512];
	float logprob[512];
};

extern const int32_t cudarig_ids[40]; /* a prompt of the tiny model */
extern struct devkit cudarig_kit;     /* open between setup and teardown, where there is a GPU */

/* cudarig_setup, cudarig_teardown - of the group. */
int cudarig_setup(void **state);
int cudarig_teardown(void **state);
void cudarig_or_skip(void);

/* cudarig_open_model, cudarig_open - a kit with a model (the device's own from here), or a file's;
 * the second fails the test with the error. */
int cudarig_open_model(struct devkit *k, struct plx_model *m, const struct plx_dev_limits *lim,
                       struct plx_diag *d);
void cudarig_open(struct devkit *k, const char *path, const struct plx_dev_limits *lim);

/* ---- steps of cudarig_kit by hand ---- */

int cudarig_submit(uint32_t idx);
const struct plx_step_out *cudarig_out(uint32_t idx, uint32_t seq);

/* cudarig_clear - run a step that empties the slot. */
void cudarig_clear(uint32_t slot);

/* cudarig_start - a step that starts n of cudarig_ids in a slot, with blocks 64 * slot and on. */
struct plx_step *cudarig_start(uint32_t idx, uint32_t slot, uint32_t n);

/* ---- texts ---- */

struct cudarig_text cudarig_text_of(const int32_t *prompt, uint32_t n_prompt, uint32_t n_new,
                                    uint32_t chunk);

/* cudarig_run - run texts together, one step at a time, each in its own slot. */
void cudarig_run(struct devkit *k, struct cudarig_text *t, uint32_t n);

/* cudarig_greedy - what greedy decoding of the first n of cudarig_ids gives, alone. */
void cudarig_greedy(uint32_t n, int32_t want[CUDARIG_N_TEXT]);

/* cudarig_same - the same ids with the same bits of log-probabilities. */
void cudarig_same(const struct cudarig_text *a, const struct cudarig_text *b);

#endif
