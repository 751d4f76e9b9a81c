/* Which spans of a prompt stay: those where a text of --keep stands. */
#ifndef PLX_TOOLS_ASK_KEEP_H
#define PLX_TOOLS_ASK_KEEP_H

#include "tools/ask/options.h"

#define PLX_ASK_SPANS_MAX 256

/*
 * plx_ask_keeps - set q->keeps to the places of o->keep in q's text or messages.
 *
 * @keep  out [PLX_ASK_SPANS_MAX]; must stay until q was submitted. What is found beyond that many
 *        is said on standard error and not kept, and so is a text that stands nowhere.
 */
void plx_ask_keeps(const struct plx_ask_options *o, struct plx_client_request *q,
                   struct plx_client_keep *keep);

#endif
