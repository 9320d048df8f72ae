/*
 * floor: the kernel's share of what an OCI runtime does.
 *
 *	floor DIR run|run-detached|create BUNDLE NAME
 *	floor DIR start|state|kill|delete|delete-f NAME
 *	floor DIR exec NAME
 *	floor DIR execs COUNT NAME
 *
 * It does what an OCI runtime does for runc's example config (`runc spec`):
 * cgroups with the default device rules, six namespaces, the seven mounts,
 * device nodes, masked and read-only paths, pivot_root, capabilities,
 * no_new_privs, execve; then it waits and removes the cgroups. If BUNDLE ends in
 * "b" it also writes limits of memory, CPU and processes, keeps 14 capabilities
 * and loads the seccomp filter in DIR/filter, which the caller has compiled. The
 * container's program is /bin/true; unless BUNDLE ends in "a" or "b" it sleeps.
 *
 * It reads no config, keeps no state but a pid file and the socket at which a
 * created container waits, checks nothing and trusts every path, so no runtime
 * can be faster than this without doing less. It is a ruler for test/bench, not a
 * way to run anything.
 *
 * On cgroup v1 the child joins by writing "0" to the tasks files, which is the
 * fastest way there is (see oci/cgroup); the v2 hierarchy it is born in. On a host
 * with v2 alone the device filter is left out.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define CGROUP "/sys/fs/cgroup"

static const char *v1[] = {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"};
#define NV1 (sizeof(v1) / sizeof(*v1))

static const char *dir, *name;
static int limited; /* bundle b */
static int unified; /* cgroup v2 only */

static void check(int rc, const char *what)
{
	if (rc < 0)
		err(1, "%s", what);
}

static int put(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = write(fd, text, strlen(text));
	close(fd);
	return n < 0 ? -1 : 0;
}

static const char *in(const char *hierarchy, const char *file)
{
	static char path[512];
	snprintf(path, sizeof path, CGROUP "%s%s/%s%s%s", *hierarchy ? "/" : "", hierarchy, name, *file ? "/" : "", file);
	return path;
}

static void limit(const char *hierarchy, const char *file, const char *value)
{
	check(put(in(hierarchy, file), value), file);
}

static void make_cgroups(void)
{
	static const char *allow[] = {"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm",
				      "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm"};
	char buf[256];

	if (unified) {
		check(mkdir(in("", ""), 0755), "mkdir cgroup");
		if (limited) {
			limit("", "memory.max", "268435456");
			limit("", "cpu.weight", "39");
			limit("", "cpu.max", "100000 100000");
			limit("", "pids.max", "512");
		}
		return;
	}
	for (size_t i = 0; i < NV1; i++)
		check(mkdir(in(v1[i], ""), 0755), v1[i]);
	check(mkdir(in("unified", ""), 0755), "unified");
	for (int i = 0; i < 2; i++) {
		const char *file = i ? "cpuset.mems" : "cpuset.cpus";
		char parent[64];
		snprintf(parent, sizeof parent, CGROUP "/cpuset/%s", file);
		int fd = open(parent, O_RDONLY | O_CLOEXEC);
		ssize_t n = read(fd, buf, sizeof buf - 1);
		close(fd);
		buf[n > 0 ? n : 0] = 0;
		check(put(in("cpuset", file), buf), file);
	}
	check(put(in("devices", "devices.deny"), "a"), "devices.deny");
	int fd = open(in("devices", "devices.allow"), O_WRONLY | O_CLOEXEC);
	for (size_t i = 0; i < sizeof allow / sizeof *allow; i++)
		check(write(fd, allow[i], strlen(allow[i])), "devices.allow");
	close(fd);
	if (limited) {
		limit("memory", "memory.limit_in_bytes", "268435456");
		limit("cpu", "cpu.shares", "1024");
		limit("cpu", "cpu.cfs_period_us", "100000");
		limit("cpu", "cpu.cfs_quota_us", "100000");
		limit("pids", "pids.max", "512");
	}
}

/* the v2 cgroup, which says when the last process has gone */
static void wait_empty(void)
{
	char buf[64] = {0};
	int fd = open(in(unified ? "" : "unified", "cgroup.events"), O_RDONLY | O_CLOEXEC);
	struct pollfd p = {fd, POLLPRI, 0};
	while (check(pread(fd, buf, sizeof buf - 1, 0), "cgroup.events"), !strstr(buf, "populated 0"))
		check(poll(&p, 1, -1), "poll");
	close(fd);
}

static void remove_cgroups(void)
{
	if (unified) {
		rmdir(in("", ""));
		return;
	}
	for (size_t i = 0; i < NV1; i++)
		rmdir(in(v1[i], ""));
	rmdir(in("unified", ""));
}

/* mount on a directory that may have to be made */
static void mnt(const char *source, const char *on, const char *type, unsigned long flags, const char *data)
{
	mkdir(on, 0755);
	check(mount(source, on, type, flags, data), on);
}

static void mask(const char *path, int empty)
{
	struct stat st;
	char target[64];

	if (stat(path, &st))
		return;
	if (S_ISDIR(st.st_mode)) {
		snprintf(target, sizeof target, "/proc/self/fd/%d", empty);
		check(mount(target, path, NULL, MS_BIND, NULL), path);
	} else {
		check(mount("/dev/null", path, NULL, MS_BIND, NULL), path);
	}
}

static void readonly(const char *path)
{
	if (mount(path, path, NULL, MS_BIND | MS_REC, NULL))
		return;
	check(mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), path);
}

static void join_cgroups(void)
{
	for (size_t i = 0; !unified && i < NV1; i++)
		check(put(in(v1[i], "tasks"), "0"), "join");
}

/* what a container's process is, and its program */
static void become(char **argv)
{
	struct rlimit files = {1024, 1024};
	setrlimit(RLIMIT_NOFILE, &files);
	const uint64_t few = 1ULL << CAP_AUDIT_WRITE | 1ULL << CAP_KILL | 1ULL << CAP_NET_BIND_SERVICE;
	const uint64_t caps = limited ? 0xa80425fb : few; /* docker's 14 */
	for (int c = 0; c <= 40; c++)
		if (!(caps >> c & 1))
			prctl(PR_CAPBSET_DROP, c);
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{caps, caps, 0}, {0, 0, 0}};
	check(syscall(SYS_capset, &header, data), "capset");
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	syscall(SYS_close_range, 3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */);
}

static void execute(char **argv, const struct sock_fprog *filter)
{
	if (filter->len)
		check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, filter), "seccomp");
	execv(*argv, argv);
	err(127, "%s", *argv);
}

/* the interface lo, which the kernel sets up for nobody */
static void loopback(void)
{
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	check(fd, "socket");
	check(ioctl(fd, SIOCSIFFLAGS, &lo), "lo");
	close(fd);
}

static void child(const char *rootfs, char **argv, int ready, int gate)
{
	static const struct { const char *path; int minor, major; } nodes[] = {
		{"dev/null", 3, 1}, {"dev/zero", 5, 1}, {"dev/full", 7, 1},
		{"dev/random", 8, 1}, {"dev/urandom", 9, 1}, {"dev/tty", 0, 5}};
	static const char *links[][2] = {{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"},
		{"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"}, {"/proc/kcore", "dev/core"}, {"pts/ptmx", "dev/ptmx"}};
	static const char *masked[] = {"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"};
	static const char *ro[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
	const unsigned long locked = MS_NOSUID | MS_NOEXEC | MS_NODEV;

	static struct sock_filter code[BPF_MAXINSNS];
	struct sock_fprog filter = {0, code};
	if (limited) {
		char path[256];
		snprintf(path, sizeof path, "%s/filter", dir);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		filter.len = read(fd, code, sizeof code) / sizeof *code;
		close(fd);
	}
	join_cgroups();
	check(unshare(CLONE_NEWCGROUP), "unshare cgroup");
	setsid();
	syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, name);
	loopback();

	check(mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL), "propagation");
	check(mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL), "bind rootfs");
	check(chdir(rootfs), "chdir");
	mnt("proc", "proc", "proc", 0, NULL);
	mnt("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
	mnt("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
	mnt("shm", "dev/shm", "tmpfs", locked, "mode=1777,size=65536k");
	mnt("mqueue", "dev/mqueue", "mqueue", locked, NULL);
	mnt("sysfs", "sys", "sysfs", locked | MS_RDONLY, NULL);
	if (unified) {
		mnt("cgroup", "sys/fs/cgroup", "cgroup2", locked | MS_RELATIME | MS_RDONLY, NULL);
	} else {
		mnt("tmpfs", "sys/fs/cgroup", "tmpfs", locked, "mode=755");
		for (size_t i = 0; i < NV1; i++) {
			char on[64];
			snprintf(on, sizeof on, "sys/fs/cgroup/%s", v1[i]);
			mnt("cgroup", on, "cgroup", locked | MS_RELATIME | MS_RDONLY, i == NV1 - 1 ? "none,name=systemd" : v1[i]);
		}
		check(mount(NULL, "sys/fs/cgroup", NULL, MS_REMOUNT | MS_BIND | locked | MS_RDONLY, NULL), "cgroup");
	}
	umask(0);
	for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++)
		check(mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)), nodes[i].path);
	for (size_t i = 0; i < sizeof links / sizeof *links; i++)
		check(symlink(links[i][0], links[i][1]), links[i][1]);
	umask(022);
	check(sethostname("floor", 5), "sethostname");

	check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	check(umount2(".", MNT_DETACH), "umount old root");
	check(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL), "read-only root");
	mnt("tmpfs", "/proc/acpi", "tmpfs", MS_RDONLY, NULL); /* one empty directory for all */
	int empty = open("/proc/acpi", O_PATH | O_CLOEXEC);
	for (size_t i = 1; i < sizeof masked / sizeof *masked; i++)
		mask(masked[i], empty);
	for (size_t i = 0; i < sizeof ro / sizeof *ro; i++)
		readonly(ro[i]);

	become(argv);
	if (gate >= 0) {
		check(write(ready, "", 1), "ready");
		check(accept4(gate, NULL, NULL, SOCK_CLOEXEC), "accept");
	}
	execute(argv, &filter);
}

static void path_of(char *path, size_t size, const char *suffix) { snprintf(path, size, "%s/%s%s", dir, name, suffix); }

static struct sockaddr_un gate_address(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	path_of(a.sun_path, sizeof a.sun_path, ".sock");
	return a;
}

static void keep_pid(long pid)
{
	char path[256], text[16];
	path_of(path, sizeof path, ".pid");
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	check(write(fd, text, snprintf(text, sizeof text, "%ld", pid)), path);
	close(fd);
}

static pid_t kept_pid(void)
{
	char path[256], text[16] = {0};
	path_of(path, sizeof path, ".pid");
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	check(read(fd, text, sizeof text - 1), path);
	close(fd);
	return atoi(text);
}

static void forget(void)
{
	char path[256];
	path_of(path, sizeof path, ".pid");
	unlink(path);
	path_of(path, sizeof path, ".sock");
	unlink(path);
}

static int v2_cgroup(void) { return open(in(unified ? "" : "unified", ""), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }

static int wait_for(pid_t pid)
{
	int status;
	check(waitpid(pid, &status, 0), "waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* run, run-detached, create */
static int run(const char *verb, const char *bundle)
{
	char rootfs[256], *argv[] = {"/bin/true", NULL, NULL};
	int gate = -1, pipe[2] = {-1, -1};
	char kind = bundle[strlen(bundle) - 1];

	snprintf(rootfs, sizeof rootfs, "%s/rootfs", bundle);
	limited = kind == 'b';
	if (kind != 'a' && kind != 'b')
		argv[1] = "sleep";
	make_cgroups();
	struct clone_args args = {
		.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_INTO_CGROUP,
		.exit_signal = SIGCHLD,
		.cgroup = v2_cgroup(),
	};
	if (!strcmp(verb, "create")) {
		struct sockaddr_un a = gate_address();
		check(pipe2(pipe, O_CLOEXEC), "pipe");
		check(gate = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), "socket");
		check(bind(gate, (void *)&a, sizeof a), "bind");
		check(listen(gate, 1), "listen");
	} else {
		args.flags |= CLONE_VFORK;
	}
	long pid = syscall(SYS_clone3, &args, sizeof args);
	check(pid, "clone3");
	if (pid == 0)
		child(rootfs, argv, pipe[1], gate);
	if (!strcmp(verb, "run")) {
		int code = wait_for(pid);
		remove_cgroups();
		return code;
	}
	if (gate >= 0) {
		char c;
		close(pipe[1]);
		if (read(pipe[0], &c, 1) != 1)
			errx(1, "create: the child has died");
	}
	keep_pid(pid);
	return 0;
}

static int start(void)
{
	struct sockaddr_un a = gate_address();
	char c;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	check(connect(fd, (void *)&a, sizeof a), "connect");
	check(read(fd, &c, 1), "start"); /* ends with the execve */
	return 0;
}

/* one exec, into the container that pidfd is of and whose PID namespace was joined */
static int exec_one(int pidfd)
{
	static const struct sock_fprog none;
	char *argv[] = {"/bin/true", NULL};
	struct clone_args args = {.flags = CLONE_INTO_CGROUP | CLONE_VFORK, .exit_signal = SIGCHLD, .cgroup = v2_cgroup()};
	long pid = syscall(SYS_clone3, &args, sizeof args);
	check(pid, "clone3");
	if (pid == 0) {
		join_cgroups();
		check(setns(pidfd, CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP), "setns");
		setsid();
		syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, name);
		become(argv);
		execute(argv, &none);
	}
	close(args.cgroup);
	return wait_for(pid);
}

/* exec, execs: as whoever has been there all along makes them, such as a monitor */
static int exec_in(int count)
{
	int pidfd = syscall(SYS_pidfd_open, kept_pid(), 0), code = 0;
	check(pidfd, "pidfd_open");
	check(setns(pidfd, CLONE_NEWPID), "setns pid");
	while (count-- > 0 && code == 0)
		code = exec_one(pidfd);
	return code;
}

static int state(void)
{
	char path[64], text[1024];
	snprintf(path, sizeof path, "/proc/%d/stat", kept_pid());
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, text, sizeof text);
	close(fd);
	return write(1, text, n > 0 ? n : 0) < 0;
}

static int kill_init(int wait)
{
	int pidfd = syscall(SYS_pidfd_open, kept_pid(), 0);
	check(pidfd, "pidfd_open");
	check(syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0), "kill");
	struct pollfd p = {pidfd, POLLIN, 0};
	if (wait)
		check(poll(&p, 1, -1), "poll");
	return 0;
}

int main(int argc, char **argv)
{
	struct statfs fs;

	if (argc < 4)
		errx(2, "usage: floor DIR VERB [BUNDLE] NAME");
	dir = argv[1];
	name = argv[argc - 1];
	const char *verb = argv[2];
	unified = !statfs(CGROUP, &fs) && fs.f_type == 0x63677270;
	if (!strcmp(verb, "execs"))
		return exec_in(atoi(argv[3]));
	if (argc == 5)
		return run(verb, argv[3]);
	if (!strcmp(verb, "start"))
		return start();
	if (!strcmp(verb, "exec"))
		return exec_in(1);
	if (!strcmp(verb, "state"))
		return state();
	if (!strcmp(verb, "kill"))
		return kill_init(0);
	if (!strcmp(verb, "delete-f"))
		kill_init(1);
	wait_empty();
	remove_cgroups();
	forget();
	return 0;
}
