package bundle

import (
	"strconv"
	"strings"
)

// Signal numbers, the same on amd64 and arm64 (signal(7)).
const (
	SIGKILL = 9
	SIGTERM = 15
	// The C library keeps the kernel's first two real-time signals to itself.
	sigrtmin = 34
	sigrtmax = 64
)

var signals = map[string]int{
	"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "IOT": 6, "BUS": 7, "FPE": 8, "KILL": SIGKILL,
	"USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": SIGTERM, "STKFLT": 16, "CHLD": 17, "CLD": 17,
	"CONT": 18, "STOP": 19, "TSTP": 20, "TTIN": 21, "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25, "VTALRM": 26,
	"PROF": 27, "WINCH": 28, "IO": 29, "POLL": 29, "PWR": 30, "SYS": 31,
}

// ParseSignal reads "SIGTERM", "term", "15", "SIGRTMIN+3", "RTMAX-1", and CRI's
// "SIGRTMINPLUS3" and "SIGRTMAXMINUS1".
func ParseSignal(s string) (int, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > sigrtmax {
			return 0, invalid("stop_signal", "%q: signals are 1 to %d", s, sigrtmax)
		}
		return n, nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if n, ok := signals[name]; ok {
		return n, nil
	}
	name = strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(name)
	for prefix, base := range map[string]int{"RTMIN": sigrtmin, "RTMAX": sigrtmax} {
		offset, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		n := 0
		if offset != "" {
			var err error
			if n, err = strconv.Atoi(offset); err != nil || offset[0] != '+' && offset[0] != '-' {
				break
			}
		}
		if n += base; n >= sigrtmin && n <= sigrtmax {
			return n, nil
		}
	}
	return 0, invalid("stop_signal", "%q is no signal", s)
}

// StopSignal is the name of the signal that stops a container: the one asked
// for, the image's, or SIGTERM. An image's nonsense is its default, as ever.
func StopSignal(asked, image string) (name string, number int) {
	for _, s := range []string{asked, image} {
		if n, err := ParseSignal(s); s != "" && err == nil {
			return s, n
		}
	}
	return "SIGTERM", SIGTERM
}
