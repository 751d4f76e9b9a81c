/*
 * stage_io: the stage between a port's queue and the rest. It owns the sessions that began on its
 * queue: opens and checks packets in place, puts requests together and hands them to tok, keeps
 * answers until the client has them, and runs every timer of the protocol.
 *
 * How main composes it (n_io stages over one or more ports):
 *
 *   plx_eal_start(cfg); plx_port_open(&port[i], cfg, i) for each port; plx_links_open(...);
 *   plx_keys_open(&keys, cfg->keys_path or NULL when insecure);
 *   plx_io_shared_open(&shared, &arena, &conf);
 *   for each io stage: plx_stage_io_open(&io[k], &shared, &port[p], queue, k, page, &diag);
 *   plx_stage_hs_open(&hs, &shared, page, &diag);
 *   plx_lcore_add(lcore, plx_stage_io_poll, io[k], page); plx_lcore_add(..., plx_stage_hs_poll,
 * &hs)
 *
 * At the end, after the lcores have stopped: plx_stage_io_farewell (CLOSE to every client), then
 * plx_stage_io_close, plx_port_close, plx_keys_close.
 *
 * Several stages: a session's id names its owner; a packet that arrives elsewhere is pushed to it
 * unopened. Only stages of one port can own each other's packets.
 */
#ifndef PLX_DATAPLANE_STAGE_IO_H
#define PLX_DATAPLANE_STAGE_IO_H

#include "dataplane/keytab.h"
#include "dataplane/port.h"
#include "dataplane/request.h"
#include "dataplane/stage.h"
#include "dataplane/wire/handshake.h"

/* What all io stages and stage_hs are told. Everything pointed to outlives them. */
struct plx_io_conf {
	const struct plx_config *cfg;
	struct plx_links *links;
	struct plx_keys *keys;
	uint32_t n_io;
	uint16_t max_datagram; /* least of the ports' */
	uint64_t features;     /* enum plx_wire_feature: what really runs */
	uint32_t numeric_kind; /* for DONE: names the arithmetic */
	uint32_t models_bytes; /* 0: no table is sent */
	const uint8_t *models; /* the MODELS message, made by plx_models_end */
};

/* A checked HELLO for stage_hs. */
struct plx_hs_ask {
	struct plx_hs_job job;
	uint32_t session_id;
	uint32_t io_idx;
};

/* What stage_hs made of it. */
struct plx_hs_tell {
	struct plx_hs_keys keys;
	struct plx_wire_limits limits;
	uint64_t credit_packets;
	uint32_t session_id;
	uint32_t peer_id;
	int32_t err;
	uint32_t ack_bytes;
	uint8_t ack[PLX_HELLO_ACK_MAX];
};

typedef struct rte_mbuf *plx_mbuf_ptr;
PLX_RING_DEFINE(hs_ask, struct plx_hs_ask)
PLX_RING_DEFINE(hs_tell, struct plx_hs_tell)
PLX_RING_DEFINE(mbuf, plx_mbuf_ptr)

/* Shared by the io stages and stage_hs. */
struct plx_io_shared {
	struct plx_io_conf conf;
	struct plx_wire_limits limits; /* the appliance's; a key may have less */
	struct plx_hs_secrets secrets;
	const struct plx_port *port_of[PLX_MAX_IO];
	struct plx_ring_hs_ask hs_ask;
	struct plx_ring_hs_tell hs_tell[PLX_MAX_IO];
	struct plx_ring_mbuf foreign[PLX_MAX_IO];
};

/* plx_io_shared_bytes - what plx_io_shared_open takes from its arena. */
size_t plx_io_shared_bytes(const struct plx_config *cfg, uint32_t n_io);

/*
 * plx_io_shared_open - rings and secrets. The key of stateless resets is derived from the key
 * table, so that it outlives a restart; the cookies' key is random.
 *
 * Thread: main, at start.  Errors: NOMEM, LIMIT.
 */
int plx_io_shared_open(struct plx_io_shared *sh, struct plx_arena *a,
                       const struct plx_io_conf *conf, struct plx_diag *d);

/* plx_io_limits - the limits of a session of this key: the smaller of appliance's and key's. */
struct plx_wire_limits plx_io_limits(const struct plx_io_shared *sh, const struct plx_key *key);

/* plx_io_credit_packets - packets of requests a session may have outstanding: one request of the
 * largest size beside max_in_flight small ones. */
static inline uint64_t plx_io_credit_packets(const struct plx_wire_limits *lim)
{
	return (uint64_t)lim->max_request_bytes / (PLX_DGRAM_MIN_BYTES - PLX_SEAL_BYTES) + 1 +
	       lim->max_in_flight;
}

struct plx_stage_io;

/* plx_stage_io_bytes - what plx_stage_io_open maps for one stage. */
size_t plx_stage_io_bytes(const struct plx_config *cfg);

/*
 * plx_stage_io_open - a stage on queue `queue` of `port`, number io_idx (0..n_io-1).
 *
 * It maps its own memory: about n_sessions * (10 KiB + n_session_requests * 1.3 KiB) +
 * n_requests * unacked_tokens * 128 bytes + reasm_bytes.
 *
 * Thread: main, at start.  Errors: NOMEM, LIMIT, and plx_crypt_open's.
 */
int plx_stage_io_open(struct plx_stage_io **out, struct plx_io_shared *sh,
                      const struct plx_port *port, uint16_t queue, uint32_t io_idx,
                      struct plx_page *page, struct plx_diag *d);

/*
 * plx_stage_io_poll - a plx_stage_poll: at most 32 packets in, 32 from other stages, 64 events,
 * 32 timers. Returns how many of those there were.
 */
uint32_t plx_stage_io_poll(void *io, uint64_t now_ns);

/* plx_stage_io_farewell - CLOSE (shutdown) to every client. Thread: main, the lcore has stopped. */
void plx_stage_io_farewell(struct plx_stage_io *io, uint64_t now_ns);

void plx_stage_io_close(struct plx_stage_io *io);

/* plx_stage_io_sessions - sessions in use. Thread: any; may be of a moment ago. */
uint32_t plx_stage_io_sessions(const struct plx_stage_io *io);

#endif
