/*
 * Finding the largest datagram a path carries: starts at 1,200 bytes and grows by probing.
 *
 * Probes are PINGs padded to the size, sent apart from data, so that losing one costs nothing.
 * First the largest size that both ends allow is tried, then halves between. Source: RFC 8899
 * (states BASE, SEARCHING, SEARCH_COMPLETE, ERROR; MAX_PROBES 3; raise timer 600 s).
 */
#ifndef PLX_DATAPLANE_WIRE_PMTU_H
#define PLX_DATAPLANE_WIRE_PMTU_H

#include "dataplane/wire/loss.h"

enum plx_pmtu_state {
	PLX_PMTU_BASE,      /* confirming 1,200 after a black hole */
	PLX_PMTU_SEARCHING, /* raising */
	PLX_PMTU_COMPLETE,  /* until the raise timer */
	PLX_PMTU_ERROR,     /* not even 1,200: the path is down */
};
#define PLX_PMTU_MAX_PROBES 3u
#define PLX_PMTU_STEP_BYTES 32u /* sizes closer than this are not worth a probe */
#define PLX_PMTU_RAISE_NS   UINT64_C(600000000000)
#define PLX_PMTU_BLACK_HOLE 3u /* timeouts in a row of datagrams over 1,200 bytes */

struct plx_pmtu {
	uint8_t state;        /* enum plx_pmtu_state */
	uint8_t n_probes;     /* of probe_bytes, unanswered */
	uint16_t bytes;       /* confirmed: use this for new messages */
	uint16_t max_bytes;   /* both ends' limit */
	uint16_t fail_bytes;  /* smallest size known not to pass; max_bytes + 1 when none */
	uint16_t probe_bytes; /* in flight; 0 none */
	uint16_t zero[3];
	uint64_t token; /* of the probe in flight */
	uint64_t deadline_ns;
};

/* plx_pmtu_init - start at 1,200; max_bytes from HELLO_ACK and our own port (1,200..9,216). */
void plx_pmtu_init(struct plx_pmtu *p, uint16_t max_bytes);
/*
 * plx_pmtu_poll - size of the probe to send now, or 0. Send a PING with `token`, padded so that the
 * datagram has that size, with "don't fragment" set.
 */
uint16_t plx_pmtu_poll(struct plx_pmtu *p, uint64_t token, const struct plx_rtt *r,
                       uint64_t now_ns);
/* plx_pmtu_pong - a PONG with that token came; ignores others. */
void plx_pmtu_pong(struct plx_pmtu *p, uint64_t token, uint64_t now_ns);
/* plx_pmtu_timeouts - a message in datagrams of dgram_bytes timed out n times in a row. */
void plx_pmtu_timeouts(struct plx_pmtu *p, uint16_t dgram_bytes, uint32_t n, uint64_t now_ns);
/* plx_pmtu_deadline - when to poll again; UINT64_MAX: never. */
uint64_t plx_pmtu_deadline(const struct plx_pmtu *p);

#endif
