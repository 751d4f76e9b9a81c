/*
 * Speed of the kernels: matrix products in the shapes of real models, attention and the small ops,
 * beside what the machine can do at all (a read-only stream, the raw rate of dot instructions).
 *
 * bench_kernels [isa [threads [format]]]: isa as in plx_kernels_isa; threads 1 or 2 (2 by default);
 * with a format (q4_0 ...) its matrix products alone.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <immintrin.h>

#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "kernels/kernels.h"
#include "kernels/sample.h"
#include "tests/lib/qdata.h"

#define MAX_THREADS 2
#define REPEATS     5

static const struct plx_kernels *k;
static uint32_t n_threads = MAX_THREADS;
static uint32_t repeats = REPEATS;
static uint32_t weight_bytes = 48u << 20; /* beyond the caches, as a model is */

/* ---- two threads, each with its half, timed from start to the last one's end ---------------- */

struct task {
	void (*fn)(void *ctx, uint32_t idx);
	void *ctx;
	pthread_barrier_t *barrier;
	uint64_t start_ns;
	uint64_t end_ns;
	uint32_t idx;
};

static void *run_task(void *arg)
{
	struct task *t = arg;

	plx_k_fpu_setup();
	t->fn(t->ctx, t->idx); /* warm */
	pthread_barrier_wait(t->barrier);
	t->start_ns = plx_clock_ns();
	t->fn(t->ctx, t->idx);
	t->end_ns = plx_clock_ns();
	return NULL;
}

/* Seconds of a run of fn by all threads. */
static double timed_once(void (*fn)(void *ctx, uint32_t idx), void *ctx)
{
	struct task task[MAX_THREADS];
	pthread_t thread[MAX_THREADS];
	pthread_barrier_t barrier;
	uint64_t start = UINT64_MAX;
	uint64_t end = 0;

	pthread_barrier_init(&barrier, NULL, n_threads);
	for (uint32_t i = 0; i < n_threads; i++) {
		task[i] = (struct task){.fn = fn, .ctx = ctx, .barrier = &barrier, .idx = i};
		PLX_CHECK(pthread_create(&thread[i], NULL, run_task, &task[i]) == 0);
	}
	for (uint32_t i = 0; i < n_threads; i++) {
		pthread_join(thread[i], NULL);
		start = task[i].start_ns < start ? task[i].start_ns : start;
		end = task[i].end_ns > end ? task[i].end_ns : end;
	}
	pthread_barrier_destroy(&barrier);
	return (double)(end - start) * 1e-9;
}

/* Seconds of the fastest of REPEATS runs. */
static double timed(void (*fn)(void *ctx, uint32_t idx), void *ctx)
{
	double best = 1e9;

	for (uint32_t r = 0; r < repeats; r++) {
		double s = timed_once(fn, ctx);

		best = s < best ? s : best;
	}
	return best;
}

static void *aligned(size_t bytes)
{
	void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);

	PLX_CHECK(p != NULL);
	memset(p, 0, bytes);
	return p;
}

/* ---- what the machine can do ----------------------------------------------------------------- */

struct stream {
	uint8_t *p;
	size_t bytes;
	uint64_t sum[MAX_THREADS];
};

__attribute__((target("avx2"))) static void read_stream(void *ctx, uint32_t idx)
{
	struct stream *s = ctx;
	size_t part = s->bytes / n_threads / 256 * 256;
	const __m256i *p = (const __m256i *)(const void *)(s->p + part * idx);
	__m256i a = _mm256_setzero_si256();
	__m256i b = a;

	for (size_t i = 0; i < part / 32; i += 2) { /* software prefetch makes it slower */
		a = _mm256_xor_si256(a, _mm256_load_si256(p + i));
		b = _mm256_xor_si256(b, _mm256_load_si256(p + i + 1));
	}
	s->sum[idx] = (uint64_t)_mm256_extract_epi64(_mm256_xor_si256(a, b), 0);
}

#define DOT_STEPS 4000000u

__attribute__((target("avx512f,avx512vnni"))) static void dot_rate(void *ctx, uint32_t idx)
{
	__m512i acc[12];
	__m512i w = _mm512_set1_epi8(3);
	__m512i a = _mm512_set1_epi8((char)(idx + 1));

	for (int j = 0; j < 12; j++)
		acc[j] = _mm512_setzero_si512();
	for (uint32_t i = 0; i < DOT_STEPS; i++) {
#pragma GCC unroll 12
		for (int j = 0; j < 12; j++) {
			acc[j] = _mm512_dpbusd_epi32(acc[j], w, a);
			__asm__ volatile("" : "+v"(acc[j]));
		}
	}
	for (int j = 1; j < 12; j++)
		acc[0] = _mm512_add_epi32(acc[0], acc[j]);
	((struct stream *)ctx)->sum[idx] = (uint64_t)_mm512_reduce_add_epi32(acc[0]);
}

static void bench_machine(void)
{
	struct stream s = {.bytes = weight_bytes};

	s.p = aligned(s.bytes);
	printf("read-only stream of %u MiB: %.1f GB/s\n", weight_bytes >> 20,
	       (double)s.bytes / timed(read_stream, &s) * 1e-9);
	if (plx_kernels_select(PLX_K_ISA_AVX512))
		printf("dot instruction alone (dpbusd, 512 bits): %.0f Gop/s\n",
		       (double)n_threads * DOT_STEPS * 12 * 128 / timed(dot_rate, &s) * 1e-9);
	free(s.p);
}

/* ---- matrix products ------------------------------------------------------------------------- */

struct product {
	struct plx_k_mat w;
	uint8_t *packed; /* w's data */
	size_t bytes;    /* of it */
	struct plx_k_qblk *q;
	uint16_t *bf16;
	float *x;
	float *y;
	uint32_t n_tok;
	uint32_t
	    row_step; /* rows and tokens of one call, as a caller that keeps slices short has */
	uint32_t tok_step;
};

static void run_product(void *ctx, uint32_t idx)
{
	const struct product *p = ctx;
	uint32_t tiles = p->w.n_out / PLX_K_TILE;
	uint32_t from = tiles * idx / n_threads * PLX_K_TILE;
	uint32_t to = tiles * (idx + 1) / n_threads * PLX_K_TILE;

	for (uint32_t row = from; row < to; row += p->row_step)
		for (uint32_t t = 0; t < p->n_tok; t += p->tok_step) {
			struct plx_k_mm m = {.w = &p->w, .q = p->q, .bf16 = p->bf16, .x = p->x};

			m.y = p->y;
			m.y_stride = p->w.n_out;
			m.row_begin = row;
			m.row_end = row + p->row_step < to ? row + p->row_step : to;
			m.tok_begin = t;
			m.tok_end = t + p->tok_step < p->n_tok ? t + p->tok_step : p->n_tok;
			k->matmul(&m);
		}
}

/* One format and width, n_tok tokens; n_out is chosen so that the weights take `bytes`. */
static struct product make_product(enum plx_qtype type, uint32_t n_in, uint32_t n_tok, size_t bytes)
{
	uint64_t seed = 7;
	uint64_t row_bytes = 0;
	uint64_t tile = plx_k_pack_bytes(type, PLX_K_TILE, n_in);
	uint32_t n_out = (uint32_t)(bytes / tile) * PLX_K_TILE;
	struct product p = {.w = {.type = type, .n_in = n_in, .n_out = n_out}, .n_tok = n_tok};

	PLX_CHECK(plx_q_row_bytes(type, n_in, &row_bytes) == 0);
	uint8_t *packed = aligned(tile * (n_out / PLX_K_TILE));
	uint8_t *stored = aligned(row_bytes * PLX_K_TILE);

	plx_t_fill_blocks(type, stored, (size_t)n_in * PLX_K_TILE, PLX_T_RANDOM, &seed);
	plx_k_pack(packed, type, stored, PLX_K_TILE, n_in, 0, PLX_K_TILE);
	for (uint32_t i = 1; i < n_out / PLX_K_TILE; i++)
		memcpy(packed + tile * i, packed, tile);
	free(stored);
	p.w.data = p.packed = packed;
	p.bytes = tile * (n_out / PLX_K_TILE);
	p.x = aligned((size_t)n_tok * n_in * sizeof *p.x);
	p.q = aligned((size_t)n_tok * (n_in / 32) * sizeof *p.q);
	p.y = aligned((size_t)n_tok * n_out * sizeof *p.y);
	for (size_t i = 0; i < (size_t)n_tok * n_in; i++)
		p.x[i] = plx_t_uniform(&seed);
	k->quantise(p.q, p.x, n_tok, n_in, n_in);
	p.bf16 = aligned((size_t)n_tok * n_in * sizeof *p.bf16);
	k->to_bf16(p.bf16, p.x, n_tok * n_in);
	p.row_step = 64;
	p.tok_step = 64;
	return p;
}

static void free_product(struct product *p)
{
	free(p->packed);
	free(p->x);
	free(p->q);
	free(p->bf16);
	free(p->y);
}

static void bench_product(enum plx_qtype type, uint32_t n_in, uint32_t n_tok, size_t bytes)
{
	struct product p = make_product(type, n_in, n_tok, bytes);
	double s = timed(run_product, &p);

	printf("%-5s k=%-5u %3u tokens: %6.1f GB/s of weights, %7.1f Gop/s\n", plx_qtype_name(type),
	       n_in, n_tok, (double)p.bytes / s * 1e-9, 2.0 * p.w.n_out * n_in * n_tok / s * 1e-9);
	free_product(&p);
}

static int by_value(const void *a, const void *b)
{
	const double *x = a;
	const double *y = b;

	return (*x > *y) - (*x < *y);
}

/* One token beside a stream over the same bytes, the two in turn; medians. */
static void bench_decode(enum plx_qtype type, uint32_t n_in)
{
	struct product p = make_product(type, n_in, 1, weight_bytes);
	struct stream stream = {.p = p.packed, .bytes = p.bytes};
	const uint32_t all = n_threads;
	double s[2][REPEATS];

	for (n_threads = 1; n_threads <= all; n_threads++) {
		for (uint32_t r = 0; r < repeats; r++) {
			s[0][r] = timed_once(read_stream, &stream);
			s[1][r] = timed_once(run_product, &p);
		}
		qsort(s[0], repeats, sizeof **s, by_value);
		qsort(s[1], repeats, sizeof **s, by_value);
		printf("%-5s k=%-5u decode, %u threads: %6.1f GB/s, %3.0f %% of the stream\n",
		       plx_qtype_name(type), n_in, n_threads,
		       (double)p.bytes / s[1][repeats / 2] * 1e-9,
		       s[0][repeats / 2] / s[1][repeats / 2] * 100.0);
	}
	n_threads = all;
	free_product(&p);
}

/* All formats in the two widths that matter most, or one in all widths. */
static void bench_products(const char *only)
{
	static const enum plx_qtype types[] = {PLX_Q_Q4_1, PLX_Q_Q4_0, PLX_Q_Q8_0,
	                                       PLX_Q_Q4_K, PLX_Q_Q6_K, PLX_Q_BF16};
	static const uint32_t batches[] = {1, 4, 8, 16};
	static const uint32_t widths[] = {1536, 2048, 8192};

	for (uint32_t i = 0; i < sizeof types / sizeof *types; i++) {
		uint32_t narrow = plx_qtype_block_elems(types[i]) > 32 ? 512 : 576;

		if (only && strcasecmp(only, plx_qtype_name(types[i])) != 0)
			continue;
		for (uint32_t b = 0; b < sizeof batches / sizeof *batches; b++)
			bench_product(types[i], narrow, batches[b], weight_bytes);
		bench_decode(types[i], narrow);
		bench_decode(types[i], 4096);
		bench_product(types[i], narrow, 512, weight_bytes / 96);
		bench_product(types[i], 4096, 512, weight_bytes / 32);
		for (uint32_t w = 0; only && w < sizeof widths / sizeof *widths; w++) {
			bench_decode(types[i], widths[w]);
			bench_product(types[i], widths[w], 4, weight_bytes);
			bench_product(types[i], widths[w], 8, weight_bytes);
			bench_product(types[i], widths[w], 512, weight_bytes / 32);
		}
	}
}

/* ---- attention --------------------------------------------------------------------------------
 */

struct attention {
	struct plx_k_attn a;
	uint32_t table[512];
	float *part;
	float *out;
	uint32_t repeat;
};

static void run_attention(void *ctx, uint32_t idx)
{
	struct attention *at = ctx;
	uint32_t nq = at->a.n_tok * at->a.n_group;
	size_t floats = (size_t)nq * plx_k_attn_part_floats(at->a.kv.head_dim);

	for (uint32_t i = 0; i < at->repeat; i++) {
		k->attn_part(&at->a, 0, at->part + floats * idx);
		k->attn_finish(at->out + (size_t)nq * at->a.kv.head_dim * idx,
		               at->part + floats * idx, nq, at->a.kv.head_dim, at->a.kv.type);
	}
}

/* n_tok queries of `group` heads that end at position `pos`. */
static void bench_attention(uint32_t dim, uint32_t group, uint32_t n_tok, uint32_t pos)
{
	uint64_t seed = 3;
	struct attention at = {.repeat = 4000 / (n_tok * group) + 1};
	uint64_t head_bytes = (uint64_t)32 * dim * 2;
	uint32_t floats = n_tok * group * plx_k_attn_part_floats(dim);
	float *q = aligned((size_t)n_tok * group * dim * sizeof *q);
	float *kv = aligned((size_t)dim * sizeof *kv);

	at.a = (struct plx_k_attn){.kv = {.base = aligned(head_bytes * 2 * 512),
	                                  .table = at.table,
	                                  .block_bytes = head_bytes * 2,
	                                  .k_off = 0,
	                                  .v_off = head_bytes,
	                                  .block_tokens = 32,
	                                  .head_dim = dim},
	                           .q = q,
	                           .q_stride = group * dim,
	                           .n_tok = n_tok,
	                           .n_group = group,
	                           .pos = pos - n_tok,
	                           .scale = 0.125f};
	at.part = aligned((size_t)floats * sizeof(float) * MAX_THREADS);
	at.out = aligned((size_t)floats * sizeof(float) * MAX_THREADS);
	for (uint32_t i = 0; i < 512; i++)
		at.table[i] = i * 7 % 512;
	for (uint32_t i = 0; i < n_tok * group * dim; i++)
		q[i] = plx_t_uniform(&seed);
	for (uint32_t p = 0; p < pos; p++) {
		for (uint32_t i = 0; i < dim; i++)
			kv[i] = plx_t_uniform(&seed);
		k->kv_store(&at.a.kv, p, kv, kv);
	}
	double s = timed(run_attention, &at) / at.repeat;
	double pairs = n_tok * (pos - 0.5 * (n_tok - 1)) * group;

	printf("attention dim=%u group=%u %2u tokens at %4u: %7.1f us, %6.1f Gflop/s, %5.1f GB/s "
	       "of KV\n",
	       dim, group, n_tok, pos, s * 1e6, pairs * dim * 4 * n_threads / s * 1e-9,
	       (double)pos * dim * 4 * n_threads / s * 1e-9);
	free(at.a.kv.base);
	free(at.part);
	free(at.out);
	free(q);
	free(kv);
}

/* ---- small ops --------------------------------------------------------------------------------
 */

static void report(const char *what, uint64_t ns, uint32_t n)
{
	printf("%-34s %8.3f us\n", what, (double)ns / n * 1e-3);
}

static void bench_small(void)
{
	enum { N = 1536, V = 49152, LOOPS = 2000 };
	uint64_t seed = 5;
	float *x = aligned(V * sizeof *x);
	float *y = aligned(V * sizeof *y);
	struct plx_k_qblk *q = aligned(N / 32 * sizeof *q);
	uint64_t t0;
	float max;
	uint32_t found = 0;
	uint64_t sum = 0;

	for (uint32_t i = 0; i < V; i++)
		x[i] = plx_t_uniform(&seed) * 10.0f;
	t0 = plx_clock_ns();
	for (uint32_t i = 0; i < LOOPS; i++)
		k->rmsnorm(y, x, x, 1, 576, 576, 1e-5f);
	report("rmsnorm 576", plx_clock_ns() - t0, LOOPS);
	t0 = plx_clock_ns();
	for (uint32_t i = 0; i < LOOPS; i++)
		k->quantise(q, x, 1, N, N);
	report("quantise 1536", plx_clock_ns() - t0, LOOPS);
	t0 = plx_clock_ns();
	for (uint32_t i = 0; i < LOOPS; i++)
		k->silu_mul(y, x, x + N, N);
	report("silu_mul 1536", plx_clock_ns() - t0, LOOPS);
	t0 = plx_clock_ns();
	for (uint32_t i = 0; i < LOOPS; i++)
		k->rope(y, x, 9, 64, 64, i & 1 ? PLX_K_ROPE_HALVES : PLX_K_ROPE_ADJACENT);
	report("rope 9 heads of 64", plx_clock_ns() - t0, LOOPS);
	t0 = plx_clock_ns();
	for (uint32_t i = 0; i < LOOPS / 20; i++)
		found += k->argmax(x, V);
	report("argmax 49152", plx_clock_ns() - t0, LOOPS / 20);
	t0 = plx_clock_ns();
	for (uint32_t i = 0; i < LOOPS / 20; i++)
		sum += k->logit_sum(x, V, &max);
	report("logit_sum 49152", plx_clock_ns() - t0, LOOPS / 20);
	PLX_CHECK(found != 1 && sum != 1);
	free(x);
	free(y);
	free(q);
}

static void bench_sampling(void)
{
	enum { V = 49152, LOOPS = 200 };
	static const struct plx_k_sampling settings[] = {
	    {.temperature = 0.0f, .top_p = 1.0f, .repeat_penalty = 1.0f},
	    {.temperature = 0.8f, .top_p = 0.95f, .top_k = 40, .repeat_penalty = 1.0f},
	    {.temperature = 0.8f, .top_p = 0.95f, .min_p = 0.05f, .repeat_penalty = 1.0f},
	    {.temperature = 0.8f, .top_p = 0.95f, .repeat_penalty = 1.0f},
	    {.temperature = 1.0f, .top_p = 1.0f, .repeat_penalty = 1.0f},
	};
	static const char *names[] = {"greedy", "top-k 40, top-p 0.95", "top-p 0.95, min-p 0.05",
	                              "top-p 0.95", "temperature alone"};
	struct plx_k_logprob top[PLX_K_TOP_MAX];
	uint64_t seed = 9;
	float *x = aligned(V * sizeof *x);
	void *scratch = aligned(plx_k_sample_scratch_bytes());
	float lp;

	for (uint32_t i = 0; i < V; i++) /* a bell: sums of uniforms, standard deviation 2.8 */
		for (int j = 0; j < 24; j++)
			x[i] += plx_t_uniform(&seed);
	x[777] = 16.0f;
	for (uint32_t c = 0; c < sizeof settings / sizeof *settings; c++) {
		char what[64];
		uint64_t t0 = plx_clock_ns();

		for (uint32_t i = 0; i < LOOPS; i++)
			PLX_CHECK(plx_k_sample(k, &settings[c], x, V, i, 0, scratch) >= 0);
		snprintf(what, sizeof what, "sample 49152, %s", names[c]);
		report(what, plx_clock_ns() - t0, LOOPS);
	}
	uint64_t t0 = plx_clock_ns();

	for (uint32_t i = 0; i < LOOPS; i++)
		PLX_CHECK(plx_k_logprobs(k, x, V, i, &lp, top, 10, scratch) == 0);
	report("logprobs 49152, top 10", plx_clock_ns() - t0, LOOPS);
	free(x);
	free(scratch);
}

static void bench_pack(void)
{
	static const enum plx_qtype types[] = {PLX_Q_Q4_1, PLX_Q_Q8_0, PLX_Q_Q4_K, PLX_Q_Q6_K,
	                                       PLX_Q_BF16};
	enum { ROWS = 512, WIDTH = 4096 };

	for (uint32_t i = 0; i < sizeof types / sizeof *types; i++) {
		uint64_t row = 0;
		uint64_t t0;

		PLX_CHECK(plx_q_row_bytes(types[i], WIDTH, &row) == 0);
		uint8_t *from = aligned(row * ROWS);
		uint8_t *to = aligned(plx_k_pack_bytes(types[i], ROWS, WIDTH));

		t0 = plx_clock_ns();
		plx_k_pack(to, types[i], from, ROWS, WIDTH, 0, ROWS);
		printf("pack %-5s %26.3f ns an element\n", plx_qtype_name(types[i]),
		       (double)(plx_clock_ns() - t0) / (ROWS * WIDTH));
		free(from);
		free(to);
	}
}

int main(int argc, char **argv)
{
	int isa = plx_kernels_isa(argc > 1 ? argv[1] : "best");

	k = isa < 0 ? NULL : plx_kernels_select((enum plx_k_isa)isa);
	if (argc > 2)
		n_threads = (uint32_t)atoi(argv[2]);
	if (!k || n_threads < 1 || n_threads > MAX_THREADS) {
		fprintf(stderr,
		        "usage: %s [best|scalar|avx2|avxvnni|avx512vnni|avx512bf16|amx [1|2 "
		        "[format]]]\n",
		        argv[0]);
		return 2;
	}
	printf("kernels %s (%s), %u threads\n", k->isa_name, k->numeric_kind, n_threads);
	if (k->isa == PLX_K_ISA_SCALAR) { /* or it would take minutes */
		repeats = 1;
		weight_bytes = 2u << 20;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	plx_k_fpu_setup();
	bench_machine();
	bench_products(argc > 3 ? argv[3] : NULL);
	if (argc > 3)
		return 0;
	bench_attention(64, 3, 1, 512);
	bench_attention(64, 3, 16, 512);
	bench_attention(128, 4, 1, 1024);
	bench_attention(128, 4, 16, 1024);
	bench_small();
	bench_sampling();
	bench_pack();
	return 0;
}
