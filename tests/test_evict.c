/*
 * Rows of KV that go, on the CPU device: what is left behaves as the reference does when nobody
 * attends to what went, at the positions that tokens had; and what the last tokens attend to.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fw/base/err.h"
#include "tests/lib/devkit.h"
#include "tests/lib/ref.h"

#define N     150u /* tokens of the prompt */
#define TAIL  20u  /* run behind it */
#define MODEL "tests/golden/tiny/llama3.gguf"

static struct devkit kit;
static int32_t ids[N + TAIL];
static uint64_t keep[4];
static uint8_t gone[N + TAIL];

/* A type of KV; a window (0: none) in the first layer, or in every one. */
struct kind {
	uint32_t type, window;
	bool every;
};
static struct kind kinds[] = {{PLX_KV_F16, 0, false}, {PLX_KV_Q8, 0, false},
                              {PLX_KV_Q4, 0, false},  {PLX_KV_F16, 40, false},
                              {PLX_KV_F16, 40, true}, {PLX_KV_Q8, 90, false}};

static void open_kit(const struct kind *kind, uint32_t threads)
{
	struct plx_dev_limits lim = devkit_limits();
	struct plx_diag d = {0};
	struct plx_model *m;

	lim.block_tokens = 16;
	lim.max_seq_blocks = 16;
	lim.kv_type = kind->type;
	lim.n_threads = threads;
	assert_int_equal(plx_model_open(MODEL, &m, &d), 0);
	m->window = kind->window;
	for (uint32_t il = 0; il < m->n_layer; il++)
		if (kind->every || il == 0)
			m->layer[il].window = kind->window;
	devkit_open_model(&kit, m, "auto", &lim);
	for (uint32_t i = 0; i < N + TAIL; i++)
		ids[i] = (int32_t)(3 + i * 29 % 60);
}

static void run(void)
{
	assert_int_equal(plx_queue_submit(kit.q, 0), 0);
	(void)devkit_wait(&kit);
	assert_int_equal(plx_queue_step(kit.q, 0)->status, 0);
}

/* The prompt in chunks, the last of them observed; returns the record. */
static struct plx_step *prompt(uint32_t chunk)
{
	struct plx_sampler greedy = devkit_greedy();
	struct plx_step *s = NULL;

	for (uint32_t at = 0; at < N;) {
		uint32_t n = N - at > chunk ? chunk : N - at;

		if (N - at > n && N - at - n < PLX_OBSERVE_QUERIES)
			n = N - at - PLX_OBSERVE_QUERIES;
		s = devkit_step(&kit, 0);
		if (at == 0) {
			devkit_set(s, 0, &greedy);
			devkit_blocks(s, 0, 0, 11, 2);
		}
		struct plx_step_seq *q = devkit_seq(s, 0, ids + at, at, n, at + n == N);

		if (at + n == N)
			q->flags |= PLX_SEQF_OBSERVE;
		run();
		at += n;
	}
	return s;
}

/* Drops what gone[] says of `places` places; returns how many stay. */
static uint32_t tell_keep(struct plx_step *s, const uint8_t *go, uint32_t places)
{
	uint64_t *bits = plx_step_keep(s);
	uint32_t n = 0;

	memset(bits, 0, sizeof(keep));
	for (uint32_t p = 0; p < places; p++)
		if (!go[p]) {
			bits[p / 64] |= UINT64_C(1) << (p % 64);
			n++;
		}
	plx_step_deltas(s)[s->n_delta++] = (struct plx_step_delta){
	    .kind = PLX_DELTA_KEEP, .slot = 0, .index = places, .n_blocks = (n + 15) / 16};
	return n;
}

/* TAIL tokens one by one behind n places, in fresh blocks where they need any. */
static void tail(uint32_t n, struct plx_step *first, double *logits)
{
	uint32_t n_vocab = kit.model->n_vocab, n_blocks = (n + 15) / 16;

	for (uint32_t i = 0; i < TAIL; i++, n++) {
		struct plx_step *s = i == 0 && first ? first : devkit_step(&kit, 0);

		if (n / 16 >= n_blocks) {
			devkit_blocks(s, 0, n_blocks, n_blocks + 1, 20 + n_blocks);
			n_blocks++;
		}
		(void)devkit_seq(s, 0, ids + N + i, n, 1, true);
		run();
		for (uint32_t v = 0; v < n_vocab; v++)
			logits[(size_t)i * n_vocab + v] = (double)devkit_logits(&kit, 0)[v];
	}
}

static void pick(uint32_t seed)
{
	for (uint32_t p = 0; p < N; p++)
		gone[p] = p > 3 && p < N - 8 && (p * 37 + seed) % 5 < 3;
}

static void test_evict_is_the_reference_without_what_went(void **state)
{
	const struct kind *kind = *state;
	uint32_t n_gone = 0;

	open_kit(kind, 2);
	size_t n = (size_t)TAIL * kit.model->n_vocab;
	double *got = calloc(n, sizeof(double)), *want = calloc(n, sizeof(double)), far = 0,
	       shown = 0;
	struct plx_ref *r = plx_ref_open(kit.model, N + TAIL);

	pick(1);
	(void)prompt(64);
	struct plx_step *s = devkit_step(&kit, 0);
	uint32_t left = tell_keep(s, gone, N);

	for (uint32_t p = 0; p < N; p++)
		n_gone += gone[p];
	assert_int_equal(left, N - n_gone);
	assert_true(n_gone > N / 2);
	tail(left, s, got);
	plx_ref_run(r, ids, N, 1, want);
	plx_ref_gone(r, gone);
	for (uint32_t i = 0; i < TAIL; i++)
		plx_ref_run(r, ids + N + i, 1, 1, want + (size_t)i * kit.model->n_vocab);
	for (size_t i = 0; i < n; i++)
		far = fmax(far, fabs(got[i] - want[i]));
	/* Against what it is with all of the prompt the difference is many times as large. */
	plx_ref_close(r);
	r = plx_ref_open(kit.model, N + TAIL);
	plx_ref_run(r, ids, N + TAIL, TAIL, want);
	for (size_t i = 0; i < n; i++)
		shown = fmax(shown, fabs(got[i] - want[i]));
	print_message("KV type %u, window %u: off by %.4f, by %.4f with all\n", kind->type,
	              kind->window, far, shown);
	assert_true(far < (kind->type == PLX_KV_Q4 ? 0.5 : 0.1) * shown);
	plx_ref_close(r);
	free(got);
	free(want);
	devkit_close(&kit);
}

/* Twice a part, or all at once: the same bits, and none where nothing goes. */
static void test_evict_in_parts_is_the_same(void **state)
{
	uint8_t first[N], second[N];
	uint32_t n2 = 0, half;

	open_kit(*state, 1);
	size_t n = (size_t)TAIL * kit.model->n_vocab;
	double *a = calloc(n, sizeof(double)), *b = calloc(n, sizeof(double));

	pick(2);
	(void)prompt(40);
	struct plx_step *s = devkit_step(&kit, 0);

	tail(tell_keep(s, gone, N), s, a);
	s = devkit_step(&kit, 0);
	devkit_clear(s, 0);
	run();
	for (uint32_t p = 0; p < N; p++) {
		first[p] = gone[p] && p % 2;
		if (!first[p])
			second[n2++] = gone[p];
	}
	(void)prompt(64);
	s = devkit_step(&kit, 0);
	half = tell_keep(s, first, N);
	assert_int_equal(half, n2);
	run();
	s = devkit_step(&kit, 0);
	tail(tell_keep(s, second, n2), s, b);
	assert_memory_equal(a, b, n * sizeof(double));
	s = devkit_step(&kit, 0);
	devkit_clear(s, 0);
	run();
	memset(first, 0, sizeof(first));
	(void)prompt(150);
	tail(N, NULL, a);
	s = devkit_step(&kit, 0);
	devkit_clear(s, 0);
	run();
	(void)prompt(150);
	s = devkit_step(&kit, 0);
	assert_int_equal(tell_keep(s, first, N), N);
	tail(N, s, b);
	assert_memory_equal(a, b, n * sizeof(double));
	free(a);
	free(b);
	devkit_close(&kit);
}

/* Each query shares out one for every head of every layer looked at; the same bits in any chunks.
 */
static void test_evict_observes_what_is_attended_to(void **state)
{
	float seen[N];
	double sum = 0;

	open_kit(*state, 1);
	memcpy(seen, plx_step_obs(prompt(64)), sizeof(seen));
	uint32_t n_layer = kit.model->n_layer < 3 ? kit.model->n_layer : kit.model->n_layer / 3;

	for (uint32_t p = 0; p < N; p++) {
		assert_true(seen[p] >= 0);
		sum += (double)seen[p];
	}
	double want = PLX_OBSERVE_QUERIES * (double)n_layer * kit.model->n_head;

	assert_true(fabs(sum / want - 1) < 0.01);
	assert_true(seen[N - 1] <= (float)(n_layer * kit.model->n_head)); /* one query sees it */
	devkit_close(&kit);
	open_kit(*state, 3);
	assert_memory_equal(seen, plx_step_obs(prompt(37)), sizeof(seen));
	devkit_close(&kit);
}

static int submit_keep(uint32_t index, uint32_t n_blocks, uint64_t bits)
{
	struct plx_step *s = devkit_step(&kit, 0);

	plx_step_keep(s)[0] = plx_step_keep(s)[1] = plx_step_keep(s)[2] = bits;
	plx_step_deltas(s)[s->n_delta++] = (struct plx_step_delta){
	    .kind = PLX_DELTA_KEEP, .slot = 0, .index = index, .n_blocks = n_blocks};
	(void)devkit_seq(s, 0, ids, 70, 1, true);
	return plx_queue_submit(kit.q, 0);
}

static void test_evict_bad_is_refused(void **state)
{
	open_kit(*state, 1);
	(void)prompt(64);
	assert_int_equal(submit_keep(N + 1, 10, UINT64_MAX), PLX_E_INVAL);
	assert_int_equal(submit_keep(N, 10, 0), PLX_E_INVAL);
	assert_int_equal(submit_keep(N, 9, UINT64_MAX), PLX_E_INVAL);
	assert_int_equal(submit_keep(0, 0, UINT64_MAX), PLX_E_INVAL);
	assert_int_equal(submit_keep(N, 10, UINT64_MAX), 0);
	(void)devkit_wait(&kit);
	devkit_close(&kit);
}

/* Summaries of pages would not know of rows that moved: such a device says that it can't. */
static void test_evict_is_not_offered_with_sparse_attention(void **state)
{
	struct plx_dev_limits lim = devkit_limits();
	struct plx_dev_info info;

	(void)state;
	for (uint32_t mass = 0; mass <= 900; mass += 900) {
		lim.sparse_mass = mass;
		devkit_open(&kit, MODEL, "auto", &lim);
		assert_int_equal(plx_dev_info_get(kit.dev, &info), 0);
		assert_int_equal((info.caps & PLX_CAP_EVICT) != 0, mass == 0);
		devkit_close(&kit);
	}
}

#define EACH(f)                                                                                    \
	{#f " f16", f, NULL, NULL, &kinds[0]}, {#f " q8", f, NULL, NULL, &kinds[1]},               \
	    {#f " q4", f, NULL, NULL, &kinds[2]}, {#f " window", f, NULL, NULL, &kinds[3]},        \
	    {#f " windows only", f, NULL, NULL, &kinds[4]},                                        \
	{                                                                                          \
#f " wide window q8", f, NULL, NULL, &kinds[5]                                     \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    EACH(test_evict_is_the_reference_without_what_went),
	    EACH(test_evict_in_parts_is_the_same),
	    EACH(test_evict_observes_what_is_attended_to),
	    EACH(test_evict_bad_is_refused),
	    cmocka_unit_test(test_evict_is_not_offered_with_sparse_attention),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
