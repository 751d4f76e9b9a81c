/* Repacks weights as a file stores them into tiles; once, at load. */
#include "kernels/cuda/mat.cuh"

static uint64_t up256(uint64_t v)
{
	return (v + 255) & ~(uint64_t)255;
}

/* Bytes of the four parts of a matrix. */
struct parts {
	uint64_t q, hi, scale, super;
};

static int parts_of(struct parts *p, uint32_t type, uint32_t n_out, uint32_t n_in)
{
	uint64_t tiles = ((uint64_t)n_out + 15) / 16, kp = ((uint64_t)n_in + 63) / 64;
	uint32_t block = type == PLX_Q_Q4_K || type == PLX_Q_Q5_K || type == PLX_Q_Q6_K ? 256 : 32;

	if (n_out == 0 || n_in == 0 || n_in % block != 0)
		return -1;
	switch (type) {
#define X(T)                                                                                       \
	case T:                                                                                    \
		p->q = up256(tiles * kp * n_load(T) * 512);                                        \
		p->hi = has_hi(T) ? up256(tiles * kp * 256) : 0;                                   \
		p->scale = up256(tiles * kp * 8 * scale_bytes(T));                                 \
		p->super = has_super(T) ? up256(tiles * (kp / 4) * 64) : 0;                        \
		return 0;
		N_LIST(X)
#undef X
	default:
		return -1;
	}
}

uint64_t plx_kc_mat_bytes(uint32_t type, uint32_t n_out, uint32_t n_in)
{
	struct parts p;

	return parts_of(&p, type, n_out, n_in) == 0 ? p.q + p.hi + p.scale + p.super : 0;
}

void plx_kc_mat_place(struct plx_kc_mat *m, void *base, uint32_t type, uint32_t n_out,
                      uint32_t n_in)
{
	struct parts p = {};
	uint8_t *at = (uint8_t *)base;

	(void)parts_of(&p, type, n_out, n_in);
	m->q = at;
	m->hi = at + p.q;
	m->scale = at + p.q + p.hi;
	m->super = at + p.q + p.hi + p.scale;
	m->type = type;
	m->n_out = n_out;
	m->n_in = n_in;
	m->n_kp = (n_in + 63) / 64;
}

/* ---- what a stored block holds -------------------------------------------------------------- */

static __host__ __device__ constexpr int block_elems(int type)
{
	return type == PLX_Q_Q4_K || type == PLX_Q_Q5_K || type == PLX_Q_Q6_K ? 256
	       : scale_of(type) == SCALE_NONE                                  ? 1
	                                                                       : 32;
}

static __host__ __device__ constexpr int block_bytes(int type)
{
	return type == PLX_Q_F32                            ? 4
	       : type == PLX_Q_F16 || type == PLX_Q_BF16 ? 2
	       : type == PLX_Q_Q4_0                         ? 18
	       : type == PLX_Q_Q4_1                         ? 20
	       : type == PLX_Q_Q5_0                         ? 22
	       : type == PLX_Q_Q5_1                         ? 24
	       : type == PLX_Q_Q8_0                         ? 34
	       : type == PLX_Q_Q4_K                         ? 144
	       : type == PLX_Q_Q5_K                         ? 176
	                                                    : 210;
}

static __device__ uint32_t u16_at(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

/* The stored bits of element i of a block: quants without their scale, floats as they are. */
template <int TYPE> static __device__ uint32_t bits_at(const uint8_t *b, uint32_t i)
{
	if (TYPE == PLX_Q_F32)
		return u16_at(b) | u16_at(b + 2) << 16;
	if (TYPE == PLX_Q_F16 || TYPE == PLX_Q_BF16)
		return u16_at(b);
	if (TYPE == PLX_Q_Q8_0)
		return b[2 + i];
	if (TYPE == PLX_Q_Q4_K || TYPE == PLX_Q_Q5_K) {
		const uint8_t *qs = b + (TYPE == PLX_Q_Q4_K ? 16 : 48);
		uint32_t q = (qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4)) & 15u;

		return TYPE == PLX_Q_Q4_K ? q : q | ((b[16 + i % 32] >> (i / 32)) & 1u) << 4;
	}
	if (TYPE == PLX_Q_Q6_K) {
		uint32_t half = i >> 7, run = (i >> 5) & 3, col = i & 31;
		uint32_t low = b[half * 64 + (run & 1) * 32 + col] >> (run >> 1) * 4;
		uint32_t high = b[128 + half * 32 + col] >> run * 2;

		return (low & 15u) | (high & 3u) << 4;
	}
	const int head = TYPE == PLX_Q_Q4_0 || TYPE == PLX_Q_Q5_0 ? 2 : 4;
	const int qs = head + (has_hi(TYPE) ? 4 : 0);
	uint32_t q = i < 16 ? b[qs + i] & 15u : (uint32_t)(b[qs + i - 16] >> 4);

	return has_hi(TYPE) ? q | ((b[head + i / 8] >> (i % 8)) & 1u) << 4 : q;
}

static __device__ uint32_t k4_scale(const uint8_t *s, uint32_t j)
{
	if (j < 4)
		return (s[j] & 63u) | (s[j + 4] & 63u) << 8;
	return ((s[j + 4] & 15u) | (uint32_t)(s[j - 4] >> 6) << 4) |
	       ((uint32_t)(s[j + 4] >> 4) | (uint32_t)(s[j] >> 6) << 4) << 8;
}

/* A row, or none where it only fills the tile; columns past the row's end are zero. */
struct src_row {
	const uint8_t *p;
	uint32_t n_in;
};

template <int TYPE> static __device__ uint32_t elem_at(struct src_row r, uint32_t col)
{
	if (r.p == NULL || col >= r.n_in)
		return 0;
	return bits_at<TYPE>(r.p + (uint64_t)(col / block_elems(TYPE)) * block_bytes(TYPE),
	                     col % block_elems(TYPE));
}

/* The scale words of 32-block kb (counted along the row) of a row. */
template <int TYPE> static __device__ uint32_t scale_bits(struct src_row r, uint32_t kb)
{
	if (r.p == NULL || kb * 32 >= r.n_in)
		return 0;
	const uint8_t *b = r.p + (uint64_t)(kb * 32 / block_elems(TYPE)) * block_bytes(TYPE);

	if (scale_of(TYPE) == SCALE_D)
		return u16_at(b);
	if (scale_of(TYPE) == SCALE_DM)
		return u16_at(b) | u16_at(b + 2) << 16;
	if (scale_of(TYPE) == SCALE_K45)
		return k4_scale(b + 4, kb % 8);
	return u16_at(b + 192 + kb % 8 * 2); /* K6: two signed bytes */
}

template <int TYPE> static __device__ uint32_t super_bits(struct src_row r, uint32_t kp)
{
	if (r.p == NULL)
		return 0;
	const uint8_t *b = r.p + (uint64_t)(kp / 4) * block_bytes(TYPE);

	return scale_of(TYPE) == SCALE_K6 ? u16_at(b + 208) : u16_at(b) | u16_at(b + 2) << 16;
}

/* ---- the kernel: a warp a tile and 64 columns ------------------------------------------------ */

/* The 16-byte loads of a lane; row[r] are its two rows. */
template <int TYPE>
static __device__ void quants_pack(uint4 *q, uint2 *hi, const struct src_row row[2], uint32_t kp,
                                   uint32_t t)
{
	uint32_t word[n_load(TYPE) * 4] = {}, high[2] = {};

	for (uint32_t i = 0; i < 32; i++) {
		uint32_t kb = i / 16, r = i / 8 % 2, e = i % 8;
		uint32_t v = elem_at<TYPE>(row[r], kp * 64 + kb * 32 + e / 4 * 16 + t * 4 + e % 4);

		if (TYPE == PLX_Q_F32)
			word[i] = v;
		else if (TYPE == PLX_Q_F16 || TYPE == PLX_Q_BF16)
			word[i / 2] |= v << (i % 2 * 16);
		else if (TYPE == PLX_Q_Q8_0)
			word[i / 4] |= v << (i % 4 * 8);
		else
			word[i / 8] |= (v & 15u) << (e / 2 * 4 + e % 2 * 16);
		high[kb] |= ((v >> 4) & 3u) << (2 * (r * 4 + e / 2) + e % 2 * 16);
	}
	for (int i = 0; i < n_load(TYPE); i++)
		q[i * WARP] = make_uint4(word[i * 4], word[i * 4 + 1], word[i * 4 + 2],
		                         word[i * 4 + 3]);
	if (has_hi(TYPE))
		*hi = make_uint2(high[0], high[1]);
}

template <int TYPE>
static __device__ void scales_pack(const struct plx_kc_mat *m, uint64_t at, uint32_t g,
                                   const struct src_row row[2], uint32_t kp)
{
	uint32_t s[4];

	for (uint32_t i = 0; i < 4; i++)
		s[i] = scale_bits<TYPE>(row[i / 2], kp * 2 + i % 2);
	if (scale_bytes(TYPE) == 16)
		((uint4 *)m->scale)[at * 8 + g] = make_uint4(s[0], s[1], s[2], s[3]);
	else
		((uint2 *)m->scale)[at * 8 + g] =
		    make_uint2(s[0] | s[1] << 16, s[2] | s[3] << 16);
}

template <int TYPE>
static __global__ void pack_kernel(struct plx_kc_mat m, const uint8_t *raw, uint64_t row_bytes,
                                   uint32_t row0, uint32_t n_rows)
{
	uint32_t lane = threadIdx.x % WARP, g = lane / 4;
	uint64_t unit = (uint64_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
	uint32_t tile = (uint32_t)(unit / m.n_kp), kp = (uint32_t)(unit % m.n_kp);
	struct src_row row[2];

	if (tile * 16 >= n_rows)
		return;
	for (uint32_t r = 0; r < 2; r++) {
		uint32_t i = tile * 16 + g + r * 8;

		row[r].p = i < n_rows ? raw + i * row_bytes : NULL;
		row[r].n_in = m.n_in;
	}
	tile += row0 / 16;
	uint64_t at = (uint64_t)tile * m.n_kp + kp;

	quants_pack<TYPE>((uint4 *)m.q + at * n_load(TYPE) * WARP + lane,
	                  (uint2 *)m.hi + at * WARP + lane, row, kp, lane % 4);
	if (scale_of(TYPE) == SCALE_NONE || lane % 4 != 0)
		return;
	scales_pack<TYPE>(&m, at, g, row, kp);
	if (has_super(TYPE) && kp % 4 == 0)
		((uint2 *)m.super)[((uint64_t)tile * (m.n_kp / 4) + kp / 4) * 8 + g] =
		    make_uint2(super_bits<TYPE>(row[0], kp), super_bits<TYPE>(row[1], kp));
}

void plx_kc_pack(const struct plx_kc_mat *m, const void *raw, uint64_t row_bytes, uint32_t row0,
                 uint32_t n_rows, struct CUstream_st *st)
{
	uint64_t units = (uint64_t)((n_rows + 15) / 16) * m->n_kp;
	uint32_t grid = (uint32_t)((units + 3) / 4);

	switch (m->type) {
#define X(T)                                                                                       \
	case T:                                                                                    \
		pack_kernel<T><<<grid, 128, 0, st>>>(*m, (const uint8_t *)raw, row_bytes, row0,    \
		                                     n_rows);                                      \
		break;
		N_LIST(X)
#undef X
	default:
		break;
	}
}
