/*
 * A client, a bad network and an appliance in a box, on one simulated clock: what the client's unit
 * tests are made of. Nothing waits; time jumps to whatever is due next.
 */
#ifndef PLX_TESTS_LIB_CLIENT_RIG_H
#define PLX_TESTS_LIB_CLIENT_RIG_H

#include "tests/lib/impair.h"
#include "tests/lib/wire_peer.h"
#include "tools/client/core.h"

#define PLX_RIG_LOG 256

/* What a request's events came to. */
struct plx_crig_log {
	uint64_t req;
	uint32_t n_finals, n_accepts, n_tokens_events, n_restarts;
	uint32_t n_ids[PLX_CLIENT_SAMPLES_MAX];
	bool bad_order; /* ids that were not the next of their sample */
	struct plx_client_event final;
	char text[4096]; /* of sample 0 */
	char why[256];   /* FAILED: its reason; REJECT: its detail */
};

struct plx_crig {
	uint64_t now_ns;
	struct plx_client *client;
	struct plx_peer *peer;
	struct plx_impair *net;
	struct plx_wire_addr client_addr;
	bool cut;     /* nothing passes */
	bool reading; /* events are taken as they come; true at first */
	uint64_t rng;
	uint32_t n_log;
	struct plx_crig_log log[PLX_RIG_LOG];
	uint32_t n_open, n_lost, n_closed, n_drain, n_pong, n_models;
	uint64_t last_rtt_ns;
	char why[256]; /* LOST or CLOSED */
};

/* plx_crig_open - all three; net NULL: a perfect one. The handshake has not run yet. */
struct plx_crig *plx_crig_open(const struct plx_client_config *cc, const struct plx_peer_cfg *pc,
                               const struct plx_impair_cfg *net);
void plx_crig_close(struct plx_crig *r);

/* plx_crig_run - let ns pass, or less where done(r, arg) becomes true; returns whether it did. */
bool plx_crig_run(struct plx_crig *r, uint64_t ns, bool (*done)(struct plx_crig *, void *),
                  void *arg);

/* plx_crig_submit - text prompt, max_new ids; returns its log. */
struct plx_crig_log *plx_crig_submit(struct plx_crig *r, const char *text, uint32_t max_new,
                                     enum plx_client_resubmit resubmit);
/* plx_crig_log_of - the log of a request, a new one when there is none. */
struct plx_crig_log *plx_crig_log_of(struct plx_crig *r, uint64_t req);
/* plx_crig_take_events - hand every waiting event to the logs. */
void plx_crig_take_events(struct plx_crig *r);

/* What most tests begin with: a client and an appliance of one key, and both over a perfect net. */
struct plx_client_config plx_crig_client_cfg(void);
struct plx_peer_cfg plx_crig_peer_cfg(void);
struct plx_crig *plx_crig_plain(void);

/* For plx_crig_run: every request has ended; a session opened, or closed; log[0] has *arg ids. */
bool plx_crig_all_final(struct plx_crig *r, void *arg);
bool plx_crig_is_open(struct plx_crig *r, void *arg);
bool plx_crig_is_closed(struct plx_crig *r, void *arg);
bool plx_crig_has_ids(struct plx_crig *r, void *arg);

#endif
