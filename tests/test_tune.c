/*
 * plx-tune's parts: knobs and points as text, budgets, the comparison, board files that polluxd
 * takes, pictures, the command line. The journal has test_tune_journal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"
#include "fw/config.h"
#include "tests/lib/mtool.h"
#include "tools/tune/board.h"
#include "tools/tune/draw.h"
#include "tools/tune/journal.h"
#include "tools/tune/options.h"
#include "tools/tune/result.h"
#include "tools/tune/weights.h"

static struct plx_tune_options o;

static bool near(double a, double b)
{
	return fabs(a - b) <= 1e-9 * fmax(1, fabs(b));
}

static struct plx_tune_point point(const char *text)
{
	struct plx_tune_point p;

	plx_tune_point_usual(&p);
	PLX_CHECK(plx_tune_point_parse(&p, text, strlen(text), NULL) == 0);
	return p;
}

/* ---- knobs ---- */

static void test_point_is_its_text(void **state)
{
	struct plx_tune_point p = point("kv=q8,drafts=0,weights=q4_k"), q;
	char text[PLX_TUNE_TEXT_BYTES];
	struct plx_tune_setup s;

	(void)state;
	plx_tune_point_print(&p, text);
	assert_string_equal(
	    text, "weights=q4_k,kv=q8,mass=0,chunks=0,drafts=0,step=256,seqs=32,flight=2,block=32,"
		  "slice=200");
	q = point(text);
	assert_true(plx_tune_point_same(&p, &q));
	plx_tune_point_short(&p, text);
	assert_string_equal(text, "weights=q4_k kv=q8 drafts=0");
	plx_tune_point_setup(&p, &s);
	assert_int_equal(s.kv_type, 1);
	assert_int_equal(s.draft_tokens, 0);
	assert_int_equal(s.step_tokens, 256);
	assert_int_equal(s.slice_us, 200);
	q = plx_tune_point_accuracy(&p);
	plx_tune_point_short(&q, text);
	assert_string_equal(text, "weights=q4_k kv=q8");
}

static void test_usual_point_is_polluxd_s_default(void **state)
{
	static const char board[] = "board: x\nports: [{name: p, kind: auto, iface: e}]\n"
				    "devices: [{name: c, kind: cpu}]\nstages:\n"
				    "  - {kind: io, lcore: 0, port: p, queue: 0}\n"
				    "  - {kind: hs, lcore: 0}\n  - {kind: tok, lcore: 0}\n"
				    "  - {kind: batch, lcore: 0}\n"
				    "  - {kind: accel, lcore: 0, device: c}\n";
	static struct plx_config c;
	struct plx_tune_setup s;
	struct plx_tune_point p;
	struct plx_diag d = {0};

	(void)state;
	if (plx_config_parse(&c, "x", (const uint8_t *)board, sizeof board - 1, NULL, &d))
		fail_msg("%s", d.text);
	plx_tune_point_usual(&p);
	plx_tune_point_setup(&p, &s);
	assert_int_equal(s.weights, 0);
	assert_int_equal(s.kv_type, c.kv_type);
	assert_int_equal(s.draft_tokens, c.lim.draft_tokens);
	assert_int_equal(s.step_tokens, c.lim.step_tokens);
	assert_int_equal(s.step_seqs, c.lim.step_seqs);
	assert_int_equal(s.steps_in_flight, c.lim.steps_in_flight);
	assert_int_equal(s.block_tokens, c.lim.block_tokens);
	assert_int_equal(s.slice_us, c.tmr.slice_us);
}

static void test_bad_knobs_are_named(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
	    {"colour=red", "the knobs are weights kv mass chunks drafts"},
	    {"kv", "is not KNOB=VALUE"},
	    {"kv=q5", "kv has no value \"q5\"; give one of f16 q8 q4"},
	    {"kv=q8,", "is not KNOB=VALUE"},
	    {"step=100", "step has no value \"100\"; give one of 32 64 128 256 512"},
	    {"", "the knobs are"},
	};
	struct plx_tune_point p, usual;

	(void)state;
	plx_tune_point_usual(&usual);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct plx_diag d = {0};

		p = usual;
		assert_int_equal(plx_tune_point_parse(&p, bad[i].text, strlen(bad[i].text), &d),
		                 PLX_E_INVAL);
		if (!strstr(d.text, bad[i].says))
			fail_msg("\"%s\": %s", bad[i].text, d.text);
		assert_true(plx_tune_point_same(&p, &usual));
	}
}

static void test_space_is_limited(void **state)
{
	struct plx_tune_space s;
	struct plx_diag d = {0};

	(void)state;
	plx_tune_space_all(&s);
	assert_int_equal(plx_tune_space_grid(&s), 7 * 3 * 4 * 4 * 4 * 5 * 5 * 3 * 3 * 4);
	assert_int_equal(plx_tune_space_limit(&s, "weights=q4_k,given,q4_k", &d), 0);
	assert_int_equal(s.n[0], 2);
	assert_int_equal(plx_tune_space_limit(&s, "slice=1000", &d), 0);
	assert_int_equal(plx_tune_space_grid(&s), 2 * 3 * 4 * 4 * 4 * 5 * 5 * 3 * 3);
	plx_tune_space_drop(&s, 9, 2); /* the last one stays */
	assert_int_equal(s.n[9], 1);
	plx_tune_space_drop(&s, 0, 0);
	assert_int_equal(s.n[0], 1);
	assert_int_equal(s.value[0][0], 4);
	assert_int_equal(plx_tune_space_limit(&s, "slice=7", &d), PLX_E_INVAL);
	assert_true(plx_weights_larger(1, 8.4) && !plx_weights_larger(1, 16));
	assert_true(!plx_weights_larger(0, 1) && !plx_weights_larger(6, 4.6));
}

/* ---- budgets ---- */

static void test_budgets_are_read(void **state)
{
	static const struct {
		const char *text;
		enum plx_figure figure;
		double bound;
	} good[] = {
	    {"perplexity 1 %", PLX_FIG_LOSS, 1},
	    {"perplexity 1%", PLX_FIG_LOSS, 1},
	    {"at most 1.5 % perplexity", PLX_FIG_LOSS, 1.5},
	    {"p99 inter-token 20 ms", PLX_FIG_P99, 20},
	    {"inter-token p99 = 20000us", PLX_FIG_P99, 20},
	    {"P50 ITL: 7", PLX_FIG_P50, 7},
	    {"first token 0.3 s", PLX_FIG_FIRST, 300},
	    {"ttft < 90ms", PLX_FIG_FIRST, 90},
	    {"at least 50 tokens/s", PLX_FIG_RATE, 50},
	    {"rate 50 tokens/s", PLX_FIG_RATE, 50},
	    {"memory 2 GiB", PLX_FIG_MEMORY, 2048},
	    {"kl 0.01 nats", PLX_FIG_KL, 0.01},
	    {"agreement 95 %", PLX_FIG_TOP, 95},
	    {"perplexity 0", PLX_FIG_LOSS, 0},
	};

	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		struct plx_diag d = {0};
		struct plx_budget b;

		if (plx_budget_parse(&b, good[i].text, &d))
			fail_msg("%s", d.text);
		assert_int_equal(b.figure, good[i].figure);
		assert_true(near(b.bound, good[i].bound));
	}
}

static void test_bad_budgets_are_refused(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
	    {"", "no number"},
	    {"perplexity", "no number"},
	    {"perplexity 1 ms", "does not belong"},
	    {"20 ms", "names no figure"},
	    {"p99 20 ms", "names no figure"},
	    {"first token 1 2 ms", "does not belong"},
	    {"first token -3 ms", "no number"},
	    {"rate 0 tokens/s", "must be above 0"},
	    {"at most 50 tokens/s", "it is a least value"},
	    {"at least 1 % perplexity", "it is a most value"},
	    {"p99 inter-token nan ms", "no number"},
	    {"perplexity 1e999 %", "no number"},
	    {"a b c d e f g h i j 1", "too many words"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct plx_diag d = {0};
		struct plx_budget b;

		assert_int_equal(plx_budget_parse(&b, bad[i].text, &d), PLX_E_INVAL);
		if (!strstr(d.text, bad[i].says))
			fail_msg("\"%s\": %s", bad[i].text, d.text);
	}
}

static void test_choice_holds_all_and_is_fastest(void **state)
{
	double f[4][PLX_FIGURES] = {{0}};
	const struct plx_budget b[] = {{PLX_FIG_LOSS, 1}, {PLX_FIG_P99, 20}};
	const struct plx_budget tight[] = {{PLX_FIG_LOSS, 0.1}, {PLX_FIG_P99, 12}};
	const double loss[] = {0.5, 0.9, 2, 0.2}, p99[] = {15, 19, 10, 15};
	const double rate[] = {50, 60, 90, 50.3}, kl[] = {0.02, 0.03, 0.2, 0.01};
	uint32_t close;

	(void)state;
	for (uint32_t i = 0; i < 4; i++) {
		f[i][PLX_FIG_LOSS] = loss[i];
		f[i][PLX_FIG_P99] = p99[i];
		f[i][PLX_FIG_RATE] = rate[i];
		f[i][PLX_FIG_KL] = kl[i];
	}
	assert_int_equal(plx_budget_choose(b, 2, (const double(*)[PLX_FIGURES])f, 4, &close), 1);
	f[1][PLX_FIG_P99] = 21;
	assert_int_equal(plx_budget_choose(b, 2, (const double(*)[PLX_FIGURES])f, 4, &close), 3);
	assert_int_equal(plx_budget_choose(tight, 2, (const double(*)[PLX_FIGURES])f, 4, &close),
	                 -1);
	assert_int_equal(close, 3); /* 100 % over in one, 25 % in the other */
	const struct plx_budget least = {PLX_FIG_RATE, 100};

	assert_true(near(plx_budget_excess(&least, f[0]), 0.5));
	assert_true(plx_budget_excess(&b[0], f[0]) < 0);
}

/* ---- the comparison ---- */

static struct plx_result res;

static void say_speed(const char *knobs, uint32_t round, double rate, double p99, double first)
{
	struct plx_journal_rec r = {.kind = PLX_JOURNAL_CHECK,
	                            .point = point(knobs),
	                            .v = {round, rate, p99 / 2, p99, first, 400, 1}};

	plx_result_take(&res, &r);
}

static void say_accuracy(const char *knobs, double kl)
{
	struct plx_journal_rec r = {.kind = PLX_JOURNAL_ACCURACY,
	                            .point = point(knobs),
	                            .v = {100, kl * 2, 0.01, kl, 0.001, 0.9, 1}};

	plx_result_take(&res, &r);
}

static void test_comparison_takes_the_minute_out(void **state)
{
	static const char *const knobs[] = {"drafts=0", "drafts=256", "drafts=1024"};
	static const double minute[] = {1, 0.5, 1.7, 1.2, 0.8, 1.1};
	struct plx_tune_point p;
	uint32_t by;
	double gap;

	(void)state;
	memset(&res, 0, sizeof res);
	for (uint32_t i = 0; i < 3; i++) {
		p = point(knobs[i]);
		assert_true(plx_result_add(&res, &p, i == 2 ? "hand" : ""));
		assert_false(plx_result_add(&res, &p, ""));
	}
	res.c[2].found = false; /* the second adding said that the search found it */
	say_accuracy("weights=given", 0.25);
	for (uint32_t r = 0; r < 6; r++) {
		double m = minute[r], wiggle = 1 + 0.01 * (r % 3);

		say_speed(knobs[0], r, 100 * m * wiggle, 10 / m, 50 / m);
		say_speed(knobs[1], r, 90 * m, 8 / m, 50 / m);
		say_speed(knobs[2], r, 80 * m, 9 / m, 55 / m);
	}
	say_speed(knobs[0], 6, 1, 1, 1); /* a round that was not finished */
	assert_true(plx_result_lacks(&res, 1, 6) && !plx_result_lacks(&res, 1, 5));
	plx_result_sum(&res);
	assert_int_equal(res.n_rounds, 6);
	assert_int_equal(res.c[0].number, 1);
	assert_int_equal(res.c[1].number, 2);
	assert_int_equal(res.c[2].number, 0);
	/* Rates differ threefold from minute to minute, and the interval is 2 % nevertheless. */
	assert_true(res.c[0].half[PLX_FIG_RATE] < 0.02 * res.c[0].f[PLX_FIG_RATE]);
	assert_true(res.c[0].half[PLX_FIG_RATE] > 0.001 * res.c[0].f[PLX_FIG_RATE]);
	assert_true(near(res.c[1].f[PLX_FIG_P99] / res.c[2].f[PLX_FIG_P99], 8.0 / 9));
	assert_true(near(res.c[1].f[PLX_FIG_LOSS], 100 * expm1(0.5)));
	assert_true(near(res.c[1].f[PLX_FIG_KL], 0.25));
	assert_int_equal(plx_result_judge(&res, 2, &by, &gap), PLX_VERDICT_BEATEN);
	assert_int_equal(by, 1);
	assert_true(gap <= 0);
}

/* A preset that is better by more than chance is said to be. */
static void test_comparison_admits_a_better_preset(void **state)
{
	struct plx_tune_point a = point("drafts=0"), b = point("drafts=256");
	uint32_t by;
	double gap;

	(void)state;
	for (uint32_t kind = 0; kind < 2; kind++) {
		memset(&res, 0, sizeof res);
		plx_result_add(&res, &a, "");
		plx_result_add(&res, &b, "hand");
		say_accuracy("weights=given", 0.25);
		for (uint32_t r = 0; r < 6; r++) {
			double up = kind ? 1.3 : r % 2 ? 1.3 : 0.78; /* always; or now and then */

			say_speed("drafts=0", r, 100, 10, 50);
			say_speed("drafts=256", r, 100 * up, 10, 50);
		}
		plx_result_sum(&res);
		assert_int_equal(plx_result_judge(&res, 1, &by, &gap),
		                 kind ? PLX_VERDICT_BEATS : PLX_VERDICT_EQUAL);
		assert_int_equal(by, 0);
	}
}

/* Who is beaten for certain is measured no more; what was measured of it still counts, and a slow
 * round that it missed does not make it look better. */
static void test_comparison_retires_the_beaten(void **state)
{
	static const char *const knobs[] = {"drafts=0", "drafts=256", "drafts=1024"};
	static const double minute[] = {1, 0.9, 1.1, 1.2, 0.5, 0.5};
	struct plx_tune_point p;

	(void)state;
	memset(&res, 0, sizeof res);
	for (uint32_t i = 0; i < 3; i++) {
		p = point(knobs[i]);
		assert_true(plx_result_add(&res, &p, i == 1 ? "hand" : ""));
	}
	say_accuracy("weights=given", 0.25);
	for (uint32_t r = 0; r < 6; r++) {
		double m = minute[r], wiggle = 1 + 0.002 * (r % 3);

		say_speed(knobs[0], r, 100 * m, 10 / m, 50 / m);
		say_speed(knobs[2], r, 103 * m * wiggle, 9 / m, 51 / m);
		if (r < 4)
			say_speed(knobs[1], r, 80 * m * wiggle, 12 / m, 60 / m);
	}
	assert_int_equal(plx_result_retire(&res, 4), 2);
	assert_true(res.c[1].out && !res.c[0].out && !res.c[2].out);
	assert_int_equal(plx_result_retire(&res, 6), 2);
	plx_result_sum(&res);
	assert_int_equal(res.n_rounds, 6);
	assert_int_equal(res.c[1].number, 0);
	assert_true(fabs(res.c[1].f[PLX_FIG_RATE] / res.c[0].f[PLX_FIG_RATE] - 0.8) < 0.003);
	assert_true(fabs(res.c[2].f[PLX_FIG_FIRST] / res.c[0].f[PLX_FIG_FIRST] - 1.02) < 1e-6);
}

static void test_student(void **state)
{
	(void)state;
	assert_true(near(plx_student(4), 3.182));
	assert_true(near(plx_student(15), 2.145));
	assert_true(fabs(plx_student(30) - 2.045) < 0.01);
}

/* ---- board files ---- */

static void test_board_is_one_that_polluxd_takes(void **state)
{
	static struct plx_config was, is;
	const char *model = mtool_path("some.gguf"), *out = mtool_path("board.yml");
	struct plx_tune_point p = point("kv=q4,step=64,block=64,slice=1000,drafts=256,seqs=8");
	static const char *const boards[] = {"board/devbox/board.yml", "board/pair/board.yml",
	                                     "board/onecore/board.yml"};
	struct plx_diag d = {0};
	struct plx_board b;

	(void)state;
	mtool_write(model, "x", 1);
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(plx_board_read(&b, boards[i], &d), 0);
		assert_int_equal(b.n_threads, i == 0 ? 2 : 1);
		assert_int_equal(b.pool_tokens, 16384);
		if (plx_board_write(out, boards[i], &p, model, "a: \"line\" #1", true, &d) ||
		    plx_config_load(&was, boards[i], NULL, &d) ||
		    plx_config_load(&is, out, NULL, &d))
			fail_msg("%s", d.text);
		assert_string_equal(is.model_path, model);
		assert_int_equal(is.kv_type, PLX_CFG_KV_Q4);
		assert_int_equal(is.lim.step_tokens, 64);
		assert_int_equal(is.lim.step_seqs, 8);
		assert_int_equal(is.lim.block_tokens, 64);
		assert_int_equal(is.lim.n_kv_blocks, 256);
		assert_int_equal(is.lim.draft_tokens, 256);
		assert_int_equal(is.tmr.slice_us, 1000);
		/* All else is what it was. */
		assert_int_equal(is.n_stages, was.n_stages);
		assert_int_equal(is.n_devs, was.n_devs);
		assert_string_equal(is.board, was.board);
		assert_string_equal(is.port[0].iface, was.port[0].iface);
		assert_memory_equal(is.port[0].ipv6, was.port[0].ipv6, 16);
		assert_int_equal(is.lim.n_slots, was.lim.n_slots);
		/* And its knobs are read back. */
		assert_int_equal(plx_board_read(&b, out, &d), 0);
		assert_true(plx_tune_point_same(&b.point, &p));
	}
	assert_int_equal(plx_board_write(out, boards[0], &p, model, "x", false, &d), PLX_E_EXISTS);
}

/* Whatever is chosen, polluxd takes it. */
static void test_every_point_makes_a_board(void **state)
{
	static struct plx_config c;
	const char *model = mtool_path("some.gguf"), *out = mtool_path("board.yml");
	struct plx_tune_point p;
	struct plx_diag d = {0};

	(void)state;
	mtool_write(model, "x", 1);
	for (uint32_t i = 0; i < 120; i++) {
		uint32_t rest = i * 1237 + 11;

		for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++) {
			p.v[k] = (uint8_t)(rest % plx_tune_knobs[k].n);
			rest = rest / plx_tune_knobs[k].n + i * 31;
		}
		if (plx_board_write(out, "board/devbox/board.yml", &p, model, "x", true, &d) ||
		    plx_config_load(&c, out, NULL, &d))
			fail_msg("%s", d.text);
	}
}

static void test_board_that_has_limits_is_merged(void **state)
{
	static const char text[] =
	    "board: x\n# a comment\nports: [{name: p, kind: auto, iface: e}]\n"
	    "devices: [{name: c, kind: cpu}]\n"
	    "limits: {n_slots: 7, step_tokens: 100, n_kv_blocks: 1000}\n"
	    "timers:\n  drain_ms: 5\n"
	    "stages:\n  - {kind: io, lcore: 0, port: p, queue: 0}\n"
	    "  - {kind: hs, lcore: 0}\n  - {kind: tok, lcore: 0}\n"
	    "  - {kind: batch, lcore: 0}\n"
	    "  - {kind: accel, lcore: 0, device: c}\n";
	static struct plx_config c;
	const char *in = mtool_path("in.yml"), *out = mtool_path("out.yml");
	struct plx_tune_point p = point("block=16");
	struct plx_diag d = {0};
	struct plx_board b;

	(void)state;
	mtool_write(in, text, sizeof text - 1);
	assert_int_equal(plx_board_read(&b, in, &d), 0);
	assert_true(b.odd[5]); /* step: 100 */
	assert_int_equal(b.pool_tokens, 32000);
	if (plx_board_write(out, in, &p, in, "x", false, &d) || plx_config_load(&c, out, NULL, &d))
		fail_msg("%s", d.text);
	assert_int_equal(c.lim.n_slots, 7);
	assert_int_equal(c.lim.step_seqs, 7); /* there are no more slots */
	assert_int_equal(c.lim.n_samples, 7);
	assert_int_equal(c.lim.step_tokens, 256);
	assert_int_equal(c.lim.n_kv_blocks, 2000);
	assert_int_equal(c.tmr.drain_ms, 5);
	mtool_write(in, "a: [", 4);
	assert_int_equal(plx_board_read(&b, in, &d), PLX_E_FORMAT);
	mtool_write(in, "a: 1\n", 5);
	assert_int_equal(plx_board_read(&b, in, NULL), PLX_E_FORMAT);
	assert_int_equal(plx_board_read(&b, mtool_path("none"), NULL), PLX_E_IO);
}

/* ---- pictures ---- */

static uint32_t count(const char *text, const char *what)
{
	uint32_t n = 0;

	for (const char *at = text; (at = strstr(at, what)); at += strlen(what))
		n++;
	return n;
}

static void test_pictures_hold_every_point(void **state)
{
	struct plx_draw_point p[4] = {{.kind = PLX_DRAW_TRIED, .name = "a<b>&\"c\""},
	                              {.kind = PLX_DRAW_FRONT, .number = 1, .name = "one"},
	                              {.kind = PLX_DRAW_CHOSEN, .number = 2, .name = "two"},
	                              {.kind = PLX_DRAW_PRESET, .name = "three"}};
	struct plx_draw w = {.title = "T", .about = "A & B", .point = p, .n = 4};
	struct plx_diag d = {0};

	(void)state;
	for (uint32_t i = 0; i < 4; i++)
		for (uint32_t k = 0; k < PLX_FIGURES; k++) {
			p[i].f[k] = i * 3.5 + k;
			p[i].half[k] = i == 1 ? 0.25 : 0;
		}
	assert_int_equal(plx_draw_svg(&w, mtool_path("f.svg"), &d), 0);
	assert_int_equal(plx_draw_page(&w, mtool_path("f.html"), &d), 0);
	char *svg = mtool_read(mtool_path("f.svg"), NULL);
	char *page = mtool_read(mtool_path("f.html"), NULL);

	assert_int_equal(count(svg, "<circle"), 3 * 4);
	assert_int_equal(count(svg, "class=\"preset\""), 4);
	assert_int_equal(count(svg, "class=\"bar front\""), 2 * 4);
	assert_int_equal(count(svg, "a&lt;b&gt;&amp;&quot;c&quot;"), 4);
	assert_non_null(strstr(svg, "from token to token, 99 of 100, ms"));
	assert_int_equal(count(page, "<svg"), 4);
	assert_int_equal(count(page, "<tr"), 4);
	assert_non_null(strstr(page, "prefers-color-scheme:dark"));
	assert_non_null(strstr(page, "A &amp; B"));
	/* Nothing from the network. */
	assert_int_equal(count(page, "http"), count(page, "http://www.w3.org/2000/svg"));
	assert_null(strstr(page, "<script"));
	assert_null(strstr(svg, "nan"));
	free(svg);
	free(page);
	w.n = 0; /* nothing to draw is a picture too */
	assert_int_equal(plx_draw_svg(&w, mtool_path("f.svg"), &d), 0);
	assert_int_equal(plx_draw_svg(&w, mtool_path("no/f.svg"), &d), PLX_E_IO);
}

/* ---- the command line ---- */

static int parse(struct plx_diag *d, const char *const *words)
{
	char *argv[24];
	int argc = 0;

	d->text[0] = '\0';
	for (argv[argc++] = strdup("plx-tune"); *words; words++)
		argv[argc++] = strdup(*words);
	argv[argc] = NULL;
	int err = plx_tune_parse(&o, argc, argv, d);

	for (int i = 0; i < argc; i++)
		if (err || argv[i] != o.model)
			free(argv[i]);
	return err;
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NEEDED     "--text", "t", "--work", "w"

static void test_command_line(void **state)
{
	struct plx_diag d;

	(void)state;
	if (parse(&d, WORDS("--time", "90s", "--budget", "perplexity 1 %", "--knob", "kv=q8,q4",
	                    "--preset", "mine:kv=q8", "--batch", "8", "--cpu-time", NEEDED, "m")))
		fail_msg("%s", d.text);
	assert_string_equal(o.model, "m");
	free((void *)(uintptr_t)o.model);
	assert_true(near(o.time_s, 90));
	assert_int_equal(o.n_budgets, 1);
	assert_int_equal(o.space.n[1], 2);
	assert_int_equal(o.n_presets, 1);
	assert_string_equal(o.preset[0].name, "mine");
	assert_int_equal(o.n_requests, 16);
	assert_int_equal(o.n_threads, 1);
	assert_int_equal(parse(&d, WORDS("--help")), 0);
	assert_true(o.help);
}

static void test_bad_command_lines_are_refused(void **state)
{
	static const struct {
		const char *const word[12];
		const char *says;
	} bad[] = {
	    {{NEEDED}, "give the model's file"},
	    {{"--work", "w", "m"}, "--text is missing"},
	    {{"--text", "t", "m"}, "--work is missing"},
	    {{NEEDED, "m", "n"}, "one model at a time"},
	    {{NEEDED, "m", "--frobnicate"}, "--frobnicate is not an option"},
	    {{NEEDED, "m", "--time"}, "--time needs a value"},
	    {{NEEDED, "m", "--time", "10x"}, "--time 10x: give 1s to 24h"},
	    {{NEEDED, "m", "--batch", "0"}, "--batch 0: give a number of 1 to 64"},
	    {{NEEDED, "m", "--knob", "hue=1"}, "the knobs are"},
	    {{NEEDED, "m", "--preset", "x"}, "give NAME:KNOB=VALUE"},
	    {{NEEDED, "m", "--budget", "speed"}, "it has no number"},
	    {{NEEDED, "m", "-o", "b.yml"}, "-o needs --board"},
	    {{NEEDED, "m", "-o", "b.yml", "--board", "c"}, "-o needs a --budget"},
	    {{NEEDED, "m", "--requests", "3"}, "--requests must be at least --batch"},
	    {{NEEDED, "m", "--cpu-time", "--threads", "2"}, "--cpu-time is for one thread"},
	    {{NEEDED, "m", "--interval", "0"}, "--interval 0: give a percentage"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct plx_diag d;

		assert_int_equal(parse(&d, bad[i].word), PLX_E_INVAL);
		if (!strstr(d.text, bad[i].says))
			fail_msg("%zu: %s", i, d.text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_point_is_its_text),
	    cmocka_unit_test(test_usual_point_is_polluxd_s_default),
	    cmocka_unit_test(test_bad_knobs_are_named),
	    cmocka_unit_test(test_space_is_limited),
	    cmocka_unit_test(test_budgets_are_read),
	    cmocka_unit_test(test_bad_budgets_are_refused),
	    cmocka_unit_test(test_choice_holds_all_and_is_fastest),
	    cmocka_unit_test(test_comparison_takes_the_minute_out),
	    cmocka_unit_test(test_comparison_admits_a_better_preset),
	    cmocka_unit_test(test_comparison_retires_the_beaten),
	    cmocka_unit_test(test_student),
	    cmocka_unit_test(test_board_is_one_that_polluxd_takes),
	    cmocka_unit_test(test_every_point_makes_a_board),
	    cmocka_unit_test(test_board_that_has_limits_is_merged),
	    cmocka_unit_test(test_pictures_hold_every_point),
	    cmocka_unit_test(test_command_line),
	    cmocka_unit_test(test_bad_command_lines_are_refused),
	};

	return cmocka_run_group_tests(tests, mtool_setup, mtool_teardown);
}
