/*
 * Why a token was late: a request that went well with one token spoiled in each of the ways there
 * are; the verdict has to name it. The confusion table is printed. And recordings: what was saved
 * is loaded again, and what is cut is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "tests/lib/scope_fake.h"
#include "tools/scope/rec.h"
#include "tools/scope/view.h"
#include "tools/scope/why.h"

#define MS      PLX_NS_PER_MS
#define BEGIN   (1000 * MS)
#define LATE    12u /* token that is spoiled */
#define LATE_BY (70 * MS)

static char path[64];
static struct plx_share share;
static struct plx_scope scope;
static struct plx_rec rec;
static struct plx_tokens tokens;

static int setup(void **state)
{
	struct plx_diag d = {0};

	(void)state;
	snprintf(path, sizeof(path), "/tmp/plx-test-why-%d", (int)getpid());
	if (plx_fake_share(&share, path) != 0 || plx_scope_open(&scope, path, &d) != 0)
		return 1;
	plx_fake_request(&share, 17, 3, 40, BEGIN);
	if (plx_rec_open(&rec, &scope) != 0)
		return 1;
	plx_rec_poll(&rec, &scope);
	plx_rec_end(&rec, &scope);
	rec.watched = true;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	plx_tokens_free(&tokens);
	plx_rec_close(&rec);
	plx_scope_close(&scope);
	plx_share_close(&share);
	return 0;
}

/* When the spoiled token's step was done. */
static uint64_t late_at(void)
{
	return BEGIN + 1100 * PLX_NS_PER_US + 10 * MS + LATE * 8 * MS;
}

/* Events after after_ns happen LATE_BY later; so do the times they name, from `from` on. */
static void delay_after(uint64_t after, uint64_t from)
{
	for (uint32_t i = 0; i < rec.snap.n_evs; i++) {
		struct plx_trace_ev *e = &rec.snap.ev[i].e;
		bool times = e->kind == PLX_TR_STEP || e->kind == PLX_TR_TOKEN ||
		             e->kind == PLX_TR_TEXT || e->kind == PLX_TR_TAKEN_TX;

		if (e->ns <= after)
			continue;
		e->ns += LATE_BY;
		if (!times)
			continue;
		e->a += e->a > from ? LATE_BY : 0;
		e->b += e->b > from ? LATE_BY : 0;
		e->c += e->c > from ? LATE_BY : 0;
	}
}

static void delay(uint64_t from)
{
	delay_after(from, from);
}

static void add_event(uint32_t page, struct plx_trace_ev ev)
{
	ev.ns = ev.ns != 0 ? ev.ns : ev.b;
	rec.snap.ev[rec.snap.n_evs++] = (struct plx_scope_ev){.e = ev, .page = page};
}

static void add_thief(enum plx_thief_kind kind, const char *name, uint64_t begin)
{
	struct plx_thief *t = &rec.thief[rec.n_thieves++];

	*t = (struct plx_thief){
	    .begin_ns = begin, .end_ns = begin + LATE_BY, .kind = kind, .pid = 4711};
	snprintf(t->name, sizeof(t->name), "%s", name);
}

static enum plx_why_cause judge(struct plx_why *w)
{
	struct plx_why_in in = {.snap = &rec.snap,
	                        .tokens = &tokens,
	                        .thief = rec.thief,
	                        .n_thieves = rec.n_thieves,
	                        .watched = rec.watched};

	plx_snap_sort(&rec.snap);
	assert_int_equal(plx_tokens_make(&tokens, &rec.snap), 0);
	const struct plx_token_times *t = plx_tokens_token(&tokens, 17, 3, 0, LATE);

	assert_non_null(t);
	plx_why_token(w, &in, t);
	if (w->cause != PLX_WHY_USUAL)
		assert_ptr_equal(plx_why_latest(&in, 17, 3), t);
	plx_tokens_free(&tokens);
	return w->cause;
}

/* Spoil the token. Between its step's end and its text unless the device is to blame. */
static void spoil(enum plx_why_cause cause)
{
	uint64_t at = late_at() + 60 * PLX_NS_PER_US; /* batch has it, tok not yet */
	uint64_t in_step = late_at() - MS, before = late_at() - 8 * MS;

	switch (cause) {
	case PLX_WHY_TASK:
		delay(at);
		add_thief(PLX_THIEF_SCHED, "hog", at);
		break;
	case PLX_WHY_INTERRUPT:
		delay(at);
		add_thief(PLX_THIEF_SOFTIRQ, "NET_RX", at);
		break;
	case PLX_WHY_FAULT:
		delay(at);
		add_thief(PLX_THIEF_FAULT, "page fault", at);
		add_thief(PLX_THIEF_SCHED, "kswapd0", at); /* what ran meanwhile */
		break;
	case PLX_WHY_SYSCALL:
		delay(at);
		add_thief(PLX_THIEF_SYSCALL, "fsync", at);
		break;
	case PLX_WHY_SLOW:
		delay(in_step);
		break;
	case PLX_WHY_LARGE_STEP:
		delay(in_step);
		for (uint32_t i = 0; i < rec.snap.n_evs; i++)
			if (rec.snap.ev[i].e.kind == PLX_TR_STEP &&
			    rec.snap.ev[i].e.b == late_at() + LATE_BY)
				rec.snap.ev[i].e.n = 200;
		break;
	case PLX_WHY_QUEUE:
		delay_after(before + 250 * PLX_NS_PER_US, before - 30 * PLX_NS_PER_US);
		for (uint64_t k = 1; k < 8; k++)
			add_event(FAKE_ACCEL,
			          (struct plx_trace_ev){.kind = PLX_TR_STEP,
			                                .n = 100,
			                                .a = before + k * 8 * MS,
			                                .b = before + (k + 1) * 8 * MS});
		break;
	case PLX_WHY_FULL:
		delay(at);
		add_event(FAKE_TOK,
		          (struct plx_trace_ev){.kind = PLX_TR_STALL, .a = at, .b = at + LATE_BY});
		break;
	case PLX_WHY_LCORE:
		delay(at);
		add_event(FAKE_HS,
		          (struct plx_trace_ev){.kind = PLX_TR_LONG, .a = at, .b = at + LATE_BY});
		break;
	case PLX_WHY_STAGE:
		delay(at);
		break;
	case PLX_WHY_USUAL:
	case PLX_WHY_CAUSES:
	default:
		break;
	}
}

static void test_why_names_each_cause(void **state)
{
	(void)state;
	for (int c = 0; c < PLX_WHY_CAUSES; c++) {
		enum plx_why_cause cause = (enum plx_why_cause)c;
		struct plx_why w;

		assert_int_equal(setup(NULL), 0);
		spoil(cause);
		enum plx_why_cause said = judge(&w);

		print_message("%-12s -> %-12s %s\n", plx_why_cause_name(cause),
		              plx_why_cause_name(said), w.verdict);
		teardown(NULL);
		assert_int_equal(said, cause);
	}
}

static void test_why_says_it_in_a_sentence(void **state)
{
	struct plx_why w;
	uint64_t sum = 0;

	(void)state;
	spoil(PLX_WHY_TASK);
	judge(&w);
	assert_string_equal(w.verdict,
	                    "token 12 of 17-3 took 78.2 ms, 70.0 ms of it too much in \"text\": "
	                    "hog (pid 4711) had lcore 0's core for 70.0 ms");
	for (int p = 0; p < PLX_WHY_PARTS; p++)
		sum += w.ns[p];
	assert_int_equal(sum, w.total_ns);
	assert_int_equal(w.total_ns, 78 * MS + 200 * PLX_NS_PER_US);
	assert_int_equal(w.ns[PLX_WHY_DEVICE], 8 * MS);
}

static void add_part(enum plx_thief_kind kind, const char *name, uint64_t begin, uint64_t ns)
{
	add_thief(kind, name, begin);
	rec.thief[rec.n_thieves - 1].end_ns = begin + ns;
}

/* A task that interrupts hold up is not what took their time. */
static void test_interrupts_within_a_task_are_their_own(void **state)
{
	uint64_t at = late_at() + 60 * PLX_NS_PER_US;
	struct plx_why w;

	(void)state;
	delay(at);
	add_part(PLX_THIEF_SCHED, "kdamond.0", at, 60 * MS);
	for (uint64_t i = 0; i < 8; i++)
		add_part(PLX_THIEF_IRQ, "timer", at + i * 7 * MS, 5 * MS);
	assert_int_equal(judge(&w), PLX_WHY_INTERRUPT);
	assert_int_equal(w.thief_ns, 40 * MS);
}

/* Many small thieves: the largest is named, if together they took half. */
static void test_small_thieves_count_together(void **state)
{
	uint64_t at = late_at() + 60 * PLX_NS_PER_US;
	struct plx_why w;

	(void)state;
	delay(at);
	add_part(PLX_THIEF_SCHED, "a", at, 10 * MS);
	add_part(PLX_THIEF_SCHED, "b", at + 10 * MS, 9 * MS);
	add_part(PLX_THIEF_IRQ, "timer", at + 20 * MS, 15 * MS);
	assert_int_equal(judge(&w), PLX_WHY_STAGE); /* 34 of 70 ms */
	assert_null(w.thief);
	rec.thief[1].end_ns += MS;
	assert_int_equal(judge(&w), PLX_WHY_INTERRUPT);
	assert_int_equal(w.thief_ns, 15 * MS);
}

/* A fifth is enough of a storm, not of a tick. */
static void test_a_storm_costs_more_than_its_handlers(void **state)
{
	uint64_t at = late_at() + 60 * PLX_NS_PER_US;
	struct plx_why w;

	(void)state;
	delay(at);
	for (uint64_t i = 0; i < 70; i++)
		add_part(PLX_THIEF_IRQ, "timer", at + i * MS, 200 * PLX_NS_PER_US);
	assert_int_equal(judge(&w), PLX_WHY_STAGE); /* 14 of 70 ms, one a millisecond */
	rec.n_thieves = 0;
	for (uint64_t i = 0; i < 300; i++)
		add_part(PLX_THIEF_IRQ, "timer", at + i * MS / 5, 50 * PLX_NS_PER_US);
	assert_int_equal(judge(&w), PLX_WHY_INTERRUPT); /* 15 of 70 ms, four a millisecond */
	assert_int_equal(w.thief_ns, 15 * MS);
}

static void test_why_admits_what_was_not_recorded(void **state)
{
	struct plx_why w;

	(void)state;
	rec.watched = false;
	spoil(PLX_WHY_STAGE);
	assert_int_equal(judge(&w), PLX_WHY_STAGE);
	assert_non_null(strstr(w.verdict, "what the kernel did was not recorded"));
}

static void test_tokens_know_the_request(void **state)
{
	const struct plx_request_times *r;

	(void)state;
	spoil(PLX_WHY_SLOW);
	plx_snap_sort(&rec.snap);
	assert_int_equal(plx_tokens_make(&tokens, &rec.snap), 0);
	assert_int_equal(tokens.n_req, 1);
	r = plx_tokens_request(&tokens, 17, 3);
	assert_non_null(r);
	assert_int_equal(r->n_tokens, 40);
	assert_int_equal(r->n_prompt, 20);
	assert_int_equal(r->worst, LATE);
	assert_int_equal(r->worst_ns, 78 * MS);
	assert_int_equal(r->end, 1);
	assert_null(plx_tokens_request(&tokens, 17, 4));
	assert_null(plx_tokens_token(&tokens, 17, 3, 0, 40));
}

static void test_trace_is_json(void **state)
{
	static char body[1 << 20];
	struct plx_text t;
	json_error_t err;

	(void)state;
	spoil(PLX_WHY_TASK);
	plx_text_init(&t, body, sizeof(body));
	plx_view_trace(&t, &rec.snap, rec.thief, rec.n_thieves);
	assert_false(t.cut);
	json_t *j = json_loads(body, 0, &err), *e;
	size_t i, n_steps = 0, n_hogs = 0;

	assert_non_null(j);
	json_array_foreach(json_object_get(j, "traceEvents"), i, e)
	{
		const char *name = json_string_value(json_object_get(e, "name"));

		n_steps += strcmp(name, "step") == 0;
		n_hogs += strcmp(name, "hog") == 0;
	}
	json_decref(j);
	assert_int_equal(n_steps, 40);
	assert_int_equal(n_hogs, 1);
}

static void test_recording_comes_back(void **state)
{
	char file[80];
	struct plx_rec got;
	struct plx_diag d = {0};

	(void)state;
	snprintf(file, sizeof(file), "%s.rec", path);
	spoil(PLX_WHY_TASK);
	assert_false(plx_rec_is(path));
	assert_int_equal(plx_rec_save(&rec, file, &d), 0);
	assert_true(plx_rec_is(file));
	assert_int_equal(plx_rec_load(&got, file, &d), 0);
	assert_int_equal(got.snap.n_evs, rec.snap.n_evs);
	assert_int_equal(got.n_thieves, 1);
	assert_string_equal(got.thief[0].name, "hog");
	assert_true(got.watched);
	assert_string_equal(got.snap.page[FAKE_TOK].name, "tok");
	assert_int_equal(got.snap.page[FAKE_BATCH].counter[PLX_M_REQ_DONE], 3);
	plx_rec_close(&got);
	assert_int_equal(truncate(file, 40000), 0);
	assert_int_equal(plx_rec_load(&got, file, &d), PLX_E_FORMAT);
	assert_non_null(strstr(d.text, "is cut"));
	unlink(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_why_names_each_cause),
	    cmocka_unit_test_setup_teardown(test_why_says_it_in_a_sentence, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_why_admits_what_was_not_recorded, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_interrupts_within_a_task_are_their_own, setup,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_a_storm_costs_more_than_its_handlers, setup,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_small_thieves_count_together, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_tokens_know_the_request, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_trace_is_json, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_recording_comes_back, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
