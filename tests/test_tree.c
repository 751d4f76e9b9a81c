/*
 * Trees of drafts on the CPU device: each row has the bits that the chain of its ancestors gives,
 * the path that is taken is the one that single tokens would have taken, and what runs behind it
 * finds its KV; for every instruction set and type of KV, in company, under penalties, at the ends
 * of blocks and of attention's splits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fw/base/err.h"
#include "accel/step.h"
#include "tests/lib/devkit.h"

#define VOCAB 64u
#define NODES 7u
#define BT    16u
#define SLOTS 4u

static struct devkit kit;
static int32_t text[1200];

/* Drafts in the order of depth first; a parent counts from the committed token, which is 0. */
struct tree {
	uint32_t n;
	int32_t id[NODES];
	int32_t parent[NODES];
};

/* 0 - 1 - 2 - 3, 2 - 4, 0 - 5 - 6, 0 - 7 */
static const struct tree shape = {NODES, {3, 9, 27, 28, 40, 11, 41}, {0, 1, 2, 2, 0, 5, 0}};

static uint32_t depth_of(const struct tree *t, uint32_t node)
{
	return node == 0 ? 0 : 1 + depth_of(t, (uint32_t)t->parent[node - 1]);
}

/* Ids on the way to a node, without the committed token; returns how many. */
static uint32_t path_of(const struct tree *t, uint32_t node, int32_t *out)
{
	if (node == 0)
		return 0;
	uint32_t n = path_of(t, (uint32_t)t->parent[node - 1], out);

	out[n] = t->id[node - 1];
	return n + 1;
}

static void open_kit(const char *model, const char *isa, uint32_t kv, uint32_t threads)
{
	struct plx_dev_limits lim = devkit_limits();

	lim.n_slots = lim.max_step_seqs = SLOTS;
	lim.block_tokens = BT;
	lim.max_seq_blocks = 80;
	lim.n_blocks = 80 * SLOTS;
	lim.max_step_tokens = 1200;
	lim.kv_type = kv;
	lim.n_threads = threads;
	lim.tree_branches = 12;
	devkit_open(&kit, model, isa, &lim);
	for (uint32_t i = 0; i < 1200; i++)
		text[i] = (int32_t)((i * 37 + i * i / 5) % VOCAB);
}

static void go(uint32_t idx)
{
	assert_int_equal(plx_queue_submit(kit.q, idx), 0);
	assert_int_equal(devkit_wait(&kit), idx);
	assert_int_equal(plx_queue_step(kit.q, idx)->status, 0);
}

/* The first n ids of the text in a slot; its blocks are told, all of them. */
static void prompt(uint32_t slot, uint32_t n, const struct plx_sampler *p)
{
	struct plx_step *s = devkit_step(&kit, 0);

	devkit_set(s, slot, p);
	devkit_blocks(s, slot, 0, 80, slot * 80);
	if (n > 0)
		devkit_seq(s, slot, text, 0, n, false);
	go(0);
}

static void leave(uint32_t slot)
{
	devkit_clear(devkit_step(&kit, 0), slot);
	go(0);
}

/* The committed token text[pos] and drafts behind it, added to a step. */
static struct plx_step_seq *add_tree(struct plx_step *s, uint32_t slot, uint32_t pos,
                                     const struct tree *t)
{
	struct plx_step_seq *q = devkit_seq(s, slot, &text[pos], pos, 1, true);

	for (uint32_t i = 0; i < t->n; i++) {
		uint32_t at = pos + depth_of(t, i + 1);

		plx_step_toks(s)[s->n_tok++] =
		    (struct plx_step_tok){.id = t->id[i],
		                          .pos = {at, 0, 0},
		                          .parent = (int32_t)q->first_tok + t->parent[i],
		                          .flags = PLX_TOKF_LOGITS | PLX_TOKF_SAMPLED};
	}
	q->n_tok += t->n;
	q->n_draft = t->n;
	return q;
}

/* Logits behind ids[0..n) run as a chain after text[0..pos], in slot 1. */
static void chain(uint32_t pos, const int32_t *ids, uint32_t n, const struct plx_sampler *p,
                  float *logits, struct plx_step_out *out)
{
	int32_t toks[1 + NODES] = {text[pos]};

	prompt(1, pos, p);
	struct plx_step *s = devkit_step(&kit, 0);

	if (n > 0)
		memcpy(toks + 1, ids, n * sizeof(toks[0]));
	devkit_seq(s, 1, toks, pos, 1 + n, true);
	go(0);
	memcpy(logits, devkit_logits(&kit, 0), kit.model->n_vocab * sizeof(*logits));
	*out = plx_step_outs(s)[0];
	leave(1);
}

/* Rows of a tree at pos have the bits of chains, and what each samples is what a chain samples. */
static void check_rows(uint32_t pos, const struct plx_sampler *p)
{
	static float row[1 + NODES][2 * VOCAB], want[2 * VOCAB];
	int32_t ids[NODES], sampled[1 + NODES];
	struct plx_step_out out;

	prompt(0, pos, p);
	struct plx_step *s = devkit_step(&kit, 0);

	add_tree(s, 0, pos, &shape);
	go(0);
	for (uint32_t i = 0; i <= NODES; i++) {
		memcpy(row[i], devkit_logits(&kit, i), kit.model->n_vocab * sizeof(float));
		sampled[i] = (int32_t)plx_step_toks(s)[i].pos[1];
	}
	leave(0);
	for (uint32_t i = 0; i <= NODES; i++) {
		chain(pos, ids, path_of(&shape, i, ids), p, want, &out);
		assert_memory_equal(row[i], want, sizeof(want));
		if (i > 0)
			assert_int_equal(sampled[i], out.id[0]);
	}
}

static void test_tree_rows_are_chains(void **state)
{
	static const char *const isa[] = {"scalar", "avx2",       "avxvnni",
	                                  "avx512", "avx512bf16", "amx"};
	/* At a block's beginning, middle and end, and across splits of 1,024. */
	static const uint32_t at[] = {0, 16, 21, 30, 31, 1022};
	struct plx_sampler p = devkit_greedy();

	(void)state;
	p.temperature = 1;
	p.seed = 5;
	p.repeat_penalty = 1.5f;
	p.penalty_window = 8;
	for (uint32_t i = 0; i < sizeof(isa) / sizeof(isa[0]); i++) {
		if (!devkit_has_isa(isa[i]))
			continue;
		for (uint32_t kv = 0; kv < PLX_KV_N_TYPES; kv++) {
			open_kit("tests/golden/tiny/llama3.gguf", isa[i], kv, 1);
			for (uint32_t k = 0; k < 6; k++)
				if (at[k] < 1000 || i == 1)
					check_rows(at[k], &p);
			devkit_close(&kit);
		}
	}
}

/* Windows, experts, halves of pairs: whatever the pass does with a token. */
static void test_tree_rows_are_chains_in_other_models(void **state)
{
	static const char *const name[] = {"qwen2-window", "mixtral", "qwen3"};
	struct plx_sampler p = devkit_greedy();
	char path[80];

	(void)state;
	for (uint32_t i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "tests/golden/tiny/%s.gguf", name[i]);
		open_kit(path, "auto", PLX_KV_F16, 2);
		assert_in_range(kit.model->n_vocab, VOCAB, 2 * VOCAB);
		check_rows(29, &p);
		check_rows(45, &p);
		devkit_close(&kit);
	}
}

/* Ids that single steps make behind text[0..pos]. */
static void plain(uint32_t pos, const struct plx_sampler *p, uint32_t n, int32_t *out,
                  float *logprob)
{
	static const int32_t last = PLX_TOK_LAST;

	prompt(1, pos, p);
	for (uint32_t i = 0; i < n; i++) {
		struct plx_step *s = devkit_step(&kit, 0);

		devkit_seq(s, 1, i ? &last : &text[pos], pos + i, 1, true);
		go(0);
		out[i] = plx_step_outs(s)[0].id[0];
		logprob[i] = plx_step_outs(s)[0].logprob[0];
	}
	leave(1);
}

/*
 * A tree of which `right` drafts on a branch are what comes, in place `way`: 0 the first branch, 1
 * one that forks off its middle, 2 one from the committed token.
 */
static struct tree with_path(const int32_t *want, uint32_t right, uint32_t way)
{
	static const uint32_t node[3][4] = {{1, 2, 3, 0}, {1, 2, 4, 0}, {5, 6, 0, 0}};
	struct tree t = shape;

	for (uint32_t i = 0; i < NODES; i++) /* nothing else is right by chance */
		t.id[i] = (want[depth_of(&shape, i + 1) - 1] + 1 + (int32_t)i) % (int32_t)VOCAB;
	for (uint32_t i = 0; i < right && node[way][i]; i++)
		t.id[node[way][i] - 1] = want[i];
	return t;
}

/* One tree step in a slot, then single ones: ids, log-probabilities and tops as without drafts. */
static void check_path(uint32_t pos, const struct plx_sampler *p, uint32_t right, uint32_t way)
{
	static const int32_t last = PLX_TOK_LAST;
	int32_t want[14];
	float logprob[14];

	plain(pos, p, 14, want, logprob);
	struct tree t = with_path(want, right, way);
	uint32_t n = right < (way == 2 ? 2u : 3u) ? right : way == 2 ? 2 : 3;

	prompt(0, pos, p);
	struct plx_step *s = devkit_step(&kit, 0);

	add_tree(s, 0, pos, &t)->n_top = 2;
	go(0);
	const struct plx_step_out *o = &plx_step_outs(s)[0];
	const struct plx_top *top = (const struct plx_top *)(const void *)((char *)s + o->top_off);

	assert_int_equal(o->n_accepted, n);
	assert_int_equal(o->n_out, n + 1);
	for (uint32_t i = 0; i <= n; i++) {
		assert_int_equal(o->id[i], want[i]);
		assert_memory_equal(&o->logprob[i], &logprob[i], sizeof(float));
		if (!(p->temperature > 0) && !(p->repeat_penalty > 1)) {
			assert_int_equal(top[2 * i].id, want[i]);
			assert_memory_equal(&top[2 * i].logprob, &logprob[i], sizeof(float));
		}
	}
	for (uint32_t i = n + 1; i < 14; i++) {
		s = devkit_step(&kit, 0);
		devkit_seq(s, 0, &last, pos + i, 1, true);
		go(0);
		assert_int_equal(plx_step_outs(s)[0].id[0], want[i]);
		assert_memory_equal(&plx_step_outs(s)[0].logprob[0], &logprob[i], sizeof(float));
	}
	leave(0);
}

static void test_tree_goes_on_behind_its_path(void **state)
{
	static const uint32_t at[] = {5, 30, 31, 32};

	(void)state;
	for (uint32_t kv = 0; kv < PLX_KV_N_TYPES; kv++) {
		open_kit("tests/golden/tiny/llama3.gguf", "auto", kv, 2);
		for (uint32_t i = 0; i < 4 * 3 * 4; i++) {
			struct plx_sampler p = devkit_greedy();

			if (i % 3 == 1) {
				p.temperature = 1.5f;
				p.seed = 70 + i;
			}
			if (i % 3 == 2) {
				p.repeat_penalty = 1.4f;
				p.penalty_window = 16;
			}
			check_path(at[i % 4], &p, i / 12, i / 4 % 3);
		}
		devkit_close(&kit);
	}
}

/* Trees of several sequences in a step, beside a prompt and a chain. */
static void test_tree_in_company(void **state)
{
	struct plx_sampler p = devkit_greedy();
	int32_t want[14];
	float logprob[14];

	(void)state;
	open_kit("tests/golden/tiny/llama3.gguf", "auto", PLX_KV_F16, 2);
	plain(20, &p, 14, want, logprob);
	for (uint32_t way = 0; way < 3; way++) {
		struct tree a = with_path(want, 3, way), b = with_path(want, 2, 2 - way);

		prompt(0, 20, &p);
		prompt(2, 20, &p);
		prompt(3, 0, &p);
		struct plx_step *s = devkit_step(&kit, 0);

		add_tree(s, 0, 20, &a);
		devkit_seq(s, 3, text, 0, 21, true);
		add_tree(s, 2, 20, &b);
		go(0);
		assert_int_equal(plx_step_outs(s)[0].n_accepted, way == 2 ? 2 : 3);
		assert_int_equal(plx_step_outs(s)[1].id[0], want[0]);
		assert_memory_equal(&plx_step_outs(s)[1].logprob[0], &logprob[0], 4);
		assert_int_equal(plx_step_outs(s)[2].n_accepted, 2);
		for (uint32_t i = 0; i < 3; i++)
			assert_int_equal(plx_step_outs(s)[2].id[i], want[i]);
		leave(0);
		leave(2);
		leave(3);
	}
	devkit_close(&kit);
}

/* ---- what is refused ---- */

static void refused(int32_t parent, uint32_t pos, uint32_t at, int err)
{
	struct plx_step *s = devkit_step(&kit, 0);
	struct plx_step_seq *q = add_tree(s, 0, 20, &shape);
	struct plx_step_tok *t = &plx_step_toks(s)[q->first_tok + at];

	t->parent = parent;
	t->pos[0] = pos;
	assert_int_equal(plx_queue_submit(kit.q, 0), err);
}

static void test_tree_that_is_none_is_refused(void **state)
{
	struct plx_sampler p = devkit_greedy();

	(void)state;
	open_kit("tests/golden/tiny/llama3.gguf", "auto", PLX_KV_F16, 1);
	prompt(0, 20, &p);
	refused(2, 24, 4, PLX_E_INVAL);  /* not behind its parent */
	refused(-2, 23, 4, PLX_E_INVAL); /* no token */
	refused(4, 23, 4, PLX_E_INVAL);  /* itself */
	refused(7, 23, 4, PLX_E_INVAL);  /* one that comes later */
	refused(3, 24, 6, PLX_E_INVAL);  /* a branch that was left already */
	refused(0, 20, 0, PLX_E_INVAL);  /* the committed token */
	struct plx_step *s = devkit_step(&kit, 0);

	add_tree(s, 0, 20, &shape);
	go(0); /* as it is, it is one */
	s = devkit_step(&kit, 0);
	plx_step_toks(s)->flags = 0;
	devkit_seq(s, 0, text, 20, 1, false);
	plx_step_toks(s)->flags = PLX_TOKF_SAMPLED;
	assert_int_equal(plx_queue_submit(kit.q, 0), PLX_E_INVAL);
	leave(0);
	devkit_close(&kit);
}

static void test_tree_needs_branches(void **state)
{
	struct plx_dev_limits lim = devkit_limits();
	struct plx_sampler p = devkit_greedy();
	struct plx_dev_info info;

	(void)state;
	lim.block_tokens = BT;
	for (uint32_t n = 0; n < 3; n++) {
		lim.tree_branches = n;
		devkit_open(&kit, "tests/golden/tiny/llama3.gguf", "auto", &lim);
		assert_int_equal(plx_dev_info_get(kit.dev, &info), 0);
		assert_int_equal((info.caps & PLX_CAP_TREE) != 0, n > 0);
		struct plx_step *s = devkit_step(&kit, 0);

		devkit_set(s, 0, &p);
		devkit_blocks(s, 0, 0, 4, 0);
		add_tree(s, 0, 0, &shape); /* three beside the first */
		assert_int_equal(plx_queue_submit(kit.q, 0),
		                 n > 0 ? PLX_E_INVAL : PLX_E_UNSUPPORTED);
		devkit_close(&kit);
	}
	struct plx_diag d = {""};

	lim.tree_branches = 65;
	assert_int_equal(plx_limits_check(&lim, &d), PLX_E_INVAL);
	assert_string_equal(d.text, "device limits: tree_branches is 65; give 0 to 64");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_tree_rows_are_chains),
	    cmocka_unit_test(test_tree_rows_are_chains_in_other_models),
	    cmocka_unit_test(test_tree_goes_on_behind_its_path),
	    cmocka_unit_test(test_tree_in_company),
	    cmocka_unit_test(test_tree_that_is_none_is_refused),
	    cmocka_unit_test(test_tree_needs_branches),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
