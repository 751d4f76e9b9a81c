/*
 * A session under any mixture of true, tampered, repeated and made-up packets, rekeys and
 * acknowledgements. The input is a program: an operation, a length, that many bytes. What one end
 * sealed must open once; anything else must not.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "dataplane/wire/conn.h"
#include "fw/base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct plx_crypt x;
static struct plx_wire_conn cli, app;
static struct plx_path path;
static uint64_t now;

static void start(void)
{
	static const uint8_t ip[4] = {10, 0, 0, 1};
	const struct plx_wire_limits lim = {.retx_floor_us = 10, .max_ack_delay_us = 5};
	struct plx_hs_keys keys = {.secret_c2a = {1}, .secret_a2c = {2}};
	struct plx_wire_addr addr = plx_wire_addr_v4(ip, 1);

	if (!x.ciphers)
		PLX_CHECK(plx_crypt_open(&x, true, NULL) == 0);
	keys.cipher = (enum plx_cipher)plx_crypt_pick(x.ciphers, 6);
	now = 1;
	plx_conn_init(&cli, &x, PLX_SIDE_CLIENT, 1, 2, &keys, &lim, now);
	plx_conn_init(&app, &x, PLX_SIDE_APPLIANCE, 2, 1, &keys, &lim, now);
	cli.rekey_after = 3;
	plx_path_init(&path, &addr);
}

/* Made-up bytes, right up to the header: only a tag can be right, and nobody has one. */
static void made_up(const uint8_t *p, size_t n)
{
	uint8_t pkt[300] = {0};
	struct plx_hdr h;

	memcpy(pkt, p, n);
	if (n >= PLX_SEAL_BYTES) {
		struct plx_hdr want = {.magic = PLX_WIRE_MAGIC,
		                       .version = 1,
		                       .type = PLX_T_PING,
		                       .session_id = 2,
		                       .frag_count = 1,
		                       .payload_bytes = (uint16_t)(n - PLX_SEAL_BYTES)};

		memcpy(&want.pkt_num, p + 8, 8);
		want.epoch = p[31] & 15;
		plx_hdr_encode(pkt, &want);
	}
	PLX_CHECK(plx_conn_open(&app, &x, &h, pkt, n, now) != 0);
}

static int seal(const uint8_t *p, size_t n, uint8_t *pkt)
{
	struct plx_hdr h = {.type = PLX_T_PING,
	                    .frag_count = 1,
	                    .payload_bytes = (uint16_t)n,
	                    .prio_flags = (uint8_t)(n & 0x3f)};

	memcpy(pkt + PLX_HDR_BYTES, p, n);
	return plx_conn_seal(&cli, &x, &h, pkt, now);
}

static void true_packet(const uint8_t *p, size_t n)
{
	uint8_t pkt[400], copy[400];
	struct plx_hdr h;
	int bytes = seal(p, n, pkt);

	PLX_CHECK(bytes > 0);
	memcpy(copy, pkt, (size_t)bytes);
	PLX_CHECK(plx_conn_open(&app, &x, &h, pkt, (size_t)bytes, now) == 0);
	PLX_CHECK(h.payload_bytes == n && memcmp(pkt + PLX_HDR_BYTES, p, n) == 0);
	PLX_CHECK(plx_conn_open(&app, &x, &h, copy, (size_t)bytes, now) == PLX_E_REPLAY);
	PLX_CHECK(app.rx_epoch == cli.tx_epoch);
}

static void tampered(const uint8_t *p, size_t n)
{
	uint8_t pkt[400];
	struct plx_hdr h;
	int bytes = seal(p, n, pkt);

	PLX_CHECK(bytes > 0);
	pkt[p[0] % bytes] ^= (uint8_t)(1u << (p[0] % 8));
	PLX_CHECK(plx_conn_open(&app, &x, &h, pkt, (size_t)bytes, now) != 0);
}

/* Any acknowledgement, true or not, and one of our own through the other direction. */
static void acknowledged(const uint8_t *p, size_t n)
{
	struct plx_msg_ack_head head;
	struct plx_msg_ack_entry e[PLX_ACK_MAX];
	uint8_t pkt[PLX_DGRAM_MIN_BYTES];
	struct plx_hdr h;

	if (plx_msg_ack_decode(&head, e, p, n) == 0) {
		plx_conn_acked(&cli, &head, now);
		for (uint32_t i = 0; i < head.n_entries; i++)
			plx_conn_ack(&app, &e[i], i & 1, now);
	}
	plx_conn_ack_head(&app, now);
	int bytes = plx_conn_ack_flush(&app, &x, pkt, sizeof(pkt), now);

	PLX_CHECK(bytes > 0 && plx_conn_open(&cli, &x, &h, pkt, (size_t)bytes, now) == 0);
	PLX_CHECK(plx_msg_ack_decode(&head, e, pkt + PLX_HDR_BYTES, h.payload_bytes) == 0);
	plx_conn_acked(&cli, &head, now);
	PLX_CHECK(cli.tx_acked < cli.tx_pkt_num);
}

static void moved(const uint8_t *p, size_t n)
{
	struct plx_wire_addr a = path.addr;

	a.port = p[0];
	bool ask = plx_path_seen(&path, &a, n, p[0] & 1, now | 1);

	PLX_CHECK(!ask || path.nonce);
	if (plx_path_may_send(&path, n))
		PLX_CHECK(path.tx_bytes <= PLX_PATH_FACTOR * path.rx_bytes);
	(void)plx_path_response(&path, &a, p[0] & 2 ? path.nonce : p[0]);
	(void)plx_path_poll(&path, &cli.rtt, now);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const ops[])(const uint8_t *, size_t) = {made_up, true_packet, tampered,
	                                                       acknowledged, moved};

	start();
	for (size_t i = 0; i + 3 <= size;) {
		size_t n = data[i + 1], left = size - i - 2;

		n = n < 1 ? 1 : n > left ? left : n;
		now += data[i] & 0x80 ? 1000000 : data[i];
		ops[(data[i] & 0x7f) % 5](data + i + 2, n);
		i += 2 + n;
	}
	return 0;
}
