/*
 * Who may talk to the appliance: the key file as a table, and its replacement while stages run.
 *
 * One line a client, in any order of fields; '#' begins a comment; the file's mode is 0600:
 *
 *   id=1f key=<64 hex digits> tenant=acme sessions=4 requests=8 kv_percent=50 priority=7
 *
 * id (1..16 hex digits, not 0) and key must be there. tenant is a name of [A-Za-z0-9_.-], "default"
 * where left out; keys of one tenant share its KV and its prefix cache. sessions bounds the open
 * sessions of the key, requests those in flight in one of its sessions, kv_percent the tenant's
 * share of KV blocks, priority (0..15) what a request may ask for; left out: the appliance's limit.
 *
 * share_prefix=yes puts the key's requests into one prefix cache with those of every other key that
 * says so, whatever its tenant, instead of the tenant's own: system prompts that many use are
 * computed once, and each of them can tell from its times that another sent the same beginning.
 * Left out, or no: nobody else's. Keys of one tenant that differ in it share none with each other.
 *
 * A table never changes once made. Stages hold the current one by pointer and say, with
 * plx_keys_seen, when they have let go of the one before; only then is that freed.
 */
#ifndef PLX_DATAPLANE_KEYTAB_H
#define PLX_DATAPLANE_KEYTAB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/wire/handshake.h"
#include "fw/base/diag.h"

#define PLX_KEYTAB_MAX        4096u /* keys of one file */
#define PLX_KEYTAB_TENANTS    256u
#define PLX_KEYTAB_FILE_BYTES (1u << 20)
#define PLX_KEYTAB_READERS    32u /* stages that hold the table */
#define PLX_TENANT_BYTES      32u

struct plx_key {
	struct plx_psk psk;
	char tenant[PLX_TENANT_BYTES];
	uint32_t tenant_idx;   /* 0.., in order of appearance of the tenant's name since start */
	uint32_t max_sessions; /* UINT32_MAX: not limited here */
	uint32_t max_requests; /* UINT32_MAX: not limited here */
	uint32_t line;         /* in the file */
	uint8_t kv_percent;    /* 1..100 */
	uint8_t max_priority;  /* 0..15 */
	bool share_prefix;     /* in the cache of all that opted in, not in the tenant's */
	uint16_t use_idx;      /* of struct plx_keys' use[] */
};

struct plx_keytab {
	uint32_t n;
	uint32_t gen; /* grows with each reload; set by plx_keys_* */
	bool insecure;
	struct plx_key key[]; /* [n], by rising id */
};

/*
 * plx_keytab_parse - make a table out of a key file's text.
 *
 * @text, bytes  the file; need not end in NUL.
 * @name         for messages: `name:line: what is wrong; what to do`.
 *
 * Owner:  the caller frees *out with plx_keytab_free, which wipes the keys.
 * Errors: FORMAT (a bad line, field, number or name, no key at all), EXISTS (an id twice), LIMIT
 *         (too many keys, tenants or bytes), NOMEM.
 */
int plx_keytab_parse(struct plx_keytab **out, const char *text, size_t bytes, const char *name,
                     struct plx_diag *d);

/*
 * plx_keytab_load - read and parse a key file; refuses one that others than its owner may read.
 * Errors: as plx_keytab_parse; NOT_FOUND, IO; AUTH (mode or owner), with the remedy in d.
 */
int plx_keytab_load(struct plx_keytab **out, const char *path, struct plx_diag *d);

/* plx_keytab_insecure - the table of `insecure: true`: key id 0, whose key is public. */
int plx_keytab_insecure(struct plx_keytab **out, struct plx_diag *d);

void plx_keytab_free(struct plx_keytab *t);

/* plx_keytab_find - the entry of a key id, or NULL. Cost: O(log n). Thread: any. */
const struct plx_key *plx_keytab_find(const struct plx_keytab *t, uint64_t key_id);

/* How much of a key is in use; counted by all io stages, kept over reloads. */
struct plx_key_use {
	_Atomic uint64_t key_id; /* 0 and no sessions: free (key id 0 is the insecure one's) */
	_Atomic uint32_t n_sessions;
};

/* The current table and who holds it. One in a process, made by main. */
struct plx_keys {
	_Atomic(struct plx_keytab *) cur; /* K1: store release by main, load acquire by stages */
	_Atomic uint32_t seen[PLX_KEYTAB_READERS]; /* K2: gen a reader has moved to */
	uint32_t n_readers;
	struct plx_keytab *old; /* replaced, perhaps still held; main's */
	char tenant[PLX_KEYTAB_TENANTS]
		   [PLX_TENANT_BYTES]; /* main's: index of each name, for ever */
	uint32_t n_tenants;
	struct plx_key_use use[2 * PLX_KEYTAB_MAX];
};

/*
 * plx_keys_open - load the first table; path NULL or "": insecure.
 * Thread: main, before stages are made.  Errors: as plx_keytab_load.
 */
int plx_keys_open(struct plx_keys *k, const char *path, struct plx_diag *d);

/* plx_keys_reader - number of a new reader, at start; LIMIT when there are too many. */
int plx_keys_reader(struct plx_keys *k);

/*
 * plx_keys_reload - read the file again and make it current. Sessions whose key is gone, changed,
 * or shares prefixes otherwise than before, are closed by their io stages. On an error the old
 * table stays.
 *
 * Thread: main.  Errors: as plx_keytab_load; AGAIN: the reload before is still being taken up by
 * the stages (call again).
 */
int plx_keys_reload(struct plx_keys *k, const char *path, struct plx_diag *d);

/* plx_keys_close - free tables; no stage may run any more. */
void plx_keys_close(struct plx_keys *k);

/* plx_keys_get - the current table. Thread: any stage; valid until its next plx_keys_seen. */
static inline const struct plx_keytab *plx_keys_get(struct plx_keys *k)
{
	return atomic_load_explicit(&k->cur, memory_order_acquire); /* K1 */
}

/* plx_keys_seen - reader holds no table older than gen. Thread: the reader's stage. */
static inline void plx_keys_seen(struct plx_keys *k, uint32_t reader, uint32_t gen)
{
	/* K2: after this store main may free older tables; all our reads of them come before. */
	atomic_store_explicit(&k->seen[reader], gen, memory_order_release);
}

#endif
