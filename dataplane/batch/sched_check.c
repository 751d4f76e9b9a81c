/* Every invariant of the scheduler, for tests. */
#include "dataplane/batch/sched_int.h"

#include "fw/base/check.h"

static void check_blocks(const struct plx_sched *s)
{
	uint64_t held = 0, refs = 0, want = 0;

	for (uint32_t b = 0; b < s->kv.n_blocks; b++) {
		held += s->kv.block[b].ref > 0;
		refs += s->kv.block[b].ref;
		PLX_CHECK(!s->kv.block[b].parked || s->kv.block[b].ref == 0);
	}
	for (uint32_t i = 0; i < s->n_run; i++)
		want += s->seq[s->run[i]].n_blocks;
	PLX_CHECK(refs == want);
	PLX_CHECK(s->kv.n_free + s->kv.n_parked + s->kv.n_quarantined + held == s->kv.n_blocks);
}

void plx_sched_check(const struct plx_sched *s)
{
	uint32_t n_free = 0, n_kept = 0, waiting = 0;

	for (uint32_t i = 0; i < s->conf.n_slots; i++) {
		const struct plx_seq *q = &s->seq[i];

		n_free += q->state == PLX_SEQ_FREE;
		PLX_CHECK(q->state != PLX_SEQ_DRAIN || q->in_flight > 0 || q->kept);
		PLX_CHECK(!q->kept || q->state == PLX_SEQ_DRAIN);
		n_kept += q->kept;
		PLX_CHECK(q->state != PLX_SEQ_RUN || s->ent[q->ent].state == PLX_ENT_RUNNING);
		PLX_CHECK(q->in_flight <= s->n_steps_out);
	}
	PLX_CHECK(n_kept == s->n_kept);
	PLX_CHECK(n_free == s->n_free_slots && n_free + s->n_run == s->conf.n_slots);
	for (uint32_t k = 0; k < s->conf.n_keys; k++)
		waiting += s->ent[k].state == PLX_ENT_WAITING;
	PLX_CHECK(waiting == s->load.n_waiting);
	PLX_CHECK(s->n_steps_out > 0 || s->promised == 0);
	check_blocks(s);
	plx_sched_memory_check(s);
}
