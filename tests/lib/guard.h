/*
 * Memory between pages that can't be touched, so that a kernel that reads or writes one byte beyond
 * an operand ends the test.
 */
#ifndef PLX_TESTS_LIB_GUARD_H
#define PLX_TESTS_LIB_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whole pages, with one of no rights before and one behind. */
struct plx_t_guard {
	uint8_t *data;
	size_t room; /* bytes at data */
	uint8_t
	    *slack; /* beside the operand, on the side where it doesn't meet a page of no rights */
	size_t n_slack;
};

/* plx_t_guard_open - room for bytes, rounded up to pages; fails the program without memory. */
void plx_t_guard_open(struct plx_t_guard *g, size_t bytes);
void plx_t_guard_close(struct plx_t_guard *g);

/*
 * plx_t_guard_put - place an operand so that it begins with the first byte that may be touched, or
 * ends with the last; it takes the place of the one before. On its other side lie up to 4 KiB of
 * 0xff, which is NaN in every format.
 *
 * @from  in [bytes], copied there; NULL fills it with 0xff as well.
 */
void *plx_t_guard_put(struct plx_t_guard *g, bool at_end, const void *from, size_t bytes);

/* plx_t_guard_intact - whether nothing was written beside the operand. */
bool plx_t_guard_intact(const struct plx_t_guard *g);

#endif
