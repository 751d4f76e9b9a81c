/*
 * A small plan of a weights cache, its data, and the file that belongs to them, for tests.
 */
#ifndef PLX_TESTS_LIB_CACHEKIT_H
#define PLX_TESTS_LIB_CACHEKIT_H

#include <stdint.h>

#include "accel/cpu_cache.h"

/* plx_t_cache_plan - a plan of two matrices with so much data; points into static memory. */
struct plx_cache_plan plx_t_cache_plan(uint64_t data_bytes);

/* plx_t_cache_fill - bytes that differ from one to the next. */
void plx_t_cache_fill(uint8_t *data, uint64_t n);

/* plx_t_cache_file - the whole file in memory, made without the writer; the caller frees it. */
uint8_t *plx_t_cache_file(const struct plx_cache_plan *plan, const uint8_t *data, uint64_t *bytes);

#endif
