/*
 * The real model on board/devbox over a veth pair, as clients see it: one client, then eight at
 * once (tokens a second, and the time between two tokens of an answer), and the first token of a
 * prompt of some 1,500 tokens, new and then known to the prefix cache. All of it in turn, several
 * times; medians, and from least to most. The clients sleep between packets, since they share the
 * CPUs with the lcores.
 *
 *   bench_many [ROUNDS]     5 unless told; about 8 s each on two CPUs
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fw/base/clock.h"
#include "fw/compose.h"
#include "tests/lib/inproc.h"
#include "tests/lib/model_path.h"

#define N_MOST     8u
#define N_NEW      96u
#define MAX_ROUNDS 20u
#define N_LINES    70u /* of the long prompt: 1,500 tokens and a few */

static struct plx_inproc box;
static struct plx_inproc_gaps gaps;
static struct plx_client *client[N_MOST];

static const char *const prompt[N_MOST] = {
    "What is the capital of France, and what is it known for?",
    "Write a poem about a lighthouse in winter.",
    "Explain how a bicycle stays upright.",
    "List the planets of the solar system and say one thing about each.",
    "Tell a story about a fox who learned to read.",
    "How is bread made?",
    "Give me five rules for a good night's sleep.",
    "Describe the sea to somebody who has never seen it.",
};

/* A figure of each round. */
struct series {
	uint32_t n;
	uint32_t v[MAX_ROUNDS];
};

static void note(struct series *s, double v)
{
	s->v[s->n++] = (uint32_t)(v + 0.5);
}

static void print_series(const char *what, const char *unit, double scale, struct series *s)
{
	uint32_t mid = plx_inproc_quantile(s->v, s->n, 0.5);

	printf("many: %s: %.1f %s (%.1f to %.1f)\n", what, mid / scale, unit, s->v[0] / scale,
	       s->v[s->n - 1] / scale);
}

/* What one or eight clients see. */
struct seen {
	struct series rate, first, gap, gap99; /* tokens a 1,000 s; us */
};

/* n clients at once, a request each. */
static bool run(uint32_t n, struct seen *out)
{
	struct plx_inproc_ask a[N_MOST] = {0};
	uint32_t first_us[N_MOST], n_tokens = 0;
	uint64_t end = 0;

	gaps.n = 0;
	for (uint32_t i = 0; i < n; i++)
		a[i] = (struct plx_inproc_ask){.text = prompt[i], .max_new = N_NEW};
	if (plx_inproc_asks_of(&box, client, a, n, &gaps) != n)
		return false;
	for (uint32_t i = 0; i < n; i++) {
		n_tokens += a[i].n_tokens;
		first_us[i] = (uint32_t)((a[i].first_ns - a[i].submit_ns) / PLX_NS_PER_US);
		end = a[i].end_ns > end ? a[i].end_ns : end;
	}
	note(&out->rate, n_tokens * 1e12 / (double)(end - a[0].submit_ns));
	note(&out->first, plx_inproc_quantile(first_us, n, 1));
	note(&out->gap, plx_inproc_quantile(gaps.us, gaps.n, 0.5));
	note(&out->gap99, plx_inproc_quantile(gaps.us, gaps.n, 0.99));
	return true;
}

static void print_seen(const char *who, struct seen *s)
{
	char what[64];

	snprintf(what, sizeof(what), "%s, in all", who);
	print_series(what, "tokens/s", 1000, &s->rate);
	snprintf(what, sizeof(what), "%s, longest time to first token", who);
	print_series(what, "ms", 1000, &s->first);
	snprintf(what, sizeof(what), "%s, between tokens, p50", who);
	print_series(what, "ms", 1000, &s->gap);
	snprintf(what, sizeof(what), "%s, between tokens, p99", who);
	print_series(what, "ms", 1000, &s->gap99);
}

/* A text that no other round has, from its first token on. */
static void write_long(char *text, size_t room, uint32_t round)
{
	size_t n = 0;

	for (uint32_t i = 0; i < N_LINES && n < room; i++)
		n += (size_t)snprintf(text + n, room - n,
		                      "%c. In round %u ship %u left with %u crates of tea.\n",
		                      (char)('A' + round), round, i, 17 * i + round);
}

static bool ask_long(const char *text, struct plx_inproc_ask *a, struct series *first)
{
	*a = (struct plx_inproc_ask){.text = text, .max_new = 2, .raw = true};
	if (plx_inproc_asks_of(&box, client, a, 1, NULL) != 1)
		return false;
	note(first, (double)(a->first_ns - a->submit_ns) / PLX_NS_PER_US);
	return true;
}

/* The long prompt twice; how much sooner its first token came the second time. */
static bool run_long(uint32_t round, struct series *cold, struct series *known,
                     struct series *ratio)
{
	static char text[16384];
	struct plx_inproc_ask a, b;

	write_long(text, sizeof(text), round);
	if (!ask_long(text, &a, cold) || !ask_long(text, &b, known))
		return false;
	if (round == 0)
		printf("many: a prompt of %u tokens, %u of them cached at first, %u then\n",
		       a.prompt_tokens, a.cached_tokens, b.cached_tokens);
	note(ratio, 10.0 * cold->v[round] / known->v[round]);
	return true;
}

static double share(int first, int which, int n)
{
	uint64_t all = 0, one = 0;

	for (uint32_t i = 0; i < box.cfg.n_stages; i++)
		for (int m = 0; m < n; m++) {
			uint64_t v =
			    plx_counter_read(&box.app.page[i], (enum plx_metric)(first + m));

			all += v;
			one += m <= which ? v : 0;
		}
	return all ? 100.0 * (double)one / (double)all : 0;
}

/* What the appliance counted of its own promises. */
static void print_estimates(void)
{
	printf(
	    "many: first tokens within 10, 25, 50, 100 %% of what ACCEPT said: %.0f, %.0f, %.0f, "
	    "%.0f %%\n",
	    share(PLX_M_TTFT_OFF_10, 0, 5), share(PLX_M_TTFT_OFF_10, 1, 5),
	    share(PLX_M_TTFT_OFF_10, 2, 5), share(PLX_M_TTFT_OFF_10, 3, 5));
	printf("many: steps within 5, 10, 25, 50 %% of what the cost model said: %.0f, %.0f, %.0f, "
	       "%.0f %%\n",
	       share(PLX_M_STEP_OFF_5, 0, 5), share(PLX_M_STEP_OFF_5, 1, 5),
	       share(PLX_M_STEP_OFF_5, 2, 5), share(PLX_M_STEP_OFF_5, 3, 5));
}

static int rounds(uint32_t n)
{
	static struct seen one, eight, warm;
	static struct series cold, known, ratio, times;

	if (!run(N_MOST, &warm))
		return 1;
	for (uint32_t i = 0; i < n; i++) {
		if (!run(1, &one) || !run(N_MOST, &eight) || !run_long(i, &cold, &known, &ratio)) {
			printf("many: not every request ended in DONE\n");
			return 1;
		}
		note(&times, 100.0 * eight.rate.v[i] / one.rate.v[i]);
	}
	print_seen("one client", &one);
	print_seen("eight clients at once", &eight);
	print_series("eight at once over one", "times the tokens/s", 100, &times);
	print_series("long prompt, new: first token", "ms", 1000, &cold);
	print_series("long prompt, cached: first token", "ms", 1000, &known);
	print_series("long prompt, cached over new", "times sooner", 10, &ratio);
	print_estimates();
	return 0;
}

int main(int argc, char **argv)
{
	struct plx_inproc_conf conf = {.board = sysconf(_SC_NPROCESSORS_ONLN) > 1
	                                            ? "board/devbox/board.yml"
	                                            : "board/onecore/board.yml",
	                               .model = plx_test_model(),
	                               .kind = PLX_PORT_AUTO,
	                               .backoff = true,
	                               .wait = true};
	uint32_t n = argc > 1 ? (uint32_t)atoi(argv[1]) : 5;

	if (conf.model == NULL) {
		printf("many: no model here ($PLX_TEST_MODEL); not run\n");
		return 0;
	}
	if (plx_inproc_open(&box, &conf) != 0)
		return 1;
	for (uint32_t i = 0; i < N_MOST; i++)
		if ((client[i] = plx_inproc_client(&box)) == NULL)
			return 1;
	printf("many: %u lcores, port %s on a veth pair, %u tokens each\n", box.app.n_lcores,
	       plx_port_kind_name(box.app.port[0].kind), N_NEW);
	int rc = rounds(n < 1 ? 1 : n < MAX_ROUNDS ? n : MAX_ROUNDS);

	for (uint32_t i = 0; i < N_MOST; i++)
		plx_client_close(client[i]);
	plx_inproc_close(&box);
	return rc;
}
