/* plx-model: inspects, converts, quantises and verifies model files. */
#include <stdio.h>

#include "tools/model/commands.h"
#include "tools/gguf/out.h"

static int complain(const struct plx_diag *d, int rc)
{
	fprintf(stderr, "plx-model: %s\n", d->text);
	return rc;
}

int main(int argc, char **argv)
{
	struct plx_mtool_options o;
	struct plx_diag d = {0};
	bool sound = true;
	int err = plx_mtool_parse(&o, argc, argv, &d);

	if (err)
		return complain(&d, PLX_MTOOL_USAGE);
	plx_out_catch();
	switch (o.cmd) {
	case PLX_MTOOL_HELP:
		plx_mtool_usage(stdout);
		break;
	case PLX_MTOOL_INSPECT:
		err = plx_mtool_inspect(&o, &d);
		break;
	case PLX_MTOOL_CONVERT:
		err = plx_mtool_convert(&o, &d);
		break;
	case PLX_MTOOL_QUANTISE:
		err = plx_mtool_quantise(&o, &d);
		break;
	case PLX_MTOOL_VERIFY:
		err = plx_mtool_verify(&o, &sound, &d);
		break;
	}
	if (err)
		return complain(&d, plx_mtool_exit_of(err));
	if (fflush(stdout) || ferror(stdout)) {
		fputs("plx-model: can't write to standard output\n", stderr);
		return PLX_MTOOL_OUTPUT;
	}
	return sound ? PLX_MTOOL_OK : PLX_MTOOL_DIFFERS;
}
