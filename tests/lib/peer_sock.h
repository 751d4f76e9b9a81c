/* The appliance in a box (wire_peer.h) behind a real UDP socket, for tests of what uses sockets. */
#ifndef PLX_TESTS_LIB_PEER_SOCK_H
#define PLX_TESTS_LIB_PEER_SOCK_H

#include <signal.h>
#include <sys/types.h>

#include "tests/lib/wire_peer.h"

/* plx_peer_sock_open - a non-blocking IPv4 socket on loopback; *port 0: any, filled in. -1: no. */
int plx_peer_sock_open(uint16_t *port);

/*
 * plx_peer_sock_serve - answer until *stop; *restart non-zero: forget every session once; *drain
 * likewise.
 */
void plx_peer_sock_serve(int fd, struct plx_peer_cfg *cfg, volatile sig_atomic_t *stop,
                         volatile sig_atomic_t *restart, volatile sig_atomic_t *drain);

#endif
