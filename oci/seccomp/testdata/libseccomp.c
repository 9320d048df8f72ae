/*
 * Compiles a profile with libseccomp, so that a test can compare the verdicts
 * of its program with those of ours. Not part of any of the programs.
 *
 * Standard input, a line each:
 *	default VERDICT
 *	arch TOKEN
 *	rule VERDICT NAME COUNT [INDEX OPERATOR A B]...
 * VERDICT and OPERATOR are the numbers of seccomp.h, and so is TOKEN. Standard
 * output is the program as an array of struct sock_filter.
 */
#include <err.h>
#include <errno.h>
#include <inttypes.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
	scmp_filter_ctx ctx = NULL;
	char word[16], name[128];

	while (scanf("%15s", word) == 1) {
		uint32_t number;

		if (scanf("%" SCNu32, &number) != 1)
			errx(1, "%s: no number", word);
		if (!strcmp(word, "default")) {
			if (!(ctx = seccomp_init(number)))
				errx(1, "seccomp_init");
		} else if (!strcmp(word, "arch")) {
			int rc = seccomp_arch_add(ctx, number);
			if (rc && rc != -EEXIST)
				errx(1, "arch %#x: %d", number, rc);
		} else if (!strcmp(word, "rule")) {
			struct scmp_arg_cmp args[6];
			unsigned count, i;
			int nr, rc;

			if (scanf("%127s %u", name, &count) != 2 || count > 6)
				errx(1, "rule: bad line");
			for (i = 0; i < count; i++)
				if (scanf("%u %u %" SCNu64 " %" SCNu64, &args[i].arg, &args[i].op,
					  &args[i].datum_a, &args[i].datum_b) != 4)
					errx(1, "rule %s: bad argument", name);
			if ((nr = seccomp_syscall_resolve_name(name)) == __NR_SCMP_ERROR)
				continue;
			rc = seccomp_rule_add_array(ctx, number, nr, count, args);
			if (rc && rc != -EEXIST)
				errx(1, "rule %s: %s", name, strerror(-rc));
		} else {
			errx(1, "%s?", word);
		}
	}
	if (seccomp_export_bpf(ctx, 1))
		errx(1, "export");
	return 0;
}
