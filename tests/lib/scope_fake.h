/* A polluxd's shared file made by a test: six stages with figures that tests know. */
#ifndef PLX_TESTS_LIB_SCOPE_FAKE_H
#define PLX_TESTS_LIB_SCOPE_FAKE_H

#include "fw/base/share.h"

/* Places of the stages' pages; lcore 0, but the worker's 1. */
enum { FAKE_IO, FAKE_HS, FAKE_TOK, FAKE_BATCH, FAKE_ACCEL, FAKE_WORKER, FAKE_PAGES };

/*
 * plx_fake_share - make the file at path, serving, with 1,024 events a ring: 3 requests done, 1
 * rejected, first tokens after 20 ms, 100 gaps of 8 ms and one of 80 ms. Returns 0.
 */
int plx_fake_share(struct plx_share *s, const char *path);

/*
 * plx_fake_request - the events of a request that went well, from begin_ns on: whole at once,
 * encoded after 1 ms, at batch 50 us later, one step of 10 ms for its first token and n_tok - 1
 * steps of 8 ms for the others, each token sent 200 us after its step's end.
 */
void plx_fake_request(struct plx_share *s, uint32_t session, uint64_t req_id, uint32_t n_tok,
                      uint64_t begin_ns);

#endif
