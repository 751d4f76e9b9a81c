/* The CPU device: opening, what it says about itself, closing. */
#include "accel/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "accel/forward_moe.h"
#include "fw/base/err.h"

static int isa_of(const char *name)
{
	static const struct {
		const char *name;
		enum plx_k_isa isa;
	} list[] = {{"", PLX_K_ISA_BEST},
	            {"auto", PLX_K_ISA_BEST},
	            {"scalar", PLX_K_ISA_SCALAR},
	            {"avx2", PLX_K_ISA_AVX2},
	            {"avxvnni", PLX_K_ISA_AVXVNNI},
	            {"avx512", PLX_K_ISA_AVX512},
	            {"avx512bf16", PLX_K_ISA_AVX512BF16},
	            {"amx", PLX_K_ISA_AMX}};

	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		if (strcmp(list[i].name, name) == 0)
			return (int)list[i].isa;
	return -1;
}

int plx_cpu_open(const struct plx_dev_conf *conf, struct plx_dev **out, struct plx_diag *d)
{
	struct plx_cpu *c = aligned_alloc(64, (sizeof(*c) + 63) & ~(size_t)63);
	int err = PLX_E_OK;

	if (c == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "device %.31s: out of memory", conf->name);
	memset(c, 0, sizeof(*c));
	c->base.ops = &plx_cpu_ops;
	c->conf = *conf;
	c->conf.name[sizeof(c->conf.name) - 1] = '\0';
	c->conf.isa[sizeof(c->conf.isa) - 1] = '\0';
	int isa = isa_of(c->conf.isa);

	if (isa < 0) {
		err = plx_diag_set(d, PLX_E_NOT_FOUND,
		                   "device %s: no instruction set '%s'; give auto, scalar, avx2, "
		                   "avxvnni, avx512, avx512bf16 or amx",
		                   c->conf.name, c->conf.isa);
		goto out;
	}
	c->k = plx_kernels_select((enum plx_k_isa)isa);
	if (c->k == NULL)
		err = plx_diag_set(d, PLX_E_UNSUPPORTED,
		                   "device %s: this machine can't run '%s'; give auto",
		                   c->conf.name, c->conf.isa);
out:
	if (err != 0)
		free(c);
	else
		*out = &c->base;
	return err;
}

/* Blocks of two devices can be copied as they are where these are equal. */
static uint64_t layout_hash(const struct plx_cpu *c)
{
	static const char *const type[PLX_KV_N_TYPES] = {"f16", "q8-1", "q4-1"};
	const char *pages = plx_limits_sparse(&c->lim) ? ", and pages of k summarised" : "";
	char text[200];
	int n = snprintf(text, sizeof(text),
	                 "%s [layer %u][k, v][head %u][token %u][dim %u], k transposed by 16%s",
	                 type[c->lim.kv_type], c->m->n_layer, c->m->n_head_kv, c->lim.block_tokens,
	                 c->m->head_dim, pages);

	return XXH3_64bits(text, (size_t)n);
}

/* What KV's type adds to the arithmetic's name; changes whenever what it stores or computes does.
 */
static const char *const kv_kind[PLX_KV_N_TYPES] = {"", "-kv8-1", "-kv4-1"};

static int cpu_info(struct plx_dev *dev, struct plx_dev_info *out)
{
	const struct plx_cpu *c = (const struct plx_cpu *)(const void *)dev;

	snprintf(out->name, sizeof(out->name), "cpu %s", c->k->isa_name);
	snprintf(out->numeric_kind, sizeof(out->numeric_kind), "%s%s", c->k->numeric_kind,
	         kv_kind[c->lim.kv_type]);
	if (plx_limits_sparse(&c->lim))
		snprintf(
		    out->sparse_kind, sizeof(out->sparse_kind), "chunks64-pages%u-pool%u-1 from %u",
		    plx_k_page_tokens(c->lim.block_tokens), PLX_SPARSE_POOL, c->lim.sparse_from);
	out->caps = PLX_CPU_CAPS;
	/* Rows that move would stand in other pages' summaries. */
	if (plx_limits_sparse(&c->lim))
		out->caps &= ~(uint32_t)PLX_CAP_EVICT;
	/* Branches have no pages' summaries. */
	if (plx_limits_sparse(&c->lim) || (c->m != NULL && c->lim.tree_branches == 0))
		out->caps &= ~(uint32_t)PLX_CAP_TREE;
	out->mem_used_bytes = c->weights.size_bytes + c->kv.size_bytes + c->host.size_bytes +
	                      c->work.size_bytes + c->expert_pool.size_bytes;
	out->mem_total_bytes = out->mem_used_bytes;
	if (!c->loaded)
		return PLX_E_OK;
	out->n_workers_max = c->lim.n_threads - 1;
	out->kv_layout_hash = layout_hash(c);
	out->block_bytes = (uint32_t)c->fwd.block_bytes;
	out->n_vocab = c->m->n_vocab;
	return PLX_E_OK;
}

static int cpu_experts(struct plx_dev *dev, struct plx_dev_experts *out)
{
	const struct plx_cpu *c = (const struct plx_cpu *)(const void *)dev;

	if (!c->loaded || c->fwd.moe == NULL)
		return PLX_E_UNSUPPORTED;
	memset(out, 0, sizeof(*out));
	plx_fwd_moe_counts(&c->fwd, out);
	return PLX_E_OK;
}

static int cpu_sparse(struct plx_dev *dev, struct plx_dev_sparse *out)
{
	const struct plx_cpu *c = (const struct plx_cpu *)(const void *)dev;

	if (!c->loaded || !plx_limits_sparse(&c->lim))
		return PLX_E_UNSUPPORTED;
	plx_fwd_sparse_counts(&c->fwd, out);
	return PLX_E_OK;
}

/* All of the machine's memory is the device's: nothing to allocate apart, register or export. */
static int cpu_mem_alloc(struct plx_dev *dev, size_t bytes, void **out)
{
	(void)dev;
	(void)bytes;
	(void)out;
	return PLX_E_UNSUPPORTED;
}

static int cpu_mem_register(struct plx_dev *dev, void *host, size_t bytes)
{
	(void)dev;
	(void)host;
	(void)bytes;
	return PLX_E_OK;
}

static int cpu_mem_export(struct plx_dev *dev, void *mem, size_t bytes, int *dmabuf_fd)
{
	(void)dev;
	(void)mem;
	(void)bytes;
	(void)dmabuf_fd;
	return PLX_E_UNSUPPORTED;
}

static void cpu_close(struct plx_dev *dev)
{
	struct plx_cpu *c = (struct plx_cpu *)(void *)dev;

	if (c->queue != NULL)
		(void)plx_cpu_reset(dev);
	plx_cpu_unload(c);
	free(c);
}

void plx_cpu_get_stats(struct plx_dev *dev, struct plx_cpu_stats *out)
{
	const struct plx_cpu *c = (const struct plx_cpu *)(const void *)dev;

	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; c->loaded && i < c->lim.n_threads; i++) {
		const struct plx_cpu_stats *s = &c->stats[i];

		for (uint32_t op = 0; op < PLX_FWD_N_OPS; op++)
			out->op_ns[op] += s->op_ns[op];
		out->sample_ns += s->sample_ns;
		out->n_items += s->n_items;
		if (s->item_max_ns > out->item_max_ns)
			out->item_max_ns = s->item_max_ns;
	}
}

const struct plx_dev_ops plx_cpu_ops = {
    .info = cpu_info,
    .load_begin = plx_cpu_load_begin,
    .load_poll = plx_cpu_load_poll,
    .mem_alloc = cpu_mem_alloc,
    .mem_register = cpu_mem_register,
    .mem_export = cpu_mem_export,
    .queue_open = plx_cpu_queue_open,
    .queue_step = plx_cpu_queue_step,
    .submit = plx_cpu_submit,
    .poll = plx_cpu_poll,
    .worker = plx_cpu_worker,
    .copy_blocks = plx_cpu_copy_blocks,
    .reset = plx_cpu_reset,
    .close = cpu_close,
    .experts = cpu_experts,
    .sparse = cpu_sparse,
};
