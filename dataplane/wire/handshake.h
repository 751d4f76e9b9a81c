/*
 * The handshake: Noise_NNpsk0_25519_ChaChaPoly_SHA256 in two packets, HELLO and HELLO_ACK, with
 * RETRY's cookie between them. The Noise prologue is "PolluxHandshake" and HELLO's header and first
 * 32 payload bytes, so versions, ciphers, key id and session id can't be changed under way.
 *
 * Order of the appliance's work: MAC, cookie (both cheap: stage_io), then Diffie-Hellman (60 us:
 * stage_hs). Until the cookie came back nothing is stored, and every answer is smaller than HELLO.
 * No function here reads a clock or makes random numbers: both come in.
 */
#ifndef PLX_DATAPLANE_WIRE_HANDSHAKE_H
#define PLX_DATAPLANE_WIRE_HANDSHAKE_H

#include "dataplane/wire/crypt.h"
#include "dataplane/wire/noise.h"

#define PLX_PSK_BYTES      32u
#define PLX_HELLO_BYTES    1200u /* the whole datagram */
#define PLX_COOKIE_BYTES   24u
#define PLX_COOKIE_LIFE_NS UINT64_C(10000000000)
#define PLX_VERSIONS_MAX   8u
#define PLX_HELLO_ACK_MAX  512u /* the whole datagram is smaller */
#define PLX_RESET_BYTES    (PLX_HDR_BYTES + 16u)
#define PLX_HS_REPLY_MAX   512u /* any answer to a HELLO */

/* HELLO's payload; the rest up to 1,200 bytes is padding that nobody reads. */
struct plx_hello {
	uint64_t key_id;
	uint32_t session_id; /* the client's name for the session */
	uint16_t ciphers;    /* PLX_CIPHER_BIT mask */
	uint8_t n_versions;
	uint8_t zero;
	uint8_t versions[PLX_VERSIONS_MAX]; /* unused ones 0 */
	uint64_t zero2;
	uint8_t ephemeral[32];
	uint8_t noise_tag[16]; /* Noise message 1's empty payload */
	uint16_t cookie_bytes; /* 0 or PLX_COOKIE_BYTES */
	uint8_t zero3[6];
	uint8_t cookie[PLX_COOKIE_BYTES];
	uint8_t mac[16]; /* keyed BLAKE2b-128 of header and payload up to here */
};
static_assert(sizeof(struct plx_hello) == 128, "wire layout");
static_assert(offsetof(struct plx_hello, ephemeral) == 32, "wire layout");
static_assert(offsetof(struct plx_hello, cookie_bytes) == 80, "wire layout");
static_assert(offsetof(struct plx_hello, mac) == 112, "wire layout");

/* RETRY's payload: header.session_id is the client's. */
struct plx_retry {
	uint8_t ephemeral[32]; /* of the HELLO it answers */
	uint8_t cookie[PLX_COOKIE_BYTES];
	uint8_t mac[16]; /* keyed BLAKE2b-128 of header and payload up to here */
};
static_assert(sizeof(struct plx_retry) == 72, "wire layout");

/* VERSION_NEG's payload: no version of the HELLO runs here; these do. */
struct plx_version_neg {
	uint8_t ephemeral[32];
	uint8_t versions[PLX_VERSIONS_MAX];
	uint8_t mac[16];
};
static_assert(sizeof(struct plx_version_neg) == 56, "wire layout");

/* What HELLO_ACK carries, encrypted in Noise message 2 (ephemeral 32, this, tag 16). */
struct plx_hello_ack {
	uint32_t session_id; /* the appliance's name for the session */
	uint8_t version;     /* chosen: the highest in both lists */
	uint8_t cipher;      /* chosen: enum plx_cipher */
	uint16_t zero;
	uint64_t features; /* enum plx_wire_feature */
	uint64_t credit_packets;
	uint64_t credit_requests;
	uint8_t reset_token[16]; /* what a RESET must carry to be believed */
	struct plx_wire_limits limits;
};
static_assert(sizeof(struct plx_hello_ack) == 104, "wire layout");
static_assert(offsetof(struct plx_hello_ack, reset_token) == 32, "wire layout");
static_assert(offsetof(struct plx_hello_ack, limits) == 48, "wire layout");

/* A pre-shared key made ready: its MAC keys are derived once, when the key file is read. */
struct plx_psk {
	uint64_t key_id;
	uint8_t psk[PLX_PSK_BYTES];
	uint8_t mac_hello[32]; /* kdf "pollux mac hello" */
	uint8_t mac_reply[32]; /* kdf "pollux mac reply": RETRY and VERSION_NEG */
};

/* plx_psk_init - a key with what is derived from it once. */
void plx_psk_init(struct plx_psk *k, uint64_t key_id, const uint8_t psk[PLX_PSK_BYTES]);

/* The key of `insecure: true`: key id 0, PSK of zeros. Authenticates nobody. */
void plx_psk_insecure(struct plx_psk *k);

/* Secrets that a finished handshake gives to both ends. */
struct plx_hs_keys {
	uint8_t secret_c2a[PLX_SECRET_BYTES]; /* client to appliance, epoch 0 */
	uint8_t secret_a2c[PLX_SECRET_BYTES];
	enum plx_cipher cipher;
};

/* Secrets of an appliance, random at start; reset_key should outlive a restart (see SPEC). */
struct plx_hs_secrets {
	uint8_t cookie_key[32];
	uint8_t reset_key[32];
};

/* ---- the appliance's half ------------------------------------------------------------------ */

/*
 * plx_hs_key_id - key id a datagram of type HELLO names, so that the caller finds the PSK.
 *
 * Errors: FORMAT unless it is 1,200 bytes, its header is a HELLO's and every length in range. Drop
 * it silently then.
 */
int plx_hs_key_id(uint64_t *key_id, const uint8_t *pkt, size_t n_bytes);

/* What stage_io does with a HELLO. */
enum plx_hs_verdict {
	PLX_HS_DROP,  /* wrong MAC: silence */
	PLX_HS_REPLY, /* send reply: RETRY or VERSION_NEG */
	PLX_HS_DH,    /* hand job to stage_hs */
};

/* A checked HELLO on its way to stage_hs; pointer-free. */
struct plx_hs_job {
	uint8_t transcript[PLX_HDR_BYTES + 32]; /* header and first 32 payload bytes */
	uint8_t ephemeral[32];
	uint8_t noise_tag[16];
	uint32_t client_session_id;
	uint8_t version; /* chosen */
	uint8_t cipher;  /* chosen */
	uint16_t zero;
	uint64_t key_id;
	struct plx_wire_addr addr;
};

/*
 * plx_hs_check - MAC, versions, cookie: everything before Diffie-Hellman.
 *
 * @job      out, for PLX_HS_DH.
 * @reply    out [PLX_HS_REPLY_MAX], *reply_bytes long, for PLX_HS_REPLY.
 * @s        the appliance's secrets.
 * @k        the key that plx_hs_key_id named.
 * @ciphers  mask that runs here.
 * @pkt      the datagram, @addr where it came from, @now_ns the caller's monotonic clock.
 *
 * Thread: any.  Cost: about 1 us; no system call.
 */
enum plx_hs_verdict plx_hs_check(struct plx_hs_job *job, uint8_t *reply, size_t *reply_bytes,
                                 const struct plx_hs_secrets *s, const struct plx_psk *k,
                                 uint32_t ciphers, const uint8_t *pkt, size_t n_bytes,
                                 const struct plx_wire_addr *addr, uint64_t now_ns);

/*
 * plx_hs_respond - the Diffie-Hellman, HELLO_ACK, and the session's secrets.
 *
 * @ack_pkt  out [PLX_HELLO_ACK_MAX], the datagram to send; keep it, a repeated HELLO gets it again.
 * @ack      what to tell the client; version and cipher are set from the job, the reset token too.
 * @rand32   32 fresh random bytes: the ephemeral private key.
 *
 * Returns the datagram's bytes.
 * Thread: any (stage_hs).  Cost: about 60 us.
 * Errors: AUTH: the Noise tag is wrong, or the ephemeral is a low-order point. Drop silently.
 */
int plx_hs_respond(uint8_t *ack_pkt, struct plx_hs_keys *keys, struct plx_hello_ack *ack,
                   const struct plx_hs_secrets *s, const struct plx_hs_job *job,
                   const struct plx_psk *k, const uint8_t rand32[32]);

/*
 * plx_reset_make - a stateless RESET for a packet of an unknown session.
 *
 * token = BLAKE2b-128 keyed by reset_key of session_id (4), ip (16), port (2)
 *
 * Returns 48, or 0 when the packet that triggered it (n_bytes) is not larger than that: then send
 * nothing. The caller limits the rate.
 */
size_t plx_reset_make(uint8_t pkt[PLX_RESET_BYTES], const struct plx_hs_secrets *s,
                      uint32_t session_id, const struct plx_wire_addr *addr, size_t n_bytes);

/*
 * Half-open and recent handshakes, keyed by the client's ephemeral key: makes HELLO idempotent and
 * caps what is half-open. An entry lives for a cookie's life and a second, also after the
 * session was confirmed, so that a replayed HELLO can never make a second session.
 */
enum plx_halfopen_state { PLX_HALFOPEN_WAIT = 1, PLX_HALFOPEN_ACKED = 2, PLX_HALFOPEN_DONE = 3 };
struct plx_halfopen_entry {
	uint8_t ephemeral[32];
	uint64_t expires_ns;
	uint32_t session_id;
	uint16_t ack_bytes;
	uint8_t state; /* 0 free, else enum plx_halfopen_state */
	uint8_t zero;
	uint8_t ack[256];
};
struct plx_halfopen {
	struct plx_halfopen_entry *e; /* caller's, zeroed */
	uint32_t n;
	uint32_t n_used;
};
/*
 * plx_halfopen_get - entry of ephemeral, or NULL. plx_halfopen_put - a new one in state WAIT, or
 * NULL when all n are in use (count it; the client tries again). Both free what has expired.
 * Cost: O(n), n is small (256).
 */
struct plx_halfopen_entry *plx_halfopen_get(struct plx_halfopen *t, const uint8_t ephemeral[32],
                                            uint64_t now_ns);
struct plx_halfopen_entry *plx_halfopen_put(struct plx_halfopen *t, const uint8_t ephemeral[32],
                                            uint64_t now_ns);

/* ---- the client's half --------------------------------------------------------------------- */

enum plx_hsc_state { PLX_HSC_HELLO = 1, PLX_HSC_DONE = 2, PLX_HSC_FAILED = 3 };

struct plx_hs_client {
	struct plx_psk key;
	struct plx_hello hello; /* all but the MAC, which plx_hsc_hello adds */
	struct plx_noise noise; /* after message 1 */
	uint8_t state;          /* enum plx_hsc_state */
};

/*
 * plx_hsc_init - begin a handshake.
 *
 * @session_id  the client's name for the session.
 * @ciphers     mask that runs here.
 * @rand32      32 fresh random bytes.
 */
void plx_hsc_init(struct plx_hs_client *c, const struct plx_psk *k, uint32_t session_id,
                  uint32_t ciphers, const uint8_t rand32[32]);

/* plx_hsc_hello - write the HELLO to send now, PLX_HELLO_BYTES; call again to repeat it. */
void plx_hsc_hello(const struct plx_hs_client *c, uint8_t pkt[PLX_HELLO_BYTES]);

/*
 * plx_hsc_input - take RETRY, HELLO_ACK or VERSION_NEG.
 *
 * Returns 0 when the handshake is done (ack and keys are filled), AGAIN after a good RETRY (send
 * plx_hsc_hello's packet at once). Errors: FORMAT or AUTH: not for us or forged, ignore it and
 * go on waiting; UNSUPPORTED: an authentic VERSION_NEG, give up.
 */
int plx_hsc_input(struct plx_hs_client *c, struct plx_hello_ack *ack, struct plx_hs_keys *keys,
                  const uint8_t *pkt, size_t n_bytes);

/*
 * plx_reset_check - 0 if pkt is a RESET for peer_session_id with this token, else AUTH or FORMAT.
 */
int plx_reset_check(const uint8_t *pkt, size_t n_bytes, uint32_t peer_session_id,
                    const uint8_t token[16]);

#endif
