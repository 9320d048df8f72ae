package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/oci/container"
)

// errNotRunning has the words by which containerd's shims recognise a kill that
// came too late.
var errNotRunning = errors.New("container not running")

func bindKill(a *app, f *flags) func(context.Context, []string) error {
	var all, regex bool
	f.flag(&all, "all,a", "to every process of the container, if init is gone too")
	f.flag(&regex, "regex,r", "the id is an extended regular expression: to every container that it fits")
	return func(_ context.Context, args []string) error {
		if len(args) == 0 || len(args) > 2 {
			return errors.New("kill: a container id and at most one signal are wanted")
		}
		signal := syscall.SIGTERM
		if len(args) == 2 {
			var err error
			if signal, err = parseSignal(args[1]); err != nil {
				return err
			}
		}
		return a.each(args[0], regex, func(c *container.Container) error {
			err := c.Kill(signal, all)
			if errors.Is(err, container.ErrNotRunning) {
				return fmt.Errorf("kill container %s: %w", c.ID(), errNotRunning)
			}
			return err
		})
	}
}

// parseSignal reads 15, TERM or SIGTERM, in any case.
func parseSignal(text string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("signal %d: there are 1 to 64", n)
		}
		return syscall.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	for _, s := range signalNames {
		if s.name == name {
			return s.number, nil
		}
	}
	if offset, ok := strings.CutPrefix(name, "RTMIN"); ok {
		return realtime(text, sigRTMin, offset)
	}
	if offset, ok := strings.CutPrefix(name, "RTMAX"); ok {
		return realtime(text, sigRTMax, offset)
	}
	return 0, fmt.Errorf("signal %.40q is not known", text)
}

// The real-time signals that the C library leaves to programs (signal(7)).
const sigRTMin, sigRTMax = 34, 64

func realtime(text string, base int, offset string) (syscall.Signal, error) {
	n := 0
	if offset != "" {
		var err error
		if n, err = strconv.Atoi(offset); err != nil {
			return 0, fmt.Errorf("signal %.40q is not known", text)
		}
	}
	if base+n < sigRTMin || base+n > sigRTMax {
		return 0, fmt.Errorf("signal %.40q is out of range", text)
	}
	return syscall.Signal(base + n), nil
}

var signalNames = [...]struct {
	name   string
	number syscall.Signal
}{
	{"HUP", syscall.SIGHUP}, {"INT", syscall.SIGINT}, {"QUIT", syscall.SIGQUIT}, {"ILL", syscall.SIGILL},
	{"TRAP", syscall.SIGTRAP}, {"ABRT", syscall.SIGABRT}, {"IOT", syscall.SIGIOT}, {"BUS", syscall.SIGBUS},
	{"FPE", syscall.SIGFPE}, {"KILL", syscall.SIGKILL}, {"USR1", syscall.SIGUSR1}, {"SEGV", syscall.SIGSEGV},
	{"USR2", syscall.SIGUSR2}, {"PIPE", syscall.SIGPIPE}, {"ALRM", syscall.SIGALRM}, {"TERM", syscall.SIGTERM},
	{"STKFLT", syscall.SIGSTKFLT}, {"CHLD", syscall.SIGCHLD}, {"CLD", syscall.SIGCHLD}, {"CONT", syscall.SIGCONT},
	{"STOP", syscall.SIGSTOP}, {"TSTP", syscall.SIGTSTP}, {"TTIN", syscall.SIGTTIN}, {"TTOU", syscall.SIGTTOU},
	{"URG", syscall.SIGURG}, {"XCPU", syscall.SIGXCPU}, {"XFSZ", syscall.SIGXFSZ}, {"VTALRM", syscall.SIGVTALRM},
	{"PROF", syscall.SIGPROF}, {"WINCH", syscall.SIGWINCH}, {"IO", syscall.SIGIO}, {"POLL", syscall.SIGIO},
	{"PWR", syscall.SIGPWR}, {"SYS", syscall.SIGSYS}, {"UNUSED", syscall.SIGSYS},
}
