/*
 * tok, batch and accel together over real rings, with a fake device below and a fake io above:
 * every request ends exactly once, with exactly the right text, whatever happens on the way.
 */
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/stage_accel.h"
#include "dataplane/stage_batch.h"
#include "dataplane/stage_tok.h"
#include "fw/base/clock.h"
#include "tests/lib/fake_device.h"
#include "tests/lib/tiny_vocab.h"

#define N_REQ     16u
#define N_SAMPLES 3u
#define N_IO      2u
#define MAX_NEW   40u
#define MAX_TEXT  4096u

static const char *words[] = {
    "he", "llo", "\xe2\x96\x81world", "\xe2\x96\x81wor", "ld", "x\xe2\x82\xac", "a", "b",
    "ab", "abc"};
#define N_WORDS (sizeof(words) / sizeof(words[0]))

/* What the fake io knows of a request, by its place in the pool. */
struct client {
	bool open;
	uint32_t n_accepts, n_finals;
	uint32_t n_ids[N_SAMPLES];
	int32_t id[N_SAMPLES][MAX_NEW];
	uint32_t n_text[N_SAMPLES];
	char text[N_SAMPLES][MAX_TEXT];
	bool last[N_SAMPLES];
	bool note_due[N_SAMPLES]; /* a window notice found the ring full: again at the next poll */
	struct plx_result res;
	uint64_t seed;
	uint32_t max_new;
	char stop[8];
};

struct rig {
	struct plx_config cfg;
	struct plx_arena arena;
	struct plx_links links;
	struct plx_tok *tok;
	struct plx_fake *fake;
	struct plx_queue *queue;
	struct plx_page page[3];
	struct plx_stage_tok st;
	struct plx_stage_batch sb;
	struct plx_stage_accel sa;
	struct client client[N_REQ];
	bool deaf;    /* io takes no events */
	bool no_acks; /* io sends no windows */
	uint32_t n_finals;
	uint32_t n_kind[4];
};

static struct rig r;

static struct plx_config small_config(void)
{
	struct plx_config c = {.n_ports = 1};

	c.lim = (struct plx_cfg_limits){.n_sessions = 4,
	                                .kept_tokens = 2000,
	                                .kept_requests = 2,
	                                .n_requests = N_REQ,
	                                .request_bytes = 4096,
	                                .prompt_tokens = 512,
	                                .max_new_tokens = MAX_NEW,
	                                .n_samples = N_SAMPLES,
	                                .n_stop = 4,
	                                .stop_bytes = 8,
	                                .n_logprobs = 5,
	                                .n_slots = 6,
	                                .n_kv_blocks = 60,
	                                .n_host_blocks = 20,
	                                .block_tokens = 16,
	                                .step_tokens = 32,
	                                .step_seqs = 6,
	                                .steps_in_flight = 2,
	                                .unacked_tokens = 16,
	                                .ring_entries = 8};
	c.tmr = (struct plx_cfg_timers){
	    .slice_us = 10000, .pause_ms = 10000, .step_deadline_ms = 10000};
	return c;
}

static void open_stages(void)
{
	struct plx_diag d = {""};
	const int32_t *eog;
	uint32_t n_eog = plx_tok_eog(r.tok, &eog);
	struct plx_batch_dev dev = {.queue = r.queue};
	struct plx_batch_model model = {.model_id = 5,
	                                .n_ctx = 600,
	                                .n_vocab = plx_tok_n_vocab(r.tok),
	                                .caps = PLX_CAP_LAST | PLX_CAP_LOGPROBS | PLX_CAP_COPY,
	                                .eog = eog,
	                                .n_eog = n_eog,
	                                .prefix_cache = true,
	                                .secret = 1};

	assert_int_equal(plx_links_open(&r.links, &r.arena, &r.cfg, N_IO, &d), 0);
	plx_page_init(&r.page[0], PLX_STAGE_TOK, 0, 0);
	plx_page_init(&r.page[1], PLX_STAGE_BATCH, 0, 0);
	plx_page_init(&r.page[2], PLX_STAGE_ACCEL, 1, 0);
	assert_string_equal(r.page[2].name, "accel.1");
	assert_int_equal(plx_stage_tok_init(&r.st, &r.links, &r.arena, r.tok, NULL, &r.page[0], &d),
	                 0);
	assert_int_equal(
	    plx_stage_batch_init(&r.sb, &r.links, &r.arena, &dev, &model, &r.page[1], &d), 0);
	assert_int_equal(plx_stage_accel_init(&r.sa, &r.links, 0, plx_fake_dev(r.fake), &r.queue,
	                                      &r.page[2], &d),
	                 0);
}

static int rig_open(void **state)
{
	struct plx_diag d = {""};
	struct plx_fake_conf fc = {.eog_id = TINY_EOS, .eog_every = 50};

	(void)state;
	memset(&r, 0, sizeof(r));
	r.cfg = small_config();
	r.tok = plx_tiny_vocab(words, N_WORDS);
	fc.n_vocab = plx_tok_n_vocab(r.tok);
	struct plx_dev_limits lim = plx_batch_dev_limits(&r.cfg, 600, 1);

	r.fake = plx_fake_open(&lim, &fc);
	assert_int_equal(plx_queue_open(plx_fake_dev(r.fake), &r.queue, &d), 0);
	/* Exactly what the stages say that they need. */
	assert_int_equal(plx_arena_open(&r.arena,
	                                plx_links_bytes(&r.cfg, N_IO) +
	                                    plx_stage_tok_bytes(&r.cfg) +
	                                    plx_stage_batch_bytes(&r.cfg, 600),
	                                &d),
	                 0);
	open_stages();
	plx_arena_seal(&r.arena);
	return 0;
}

static int rig_close(void **state)
{
	(void)state;
	plx_stage_tok_close(&r.st);
	plx_dev_close(plx_fake_dev(r.fake));
	plx_tok_free(r.tok);
	plx_arena_close(&r.arena);
	return 0;
}

/* ---- the fake io ---- */

static void tell_window(struct client *c, const struct plx_req *q, uint32_t s)
{
	c->note_due[s] =
	    !plx_note_window(&r.links, q, (uint16_t)s, c->n_ids[s] + r.cfg.lim.unacked_tokens);
}

static void on_tokens(struct client *c, const struct plx_ev *ev)
{
	uint32_t s = ev->sample;

	assert_true(s < N_SAMPLES && !c->last[s]);
	assert_int_equal(ev->first_idx, c->n_ids[s]);
	for (uint32_t i = 0; i < ev->n_ids; i++) {
		c->id[s][c->n_ids[s]++] = ev->id[i];
		assert_true(ev->n_top == 0 || ev->logprob[i] < 0);
		for (uint32_t k = 0; k < ev->n_top; k++)
			assert_int_equal(ev->top[i * ev->n_top + k].id,
			                 ((uint32_t)ev->id[i] + k) % plx_tok_n_vocab(r.tok));
	}
	memcpy(c->text[s] + c->n_text[s], ev->text, ev->text_bytes);
	c->n_text[s] += ev->text_bytes;
	c->last[s] = ev->last;
	if (!r.no_acks)
		tell_window(c, ev->req, s);
}

static void on_event(const struct plx_ev *ev)
{
	struct client *c = &r.client[ev->req->idx];

	assert_true(c->open);
	assert_int_equal(c->n_finals, 0);
	switch ((enum plx_ev_kind)ev->kind) {
	case PLX_EV_ACCEPTED:
		assert_int_equal(c->n_accepts++, 0);
		assert_int_equal(c->n_text[0], 0);
		break;
	case PLX_EV_TOKENS:
		on_tokens(c, ev);
		break;
	case PLX_EV_FINAL:
		c->n_finals++;
		c->open = false;
		c->res = ev->req->res;
		r.n_finals++;
		r.n_kind[c->res.kind]++;
		plx_req_give(&r.links, ev->req);
		break;
	}
}

static uint32_t io_poll(void)
{
	struct plx_ev *ev;
	uint32_t n = 0;

	for (uint32_t i = 0; i < N_REQ; i++)
		for (uint32_t s = 0; s < N_SAMPLES; s++)
			if (r.client[i].open && r.client[i].note_due[s])
				tell_window(&r.client[i], &r.links.req[i], s);
	for (uint32_t io = 0; io < N_IO && !r.deaf; io++)
		while ((ev = plx_ev_next(&r.links, io)) != NULL) {
			assert_int_equal(ev->io_idx, io);
			on_event(ev);
			plx_ev_give(&r.links, ev);
			n++;
		}
	return n;
}

static uint32_t turn(void)
{
	uint32_t n = io_poll();

	n += plx_stage_tok_poll(&r.st, plx_clock_ns());
	n += plx_stage_batch_poll(&r.sb, plx_clock_ns());
	return n + plx_stage_accel_poll(&r.sa, plx_clock_ns());
}

struct ask {
	uint32_t flags;
	const char *text;
	const uint32_t *ids;
	uint32_t n_ids;
	const char *stop;
	uint16_t n_samples;
	uint32_t max_new;
	uint8_t n_logprobs;
	uint64_t seed;
	uint64_t deadline_ns;
	uint32_t model_id;
	uint32_t io;
	uint64_t req_id;
	uint64_t continued; /* req_id that it goes on from; 0: none */
	uint32_t continued_sample;
	const uint32_t *had; /* ids of sample 0 that the client has */
	uint32_t n_had;
	uint32_t tenant;
	bool share_prefix;
};

#define SESSION 1u /* of every request */

static void write_body(struct plx_req *q, const struct ask *a)
{
	struct plx_req_writer w;
	struct plx_req_fault f;
	struct plx_msg_req m = plx_msg_req_init();
	struct plx_wire_limits lim = {.max_request_bytes = 4096,
	                              .max_prompt_tokens = 1024,
	                              .max_new = 4096,
	                              .max_samples = 64,
	                              .max_stops = 16,
	                              .max_stop_bytes = 128,
	                              .max_logprobs = 20};

	m.flags |= a->flags;
	m.n_samples = a->n_samples ? a->n_samples : 1;
	m.max_new = a->max_new;
	m.n_logprobs = a->n_logprobs;
	m.seed = a->seed;
	m.model_id = a->model_id;
	plx_req_begin(&w, q->body, r.cfg.lim.request_bytes, &m);
	if (a->continued)
		plx_req_continue(&w, a->continued, a->continued_sample);
	if (a->n_had)
		plx_req_resume(&w, 0, a->had, a->n_had);
	if (a->stop)
		plx_req_stop(&w, a->stop, strlen(a->stop));
	if (a->flags & PLX_REQ_MESSAGES)
		plx_req_message(&w, PLX_ROLE_USER, a->text, strlen(a->text));
	else if (a->text)
		plx_req_prompt_text(&w, a->text, strlen(a->text));
	else
		plx_req_prompt_ids(&w, a->ids, a->n_ids);
	int n = plx_req_end(&w);

	assert_true(n > 0);
	assert_int_equal(plx_req_decode(&q->view, q->body, (size_t)n, &lim, UINT32_MAX, &f), 0);
}

static struct plx_req *make(const struct ask *a)
{
	struct plx_req *q = plx_req_take(&r.links);

	if (!q)
		return NULL;
	struct client *c = &r.client[q->idx];

	memset(c, 0, sizeof(*c));
	c->open = true;
	c->seed = a->seed;
	c->max_new = a->max_new;
	if (a->stop)
		strcpy(c->stop, a->stop);
	q->io_idx = a->io;
	q->session_id = SESSION;
	q->req_id = a->req_id;
	plx_session_mark(&r.links, a->io, SESSION, true);
	q->priority = 0;
	q->tenant = a->tenant;
	q->share_prefix = a->share_prefix;
	q->tenant_kv_blocks = 0;
	q->deadline_ns = a->deadline_ns;
	write_body(q, a);
	return q;
}

static struct client *ask(const struct ask *a)
{
	struct plx_req *q = make(a);

	assert_non_null(q);
	assert_true(plx_req_push(&r.links, q));
	return &r.client[q->idx];
}

static uint64_t counted(enum plx_metric m)
{
	return plx_counter_read(&r.page[0], m) + plx_counter_read(&r.page[1], m);
}

/* Each reject is counted once, and under its reason. */
static void check_rejects(void)
{
	uint64_t n = 0;

	for (int m = PLX_M_REJ_QUEUE_FULL; m <= PLX_M_REJ_DEVICE_LOST; m++)
		n += counted((enum plx_metric)m);
	assert_int_equal(n, r.n_kind[PLX_FINAL_REJECT]);
	assert_int_equal(counted(PLX_M_REQ_REJECTED), n);
}

static void run_out(void)
{
	uint64_t end = plx_clock_ns() + 5 * PLX_NS_PER_S;

	while (plx_req_busy(&r.links) > 0 && plx_clock_ns() < end)
		turn();
	assert_int_equal(plx_req_busy(&r.links), 0);
	while (!plx_sched_idle(&r.sb.fleet.dev[0].sched) && plx_clock_ns() < end)
		turn();
	plx_sched_check(&r.sb.fleet.dev[0].sched);
	assert_int_equal(plx_kv_room(&r.sb.fleet.dev[0].sched.kv) +
	                     r.sb.fleet.dev[0].sched.kv.n_quarantined,
	                 r.cfg.lim.n_kv_blocks);
	turn();
	assert_int_equal(r.st.out.n_free, r.links.n_evs);
	check_rejects();
}

/* ---- the right answer ---- */

/* ids and text of a sample whose prompt was ids[n]; text is cut at the stop string. */
static void check_answer(const struct client *c, const int32_t *ids, uint32_t n, uint32_t sample)
{
	int32_t want[MAX_NEW];
	char text[MAX_TEXT];
	struct plx_tok_stream st;
	size_t len = 0;
	uint32_t n_want =
	    plx_fake_expect(plx_fake_conf(r.fake), ids, n, c->seed, sample, c->max_new, want);

	plx_tok_stream_init(&st, r.tok, PLX_TOK_KEEP_SPACE);
	for (uint32_t i = 0; i < n_want; i++)
		len += (size_t)plx_tok_stream_push(&st, want[i], text + len, 1024);
	len += (size_t)plx_tok_stream_flush(&st, text + len, 1024);
	char *hit = c->stop[0] ? memmem(text, len, c->stop, strlen(c->stop)) : NULL;
	bool done = c->res.kind == PLX_FINAL_DONE;

	if (hit)
		len = (size_t)(hit - text);
	assert_true(c->n_text[sample] <= len);
	assert_memory_equal(c->text[sample], text, c->n_text[sample]);
	assert_true(c->n_ids[sample] <= n_want);
	for (uint32_t i = 0; i < c->n_ids[sample]; i++)
		assert_int_equal(c->id[sample][i], want[i]);
	assert_int_equal(c->res.sample[sample].n_tokens, c->n_ids[sample]);
	if (!done)
		return;
	assert_int_equal(c->n_text[sample], len);
	assert_true(c->last[sample]);
	enum plx_finish why = n_want < c->max_new ? PLX_FINISH_EOS : PLX_FINISH_LENGTH;

	assert_int_equal(c->res.sample[sample].reason, hit ? PLX_FINISH_STOP : why);
	if (!hit)
		assert_int_equal(c->n_ids[sample], n_want);
}

static uint32_t encode(const char *text, int32_t *ids)
{
	struct plx_tok_scratch *s;
	struct plx_diag d;

	assert_int_equal(plx_tok_scratch_new(&s, r.tok, 4096, &d), 0);
	int n = plx_tok_encode(s, text, (uint32_t)strlen(text), PLX_TOK_BOS, ids, 512);

	assert_true(n > 0);
	plx_tok_scratch_free(s);
	return (uint32_t)n;
}

/* ---- scenarios ---- */

static void no_eog(void)
{
	plx_fake_conf(r.fake)->eog_every = 0;
	r.sb.fleet.dev[0].sched.conf.n_eog = 0;
}

static void test_stages_answer_a_text(void **state)
{
	struct ask a = {.flags = PLX_REQ_TEXT, .text = "hello world", .max_new = 12, .seed = 4};
	int32_t ids[64];

	(void)state;
	struct client *c = ask(&a);

	run_out();
	assert_int_equal(c->n_accepts, 1);
	assert_int_equal(c->res.kind, PLX_FINAL_DONE);
	uint32_t n = encode("hello world", ids);

	assert_int_equal(c->res.prompt_tokens, n);
	assert_int_equal(ids[0], TINY_BOS);
	check_answer(c, ids, n, 0);
	assert_int_equal(plx_counter_read(&r.page[1], PLX_M_REQ_DONE), 1);
	assert_true(c->res.ns[PLX_NS_TOK] > 0 && c->res.ns[PLX_NS_PREFILL] > 0);
}

static void test_stages_answer_ids_in_samples_with_logprobs(void **state)
{
	uint32_t ids[70];
	struct ask a = {.flags = PLX_REQ_IDS | PLX_REQ_LOGPROBS,
	                .ids = ids,
	                .n_ids = 70,
	                .max_new = 30,
	                .n_samples = 3,
	                .n_logprobs = 5,
	                .seed = 9,
	                .model_id = 5,
	                .io = 1};

	(void)state;
	for (uint32_t i = 0; i < 70; i++)
		ids[i] = TINY_WORD(i % N_WORDS);
	struct client *c = ask(&a);

	run_out();
	assert_int_equal(c->res.kind, PLX_FINAL_DONE);
	for (uint32_t s = 0; s < 3; s++)
		check_answer(c, (int32_t *)ids, 70, s);
	/* The second and the third got the block that the prompt ends in by a copy. */
	assert_int_equal(r.sb.fleet.dev[0].sched.tier.n_cow, 2);
}

/* ---- going on from an earlier request ---- */

static struct client *ask_and_run(const struct ask *a)
{
	struct client *c = ask(a);

	run_out();
	return c;
}

static void expect_no_such_request(struct ask a)
{
	const struct client *c = ask_and_run(&a);

	assert_int_equal(c->res.kind, PLX_FINAL_REJECT);
	assert_int_equal(c->res.err, PLX_E_BAD_REQUEST);
	assert_int_equal(c->res.option, PLX_OPT_CONTINUE);
}

static void test_stages_go_on_from_a_request(void **state)
{
	static const uint32_t more[3] = {TINY_WORD(1), TINY_WORD(2), TINY_WORD(3)};
	uint32_t ids[70];
	int32_t whole[200];
	struct ask a = {.flags = PLX_REQ_IDS, .ids = ids, .n_ids = 70, .max_new = 30, .req_id = 1};

	(void)state;
	no_eog();
	for (uint32_t i = 0; i < 70; i++)
		ids[i] = TINY_WORD(i % N_WORDS);
	a.n_samples = 2;
	struct client first = *ask_and_run(&a);

	assert_int_equal(first.res.kind, PLX_FINAL_DONE);
	memcpy(whole, ids, sizeof(ids));
	memcpy(whole + 70, first.id[1], 4 * 30);
	memcpy(whole + 100, more, sizeof(more));
	a = (struct ask){.flags = PLX_REQ_IDS,
	                 .ids = more,
	                 .n_ids = 3,
	                 .max_new = 5,
	                 .seed = 3,
	                 .req_id = 2,
	                 .continued = 1,
	                 .continued_sample = 1};
	const struct client *c = ask_and_run(&a);

	check_answer(c, whole, 103, 0);
	assert_int_equal(c->res.kind, PLX_FINAL_DONE);
	assert_int_equal(c->res.prompt_tokens, 103);
	/* All full blocks of what ran, prompt and answer: the 100th id was sampled, never run. */
	assert_int_equal(c->res.cached_tokens, 96);
	/* And on, with nothing new. */
	memcpy(whole + 103, c->id[0], 4 * 5);
	a = (struct ask){.flags = PLX_REQ_IDS, .max_new = 4, .req_id = 3, .continued = 2};
	c = ask_and_run(&a);
	check_answer(c, whole, 108, 0);
	assert_int_equal(c->res.prompt_tokens, 108);
	a.continued = 99; /* unknown */
	expect_no_such_request(a);
	a.continued = 3; /* another io stage's session of the same number */
	a.io = 1;
	expect_no_such_request(a);
	a.io = 0;
	a.continued_sample = 1; /* it had one */
	expect_no_such_request(a);
	a.continued_sample = 0;
	a.continued = 1; /* two newer ones are kept */
	expect_no_such_request(a);
	assert_int_equal(plx_counter_read(&r.page[0], PLX_M_TOK_CONTINUED), 2);
	assert_int_equal(plx_counter_read(&r.page[0], PLX_M_TOK_NOT_KEPT), 4);
}

/* The word is there, and its first letter ends no broken character. */
static bool stands_alone(const int32_t *ids, uint32_t at)
{
	bool broken = ids[at - 1] >= TINY_BYTE(0x80) && ids[at - 1] < TINY_WORD(0);

	return ids[at] == TINY_WORD(1) && !broken;
}

static void test_stages_go_on_from_text_that_was_seen(void **state)
{
	int32_t ids[64], want[MAX_NEW], whole[128];
	uint32_t n = encode("abc", ids), at;
	struct ask a = {.flags = PLX_REQ_TEXT, .text = "abc", .max_new = 40, .req_id = 1};

	(void)state;
	no_eog();
	do {
		a.seed++;
		plx_fake_expect(plx_fake_conf(r.fake), ids, n, a.seed, 0, 40, want);
		for (at = 2; at < 20 && !stands_alone(want, at); at++)
			;
	} while (at == 20);
	a.stop = "llo";
	assert_int_equal(ask_and_run(&a)->res.sample[0].n_tokens, at);
	/* What came behind the stop string was made, perhaps, but it is not kept; the new text is
	 * taken as it is, without begin of text or space. */
	memcpy(whole, ids, 4 * n);
	memcpy(whole + n, want, 4 * at);
	whole[n + at] = TINY_WORD(9);
	a = (struct ask){
	    .flags = PLX_REQ_TEXT, .text = "abc", .max_new = 6, .req_id = 2, .continued = 1};
	const struct client *c = ask_and_run(&a);

	assert_int_equal(c->res.prompt_tokens, n + at + 1);
	check_answer(c, whole, n + at + 1, 0);
}

static void test_stages_forget_what_a_session_left(void **state)
{
	struct ask a = {.flags = PLX_REQ_TEXT, .text = "hello", .max_new = 4, .req_id = 1};
	uint64_t now = plx_clock_ns();

	(void)state;
	ask_and_run(&a);
	assert_int_equal(r.st.talk.n_kept, 1);
	plx_session_mark(&r.links, 0, SESSION, false);
	for (uint32_t i = 0; i < 1000; i++)
		plx_stage_tok_poll(&r.st, now += PLX_NS_PER_MS);
	assert_int_equal(r.st.talk.n_kept, 0);
	plx_talk_check(&r.st.talk);
	/* A conversation that outgrows the limit of prompt tokens. */
	r.cfg.lim.prompt_tokens = 6;
	struct client first = *ask_and_run(&a);

	a.req_id = 2;
	a.continued = 1;
	const struct client *c = ask_and_run(&a);

	assert_int_equal(first.res.prompt_tokens, 5);
	assert_int_equal(c->res.err, PLX_E_TOO_LARGE);
}

/* One prompt, one request after the other: who opted in finds what others that did showed, and
 * nothing of those that did not; these find their own tenant's. */
static void test_stages_share_prefixes_by_choice(void **state)
{
	static const struct {
		uint32_t tenant;
		bool share;
		uint32_t cached;
	} turn[] = {{1, false, 0}, {2, true, 0},  {3, false, 0}, {3, true, 64},
	            {2, false, 0}, {1, true, 64}, {1, false, 64}};
	uint32_t ids[70];
	struct ask a = {.flags = PLX_REQ_IDS, .ids = ids, .n_ids = 70, .max_new = 2};

	(void)state;
	for (uint32_t i = 0; i < 70; i++)
		ids[i] = TINY_WORD(i % N_WORDS);
	for (uint32_t i = 0; i < sizeof(turn) / sizeof(turn[0]); i++) {
		a.tenant = turn[i].tenant;
		a.share_prefix = turn[i].share;
		const struct client *c = ask_and_run(&a);

		assert_int_equal(c->res.kind, PLX_FINAL_DONE);
		assert_int_equal(c->res.cached_tokens, turn[i].cached);
		check_answer(c, (int32_t *)ids, 70, 0);
	}
}

/* ---- counters ---- */

/* With a quarter of the pool sequences leave, go to the host and come back: it can be read. */
static void test_stages_count_what_memory_did(void **state)
{
	uint32_t ids[20], taken[44];
	struct ask a = {.flags = PLX_REQ_IDS, .ids = ids, .n_ids = 20, .max_new = 40};
	bool evicted;

	(void)state;
	no_eog();
	for (uint32_t i = 0; i < 44; i++)
		taken[i] = plx_kv_take(&r.sb.fleet.dev[0].sched.kv, &evicted);
	for (uint32_t i = 0; i < 16; i++) {
		for (uint32_t k = 0; k < 20; k++)
			ids[k] = TINY_WORD((k * (i % 6 + 1)) % N_WORDS);
		a.seed = i;
		a.io = i % N_IO;
		assert_int_equal(ask(&a)->n_finals, 0);
	}
	while (plx_req_busy(&r.links) > 0)
		turn();
	for (uint32_t i = 0; i < 44; i++)
		plx_kv_drop(&r.sb.fleet.dev[0].sched.kv, taken[i], false);
	run_out();
	assert_int_equal(r.n_kind[PLX_FINAL_DONE], 16);
	assert_true(counted(PLX_M_BATCH_PREEMPTED) > 0);
	assert_true(counted(PLX_M_BATCH_SHORT_OF) >= counted(PLX_M_BATCH_PREEMPTED));
	assert_true(counted(PLX_M_BATCH_SWAP_OUT) > 0);
	assert_int_equal(counted(PLX_M_BATCH_SWAP_OUT), r.sb.fleet.dev[0].sched.tier.n_out);
	assert_int_equal(counted(PLX_M_BATCH_SWAP_IN), r.sb.fleet.dev[0].sched.tier.n_back);
	assert_int_equal(counted(PLX_M_BATCH_RECOMPUTED),
	                 r.sb.fleet.dev[0].sched.stats.recomputed_tokens);
	assert_int_equal(counted(PLX_M_BATCH_COW), 0);
}

/* Each first token and each step is held against what was said of it. */
static void test_stages_count_what_estimates_were_off(void **state)
{
	struct ask a = {.flags = PLX_REQ_TEXT, .text = "hello world", .max_new = 30};
	uint64_t n_first = 0, n_steps = 0;

	(void)state;
	no_eog();
	for (uint32_t i = 0; i < 40; i++)
		ask_and_run(&a);
	for (uint32_t b = 0; b < PLX_SCHED_ERR_BINS; b++) {
		n_first += counted((enum plx_metric)(PLX_M_TTFT_OFF_10 + b));
		n_steps += counted((enum plx_metric)(PLX_M_STEP_OFF_5 + b));
	}
	/* All but the first few, of which nothing could be said. */
	assert_in_range(n_first, 30, 39);
	assert_in_range(n_steps, 1000, counted(PLX_M_BATCH_STEPS) - 1);
	assert_true(counted(PLX_M_TTFT_LATER) <= n_first);
	assert_int_equal(r.page[1].hist[PLX_H_TTFT_OFF].count, n_first);
	assert_int_equal(r.page[1].hist[PLX_H_TTFT].count, 40);
}

/* ---- resuming ---- */

/* All of an answer, then again behind each of its first n ids: what is sent is the rest of it. */
static void resume_anywhere(struct ask a, uint32_t step)
{
	struct client whole;
	uint32_t had[MAX_NEW];

	a.flags = PLX_REQ_TEXT;
	whole = *ask_and_run(&a);
	assert_int_equal(whole.res.kind, PLX_FINAL_DONE);
	memcpy(had, whole.id[0], sizeof(had));
	a.had = had;
	for (a.n_had = 1; a.n_had <= whole.n_ids[0] && a.n_had < a.max_new; a.n_had += step) {
		struct plx_req *q = make(&a);
		struct client *c = &r.client[q->idx];

		c->n_ids[0] = a.n_had; /* acknowledged in another session */
		assert_true(plx_req_push(&r.links, q));
		run_out();
		assert_int_equal(c->res.kind, PLX_FINAL_DONE);
		assert_int_equal(c->n_ids[0], whole.n_ids[0]);
		assert_memory_equal(c->id[0] + a.n_had, whole.id[0] + a.n_had,
		                    4 * (whole.n_ids[0] - a.n_had));
		assert_true(c->n_text[0] <= whole.n_text[0]);
		assert_memory_equal(c->text[0], whole.text[0] + whole.n_text[0] - c->n_text[0],
		                    c->n_text[0]);
		assert_int_equal(c->res.sample[0].reason, whole.res.sample[0].reason);
		assert_int_equal(c->res.sample[0].n_tokens, whole.n_ids[0]);
		assert_int_equal(c->res.prompt_tokens, whole.res.prompt_tokens);
		assert_true(c->last[0]);
	}
}

static void test_stages_resume_an_answer_anywhere(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 8; seed++) {
		resume_anywhere((struct ask){.text = "hello", .max_new = 40, .seed = seed}, 3);
		resume_anywhere(
		    (struct ask){.text = "a", .max_new = 30, .seed = seed, .stop = "ab"}, 1);
	}
}

static void test_stages_resume_within_a_stop_string(void **state)
{
	int32_t ids[64], want[MAX_NEW];
	uint32_t n = encode("abc", ids), at;
	struct ask a = {.text = "abc", .max_new = 40};

	(void)state;
	/* "he" (0) could begin the stop string "hellx": it waits for what comes. */
	no_eog();
	do {
		a.seed++;
		plx_fake_expect(plx_fake_conf(r.fake), ids, n, a.seed, 0, 40, want);
		for (at = 2; at < 20 && want[at] != TINY_WORD(0); at++)
			;
	} while (at == 20);
	a.stop = "hellx";
	resume_anywhere(a, 1);
}

/* Sample 0 of two has some, sample 1 nothing. */
static void test_stages_resume_one_of_two_samples(void **state)
{
	struct ask a = {
	    .flags = PLX_REQ_TEXT, .text = "hello", .max_new = 20, .seed = 2, .n_samples = 2};
	uint32_t had[7];

	(void)state;
	no_eog();
	struct client whole = *ask_and_run(&a);

	memcpy(had, whole.id[0], sizeof(had));
	a.had = had;
	a.n_had = 7;
	struct plx_req *q = make(&a);
	struct client *c = &r.client[q->idx];

	c->n_ids[0] = 7;
	assert_true(plx_req_push(&r.links, q));
	run_out();
	assert_memory_equal(c->id[0] + 7, whole.id[0] + 7, 4 * 13);
	assert_memory_equal(c->id[1], whole.id[1], 4 * 20);
	assert_int_equal(c->res.sample[0].n_tokens, 20);
	assert_int_equal(c->res.sample[1].n_tokens, 20);
}

static void test_stages_resume_what_they_can(void **state)
{
	static const uint32_t bad[2] = {1, 100000};
	struct ask a = {.flags = PLX_REQ_TEXT, .text = "hi", .max_new = 40, .had = bad, .n_had = 2};

	(void)state;
	const struct client *c = ask_and_run(&a);

	assert_int_equal(c->res.err, PLX_E_BAD_REQUEST);
	assert_int_equal(c->res.option, PLX_OPT_RESUME);
	plx_talk_check(&r.st.talk);
}

static void test_stages_reject_what_they_can_not_do(void **state)
{
	uint32_t bad[2] = {1, 100000};
	uint32_t many[600] = {0};
	struct ask a = {.flags = PLX_REQ_IDS, .ids = bad, .n_ids = 2, .max_new = 4};

	(void)state;
	struct client *c = ask(&a);

	run_out();
	assert_int_equal(c->res.kind, PLX_FINAL_REJECT);
	assert_int_equal(c->res.err, PLX_E_BAD_REQUEST);
	assert_string_equal(c->res.detail, "a token id is not in the vocabulary");
	a.ids = many;
	a.n_ids = 600;
	c = ask(&a);
	run_out();
	assert_int_equal(c->res.err, PLX_E_TOO_LARGE);
	a = (struct ask){.flags = PLX_REQ_MESSAGES, .text = "hi", .max_new = 4};
	c = ask(&a);
	run_out();
	assert_int_equal(c->res.err, PLX_E_BAD_REQUEST);
	assert_string_equal(c->res.detail, "the model has no chat template");
	a = (struct ask){.flags = PLX_REQ_TEXT, .text = "hi", .max_new = 4, .model_id = 6};
	c = ask(&a);
	run_out();
	assert_int_equal(c->res.err, PLX_E_NO_MODEL);
	a = (struct ask){.flags = PLX_REQ_TEXT, .text = "hi", .max_new = 4, .deadline_ns = 1};
	c = ask(&a);
	run_out();
	assert_int_equal(c->res.err, PLX_E_DEADLINE_UNMEETABLE);
	assert_int_equal(r.n_kind[PLX_FINAL_REJECT], 5);
}

static void test_stages_stop_string_ends_the_answer(void **state)
{
	int32_t ids[64], want[MAX_NEW];
	uint32_t n = encode("abc", ids), at;
	struct ask a = {.flags = PLX_REQ_TEXT, .text = "abc", .max_new = 40};

	(void)state;
	/* A seed whose answer has a word among its first ids: that word is the stop string. */
	no_eog();
	do {
		a.seed++;
		plx_fake_expect(plx_fake_conf(r.fake), ids, n, a.seed, 0, 40, want);
		for (at = 2; at < 20 && !stands_alone(want, at); at++)
			;
	} while (at == 20);
	a.stop = "llo";
	struct client *c = ask(&a);

	run_out();
	check_answer(c, ids, n, 0);
	assert_int_equal(c->res.sample[0].reason, PLX_FINISH_STOP);
	assert_int_equal(c->res.sample[0].n_tokens, at);
	assert_int_equal(plx_counter_read(&r.page[0], PLX_M_TOK_STOPS), 1);
	/* It was told in time: far fewer than 40 tokens were made. */
	assert_true(plx_counter_read(&r.page[1], PLX_M_BATCH_DECODE) < at + 4);
}

static void test_stages_cancel_at_any_time(void **state)
{
	struct ask a = {
	    .flags = PLX_REQ_TEXT, .text = "hello world", .max_new = 40, .seed = 3, .n_samples = 2};
	int32_t ids[64];
	uint32_t n = encode(a.text, ids);

	(void)state;
	plx_fake_conf(r.fake)->polls = 1;
	for (uint32_t when = 0; when < 60; when++) {
		struct plx_req *q = make(&a);
		struct client *c = &r.client[q->idx];

		assert_true(plx_req_push(&r.links, q));
		for (uint32_t i = 0; i < when && c->open; i++)
			turn();
		if (c->open)
			plx_req_cancel(q, PLX_CANCEL_CLIENT);
		run_out();
		assert_int_equal(c->n_finals, 1);
		assert_true(c->res.kind == PLX_FINAL_DONE || (c->res.kind == PLX_FINAL_CANCELLED &&
		                                              c->res.cause == PLX_CANCEL_CLIENT));
		check_answer(c, ids, n, 0);
		check_answer(c, ids, n, 1);
	}
	assert_true(r.n_kind[PLX_FINAL_CANCELLED] > 20);
}

static void test_stages_drain_ends_everything(void **state)
{
	struct ask a = {.flags = PLX_REQ_TEXT, .text = "hello world", .max_new = 40};

	(void)state;
	for (uint32_t i = 0; i < 12; i++) {
		a.io = i % N_IO;
		ask(&a);
	}
	for (uint32_t i = 0; i < 4; i++)
		turn();
	atomic_store(&r.links.drain, 2);
	ask(&a);
	run_out();
	assert_int_equal(r.n_finals, 13);
	assert_true(r.n_kind[PLX_FINAL_CANCELLED] >= 7);
	for (uint32_t i = 0; i < 13; i++)
		if (r.client[i].res.kind == PLX_FINAL_CANCELLED)
			assert_int_equal(r.client[i].res.cause, PLX_CANCEL_DRAIN);
}

static void test_stages_full_forward_ring_is_the_pushers_to_answer(void **state)
{
	struct ask a = {.flags = PLX_REQ_TEXT, .text = "hello", .max_new = 4};
	struct plx_req *q;
	uint32_t pushed = 0;

	(void)state;
	while ((q = make(&a)) != NULL && plx_req_push(&r.links, q))
		pushed++;
	assert_non_null(q);
	if (!q)
		return;
	assert_int_equal(pushed, 15); /* 8 entries need 16 slots, of which rte_ring keeps one */
	plx_req_reject(&r.links, q, PLX_E_QUEUE_FULL, NULL);
	assert_true(q->res.retry_after_us >= 1000);
	plx_req_give(&r.links, q);
	run_out();
	assert_int_equal(r.n_kind[PLX_FINAL_DONE], 15);
}

/* io takes nothing for a long time: everything stands still, nothing is lost. */
static void test_stages_wait_for_an_io_that_is_busy(void **state)
{
	uint32_t ids[20];
	struct ask a = {.flags = PLX_REQ_IDS | PLX_REQ_LOGPROBS,
	                .ids = ids,
	                .n_ids = 20,
	                .max_new = 40,
	                .n_samples = 3,
	                .n_logprobs = 5};

	(void)state;
	no_eog();
	r.sb.fleet.dev[0].sched.conf.window = 40;
	for (uint32_t i = 0; i < 20; i++)
		ids[i] = TINY_WORD(i % N_WORDS);
	for (uint32_t i = 0; i < 14; i++) {
		a.seed = i;
		a.io = i % N_IO;
		ask(&a);
	}
	r.deaf = true;
	for (uint32_t i = 0; i < 3000; i++)
		turn();
	assert_true(plx_counter_read(&r.page[0], PLX_M_TOK_WAITS) > 0);
	assert_int_equal(r.n_finals, 0);
	r.deaf = false;
	run_out();
	assert_int_equal(r.n_kind[PLX_FINAL_DONE], 14);
	for (uint32_t i = 0; i < 14; i++)
		for (uint32_t s = 0; s < 3; s++)
			check_answer(&r.client[i], (int32_t *)ids, 20, s);
}

static void test_stages_pause_without_acknowledgements(void **state)
{
	struct ask a = {.flags = PLX_REQ_TEXT, .text = "hello world", .max_new = 40, .seed = 1};
	int32_t ids[64];

	(void)state;
	no_eog();
	r.no_acks = true;
	struct plx_req *q = make(&a);
	struct client *c = &r.client[q->idx];

	assert_true(plx_req_push(&r.links, q));
	for (uint32_t i = 0; i < 500; i++)
		turn();
	assert_true(c->open);
	assert_true(c->n_ids[0] <= 16 && c->n_ids[0] >= 12);
	r.no_acks = false;
	assert_true(plx_note_window(&r.links, q, 0, 20));
	run_out();
	check_answer(c, ids, encode(a.text, ids), 0);
	assert_int_equal(c->n_ids[0], 40);
}

static void test_stages_a_step_that_hangs_is_a_timeout(void **state)
{
	struct ask a = {.flags = PLX_REQ_TEXT, .text = "hello world", .max_new = 20, .seed = 1};
	int32_t ids[64];

	(void)state;
	r.sa.deadline_ns = 20 * PLX_NS_PER_MS;
	plx_fake_conf(r.fake)->hang = true;
	struct client *c = ask(&a);

	run_out();
	assert_int_equal(c->res.kind, PLX_FINAL_REJECT);
	assert_int_equal(c->res.err, PLX_E_DEVICE_LOST);
	assert_true(c->res.retry_after_us > 0);
	/* Both steps that were in flight. */
	assert_int_equal(plx_counter_read(&r.page[2], PLX_M_DEV_TIMEOUTS), 2);
	plx_fake_conf(r.fake)->hang = false;
	c = ask(&a);
	run_out();
	assert_int_equal(c->res.kind, PLX_FINAL_DONE);
	check_answer(c, ids, encode(a.text, ids), 0);
	assert_true(plx_fake_resets(r.fake) >= 1);
	assert_int_equal(r.sb.fleet.dev[0].sched.kv.n_quarantined, 0);
}

static void test_stages_refuse_while_the_device_is_gone(void **state)
{
	struct ask a = {.flags = PLX_REQ_TEXT, .text = "hello world", .max_new = 20, .seed = 1};

	(void)state;
	plx_fake_conf(r.fake)->fail_status = PLX_E_LOST;
	plx_fake_conf(r.fake)->reset_err = PLX_E_LOST;
	struct client *c = ask(&a);

	run_out();
	assert_int_equal(c->res.err, PLX_E_DEVICE_LOST);
	/* The reset fails; a request that comes now does not wait for a better one. */
	turn();
	turn();
	c = ask(&a);
	run_out();
	assert_int_equal(c->res.kind, PLX_FINAL_REJECT);
	assert_int_equal(c->res.err, PLX_E_DEVICE_LOST);
	assert_string_equal(c->res.detail, "the device did not come back after a reset");
	plx_fake_conf(r.fake)->reset_err = 0;
	r.sb.fleet.dev[0].retry_ns = 0;
	for (uint32_t i = 0; i < 10; i++)
		turn();
	c = ask(&a);
	run_out();
	assert_int_equal(c->res.kind, PLX_FINAL_DONE);
}

static void test_stages_submit_again_is_tried_again(void **state)
{
	struct ask a = {.flags = PLX_REQ_TEXT, .text = "hello", .max_new = 4};

	(void)state;
	plx_fake_conf(r.fake)->refuse_again = true;
	struct client *c = ask(&a);

	for (uint32_t i = 0; i < 100; i++)
		turn();
	assert_true(c->open && c->n_accepts == 1 && c->n_ids[0] == 0);
	plx_fake_conf(r.fake)->refuse_again = false;
	run_out();
	assert_int_equal(c->res.kind, PLX_FINAL_DONE);
}

static size_t heap_bytes(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

/* Promise 1: after start no stage takes memory (sanitizers bring a heap that is not counted). */
static void test_stages_take_no_memory(void **state)
{
	struct ask a = {.flags = PLX_REQ_TEXT | PLX_REQ_LOGPROBS,
	                .text = "hello world, hello worlds, hello",
	                .max_new = 30,
	                .stop = "heab",
	                .n_samples = 3,
	                .n_logprobs = 3};

	(void)state;
	size_t before = heap_bytes();

	for (uint32_t i = 0; i < 40; i++) {
		a.seed = i;
		ask(&a);
		run_out();
	}
	assert_int_equal(r.n_kind[PLX_FINAL_DONE], 40);
	assert_int_equal(heap_bytes(), before);
}

/* ---- everything at once ---- */

static uint64_t rng_state;

static uint32_t rnd(uint32_t n)
{
	rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(rng_state >> 33) % n;
}

static uint32_t rand_ids[N_REQ][128];
static uint32_t rand_n[N_REQ];
static struct plx_req *rand_req[N_REQ];

static void random_ask(void)
{
	static const char *stops[] = {"ab", "llo", "b", "\xe2\x82\xac", "heab"};
	uint32_t ids[128], n = 1 + rnd(120);
	uint32_t top = rnd(3) ? 0 : 1 + rnd(5);
	struct ask a = {.flags = PLX_REQ_IDS | (top ? (uint32_t)PLX_REQ_LOGPROBS : 0u),
	                .ids = ids,
	                .n_ids = n,
	                .stop = rnd(3) ? NULL : stops[rnd(5)],
	                .n_samples = (uint16_t)(1 + rnd(4) / 3 * rnd(3)),
	                .max_new = 1 + rnd(MAX_NEW),
	                .n_logprobs = (uint8_t)top,
	                .seed = rnd(50),
	                .deadline_ns = rnd(20) ? 0 : plx_clock_ns() + rnd(2000000),
	                .io = rnd(N_IO)};

	for (uint32_t i = 0; i < n; i++)
		ids[i] = TINY_WORD((i * (1 + n % 3)) % N_WORDS);
	struct plx_req *q = make(&a);

	if (!q)
		return;
	memcpy(rand_ids[q->idx], ids, sizeof(ids));
	rand_n[q->idx] = n;
	rand_req[q->idx] = q;
	if (!plx_req_push(&r.links, q)) {
		r.client[q->idx].open = false;
		plx_req_give(&r.links, q);
	}
}

static void random_trouble(void)
{
	uint32_t i = rnd(N_REQ);

	if (r.client[i].open && rnd(3) == 0)
		plx_req_cancel(rand_req[i], PLX_CANCEL_CLIENT);
	if (rnd(40) == 0)
		plx_fake_conf(r.fake)->fail_status = rnd(2) ? PLX_E_FAULT : PLX_E_LOST;
	plx_fake_conf(r.fake)->refuse_again = rnd(10) == 0;
	plx_fake_conf(r.fake)->polls = rnd(3);
	r.deaf = rnd(4) == 0;
}

static void check_ended(bool *was_open)
{
	for (uint32_t i = 0; i < N_REQ; i++) {
		const struct client *c = &r.client[i];

		if (was_open[i] && !c->open && c->n_finals == 1) {
			bool faulted = false;
			uint32_t n = r.links.req[i].view.m.n_samples;

			for (uint32_t s = 0; s < n; s++)
				faulted |= c->res.sample[s].reason == PLX_FINISH_DEADLINE;
			for (uint32_t s = 0; s < n && !faulted; s++)
				check_answer(c, (int32_t *)rand_ids[i], rand_n[i], s);
		}
		was_open[i] = c->open;
	}
}

static void test_stages_random_days(void **state)
{
	bool was_open[N_REQ] = {false};

	(void)state;
	rng_state = 11;
	for (uint32_t i = 0; i < 60000; i++) {
		if (rnd(4) == 0)
			random_ask();
		if (rnd(20) == 0)
			random_trouble();
		for (uint32_t k = 0; k < N_REQ; k++)
			was_open[k] = r.client[k].open;
		switch (rnd(4)) {
		case 0:
			io_poll();
			break;
		case 1:
			plx_stage_tok_poll(&r.st, plx_clock_ns());
			break;
		case 2:
			plx_stage_batch_poll(&r.sb, plx_clock_ns());
			break;
		default:
			plx_stage_accel_poll(&r.sa, plx_clock_ns());
			break;
		}
		check_ended(was_open);
	}
	r.deaf = false;
	plx_fake_conf(r.fake)->refuse_again = false;
	plx_fake_conf(r.fake)->fail_status = 0;
	run_out();
	assert_true(r.n_kind[PLX_FINAL_DONE] > 500);
	assert_true(r.n_kind[PLX_FINAL_CANCELLED] > 50);
	assert_true(r.n_kind[PLX_FINAL_REJECT] > 20);
}

/* ---- every stage on a thread of its own ---- */

static atomic_bool stop;

static void *run_lcore(void *lc)
{
	plx_lcore_run(lc);
	return NULL;
}

static void start_lcores(struct plx_lcore *lc, pthread_t *t)
{
	static const plx_stage_poll poll[3] = {plx_stage_tok_poll, plx_stage_batch_poll,
	                                       plx_stage_accel_poll};
	void *const own[3] = {&r.st, &r.sb, &r.sa};

	atomic_store(&stop, false);
	for (uint32_t i = 0; i < 3; i++) {
		lc[i] = (struct plx_lcore){.cpu = i, .backoff = true, .stop = &stop};
		assert_int_equal(plx_lcore_add(&lc[i], poll[i], own[i], &r.page[i]), 0);
		assert_int_equal(pthread_create(&t[i], NULL, run_lcore, &lc[i]), 0);
	}
}

static void test_stages_on_threads_of_their_own(void **state)
{
	static struct plx_lcore lc[3];
	pthread_t t[3];
	bool was_open[N_REQ] = {false};
	bool doomed[N_REQ] = {false}; /* one request in four is cancelled, at some moment */
	uint32_t asked = 0;

	(void)state;
	rng_state = 3;
	start_lcores(lc, t);
	uint64_t end = plx_clock_ns() + 20 * PLX_NS_PER_S;

	while ((asked < 400 || plx_req_busy(&r.links) > 0) && plx_clock_ns() < end) {
		if (asked < 400 && plx_req_busy(&r.links) < N_REQ) {
			random_ask();
			asked++;
		}
		uint32_t i = rnd(N_REQ);

		if (r.client[i].open && doomed[i] && rnd(50) == 0)
			plx_req_cancel(rand_req[i], PLX_CANCEL_CLIENT);
		for (uint32_t k = 0; k < N_REQ; k++) {
			if (r.client[k].open && !was_open[k])
				doomed[k] = rnd(4) == 0;
			was_open[k] = r.client[k].open;
		}
		if (io_poll() == 0)
			sched_yield();
		check_ended(was_open);
	}
	assert_int_equal(plx_req_busy(&r.links), 0);
	atomic_store(&stop, true);
	for (uint32_t i = 0; i < 3; i++) {
		pthread_join(t[i], NULL);
		assert_true(lc[i].heartbeat > 0);
	}
	run_out();
	assert_true(r.n_kind[PLX_FINAL_DONE] > 100);
}

/* ---- the loop ---- */

static uint32_t count_poll(void *state, uint64_t now_ns)
{
	uint32_t *n = state;

	assert_true(now_ns > 0);
	return ++*n % 2;
}

static uint32_t stopping_poll(void *state, uint64_t now_ns)
{
	uint32_t *n = state;

	(void)now_ns;
	if (++*n == 2000)
		atomic_store(&stop, true);
	return 0;
}

static void test_lcore_takes_its_stages_in_turn(void **state)
{
	static struct plx_page page[2];
	struct plx_lcore lc = {.stop = &stop};
	uint32_t a = 0, b = 0;

	(void)state;
	plx_page_init(&page[0], PLX_STAGE_IO, 0, 3);
	plx_page_init(&page[1], PLX_STAGE_TOK, 0, 3);
	assert_int_equal(plx_lcore_add(&lc, count_poll, &a, &page[0]), 0);
	assert_int_equal(plx_lcore_add(&lc, count_poll, &b, &page[1]), 0);
	b = 1;
	assert_int_equal(plx_lcore_turn(&lc), 1);
	assert_int_equal(plx_lcore_turn(&lc), 1);
	assert_int_equal(a, 2);
	assert_int_equal(b, 3);
	assert_int_equal(page[0].heartbeat, 2);
	assert_int_equal(lc.heartbeat, 2);
	assert_int_equal(page[0].hist[PLX_H_TURN].count, 1);
	for (uint32_t i = 2; i < PLX_LCORE_MAX_STAGES; i++)
		assert_int_equal(plx_lcore_add(&lc, count_poll, &a, &page[0]), 0);
	assert_int_equal(plx_lcore_add(&lc, count_poll, &a, &page[0]), PLX_E_FULL);
}

static void test_lcore_backs_off_when_idle(void **state)
{
	static struct plx_page page;
	struct plx_lcore lc = {.stop = &stop, .backoff = true};
	uint32_t n = 0;

	(void)state;
	atomic_store(&stop, false);
	plx_page_init(&page, PLX_STAGE_IO, 0, 0);
	plx_lcore_add(&lc, stopping_poll, &n, &page);
	assert_int_equal(plx_lcore_run(&lc), 0);
	/* Turns 64 to 1,023 yield, those after sleep. */
	assert_int_equal(plx_counter_read(&page, PLX_M_IDLE_YIELDS), 960);
	assert_int_equal(plx_counter_read(&page, PLX_M_IDLE_SLEEPS), 977);
	atomic_store(&stop, false);
	n = 0;
	lc.backoff = false;
	assert_int_equal(plx_lcore_run(&lc), 0);
	assert_int_equal(plx_counter_read(&page, PLX_M_IDLE_YIELDS), 960);
}

#define scenario(t) cmocka_unit_test_setup_teardown(t, rig_open, rig_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    scenario(test_stages_answer_a_text),
	    scenario(test_stages_answer_ids_in_samples_with_logprobs),
	    scenario(test_stages_share_prefixes_by_choice),
	    scenario(test_stages_count_what_memory_did),
	    scenario(test_stages_count_what_estimates_were_off),
	    scenario(test_stages_go_on_from_a_request),
	    scenario(test_stages_go_on_from_text_that_was_seen),
	    scenario(test_stages_forget_what_a_session_left),
	    scenario(test_stages_resume_an_answer_anywhere),
	    scenario(test_stages_resume_within_a_stop_string),
	    scenario(test_stages_resume_one_of_two_samples),
	    scenario(test_stages_resume_what_they_can),
	    scenario(test_stages_reject_what_they_can_not_do),
	    scenario(test_stages_stop_string_ends_the_answer),
	    scenario(test_stages_cancel_at_any_time),
	    scenario(test_stages_drain_ends_everything),
	    scenario(test_stages_full_forward_ring_is_the_pushers_to_answer),
	    scenario(test_stages_wait_for_an_io_that_is_busy),
	    scenario(test_stages_pause_without_acknowledgements),
	    scenario(test_stages_a_step_that_hangs_is_a_timeout),
	    scenario(test_stages_refuse_while_the_device_is_gone),
	    scenario(test_stages_submit_again_is_tried_again),
	    scenario(test_stages_take_no_memory),
	    scenario(test_stages_random_days),
	    scenario(test_stages_on_threads_of_their_own),
	    cmocka_unit_test(test_lcore_takes_its_stages_in_turn),
	    cmocka_unit_test(test_lcore_backs_off_when_idle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
