/* Setting up, steps by hand, and texts that take a step for each id. */
#include "tests/lib/cudarig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "fw/base/err.h"

const int32_t cudarig_ids[40] = {11, 90, 3,  77, 5,  60, 12, 99, 101, 7,  31, 2,  8,  120,
                                 44, 1,  19, 63, 88, 27, 9,  70, 35,  54, 66, 13, 81, 4,
                                 17, 29, 93, 10, 42, 58, 6,  22, 75,  37, 50, 15};
static const int32_t last = PLX_TOK_LAST;

struct devkit cudarig_kit;
static char why[PLX_DIAG_BYTES]; /* there is no GPU; "" where there is one */

/* ---- a kit on a GPU
 * ------------------------------------------------------------------------------ */

int cudarig_open_model(struct devkit *k, struct plx_model *m, const struct plx_dev_limits *lim,
                       struct plx_diag *d)
{
	struct plx_dev_conf conf = {.name = "gpu", .kind = "cuda"};
	struct plx_load_progress pr;
	int err = plx_dev_open(&conf, &k->dev, d);

	if (err != 0)
		return err;
	k->lim = *lim;
	k->budget_us = 0;
	k->model = m;
	err = plx_dev_load_begin(k->dev, m, lim, d);
	while (err == 0 && (err = plx_dev_load_poll(k->dev, 1000, &pr, d)) == PLX_E_AGAIN)
		err = 0;
	return err != 0 ? err : plx_queue_open(k->dev, &k->q, d);
}

void cudarig_open(struct devkit *k, const char *path, const struct plx_dev_limits *lim)
{
	struct plx_diag d = {0};
	struct plx_model *m;

	memset(k, 0, sizeof(*k));
	if (plx_model_open(path, &m, &d) != 0 || cudarig_open_model(k, m, lim, &d) != 0)
		fail_msg("%s", d.text);
}

int cudarig_setup(void **state)
{
	struct plx_dev_conf conf = {.name = "gpu", .kind = "cuda"};
	struct plx_dev_limits lim = devkit_limits();
	struct plx_diag d = {0};
	struct plx_dev *dev;

	(void)state;
	if (plx_dev_open(&conf, &dev, &d) != 0) {
		memcpy(why, d.text, sizeof(why));
		return 0;
	}
	plx_dev_close(dev);
	cudarig_open(&cudarig_kit, CUDARIG_TINY, &lim);
	return 0;
}

int cudarig_teardown(void **state)
{
	(void)state;
	if (why[0] == '\0')
		devkit_close(&cudarig_kit);
	return 0;
}

void cudarig_or_skip(void)
{
	if (why[0] == '\0')
		return;
	print_message("SKIPPED: %s\n", why);
	skip();
}

int cudarig_submit(uint32_t idx)
{
	return plx_queue_submit(cudarig_kit.q, idx);
}

const struct plx_step_out *cudarig_out(uint32_t idx, uint32_t seq)
{
	return &plx_step_outs(plx_queue_step(cudarig_kit.q, idx))[seq];
}

void cudarig_clear(uint32_t slot)
{
	devkit_clear(devkit_step(&cudarig_kit, 0), slot);
	assert_int_equal(cudarig_submit(0), 0);
	assert_int_equal(devkit_wait(&cudarig_kit), 0);
	assert_int_equal(plx_queue_step(cudarig_kit.q, 0)->status, 0);
}

/* A step that starts a sequence of n of ids in a slot, with blocks 64 * slot and on. */
struct plx_step *cudarig_start(uint32_t idx, uint32_t slot, uint32_t n)
{
	struct plx_sampler greedy = devkit_greedy();
	struct plx_step *s = devkit_step(&cudarig_kit, idx);

	devkit_set(s, slot, &greedy);
	devkit_blocks(s, slot, 0, 8, 64 * slot);
	devkit_seq(s, slot, cudarig_ids, 0, n, true);
	return s;
}

/* ---- running texts
 * ------------------------------------------------------------------------------- */

static void text_add(struct devkit *k, struct plx_step *s, struct cudarig_text *t, uint32_t slot)
{
	uint32_t left = t->n_prompt - t->n_run, bt = k->lim.block_tokens;
	uint32_t each = k->lim.n_blocks / k->lim.n_slots;
	uint32_t pos = left > 0 ? t->n_run : t->n_prompt + t->n_out - 1;
	uint32_t n = left == 0 ? 1 : t->chunk > 0 && t->chunk < left ? t->chunk : left;

	if (pos == 0)
		devkit_set(s, slot, &t->sampler);
	for (uint32_t i = (pos + bt - 1) / bt; i < (pos + n + bt - 1) / bt; i++)
		devkit_blocks(s, slot, i, i + 1, slot * each + (each - 1 - i));
	devkit_seq(s, slot, left > 0 ? t->prompt + t->n_run : &last, pos, n, left <= n);
	t->n_run += left > 0 ? n : 0;
}

/* Runs texts together, one step at a time, each in its own slot. */
void cudarig_run(struct devkit *k, struct cudarig_text *t, uint32_t n)
{
	for (bool busy = true; busy;) {
		struct plx_step *s = devkit_step(k, 0);
		uint32_t who[64], n_who = 0;

		busy = false;
		for (uint32_t i = 0; i < n; i++) {
			if (t[i].n_out == t[i].n_new)
				continue;
			text_add(k, s, &t[i], i);
			who[n_who++] = i;
			busy = true;
		}
		if (!busy)
			break;
		assert_int_equal(plx_queue_submit(k->q, 0), 0);
		assert_int_equal(devkit_wait(k), 0);
		assert_int_equal(s->status, 0);
		for (uint32_t j = 0; j < n_who; j++) {
			const struct plx_step_out *o = &plx_step_outs(s)[j];
			struct cudarig_text *q = &t[who[j]];

			assert_int_equal(o->status, 0);
			if (o->n_out == 0)
				continue;
			q->out[q->n_out] = o->id[0];
			q->logprob[q->n_out++] = o->logprob[0];
		}
	}
	struct plx_step *s = devkit_step(k, 0);

	for (uint32_t i = 0; i < n; i++)
		devkit_clear(s, i);
	assert_int_equal(plx_queue_submit(k->q, 0), 0);
	assert_int_equal(devkit_wait(k), 0);
}

struct cudarig_text cudarig_text_of(const int32_t *prompt, uint32_t n_prompt, uint32_t n_new,
                                    uint32_t chunk)
{
	return (struct cudarig_text){.prompt = prompt,
	                             .n_prompt = n_prompt,
	                             .n_new = n_new,
	                             .chunk = chunk,
	                             .sampler = devkit_greedy()};
}

/* What greedy decoding of the first n of ids gives, alone. */
void cudarig_greedy(uint32_t n, int32_t want[CUDARIG_N_TEXT])
{
	struct cudarig_text t = cudarig_text_of(cudarig_ids, n, CUDARIG_N_TEXT, 0);

	cudarig_run(&cudarig_kit, &t, 1);
	memcpy(want, t.out, sizeof(want[0]) * CUDARIG_N_TEXT);
}

void cudarig_same(const struct cudarig_text *a, const struct cudarig_text *b)
{
	assert_int_equal(a->n_out, b->n_out);
	assert_memory_equal(a->out, b->out, a->n_out * sizeof(a->out[0]));
	assert_memory_equal(a->logprob, b->logprob, a->n_out * sizeof(a->logprob[0]));
}
