/*
 * An answer as it comes: printed at once where it is one text, kept for JSON, for several samples
 * and for a conversation; and the figures at its end.
 */
#ifndef PLX_TOOLS_ASK_ANSWER_H
#define PLX_TOOLS_ASK_ANSWER_H

#include <stdio.h>

#include "tools/ask/options.h"

struct plx_ask_token {
	uint32_t id;
	float logprob;
	uint8_t n_top;
	struct plx_client_top top[20];
};

struct plx_ask_sample {
	char *text;
	size_t n_text, text_cap;
	struct plx_ask_token *token;
	size_t n_tokens, token_cap;
	enum plx_client_finish finish;
	float mean;    /* log-probability of its tokens, with --best-of */
	uint32_t left; /* tokens that the last one was made without */
};

struct plx_ask_answer {
	const struct plx_ask_options *o;
	bool to_terminal; /* standard output: control characters are made harmless */
	uint64_t begin_ns, first_ns, last_ns;
	struct plx_ask_sample sample[PLX_CLIENT_SAMPLES_MAX];
	struct plx_client_done done; /* samples pointer not kept */
	bool streamed;               /* something was printed already */
};

void plx_ask_answer_init(struct plx_ask_answer *a, const struct plx_ask_options *o);
void plx_ask_answer_free(struct plx_ask_answer *a);

/* plx_ask_answer_event - take an event of the request; false when memory ran out. */
bool plx_ask_answer_event(struct plx_ask_answer *a, const struct plx_client_event *ev);

/* plx_ask_answer_print - what was not printed while it came: samples, log-probabilities, JSON. */
void plx_ask_answer_print(const struct plx_ask_answer *a);

/* plx_ask_answer_figures - time to first token, rates, and where the time went; standard error. */
void plx_ask_answer_figures(const struct plx_ask_answer *a);

/* plx_ask_explain - a REJECT in words, with what to do. */
void plx_ask_explain(const struct plx_client_reject *r);

#endif
