/*
 * The events of a snapshot put together: what became of each request, and when each token was
 * where. Tables are made once for a snapshot; a request or token whose events were overwritten is
 * there with zeros for what is not known.
 */
#ifndef PLX_TOOLS_SCOPE_TOKENS_H
#define PLX_TOOLS_SCOPE_TOKENS_H

#include "tools/scope/snap.h"

struct plx_request_times {
	uint32_t session;
	uint64_t req_id;
	uint64_t rx_ns, whole_ns;       /* first, last fragment */
	uint64_t encode_ns, encoded_ns; /* tok began, was done */
	uint64_t taken_ns;              /* batch */
	uint64_t said_ns;               /* what ACCEPT expected to the first token; a duration */
	uint64_t end_ns;                /* batch's last word, or io's where batch has none */
	uint32_t n_prompt, n_cached;
	uint32_t end; /* enum plx_final_kind as the dataplane has it; 0: runs */
	uint32_t code;
	uint32_t n_tokens;                    /* of sample 0, seen */
	uint64_t first_ns, last_ns, worst_ns; /* tokens on the device; longest gap between two */
	uint32_t worst;                       /* token that ended it */
};

struct plx_token_times {
	uint32_t session;
	uint64_t req_id;
	uint32_t index;
	uint16_t sample;
	uint64_t device_ns;          /* its step's end: its name among steps */
	uint64_t given_ns, start_ns; /* its step: given to the device, begun */
	uint32_t step_tokens;
	uint64_t batch_ns, text_ns, io_ns, sent_ns;
	uint32_t batch_page, tok_page, io_page, accel_page;
	uint64_t before_ns; /* the token before was done; the first one's: batch took the request */
};

struct plx_tokens {
	uint32_t n_req, n_tok;
	struct plx_request_times *req; /* in order of their first event */
	struct plx_token_times *tok;   /* in order of their first event */
	uint32_t *slot;                /* hash of both */
	uint32_t mask;
};

/* plx_tokens_make - from a snapshot with sorted events. Errors: NOMEM. */
int plx_tokens_make(struct plx_tokens *t, const struct plx_snap *s);
void plx_tokens_free(struct plx_tokens *t);

/* plx_tokens_request, _token - by name; NULL: nothing is known. */
const struct plx_request_times *plx_tokens_request(const struct plx_tokens *t, uint32_t session,
                                                   uint64_t req_id);
const struct plx_token_times *plx_tokens_token(const struct plx_tokens *t, uint32_t session,
                                               uint64_t req_id, uint16_t sample, uint32_t index);

#endif
