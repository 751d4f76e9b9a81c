/*
 * A buddy allocator over one region, in units of 2 KiB: contiguous pieces for reassembly, bounded
 * work for take and give. A piece's buddy is found by flipping one bit of its index.
 * Source: Knuth, The Art of Computer Programming, volume 1, section 2.5.
 */
#include "dataplane/wire/reasm.h"

#include <string.h>

#include "fw/base/check.h"

#define NIL  UINT32_MAX
#define FREE 0x80u

static uint32_t units_of(size_t region_bytes)
{
	uint64_t n = 1;

	while (2 * n * PLX_PIECE_MIN_BYTES <= region_bytes && n < (1u << (PLX_PIECE_ORDERS - 1)))
		n *= 2;
	return (uint32_t)n;
}

size_t plx_pieces_footprint(size_t region_bytes)
{
	size_t n = units_of(region_bytes);

	return n * 2 * sizeof(uint32_t) + ((n + 7) & ~(size_t)7);
}

static void list_push(struct plx_pieces *m, uint32_t u, uint32_t order)
{
	m->link[2 * u] = m->head[order];
	m->link[2 * u + 1] = NIL;
	if (m->head[order] != NIL)
		m->link[2 * m->head[order] + 1] = u;
	m->head[order] = u;
	m->order[u] = (uint8_t)((order + 1) | FREE);
}

static void list_unlink(struct plx_pieces *m, uint32_t u, uint32_t order)
{
	uint32_t next = m->link[2 * u], prev = m->link[2 * u + 1];

	if (next != NIL)
		m->link[2 * next + 1] = prev;
	if (prev != NIL)
		m->link[2 * prev] = next;
	else
		m->head[order] = next;
	m->order[u] = 0;
}

int plx_pieces_init(struct plx_pieces *m, void *region, size_t region_bytes, void *book)
{
	if (region_bytes < PLX_PIECE_MIN_BYTES || (uintptr_t)region % 64 || (uintptr_t)book % 8)
		return PLX_E_INVAL;
	memset(m, 0, sizeof(*m));
	m->base = region;
	m->n_units = m->n_free = units_of(region_bytes);
	m->link = book;
	m->order = (uint8_t *)book + 2 * sizeof(uint32_t) * (size_t)m->n_units;
	memset(m->order, 0, m->n_units);
	for (uint32_t i = 0; i < PLX_PIECE_ORDERS; i++)
		m->head[i] = NIL;
	list_push(m, 0, (uint32_t)__builtin_ctz(m->n_units));
	return 0;
}

static uint32_t order_of(uint32_t bytes)
{
	uint64_t size = PLX_PIECE_MIN_BYTES;
	uint32_t order = 0;

	for (; size < bytes; size *= 2)
		order++;
	return order;
}

void *plx_pieces_take(struct plx_pieces *m, uint32_t bytes)
{
	uint32_t want = order_of(bytes), o = want;

	while (o < PLX_PIECE_ORDERS && m->head[o] == NIL)
		o++;
	if (o >= PLX_PIECE_ORDERS)
		return NULL;
	uint32_t u = m->head[o];

	list_unlink(m, u, o);
	while (o > want) {
		o--;
		list_push(m, u + (1u << o), o);
	}
	m->order[u] = (uint8_t)(want + 1);
	m->n_free -= 1u << want;
	return m->base + (size_t)u * PLX_PIECE_MIN_BYTES;
}

void plx_pieces_give(struct plx_pieces *m, void *piece)
{
	size_t off = (size_t)((uint8_t *)piece - m->base);
	uint32_t u = (uint32_t)(off / PLX_PIECE_MIN_BYTES);

	PLX_CHECK(off % PLX_PIECE_MIN_BYTES == 0 && u < m->n_units);
	PLX_CHECK(m->order[u] && !(m->order[u] & FREE)); /* twice given, or never taken */
	uint32_t order = m->order[u] - 1u;

	m->n_free += 1u << order;
	m->order[u] = 0;
	while ((1u << order) < m->n_units) {
		uint32_t buddy = u ^ (1u << order);

		if (m->order[buddy] != ((order + 1) | FREE))
			break;
		list_unlink(m, buddy, order);
		u &= ~(1u << order);
		order++;
	}
	list_push(m, u, order);
}
