/*
 * A small HTTP server of one thread: a poll loop over at most 32 connections, one request each,
 * five seconds to send it and to take the answer. It listens on a loopback address, and on others
 * only with a token that each request has to carry.
 */
#ifndef PLX_TOOLS_SCOPE_SERVE_H
#define PLX_TOOLS_SCOPE_SERVE_H

#include <signal.h>

#include "fw/base/diag.h"
#include "tools/scope/http.h"
#include "tools/scope/text.h"

#define PLX_SERVE_CONNS 32

/* What a request is answered with. */
struct plx_reply {
	int status;
	const char *type;     /* Content-Type */
	struct plx_text body; /* room that the server keeps */
};

/* plx_serve_answer - fill reply (status 404 and an empty body before). Thread: the server's. */
typedef void (*plx_serve_answer)(void *ctx, const struct plx_http *r, struct plx_reply *reply);

struct plx_serve {
	const char *token; /* NULL: none is asked for */
	plx_serve_answer answer;
	void *ctx;
	const volatile sig_atomic_t *stop;
	int listen_fd;
};

/*
 * plx_serve_listen - open the socket.
 *
 * @at  "127.0.0.1:9477", "[::1]:9477"; port 0 lets the kernel choose. port_out may be NULL.
 *
 * Errors: INVAL (no such address, or one that others reach and no token), IO.
 */
int plx_serve_listen(struct plx_serve *s, const char *at, uint16_t *port_out, struct plx_diag *d);

/* plx_serve_run - until *stop; then everything is closed. Errors: NOMEM. */
int plx_serve_run(struct plx_serve *s);

/* plx_serve_token - read a token from a file: one line of 16 to 128 printable characters. */
int plx_serve_token(const char *path, char token[PLX_HTTP_TOKEN_BYTES], struct plx_diag *d);

#endif
