/*
 * plx-ask: a prompt to an appliance, the answer to the terminal.
 *
 * Ctrl-C asks the appliance to cancel, waits a second for its final word and exits 130; a second
 * Ctrl-C ends at once. In a conversation it ends the answer only.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/ask/answer.h"
#include "tools/ask/keep.h"

#define CANCEL_WAIT_NS UINT64_C(1000000000)
#define STDIN_MAX      (16u << 20)
#define TURNS_MAX      256

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
	(void)sig;
	if (interrupted++)
		_exit(PLX_ASK_INTERRUPTED);
}

static int complain(const struct plx_diag *d, int rc)
{
	fprintf(stderr, "plx-ask: %s\n", d->text);
	return rc;
}

/* ---- one request ---- */

static int rc_of_done(const struct plx_ask_answer *a)
{
	for (uint32_t i = 0; i < a->done.n_samples; i++)
		if (a->sample[i].finish == PLX_CLIENT_FINISH_DEADLINE ||
		    a->sample[i].finish == PLX_CLIENT_FINISH_FAULT)
			return PLX_ASK_CUT;
	return PLX_ASK_OK;
}

static int rc_of_cancelled(const struct plx_client_cancelled *m)
{
	static const char *const why[] = {
	    [PLX_CLIENT_CANCEL_ASKED] = "cancelled",
	    [PLX_CLIENT_CANCEL_SLOW] = "the appliance cancelled: we took no tokens for too long",
	    [PLX_CLIENT_CANCEL_DRAIN] = "the appliance shut down before the answer was complete",
	    [PLX_CLIENT_CANCEL_REVOKED] = "the appliance cancelled: our key was removed"};

	if (m->cause == PLX_CLIENT_CANCEL_ASKED)
		return PLX_ASK_INTERRUPTED;
	fprintf(stderr, "plx-ask: %s\n", m->cause < 5 ? why[m->cause] : "cancelled");
	return m->cause == PLX_CLIENT_CANCEL_REVOKED ? PLX_ASK_KEY : PLX_ASK_LOST;
}

/* Exit code of a final event; -1 where ev is not one. */
static int rc_of_event(struct plx_ask_answer *a, const struct plx_client_event *ev)
{
	if (!plx_client_event_final(ev))
		return -1;
	if (ev->type != PLX_CLIENT_EV_DONE && a->streamed)
		putchar('\n');
	fflush(stdout);
	if (ev->type == PLX_CLIENT_EV_DONE)
		return rc_of_done(a);
	if (ev->type == PLX_CLIENT_EV_CANCELLED)
		return rc_of_cancelled(&ev->cancelled);
	if (ev->type == PLX_CLIENT_EV_REJECT) {
		plx_ask_explain(&ev->reject);
		return ev->reject.retry_after_us ? PLX_ASK_BUSY : PLX_ASK_REFUSED;
	}
	fprintf(stderr, "plx-ask: %s\n", ev->failed.why);
	return ev->failed.err == PLX_E_AUTH ? PLX_ASK_KEY : PLX_ASK_LOST;
}

/* Take what has come; the exit code once the request has ended, else -1. */
static int take_events(struct plx_client *c, struct plx_ask_answer *a)
{
	struct plx_client_event ev;
	int rc = -1;

	while (rc < 0 && plx_client_event(c, &ev)) {
		if (ev.type == PLX_CLIENT_EV_LOST)
			fprintf(stderr, "\nplx-ask: %s\n", ev.failed.why);
		if (!ev.req)
			continue;
		if (!plx_ask_answer_event(a, &ev)) {
			fputs("plx-ask: out of memory\n", stderr);
			return PLX_ASK_INTERNAL;
		}
		rc = rc_of_event(a, &ev);
	}
	return rc;
}

/* @req out: the request's handle. */
static int run_request(struct plx_client *c, const struct plx_client_request *q,
                       struct plx_ask_answer *a, uint64_t *req)
{
	struct plx_diag d = {0};
	uint64_t give_up_ns = UINT64_MAX;
	int rc;

	if (plx_client_submit(c, q, req, &d))
		return complain(&d, PLX_ASK_REFUSED);
	while ((rc = take_events(c, a)) < 0) {
		if (interrupted && give_up_ns == UINT64_MAX) {
			plx_client_cancel(c, *req);
			give_up_ns = plx_client_now_ns() + CANCEL_WAIT_NS;
		}
		if (plx_client_now_ns() >= give_up_ns)
			return PLX_ASK_INTERRUPTED;
		plx_client_wait(c, 100);
	}
	return interrupted ? PLX_ASK_INTERRUPTED : rc;
}

/* ---- the ways to ask ---- */

static char *read_stdin(void)
{
	char *text = malloc(STDIN_MAX + 1);
	size_t n = text ? fread(text, 1, STDIN_MAX, stdin) : 0;

	if (!text)
		return NULL;
	if (n && text[n - 1] == '\n')
		n--;
	text[n] = 0;
	return text;
}

/* "1, 2 3" to ids; the number of them, or INVAL. */
static int parse_ids(const char *s, uint32_t **out, struct plx_diag *d)
{
	uint32_t *ids = malloc((strlen(s) / 2 + 1) * sizeof(*ids));
	int n = 0;

	*out = ids;
	while (ids && *(s += strspn(s, " ,\t\r\n"))) {
		char *end;
		unsigned long v = strtoul(s, &end, 10);

		if (end == s || v > UINT32_MAX || !strchr(" ,\t\r\n", *end))
			return plx_diag_set(d, PLX_E_INVAL,
			                    "--ids: \"%.20s\" is not a list of token ids", s);
		ids[n++] = (uint32_t)v;
		s = end;
	}
	return n ? n : plx_diag_set(d, PLX_E_INVAL, "--ids: give at least one token id");
}

static int ask_once(struct plx_client *c, const struct plx_ask_options *o, const char *prompt)
{
	struct plx_client_message m[2] = {
	    {.role = PLX_CLIENT_SYSTEM, .text = o->system},
	    {.role = PLX_CLIENT_USER, .text = prompt, .n_bytes = strlen(prompt)}};
	struct plx_client_request q = o->req;
	struct plx_client_keep keep[PLX_ASK_SPANS_MAX];
	struct plx_ask_answer *a = malloc(sizeof(*a));
	struct plx_diag d = {0};
	uint32_t *ids = NULL;
	uint64_t req;
	int n, rc;

	if (!a)
		return PLX_ASK_INTERNAL;
	if (o->raw) {
		q.text = prompt;
		q.text_bytes = strlen(prompt);
	} else if (o->ids) {
		n = parse_ids(prompt, &ids, &d);
		q.ids = ids;
		q.n_ids = n > 0 ? (uint32_t)n : 0;
	} else {
		m[0].n_bytes = o->system ? strlen(o->system) : 0;
		q.messages = o->system ? m : m + 1;
		q.n_messages = o->system ? 2 : 1;
	}
	plx_ask_keeps(o, &q, keep);
	plx_ask_answer_init(a, o);
	rc = d.text[0] ? complain(&d, PLX_ASK_USAGE) : run_request(c, &q, a, &req);
	if (rc == PLX_ASK_OK || rc == PLX_ASK_CUT) {
		plx_ask_answer_print(a);
		if (!o->quiet)
			plx_ask_answer_figures(a);
	}
	plx_ask_answer_free(a);
	free(a);
	free(ids);
	return rc;
}

/* The turns of a conversation; texts are ours to free. */
struct talk {
	struct plx_client_message m[TURNS_MAX];
	uint32_t n;
	uint64_t last;    /* the request that made the last answer; 0: none */
	uint32_t n_known; /* messages that it covers, its answer too */
};

static void forget(struct talk *t, uint32_t from)
{
	while (t->n > from)
		free((void *)(uintptr_t)t->m[--t->n].text);
	if (t->n < t->n_known)
		t->last = t->n_known = 0;
}

static bool say(struct talk *t, enum plx_client_role role, const char *text, size_t n)
{
	char *copy = t->n < TURNS_MAX ? strndup(text ? text : "", n) : NULL;

	if (!copy)
		return false;
	t->m[t->n++] = (struct plx_client_message){.role = role, .text = copy, .n_bytes = n};
	return true;
}

static void print_turn(const struct plx_ask_answer *a, int rc)
{
	bool done = rc == PLX_ASK_OK || rc == PLX_ASK_CUT;

	if (done)
		plx_ask_answer_print(a);
	else
		putchar('\n');
	fflush(stdout);
	if (done && !a->o->quiet)
		fprintf(stderr, "[%u tokens before the answer, %u of them cached; %.1f ms]\n",
		        a->done.prompt_tokens, a->done.cached_tokens,
		        (double)a->done.ttft_ns / 1e6);
}

static int turn(struct plx_client *c, const struct plx_ask_options *o, struct talk *t)
{
	struct plx_client_request q = o->req;
	struct plx_client_keep keep[PLX_ASK_SPANS_MAX];
	struct plx_ask_answer *a = malloc(sizeof(*a));
	uint32_t before = t->n - 1;

	if (!a)
		return PLX_ASK_INTERNAL;
	q.messages = t->m;
	q.n_messages = t->n;
	q.n_samples = 1;
	q.continues = t->last;
	q.n_known = t->n_known;
	plx_ask_keeps(o, &q, keep);
	plx_ask_answer_init(a, o);
	uint64_t req = 0;
	int rc = run_request(c, &q, a, &req);
	bool kept = a->sample[0].n_text && rc != PLX_ASK_LOST &&
	            say(t, PLX_CLIENT_ASSISTANT, a->sample[0].text, a->sample[0].n_text);

	print_turn(a, rc);
	if (kept) {
		t->last = req;
		t->n_known = t->n;
	} else {
		forget(t, before);
	}
	plx_ask_answer_free(a);
	free(a);
	interrupted = 0;
	return rc;
}

static int converse(struct plx_client *c, const struct plx_ask_options *o)
{
	struct talk *t = calloc(1, sizeof(*t));
	char *text = NULL;
	size_t cap = 0;
	ssize_t n;
	int rc = PLX_ASK_OK;

	if (!t)
		return PLX_ASK_INTERNAL;
	if (o->system)
		say(t, PLX_CLIENT_SYSTEM, o->system, strlen(o->system));
	uint32_t start = t->n;

	const char *ask = isatty(STDIN_FILENO) ? "> " : "";

	if (*ask)
		fputs("/reset forgets the conversation, Ctrl-D ends\n", stderr);
	while (fputs(ask, stderr), (n = getline(&text, &cap, stdin)) > 0) {
		n -= text[n - 1] == '\n';
		if (n == 0)
			continue;
		if (!strncmp(text, "/reset", 6)) {
			forget(t, start);
			continue;
		}
		if (!say(t, PLX_CLIENT_USER, text, (size_t)n)) {
			fputs("plx-ask: the conversation is too long; /reset it\n", stderr);
			continue;
		}
		rc = turn(c, o, t);
		if (rc == PLX_ASK_KEY || rc == PLX_ASK_LOST)
			break;
	}
	forget(t, 0);
	free(t);
	free(text);
	return n > 0 ? rc : interrupted ? PLX_ASK_INTERRUPTED : PLX_ASK_OK;
}

/* ---- pings and models ---- */

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* One round trip, or an error. */
static int ping_once(struct plx_client *c, uint64_t *rtt_ns, struct plx_client_load *load)
{
	struct plx_client_event ev;
	uint64_t token;
	int err;

	while ((err = plx_client_ping(c, &token)) == PLX_E_AGAIN && !interrupted)
		if (plx_client_wait(c, 100))
			return PLX_E_CLOSED;
	while (!err && !interrupted) {
		while (plx_client_event(c, &ev)) {
			if (ev.type == PLX_CLIENT_EV_LOST)
				return PLX_E_LOST;
			if (ev.type != PLX_CLIENT_EV_PONG || ev.pong.token != token)
				continue;
			*rtt_ns = ev.pong.rtt_ns;
			*load = ev.pong.load;
			return 0;
		}
		if (plx_client_wait(c, 1000))
			return PLX_E_CLOSED;
	}
	return err ? err : PLX_E_CANCELLED;
}

static void print_pings(const struct plx_ask_options *o, uint64_t *ns, uint32_t n,
                        const struct plx_client_load *load)
{
	double p[4];

	qsort(ns, n, sizeof(*ns), by_size);
	p[0] = (double)ns[0] / 1e3;
	p[1] = (double)ns[(n - 1) / 2] / 1e3;
	p[2] = (double)ns[(uint64_t)(n - 1) * 99 / 100] / 1e3;
	p[3] = (double)ns[n - 1] / 1e3;
	if (o->json)
		printf("{\"pings\":%u,\"min_us\":%.3f,\"p50_us\":%.3f,\"p99_us\":%.3f,\"max_us\":%."
		       "3f}\n",
		       n, p[0], p[1], p[2], p[3]);
	else
		printf("%u round trips: min %.1f us, p50 %.1f us, p99 %.1f us, max %.1f us\n"
		       "load: %u tokens waiting, %u sequences running, %u KV blocks free, step %u "
		       "us\n",
		       n, p[0], p[1], p[2], p[3], load->queued_tokens, load->running_sequences,
		       load->free_kv_blocks, load->step_time_us);
}

static int ping(struct plx_client *c, const struct plx_ask_options *o)
{
	uint64_t *ns = malloc(o->n_pings * sizeof(*ns));
	struct plx_client_load load = {0};
	uint32_t n = 0;
	int err = 0;

	if (!ns)
		return PLX_ASK_INTERNAL;
	while (n < o->n_pings && !(err = ping_once(c, &ns[n], &load)))
		n++;
	if (n)
		print_pings(o, ns, n, &load);
	free(ns);
	if (err && !interrupted)
		fprintf(stderr, "plx-ask: %s\n", plx_client_why(c));
	return interrupted ? PLX_ASK_INTERRUPTED : err ? PLX_ASK_LOST : PLX_ASK_OK;
}

static void print_model(const struct plx_client_model *m)
{
	printf("%u  %s: context %u, vocabulary %u, width %u, chat %s, sha256 ", m->model_id,
	       m->name, m->context_tokens, m->vocab_size, m->n_embd, m->chat ? "yes" : "no");
	for (size_t i = 0; i < sizeof(m->hash); i++)
		printf("%02x", m->hash[i]);
	putchar('\n');
}

static int models(struct plx_client *c, const struct plx_ask_options *o)
{
	uint64_t end = plx_client_now_ns() + o->cfg.connect_timeout_ms * UINT64_C(1000000);
	struct plx_client_model m;

	while (!plx_client_model(c, 0, &m)) {
		if (plx_client_wait(c, 100) || plx_client_now_ns() > end || interrupted) {
			fputs("plx-ask: the model table did not come\n", stderr);
			return interrupted ? PLX_ASK_INTERRUPTED : PLX_ASK_LOST;
		}
	}
	for (uint32_t i = 0; plx_client_model(c, i, &m); i++)
		print_model(&m);
	return PLX_ASK_OK;
}

static int prompt(struct plx_client *c, const struct plx_ask_options *o)
{
	if (o->prompt)
		return ask_once(c, o, o->prompt);
	if (o->chat || (isatty(STDIN_FILENO) && !o->raw && !o->ids))
		return converse(c, o);
	char *text = read_stdin();

	if (!text)
		return PLX_ASK_INTERNAL;
	int rc = ask_once(c, o, text);

	free(text);
	return rc;
}

/* Wait for the session; 0, or the exit code. */
static int wait_open(struct plx_client *c)
{
	struct plx_client_info info;
	struct plx_diag d = {0};

	for (plx_client_info(c, &info); !info.open; plx_client_info(c, &info)) {
		if (interrupted)
			return PLX_ASK_INTERRUPTED;
		if (!plx_client_wait(c, 100))
			continue;
		plx_client_connect(c, &d); /* returns at once: for its words */
		return complain(&d, PLX_ASK_NO_ANSWER);
	}
	return 0;
}

int main(int argc, char **argv)
{
	static struct plx_ask_options o;
	struct plx_diag d = {0};
	struct sigaction sa = {.sa_handler = on_interrupt};
	struct plx_client *c;

	if (plx_ask_parse(&o, argc, argv, &d))
		return complain(&d, PLX_ASK_USAGE);
	if (o.help) {
		fputs(plx_ask_usage(), stdout);
		return PLX_ASK_OK;
	}
	if (o.key_file && plx_client_key_read(&o.cfg, o.key_file, &d))
		return complain(&d, PLX_ASK_KEY);
	sigaction(SIGINT, &sa, NULL);
	if (plx_client_open(&c, &o.cfg, &d))
		return complain(&d, PLX_ASK_NO_ANSWER);
	int rc = wait_open(c);

	if (!rc)
		rc = o.mode == PLX_ASK_PING     ? ping(c, &o)
		     : o.mode == PLX_ASK_MODELS ? models(c, &o)
		                                : prompt(c, &o);
	plx_client_close(c);
	return rc;
}
