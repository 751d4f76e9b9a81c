/* Names and help texts of the error list, and its mapping to wire codes. */
#include "fw/base/err.h"

const char *plx_err_name(int err)
{
	switch (err) {
#define X(name, value, help)                                                                       \
	case value:                                                                                \
		return #name;
		PLX_ERR_LIST(X)
#undef X
	default:
		return "UNKNOWN";
	}
}

const char *plx_err_help(int err)
{
	switch (err) {
#define X(name, value, help)                                                                       \
	case value:                                                                                \
		return help;
		PLX_ERR_LIST(X)
#undef X
	default:
		return "";
	}
}

uint8_t plx_err_wire(int err)
{
	if (err > PLX_ERR_WIRE_FIRST || err < PLX_ERR_WIRE_LAST)
		return 0;
	return (uint8_t)(PLX_ERR_WIRE_FIRST - err + 1);
}

int plx_err_from_wire(uint8_t code)
{
	if (code < 1 || code > PLX_ERR_WIRE_FIRST - PLX_ERR_WIRE_LAST + 1)
		return PLX_E_FORMAT;
	return PLX_ERR_WIRE_FIRST - (int)(code - 1);
}
