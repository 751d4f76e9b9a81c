/*
 * HTTP/1.1 requests as a scraper or a browser on this page sends them, and nothing more: GET and
 * HEAD without a body, 8 KiB at most. Anything else is refused by a status code. Pure: bytes in,
 * a request out.
 *
 * Source: RFC 9112 (message syntax), RFC 6750 (bearer tokens).
 */
#ifndef PLX_TOOLS_SCOPE_HTTP_H
#define PLX_TOOLS_SCOPE_HTTP_H

#include <stdbool.h>
#include <stddef.h>

#define PLX_HTTP_BYTES       8192
#define PLX_HTTP_PATH_BYTES  256
#define PLX_HTTP_TOKEN_BYTES 129

struct plx_http {
	bool head;                        /* HEAD: no body in the answer */
	bool open_metrics;                /* Accept names application/openmetrics-text */
	char path[PLX_HTTP_PATH_BYTES];   /* "/metrics"; begins with a slash, printable ASCII */
	char query[PLX_HTTP_PATH_BYTES];  /* after the question mark, as it came; or "" */
	char token[PLX_HTTP_TOKEN_BYTES]; /* Authorization: Bearer; or "" */
};

/*
 * plx_http_parse - one request from its beginning.
 *
 * Returns the number of its bytes, 0 while it is not whole, or a negative status: -400 malformed,
 * -405 another method, -411 with a body, -414 path too long, -431 headers too long, -505 version.
 */
int plx_http_parse(struct plx_http *r, const char *in, size_t n_bytes);

/*
 * plx_http_query - the value of a key in r's query; false: it is not there, or does not fit. Only
 * letters, digits and -_.~ are taken, so nothing is left to decode.
 */
bool plx_http_query(const struct plx_http *r, const char *key, char *value, size_t room);

/* plx_http_reason - "Not Found" for 404. */
const char *plx_http_reason(int status);

/*
 * plx_http_same - whether two secrets are equal, in a time that says nothing about where they
 * differ.
 */
bool plx_http_same(const char *a, const char *b);

#endif
