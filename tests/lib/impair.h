/*
 * A bad network in a box: packets go in, and come out lost, doubled, late, damaged, cut or again.
 *
 * Pure logic with time passed in, so that a unit test can put it between two ends in one process;
 * tests/relay/ puts sockets around it. What it does is a function of the seed and of the order of
 * the packets put in, for each direction by itself.
 */
#ifndef PLX_TESTS_LIB_IMPAIR_H
#define PLX_TESTS_LIB_IMPAIR_H

#include <stdbool.h>
#include <stdint.h>

#define PLX_IMPAIR_PACKET_BYTES 2048 /* a longer packet is refused and counted as lost */
#define PLX_IMPAIR_QUEUE        1024 /* packets held at once; more are lost and counted */
#define PLX_IMPAIR_HISTORY      64   /* packets of a direction from which a replay is drawn */

enum plx_impair_dir { PLX_IMPAIR_UP, PLX_IMPAIR_DOWN, PLX_IMPAIR_DIRS };

/* Chances in 0..1, each drawn for itself; delays in microseconds. */
struct plx_impair_cfg {
	double loss;          /* the packet vanishes */
	double duplicate;     /* a second copy follows */
	double reorder;       /* held back by reorder_us, so that later ones overtake it */
	double corrupt;       /* one random bit is flipped */
	double truncate;      /* cut to a random shorter length */
	double replay;        /* an old packet of the same direction and flow is sent again */
	bool spare_originals; /* corrupt and truncate damage a copy; the packet passes too */
	uint32_t delay_us;    /* every packet waits this long */
	uint32_t reorder_us;  /* 0: 3,000 */
	uint32_t mtu_bytes;   /* a longer packet vanishes; 0: no limit */
	uint64_t seed;
};

struct plx_impair_counts {
	uint64_t in, out, lost, duplicated, reordered, corrupted, truncated, replayed, too_big,
	    full;
};

struct plx_impair;

/* plx_impair_new - cfg[dir] for each direction. NULL when memory runs out. */
struct plx_impair *plx_impair_new(const struct plx_impair_cfg cfg[PLX_IMPAIR_DIRS]);
void plx_impair_free(struct plx_impair *im);

/* plx_impair_set - change a direction's chances from now on; its seed is ignored. */
void plx_impair_set(struct plx_impair *im, enum plx_impair_dir dir,
                    const struct plx_impair_cfg *cfg);

/*
 * plx_impair_put - a packet of a flow goes in at now_ns.
 *
 * @flow  any number the caller wants back with what comes out (which client it belongs to).
 */
void plx_impair_put(struct plx_impair *im, enum plx_impair_dir dir, uint32_t flow,
                    const uint8_t *data, uint32_t n_bytes, uint64_t now_ns);

/* A packet on its way out. */
struct plx_impair_packet {
	enum plx_impair_dir dir;
	uint32_t flow;
	uint32_t n_bytes;
	uint8_t data[PLX_IMPAIR_PACKET_BYTES];
};

/* plx_impair_get - take the next packet that is due at now_ns; false when there is none. */
bool plx_impair_get(struct plx_impair *im, uint64_t now_ns, struct plx_impair_packet *out);

/* plx_impair_next_ns - when the next packet is due; UINT64_MAX when none is held. */
uint64_t plx_impair_next_ns(const struct plx_impair *im);

/* plx_impair_counts_of - what was done to a direction so far. */
const struct plx_impair_counts *plx_impair_counts_of(const struct plx_impair *im,
                                                     enum plx_impair_dir dir);

#endif
