/* Formats by tensor; rules.h says which. */
#include "tools/gguf/rules.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "fw/base/err.h"

int plx_rules_type(const char *name, enum plx_qtype *type, struct plx_diag *d)
{
	for (uint32_t i = 0; i < PLX_QTYPE_COUNT; i++)
		if (strcasecmp(plx_qtype_name(plx_qtype_at(i)), name) == 0) {
			*type = plx_qtype_at(i);
			return 0;
		}
	return plx_diag_set(d, PLX_E_INVAL,
	                    "\"%s\" is no format; give one of F32, F16, BF16, Q4_0, Q4_1, Q5_0, "
	                    "Q5_1, Q8_0, Q4_K, Q5_K, Q6_K",
	                    name);
}

int plx_rules_add(struct plx_rules *r, const char *text, struct plx_diag *d)
{
	const char *eq = strrchr(text, '=');
	size_t n = eq ? (size_t)(eq - text) : 0;

	if (n == 0 || n >= sizeof r->rule[0].pattern)
		return plx_diag_set(d, PLX_E_INVAL,
		                    "--tensor \"%s\" is not PATTERN=TYPE, such as "
		                    "'blk.*.ffn_down.weight=Q6_K'",
		                    text);
	if (r->n == PLX_RULES_MAX)
		return plx_diag_set(d, PLX_E_LIMIT, "more than %u times --tensor", PLX_RULES_MAX);
	memcpy(r->rule[r->n].pattern, text, n);
	r->rule[r->n].pattern[n] = '\0';
	int err = plx_rules_type(eq + 1, &r->rule[r->n].type, d);

	r->n += !err;
	return err;
}

enum plx_qtype plx_rules_default(enum plx_qtype main, uint64_t n_cols, bool head)
{
	bool block = plx_qtype_block_elems(main) > 1;
	enum plx_qtype want = head && block && main != PLX_Q_Q8_0 ? PLX_Q_Q6_K : main;

	if (n_cols % plx_qtype_block_elems(want) == 0)
		return want;
	if (n_cols % 32)
		return PLX_Q_F16;
	return want == PLX_Q_Q4_K ? PLX_Q_Q5_0 : want == PLX_Q_Q5_K ? PLX_Q_Q5_1 : PLX_Q_Q8_0;
}

static bool ends(const char *name, const char *tail)
{
	size_t n = strlen(name), k = strlen(tail);

	return n >= k && strcmp(name + n - k, tail) == 0;
}

int plx_rules_for(const struct plx_rules *r, const char *name, uint32_t n_dims, uint64_t n_cols,
                  bool head, enum plx_qtype *type, struct plx_diag *d)
{
	uint32_t i = 0;

	while (i < r->n && fnmatch(r->rule[i].pattern, name, 0) != 0)
		i++;
	if (i == r->n) {
		bool exact = n_dims < 2 || ends(name, ".ffn_gate_inp.weight");

		*type = exact ? PLX_Q_F32 : plx_rules_default(r->main, n_cols, head);
		return 0;
	}
	*type = r->rule[i].type;
	if (n_dims < 2 && plx_qtype_block_elems(*type) > 1)
		return plx_diag_set(d, PLX_E_INVAL,
		                    "--tensor %s=%s: '%s' is a vector, which can't be quantised; "
		                    "give F32, F16 or BF16",
		                    r->rule[i].pattern, plx_qtype_name(*type), name);
	if (n_cols % plx_qtype_block_elems(*type))
		return plx_diag_set(d, PLX_E_INVAL,
		                    "--tensor %s=%s: rows of '%s' have %llu elements, no multiple "
		                    "of %u; give a format with smaller blocks",
		                    r->rule[i].pattern, plx_qtype_name(*type), name,
		                    (unsigned long long)n_cols, plx_qtype_block_elems(*type));
	return 0;
}

/* Source: the file types that llama.cpp lists; the K formats in their plain ("S") mixes. */
uint32_t plx_rules_file_type(enum plx_qtype type)
{
	static const uint32_t number[] = {
	    [PLX_Q_F32] = 0,   [PLX_Q_F16] = 1,   [PLX_Q_Q4_0] = 2,  [PLX_Q_Q4_1] = 3,
	    [PLX_Q_Q5_0] = 8,  [PLX_Q_Q5_1] = 9,  [PLX_Q_Q8_0] = 7,  [PLX_Q_Q4_K] = 14,
	    [PLX_Q_Q5_K] = 16, [PLX_Q_Q6_K] = 18, [PLX_Q_BF16] = 32,
	};

	return number[type];
}
