/*
 * Credit totals at both ends, and the window of request ids.
 */
#include "dataplane/wire/credit.h"

void plx_credit_tx_init(struct plx_credit_tx *c, uint64_t packets, uint64_t requests)
{
	*c = (struct plx_credit_tx){.granted = {packets, requests}};
}

void plx_credit_tx_grant(struct plx_credit_tx *c, const struct plx_msg_credit *m)
{
	if (m->packets > c->granted.packets)
		c->granted.packets = m->packets;
	if (m->requests > c->granted.requests)
		c->granted.requests = m->requests;
}

int plx_credit_tx_take(struct plx_credit_tx *c, uint32_t packets)
{
	if (packets > c->granted.packets - c->used.packets ||
	    c->used.requests >= c->granted.requests)
		return PLX_E_AGAIN;
	c->used.packets += packets;
	c->used.requests++;
	return 0;
}

void plx_credit_rx_init(struct plx_credit_rx *c, uint64_t packets, uint64_t requests)
{
	*c = (struct plx_credit_rx){.granted = {packets, requests}, .window = {packets, requests}};
}

int plx_credit_rx_charge(struct plx_credit_rx *c, uint32_t packets)
{
	if (!plx_credit_rx_may(c, packets))
		return PLX_E_LIMIT;
	c->used.packets += packets;
	c->used.requests++;
	return 0;
}

bool plx_credit_rx_release(struct plx_credit_rx *c, uint32_t packets)
{
	c->released.packets += packets;
	c->released.requests++;
	uint64_t p = c->released.packets + c->window.packets - c->granted.packets;
	uint64_t r = c->released.requests + c->window.requests - c->granted.requests;

	return 4 * p >= c->window.packets || 4 * r >= c->window.requests;
}

struct plx_msg_credit plx_credit_rx_now(struct plx_credit_rx *c)
{
	c->granted.packets = c->released.packets + c->window.packets;
	c->granted.requests = c->released.requests + c->window.requests;
	return c->granted;
}

enum plx_req_place plx_req_window_place(const struct plx_req_window *w, uint64_t req_id,
                                        uint32_t *slot)
{
	*slot = (uint32_t)(req_id % w->span);
	if (req_id == 0 || (req_id <= w->highest && w->highest - req_id >= w->span))
		return PLX_REQ_BELOW;
	if (req_id > w->highest && req_id - w->highest > w->span)
		return PLX_REQ_BEYOND;
	return PLX_REQ_NEW;
}

void plx_req_window_move(struct plx_req_window *w, uint64_t req_id)
{
	if (req_id > w->highest)
		w->highest = req_id;
}
