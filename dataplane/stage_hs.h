/*
 * stage_hs: the slow part of handshakes. It takes a HELLO that stage_io has checked (MAC, cookie),
 * does the Diffie-Hellman, one a turn, and gives back keys and the HELLO_ACK to send.
 */
#ifndef PLX_DATAPLANE_STAGE_HS_H
#define PLX_DATAPLANE_STAGE_HS_H

#include "dataplane/rand.h"
#include "dataplane/stage_io.h"

struct plx_stage_hs {
	struct plx_io_shared *sh;
	struct plx_page *page;
	struct plx_rand rand;
	uint32_t keys_reader;
	uint32_t keys_gen;
};

/*
 * plx_stage_hs_open - the one stage of its kind.
 * Thread: at start.  Errors: LIMIT (readers of the key table).
 */
int plx_stage_hs_open(struct plx_stage_hs *hs, struct plx_io_shared *sh, struct plx_page *page,
                      struct plx_diag *d);

/* plx_stage_hs_poll - a plx_stage_poll: at most one key exchange, about 60 us. */
uint32_t plx_stage_hs_poll(void *hs, uint64_t now_ns);

#endif
