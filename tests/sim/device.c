/* The H100's step times, and the ids that a trace's texts have. */
#include "tests/sim/device.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/check.h"

/*
 * Figures, and where they come from.
 *
 * - H100 SXM: 80 GB, 3.35 TB/s, 989 TFLOP/s dense BF16: NVIDIA's data sheet of the H100.
 * - Llama 3 8B: 32 layers, width 4096, 8 KV heads of 128, inner width 14,336, 128,256 ids: the
 *   model's config and arXiv:2407.21783, table 3. Its layers hold 6.98e9 weights, the head and the
 *   embedding 0.525e9 each; a step reads all but the embedding: 15.0e9 bytes in BF16. KV of one
 *   position: 2 * 32 * 8 * 128 * 2 bytes = 128 KiB.
 * - Reads reach 85 % of the data sheet's bandwidth (decode is then 5.3 ms of weights a step;
 *   published single-stream figures for this pair are 6 to 8 ms a token with launches and
 *   sampling).
 * - Prefill: 500 TFLOP/s, half of the data sheet's: with 13.96e9 FLOP a token 28 us a token, or
 *   36,000 tokens a second, as good engines report.
 * - Attention over chunks: 400 TFLOP/s. arXiv:2407.08608 measures 35 % of the peak for
 *   FlashAttention-2 and up to 740 TFLOP/s for version 3 on long causal prompts; chunks against a
 *   paged cache lie low in that range. 4 * 4096 FLOP for each pair of positions and layer.
 * - Launch and sampling: 0.6 ms a step (CUDA graphs) and 2 us a sequence: assumed.
 * - KV pool: 90 % of 80 GB is used, as engines do by default, less 16.06 GB of weights and 3 GB
 *   of activations and workspace: assumed.
 * - Noise of 5 % a step and a spell in which everything takes 20 % longer, of which nobody is told.
 */
struct sim_curve sim_h100(void)
{
	return (struct sim_curve){
	    .weight_bytes = 15.0e9,
	    .read_bps = 0.85 * 3.35e12,
	    .linear_flop = 13.96e9,
	    .linear_flops = 500e12,
	    .attn_flop = 4.0 * 4096 * 32,
	    .attn_flops = 400e12,
	    .kv_bytes = 131072,
	    .launch_ns = 600e3,
	    .per_seq_ns = 2e3,
	    .noise = 0.05,
	    .slow = 1.2,
	    .pool_bytes = 0.9 * 80e9 - 16.06e9 - 3e9,
	};
}

void sim_dev_open(struct sim_dev *d, const struct sim_trace *t, uint32_t n_slots, uint64_t seed)
{
	uint64_t last = t->req[t->n_req - 1].at_ns;

	*d = (struct sim_dev){.curve = sim_h100(),
	                      .trace = t,
	                      .rng = {sim_mix(seed + 5)},
	                      .slow_from_ns = last * 4 / 10,
	                      .slow_to_ns = last * 6 / 10,
	                      .n_slots = n_slots};
	d->slot_req = calloc(n_slots, sizeof(*d->slot_req));
	PLX_CHECK(d->slot_req != NULL);
}

void sim_dev_close(struct sim_dev *d)
{
	free(d->slot_req);
	d->slot_req = NULL;
}

void sim_load_of(struct plx_step *st, struct sim_load *out)
{
	const struct plx_step_seq *s = plx_step_seqs(st);
	const struct plx_step_tok *t = plx_step_toks(st);

	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < st->n_seq; i++) {
		uint32_t pos = t[s[i].first_tok].pos[0], n = s[i].n_tok;

		if (t[s[i].first_tok].id == PLX_TOK_LAST) {
			out->n_decode++;
			out->n_context += pos + 1;
			continue;
		}
		out->n_chunks++;
		out->n_prefill += n;
		out->chunk_context += pos + n;
		out->chunk_pairs += (double)n * pos + 0.5 * n * (n + 1.0);
	}
}

double sim_dev_ns(struct sim_dev *d, const struct sim_load *l)
{
	const struct sim_curve *c = &d->curve;
	double n_tok = (double)l->n_decode + l->n_prefill;
	double w = c->weight_bytes / c->read_bps, m = n_tok * c->linear_flop / c->linear_flops;
	double linear = sqrt(sqrt(w * w * w * w + m * m * m * m));
	double read = (double)l->chunk_context * c->kv_bytes / c->read_bps;
	double pairs = l->chunk_pairs * c->attn_flop / c->attn_flops;
	double attn =
	    (double)l->n_context * c->kv_bytes / c->read_bps + (read > pairs ? read : pairs);
	double rest = c->launch_ns + c->per_seq_ns * ((double)l->n_decode + l->n_chunks);

	d->ns_by_part[0] += rest;
	d->ns_by_part[1] += 1e9 * linear;
	d->ns_by_part[2] += 1e9 * attn;
	return rest + 1e9 * (linear + attn);
}

static void sample(struct sim_dev *d, struct plx_step *st, uint32_t i)
{
	const struct plx_step_seq *s = &plx_step_seqs(st)[i];
	const struct plx_step_tok *last = &plx_step_toks(st)[s->first_tok + s->n_tok - 1];
	struct plx_step_out *o = &plx_step_outs(st)[i];
	const struct sim_req *r = &d->trace->req[d->slot_req[s->slot]];
	uint32_t next = last->pos[0] + 1;

	o->status = 0;
	o->n_out = o->n_accepted = o->top_off = 0;
	if (!(last->flags & PLX_TOKF_LOGITS))
		return;
	o->n_out = 1;
	o->logprob[0] = -1;
	o->id[0] = next < r->n_prompt + r->n_answer ? sim_text_id(&r->text, next) : SIM_EOS;
}

void sim_dev_run(struct sim_dev *d, struct plx_step *st, uint64_t start_ns)
{
	struct sim_load l;

	for (uint32_t i = 0; i < st->n_delta; i++) {
		const struct plx_step_delta *e = &plx_step_deltas(st)[i];

		if (e->kind != PLX_DELTA_SLOT_SET)
			continue;
		const struct plx_sampler *w =
		    (const struct plx_sampler *)(const void *)((char *)st + e->sampler_off);

		PLX_CHECK(e->slot < d->n_slots && w->seed < d->trace->n_req);
		d->slot_req[e->slot] = (uint32_t)w->seed;
	}
	sim_load_of(st, &l);
	double z = sim_normal(&d->rng);
	double ns = sim_dev_ns(d, &l) * (1 + d->curve.noise * (z < -4 ? -4 : z > 4 ? 4 : z));

	if (start_ns >= d->slow_from_ns && start_ns < d->slow_to_ns)
		ns *= d->curve.slow;
	for (uint32_t i = 0; i < st->n_seq; i++)
		sample(d, st, i);
	st->status = 0;
	st->start_ns = start_ns;
	st->end_ns = start_ns + (uint64_t)ns;
	d->busy_ns += (uint64_t)ns;
}
