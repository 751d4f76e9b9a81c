/*
 * One request, then eight at once, on board/devbox over a veth pair: tokens a second and the time
 * between two tokens of an answer, as the client sees them. The client sleeps between packets,
 * since it shares the CPUs with the lcores.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fw/base/clock.h"
#include "fw/compose.h"
#include "tests/lib/inproc.h"
#include "tests/lib/model_path.h"

#define N_MOST 8u
#define N_NEW  96u

static struct plx_inproc box;
static struct plx_inproc_gaps gaps;

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

/* Runs n at once; tokens a second from first submit to last end. */
static double run(struct plx_client *c, uint32_t n, const char *what)
{
	struct plx_inproc_ask a[N_MOST] = {0};
	uint32_t first_us[N_MOST], n_tokens = 0;
	uint64_t end = 0;

	gaps.n = 0;
	for (uint32_t i = 0; i < n; i++)
		a[i] = (struct plx_inproc_ask){.text = prompt[i], .max_new = N_NEW};
	if (plx_inproc_asks(&box, c, a, n, &gaps) != n)
		printf("many: not every request ended in DONE\n");
	for (uint32_t i = 0; i < n; i++) {
		n_tokens += a[i].n_tokens;
		first_us[i] = (uint32_t)((a[i].first_ns - a[i].submit_ns) / PLX_NS_PER_US);
		end = a[i].end_ns > end ? a[i].end_ns : end;
	}
	double rate = n_tokens * 1e9 / (double)(end - a[0].submit_ns);

	if (what == NULL)
		return rate;
	printf("many: %s: %.1f tokens/s in all\n", what, rate);
	printf("many: %s: time to first token: p50 %u us, longest %u us\n", what,
	       plx_inproc_quantile(first_us, n, 0.5), plx_inproc_quantile(first_us, n, 1));
	printf("many: %s: between tokens: p50 %u us, p99 %u us\n", what,
	       plx_inproc_quantile(gaps.us, gaps.n, 0.5),
	       plx_inproc_quantile(gaps.us, gaps.n, 0.99));
	return rate;
}

int main(void)
{
	struct plx_inproc_conf conf = {.board = sysconf(_SC_NPROCESSORS_ONLN) > 1
	                                            ? "board/devbox/board.yml"
	                                            : "board/onecore/board.yml",
	                               .model = plx_test_model(),
	                               .kind = PLX_PORT_AUTO,
	                               .backoff = true,
	                               .wait = true};

	if (conf.model == NULL) {
		printf("many: no model here ($PLX_TEST_MODEL); not run\n");
		return 0;
	}
	if (plx_inproc_open(&box, &conf) != 0)
		return 1;
	struct plx_client *c = plx_inproc_client(&box);

	if (c == NULL)
		return 1;
	printf("many: %u lcores, port %s on a veth pair, %u tokens each\n", box.app.n_lcores,
	       plx_port_kind_name(box.app.port[0].kind), N_NEW);
	(void)run(c, N_MOST, NULL);
	double one = run(c, 1, "one request");
	double many = run(c, N_MOST, "eight at once");

	printf("many: eight at once: %.2f times the tokens/s of one\n", many / one);
	plx_client_close(c);
	plx_inproc_close(&box);
	return 0;
}
