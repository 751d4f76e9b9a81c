/*
 * What a token costs the kernel and the allocator: allocations, page faults and system calls by
 * name, of the lcores' threads alone, while requests run after warm-up; on a port of rings, on
 * AF_PACKET and on AF_XDP, with idle back-off off and on. Counting is by a seccomp filter in the
 * thread itself (tests/lib/watch.h), so it runs wherever Linux does.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fw/base/stamp.h"
#include "fw/compose.h"
#include "tests/lib/inproc.h"
#include "tests/lib/model_path.h"

#define N_NEW 128u

static struct plx_inproc box;

static const struct {
	const char *name;
	struct plx_inproc_conf conf;
} way[] = {
    {"in-memory port, back-off off", {.memory = true}},
    {"in-memory port, back-off on", {.memory = true, .backoff = true}},
    {"af_packet, back-off off", {.kind = PLX_PORT_AF_PACKET}},
    {"af_xdp, back-off off", {.kind = PLX_PORT_AF_XDP}},
    {"af_xdp, back-off on", {.kind = PLX_PORT_AF_XDP, .backoff = true}},
};

static void report(const char *name, uint32_t n_tokens, uint64_t turns, uint64_t frames)
{
	struct plx_watch sum = {0};

	for (uint32_t i = 0; i < box.app.n_lcores; i++) {
		const struct plx_watch *w = &box.watch[i];

		sum.n_alloc += w->n_alloc;
		sum.n_minor += w->n_minor;
		sum.n_major += w->n_major;
		sum.n_calls += w->n_calls;
		for (uint32_t k = 0; k < PLX_WATCH_CALLS; k++)
			sum.call[k] += w->call[k];
	}
	double per = n_tokens > 0 ? 1.0 / n_tokens : 0;

	printf("quiet: %s: %u tokens on %u lcores, %" PRIu64 " io turns, %" PRIu64 " frames\n",
	       name, n_tokens, box.app.n_lcores, turns, frames);
	printf("quiet: %s: allocations: %.3f a token (%" PRIu64 ")\n", name,
	       (double)sum.n_alloc * per, sum.n_alloc);
	printf("quiet: %s: page faults: %.3f a token (%" PRIu64 " minor, %" PRIu64 " major)\n",
	       name, (double)(sum.n_minor + sum.n_major) * per, sum.n_minor, sum.n_major);
	printf("quiet: %s: system calls: %.3f a token (%" PRIu64 ")\n", name,
	       (double)sum.n_calls * per, sum.n_calls);
	for (uint32_t k = 0; k < PLX_WATCH_CALLS; k++)
		if (sum.call[k] > 0)
			printf("quiet: %s: system call %s: %.3f a token, %.3f an io turn\n", name,
			       plx_watch_name(k), (double)sum.call[k] * per,
			       turns > 0 ? (double)sum.call[k] / (double)turns : 0.0);
}

/* Warm-up: one short request. */
static void ask_one(struct plx_client *c)
{
	struct plx_inproc_ask a = {.text = "Say hello.", .max_new = 8};

	(void)plx_inproc_asks(&box, c, &a, 1, NULL);
}

/* A greedy, a sampled and a long request at once, from a client that has just come. */
static uint32_t ask_many(void)
{
	static char text[6001];
	struct plx_inproc_ask a[3] = {
	    {.text = "Name three rivers of Europe and say where they end.", .max_new = N_NEW},
	    {.text = "Write a poem about a lighthouse.", .max_new = N_NEW, .temperature = 0.8f},
	    {.text = text, .max_new = N_NEW},
	};
	struct plx_client *c = plx_inproc_client(&box);

	for (uint32_t i = 0; i + 6 < sizeof(text); i += 6)
		memcpy(text + i, "river ", 6);
	if (c == NULL || plx_inproc_asks(&box, c, a, 3, NULL) != 3)
		printf("quiet: not every request ended in DONE\n");
	plx_client_close(c);
	return a[0].n_tokens + a[1].n_tokens + a[2].n_tokens;
}

static uint64_t frames(void)
{
	return plx_counter_read(&box.app.page[0], PLX_M_IO_RX) +
	       plx_counter_read(&box.app.page[0], PLX_M_IO_TX);
}

static int measure(const char *name, struct plx_inproc_conf conf)
{
	uint32_t n_tokens = 0;

	if (plx_inproc_open(&box, &conf) != 0)
		return 1;
	struct plx_client *c = plx_inproc_client(&box);

	if (c == NULL)
		return 1;
	ask_one(c);
	int err = plx_inproc_watch(&box, PLX_WATCH_ON);
	uint64_t turns = box.app.page[0].heartbeat, n_frames = frames();

	if (err == 0)
		n_tokens = ask_many();
	turns = box.app.page[0].heartbeat - turns;
	n_frames = frames() - n_frames;
	(void)plx_inproc_watch(&box, PLX_WATCH_OFF);
	if (err != 0)
		printf("quiet: %s: the kernel gives no seccomp filter (%s); not counted\n", name,
		       strerror(-err));
	else
		report(name, n_tokens, turns, n_frames);
	plx_client_close(c);
	plx_inproc_close(&box);
	return 0;
}

int main(int argc, char **argv)
{
	const char *model = plx_test_model();

	if (model == NULL) {
		printf("quiet: no model here ($PLX_TEST_MODEL); not run\n");
		return 0;
	}
	/* EAL starts once in a process, so each way gets its own. */
	for (uint32_t i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
		struct plx_inproc_conf conf = way[i].conf;

		if (argc > 1 && strstr(way[i].name, argv[1]) == NULL)
			continue;
		conf.board = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? "board/devbox/board.yml"
		                                               : "board/onecore/board.yml";
		conf.model = model;
		conf.watch = true;
		fflush(stdout);
		pid_t pid = fork();

		if (pid == 0) {
			int rc = measure(way[i].name, conf);

			fflush(stdout);
			_exit(rc);
		}
		(void)waitpid(pid, NULL, 0);
	}
	return 0;
}
