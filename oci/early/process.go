package early

import "syscall"

// status is what has become of a container's init.
type status int

const (
	unknown status = iota // give up
	created
	running // or paused
	stopped
)

// flagForkNoExec is PF_FORKNOEXEC, which only an init at its gate has
// (oci/container says why).
const flagForkNoExec = 0x40

func (r *record) status() status {
	var digits [20]byte
	if !paths.stat.set("/proc/", decimal(&digits, r.pid), "/stat", "") {
		return unknown
	}
	text, errno := readFile(&paths.stat, statText[:])
	switch {
	case errno == syscall.ENOENT || errno == syscall.ESRCH:
		return stopped
	case errno != 0:
		return unknown
	}
	state, flags, start, ok := parseStat(text)
	if !ok {
		return unknown
	}
	switch {
	case start != r.startTime || state == 'Z' || state == 'X':
		return stopped
	case flags&flagForkNoExec != 0 && !r.restored:
		return created
	}
	return running
}

// parseStat reads a /proc/PID/stat.
func parseStat(text string) (state byte, flags, start uint64, ok bool) {
	// pid (name) state …: the name may hold anything, and is followed by state, the
	// third field. Flags are the 9th, the start time the 22nd (proc_pid_stat(5)).
	at := -1
	for i := range len(text) {
		if text[i] == ')' {
			at = i
		}
	}
	if at < 0 || at+2 >= len(text) {
		return 0, 0, 0, false
	}
	const stateField, flagsField, startField = 3, 9, 22
	at += 2
	for field := stateField; field <= startField; field++ {
		end := index(text, at, ' ')
		if end <= at {
			return 0, 0, 0, false
		}
		word := text[at:end]
		switch field {
		case stateField:
			state = word[0]
		case flagsField:
			if flags, ok = number(word); !ok {
				return 0, 0, 0, false
			}
		case startField:
			if start, ok = number(word); !ok {
				return 0, 0, 0, false
			}
		}
		at = end + 1
	}
	return state, flags, start, ok
}
