/*
 * How long a PING takes while the appliance is busy or asleep, over a veth pair.
 *
 * Busy: one lcore does everything (board/onecore) and runs prefills of 2,048 tokens; PINGs come at
 * odd times meanwhile; then an answer streams while another prefill runs. Asleep: board/devbox with
 * idle back-off; PINGs after 50 ms of silence; and what an idle appliance takes of the CPUs. The
 * client runs on the last CPU; busy, it spins.
 */
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fw/base/clock.h"
#include "fw/compose.h"
#include "tests/lib/inproc.h"
#include "tests/lib/model_path.h"

#define N_PROMPT 2048u
#define ROUNDS   3u
#define N_IDLE   100u
#define IDLE_US  50000u
#define MAX_PING 16384u

static struct plx_inproc box;
static uint32_t trip_us[MAX_PING];
static uint32_t n_trips, n_lost;

static void pin_last_cpu(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)sysconf(_SC_NPROCESSORS_ONLN) - 1, &set);
	(void)sched_setaffinity(0, sizeof(set), &set);
}

static void print_trips(const char *what)
{
	printf("busy: PING %s: p50 %u us, p90 %u us, p99 %u us, most %u us (%u trips, %u lost)\n",
	       what, plx_inproc_quantile(trip_us, n_trips, 0.5),
	       plx_inproc_quantile(trip_us, n_trips, 0.9),
	       plx_inproc_quantile(trip_us, n_trips, 0.99),
	       plx_inproc_quantile(trip_us, n_trips, 1), n_trips, n_lost);
	n_trips = n_lost = 0;
}

/* ---- busy ---------------------------------------------------------------------------------- */

/* Words no other round has in front, so that nothing is found in the prefix cache. */
static int submit_long(struct plx_client *c, uint32_t round, uint64_t *req)
{
	static char text[8 * N_PROMPT];
	struct plx_client_request r;
	struct plx_diag d = {0};
	size_t n = (size_t)snprintf(text, sizeof(text), "%u", round);

	/* A digit is one token, and so is each " the". */
	for (uint32_t i = 1; i < N_PROMPT; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, " the");
	plx_client_request_init(&r);
	r.text = text;
	r.text_bytes = n;
	r.max_new = 1;
	r.ignore_eos = true;
	int err = plx_client_submit(c, &r, req, &d);

	if (err != 0)
		printf("busy: submit: %s\n", d.text);
	return err;
}

static void note_trip(uint64_t ns)
{
	if (n_trips < MAX_PING)
		trip_us[n_trips++] = (uint32_t)(ns / PLX_NS_PER_US);
}

static void ping_times(struct plx_client *c, uint32_t n, uint32_t pause_us)
{
	for (uint32_t i = 0; i < n; i++) {
		if (pause_us > 0)
			(void)usleep(pause_us);
		uint64_t ns = plx_inproc_ping(&box, c);

		if (ns > 0)
			note_trip(ns);
		else
			n_lost++;
	}
}

/* One prefill with PINGs until its first token comes; tokens of the prompt in *n_prompt. */
static double prefill(struct plx_client *c, uint32_t round, uint32_t *n_prompt)
{
	uint64_t req, token = 0, sent_ns = 0, next_ns = 0, begin = plx_clock_ns(), first = 0;
	struct plx_client_event ev;
	uint32_t odd = 12345;

	if (submit_long(c, round, &req) != 0)
		return 0;
	for (;;) {
		uint64_t now = plx_clock_ns();

		if (sent_ns == 0 && now >= next_ns && first == 0 && plx_client_ping(c, &token) == 0)
			sent_ns = now;
		if (sent_ns != 0 && now - sent_ns > PLX_NS_PER_S) {
			n_lost++;
			sent_ns = 0;
		}
		plx_inproc_process(&box, c);
		while (plx_client_event(c, &ev)) {
			now = plx_clock_ns();
			if (ev.type == PLX_CLIENT_EV_PONG && ev.pong.token == token) {
				note_trip(now - sent_ns);
				odd = odd * 1664525 + 1013904223;
				next_ns = now + odd % (1 << 19); /* up to 524 us */
				sent_ns = 0;
			}
			if (ev.type == PLX_CLIENT_EV_TOKENS && first == 0)
				first = now;
			if (ev.type == PLX_CLIENT_EV_DONE)
				*n_prompt = ev.done.prompt_tokens;
			if (plx_client_event_final(&ev))
				return (double)(first - begin) / 1e9;
		}
	}
}

/* ---- an answer while a prefill runs --------------------------------------------------------- */

#define N_STREAM 1024u
#define N_ALONE  64u

/* The gaps between an answer's tokens: alone, then from a prompt's submission to its first token.
 */
struct stream {
	uint64_t req, other, last_ns;
	struct plx_inproc_gaps alone, busy;
	uint32_t n_left;
	bool first; /* the prompt's first token has come */
};

static int submit_stream(struct plx_client *c, uint64_t *req)
{
	struct plx_client_request r;
	struct plx_diag d = {0};

	plx_client_request_init(&r);
	r.text = "Once upon a time";
	r.text_bytes = strlen(r.text);
	r.max_new = N_STREAM;
	r.ignore_eos = true;
	int err = plx_client_submit(c, &r, req, &d);

	if (err != 0)
		printf("busy: submit: %s\n", d.text);
	return err;
}

static void stream_event(struct stream *s, const struct plx_client_event *ev)
{
	uint64_t now = plx_clock_ns();
	struct plx_inproc_gaps *g = s->other == 0 ? &s->alone : &s->busy;

	s->n_left -= plx_client_event_final(ev);
	if (ev->type != PLX_CLIENT_EV_TOKENS)
		return;
	if (ev->req != s->req) {
		s->first = true;
		return;
	}
	for (uint32_t i = 0; s->last_ns != 0 && i < ev->tokens.count && g->n < PLX_INPROC_GAPS; i++)
		g->us[g->n++] = (uint32_t)((now - s->last_ns) / PLX_NS_PER_US / ev->tokens.count);
	s->last_ns = now;
}

static void print_gaps(const char *what, struct plx_inproc_gaps *g)
{
	printf("busy: between an answer's tokens, %s: p50 %u us, p99 %u us, longest %u us (%u)\n",
	       what, plx_inproc_quantile(g->us, g->n, 0.5), plx_inproc_quantile(g->us, g->n, 0.99),
	       plx_inproc_quantile(g->us, g->n, 1), g->n);
}

static void stream(struct plx_client *c)
{
	static struct stream s;
	struct plx_client_event ev;

	if (submit_stream(c, &s.req) != 0)
		return;
	for (s.n_left = 1; s.n_left > 0 && !s.first;) {
		plx_inproc_process(&box, c);
		while (plx_client_event(c, &ev))
			stream_event(&s, &ev);
		if (s.other != 0 || s.alone.n < N_ALONE)
			continue;
		if (submit_long(c, ROUNDS + 1, &s.other) != 0)
			return;
		s.n_left++;
	}
	print_gaps("alone", &s.alone);
	print_gaps("while a prefill runs", &s.busy);
	(void)plx_client_cancel(c, s.req);
	while (s.n_left > 0) {
		plx_inproc_process(&box, c);
		while (plx_client_event(c, &ev))
			s.n_left -= plx_client_event_final(&ev);
	}
}

static void print_turns(void)
{
	for (uint32_t i = 0; i < box.cfg.n_stages; i++) {
		const struct plx_page *p = &box.app.page[i];

		printf("busy: turns of %s: p50 %.0f us, p99 %.0f us, longest %.0f us\n", p->name,
		       (double)plx_hist_quantile(&p->hist[PLX_H_TURN], 0.5) / 1e3,
		       (double)plx_hist_quantile(&p->hist[PLX_H_TURN], 0.99) / 1e3,
		       (double)plx_hist_quantile(&p->hist[PLX_H_TURN], 1) / 1e3);
	}
}

static int busy(const char *model)
{
	struct plx_inproc_conf conf = {.board = "board/onecore/board.yml",
	                               .model = model,
	                               .kind = PLX_PORT_AUTO,
	                               .backoff = true};
	uint32_t n_prompt = 0;
	double s = 0;

	if (plx_inproc_open(&box, &conf) != 0)
		return 1;
	pin_last_cpu();
	struct plx_client *c = plx_inproc_client(&box);

	if (c == NULL)
		return 1;
	ping_times(c, 1000, 0);
	printf("busy: port %s on a veth pair, slice %u us, one lcore for all stages\n",
	       plx_port_kind_name(box.app.port[0].kind), box.cfg.tmr.slice_us);
	print_trips("before, nothing else to do");
	for (uint32_t i = 0; i < ROUNDS; i++)
		s += prefill(c, 1 + i, &n_prompt);
	print_trips("while prefills run on the same lcore");
	printf("busy: prefill of %u tokens: %.2f s to the first token, %.0f tokens/s, with the "
	       "PINGs\n",
	       n_prompt, s / ROUNDS, n_prompt * ROUNDS / s);
	print_turns();
	stream(c);
	plx_client_close(c);
	plx_inproc_close(&box);
	return 0;
}

/* ---- asleep -------------------------------------------------------------------------------- */

/* CPU time of an lcore's thread so far. */
static uint64_t cpu_ns(const struct plx_lcore *lc)
{
	char path[64];
	unsigned long long ns = 0;

	snprintf(path, sizeof(path), "/proc/self/task/%" PRIu64 "/schedstat",
	         atomic_load_explicit(&lc->thread_id, memory_order_relaxed));
	FILE *f = fopen(path, "re");

	if (f == NULL)
		return 0;
	if (fscanf(f, "%llu", &ns) != 1)
		ns = 0;
	fclose(f);
	return ns;
}

/* CPU time of two seconds in which nothing happens. */
static void print_idle_cpu(void)
{
	uint64_t before[PLX_MAX_LCORES], t0 = plx_clock_ns();

	for (uint32_t i = 0; i < box.app.n_lcores; i++)
		before[i] = cpu_ns(&box.app.lcore[i]);
	(void)usleep(2000000);
	for (uint32_t i = 0; i < box.app.n_lcores; i++)
		printf("busy: idle lcore %u with back-off: %.3f of a CPU\n", box.app.lcore[i].cpu,
		       (double)(cpu_ns(&box.app.lcore[i]) - before[i]) /
		           (double)(plx_clock_ns() - t0));
}

static int asleep(const char *model)
{
	struct plx_inproc_conf conf = {.board = "board/devbox/board.yml",
	                               .model = model,
	                               .kind = PLX_PORT_AUTO,
	                               .backoff = true,
	                               .wait = true};

	if (plx_inproc_open(&box, &conf) != 0)
		return 1;
	pin_last_cpu();
	struct plx_client *c = plx_inproc_client(&box);

	if (c == NULL)
		return 1;
	ping_times(c, 2000, 0);
	print_trips("one after another, client waits in poll");
	ping_times(c, N_IDLE, IDLE_US);
	print_trips("after 50 ms of silence, client waits in poll");
	/* Without the client's own waking up. */
	box.wait = false;
	ping_times(c, N_IDLE, IDLE_US);
	print_trips("after 50 ms of silence, client spins");
	(void)usleep(100000);
	print_idle_cpu();
	plx_client_close(c);
	plx_inproc_close(&box);
	return 0;
}

/* EAL starts once in a process, so each part gets its own. */
static void apart(int (*part)(const char *), const char *model)
{
	fflush(stdout);
	pid_t pid = fork();

	if (pid == 0) {
		int rc = part(model);

		fflush(stdout);
		_exit(rc);
	}
	(void)waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
	const char *model = plx_test_model(), *only = argc > 1 ? argv[1] : "";

	if (model == NULL) {
		printf("busy: no model here ($PLX_TEST_MODEL); not run\n");
		return 0;
	}
	if (strcmp(only, "asleep") != 0)
		apart(busy, model);
	if (strcmp(only, "busy") != 0 && sysconf(_SC_NPROCESSORS_ONLN) > 1)
		apart(asleep, model);
	return 0;
}
