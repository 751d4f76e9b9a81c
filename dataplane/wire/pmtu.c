/*
 * The search of RFC 8899, section 5: the largest size first, then halves of what is left.
 */
#include "dataplane/wire/pmtu.h"

void plx_pmtu_init(struct plx_pmtu *p, uint16_t max_bytes)
{
	if (max_bytes < PLX_DGRAM_MIN_BYTES)
		max_bytes = PLX_DGRAM_MIN_BYTES;
	if (max_bytes > PLX_DGRAM_MAX_BYTES)
		max_bytes = PLX_DGRAM_MAX_BYTES;
	*p = (struct plx_pmtu){.state = PLX_PMTU_SEARCHING,
	                       .bytes = PLX_DGRAM_MIN_BYTES,
	                       .max_bytes = max_bytes,
	                       .fail_bytes = (uint16_t)(max_bytes + 1)};
}

/* The next size worth a probe; 0 when the search has come to its end. */
static uint16_t next_size(const struct plx_pmtu *p)
{
	if (p->state == PLX_PMTU_BASE || p->state == PLX_PMTU_ERROR)
		return PLX_DGRAM_MIN_BYTES;
	if (p->fail_bytes - p->bytes <= (int)PLX_PMTU_STEP_BYTES)
		return p->bytes < p->max_bytes && p->fail_bytes > p->max_bytes ? p->max_bytes : 0;
	if (p->fail_bytes > p->max_bytes)
		return p->max_bytes;
	return (uint16_t)((p->bytes + p->fail_bytes) / 2);
}

static void complete(struct plx_pmtu *p, uint64_t now_ns)
{
	p->state = PLX_PMTU_COMPLETE;
	p->deadline_ns = p->bytes < p->max_bytes ? now_ns + PLX_PMTU_RAISE_NS : UINT64_MAX;
}

/* The probe in flight was lost for the last time. */
static void probe_failed(struct plx_pmtu *p)
{
	if (p->state == PLX_PMTU_BASE)
		p->state = PLX_PMTU_ERROR;
	else if (p->state == PLX_PMTU_SEARCHING)
		p->fail_bytes = p->probe_bytes;
	p->probe_bytes = 0;
	p->n_probes = 0;
}

static uint16_t send_probe(struct plx_pmtu *p, uint16_t bytes, uint64_t token,
                           const struct plx_rtt *r, uint64_t now_ns)
{
	uint64_t wait = 2 * plx_rtt_timeout(r);

	if (p->state == PLX_PMTU_ERROR && wait < PLX_RETX_MAX_NS)
		wait = PLX_RETX_MAX_NS;
	p->probe_bytes = bytes;
	p->n_probes++;
	p->token = token;
	p->deadline_ns = now_ns + wait;
	return bytes;
}

uint16_t plx_pmtu_poll(struct plx_pmtu *p, uint64_t token, const struct plx_rtt *r, uint64_t now_ns)
{
	if ((p->probe_bytes || p->state == PLX_PMTU_COMPLETE) && now_ns < p->deadline_ns)
		return 0;
	if (p->probe_bytes && p->n_probes >= PLX_PMTU_MAX_PROBES)
		probe_failed(p);
	if (p->state == PLX_PMTU_COMPLETE) {
		if (p->deadline_ns == UINT64_MAX)
			return 0;
		p->state = PLX_PMTU_SEARCHING;
		p->fail_bytes = (uint16_t)(p->max_bytes + 1);
	}
	uint16_t bytes = p->probe_bytes ? p->probe_bytes : next_size(p);

	if (bytes == 0 || (bytes <= p->bytes && p->state == PLX_PMTU_SEARCHING)) {
		complete(p, now_ns);
		return 0;
	}
	return send_probe(p, bytes, token, r, now_ns);
}

void plx_pmtu_pong(struct plx_pmtu *p, uint64_t token, uint64_t now_ns)
{
	if (!p->probe_bytes || token != p->token)
		return;
	if (p->probe_bytes > p->bytes)
		p->bytes = p->probe_bytes;
	if (p->state == PLX_PMTU_BASE || p->state == PLX_PMTU_ERROR)
		p->state = PLX_PMTU_SEARCHING;
	p->probe_bytes = 0;
	p->n_probes = 0;
	p->deadline_ns = now_ns;
}

void plx_pmtu_timeouts(struct plx_pmtu *p, uint16_t dgram_bytes, uint32_t n, uint64_t now_ns)
{
	if (n < PLX_PMTU_BLACK_HOLE || dgram_bytes <= PLX_DGRAM_MIN_BYTES || dgram_bytes > p->bytes)
		return;
	p->state = PLX_PMTU_BASE;
	p->fail_bytes = dgram_bytes;
	p->bytes = PLX_DGRAM_MIN_BYTES;
	p->probe_bytes = 0;
	p->n_probes = 0;
	p->deadline_ns = now_ns;
}

uint64_t plx_pmtu_deadline(const struct plx_pmtu *p)
{
	return p->deadline_ns;
}
