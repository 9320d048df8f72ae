package early

import (
	"syscall"
	"unsafe"

	"github.com/strake-containers/strake/oci/launch"
)

// A process that takes a label of a security module cannot do with launch's stub: its
// maker has to be sealed, which is to be executed a second time (docs/adr/0014). With
// Go's runtime the maker finds that out when it has started and compiled the
// config; here the config's text is looked at first, where there is such a module, so
// that Go's runtime starts once.

// stack is what the kernel has put there: argc, argv, environ(7).
var stack *uintptr

// maxEnvironment is how many variables seal passes on.
const maxEnvironment = 1000

var sealedEnvironment [maxEnvironment + 2]*byte

// sealMarker begins the variable that says that it has been done.
const sealMarker = launch.SealedEnv + "="

// seal executes the program again, sealed, unless that has been done. It returns if
// that is not possible.
func seal() {
	if isSet(sealMarker) {
		return
	}
	const marker = sealMarker + "1\x00"
	n := 0
	for e := environment(); e != nil && *e != nil; e = following(e) {
		if n == maxEnvironment {
			return
		}
		sealedEnvironment[n] = *e
		n++
	}
	sealedEnvironment[n], sealedEnvironment[n+1] = unsafe.StringData(marker), nil
	launch.SealEarly(uintptr(unsafe.Add(unsafe.Pointer(stack), unsafe.Sizeof(*stack))), uintptr(unsafe.Pointer(&sealedEnvironment)))
}

// environment is environ(7), or nil.
func environment() **byte {
	if stack == nil {
		return nil
	}
	return (**byte)(unsafe.Add(unsafe.Pointer(stack), (*stack+2)*unsafe.Sizeof(*stack))) // behind argv's end
}

// following is the place behind one of environ(7).
func following(e **byte) **byte { return (**byte)(unsafe.Add(unsafe.Pointer(e), unsafe.Sizeof(e))) }

// isSet says whether the environment has a variable that begins so.
func isSet(name string) bool {
	for e := environment(); e != nil && *e != nil; e = following(e) {
		if v := unsafe.String(*e, length(*e)); len(v) >= len(name) && v[:len(name)] == name {
			return true
		}
	}
	return false
}

// wantsSeal says whether the command line makes a process with a label, as far as can be
// told from here. A wrong answer costs time and nothing else.
func wantsSeal(args []string) bool {
	name, rest := "", ""
	makes := false
	for i, arg := range args {
		switch arg {
		case "create", "run":
			makes = true
		case "--bundle", "-b", "-bundle":
			if i+1 < len(args) {
				name, rest = args[i+1], "/"+configFile
			}
		case "--process", "-p", "-process":
			if i+1 < len(args) {
				name, rest, makes = args[i+1], "", true
			}
		}
	}
	if name == "" {
		rest = configFile
	}
	if !makes || isSet(sealMarker) || !labels() || !paths.file.set(name, rest, "", "") || !isFile(&paths.file) {
		return false
	}
	text, errno := readFile(&paths.file, requestText[:])
	return errno == 0 && (hasMember(text, `"apparmorProfile"`) || hasMember(text, `"selinuxLabel"`))
}

// labels says whether the host has a security module that gives processes labels.
func labels() bool {
	if paths.file.set("/sys/module/apparmor/parameters/enabled", "", "", "") {
		if text, errno := readFile(&paths.file, statText[:]); errno == 0 && text != "" && text[0] == 'Y' {
			return true
		}
	}
	if !paths.file.set("/sys/fs/selinux/enforce", "", "", "") {
		return false
	}
	_, errno := readFile(&paths.file, statText[:])
	return errno == 0
}

// hasMember says whether a JSON text has a member of that name, in quotes, whose value is
// a text and not empty; or looks like it.
func hasMember(text, name string) bool {
	for at := 0; at+len(name) <= len(text); at++ {
		if text[at:at+len(name)] != name {
			continue
		}
		at += len(name)
		for at < len(text) && (text[at] == ' ' || text[at] == '\t' || text[at] == '\r' || text[at] == '\n' || text[at] == ':') {
			at++
		}
		if at+1 < len(text) && text[at] == '"' && text[at+1] != '"' {
			return true
		}
	}
	return false
}

// isFile says whether a name is a regular file's: what is none can be read only once,
// perhaps.
func isFile(name *path) bool {
	const oPath = 0x200000 // O_PATH, asm-generic/fcntl.h
	fd, errno := call(syscall.SYS_OPENAT, atFDCWD, name.at(), oPath|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		return false
	}
	var st syscall.Stat_t
	_, errno = call(syscall.SYS_FSTAT, fd, uintptr(unsafe.Pointer(&st)), 0, 0)
	closeFD(fd)
	return errno == 0 && st.Mode&syscall.S_IFMT == syscall.S_IFREG
}
