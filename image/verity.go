package image

import (
	"errors"
	"sync"

	"github.com/strake-containers/strake/internal/sys"
)

// verity has the kernel check what is read of the store's files (fs-verity, ADR 44), in
// the background: when all is on the device and nothing is being written. What is not done
// by then is done when that is so again.
type verity struct {
	on      bool  // as asked for, and the file system can
	problem error // why not, if it was asked for
	work    sync.WaitGroup

	mu      sync.Mutex
	running bool // work has one
	again   bool // there may be more than it has seen
	stopped bool
}

// startVerity finds out whether the file system can, and begins with what is there.
func (s *Store) startVerity() error {
	if !s.options.Verity {
		return nil
	}
	s.verity.mu.Lock()
	err := s.layout.HasVerity()
	s.verity.on = err == nil
	if errors.Is(err, sys.ErrNoVerity) {
		s.verity.problem, err = err, nil
		s.log.Warn("[images] verity has no effect: the file system has no fs-verity, or the kernel has not", "root", s.root)
	}
	s.verity.mu.Unlock()
	s.enableVerity()
	return err
}

// Verity tells whether the kernel checks what is read of blobs and layers; the error says
// why not, if that was asked for.
func (s *Store) Verity() (on bool, err error) {
	s.verity.mu.Lock()
	defer s.verity.mu.Unlock()
	return s.verity.on, s.verity.problem
}

// enableVerity sees to it that what is on the device gets fs-verity soon.
func (s *Store) enableVerity() {
	v := &s.verity
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.on || v.stopped {
		return
	}
	v.again = true
	if !v.running {
		v.running = true
		v.work.Go(s.runVerity)
	}
}

// runVerity does all there is to do, again if there may be more.
func (s *Store) runVerity() {
	v := &s.verity
	for {
		v.mu.Lock()
		v.running = v.again && !v.stopped
		v.again = false
		running := v.running
		v.mu.Unlock()
		if !running {
			return
		}
		for _, key := range s.layers.Keys() {
			if err := s.layers.EnableVerity(key, s.atRest); err != nil {
				s.log.Warn("a layer is without fs-verity for now", "layer", key, "error", err)
			}
		}
		if err := s.layout.EnableVerity(s.atRest); err != nil {
			s.log.Warn("a blob is without fs-verity for now", "error", err)
		}
	}
}

// atRest reports whether fs-verity is in nobody's way.
func (s *Store) atRest() bool {
	s.verity.mu.Lock()
	stopped := s.verity.stopped
	s.verity.mu.Unlock()
	return !stopped && !s.layers.Busy()
}

// stopVerity ends it after the file that it is at.
func (s *Store) stopVerity() {
	s.verity.mu.Lock()
	s.verity.stopped = true
	s.verity.mu.Unlock()
	s.verity.work.Wait()
}
