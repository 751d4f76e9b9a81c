/*
 * Sparse attention: which chunks are picked, by literal rates; page summaries and rates against
 * double precision and over all paths; and, on the device, that the choice depends on ids and
 * positions alone, that all of the mass is dense attention bit for bit, and that summaries follow
 * their blocks through copies and shifts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "accel/cpu.h"
#include "accel/forward_int.h"
#include "accel/forward_pick.h"
#include "fw/base/err.h"
#include "tests/lib/devkit.h"
#include "tests/lib/isas.h"
#include "tests/lib/qdata.h"

static const struct plx_kernels *tables[PLX_T_ISAS];
static uint32_t n_tables;

/* ---- the choice ------------------------------------------------------------------------------ */

#define N 20u

static uint32_t last_share;

static uint32_t pick(uint32_t mass, uint32_t chunks, const float *mean, const float *most,
                     uint32_t per, uint16_t out[2])
{
	const struct plx_fwd_choice how = {.mass = mass, .chunks = chunks};
	float a[4 * N], b[4 * N];

	memcpy(a, mean, N * per * sizeof *a);
	memcpy(b, most, N * per * sizeof *b);
	return plx_fwd_pick_chunks(tables[0], &how, a, b, N, per, out, &last_share);
}

static void test_mass_and_bounds_pick_chunks(void **state)
{
	float mean[2 * N], most[2 * N];
	uint16_t got[2];

	(void)state;
	for (uint32_t i = 0; i < N; i++) {
		mean[i] = -20.0f;
		most[i] = (float)(i % 7);
	}
	mean[7] = 1.0f;
	mean[11] = -1.0f; /* 0.12 of all */
	/* The first, the last full one, its own: chunks 0, 19 and 20, and 7 for the mass. */
	assert_int_equal(pick(850, 0, mean, most, 1, got), 4);
	assert_int_equal(got[0], 1u << 0 | 1u << 7);
	assert_int_equal(got[1], 1u << 3 | 1u << 4);
	assert_in_range(last_share, PLX_SHARE_ONE * 0.880, PLX_SHARE_ONE * 0.881);
	assert_int_equal(pick(950, 0, mean, most, 1, got), 5);
	assert_in_range(last_share, PLX_SHARE_ONE - 1, PLX_SHARE_ONE);
	assert_int_equal(got[0], 1u << 0 | 1u << 7 | 1u << 11);
	assert_int_equal(pick(1000, 0, mean, most, 1, got), N + 1);
	assert_int_equal(last_share, PLX_SHARE_ONE);
	/* 6, 13 have the highest bound, then 5, 12, (19): the later one first. */
	assert_int_equal(pick(0, 3, mean, most, 1, got), 6);
	assert_int_equal(got[0], 1u << 0 | 1u << 6 | 1u << 12 | 1u << 13);
	assert_int_equal(pick(850, 2, mean, most, 1, got), 6);
	assert_int_equal(got[0], 1u << 0 | 1u << 6 | 1u << 7 | 1u << 13);
	assert_int_equal(pick(0, 18, mean, most, 1, got), N + 1);
	assert_int_equal(pick(0, 60000, mean, most, 1, got), N + 1);
	mean[3] = NAN;
	assert_int_equal(pick(850, 0, mean, most, 1, got), N + 1);
	mean[3] = 0.0f;
	most[3] = INFINITY;
	assert_int_equal(pick(0, 1, mean, most, 1, got), N + 1);
}

/* With two pages a chunk, masses add up and the higher bound counts. */
static void test_pages_of_a_chunk_count_together(void **state)
{
	float mean[2 * N], most[2 * N];
	uint16_t got[2];

	(void)state;
	for (uint32_t i = 0; i < 2 * N; i++) {
		mean[i] = -30.0f;
		most[i] = 0.0f;
	}
	mean[8] = mean[9] = 0.0f; /* chunk 4: 2; chunk 9: 1.9 */
	mean[18] = 0.64f;
	most[31] = 5.0f; /* chunk 15 */
	assert_int_equal(pick(400, 1, mean, most, 2, got), 5);
	assert_int_equal(got[0], 1u << 0 | 1u << 4 | 1u << 15);
	/* All the same: a share is not taken from equals. */
	for (uint32_t i = 0; i < 2 * N; i++)
		mean[i] = most[i] = 1.5f;
	assert_int_equal(pick(500, 0, mean, most, 2, got), N + 1);
	assert_int_equal(pick(0, 4, mean, most, 2, got), 7);
	assert_int_equal(got[0], 1u << 0 | 1u << 15); /* 15 to 18 are the latest */
}

/* ---- summaries and rates --------------------------------------------------------------------- */

#define DIM    48u
#define BLOCK  128u
#define PAGES  6u
#define N_POS  (PAGES * 64)
#define BLOCKS 3u

static uint16_t blocks[BLOCKS * BLOCK * DIM * 2 + BLOCKS * 2 * 3 * DIM];
static const uint32_t table[BLOCKS] = {2, 0, 1};

static struct plx_k_kv store(const struct plx_kernels *k, enum plx_k_kv_type type)
{
	uint64_t seed = 3, kb = plx_k_kv_k_bytes(type, BLOCK, DIM);
	uint64_t vb = plx_k_kv_v_bytes(type, BLOCK, DIM);
	struct plx_k_kv kv = {.base = blocks,
	                      .table = table,
	                      .block_bytes = kb + vb + plx_k_page_bytes(BLOCK, DIM),
	                      .v_off = kb,
	                      .block_tokens = BLOCK,
	                      .head_dim = DIM,
	                      .type = type,
	                      .page_off = kb + vb};
	float row[DIM], v[DIM] = {0};

	assert_true(BLOCKS * kv.block_bytes <= sizeof blocks);
	for (uint32_t p = 0; p < N_POS; p++) {
		for (uint32_t d = 0; d < DIM; d++)
			row[d] = plx_t_uniform(&seed) * (p % 50 == 7 ? 9.0f : 1.0f);
		k->kv_store(&kv, p, row, v);
	}
	for (uint32_t i = 0; i < PAGES; i++)
		k->page_sum(&kv, i * 64);
	return kv;
}

/* The bounds hold for every key as it is stored, and are reached; the mean is the mean. */
static void rates_check(const struct plx_kernels *k, const struct plx_k_kv *kv, const float *q,
                        const float *mean, const float *most)
{
	for (uint32_t i = 0; i < PAGES; i++) {
		double sum = 0, highest = -1e30, least[DIM], largest[DIM], bound = 0;

		for (uint32_t p = i * 64; p < (i + 1) * 64; p++) {
			double dot = 0;
			float row[DIM];

			k->k_load(kv, p, row);
			for (uint32_t d = 0; d < DIM; d++) {
				double x = (double)row[d];

				dot += 0.25 * (double)q[d] * x;
				least[d] = p % 64 == 0 ? x : fmin(x, least[d]);
				largest[d] = p % 64 == 0 ? x : fmax(x, largest[d]);
			}
			sum += dot;
			highest = fmax(highest, dot);
		}
		for (uint32_t d = 0; d < DIM; d++)
			bound += 0.25 * fmax((double)q[d] * least[d], (double)q[d] * largest[d]);
		assert_true(fabs((double)mean[i] - sum / 64) < 2e-3);
		assert_true((double)most[i] >= highest - 1e-4);
		assert_true((double)most[i] >= bound - 1e-3 && (double)most[i] <= bound + 0.03);
	}
}

static void test_pages_are_summarised_and_rated(void **state)
{
	static uint16_t golden[sizeof blocks / 2];
	float q[DIM], want[2][PAGES], mean[PAGES], most[PAGES];
	uint64_t seed = 8;

	(void)state;
	for (uint32_t d = 0; d < DIM; d++)
		q[d] = plx_t_uniform(&seed);
	for (uint32_t type = PLX_K_KV_F16; type <= PLX_K_KV_Q4; type++)
		for (uint32_t i = 0; i < n_tables; i++) {
			memset(blocks, 0, sizeof blocks);
			struct plx_k_kv kv = store(tables[i], (enum plx_k_kv_type)type);

			tables[i]->page_rate(&kv, q, 0.25f, PAGES, mean, most);
			if (i == 0) {
				rates_check(tables[0], &kv, q, mean, most);
				memcpy(golden, blocks, sizeof blocks);
				memcpy(want[0], mean, sizeof mean);
				memcpy(want[1], most, sizeof most);
			}
			assert_memory_equal(blocks, golden, sizeof blocks);
			assert_memory_equal(mean, want[0], sizeof mean);
			assert_memory_equal(most, want[1], sizeof most);
		}
}

/* A NaN of one key makes both rates of its page NaN, and of no other. */
static void test_a_nan_shows_in_its_page(void **state)
{
	float nans[DIM], q[DIM], mean[PAGES], most[PAGES];

	(void)state;
	for (uint32_t d = 0; d < DIM; d++) {
		nans[d] = NAN;
		q[d] = d % 2 ? 1.0f : -1.0f;
	}
	for (uint32_t i = 0; i < n_tables; i++) {
		struct plx_k_kv kv = store(tables[i], PLX_K_KV_F16);

		tables[i]->kv_store(&kv, 2 * 64 + 9, nans, nans);
		tables[i]->page_sum(&kv, 2 * 64);
		tables[i]->page_rate(&kv, q, 0.25f, PAGES, mean, most);
		for (uint32_t p = 0; p < PAGES; p++)
			assert_true(isnan(mean[p]) == (p == 2) && isnan(most[p]) == (p == 2));
	}
}

/* ---- a group's choice against double precision ------------------------------------------------
 */

#define POOL_CHUNKS 40u
#define POOL_DIM    32u

/* Keys and queries of a toy cache: chunks of clearly different weight, so that rounding decides
 * nothing. */
static struct plx_k_kv pool_store(const struct plx_kernels *k, float *q)
{
	static uint16_t mem[POOL_CHUNKS * 64 * POOL_DIM * 2 + POOL_CHUNKS * 4 * 3 * POOL_DIM];
	static uint32_t place[POOL_CHUNKS * 2];
	uint64_t seed = 11, kb = plx_k_kv_k_bytes(PLX_K_KV_F16, 32, POOL_DIM);
	struct plx_k_kv kv = {.base = mem,
	                      .table = place,
	                      .block_bytes = 2 * kb + plx_k_page_bytes(32, POOL_DIM),
	                      .v_off = kb,
	                      .block_tokens = 32,
	                      .head_dim = POOL_DIM,
	                      .page_off = 2 * kb};
	float row[POOL_DIM], v[POOL_DIM] = {0};

	for (uint32_t i = 0; i < PLX_SPARSE_POOL * POOL_DIM; i++)
		q[i] = 1.0f + 0.5f * plx_t_uniform(&seed);
	for (uint32_t i = 0; i < POOL_CHUNKS * 2; i++)
		place[i] = (i * 7 + 3) % (POOL_CHUNKS * 2);
	for (uint32_t p = 0; p < POOL_CHUNKS * 64; p++) {
		uint32_t rank = p / 64 * 11 % POOL_CHUNKS; /* a different one each */

		for (uint32_t d = 0; d < POOL_DIM; d++)
			row[d] = -0.09f * (float)rank + 0.2f * plx_t_uniform(&seed);
		k->kv_store(&kv, p, row, v);
		if (p % 32 == 31)
			k->page_sum(&kv, p - 31);
	}
	return kv;
}

/* exp of the mean query's score at the mean key, over both pages of a chunk; from all keys. */
static void pool_oracle(const struct plx_kernels *k, const struct plx_k_kv *kv, const float *q,
                        double mass[POOL_CHUNKS])
{
	for (uint32_t c = 0; c < POOL_CHUNKS; c++)
		mass[c] = 0;
	for (uint32_t page = 0; page < POOL_CHUNKS * 2; page++) {
		double score = 0;

		for (uint32_t p = page * 32; p < page * 32 + 32; p++) {
			float row[POOL_DIM];

			k->k_load(kv, p, row);
			for (uint32_t i = 0; i < PLX_SPARSE_POOL * POOL_DIM; i++)
				score += (double)q[i] * (double)row[i % POOL_DIM];
		}
		mass[page / 2] += exp(0.125 * score / 32 / PLX_SPARSE_POOL);
	}
}

/* The chunks before n of largest mass whose sum reaches the share, with sink and diagonal: none
 * is missing, and what is read beyond them is within a bucket (2^(1/4)) of the least of them. */
static void pool_judge(const double *mass, uint32_t n, double share, const uint16_t *got)
{
	double all = 0, read = 0, more = 0, least = 1e30;

	for (uint32_t c = 0; c < n; c++) {
		bool in = got[c / 16] >> c % 16 & 1, always = c == 0 || c == n - 1;

		all += mass[c];
		read += in ? mass[c] : 0;
		if (in && !always && mass[c] < least)
			least = mass[c];
		assert_true(in || !always);
	}
	assert_true(got[n / 16] >> n % 16 & 1);
	assert_true(read >= share * all * 0.999);
	for (uint32_t c = 0; c < n; c++) {
		bool in = got[c / 16] >> c % 16 & 1;

		if (!in)
			assert_true(mass[c] < least * 1.001);
		if (in && c > 0 && c != n - 1 && mass[c] > least * 1.20)
			more += mass[c];
	}
	/* Without the last bucket it would fall short. */
	more += mass[0] + mass[n - 1];
	assert_true(more < share * all || least > 1e29);
}

static void test_a_group_chooses_by_its_mean_query(void **state)
{
	float q[PLX_SPARSE_POOL * POOL_DIM], mean[POOL_DIM], a[96], b[96];
	double mass[POOL_CHUNKS];
	uint16_t got[4], first[4];
	uint32_t share, want = 0;

	(void)state;
	for (uint32_t m = 600; m < 1000; m += 50)
		for (uint32_t i = 0; i < n_tables; i++) {
			const struct plx_fwd_choice how = {.mass = m};
			struct plx_k_kv kv = pool_store(tables[i], q);

			plx_fwd_pool(mean, q, POOL_DIM, PLX_SPARSE_POOL, POOL_DIM);
			tables[i]->page_rate(&kv, mean, 0.125f, POOL_CHUNKS * 2, a, NULL);
			memcpy(b, a, sizeof b);
			plx_fwd_pick_chunks(tables[i], &how, a, b, POOL_CHUNKS, 2, got, &share);
			if (i == 0) {
				pool_oracle(tables[0], &kv, q, mass);
				pool_judge(mass, POOL_CHUNKS, m / 1000.0, got);
				memcpy(first, got, sizeof got);
				want = share;
			}
			assert_memory_equal(first, got, (POOL_CHUNKS / 16 + 1) * sizeof got[0]);
			assert_int_equal(share, want);
			assert_true(share >= m * PLX_SHARE_ONE / 1000 - 2);
		}
}

/* ---- on the device --------------------------------------------------------------------------- */

#define MODEL "tests/golden/tiny/qwen3.gguf"
#define N_TOK 1300u
#define N_NEW 5u

static int32_t ids[N_TOK + 8];

static struct plx_dev_limits limits(uint32_t mass, uint32_t chunks, uint32_t kv_type)
{
	struct plx_dev_limits lim = devkit_limits();
	uint32_t x = 4;

	lim.sparse_mass = mass;
	lim.sparse_chunks = chunks;
	lim.sparse_from = 200;
	lim.kv_type = kv_type;
	for (uint32_t i = 0; i < N_TOK + 8; i++) {
		x = x * 1664525u + 1013904223u;
		ids[i] = (int32_t)((x >> 8) % 128);
	}
	return lim;
}

struct way {
	const char *isa;
	uint32_t n_threads, chunk;
	bool together;
};

static void run_way(const struct way *w, const struct plx_dev_limits *set, uint32_t flags,
                    struct devseq q[3], struct plx_dev_sparse *read)
{
	static const uint32_t len[3] = {N_TOK, 700, 60};
	struct plx_dev_limits lim = *set;
	struct devkit k;

	lim.n_threads = w->n_threads;
	devkit_open(&k, MODEL, w->isa, &lim);
	memset(q, 0, 3 * sizeof(q[0]));
	for (uint32_t i = 0; i < 3; i++) {
		q[i].prompt = ids + i;
		q[i].n_prompt = len[i];
		q[i].n_new = N_NEW;
		q[i].chunk = w->chunk;
		q[i].sampler = devkit_greedy();
		q[i].flags = i == 1 ? 0 : flags; /* a dense one among them */
		if (!w->together)
			devkit_run(&k, &q[i], 1);
	}
	if (w->together)
		devkit_run(&k, q, 3);
	if (plx_dev_sparse_get(k.dev, read) != 0)
		memset(read, 0, sizeof(*read));
	devkit_close(&k);
}

static const struct way scalar_alone = {"scalar", 1, 0, false};

static void test_the_choice_is_the_same_in_every_way(void **state)
{
	static const struct way ways[] = {{"avx2", 1, 77, true}, {"auto", 3, 300, true}};
	static struct devseq base[3], q[3];
	struct plx_dev_sparse want, got;

	(void)state;
	for (uint32_t type = PLX_KV_F16; type < PLX_KV_N_TYPES; type++) {
		struct plx_dev_limits lim = limits(300, 2, type);

		run_way(&scalar_alone, &lim, PLX_SEQF_SPARSE, base, &want);
		assert_true(want.tokens > 0 && want.read < want.chunks * 9 / 10);
		for (uint32_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
			if (!devkit_has_isa(ways[w].isa))
				continue;
			run_way(&ways[w], &lim, PLX_SEQF_SPARSE, q, &got);
			for (uint32_t s = 0; s < 3; s++)
				if (q[s].n_out != N_NEW || q[s].hash != base[s].hash)
					fail_msg("sequence %u differs: type %u, %s, chunk %u", s,
					         type, ways[w].isa, ways[w].chunk);
			/* Not equal: the last layer is for logits alone. */
			assert_true(got.tokens > 0 && got.read < got.chunks * 9 / 10);
		}
	}
}

static void test_all_of_the_mass_is_dense(void **state)
{
	static const struct way way = {"auto", 2, 200, true};
	static struct devseq dense[3], q[3];
	struct plx_dev_limits lim = limits(0, 0, PLX_KV_F16);
	struct plx_dev_sparse none, all;

	(void)state;
	run_way(&way, &lim, 0, dense, &none);
	assert_int_equal(none.tokens, 0);
	lim = limits(1000, 0, PLX_KV_F16);
	run_way(&way, &lim, PLX_SEQF_SPARSE, q, &all);
	assert_true(all.tokens > 0 && all.read == all.chunks);
	for (uint32_t s = 0; s < 3; s++)
		assert_int_equal(q[s].hash, dense[s].hash);
	lim = limits(500, 0, PLX_KV_F16); /* set up, and not asked for */
	run_way(&way, &lim, 0, q, &all);
	assert_int_equal(all.tokens, 0);
	for (uint32_t s = 0; s < 3; s++)
		assert_int_equal(q[s].hash, dense[s].hash);
	lim = limits(100, 0, PLX_KV_F16);
	run_way(&way, &lim, PLX_SEQF_SPARSE, q, &all);
	assert_int_equal(q[1].hash, dense[1].hash);
	assert_int_not_equal(q[0].hash, dense[0].hash);
}

/* Rows that are dense, that choose by the limits, and that have a choice of their own, of which
 * the prompt's queries choose together: each as if it ran alone, however chunks are cut. */
static void own_way(const struct way *w, uint32_t seed, struct devseq q[6])
{
	struct plx_dev_limits lim = limits(300, 2, PLX_KV_F16);
	struct devkit k;
	uint64_t x = seed;

	lim.n_threads = w->n_threads;
	lim.sparse_own = 1;
	lim.max_step_tokens = 512;
	devkit_open(&k, MODEL, w->isa, &lim);
	memset(q, 0, 6 * sizeof(q[0]));
	for (uint32_t i = 0; i < 6; i++) {
		uint32_t n = 200 + 50 * i + (uint32_t)(plx_t_rand(&x) % 100);

		q[i] = (struct devseq){.prompt = ids + i,
		                       .n_prompt = n,
		                       .n_new = N_NEW,
		                       .chunk = w->chunk,
		                       .sampler = devkit_greedy(),
		                       .flags = i % 3 == 0 ? 0 : PLX_SEQF_SPARSE,
		                       .own = i % 3 == 2,
		                       .mass = 200 + (uint32_t)(plx_t_rand(&x) % 700),
		                       .chunks = (uint32_t)(plx_t_rand(&x) % 3),
		                       .n_pool = plx_sparse_pooled(n)};
		if (!w->together)
			devkit_run(&k, &q[i], 1);
	}
	if (w->together)
		devkit_run(&k, q, 6);
	devkit_close(&k);
}

static void test_mixed_rows_are_each_as_alone(void **state)
{
	static const struct way ways[] = {{"avx2", 1, 48, true}, {"auto", 2, 160, true}};
	static struct devseq base[6], q[6];

	(void)state;
	for (uint32_t seed = 1; seed <= 2; seed++) {
		own_way(&scalar_alone, seed, base);
		for (uint32_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
			if (!devkit_has_isa(ways[w].isa))
				continue;
			own_way(&ways[w], seed, q);
			for (uint32_t i = 0; i < 6; i++) {
				assert_int_equal(q[i].hash, base[i].hash);
				assert_memory_equal(&q[i].share, &base[i].share,
				                    sizeof(q[i].share));
				assert_true(i % 3 != 0 || q[i].share.n == 0);
			}
		}
		assert_true(base[2].share.n + base[5].share.n > 0);
		for (uint32_t i = 2; i < 6; i += 3)
			assert_true(base[i].share.n == 0 ||
			            base[i].share.least >= base[i].mass * PLX_SHARE_ONE / 1000 - 2);
	}
}

/* What a step may not do: cut a group, choose for tokens that ran, ask where nothing is set up. */
static void test_steps_that_cut_groups_are_refused(void **state)
{
	struct plx_dev_limits lim = limits(0, 0, PLX_KV_F16);
	struct plx_sampler greedy = devkit_greedy();
	struct devkit k;
	struct plx_step *s;

	(void)state;
	for (uint32_t own = 0; own < 2; own++) {
		lim.sparse_own = own;
		devkit_open(&k, MODEL, "auto", &lim);
		static const uint32_t bad[][3] = {
		    {900, 8, 65}, {1001, 8, 64}, {900, 65536, 64}, {900, 0, 64}};

		for (uint32_t i = 0; i < 4; i++) {
			s = devkit_step(&k, 0);
			devkit_set(s, 0, &greedy);
			devkit_sparse(s, 0, bad[i][0], bad[i][1], bad[i][2]);
			devkit_blocks(s, 0, 0, 8, 0);
			/* The last of them cuts a group: 40 is no multiple of 16. */
			devkit_seq(s, 0, ids, 0, 40, false)->flags = PLX_SEQF_SPARSE;
			assert_int_equal(plx_queue_submit(k.q, 0),
			                 own ? PLX_E_INVAL : PLX_E_UNSUPPORTED);
		}
		devkit_close(&k);
	}
	devkit_open(&k, MODEL, "auto", &lim);
	for (uint32_t i = 0; i < 4; i++) {
		static const uint32_t from[] = {0, 48, 60, 66}, to[] = {48, 60, 64, 67};

		s = devkit_step(&k, 0);
		if (i == 0) {
			devkit_set(s, 0, &greedy);
			devkit_sparse(s, 0, 900, 8, 64);
			devkit_blocks(s, 0, 0, 8, 0);
		}
		devkit_seq(s, 0, ids, from[i] ? 48 : 0, i == 0 ? 48 : to[i] - 48, false)->flags =
		    PLX_SEQF_SPARSE;
		bool cut = i == 1;

		assert_int_equal(plx_queue_submit(k.q, 0), cut ? PLX_E_INVAL : 0);
		if (!cut)
			(void)devkit_wait(&k);
	}
	s = devkit_step(&k, 0);
	devkit_sparse(s, 0, 900, 8, 0); /* tokens of the slot have run */
	assert_int_equal(plx_queue_submit(k.q, 0), PLX_E_INVAL);
	devkit_close(&k);
}

static void step_run(struct devkit *k, struct plx_step *s)
{
	assert_int_equal(plx_queue_submit(k->q, 0), 0);
	(void)devkit_wait(k);
	assert_int_equal(s->status, 0);
}

/* A sequence goes on in copies of its blocks, and gives the same logits there. */
static void test_summaries_follow_their_blocks(void **state)
{
	struct plx_dev_limits lim = limits(300, 1, PLX_KV_F16);
	uint32_t n = (1100 + lim.block_tokens) / lim.block_tokens;
	struct plx_sampler greedy = devkit_greedy();
	struct plx_block_copy pair[128];
	float want[128], got[128];
	struct devkit k;
	struct plx_step *s;

	(void)state;
	lim.n_host_blocks = n;
	lim.max_step_tokens = 1100;
	devkit_open(&k, MODEL, "auto", &lim);
	assert_true(2 * n <= lim.n_blocks && n <= 128);
	s = devkit_step(&k, 0);
	devkit_set(s, 0, &greedy);
	devkit_blocks(s, 0, 0, n, 0);
	devkit_seq(s, 0, ids, 0, 1100, false)->flags = PLX_SEQF_SPARSE;
	step_run(&k, s);
	for (uint32_t to_host = 1; to_host <= 2; to_host++) {
		for (uint32_t i = 0; i < n; i++)
			pair[i] = (struct plx_block_copy){to_host == 1 ? i : lim.n_blocks + i,
			                                  to_host == 1 ? lim.n_blocks + i : n + i};
		assert_int_equal(plx_queue_copy_blocks(k.q, k.q, pair, n), 0);
	}
	for (uint32_t slot = 0; slot < 2; slot++) {
		s = devkit_step(&k, 0);
		if (slot == 1) {
			devkit_set(s, 1, &greedy);
			devkit_blocks(s, 1, 0, n, n);
		}
		devkit_seq(s, slot, ids + 1100, 1100, 1, true)->flags = PLX_SEQF_SPARSE;
		step_run(&k, s);
		memcpy(slot == 0 ? want : got, devkit_logits(&k, 0), sizeof want);
	}
	assert_memory_equal(got, want, sizeof want);
	devkit_close(&k);
}

/* After a shift the summaries are those of the keys as they are now. */
static void test_summaries_are_made_anew_by_a_shift(void **state)
{
	struct plx_dev_limits lim = limits(300, 1, PLX_KV_F16);
	uint32_t n = 10, drop = 2, dim, tokens = n * lim.block_tokens;
	struct plx_sampler greedy = devkit_greedy();
	struct devkit k;
	struct plx_step *s;

	(void)state;
	devkit_open(&k, MODEL, "auto", &lim);
	const struct plx_cpu *c = (const struct plx_cpu *)(const void *)k.dev;

	dim = k.model->head_dim;
	s = devkit_step(&k, 0);
	devkit_set(s, 0, &greedy);
	devkit_blocks(s, 0, 0, n, 0);
	devkit_seq(s, 0, ids, 0, tokens, false)->flags = PLX_SEQF_SPARSE;
	step_run(&k, s);
	s = devkit_step(&k, 0);
	devkit_blocks(s, 0, 1, n - drop, 1 + drop);
	plx_step_deltas(s)[s->n_delta++] = (struct plx_step_delta){
	    .kind = PLX_DELTA_SHIFT, .slot = 0, .index = 1, .block = drop, .n_blocks = n - drop};
	step_run(&k, s);
	for (uint32_t u = 0; u < k.model->n_layer * k.model->n_head_kv * n; u++) {
		uint32_t block = u % n;
		struct plx_k_kv kv = plx_fwd_kv_view(&c->fwd, &block, u / n % k.model->n_layer,
		                                     u / n / k.model->n_layer);
		uint8_t *at = (uint8_t *)kv.base + block * kv.block_bytes + kv.page_off;
		uint8_t was[3 * 64 * 2];

		memcpy(was, at, 3 * dim * 2);
		c->k->page_sum(&kv, 0);
		assert_memory_equal(was, at, 3 * dim * 2);
	}
	devkit_close(&k);
}

static int setup(void **state)
{
	(void)state;
	n_tables = plx_t_tables(tables);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_mass_and_bounds_pick_chunks),
	    cmocka_unit_test(test_pages_of_a_chunk_count_together),
	    cmocka_unit_test(test_pages_are_summarised_and_rated),
	    cmocka_unit_test(test_a_nan_shows_in_its_page),
	    cmocka_unit_test(test_a_group_chooses_by_its_mean_query),
	    cmocka_unit_test(test_the_choice_is_the_same_in_every_way),
	    cmocka_unit_test(test_mixed_rows_are_each_as_alone),
	    cmocka_unit_test(test_steps_that_cut_groups_are_refused),
	    cmocka_unit_test(test_all_of_the_mass_is_dense),
	    cmocka_unit_test(test_summaries_follow_their_blocks),
	    cmocka_unit_test(test_summaries_are_made_anew_by_a_shift),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
