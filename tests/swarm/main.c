/*
 * Many requests at once over the client library: N clients with M requests each, one thread, one
 * poll loop. Every request must end exactly once, as DONE, with exactly the expected text.
 *
 *   swarm HOST PORT KEYFILE CLIENTS REQUESTS MAX_NEW EXPECTFILE PROMPT...
 *
 * Request i uses PROMPT i modulo the number of prompts; line i of EXPECTFILE is its text, newlines
 * as \n. With EXPECTFILE "-" it prints such lines instead (CLIENTS 1). Exit 0: all as expected.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/client/client.h"

#define MAX_CLIENTS  64
#define MAX_REQUESTS 64
#define MAX_PROMPTS  16
#define TEXT_BYTES   8192

struct job {
	uint64_t req;
	uint32_t prompt;
	uint32_t n_finals;
	bool done;
	size_t n_text;
	char text[TEXT_BYTES];
};

struct swarm {
	uint32_t n_clients, n_requests, max_new, n_prompts;
	char **prompt;
	char expect[MAX_PROMPTS][2 * TEXT_BYTES];
	struct plx_client *client[MAX_CLIENTS];
	struct job *job; /* [n_clients][n_requests] */
	uint32_t n_left, n_lost;
	bool cancel;
};

static int start(struct swarm *s, uint32_t k, const struct plx_client_config *cfg)
{
	struct plx_client_request q;
	struct plx_diag d = {0};

	if (plx_client_open(&s->client[k], cfg, &d))
		goto fail;
	plx_client_request_init(&q);
	q.max_new = s->max_new;
	q.resubmit = PLX_CLIENT_RESUBMIT_NEVER;
	for (uint32_t i = 0; i < s->n_requests; i++) {
		struct job *j = &s->job[k * s->n_requests + i];
		struct plx_client_message m = {.role = PLX_CLIENT_USER};

		j->prompt = i % s->n_prompts;
		m.text = s->prompt[j->prompt];
		m.n_bytes = strlen(m.text);
		q.messages = &m;
		q.n_messages = 1;
		if (plx_client_submit(s->client[k], &q, &j->req, &d))
			goto fail;
	}
	return 0;
fail:
	fprintf(stderr, "swarm: %s\n", d.text);
	return -1;
}

static void final(struct swarm *s, struct job *j, const struct plx_client_event *ev)
{
	static const char *const name[] = {[PLX_CLIENT_EV_DONE] = "DONE",
	                                   [PLX_CLIENT_EV_REJECT] = "REJECT",
	                                   [PLX_CLIENT_EV_CANCELLED] = "CANCELLED",
	                                   [PLX_CLIENT_EV_FAILED] = "FAILED"};

	j->n_finals++;
	j->done =
	    ev->type == PLX_CLIENT_EV_DONE || (s->cancel && ev->type == PLX_CLIENT_EV_CANCELLED);
	if (!j->done)
		fprintf(stderr, "swarm: request %llu ended %s: %s\n", (unsigned long long)ev->req,
		        name[ev->type],
		        ev->type == PLX_CLIENT_EV_FAILED   ? ev->failed.why
		        : ev->type == PLX_CLIENT_EV_REJECT ? plx_err_name(ev->reject.err)
		                                           : "");
	s->n_left--;
}

/* Cancel what was sent at least once: a session is open, and process was called since. */
static void cancel_sent(struct swarm *s, uint32_t k)
{
	struct plx_client_info info;

	plx_client_info(s->client[k], &info);
	for (uint32_t i = 0; s->cancel && info.open && i < s->n_requests; i++)
		plx_client_cancel(s->client[k], s->job[k * s->n_requests + i].req);
}

static void take(struct swarm *s, uint32_t k)
{
	struct plx_client_event ev;

	while (plx_client_event(s->client[k], &ev)) {
		s->n_lost += ev.type == PLX_CLIENT_EV_LOST;
		for (uint32_t i = 0; ev.req && i < s->n_requests; i++) {
			struct job *j = &s->job[k * s->n_requests + i];

			if (j->req != ev.req)
				continue;
			if (plx_client_event_final(&ev))
				final(s, j, &ev);
			if (ev.type != PLX_CLIENT_EV_TOKENS ||
			    j->n_text + ev.tokens.text_bytes >= TEXT_BYTES)
				continue;
			memcpy(j->text + j->n_text, ev.tokens.text, ev.tokens.text_bytes);
			j->n_text += ev.tokens.text_bytes;
		}
	}
}

/* Until all have ended and for a while after, to see that nothing ends twice; or the limit. */
static void run(struct swarm *s, uint64_t limit_ns)
{
	uint64_t end = plx_client_now_ns() + limit_ns;
	bool settling = false;

	for (uint64_t now = plx_client_now_ns(); now < end; now = plx_client_now_ns()) {
		struct pollfd pfd[MAX_CLIENTS];
		uint64_t next = now + 100000000;

		for (uint32_t k = 0; k < s->n_clients; k++) {
			plx_client_process(s->client[k], now);
			take(s, k);
			cancel_sent(s, k);
			if (plx_client_next_ns(s->client[k]) < next)
				next = plx_client_next_ns(s->client[k]);
			pfd[k] =
			    (struct pollfd){.fd = plx_client_fd(s->client[k]), .events = POLLIN};
		}
		if (!s->n_left && !settling) {
			settling = true;
			end = now + 300000000;
		}
		now = plx_client_now_ns();
		struct timespec ts = {.tv_nsec = next > now ? (long)(next - now) : 0};

		ppoll(pfd, s->n_clients, &ts, NULL);
	}
}

static void escape(const char *text, size_t n, char out[2 * TEXT_BYTES])
{
	size_t o = 0;

	for (size_t i = 0; i < n; i++) {
		if (text[i] == '\n' || text[i] == '\\')
			out[o++] = '\\';
		out[o++] = text[i] == '\n' ? 'n' : text[i];
	}
	out[o] = 0;
}

static int read_expected(struct swarm *s, const char *path)
{
	FILE *f = fopen(path, "r");

	if (!f)
		return -1;
	for (uint32_t i = 0; i < s->n_prompts; i++) {
		if (!fgets(s->expect[i], sizeof(s->expect[i]), f)) {
			fclose(f);
			return -1;
		}
		s->expect[i][strcspn(s->expect[i], "\n")] = 0;
	}
	fclose(f);
	return 0;
}

static int judge(const struct swarm *s, bool print)
{
	static char text[2 * TEXT_BYTES];
	uint32_t n = s->n_clients * s->n_requests, n_once = 0, n_right = 0;
	struct plx_client_info info;
	uint64_t n_retx = 0;

	for (uint32_t i = 0; i < n; i++) {
		const struct job *j = &s->job[i];

		escape(j->text, j->n_text, text);
		n_once += j->n_finals == 1;
		n_right += j->done && (print || s->cancel || !strcmp(text, s->expect[j->prompt]));
		if (print)
			puts(text);
		else if (j->done && !s->cancel && strcmp(text, s->expect[j->prompt]) != 0)
			fprintf(stderr, "swarm: text differs:\n  %s\n  %s\n", text,
			        s->expect[j->prompt]);
	}
	for (uint32_t k = 0; k < s->n_clients; k++) {
		plx_client_info(s->client[k], &info);
		n_retx += info.retransmits;
	}
	fprintf(stderr,
	        "swarm: %u requests, %u ended exactly once, %u with the right text, %u sessions "
	        "lost, %llu retransmits by the clients\n",
	        n, n_once, n_right, s->n_lost, (unsigned long long)n_retx);
	return n_once == n && n_right == n ? 0 : 1;
}

int main(int argc, char **argv)
{
	static struct swarm s;
	struct plx_client_config cfg;
	struct plx_diag d = {0};

	if (argc < 9)
		return 2;
	plx_client_config_init(&cfg);
	cfg.host = argv[1];
	cfg.port = (uint16_t)atoi(argv[2]);
	cfg.connect_timeout_ms = 20000;
	s.n_clients = (uint32_t)atoi(argv[4]);
	s.n_requests = (uint32_t)atoi(argv[5]);
	s.max_new = (uint32_t)atoi(argv[6]);
	s.prompt = argv + 8;
	s.n_prompts = (uint32_t)(argc - 8);
	bool print = !strcmp(argv[7], "-");

	s.cancel = !strcmp(argv[7], "cancel");

	if (plx_client_key_read(&cfg, argv[3], &d)) {
		fprintf(stderr, "swarm: %s\n", d.text);
		return 2;
	}
	if (s.n_clients < 1 || s.n_clients > MAX_CLIENTS || s.n_requests < 1 ||
	    s.n_requests > MAX_REQUESTS || s.n_prompts > MAX_PROMPTS ||
	    (!print && !s.cancel && read_expected(&s, argv[7])))
		return 2;
	s.n_left = s.n_clients * s.n_requests;
	s.job = calloc(s.n_left, sizeof(*s.job));
	if (!s.job)
		return 1;
	for (uint32_t k = 0; k < s.n_clients; k++)
		if (start(&s, k, &cfg))
			return 1;
	run(&s, UINT64_C(60000000000));
	int rc = judge(&s, print);

	for (uint32_t k = 0; k < s.n_clients; k++)
		plx_client_close(s.client[k]);
	free(s.job);
	return rc;
}
