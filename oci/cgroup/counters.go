package cgroup

import (
	"sync"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
)

// Counters is Usage of one cgroup for who asks again and again: each file stays open once it
// has been read, and is read again with a third of the work. The kernel keeps a page with each.
//
// They say of a cgroup that was removed that it is gone, and of one that was made again at
// its path what that one says. They may be used concurrently.
type Counters struct {
	cgroup *Cgroup
	tasks  bool

	mu     sync.Mutex
	closed bool
	files  []keptFiles // of each hierarchy
}

// Counters are the cgroup's, of which no file is open yet. Close them before the cgroup is
// removed. What tasks does, Usage says.
func (c *Cgroup) Counters(tasks bool) *Counters {
	return &Counters{cgroup: c, tasks: tasks, files: make([]keptFiles, len(c.all))}
}

// Usage is Cgroup.Usage.
func (k *Counters) Usage(b *Bases) (*Stats, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	kept := k
	if k.closed {
		kept = nil
	}
	s, err := k.cgroup.read(reader{usage: true, tasks: k.tasks, bases: b}, kept)
	if err != nil {
		k.closeFiles() // it is gone, as a rule, from the other hierarchies too
	}
	return s, err
}

// Close closes the files. Afterwards Usage leaves none open.
func (k *Counters) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	k.closeFiles()
}

func (k *Counters) closeFiles() {
	for i := range k.files {
		k.files[i].close()
	}
}

// keptFiles are open files of one directory; nil has none and takes none.
type keptFiles struct{ open []keptFile }

type keptFile struct {
	name string
	fd   int
}

// read reads a file into buf, or elsewhere if that is too small, if it is open. One whose
// cgroup or controller is no more is not: what there is under its name now may be another.
func (k *keptFiles) read(name string, buf []byte) (text []byte, open bool, err error) {
	if k == nil {
		return nil, false, nil
	}
	for _, f := range k.open {
		if f.name != name {
			continue
		}
		text, err := readPiece(f.fd, buf)
		if isErrno(err, syscall.ENODEV) {
			k.close() // the others' too, or it is not known
			return nil, false, nil
		}
		return text, true, err
	}
	return nil, false, nil
}

// add keeps a file open, unless the process has so many already that something else may
// lack them.
func (k *keptFiles) add(name string, fd int) bool {
	if k == nil || !sys.MayStayOpen(fd) {
		return false
	}
	k.open = append(k.open, keptFile{name, fd})
	return true
}

func (k *keptFiles) close() {
	for _, f := range k.open {
		_ = syscall.Close(f.fd) // it was read
	}
	k.open = nil
}
