/*
 * Fuzz target: any JSON as a model folder's files. The input is config.json, tokenizer.json,
 * tokenizer_config.json and generation_config.json, zero bytes between them. What is accepted is
 * written as metadata and read back by the product's own readers.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "accel/model/tokenizer.h"
#include "fw/base/err.h"
#include "tools/model/hf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_VOCAB 4096u /* a larger one says nothing new and takes its time */

/* The next file; NULL where it is no JSON object. */
static json_t *next_file(const uint8_t **at, const uint8_t *end)
{
	size_t n = strnlen((const char *)*at, (size_t)(end - *at));
	json_t *j = json_loadb((const char *)*at, n, JSON_REJECT_DUPLICATES, NULL);

	*at += n + (*at + n < end);
	if (j && !json_is_object(j)) {
		json_decref(j);
		return NULL;
	}
	return j;
}

/* The metadata is a GGUF file without tensors; its tokenizer opens or is refused with a reason. */
static void read_back(struct plx_gw *w, struct plx_diag *d)
{
	struct plx_gguf *g;
	struct plx_tok *t;

	if (plx_gw_finish(w, d))
		return;
	if (plx_gguf_open_mem(w->head.p, w->head.n, &g, d))
		abort(); /* the writer made what the reader refuses */
	if (plx_tok_open(&t, g, d) == 0)
		plx_tok_free(t);
	else if (d->text[0] == '\0')
		abort();
	plx_gguf_close(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *end = data + size;
	struct plx_hf h = {0};
	struct plx_diag d = {0};
	struct plx_gw w = {0};

	h.config = next_file(&data, end);
	h.tokenizer = next_file(&data, end);
	h.tok_config = next_file(&data, end);
	h.generation = next_file(&data, end);
	int err = plx_hf_conf_read(&h, &d);

	if (!err && h.n_vocab > MAX_VOCAB)
		err = plx_diag_set(&d, PLX_E_LIMIT, "too large to try");
	if (!err)
		err = plx_hf_conf_put(&h, &w, &d);
	if (!err)
		err = plx_hf_tok_put(&h, &w, NULL, &d);
	if (!err)
		read_back(&w, &d);
	else if (d.text[0] == '\0')
		abort(); /* every refusal says why */
	plx_gw_free(&w);
	plx_hf_close(&h);
	return 0;
}
