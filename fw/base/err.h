/*
 * The one list of error codes: C return values, reject codes on the wire and telemetry labels.
 *
 * A function returns 0, or a negative enum plx_err. Codes from -64 down travel on the wire in
 * REJECT as plx_err_wire(code), 1 for QUEUE_FULL and so on; the order of those never changes.
 */
#ifndef PLX_FW_BASE_ERR_H
#define PLX_FW_BASE_ERR_H

#include <stdint.h>

#define PLX_ERR_LIST(X)                                                                            \
	X(OK, 0, "success")                                                                        \
	X(AGAIN, -1, "not now; call again")                                                        \
	X(INVAL, -2, "an argument is out of its range")                                            \
	X(NOMEM, -3, "memory ran out at start")                                                    \
	X(IO, -4, "the operating system refused an operation")                                     \
	X(FORMAT, -5, "a packet or file is malformed")                                             \
	X(UNSUPPORTED, -6, "well-formed, but not something this build can do")                     \
	X(LIMIT, -7, "over a configured limit")                                                    \
	X(AUTH, -8, "a MAC, seal or signature did not verify")                                     \
	X(REPLAY, -9, "a packet number was seen before or is too old")                             \
	X(NOT_FOUND, -10, "no such thing")                                                         \
	X(EXISTS, -11, "there is one already")                                                     \
	X(TIMEOUT, -12, "a deadline passed")                                                       \
	X(CANCELLED, -13, "cancelled by its owner")                                                \
	X(FAULT, -14, "a device reported a fault")                                                 \
	X(LOST, -15, "a device or peer is gone")                                                   \
	X(CLOSED, -16, "the session is closed")                                                    \
	X(STALE, -17, "belongs to an earlier generation")                                          \
	X(FULL, -18, "a bounded table or ring is full")                                            \
	X(QUEUE_FULL, -64, "the request queue is full")                                            \
	X(DEADLINE_UNMEETABLE, -65, "the request can't be finished by its deadline")               \
	X(TOO_LARGE, -66, "the request is larger than a limit")                                    \
	X(NO_MODEL, -67, "the model id or adapter is not loaded")                                  \
	X(UNAUTHORISED, -68, "the key does not allow this")                                        \
	X(DRAINING, -69, "the appliance is shutting down and takes no new requests")               \
	X(KV_PRESSURE, -70, "not enough KV memory")                                                \
	X(BAD_REQUEST, -71, "the request is malformed or asks for something unknown")              \
	X(DEVICE_LOST, -72, "the device that ran the request is gone")

enum plx_err {
#define X(name, value, help) PLX_E_##name = (value),
	PLX_ERR_LIST(X)
#undef X
};

/* The first code of the reject range; wire code 1. */
#define PLX_ERR_WIRE_FIRST (-64)
#define PLX_ERR_WIRE_LAST  (-72)

/* plx_err_name - "QUEUE_FULL" for PLX_E_QUEUE_FULL; "UNKNOWN" for a value not in the list. */
const char *plx_err_name(int err);

/* plx_err_help - the list's one-line explanation; "" for a value not in the list. */
const char *plx_err_help(int err);

/*
 * plx_err_wire - reject code that stands for err on the wire, 1..9; 0 where err has none.
 * plx_err_from_wire - its inverse; PLX_E_FORMAT for a code outside 1..9.
 */
uint8_t plx_err_wire(int err);
int plx_err_from_wire(uint8_t code);

#endif
