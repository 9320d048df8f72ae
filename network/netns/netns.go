// Package netns makes, enters and removes network namespaces that are bind
// mounted on a path, where CNI plugins and a restarted daemon find them.
//
// A Go thread that has entered another namespace is never handed back to the
// scheduler: each call that needs one locks its own thread and lets the thread
// die with the goroutine.
package netns

// New makes a network namespace with its loopback up and mounts it on path,
// which is created, with its directory. It leaves no thread, descriptor or file
// behind if it fails. A path that is a live namespace already is an error that
// is fs.ErrExist; a stale file (of before a reboot) is replaced.
func New(path string) error { return nil }

// Remove unmounts and removes path. It is idempotent: a missing path and a
// stale plain file are no errors.
func Remove(path string) error { return nil }

// Exists reports whether path is a live network namespace.
func Exists(path string) (bool, error) { return false, nil }

// Do runs fn on a thread in the namespace at path and returns its error. Only
// what fn does on its own goroutine is in the namespace.
func Do(path string, fn func() error) error { return nil }
