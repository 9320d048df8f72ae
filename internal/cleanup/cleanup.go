// Package cleanup is the undo stack of a function that acts in steps.
//
// A verb pushes the undo of each step as it succeeds, defers Run, and calls
// Release once nothing can fail any more:
//
//	var undo cleanup.Stack
//	defer undo.Run(&err)
//	...
//	undo.Push("unmount rootfs", unmount)
//	...
//	undo.Release()
//
// It never runs an undo twice and never hides the error that made it run. A
// Stack belongs to one goroutine.
package cleanup

import (
	"errors"
	"fmt"
)

// Stack holds undo functions; the last one pushed runs first. Its zero value is
// ready for use.
type Stack struct {
	undos []undo
}

type undo struct {
	what string
	run  func() error
}

// Push adds an undo. What names the action in the error if the undo fails.
func (s *Stack) Push(what string, run func() error) {
	s.undos = append(s.undos, undo{what, run})
}

// Release drops every undo: what was done stays.
func (s *Stack) Release() { s.undos = nil }

// Run runs what is on the stack, all of it, whichever undo fails. Undo errors
// are joined to *err behind the error that is there, which stays the first. It
// runs nothing after Release.
func (s *Stack) Run(err *error) {
	for i := len(s.undos) - 1; i >= 0; i-- {
		u := s.undos[i]
		if e := u.run(); e != nil {
			*err = errors.Join(*err, fmt.Errorf("undo: %s: %w", u.what, e))
		}
	}
	s.undos = nil
}
