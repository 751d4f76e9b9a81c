/*
 * An io stage on a bench of memory: a port made of two rings, a key exchange beside it, and a
 * client that is nothing but the wire library, so that a test sees and can change every byte.
 *
 * The test plays tok: it pops requests from the links and pushes events. Time is the test's own.
 */
#ifndef PLX_TESTS_LIB_IORIG_H
#define PLX_TESTS_LIB_IORIG_H

#include "dataplane/stage_hs.h"
#include "dataplane/stage_io.h"
#include "dataplane/wire/conn.h"
#include "dataplane/wire/credit.h"
#include "dataplane/wire/reasm.h"

#define PLX_RIG_MAX_IO 2
#define PLX_RIG_QUEUE  4096

struct plx_rig {
	struct plx_config cfg;
	struct plx_arena arena;
	struct plx_links links;
	struct plx_keys keys;
	struct plx_io_shared shared;
	struct plx_port port;
	struct plx_stage_io *io[PLX_RIG_MAX_IO];
	struct plx_stage_hs hs;
	struct plx_page io_page[PLX_RIG_MAX_IO], hs_page;
	struct rte_ring *to_io[PLX_RIG_MAX_IO], *from_io[PLX_RIG_MAX_IO];
	uint32_t n_io;
	uint32_t n_fresh; /* events that tok has used at least once */
	uint64_t now_ns;
	const char *key_file;
};

/* plx_rig_eal - start EAL once, quietly, without huge pages. */
int plx_rig_eal(void);
/* plx_rig_config - small limits that fit a test. */
struct plx_config plx_rig_config(void);
/*
 * plx_rig_open - everything, with n_io stages (queues). key_file NULL: insecure. The port is made
 * of rings, unless cfg->port[0] names an interface. plx_rig_close - everything gone.
 */
int plx_rig_open(struct plx_rig *r, const struct plx_config *cfg, uint32_t n_io,
                 const char *key_file);
void plx_rig_close(struct plx_rig *r);
/* plx_rig_turn - move time on and give every stage a turn. */
void plx_rig_turn(struct plx_rig *r, uint64_t step_ns);
static inline uint64_t plx_rig_count(const struct plx_rig *r, uint32_t io, enum plx_metric m)
{
	return plx_counter_read(&r->io_page[io], m);
}

/* A client of one session. */
struct plx_rig_client {
	struct plx_rig *rig;
	struct plx_net_if net; /* our address and port */
	struct plx_net_peer server;
	uint32_t queue; /* the io queue its packets land on */
	struct plx_psk key;
	struct plx_crypt crypt;
	struct plx_hs_client hs;
	struct plx_hello_ack ack;
	struct plx_wire_conn conn;
	uint64_t next_req;
	uint32_t n_hello_acks;
};

void plx_rig_client_init(struct plx_rig_client *c, struct plx_rig *r, uint64_t key_id,
                         const uint8_t psk[32], uint16_t udp_port);
/* plx_rig_client_end - free its cipher. */
void plx_rig_client_end(struct plx_rig_client *c);
/* plx_rig_put - a datagram from the client's address to the appliance. */
void plx_rig_put(struct plx_rig_client *c, const uint8_t *pkt, uint32_t bytes);
/* plx_rig_get - the next datagram for the client out of its queue: bytes, or 0. */
uint32_t plx_rig_get(struct plx_rig_client *c, uint8_t *pkt, uint32_t cap);
/* plx_rig_connect - the whole handshake and a PING; 0 when the session stands. */
int plx_rig_connect(struct plx_rig_client *c);
/* plx_rig_send - seal and put a message of one packet; returns its packet number. */
uint64_t plx_rig_send(struct plx_rig_client *c, struct plx_hdr *h, const void *payload,
                      uint32_t bytes);
/* plx_rig_say - the same, for the common case. */
void plx_rig_say(struct plx_rig_client *c, uint8_t type, uint64_t req_id, const void *payload,
                 uint32_t bytes);
/*
 * plx_rig_hear - the next sealed packet for the client, opened: 1, h and payload (at least 1,500
 * bytes of room) filled; 0 when there is none. Packets that are no sealed ones are skipped.
 */
int plx_rig_hear(struct plx_rig_client *c, struct plx_hdr *h, uint8_t *payload);
/* plx_rig_expect - turns until a message of this type comes; 1, or 0 after 100 turns of 100 us. */
int plx_rig_expect(struct plx_rig_client *c, uint8_t type, struct plx_hdr *h, uint8_t *payload);
/* plx_rig_ack - acknowledge a message of one packet. */
void plx_rig_ack(struct plx_rig_client *c, uint8_t type, uint64_t req_id);
/* plx_rig_req - write a text REQ; returns its bytes. */
uint32_t plx_rig_req(uint8_t *msg, uint32_t cap, const char *text, uint32_t bytes);

/* plx_rig_ask - send a text REQ of one packet, and a turn; returns its id. */
uint64_t plx_rig_ask(struct plx_rig_client *c, const char *text);
/* plx_rig_tok_ack - acknowledge tokens of sample 0, and a turn. */
void plx_rig_tok_ack(struct plx_rig_client *c, uint64_t req_id, uint32_t next, uint16_t flags);

/* plx_rig_take - the request that io handed to tok, or NULL. */
struct plx_req *plx_rig_take(struct plx_rig *r, uint32_t io);
/* plx_rig_tokens - push a TOKENS event of one id with a text. */
void plx_rig_tokens(struct plx_rig *r, struct plx_req *req, uint32_t idx, int32_t id,
                    const char *text, bool last);
/* plx_rig_event - push an ACCEPTED or FINAL event. */
void plx_rig_event(struct plx_rig *r, struct plx_req *req, enum plx_ev_kind kind);
/* plx_rig_done - the FINAL of a request that said so many tokens. */
void plx_rig_done(struct plx_rig *r, struct plx_req *req, uint32_t n_tokens);

#endif
