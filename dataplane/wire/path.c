/*
 * The client's address: fixed until a new one has answered a challenge (RFC 9000 section 8.2), and
 * until then given at most three times the bytes that came from it.
 */
#include "dataplane/wire/conn.h"

#include <string.h>

void plx_path_init(struct plx_path *p, const struct plx_wire_addr *addr)
{
	memset(p, 0, sizeof(*p));
	p->addr = *addr;
}

bool plx_path_seen(struct plx_path *p, const struct plx_wire_addr *addr, size_t n_bytes,
                   bool newest, uint64_t nonce)
{
	if (plx_wire_addr_equal(&p->addr, addr))
		return false;
	if (p->nonce && plx_wire_addr_equal(&p->cand, addr)) {
		p->rx_bytes += n_bytes;
		return false;
	}
	if (!newest || p->nonce) /* one candidate at a time; an old packet moves nothing */
		return false;
	p->cand = *addr;
	p->nonce = nonce;
	p->rx_bytes = n_bytes;
	p->tx_bytes = 0;
	plx_retx_stop(&p->timer);
	return true;
}

bool plx_path_may_send(struct plx_path *p, size_t n_bytes)
{
	if (!p->nonce || p->tx_bytes + n_bytes > PLX_PATH_FACTOR * p->rx_bytes)
		return false;
	p->tx_bytes += n_bytes;
	return true;
}

bool plx_path_response(struct plx_path *p, const struct plx_wire_addr *addr, uint64_t nonce)
{
	if (!p->nonce || nonce != p->nonce || !plx_wire_addr_equal(&p->cand, addr))
		return false;
	p->addr = p->cand;
	p->nonce = 0;
	plx_retx_stop(&p->timer);
	p->n_moved++;
	return true;
}

bool plx_path_poll(struct plx_path *p, const struct plx_rtt *r, uint64_t now_ns)
{
	if (!p->nonce)
		return false;
	if (p->timer.deadline_ns == 0) { /* just begun: plx_path_seen's caller sent the first */
		plx_retx_arm(&p->timer, r, now_ns);
		return false;
	}
	if (!plx_retx_due(&p->timer, now_ns))
		return false;
	if (p->timer.n_timeouts >= PLX_PATH_TRIES) {
		p->nonce = 0;
		p->n_failed++;
		plx_retx_stop(&p->timer);
		return false;
	}
	plx_retx_arm(&p->timer, r, now_ns);
	return true;
}
