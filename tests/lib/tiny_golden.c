/* Reads golden logits and holds the reference pass against them. */
#include "tests/lib/tiny_golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "fw/base/check.h"
#include "tests/lib/ref.h"

void plx_t_golden_read(struct plx_t_golden *g, const char *path)
{
	FILE *f = fopen(path, "r");

	PLX_CHECK(f != NULL);
	PLX_CHECK(fscanf(f, "%u %u", &g->n_tok, &g->n_vocab) == 2);
	PLX_CHECK(g->n_tok >= 1 && g->n_tok <= PLX_T_GOLDEN_TOK);
	for (uint32_t i = 0; i < g->n_tok; i++)
		PLX_CHECK(fscanf(f, "%d", &g->id[i]) == 1);
	size_t n = (size_t)g->n_tok * g->n_vocab;

	g->logits = calloc(n, sizeof(double));
	PLX_CHECK(g->logits != NULL);
	for (size_t i = 0; i < n; i++)
		PLX_CHECK(fscanf(f, "%lf", &g->logits[i]) == 1);
	fclose(f);
}

void plx_t_golden_free(struct plx_t_golden *g)
{
	free(g->logits);
	g->logits = NULL;
}

double plx_t_golden_ref_error(const struct plx_t_golden *g, const struct plx_model *m)
{
	size_t n = (size_t)g->n_tok * g->n_vocab;
	double *got = calloc(n, sizeof(double)), worst = 0;
	struct plx_ref *r = plx_ref_open(m, PLX_T_GOLDEN_TOK);

	PLX_CHECK(got != NULL && m->n_vocab == g->n_vocab);
	/* Two calls, so that the cache is tested as well. */
	plx_ref_run(r, g->id, 7, 7, got);
	plx_ref_run(r, g->id + 7, g->n_tok - 7, g->n_tok - 7, got + (size_t)7 * g->n_vocab);
	for (size_t j = 0; j < n; j++)
		worst = fmax(worst, fabs(got[j] - g->logits[j]));
	plx_ref_close(r);
	free(got);
	return worst;
}
