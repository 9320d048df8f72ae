/*
 * rss FILE COMMAND [ARG]...: runs COMMAND and writes its peak memory in KiB to
 * FILE. A parent's own peak counts as its child's until the exec and stays in
 * ru_maxrss, so a Go program cannot measure a smaller one than itself.
 */
#include <err.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct rusage usage;
	int status;

	if (argc < 3)
		errx(2, "usage: rss FILE COMMAND [ARG]...");
	pid_t pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (pid == 0) {
		execv(argv[2], argv + 2);
		err(127, "%s", argv[2]);
	}
	if (wait4(pid, &status, 0, &usage) < 0)
		err(1, "wait4");
	FILE *f = fopen(argv[1], "w");
	if (!f || fprintf(f, "%ld", usage.ru_maxrss) < 0 || fclose(f))
		err(1, "%s", argv[1]);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
