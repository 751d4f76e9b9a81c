/*
 * The few tile instructions that mm_amx.h uses, or, with PLX_AMX_MODEL, the same in plain C, so
 * that one source is tested on every machine.
 *
 * A tile number is a literal. The configuration is 64 bytes as ldtilecfg takes them.
 * Source: Intel Architecture Instruction Set Extensions Programming Reference, chapter on AMX.
 */
#ifndef PLX_KERNELS_CPU_AMX_TILE_H
#define PLX_KERNELS_CPU_AMX_TILE_H

#include <stdint.h>

/* Tiles 0..7: rows of colsb bytes; a tile of 0 rows can't be used. */
struct amx_config {
	uint8_t palette; /* 1 */
	uint8_t start_row;
	uint8_t reserved[14];
	uint16_t colsb[16];
	uint8_t rows[16];
};
_Static_assert(sizeof(struct amx_config) == 64, "as the instruction reads it");

#ifndef PLX_AMX_MODEL

#include <immintrin.h>

/* The compilers' loads don't say what they read: from here on what p points to is in memory. */
#define amx_written(p)              __asm__ volatile("" ::"r"(p) : "memory")
#define amx_begin(config)           _tile_loadconfig(config)
#define amx_end()                   _tile_release()
#define amx_zero(tile)              _tile_zero(tile)
#define amx_load(tile, from, bytes) _tile_loadd(tile, from, bytes)
#define amx_store(tile, to, bytes)  _tile_stored(tile, to, bytes)
#define amx_dot(c, a, b)            _tile_dpbssd(c, a, b)

#else

#include <string.h>

#include "fw/base/check.h"

struct amx_model {
	struct amx_config is;
	int8_t tile[8][16][64];
};
static _Thread_local struct amx_model amx_model;

#define amx_written(p) (void)(p)

static inline void amx_begin(const struct amx_config *config)
{
	memset(&amx_model, 0, sizeof amx_model);
	amx_model.is = *config;
	PLX_CHECK(config->palette == 1 && config->start_row == 0);
	for (int i = 0; i < 8; i++)
		PLX_CHECK(config->rows[i] <= 16 && config->colsb[i] <= 64);
}

static inline void amx_end(void)
{
	memset(&amx_model, 0xa5, sizeof amx_model); /* the next use must configure again */
}

static inline void amx_zero(int tile)
{
	PLX_CHECK(amx_model.is.palette == 1 && amx_model.is.rows[tile] > 0);
	memset(amx_model.tile[tile], 0, sizeof amx_model.tile[tile]);
}

static inline void amx_load(int tile, const void *from, size_t stride_bytes)
{
	amx_zero(tile);
	for (uint32_t r = 0; r < amx_model.is.rows[tile]; r++)
		memcpy(amx_model.tile[tile][r], (const uint8_t *)from + r * stride_bytes,
		       amx_model.is.colsb[tile]);
}

static inline void amx_store(int tile, void *to, size_t stride_bytes)
{
	PLX_CHECK(amx_model.is.palette == 1 && amx_model.is.rows[tile] > 0);
	for (uint32_t r = 0; r < amx_model.is.rows[tile]; r++)
		memcpy((uint8_t *)to + r * stride_bytes, amx_model.tile[tile][r],
		       amx_model.is.colsb[tile]);
}

/* c[m][n] += sum over k, i of a[m][4k + i] * b[k][4n + i] */
static inline void amx_dot(int c, int a, int b)
{
	const struct amx_config *is = &amx_model.is;

	PLX_CHECK(is->palette == 1 && is->rows[c] > 0 && is->rows[c] == is->rows[a] &&
	          is->colsb[c] == is->colsb[b] && is->rows[b] * 4 == is->colsb[a]);
	for (uint32_t m = 0; m < is->rows[c]; m++)
		for (uint32_t n = 0; n < is->colsb[c] / 4u; n++) {
			int32_t sum;

			memcpy(&sum, &amx_model.tile[c][m][4 * n], sizeof sum);
			for (uint32_t k = 0; k < is->colsb[a]; k++)
				sum += amx_model.tile[a][m][k] *
				       amx_model.tile[b][k / 4][4 * n + k % 4];
			memcpy(&amx_model.tile[c][m][4 * n], &sum, sizeof sum);
		}
}

#endif
#endif
