/* Any bytes as a frame: the payload lies inside it, and an answer parses as what it claims. */
#include <stdint.h>
#include <string.h>

#include "dataplane/net.h"
#include "fw/base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static const uint8_t mac[6] = {0x02, 0x11, 0x22, 0x33, 0x44, 0x55};
	static const uint8_t ip4[4] = {10, 77, 0, 2};
	static const uint8_t ip6[16] = {0xfd, 0x77, [15] = 2};
	struct plx_net_if ifc;
	struct plx_net_rx rx;
	uint8_t f[2048];

	if (bytes > 1600)
		return 0;
	plx_net_if_init(&ifc, mac, ip4, ip6, 7709);
	memcpy(f, data, bytes);
	enum plx_net_verdict v =
	    plx_net_input(&ifc, f, (uint32_t)bytes, (uint32_t)bytes + 128, false, &rx);

	if (v == PLX_NET_UDP) {
		PLX_CHECK(rx.payload_off + rx.payload_bytes <= bytes);
		PLX_CHECK(rx.peer.port != 0);
		uint32_t hdr = plx_net_hdr_bytes(&rx.peer);

		memmove(f + hdr, f + rx.payload_off, rx.payload_bytes);
		PLX_CHECK(plx_net_output(&ifc, &rx.peer, f, rx.payload_bytes) ==
		          hdr + rx.payload_bytes);
	} else if (v == PLX_NET_REPLY) {
		PLX_CHECK(rx.reply_bytes <= bytes + 128 && memcmp(f + 6, mac, 6) == 0);
	}
	return 0;
}
