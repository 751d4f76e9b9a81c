/* Golden logits against the CPU device, a token a step. */
#include <math.h>

#include "fw/base/check.h"
#include "tests/lib/devkit.h"
#include "tests/lib/tiny_golden.h"

double plx_t_golden_dev_error(const struct plx_t_golden *g, const char *path, const char *isa)
{
	struct plx_dev_limits lim = devkit_limits();
	struct plx_sampler greedy = devkit_greedy();
	struct devkit k;
	double worst = 0;

	devkit_open(&k, path, isa, &lim);
	for (uint32_t t = 0; t < g->n_tok; t++) {
		struct plx_step *s = devkit_step(&k, 0);

		if (t == 0) {
			devkit_set(s, 5, &greedy);
			devkit_blocks(s, 5, 0, 2, 40);
		}
		devkit_seq(s, 5, &g->id[t], t, 1, true);
		PLX_CHECK(plx_queue_submit(k.q, 0) == 0);
		(void)devkit_wait(&k);
		PLX_CHECK(plx_step_outs(s)[0].status == 0);
		for (uint32_t i = 0; i < g->n_vocab; i++)
			worst = fmax(worst, fabs((double)devkit_logits(&k, 0)[i] -
			                         g->logits[(size_t)t * g->n_vocab + i]));
	}
	devkit_close(&k);
	return worst;
}
