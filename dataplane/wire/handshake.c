/*
 * HELLO to HELLO_ACK: cheap checks first (MAC, version, cookie), Diffie-Hellman behind them.
 */
#include "dataplane/wire/handshake.h"

#include <string.h>

#include <sodium.h>

#define HELLO_AT(pkt)  ((pkt) + PLX_HDR_BYTES)
#define MAC_BYTES      16u
#define PROLOGUE       "PolluxHandshake"
#define PROLOGUE_BYTES (sizeof(PROLOGUE) - 1)
#define TRANSCRIPT     (PLX_HDR_BYTES + 32u)

/* Keyed BLAKE2b-128. */
static void mac16(uint8_t out[MAC_BYTES], const uint8_t key[32], const void *p, size_t n)
{
	crypto_generichash(out, MAC_BYTES, p, n, key, 32);
}

void plx_psk_init(struct plx_psk *k, uint64_t key_id, const uint8_t psk[PLX_PSK_BYTES])
{
	k->key_id = key_id;
	memcpy(k->psk, psk, sizeof(k->psk));
	plx_kdf(k->mac_hello, psk, "pollux mac hello");
	plx_kdf(k->mac_reply, psk, "pollux mac reply");
}

void plx_psk_insecure(struct plx_psk *k)
{
	static const uint8_t zeros[PLX_PSK_BYTES];

	plx_psk_init(k, 0, zeros);
}

/* Header of an unsealed packet; returns the datagram's bytes. */
static size_t put_header(uint8_t *pkt, uint8_t type, uint8_t version, uint32_t session_id,
                         size_t payload_bytes)
{
	struct plx_hdr h = {.magic = PLX_WIRE_MAGIC,
	                    .version = version,
	                    .type = type,
	                    .session_id = session_id,
	                    .frag_count = 1,
	                    .payload_bytes = (uint16_t)payload_bytes};

	plx_hdr_encode(pkt, &h);
	return PLX_HDR_BYTES + payload_bytes;
}

static void noise_begin(struct plx_noise *n, const uint8_t transcript[TRANSCRIPT],
                        const uint8_t psk[PLX_PSK_BYTES], const uint8_t e_priv[32])
{
	uint8_t prologue[PROLOGUE_BYTES + TRANSCRIPT];

	memcpy(prologue, PROLOGUE, PROLOGUE_BYTES);
	memcpy(prologue + PROLOGUE_BYTES, transcript, TRANSCRIPT);
	plx_noise_begin(n, prologue, sizeof(prologue), psk, e_priv);
}

/* ---- appliance ------------------------------------------------------------------------------ */

static bool is_zero(const uint8_t *p, size_t n)
{
	return sodium_is_zero(p, n);
}

static bool hello_sane(const struct plx_hdr *h, const struct plx_hello *m)
{
	if (h->session_id || h->pkt_num || h->req_id || h->prio_flags || h->epoch)
		return false;
	if (m->n_versions == 0 || m->n_versions > PLX_VERSIONS_MAX || m->zero || m->zero2)
		return false;
	return (m->cookie_bytes == 0 || m->cookie_bytes == PLX_COOKIE_BYTES) &&
	       is_zero(m->zero3, sizeof(m->zero3));
}

static int hello_read(struct plx_hello *m, const uint8_t *pkt, size_t n_bytes)
{
	struct plx_hdr h;

	if (n_bytes != PLX_HELLO_BYTES || plx_hdr_decode(&h, pkt, n_bytes, PLX_SIDE_CLIENT) ||
	    h.type != PLX_T_HELLO)
		return PLX_E_FORMAT;
	memcpy(m, HELLO_AT(pkt), sizeof(*m));
	return hello_sane(&h, m) ? 0 : PLX_E_FORMAT;
}

int plx_hs_key_id(uint64_t *key_id, const uint8_t *pkt, size_t n_bytes)
{
	struct plx_hello m;
	int err = hello_read(&m, pkt, n_bytes);

	if (!err)
		*key_id = m.key_id;
	return err;
}

static bool hello_mac_ok(const struct plx_psk *k, const uint8_t *pkt)
{
	uint8_t mac[MAC_BYTES];
	const size_t covered = PLX_HDR_BYTES + offsetof(struct plx_hello, mac);

	mac16(mac, k->mac_hello, pkt, covered);
	return crypto_verify_16(mac, pkt + covered) == 0;
}

/* What a cookie vouches for. */
struct cookie_input {
	uint64_t issued_ns;
	uint64_t key_id;
	uint8_t ephemeral[32];
	struct plx_wire_addr addr;
	uint32_t zero;
};
static_assert(sizeof(struct cookie_input) == 72, "hashed as bytes");

static void cookie_make(uint8_t cookie[PLX_COOKIE_BYTES], const struct plx_hs_secrets *s,
                        const struct plx_hello *m, const struct plx_wire_addr *addr,
                        uint64_t issued_ns)
{
	struct cookie_input in = {.issued_ns = issued_ns, .key_id = m->key_id, .addr = *addr};

	in.addr.zero = 0;
	memcpy(in.ephemeral, m->ephemeral, sizeof(in.ephemeral));
	memcpy(cookie, &issued_ns, 8);
	mac16(cookie + 8, s->cookie_key, &in, sizeof(in));
}

static bool cookie_ok(const struct plx_hs_secrets *s, const struct plx_hello *m,
                      const struct plx_wire_addr *addr, uint64_t now_ns)
{
	uint8_t want[PLX_COOKIE_BYTES];
	uint64_t issued_ns;

	if (m->cookie_bytes != PLX_COOKIE_BYTES)
		return false;
	memcpy(&issued_ns, m->cookie, 8);
	if (issued_ns > now_ns || now_ns - issued_ns > PLX_COOKIE_LIFE_NS)
		return false;
	cookie_make(want, s, m, addr, issued_ns);
	return sodium_memcmp(want, m->cookie, sizeof(want)) == 0;
}

/* Highest version in both lists; 0 when there is none. */
static uint8_t version_pick(const struct plx_hello *m)
{
	for (uint32_t i = 0; i < m->n_versions; i++)
		if (m->versions[i] == PLX_WIRE_VERSION)
			return PLX_WIRE_VERSION;
	return 0;
}

/* Header, body and a MAC over both, which is the body's last 16 bytes. */
static size_t reply_put(uint8_t *reply, uint8_t type, const struct plx_psk *k,
                        const struct plx_hello *m, const void *body, size_t bytes)
{
	size_t n = put_header(reply, type, PLX_WIRE_VERSION, m->session_id, bytes);

	memcpy(reply + PLX_HDR_BYTES, body, bytes);
	mac16(reply + n - MAC_BYTES, k->mac_reply, reply, n - MAC_BYTES);
	return n;
}

static size_t retry_put(uint8_t *reply, const struct plx_hs_secrets *s, const struct plx_psk *k,
                        const struct plx_hello *m, const struct plx_wire_addr *addr,
                        uint64_t now_ns)
{
	struct plx_retry r = {0};

	memcpy(r.ephemeral, m->ephemeral, sizeof(r.ephemeral));
	cookie_make(r.cookie, s, m, addr, now_ns);
	return reply_put(reply, PLX_T_RETRY, k, m, &r, sizeof(r));
}

static size_t version_neg_put(uint8_t *reply, const struct plx_psk *k, const struct plx_hello *m)
{
	struct plx_version_neg v = {.versions = {PLX_WIRE_VERSION}};

	memcpy(v.ephemeral, m->ephemeral, sizeof(v.ephemeral));
	return reply_put(reply, PLX_T_VERSION_NEG, k, m, &v, sizeof(v));
}

static void job_fill(struct plx_hs_job *job, const struct plx_hello *m, const uint8_t *pkt,
                     const struct plx_wire_addr *addr, uint8_t version, int cipher)
{
	memset(job, 0, sizeof(*job));
	memcpy(job->transcript, pkt, TRANSCRIPT);
	memcpy(job->ephemeral, m->ephemeral, sizeof(job->ephemeral));
	memcpy(job->noise_tag, m->noise_tag, sizeof(job->noise_tag));
	job->client_session_id = m->session_id;
	job->version = version;
	job->cipher = (uint8_t)cipher;
	job->key_id = m->key_id;
	job->addr = *addr;
}

enum plx_hs_verdict plx_hs_check(struct plx_hs_job *job, uint8_t *reply, size_t *reply_bytes,
                                 const struct plx_hs_secrets *s, const struct plx_psk *k,
                                 uint32_t ciphers, const uint8_t *pkt, size_t n_bytes,
                                 const struct plx_wire_addr *addr, uint64_t now_ns)
{
	struct plx_hello m;

	if (hello_read(&m, pkt, n_bytes) || m.key_id != k->key_id || !hello_mac_ok(k, pkt))
		return PLX_HS_DROP;
	uint8_t version = version_pick(&m);

	if (!version) {
		*reply_bytes = version_neg_put(reply, k, &m);
		return PLX_HS_REPLY;
	}
	if (!cookie_ok(s, &m, addr, now_ns)) {
		*reply_bytes = retry_put(reply, s, k, &m, addr, now_ns);
		return PLX_HS_REPLY;
	}
	int cipher = plx_crypt_pick(ciphers, m.ciphers);

	if (cipher < 0)
		return PLX_HS_DROP;
	job_fill(job, &m, pkt, addr, version, cipher);
	return PLX_HS_DH;
}

static void reset_token(uint8_t token[16], const uint8_t reset_key[32], uint32_t session_id,
                        const struct plx_wire_addr *addr)
{
	uint8_t in[4 + 16 + 2];

	memcpy(in, &session_id, 4);
	memcpy(in + 4, addr->ip, 16);
	memcpy(in + 20, &addr->port, 2);
	mac16(token, reset_key, in, sizeof(in));
}

int plx_hs_respond(uint8_t *ack_pkt, struct plx_hs_keys *keys, struct plx_hello_ack *ack,
                   const struct plx_hs_secrets *s, const struct plx_hs_job *job,
                   const struct plx_psk *k, const uint8_t rand32[32])
{
	struct plx_noise n;
	uint8_t msg1[48], none[1];
	int err;

	noise_begin(&n, job->transcript, k->psk, rand32);
	memcpy(msg1, job->ephemeral, 32);
	memcpy(msg1 + 32, job->noise_tag, 16);
	ack->version = job->version;
	ack->cipher = job->cipher;
	ack->zero = 0;
	reset_token(ack->reset_token, s->reset_key, ack->session_id, &job->addr);
	size_t bytes = put_header(ack_pkt, PLX_T_HELLO_ACK, job->version, job->client_session_id,
	                          32 + sizeof(*ack) + 16);

	err = plx_noise_read1(&n, none, msg1, 0);
	if (!err)
		err = plx_noise_write2(&n, ack_pkt + PLX_HDR_BYTES, (const uint8_t *)ack,
		                       sizeof(*ack));
	if (!err) {
		plx_noise_split(&n, keys->secret_c2a, keys->secret_a2c);
		keys->cipher = (enum plx_cipher)job->cipher;
	}
	sodium_memzero(&n, sizeof(n));
	return err ? err : (int)bytes;
}

size_t plx_reset_make(uint8_t pkt[PLX_RESET_BYTES], const struct plx_hs_secrets *s,
                      uint32_t session_id, const struct plx_wire_addr *addr, size_t n_bytes)
{
	if (n_bytes <= PLX_RESET_BYTES)
		return 0;
	put_header(pkt, PLX_T_RESET, PLX_WIRE_VERSION, session_id, 16);
	reset_token(pkt + PLX_HDR_BYTES, s->reset_key, session_id, addr);
	return PLX_RESET_BYTES;
}

/* ---- half-open table ------------------------------------------------------------------------ */

static void halfopen_sweep(struct plx_halfopen *t, uint64_t now_ns)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (t->e[i].state && now_ns >= t->e[i].expires_ns) {
			sodium_memzero(&t->e[i], sizeof(t->e[i]));
			t->n_used--;
		}
}

struct plx_halfopen_entry *plx_halfopen_get(struct plx_halfopen *t, const uint8_t ephemeral[32],
                                            uint64_t now_ns)
{
	halfopen_sweep(t, now_ns);
	for (uint32_t i = 0; i < t->n; i++)
		if (t->e[i].state && memcmp(t->e[i].ephemeral, ephemeral, 32) == 0)
			return &t->e[i];
	return NULL;
}

struct plx_halfopen_entry *plx_halfopen_put(struct plx_halfopen *t, const uint8_t ephemeral[32],
                                            uint64_t now_ns)
{
	halfopen_sweep(t, now_ns);
	for (uint32_t i = 0; i < t->n; i++) {
		struct plx_halfopen_entry *e = &t->e[i];

		if (e->state)
			continue;
		memcpy(e->ephemeral, ephemeral, 32);
		e->state = PLX_HALFOPEN_WAIT;
		e->expires_ns = now_ns + PLX_COOKIE_LIFE_NS + UINT64_C(1000000000);
		t->n_used++;
		return e;
	}
	return NULL;
}

/* ---- client --------------------------------------------------------------------------------- */

static void hello_transcript(const struct plx_hs_client *c, uint8_t out[TRANSCRIPT])
{
	put_header(out, PLX_T_HELLO, PLX_WIRE_VERSION, 0, PLX_HELLO_BYTES - PLX_HDR_BYTES);
	memcpy(out + PLX_HDR_BYTES, &c->hello, 32);
}

void plx_hsc_init(struct plx_hs_client *c, const struct plx_psk *k, uint32_t session_id,
                  uint32_t ciphers, const uint8_t rand32[32])
{
	uint8_t transcript[TRANSCRIPT], msg1[48];

	memset(c, 0, sizeof(*c));
	c->key = *k;
	c->state = PLX_HSC_HELLO;
	c->hello.key_id = k->key_id;
	c->hello.session_id = session_id;
	c->hello.ciphers = (uint16_t)ciphers;
	c->hello.n_versions = 1;
	c->hello.versions[0] = PLX_WIRE_VERSION;
	hello_transcript(c, transcript);
	noise_begin(&c->noise, transcript, k->psk, rand32);
	plx_noise_write1(&c->noise, msg1, NULL, 0);
	memcpy(c->hello.ephemeral, msg1, 32);
	memcpy(c->hello.noise_tag, msg1 + 32, 16);
}

void plx_hsc_hello(const struct plx_hs_client *c, uint8_t pkt[PLX_HELLO_BYTES])
{
	const size_t covered = PLX_HDR_BYTES + offsetof(struct plx_hello, mac);

	memset(pkt, 0, PLX_HELLO_BYTES);
	put_header(pkt, PLX_T_HELLO, PLX_WIRE_VERSION, 0, PLX_HELLO_BYTES - PLX_HDR_BYTES);
	memcpy(HELLO_AT(pkt), &c->hello, sizeof(c->hello));
	mac16(pkt + covered, c->key.mac_hello, pkt, covered);
}

/* A reply's MAC and ephemeral: that it answers our HELLO and comes from who knows the key. */
static int reply_check(const struct plx_hs_client *c, const uint8_t *pkt, size_t n_bytes,
                       size_t body_bytes)
{
	uint8_t mac[MAC_BYTES];

	if (n_bytes != PLX_HDR_BYTES + body_bytes)
		return PLX_E_FORMAT;
	if (memcmp(pkt + PLX_HDR_BYTES, c->hello.ephemeral, 32))
		return PLX_E_AUTH;
	mac16(mac, c->key.mac_reply, pkt, n_bytes - MAC_BYTES);
	return crypto_verify_16(mac, pkt + n_bytes - MAC_BYTES) ? PLX_E_AUTH : 0;
}

static int take_retry(struct plx_hs_client *c, const uint8_t *pkt, size_t n_bytes)
{
	int err = reply_check(c, pkt, n_bytes, sizeof(struct plx_retry));

	if (err)
		return err;
	memcpy(c->hello.cookie, pkt + PLX_HDR_BYTES + offsetof(struct plx_retry, cookie),
	       PLX_COOKIE_BYTES);
	c->hello.cookie_bytes = PLX_COOKIE_BYTES;
	return PLX_E_AGAIN;
}

static int take_version_neg(struct plx_hs_client *c, const uint8_t *pkt, size_t n_bytes)
{
	int err = reply_check(c, pkt, n_bytes, sizeof(struct plx_version_neg));

	if (err)
		return err;
	c->state = PLX_HSC_FAILED;
	return PLX_E_UNSUPPORTED;
}

static bool limits_sane(const struct plx_wire_limits *l)
{
	return l->max_datagram >= PLX_DGRAM_MIN_BYTES && l->max_datagram <= PLX_DGRAM_MAX_BYTES &&
	       l->max_in_flight >= 1 && l->max_in_flight <= (1u << 20) && l->max_samples >= 1 &&
	       l->keepalive_ms >= 1 && l->retx_floor_us >= 1 && l->max_priority <= 15 &&
	       l->max_logprobs <= 20 && !l->zero;
}

static bool ack_sane(const struct plx_hs_client *c, const struct plx_hdr *h,
                     const struct plx_hello_ack *a)
{
	return a->version == PLX_WIRE_VERSION && h->version == a->version && !a->zero &&
	       (a->cipher == PLX_CIPHER_AES_256_GCM || a->cipher == PLX_CIPHER_CHACHA20_POLY1305) &&
	       (c->hello.ciphers & PLX_CIPHER_BIT(a->cipher)) && limits_sane(&a->limits);
}

static int take_ack(struct plx_hs_client *c, struct plx_hello_ack *ack, struct plx_hs_keys *keys,
                    const struct plx_hdr *h, const uint8_t *pkt)
{
	struct plx_noise n = c->noise;
	int err = h->payload_bytes == 32 + sizeof(*ack) + 16 ? 0 : PLX_E_FORMAT;

	if (!err)
		err = plx_noise_read2(&n, (uint8_t *)ack, pkt + PLX_HDR_BYTES, sizeof(*ack));
	if (!err && !ack_sane(c, h, ack))
		err = PLX_E_FORMAT;
	if (!err) {
		plx_noise_split(&n, keys->secret_c2a, keys->secret_a2c);
		keys->cipher = (enum plx_cipher)ack->cipher;
		sodium_memzero(&c->noise, sizeof(c->noise));
		c->state = PLX_HSC_DONE;
	}
	sodium_memzero(&n, sizeof(n));
	return err;
}

int plx_hsc_input(struct plx_hs_client *c, struct plx_hello_ack *ack, struct plx_hs_keys *keys,
                  const uint8_t *pkt, size_t n_bytes)
{
	struct plx_hdr h;

	if (c->state != PLX_HSC_HELLO || plx_hdr_decode(&h, pkt, n_bytes, PLX_SIDE_APPLIANCE) ||
	    h.session_id != c->hello.session_id)
		return PLX_E_FORMAT;
	switch (h.type) {
	case PLX_T_RETRY:
		return take_retry(c, pkt, n_bytes);
	case PLX_T_VERSION_NEG:
		return take_version_neg(c, pkt, n_bytes);
	case PLX_T_HELLO_ACK:
		return take_ack(c, ack, keys, &h, pkt);
	default:
		return PLX_E_FORMAT;
	}
}

int plx_reset_check(const uint8_t *pkt, size_t n_bytes, uint32_t peer_session_id,
                    const uint8_t token[16])
{
	struct plx_hdr h;

	if (n_bytes != PLX_RESET_BYTES || plx_hdr_decode(&h, pkt, n_bytes, PLX_SIDE_APPLIANCE) ||
	    h.type != PLX_T_RESET || h.session_id != peer_session_id)
		return PLX_E_FORMAT;
	return crypto_verify_16(pkt + PLX_HDR_BYTES, token) ? PLX_E_AUTH : 0;
}
