package sys

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Signals are signals caught for this process to read, one after the other.
//
// os/signal does the same for any number of channels, and takes two switches of
// threads for each signal that it is asked for: 60 of them cost a program that
// is to pass all signals on a millisecond. Here a handler of a few instructions
// writes the signal's number to a pipe, whichever thread it runs on (signals_*.s).
type Signals struct{ pipe *os.File }

// signalPipe is where the handler writes to.
var signalPipe int32 = -1 //nolint:unused // by the handler

// addresses are those of the handler and of what it returns to.
func addresses() (handler, restorer uintptr)

// kernelAction is struct sigaction as rt_sigaction(2) takes it.
type kernelAction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const (
	sigIgnore  = 1
	saRestorer = 0x04000000
	saOnStack  = 0x08000000
	saRestart  = 0x10000000
)

// CatchSignals has the given signals come to Next from now on, for the rest of
// this process's life. Those that are ignored stay so: whoever started us wants
// that (nohup(1)). It can be called once.
func CatchSignals(list ...syscall.Signal) (*Signals, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	signalPipe = int32(ends[1]) // a handler does not wait: what finds 64 Ki signals unread is lost
	var ours, old kernelAction
	ours.handler, ours.restorer = addresses()
	ours.flags = saRestorer | saOnStack | saRestart
	for _, sig := range list {
		err := sigaction(sig, &ours, &old)
		if err == nil && old.handler == sigIgnore {
			err = sigaction(sig, &old, nil)
		}
		if err != nil {
			return nil, err
		}
	}
	return &Signals{os.NewFile(uintptr(ends[0]), "signals")}, nil
}

func sigaction(sig syscall.Signal, set, old *kernelAction) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)),
		unsafe.Sizeof(old.mask), 0, 0)
	if errno != 0 {
		return fmt.Errorf("rt_sigaction %v: %w", sig, errno)
	}
	return nil
}

// Next waits for a signal.
func (s *Signals) Next() (syscall.Signal, error) {
	var number [1]byte
	if _, err := s.pipe.Read(number[:]); err != nil {
		return 0, err
	}
	return syscall.Signal(number[0]), nil
}
