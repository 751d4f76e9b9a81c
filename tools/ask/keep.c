/* Texts looked for in the prompt, one place behind the other. */
#include "tools/ask/keep.h"

#include <stdio.h>
#include <string.h>

/* Where the text stands in one message; returns how often, those without room too. */
static uint32_t find(const char *in, size_t n, const char *text, uint32_t message,
                     struct plx_client_request *q, struct plx_client_keep *keep)
{
	size_t len = strlen(text);
	const char *at = in;
	uint32_t found = 0;

	while (n && (at = memmem(at, n - (size_t)(at - in), text, len)) != NULL) {
		uint32_t first = (uint32_t)(at - in);

		if (q->n_keeps < PLX_ASK_SPANS_MAX)
			keep[q->n_keeps++] = (struct plx_client_keep){
			    .message = message, .first = first, .end = first + (uint32_t)len};
		at += len;
		found++;
	}
	return found;
}

void plx_ask_keeps(const struct plx_ask_options *o, struct plx_client_request *q,
                   struct plx_client_keep *keep)
{
	uint32_t all = 0;

	q->keeps = keep;
	q->n_keeps = 0;
	for (uint32_t i = 0; i < o->n_keep; i++) {
		uint32_t n = q->text ? find(q->text, q->text_bytes, o->keep[i], 0, q, keep) : 0;

		for (uint32_t k = 0; k < q->n_messages; k++)
			n += find(q->messages[k].text, q->messages[k].n_bytes, o->keep[i], k, q,
			          keep);
		if (n == 0)
			fprintf(stderr, "plx-ask: --keep \"%.40s\" stands nowhere in the prompt\n",
			        o->keep[i]);
		all += n;
	}
	if (all > q->n_keeps)
		fprintf(stderr, "plx-ask: --keep: of %u places the first %u are kept\n", all,
		        q->n_keeps);
}
