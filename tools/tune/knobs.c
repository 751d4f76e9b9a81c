/* The table of knobs, and points as text. */
#include "tools/tune/knobs.h"

#include <stddef.h>
#include <string.h>

#include <xxhash.h>

#include "accel/accel.h"
#include "fw/base/err.h"

#define FIELD(f) offsetof(struct plx_tune_setup, f)
#define N(x)                                                                                       \
	{                                                                                          \
#x, x                                                                              \
	}

const struct plx_tune_knob plx_tune_knobs[PLX_TUNE_KNOBS] = {
    {"weights",
     "model",
     FIELD(weights),
     PLX_KNOB_ACCURACY,
     0,
     7,
     {{"given", 0}, {"q8_0", 1}, {"q6_k", 2}, {"q5_k", 3}, {"q4_k", 4}, {"q4_1", 5}, {"q4_0", 6}},
     "weight format; given: the file as it is"},
    {"kv",
     "kv_type",
     FIELD(kv_type),
     PLX_KNOB_ACCURACY,
     0,
     3,
     {{"f16", PLX_KV_F16}, {"q8", PLX_KV_Q8}, {"q4", PLX_KV_Q4}},
     "how K and V are kept"},
    {"mass",
     "limits.sparse_mass",
     FIELD(sparse_mass),
     PLX_KNOB_ACCURACY | PLX_KNOB_ORDERED,
     0,
     4,
     {N(0), N(990), N(950), N(900)},
     "thousandths of the attention read in long contexts; 0: all"},
    {"chunks",
     "limits.sparse_chunks",
     FIELD(sparse_chunks),
     PLX_KNOB_ACCURACY | PLX_KNOB_ORDERED,
     0,
     4,
     {N(0), N(64), N(32), N(16)},
     "chunks of 64 positions read there for their keys' bounds"},
    {"drafts",
     "limits.draft_tokens",
     FIELD(draft_tokens),
     PLX_KNOB_ORDERED,
     3,
     4,
     {N(0), N(256), N(1024), N(8192)},
     "ids of a sequence that drafts are looked up in; 0: none"},
    {"step",
     "limits.step_tokens",
     FIELD(step_tokens),
     PLX_KNOB_ORDERED,
     3,
     5,
     {N(32), N(64), N(128), N(256), N(512)},
     "tokens in one step"},
    {"seqs",
     "limits.step_seqs",
     FIELD(step_seqs),
     PLX_KNOB_ORDERED,
     4,
     5,
     {N(1), N(2), N(4), N(8), N(32)},
     "sequences in one step"},
    {"flight",
     "limits.steps_in_flight",
     FIELD(steps_in_flight),
     PLX_KNOB_ORDERED,
     0,
     3,
     {N(2), N(3), N(4)},
     "steps handed to the device before the first is done"},
    {"block",
     "limits.block_tokens",
     FIELD(block_tokens),
     PLX_KNOB_ORDERED,
     1,
     3,
     {N(16), N(32), N(64)},
     "tokens in a KV block"},
    {"slice",
     "timers.slice_us",
     FIELD(slice_us),
     PLX_KNOB_ORDERED,
     1,
     4,
     {N(50), N(200), N(1000), N(5000)},
     "longest turn of a stage on its lcore, us"},
};

void plx_tune_space_all(struct plx_tune_space *s)
{
	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++) {
		s->n[k] = plx_tune_knobs[k].n;
		for (uint8_t i = 0; i < s->n[k]; i++)
			s->value[k][i] = i;
	}
}

int plx_tune_knob_find(const char *name, size_t n_bytes)
{
	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++)
		if (strlen(plx_tune_knobs[k].name) == n_bytes &&
		    memcmp(plx_tune_knobs[k].name, name, n_bytes) == 0)
			return (int)k;
	return -1;
}

static int find_value(const struct plx_tune_knob *k, const char *text, size_t n_bytes)
{
	for (uint32_t i = 0; i < k->n; i++)
		if (strlen(k->value[i].text) == n_bytes &&
		    memcmp(k->value[i].text, text, n_bytes) == 0)
			return (int)i;
	return -1;
}

static void list_knobs(char *buf, size_t bytes)
{
	size_t len = 0;

	for (uint32_t k = 0; k < PLX_TUNE_KNOBS && len < bytes; k++)
		len += (size_t)snprintf(buf + len, bytes - len, "%s%s", k ? " " : "",
		                        plx_tune_knobs[k].name);
}

static void list_values(const struct plx_tune_knob *k, char *buf, size_t bytes)
{
	size_t len = 0;

	for (uint32_t i = 0; i < k->n && len < bytes; i++)
		len += (size_t)snprintf(buf + len, bytes - len, "%s%s", i ? " " : "",
		                        k->value[i].text);
}

/* Bytes of text before any of the ends, at most n. */
static size_t span(const char *text, size_t n, const char *ends)
{
	size_t i = 0;

	while (i < n && !strchr(ends, text[i]))
		i++;
	return i;
}

/* "NAME=" at the start of text: the knob, and how long that was. */
static int take_name(const char *text, size_t n_bytes, size_t *used, struct plx_diag *d)
{
	size_t len = span(text, n_bytes, "=,");
	int k = plx_tune_knob_find(text, len);
	char all[128];

	if (k >= 0 && len < n_bytes && text[len] == '=') {
		*used = len + 1;
		return k;
	}
	list_knobs(all, sizeof all);
	return plx_diag_set(d, PLX_E_INVAL, "\"%.*s\" is not KNOB=VALUE; the knobs are %s",
	                    (int)(n_bytes < 64 ? n_bytes : 64), text, all);
}

static int take_value(const struct plx_tune_knob *k, const char *text, size_t n_bytes,
                      struct plx_diag *d)
{
	int v = find_value(k, text, n_bytes);
	char all[128];

	if (v >= 0)
		return v;
	list_values(k, all, sizeof all);
	return plx_diag_set(d, PLX_E_INVAL, "%s has no value \"%.*s\"; give one of %s", k->name,
	                    (int)(n_bytes < 64 ? n_bytes : 64), text, all);
}

int plx_tune_space_limit(struct plx_tune_space *s, const char *text, struct plx_diag *d)
{
	size_t n = strlen(text), used = 0;
	int k = take_name(text, n, &used, d);
	uint8_t got[PLX_TUNE_VALUES];
	uint32_t n_got = 0;

	if (k < 0)
		return k;
	for (text += used, n -= used;;) {
		size_t len = span(text, n, ",");
		int v = take_value(&plx_tune_knobs[k], text, len, d);
		bool have = false;

		if (v < 0)
			return v;
		for (uint32_t i = 0; i < n_got; i++)
			have = have || got[i] == v;
		if (!have)
			got[n_got++] = (uint8_t)v;
		if (len == n)
			break;
		text += len + 1;
		n -= len + 1;
	}
	s->n[k] = n_got;
	memcpy(s->value[k], got, n_got);
	return 0;
}

void plx_tune_space_drop(struct plx_tune_space *s, uint32_t knob, uint32_t value)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < s->n[knob]; i++)
		n += s->value[knob][i] != value;
	if (n == 0 || n == s->n[knob])
		return;
	n = 0;
	for (uint32_t i = 0; i < s->n[knob]; i++)
		if (s->value[knob][i] != value)
			s->value[knob][n++] = s->value[knob][i];
	s->n[knob] = n;
}

uint64_t plx_tune_space_grid(const struct plx_tune_space *s)
{
	uint64_t n = 1;

	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++)
		n *= s->n[k];
	return n;
}

void plx_tune_point_usual(struct plx_tune_point *p)
{
	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++)
		p->v[k] = (uint8_t)plx_tune_knobs[k].usual;
}

int plx_tune_point_parse(struct plx_tune_point *p, const char *text, size_t n_bytes,
                         struct plx_diag *d)
{
	struct plx_tune_point out = *p;

	for (;;) {
		size_t used = 0;
		int k = take_name(text, n_bytes, &used, d);

		if (k < 0)
			return k;
		text += used;
		n_bytes -= used;
		size_t len = span(text, n_bytes, ",");
		int v = take_value(&plx_tune_knobs[k], text, len, d);

		if (v < 0)
			return v;
		out.v[k] = (uint8_t)v;
		if (len == n_bytes)
			break;
		text += len + 1;
		n_bytes -= len + 1;
	}
	*p = out;
	return 0;
}

static size_t add_knob(const struct plx_tune_point *p, uint32_t k, char *buf, size_t len, char sep)
{
	const struct plx_tune_knob *knob = &plx_tune_knobs[k];
	char sign[2] = {len ? sep : '\0', '\0'};

	return len + (size_t)snprintf(buf + len, PLX_TUNE_TEXT_BYTES - len, "%s%s=%s", sign,
	                              knob->name, knob->value[p->v[k]].text);
}

void plx_tune_point_print(const struct plx_tune_point *p, char buf[PLX_TUNE_TEXT_BYTES])
{
	size_t len = 0;

	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++)
		len = add_knob(p, k, buf, len, ',');
}

void plx_tune_point_short(const struct plx_tune_point *p, char buf[PLX_TUNE_TEXT_BYTES])
{
	size_t len = 0;

	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++)
		if (k == 0 || p->v[k] != plx_tune_knobs[k].usual)
			len = add_knob(p, k, buf, len, ' ');
}

void plx_tune_point_setup(const struct plx_tune_point *p, struct plx_tune_setup *out)
{
	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++)
		memcpy((char *)out + plx_tune_knobs[k].off, &plx_tune_knobs[k].value[p->v[k]].value,
		       sizeof(uint32_t));
}

struct plx_tune_point plx_tune_point_accuracy(const struct plx_tune_point *p)
{
	struct plx_tune_point out;

	plx_tune_point_usual(&out);
	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++)
		if (plx_tune_knobs[k].flags & PLX_KNOB_ACCURACY)
			out.v[k] = p->v[k];
	return out;
}

bool plx_tune_point_same(const struct plx_tune_point *a, const struct plx_tune_point *b)
{
	return memcmp(a->v, b->v, sizeof a->v) == 0;
}

uint64_t plx_tune_knobs_hash(void)
{
	uint64_t h = 0;

	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++) {
		const struct plx_tune_knob *n = &plx_tune_knobs[k];

		h = XXH3_64bits_withSeed(n->name, strlen(n->name) + 1, h);
		h = XXH3_64bits_withSeed(n->key, strlen(n->key) + 1, h);
		for (uint32_t i = 0; i < n->n; i++)
			h = XXH3_64bits_withSeed(n->value[i].text, strlen(n->value[i].text) + 1, h);
	}
	return h;
}

void plx_tune_knobs_help(FILE *f)
{
	char all[128];

	for (uint32_t k = 0; k < PLX_TUNE_KNOBS; k++) {
		list_values(&plx_tune_knobs[k], all, sizeof all);
		fprintf(f, "  %-8s %-38s %s\n", plx_tune_knobs[k].name, all,
		        plx_tune_knobs[k].help);
	}
}
