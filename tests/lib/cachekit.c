/* A weights cache for tests. */
#include "tests/lib/cachekit.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "fw/base/check.h"

struct plx_cache_plan plx_t_cache_plan(uint64_t data_bytes)
{
	static struct plx_cache_mat mat[2];
	struct plx_cache_plan p = {.layout_id = 7,
	                           .n_mat = 2,
	                           .model_bytes = 123456789,
	                           .model_mtime_ns = 1700000000123456789u,
	                           .model_hash = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
	                           .mat = mat,
	                           .data_bytes = data_bytes};

	mat[0] = (struct plx_cache_mat){0, data_bytes / 2, 2, 16, 64, 0};
	mat[1] = (struct plx_cache_mat){data_bytes / 2, data_bytes - data_bytes / 2, 3, 16, 96, 0};
	return p;
}

void plx_t_cache_fill(uint8_t *data, uint64_t n)
{
	uint32_t x = 1;

	for (uint64_t i = 0; i < n; i++) {
		x = x * 1664525u + 1013904223u;
		data[i] = (uint8_t)(x >> 24);
	}
}

uint8_t *plx_t_cache_file(const struct plx_cache_plan *plan, const uint8_t *data, uint64_t *bytes)
{
	uint64_t off = plx_cache_table_bytes(plan);
	uint8_t *file = malloc(off + plan->data_bytes);

	PLX_CHECK(file != NULL);
	plx_cache_table_make(file, plan);
	memcpy(file + off, data, plan->data_bytes);
	for (uint64_t i = 0; i < plx_cache_n_chunk(plan->data_bytes); i++) {
		uint64_t at = i * PLX_CACHE_CHUNK, n = plan->data_bytes - at;

		plx_cache_table_sums(file)[i] =
		    XXH3_64bits(data + at, n < PLX_CACHE_CHUNK ? n : PLX_CACHE_CHUNK);
	}
	plx_cache_table_seal(file, off);
	*bytes = off + plan->data_bytes;
	return file;
}
