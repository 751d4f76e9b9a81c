/*
 * Probes for bpftrace and its like: USDT notes in the program, provider "pollux". One costs a nop
 * where nobody listens, and about 1 us a hit where somebody does, which is why there is none for
 * what happens every packet or token: stamps and events (fw/base/stamp.h) are for that.
 *
 *   request_begin(session, request, bytes)        io has all of it
 *   first_token(session, request, ns)             batch has it, so long after request_begin
 *   request_end(session, request, ns, kind)       the last message, so long after the begin: DONE
 *                                                 (kind 1) or CANCELLED (3)
 *   request_reject(session, request, code)        the wire's reject code; no other end follows
 *
 * Each request ends in exactly one of the last two; a reject may come without a begin, where the
 * request was refused before it could be taken.
 *
 * Source: SystemTap's sys/sdt.h, the format that perf, bcc, bpftrace and gdb read.
 */
#ifndef PLX_DATAPLANE_PROBE_H
#define PLX_DATAPLANE_PROBE_H

#include <sys/sdt.h>

#define PLX_PROBE3(name, a, b, c)    DTRACE_PROBE3(pollux, name, a, b, c)
#define PLX_PROBE4(name, a, b, c, d) DTRACE_PROBE4(pollux, name, a, b, c, d)

#endif
