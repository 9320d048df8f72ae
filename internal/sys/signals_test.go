package sys

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

// In a process of its own, since the handlers stay.
func TestSignals(t *testing.T) {
	const inside = "STRAKE_TEST_SIGNALS"
	if os.Getenv(inside) == "" {
		// The shell ignores SIGHUP, and so must what it executes.
		cmd := exec.Command("/bin/sh", "-c", `trap "" HUP; exec "$0" -test.run '^TestSignals$'`, os.Args[0])
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	caught, err := CatchSignals(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, 64)
	if err != nil {
		t.Fatal(err)
	}
	for range 200 { // beside Go at work, on whatever thread and stack
		go func() {
			for range 50 {
				runtime.Gosched()
				_ = make([]byte, 1<<16)
			}
		}()
		for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1, 64, syscall.SIGTERM} {
			if err := syscall.Kill(os.Getpid(), sig); err != nil {
				t.Fatal(err)
			}
			if sig == syscall.SIGHUP {
				continue
			}
			if got, err := caught.Next(); err != nil || got != sig {
				t.Fatalf("got %v (%v), want %v", got, err, sig)
			}
		}
	}
}
