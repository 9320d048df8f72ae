// Package store keeps the records of pods and containers: one directory per pod,
// one file per record, replaced atomically. docs/format/pods.md describes the
// files.
//
//	ROOT/pods/PODID/pod.json
//	ROOT/pods/PODID/containers/CID/container.json
//	ROOT/pods/.removing-…      on its way out; the next Load goes on with it
//	ROOT/unreadable/…          what Load could not read, for a person to look at
//
// It knows directories, files and versions, and nothing of what a record means.
// It takes no locks: one process owns a root, and the caller lets nobody write
// one record twice at once.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/sys"
)

const (
	// Version of the format. A reader takes its own and older ones.
	Version = 1

	podFile       = "pod.json"
	containerFile = "container.json"
	containersDir = "containers"
	removing      = ".removing-"
	maxRecord     = 16 << 20 // bytes; a request is at most gRPC's 16 MiB, and JSON can make it longer
	idLength      = 64
)

// ErrNewer is a record of a newer format: the program was downgraded. Nothing is
// touched.
var ErrNewer = errors.New("written by a newer version of strake: install that again; pods run on")

// Store reads and writes records P of pods and C of containers.
type Store[P, C any] struct {
	pods, unreadable string
}

// Open makes the directories below root.
func Open[P, C any](root string) (*Store[P, C], error) {
	s := &Store[P, C]{pods: filepath.Join(root, "pods"), unreadable: filepath.Join(root, "unreadable")}
	if err := os.MkdirAll(s.pods, 0o700); err != nil {
		return nil, fmt.Errorf("pod store: %w", err)
	}
	return s, nil
}

// PodDir is the directory of a pod.
func (s *Store[P, C]) PodDir(id string) string { return filepath.Join(s.pods, id) }

// ContainerDir is the directory of a container.
func (s *Store[P, C]) ContainerDir(pod, id string) string {
	return filepath.Join(s.pods, pod, containersDir, id)
}

// AddPod makes a pod's directory, which holds no record yet.
func (s *Store[P, C]) AddPod(id string) error {
	if err := os.MkdirAll(filepath.Join(s.PodDir(id), containersDir), 0o700); err != nil {
		return fmt.Errorf("pod store: %w", err)
	}
	return nil
}

// AddContainer makes a container's directory, which holds no record yet.
func (s *Store[P, C]) AddContainer(pod, id string) error {
	if err := os.Mkdir(s.ContainerDir(pod, id), 0o700); err != nil {
		return fmt.Errorf("pod store: %w", err)
	}
	return nil
}

// SavePod replaces a pod's record. Without durable it survives the death of
// every process, with it a power cut too.
func (s *Store[P, C]) SavePod(id string, record *P, durable bool) error {
	err := save(filepath.Join(s.PodDir(id), podFile), record, durable)
	if err == nil && durable {
		err = atomicfile.SyncDir(s.pods)
	}
	if err != nil {
		return fmt.Errorf("pod store: %w", err)
	}
	return nil
}

// SaveContainer is SavePod for a container.
func (s *Store[P, C]) SaveContainer(pod, id string, record *C, durable bool) error {
	dir := s.ContainerDir(pod, id)
	err := save(filepath.Join(dir, containerFile), record, durable)
	if err == nil && durable {
		err = errors.Join(atomicfile.SyncDir(filepath.Dir(dir)), atomicfile.SyncDir(s.PodDir(pod)))
	}
	if err != nil {
		return fmt.Errorf("pod store: %w", err)
	}
	return nil
}

// RemovePod removes a pod's directory, with all containers. It is gone for
// Load as soon as it is renamed; one that is gone already is no error.
func (s *Store[P, C]) RemovePod(id string) error { return s.remove(s.PodDir(id)) }

// RemoveContainer removes a container's directory, its upper layer with it.
func (s *Store[P, C]) RemoveContainer(pod, id string) error {
	return s.remove(s.ContainerDir(pod, id))
}

func (s *Store[P, C]) remove(dir string) error {
	trash := filepath.Join(s.pods, removing+filepath.Base(dir))
	err := os.Rename(dir, trash)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pod store: %w", err)
	}
	// Also when dir was gone: a removal that broke off left the trash.
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("pod store: %w", err)
	}
	return nil
}

// Pod is what Load found of a pod. Err says why there is no Record: it is
// fs.ErrNotExist if the pod was never finished.
type Pod[P, C any] struct {
	ID         string
	Record     *P
	Err        error
	Containers []Container[C]
}

// Container is what Load found of a container; see Pod.
type Container[C any] struct {
	ID     string
	Record *C
	Err    error
}

// Load reads everything and finishes removals that were under way. What cannot be
// removed (a file that is immutable, somebody's mount) is what rubbish says, and the next
// Load's: it is nobody's any more. Load fails if the directory itself cannot be read, and
// with ErrNewer.
func (s *Store[P, C]) Load() (pods []Pod[P, C], rubbish, err error) {
	entries, err := os.ReadDir(s.pods)
	if err != nil {
		return nil, nil, fmt.Errorf("pod store: %w", err)
	}
	var ids []string
	for _, e := range entries {
		path := filepath.Join(s.pods, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), removing):
			if err := os.RemoveAll(path); err != nil {
				rubbish = errors.Join(rubbish, fmt.Errorf("pod store: finish removal: %w", err))
			}
		case !validID(e.Name()) || !e.IsDir():
			if _, err := s.setAside(path, e.Name()); err != nil {
				return nil, rubbish, err
			}
		default:
			ids = append(ids, e.Name())
		}
	}
	pods = make([]Pod[P, C], len(ids))
	var all errgroup.Group
	all.SetLimit(runtime.GOMAXPROCS(0)) // it is decoding that takes the time
	for i, id := range ids {
		all.Go(func() (err error) {
			pods[i], err = s.loadPod(id)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return nil, rubbish, err
	}
	return pods, rubbish, nil
}

func (s *Store[P, C]) loadPod(id string) (Pod[P, C], error) {
	p := Pod[P, C]{ID: id}
	dir := s.PodDir(id)
	if p.Record, p.Err = load[P](filepath.Join(dir, podFile)); errors.Is(p.Err, ErrNewer) {
		return p, fmt.Errorf("pod store: %w", p.Err)
	}
	_ = atomicfile.RemoveLeftovers(dir) // clutter at worst
	entries, err := os.ReadDir(filepath.Join(dir, containersDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && p.Err == nil {
		p.Record, p.Err = nil, err
	}
	for _, e := range entries {
		if !validID(e.Name()) || !e.IsDir() {
			if _, err := s.setAside(filepath.Join(dir, containersDir, e.Name()), id+"-"+e.Name()); err != nil {
				return p, err
			}
			continue
		}
		c := Container[C]{ID: e.Name()}
		cdir := s.ContainerDir(id, c.ID)
		if c.Record, c.Err = load[C](filepath.Join(cdir, containerFile)); errors.Is(c.Err, ErrNewer) {
			return p, fmt.Errorf("pod store: %w", c.Err)
		}
		_ = atomicfile.RemoveLeftovers(cdir)
		p.Containers = append(p.Containers, c)
	}
	return p, nil
}

// SetPodAside moves an unreadable pod out of the way and says where to.
func (s *Store[P, C]) SetPodAside(id string) (string, error) {
	return s.setAside(s.PodDir(id), id)
}

// SetContainerAside is SetPodAside for a container.
func (s *Store[P, C]) SetContainerAside(pod, id string) (string, error) {
	return s.setAside(s.ContainerDir(pod, id), pod+"-"+id)
}

func (s *Store[P, C]) setAside(from, name string) (string, error) {
	if err := os.MkdirAll(s.unreadable, 0o700); err != nil {
		return "", fmt.Errorf("pod store: %w", err)
	}
	to := filepath.Join(s.unreadable, name+"-"+time.Now().UTC().Format("20060102T150405.000000000"))
	if err := os.Rename(from, to); err != nil {
		return "", fmt.Errorf("pod store: set aside: %w", err)
	}
	return to, nil
}

// envelope is what every file holds.
type envelope[T any] struct {
	Version int `json:"version"`
	Record  *T  `json:"record"`
}

func save[T any](path string, record *T, durable bool) error {
	data, err := json.Marshal(envelope[T]{Version, record})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(data) > maxRecord { // a start would not read it back
		return fmt.Errorf("%s: the record would have %d bytes; %d are the limit", path, len(data), maxRecord)
	}
	if durable {
		return atomicfile.Write(path, data, 0o600)
	}
	return atomicfile.WriteVolatile(path, data, 0o600)
}

func load[T any](path string) (*T, error) {
	data, err := sys.ReadFile(path, maxRecord)
	if err != nil {
		return nil, err
	}
	var e envelope[T]
	if err = json.Unmarshal(data, &e); err != nil {
		var only envelope[struct{}] // a newer record may be anything
		if json.Unmarshal(data, &only) == nil {
			e.Version = only.Version
		}
	}
	switch {
	case e.Version > Version:
		return nil, fmt.Errorf("%s: version %d: %w", path, e.Version, ErrNewer)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	case e.Version < 1 || e.Record == nil:
		return nil, fmt.Errorf("%s: no record of a known version (%d)", path, e.Version)
	}
	return e.Record, nil
}

// validID: 64 lower-case hexadecimal digits.
func validID(id string) bool {
	return len(id) == idLength && strings.Trim(id, "0123456789abcdef") == ""
}
