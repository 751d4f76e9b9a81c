/*
 * Stored rows into tiles of 16 (layout.h): a byte shuffle, no arithmetic, so every weight keeps
 * exactly the value the file gives it.
 */
#include "kernels/kernels.h"

#include <string.h>

#include "fw/base/check.h"
#include "kernels/cpu/layout.h"

uint64_t plx_k_pack_bytes(uint32_t ggml_type, uint32_t n_out, uint32_t n_in)
{
	uint32_t elems = plx_qtype_block_elems(ggml_type);
	uint64_t bytes;

	if (elems == 0 || n_out == 0 || n_in == 0 || n_in % 32 || n_in % elems)
		return 0;
	uint64_t tiles = ((uint64_t)n_out + PLX_K_TILE - 1) / PLX_K_TILE;

	if (__builtin_mul_overflow(tiles, plx_layout_tile_bytes((enum plx_qtype)ggml_type, n_in),
	                           &bytes))
		return 0;
	return bytes;
}

/* q[i] and q[i + 16] from the nibbles of 16 bytes. */
static void from_nibbles(const uint8_t *qs, uint8_t q[32])
{
	for (uint32_t i = 0; i < 16; i++) {
		q[i] = qs[i] & 15u;
		q[i + 16] = (uint8_t)((unsigned)qs[i] >> 4);
	}
}

/* One nibble of each of 32 bytes: those of an odd sub-block are the high ones. */
static void from_half(const uint8_t *qs, uint32_t sub, uint8_t q[32])
{
	for (uint32_t i = 0; i < 32; i++)
		q[i] = (uint8_t)((unsigned)qs[i] >> (sub & 1) * 4 & 15u);
}

/* Bit i of the 4 bytes at qh is bit 4 of q[i]. */
static void add_fifth_bits(const uint8_t *qh, uint8_t q[32])
{
	uint32_t bits;

	memcpy(&bits, qh, sizeof bits);
	for (uint32_t i = 0; i < 32; i++)
		q[i] |= (uint8_t)((bits >> i & 1u) << 4);
}

/* The 32 unsigned quants of one stored 32-block (of sub-block `sub` of a super-block). */
static void quants_of(enum plx_qtype type, const uint8_t *p, uint32_t sub, uint8_t q[32])
{
	switch (type) {
	case PLX_Q_Q4_0:
		from_nibbles(p + 2, q);
		break;
	case PLX_Q_Q4_1:
		from_nibbles(p + 4, q);
		break;
	case PLX_Q_Q5_0:
		from_nibbles(p + 6, q);
		add_fifth_bits(p + 2, q);
		break;
	case PLX_Q_Q5_1:
		from_nibbles(p + 8, q);
		add_fifth_bits(p + 4, q);
		break;
	case PLX_Q_Q8_0:
		for (uint32_t i = 0; i < 32; i++)
			q[i] = p[2 + i] ^ 0x80u;
		break;
	case PLX_Q_Q4_K:
		from_half(p + 16 + sub / 2 * 32, sub, q);
		break;
	case PLX_Q_Q5_K:
		from_half(p + 48 + sub / 2 * 32, sub, q);
		for (uint32_t i = 0; i < 32; i++)
			q[i] |= (uint8_t)(((unsigned)p[16 + i] >> sub & 1u) << 4);
		break;
	case PLX_Q_Q6_K:
		from_half(p + (sub >> 2) * 64 + (sub & 1) * 32, (sub >> 1) & 1, q);
		for (uint32_t i = 0; i < 32; i++)
			q[i] |=
			    (uint8_t)(((unsigned)p[128 + (sub >> 2) * 32 + i] >> (sub & 3) * 2 & 3u)
			              << 4);
		break;
	case PLX_Q_F32:
	case PLX_Q_F16:
	case PLX_Q_BF16:
		PLX_CHECK(false); /* a float format has no quants */
	}
}

/*
 * Row r's high bits into the h planes: of columns 4g + j, bit g (or two bits from 2g) of byte j.
 * Four columns at once, in the bytes of a word: shifts by g stay inside a byte.
 */
static void put_high(struct plx_layout l, uint8_t *hp, uint32_t r, const uint8_t q[32])
{
	uint32_t h[2] = {0, 0};

	for (uint32_t g = 0; g < 8; g++) {
		uint32_t four;

		memcpy(&four, q + 4 * g, sizeof four);
		four = four >> 4 & 0x03030303u;
		if (l.h_bytes == 64)
			h[0] |= four << g;
		else
			h[g >> 2] |= four << 2 * (g & 3);
	}
	memcpy(hp + r * 4, &h[0], 4);
	if (l.h_bytes == 128)
		memcpy(hp + 64 + r * 4, &h[1], 4);
}

/* Row r's 32 quants into the q and h planes of a block. */
static void put_quants(struct plx_layout l, uint8_t *qp, uint8_t *hp, uint32_t r,
                       const uint8_t q[32])
{
	uint8_t nibbles[16];

	if (l.q_bytes == 512) {
		for (uint32_t g = 0; g < 8; g++)
			memcpy(qp + g * 64 + r * 4, q + g * 4, 4);
		return;
	}
	for (uint32_t i = 0; i < 16; i++)
		nibbles[i] = (uint8_t)((q[i] & 15u) | (unsigned)q[i + 16] << 4);
	for (uint32_t g = 0; g < 4; g++)
		memcpy(qp + g * 64 + r * 4, nibbles + g * 4, 4);
	if (l.h_bytes)
		put_high(l, hp, r, q);
}

/* Row r's scales of a block (of sub-block `sub` of a super-block) into the group's scales. */
static void put_scales(enum plx_qtype type, uint8_t *s, uint32_t r, const uint8_t *p, uint32_t sub)
{
	uint8_t *sub_scales = s + (type == PLX_Q_Q6_K ? 32 : 64) + sub * 32;

	switch (type) {
	case PLX_Q_Q4_0:
	case PLX_Q_Q5_0:
	case PLX_Q_Q8_0:
		memcpy(s + sub * 32 + 2 * r, p, 2);
		break;
	case PLX_Q_Q4_1:
	case PLX_Q_Q5_1:
		memcpy(s + sub * 64 + 2 * r, p, 2);
		memcpy(s + sub * 64 + 32 + 2 * r, p + 2, 2);
		break;
	case PLX_Q_Q4_K:
	case PLX_Q_Q5_K:
		memcpy(s + 2 * r, p, 2);
		memcpy(s + 32 + 2 * r, p + 2, 2);
		plx_q_k4_scale(p + 4, sub, &sub_scales[r], &sub_scales[16 + r]);
		break;
	case PLX_Q_Q6_K:
		memcpy(s + 2 * r, p + 208, 2);
		sub_scales[r] = p[192 + sub * 2];
		sub_scales[16 + r] = p[192 + sub * 2 + 1];
		break;
	case PLX_Q_F32:
	case PLX_Q_F16:
	case PLX_Q_BF16:
		PLX_CHECK(false); /* a float format has no scales */
	}
}

/* One stored row of n_blocks 32-blocks into lane r of a zeroed tile. */
static void pack_row(enum plx_qtype type, uint8_t *tile, uint32_t r, const uint8_t *row,
                     uint32_t n_blocks)
{
	struct plx_layout l = plx_layout_of(type);
	uint32_t stored_blocks = plx_qtype_block_elems(type) / 32; /* 1, or 8 in a super-block */
	uint32_t block_bytes = plx_qtype_block_bytes(type);

	for (uint32_t b = 0; b < n_blocks; b++) {
		uint32_t in_group = b % l.group_blocks;
		uint8_t *group = tile + (size_t)(b / l.group_blocks) * plx_layout_group_bytes(l);
		uint8_t *h = group + l.group_blocks * l.q_bytes;
		const uint8_t *p = row + (size_t)(b / stored_blocks) * block_bytes;
		uint8_t q[32];

		quants_of(type, p, b % stored_blocks, q);
		put_quants(l, group + in_group * l.q_bytes, h + in_group * l.h_bytes, r, q);
		put_scales(type, h + l.group_blocks * l.h_bytes, r, p, in_group);
	}
}

static void pack_float_row(enum plx_qtype type, uint8_t *tile, uint32_t r, const uint8_t *row,
                           uint32_t n_in)
{
	for (uint32_t c = 0; c < n_in; c++) {
		size_t to = (size_t)c * PLX_K_TILE + r;

		if (type == PLX_Q_BF16)
			to = ((size_t)(c / 2) * PLX_K_TILE + r) * 2 + (c & 1);
		if (type == PLX_Q_F32)
			memcpy(tile + to * 4, row + (size_t)c * 4, 4);
		else
			memcpy(tile + to * 2, row + (size_t)c * 2, 2);
	}
}

void plx_k_pack(void *dst, enum plx_qtype type, const void *src, uint32_t n_out, uint32_t n_in,
                uint32_t row_begin, uint32_t row_end)
{
	uint64_t tile_bytes = plx_layout_tile_bytes(type, n_in);
	uint64_t row_bytes = 0;
	int err = plx_q_row_bytes(type, n_in, &row_bytes);

	PLX_CHECK(err == 0 && plx_k_pack_bytes(type, n_out, n_in) != 0);
	PLX_CHECK(row_begin % PLX_K_TILE == 0 && row_begin <= row_end && row_end <= n_out);
	PLX_CHECK(row_end % PLX_K_TILE == 0 || row_end == n_out);
	for (uint32_t row = row_begin; row < row_end; row++) {
		uint8_t *tile = (uint8_t *)dst + row / PLX_K_TILE * tile_bytes;
		const uint8_t *from = (const uint8_t *)src + row * row_bytes;

		if (row % PLX_K_TILE == 0)
			memset(tile, 0, tile_bytes);
		if (plx_layout_of(type).group_blocks == 0)
			pack_float_row(type, tile, row % PLX_K_TILE, from, n_in);
		else
			pack_row(type, tile, row % PLX_K_TILE, from, n_in / 32);
	}
}
