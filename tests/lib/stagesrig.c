/* The rings, the fake io, and what is checked of each event. */
#include "tests/lib/stagesrig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fw/base/clock.h"

static const char *words[] = {
    "he", "llo", "\xe2\x96\x81world", "\xe2\x96\x81wor", "ld", "x\xe2\x82\xac", "a", "b",
    "ab", "abc"};

struct srig srig;

static struct plx_config small_config(void)
{
	struct plx_config c = {.n_ports = 1};

	c.lim = (struct plx_cfg_limits){.n_sessions = 4,
	                                .kept_tokens = 2000,
	                                .kept_requests = 2,
	                                .best_of_tokens = 1500,
	                                .n_requests = SRIG_REQS,
	                                .request_bytes = 4096,
	                                .prompt_tokens = 512,
	                                .max_new_tokens = SRIG_NEW,
	                                .n_samples = SRIG_SAMPLES,
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
	uint32_t n_eog = plx_tok_eog(srig.tok, &eog);
	struct plx_batch_dev dev = {.queue = srig.queue};
	struct plx_batch_model model = {.model_id = 5,
	                                .n_ctx = 600,
	                                .n_vocab = plx_tok_n_vocab(srig.tok),
	                                .caps = PLX_CAP_LAST | PLX_CAP_LOGPROBS | PLX_CAP_COPY,
	                                .eog = eog,
	                                .n_eog = n_eog,
	                                .prefix_cache = true,
	                                .secret = 1};

	assert_int_equal(plx_links_open(&srig.links, &srig.arena, &srig.cfg, SRIG_IOS, &d), 0);
	plx_page_init(&srig.page[0], PLX_STAGE_TOK, 0, 0);
	plx_page_init(&srig.page[1], PLX_STAGE_BATCH, 0, 0);
	plx_page_init(&srig.page[2], PLX_STAGE_ACCEL, 1, 0);
	assert_string_equal(srig.page[2].name, "accel.1");
	assert_int_equal(plx_stage_tok_init(&srig.st, &srig.links, &srig.arena, srig.tok, NULL,
	                                    &srig.page[0], &d),
	                 0);
	assert_int_equal(plx_stage_batch_init(&srig.sb, &srig.links, &srig.arena, &dev, &model,
	                                      &srig.page[1], &d),
	                 0);
	assert_int_equal(plx_stage_accel_init(&srig.sa, &srig.links, 0, plx_fake_dev(srig.fake),
	                                      &srig.queue, &srig.page[2], &d),
	                 0);
}

int srig_open(void **state)
{
	struct plx_diag d = {""};
	struct plx_fake_conf fc = {.eog_id = TINY_EOS, .eog_every = 50};

	(void)state;
	memset(&srig, 0, sizeof(srig));
	srig.cfg = small_config();
	srig.tok = plx_tiny_vocab(words, SRIG_WORDS);
	fc.n_vocab = plx_tok_n_vocab(srig.tok);
	struct plx_dev_limits lim = plx_batch_dev_limits(&srig.cfg, 600, 1);

	srig.fake = plx_fake_open(&lim, &fc);
	assert_int_equal(plx_queue_open(plx_fake_dev(srig.fake), &srig.queue, &d), 0);
	/* Exactly what the stages say that they need. */
	assert_int_equal(plx_arena_open(&srig.arena,
	                                plx_links_bytes(&srig.cfg, SRIG_IOS) +
	                                    plx_stage_tok_bytes(&srig.cfg) +
	                                    plx_stage_batch_bytes(&srig.cfg, 600),
	                                &d),
	                 0);
	open_stages();
	plx_arena_seal(&srig.arena);
	return 0;
}

int srig_close(void **state)
{
	(void)state;
	plx_stage_tok_close(&srig.st);
	plx_dev_close(plx_fake_dev(srig.fake));
	plx_tok_free(srig.tok);
	plx_arena_close(&srig.arena);
	return 0;
}

static void tell_window(struct srig_client *c, const struct plx_req *q, uint32_t s)
{
	c->note_due[s] = !plx_note_window(&srig.links, q, (uint16_t)s,
	                                  c->n_ids[s] + srig.cfg.lim.unacked_tokens);
}

static void on_tokens(struct srig_client *c, const struct plx_ev *ev)
{
	uint32_t s = ev->sample;

	assert_true(s < SRIG_SAMPLES && !c->last[s]);
	assert_int_equal(ev->first_idx, c->n_ids[s]);
	for (uint32_t i = 0; i < ev->n_ids; i++) {
		c->logprob[s][c->n_ids[s]] = ev->logprob[i];
		c->id[s][c->n_ids[s]++] = ev->id[i];
		assert_true(ev->n_top == 0 || ev->logprob[i] < 0);
		for (uint32_t k = 0; k < ev->n_top; k++)
			assert_int_equal(ev->top[i * ev->n_top + k].id,
			                 ((uint32_t)ev->id[i] + k) % plx_tok_n_vocab(srig.tok));
	}
	memcpy(c->text[s] + c->n_text[s], ev->text, ev->text_bytes);
	c->n_text[s] += ev->text_bytes;
	c->last[s] = ev->last;
	if (!srig.no_acks)
		tell_window(c, ev->req, s);
}

static void on_event(const struct plx_ev *ev)
{
	struct srig_client *c = &srig.client[ev->req->idx];

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
		srig.n_finals++;
		srig.n_kind[c->res.kind]++;
		plx_req_give(&srig.links, ev->req);
		break;
	}
}

uint32_t srig_io_poll(void)
{
	struct plx_ev *ev;
	uint32_t n = 0;

	for (uint32_t i = 0; i < SRIG_REQS; i++)
		for (uint32_t s = 0; s < SRIG_SAMPLES; s++)
			if (srig.client[i].open && srig.client[i].note_due[s])
				tell_window(&srig.client[i], &srig.links.req[i], s);
	for (uint32_t io = 0; io < SRIG_IOS && !srig.deaf; io++)
		while ((ev = plx_ev_next(&srig.links, io)) != NULL) {
			assert_int_equal(ev->io_idx, io);
			on_event(ev);
			plx_ev_give(&srig.links, ev);
			n++;
		}
	return n;
}

uint32_t srig_turn(void)
{
	uint32_t n = srig_io_poll();

	n += plx_stage_tok_poll(&srig.st, plx_clock_ns());
	n += plx_stage_batch_poll(&srig.sb, plx_clock_ns());
	return n + plx_stage_accel_poll(&srig.sa, plx_clock_ns());
}

static void write_body(struct plx_req *q, const struct srig_ask *a)
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
	plx_req_begin(&w, q->body, srig.cfg.lim.request_bytes, &m);
	if (a->continued)
		plx_req_continue(&w, a->continued, a->continued_sample);
	if (a->n_had)
		plx_req_resume(&w, 0, a->had, a->n_had);
	if (a->best_of)
		plx_req_best_of(&w, a->best_of);
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

struct plx_req *srig_make(const struct srig_ask *a)
{
	struct plx_req *q = plx_req_take(&srig.links);

	if (!q)
		return NULL;
	struct srig_client *c = &srig.client[q->idx];

	memset(c, 0, sizeof(*c));
	c->open = true;
	c->seed = a->seed;
	c->max_new = a->max_new;
	if (a->stop)
		strcpy(c->stop, a->stop);
	q->io_idx = a->io;
	q->session_id = SRIG_SESSION;
	q->req_id = a->req_id;
	plx_session_mark(&srig.links, a->io, SRIG_SESSION, true);
	q->priority = 0;
	q->tenant = a->tenant;
	q->share_prefix = a->share_prefix;
	q->tenant_kv_blocks = 0;
	q->deadline_ns = a->deadline_ns;
	write_body(q, a);
	return q;
}

struct srig_client *srig_ask(const struct srig_ask *a)
{
	struct plx_req *q = srig_make(a);

	assert_non_null(q);
	assert_true(plx_req_push(&srig.links, q));
	return &srig.client[q->idx];
}

uint64_t srig_counted(enum plx_metric m)
{
	return plx_counter_read(&srig.page[0], m) + plx_counter_read(&srig.page[1], m);
}

/* Each reject is counted once, and under its reason. */
static void check_rejects(void)
{
	uint64_t n = 0;

	for (int m = PLX_M_REJ_QUEUE_FULL; m <= PLX_M_REJ_DEVICE_LOST; m++)
		n += srig_counted((enum plx_metric)m);
	assert_int_equal(n, srig.n_kind[PLX_FINAL_REJECT]);
	assert_int_equal(srig_counted(PLX_M_REQ_REJECTED), n);
}

void srig_run_out(void)
{
	uint64_t end = plx_clock_ns() + 5 * PLX_NS_PER_S;

	while (plx_req_busy(&srig.links) > 0 && plx_clock_ns() < end)
		srig_turn();
	assert_int_equal(plx_req_busy(&srig.links), 0);
	while (!plx_sched_idle(&srig.sb.fleet.dev[0].sched) && plx_clock_ns() < end)
		srig_turn();
	plx_sched_check(&srig.sb.fleet.dev[0].sched);
	assert_int_equal(plx_kv_room(&srig.sb.fleet.dev[0].sched.kv) +
	                     srig.sb.fleet.dev[0].sched.kv.n_quarantined,
	                 srig.cfg.lim.n_kv_blocks);
	srig_turn();
	assert_int_equal(srig.st.out.n_free, srig.links.n_evs);
	check_rejects();
}

void srig_check(const struct srig_client *c, const int32_t *ids, uint32_t n, uint32_t sample)
{
	int32_t want[SRIG_NEW];
	char text[SRIG_TEXT];
	struct plx_tok_stream st;
	size_t len = 0;
	uint32_t n_want =
	    plx_fake_expect(plx_fake_conf(srig.fake), ids, n, c->seed, sample, c->max_new, want);

	plx_tok_stream_init(&st, srig.tok, PLX_TOK_KEEP_SPACE);
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

uint32_t srig_encode(const char *text, int32_t *ids)
{
	struct plx_tok_scratch *s;
	struct plx_diag d;

	assert_int_equal(plx_tok_scratch_new(&s, srig.tok, 4096, &d), 0);
	int n = plx_tok_encode(s, text, (uint32_t)strlen(text), PLX_TOK_BOS, ids, 512);

	assert_true(n > 0);
	plx_tok_scratch_free(s);
	return (uint32_t)n;
}

void srig_no_eog(void)
{
	plx_fake_conf(srig.fake)->eog_every = 0;
	srig.sb.fleet.dev[0].sched.conf.n_eog = 0;
}

struct srig_client *srig_ask_and_run(const struct srig_ask *a)
{
	struct srig_client *c = srig_ask(a);

	srig_run_out();
	return c;
}

bool srig_stands_alone(const int32_t *ids, uint32_t at)
{
	bool broken = ids[at - 1] >= TINY_BYTE(0x80) && ids[at - 1] < TINY_WORD(0);

	return ids[at] == TINY_WORD(1) && !broken;
}
