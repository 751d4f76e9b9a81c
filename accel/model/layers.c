/* A view of a model that lacks some layers; layers.h says what for. */
#include "accel/model/layers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/err.h"

static int bad_list(const char *skip, struct plx_diag *d)
{
	return plx_diag_set(d, PLX_E_FORMAT,
	                    "layers to leave out are \"%s\"; give numbers and ranges, as 8-15,20",
	                    skip);
}

/* A number at *at, which moves behind it; false: there is none. */
static bool number(const char **at, uint32_t *out)
{
	const char *p = *at;
	uint32_t v = 0;

	for (; *p >= '0' && *p <= '9' && v < 100000; p++)
		v = 10 * v + (uint32_t)(*p - '0');
	if (p == *at)
		return false;
	*at = p;
	*out = v;
	return true;
}

/* Which layers the list names. */
static int read_list(const char *skip, uint32_t n_layer, bool *out, struct plx_diag *d)
{
	for (const char *p = skip;; p++) {
		uint32_t from, to;

		if (!number(&p, &from))
			return bad_list(skip, d);
		to = from;
		if (*p == '-') {
			p++;
			if (!number(&p, &to))
				return bad_list(skip, d);
		}
		if (from > to || (*p != ',' && *p != '\0'))
			return bad_list(skip, d);
		if (to >= n_layer)
			return plx_diag_set(d, PLX_E_INVAL,
			                    "layer %u can't be left out: the model has layers 0 to "
			                    "%u",
			                    to, n_layer - 1);
		memset(out + from, 1, to - from + 1);
		if (*p == '\0')
			return PLX_E_OK;
	}
}

/* The layers that stay, in order; their number. */
static uint32_t keep(const struct plx_model *m, const bool *skip, struct plx_layer *out)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < m->n_layer; i++)
		if (!skip[i])
			out[n++] = m->layer[i];
	return n;
}

int plx_model_without(const struct plx_model *m, const char *skip, struct plx_model **out,
                      struct plx_diag *d)
{
	bool gone[PLX_MODEL_MAX_LAYER] = {false};
	int err = read_list(skip, m->n_layer, gone, d);

	*out = NULL;
	if (err != 0)
		return err;
	struct plx_model *v = malloc(sizeof(*v));
	struct plx_layer *layer = calloc(m->n_layer, sizeof(*layer));

	if (v == NULL || layer == NULL) {
		free(v);
		free(layer);
		return plx_diag_set(d, PLX_E_NOMEM, "out of memory");
	}
	*v = *m;
	v->of = m;
	v->layer = layer;
	v->n_layer = keep(m, gone, layer);
	snprintf(v->name, sizeof(v->name), "%.30s without %.20s", m->name, skip);
	if (v->n_layer == 0) {
		plx_model_close(v);
		return plx_diag_set(d, PLX_E_INVAL,
		                    "layers to leave out are all of the model's; leave some");
	}
	*out = v;
	return PLX_E_OK;
}
