// Package early does strake-runtime's shortest verbs before Go's runtime has
// started: state, kill, start and delete of a container without hooks, which is
// what a caller asks for again and again, take ten to thirty system calls, while
// the start of a Go program takes three threads, a heap and hundreds of page
// faults (ADR 36). An exec that has been asked for before, as for a probe, is done
// here, too: its program has been kept (ADR 45).
//
// It is a fast path and nothing else. It has no words for an error: whatever is
// out of the ordinary (a flag that it does not know, a file that is not there, a
// process that does not look as expected) has Run give up, and the program starts
// as it always does and finds the same out by itself, with the right message. So
// each verb looks before it does anything, and what it does can be begun again.
//
// The code is ordinary Go that must do without Go's runtime: nothing is allocated,
// no map, closure, interface, defer, goroutine or panic, and system calls are raw.
// Memory is this package's variables. The tests hold it to that: they read the
// compiled code's calls, and compare each verb with the one of cmd/strake-runtime.
//
// It is not for concurrent use: there is one process, with one thread.
package early

import (
	"runtime"
	"syscall"
	"unsafe"

	"github.com/strake-containers/strake/internal/filelimit"
)

// GiveUp is what Run returns if the program is to go on as if it had not been
// called.
const GiveUp = -1

// Gate is the descriptor of a connection to a container's gate that a start has
// made before it gave up, or 0. With it made, init goes on: nobody else may be
// asked to start the container, but what comes over the connection (the error of
// an execve, a seccomp listener) has not been received yet.
var Gate int

// maxArgs is more than the verbs take.
const maxArgs = 24

// command is a command line.
type command struct {
	root     string
	log      string
	verb, id string
	signal   uintptr
	force    bool
}

// TimerSlack is the timer slack that this thread has had before Run gave up, in
// nanoseconds; 0 if Run has not changed it. Threads inherit what it has now: the longest
// pause that the monitor thread of Go's runtime makes (sys.ShortLife).
var TimerSlack uintptr

// Run does what a command line says, given as the kernel passes it: argc, argv, environ(7).
// It returns the exit code, or GiveUp.
func Run(start *uintptr) int {
	stack = start
	code := runAs()
	if code == GiveUp {
		// A sample of what is allocated, of which nobody will ask for a profile, has the
		// runtime look up its own callers in tables from all over the program's file.
		runtime.MemProfileRate = 0
		const prSetTimerSlack, prGetTimerSlack = 29, 30 // linux/prctl.h
		const longestPause = 10_000_000                 // ns
		if slack, errno := call(syscall.SYS_PRCTL, prGetTimerSlack, 0, 0, 0); errno == 0 && slack < longestPause {
			if _, errno = call(syscall.SYS_PRCTL, prSetTimerSlack, longestPause, 0, 0); errno == 0 {
				TimerSlack = slack
			}
		}
		takeFiles()
	}
	return code
}

// args is the command line.
var args [maxArgs]string

// takeFiles keeps Go's runtime from opening files. Before anything of the program runs it
// looks for a limit of processors in /proc/self/cgroup and /proc/self/mountinfo, also when
// containermaxprocs is 0, to count how often that makes a difference (runtime/cgroup_linux.go
// of Go 1.26): the kernel writes a list of mounts for it. Where no file can be opened, it goes
// on without. Package filelimit gives them back.
func takeFiles() {
	const self, noFile = 0, 7 // RLIMIT_NOFILE, asm-generic/resource.h
	limit := &filelimit.Limit
	if _, errno := call(syscall.SYS_PRLIMIT64, self, noFile, 0, uintptr(unsafe.Pointer(limit))); errno != 0 {
		return
	}
	none := *limit
	none.Soft = 0
	_, errno := call(syscall.SYS_PRLIMIT64, self, noFile, uintptr(unsafe.Pointer(&none)), 0)
	filelimit.Taken = errno == 0
}

func runAs() int {
	argc := *stack
	if argc < 3 || argc > maxArgs {
		return GiveUp
	}
	argv := unsafe.Slice((**byte)(unsafe.Add(unsafe.Pointer(stack), unsafe.Sizeof(*stack))), argc)
	for i := range args {
		if i < len(argv) {
			args[i] = unsafe.String(argv[i], length(argv[i]))
		}
	}
	code := run(args[1:argc])
	if code == GiveUp && wantsSeal(args[1:argc]) {
		seal()
	}
	return code
}

func length(s *byte) (n int) {
	for *(*byte)(unsafe.Add(unsafe.Pointer(s), n)) != 0 {
		n++
	}
	return n
}

func run(args []string) int {
	var c command
	if !c.parse(args) || !openLog(c.log) {
		return GiveUp
	}
	if c.verb == "exec" {
		return c.runExec()
	}
	if c.verb == "delete" {
		if !c.delete() {
			return GiveUp
		}
		return 0
	}
	var r record
	if !c.read(&r) {
		return GiveUp
	}
	done := false
	switch c.verb {
	case "state":
		done = c.state(&r)
	case "kill":
		done = c.kill(&r)
	case "start":
		done = c.start(&r)
	}
	if !done {
		return GiveUp
	}
	return 0
}

// read reads the container's state.json.
func (c *command) read(r *record) bool {
	if !paths.state.set(c.root, "/", c.id, "/"+stateFile) {
		return false
	}
	text, errno := readFile(&paths.state, stateText[:])
	return errno == 0 && r.decode(text)
}

// readIn reads it in the state directory.
func (r *record) readIn(dir uintptr) bool {
	if !paths.state.set(stateFile, "", "", "") {
		return false
	}
	text, errno := readFileIn(dir, &paths.state, stateText[:])
	return errno == 0 && r.decode(text)
}

// parse reads what shims and engines pass: global flags, one of the verbs, the id.
func (c *command) parse(args []string) bool {
	at := 0
	for ; at < len(args) && args[at] != "" && args[at][0] == '-'; at++ {
		name, value, given := flag(args[at])
		switch name {
		case "systemd-cgroup":
			if given {
				return false
			}
			continue
		case "root", "log", "log-format":
		default:
			return false
		}
		if !given {
			at, value = next(args, at)
		}
		switch {
		case value == "":
			return false
		case name == "root":
			c.root = value
		case name == "log":
			c.log = value
		case value != "json" && value != "text":
			return false
		}
	}
	if at+2 > len(args) {
		return false
	}
	c.verb, c.id = args[at], args[at+1]
	if c.verb == "exec" {
		return c.parseExec(args[at+1:]) && c.complete()
	}
	rest := args[at+2:]
	c.signal = uintptr(syscall.SIGTERM)
	switch {
	case c.verb == "kill" && len(rest) == 1:
		c.signal = signalOf(rest[0])
		if c.signal > maxSignal {
			return false
		}
	case c.verb == "delete" && (c.id == "--force" || c.id == "-f") && len(rest) == 1:
		c.id, c.force = rest[0], true
	case len(rest) != 0:
		return false
	}
	return c.complete()
}

// complete fills in what the caller has left out, and looks at the rest.
func (c *command) complete() bool {
	if c.root == "" {
		if euid, _ := call(syscall.SYS_GETEUID, 0, 0, 0, 0); euid != 0 {
			return false
		}
		if isSet("XDG_RUNTIME_DIR=") && !isSet("USER=root") { // perhaps a user namespace's root
			return false
		}
		c.root = defaultRoot
	}
	return plainPath(c.root) && len(c.root) > 1 && c.root[1] != '/' && plainID(c.id)
}

// defaultRoot is root's, as in cmd/strake-runtime.
const defaultRoot = "/run/strake-runtime"

// flag takes an argument apart: --name, -name, --name=value.
func flag(arg string) (name, value string, given bool) {
	name = arg[1:]
	if name != "" && name[0] == '-' {
		name = name[1:]
	}
	for i := range len(name) {
		if name[i] == '=' {
			return name[:i], name[i+1:], true
		}
	}
	return name, "", false
}

// next is the argument behind one, with its place; "" if there is none.
func next(args []string, at int) (int, string) {
	if at++; at >= len(args) {
		return at, ""
	}
	return at, args[at]
}

const maxSignal = 64

// signalOf reads a signal: its number, or one of the names that are used. It is
// above maxSignal if it is none of them.
func signalOf(text string) uintptr {
	if len(text) > 3 && text[:3] == "SIG" {
		text = text[3:]
	}
	switch text {
	case "KILL":
		return uintptr(syscall.SIGKILL)
	case "TERM":
		return uintptr(syscall.SIGTERM)
	case "INT":
		return uintptr(syscall.SIGINT)
	case "HUP":
		return uintptr(syscall.SIGHUP)
	case "QUIT":
		return uintptr(syscall.SIGQUIT)
	}
	n, ok := number(text)
	if !ok || n > maxSignal {
		return maxSignal + 1
	}
	return uintptr(n)
}

// number reads decimal digits.
func number(text string) (n uint64, ok bool) {
	const most = 19 // digits that fit
	if text == "" || len(text) > most {
		return 0, false
	}
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return 0, false
		}
		n = 10*n + uint64(text[i]-'0')
	}
	return n, true
}

// plainPath says whether a path is absolute and means what it says: nothing in it
// is to be cleaned, or escaped in JSON.
func plainPath(path string) bool {
	if path == "" || path[0] != '/' {
		return false
	}
	for i := range len(path) {
		c := path[i]
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
		if c == '.' && path[i-1] == '/' {
			return false // of "." and "..", and a hidden file pays for it
		}
	}
	return true
}

// plainID is a name that the library makes.
func plainID(id string) bool {
	const most = 200
	if id == "" || len(id) > most || id[0] == '-' || id[0] == '.' {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '+' && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// openLog makes the log, as the verb does before anything else. Nothing is written
// to it of what goes well.
func openLog(name string) bool {
	if name == "" {
		return true
	}
	for i := range len(name) {
		if name[i] == ':' {
			return false // a kind of log, perhaps
		}
	}
	if !paths.log.set(name, "", "", "") {
		return false
	}
	const perm = 0o644
	fd, errno := call(syscall.SYS_OPENAT, atFDCWD, paths.log.at(), syscall.O_CREAT|syscall.O_WRONLY|syscall.O_APPEND|syscall.O_CLOEXEC, perm)
	if errno != 0 {
		return false
	}
	closeFD(fd)
	return true
}
