package sys

import (
	"errors"
	"os/exec"
	"time"
)

// AfterExit is how long what a program has left running may keep its output open, for
// exec.Cmd's WaitDelay.
const AfterExit = time.Second

// Ended is the error of a Wait for a program with that WaitDelay: the program itself has ended
// well where only its output had to be cut off.
func Ended(err error) error {
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}
