/*
 * The event queue: a list of nodes that live in request slots, in the client, or (TOKENS) on the
 * heap. The node handed out last is kept until the next call, so that its pointers hold.
 */
#include <stdlib.h>
#include <string.h>

#include "tools/client/core.h"

void plx_client_queue(struct plx_client *c, struct plx_client_node *n)
{
	n->next = NULL;
	if (c->ev_tail)
		c->ev_tail->next = n;
	else
		c->ev_head = n;
	c->ev_tail = n;
}

struct plx_client_event *plx_client_note(struct plx_client *c, enum plx_client_event_type type)
{
	struct plx_client_node *n = NULL;

	if (type == PLX_CLIENT_EV_CLOSED) {
		n = &c->closed;
		n->kind = PLX_NODE_FIXED;
	} else {
		for (uint32_t i = 0; i < PLX_CLIENT_NOTES && !n; i++)
			if (!(c->note_used & (1u << i))) {
				c->note_used |= 1u << i;
				n = &c->note[i];
				n->kind = PLX_NODE_NOTE;
			}
	}
	if (!n)
		return NULL;
	memset(&n->ev, 0, sizeof(n->ev));
	n->ev.type = type;
	plx_client_queue(c, n);
	return &n->ev;
}

void plx_client_node_drop(struct plx_client *c, struct plx_client_node *n)
{
	switch (n->kind) {
	case PLX_NODE_HEAP:
		c->n_packets--;
		free(n);
		break;
	case PLX_NODE_NOTE:
		c->note_used &= ~(1u << (uint32_t)(n - c->note));
		break;
	case PLX_NODE_FIXED:
		break;
	}
}

static struct plx_client_slot *slot_of_handle(struct plx_client *c, uint64_t handle)
{
	for (uint32_t i = 0; i < c->cfg.n_requests; i++)
		if (c->slot[i].handle == handle)
			return &c->slot[i];
	return NULL;
}

/* The node handed out before is the caller's no longer. */
static void release_taken(struct plx_client *c)
{
	struct plx_client_node *n = c->taken;

	c->taken = NULL;
	if (!n)
		return;
	bool final = plx_client_event_final(&n->ev);
	uint64_t handle = n->ev.req;

	plx_client_node_drop(c, n);
	if (final)
		plx_client_slot_free(c, slot_of_handle(c, handle));
}

static void note_taken(struct plx_client *c, struct plx_client_node *n)
{
	struct plx_client_slot *s = n->ev.req ? slot_of_handle(c, n->ev.req) : NULL;

	c->taken = n;
	if (!s)
		return;
	if (n->ev.type == PLX_CLIENT_EV_TOKENS)
		s->handed_tokens = true;
	if (n == &s->restart)
		s->restart_queued = false;
}

/* Unlink the first node that is of req (0: any). */
static struct plx_client_node *take_node(struct plx_client *c, uint64_t req)
{
	struct plx_client_node *prev = NULL, *n = c->ev_head;

	while (n && req && n->ev.req != req) {
		prev = n;
		n = n->next;
	}
	if (!n)
		return NULL;
	if (prev)
		prev->next = n->next;
	else
		c->ev_head = n->next;
	if (c->ev_tail == n)
		c->ev_tail = prev;
	return n;
}

bool plx_client_event_of(struct plx_client *c, uint64_t req, struct plx_client_event *ev)
{
	release_taken(c);
	struct plx_client_node *n = take_node(c, req);

	if (!n)
		return false;
	note_taken(c, n);
	*ev = n->ev;
	return true;
}

bool plx_client_event(struct plx_client *c, struct plx_client_event *ev)
{
	return plx_client_event_of(c, 0, ev);
}

bool plx_client_event_final(const struct plx_client_event *ev)
{
	return ev->type == PLX_CLIENT_EV_DONE || ev->type == PLX_CLIENT_EV_REJECT ||
	       ev->type == PLX_CLIENT_EV_CANCELLED || ev->type == PLX_CLIENT_EV_FAILED;
}

void plx_client_events_drop(struct plx_client *c, uint64_t req)
{
	struct plx_client_node *n = c->ev_head, *next;

	c->ev_head = c->ev_tail = NULL;
	for (; n; n = next) {
		next = n->next;
		if (n->ev.req == req)
			plx_client_node_drop(c, n);
		else
			plx_client_queue(c, n);
	}
}

void plx_client_events_free(struct plx_client *c)
{
	struct plx_client_node *n;

	if (c->taken)
		plx_client_node_drop(c, c->taken);
	c->taken = NULL;
	while ((n = take_node(c, 0)))
		plx_client_node_drop(c, n);
}
