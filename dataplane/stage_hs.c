/*
 * One key exchange a turn: a burst of handshakes waits here, and nothing else waits for it.
 */
#include "dataplane/stage_hs.h"

#include <string.h>

#include "fw/base/check.h"

int plx_stage_hs_open(struct plx_stage_hs *hs, struct plx_io_shared *sh, struct plx_page *page,
                      struct plx_diag *d)
{
	int reader = plx_keys_reader(sh->conf.keys);

	if (reader < 0)
		return plx_diag_set(d, reader, "more than %u stages read the key table",
		                    PLX_KEYTAB_READERS);
	*hs = (struct plx_stage_hs){.sh = sh, .page = page, .keys_reader = (uint32_t)reader};
	plx_rand_open(&hs->rand);
	return PLX_E_OK;
}

static int exchange(struct plx_stage_hs *hs, const struct plx_hs_ask *ask,
                    const struct plx_keytab *tab, struct plx_hs_tell *tell)
{
	const struct plx_key *key = plx_keytab_find(tab, ask->job.key_id);
	struct plx_hello_ack ack = {.session_id = ask->session_id,
	                            .features = hs->sh->conf.features};
	uint8_t rand32[32];

	if (key == NULL)
		return PLX_E_NOT_FOUND; /* removed since stage_io looked */
	tell->limits = plx_io_limits(hs->sh, key);
	tell->credit_packets = plx_io_credit_packets(&tell->limits);
	ack.limits = tell->limits;
	ack.credit_packets = tell->credit_packets;
	ack.credit_requests = tell->limits.max_in_flight;
	plx_rand_32(&hs->rand, rand32);
	int n = plx_hs_respond(tell->ack, &tell->keys, &ack, &hs->sh->secrets, &ask->job, &key->psk,
	                       rand32);

	sodium_memzero(rand32, sizeof(rand32));
	if (n < 0)
		return n;
	PLX_CHECK((size_t)n <= sizeof(tell->ack));
	tell->ack_bytes = (uint32_t)n;
	return PLX_E_OK;
}

uint32_t plx_stage_hs_poll(void *state, uint64_t now_ns)
{
	struct plx_stage_hs *hs = state;
	const struct plx_keytab *tab = plx_keys_get(hs->sh->conf.keys);
	struct plx_hs_ask ask;
	struct plx_hs_tell tell;

	(void)now_ns;
	if (tab->gen != hs->keys_gen) {
		hs->keys_gen = tab->gen;
		plx_keys_seen(hs->sh->conf.keys, hs->keys_reader, tab->gen);
	}
	if (!plx_ring_hs_ask_pop(&hs->sh->hs_ask, &ask))
		return 0;
	memset(&tell, 0, sizeof(tell));
	tell.session_id = ask.session_id;
	tell.peer_id = ask.job.client_session_id;
	tell.err = exchange(hs, &ask, tab, &tell);
	plx_count(hs->page, tell.err == PLX_E_OK ? PLX_M_HS_DONE : PLX_M_HS_FAILED, 1);
	/* The ring holds as many as may be half-open; more only when sessions end while they wait,
	 * and an answer that is lost then has nobody to wait for it. */
	if (!plx_ring_hs_tell_push(&hs->sh->hs_tell[ask.io_idx], &tell))
		plx_count(hs->page, PLX_M_HS_FAILED, 1);
	sodium_memzero(&tell, sizeof(tell));
	return 1;
}
