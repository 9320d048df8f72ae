// Package criu has CRIU checkpoint and restore processes: it starts `criu swrk`,
// which serves one connection, and speaks its protocol (messages.go) with it.
//
// It knows no containers: which mounts are external and what a notification asks
// for is its caller's (oci/container) business. It never makes CRIU stop half-way
// in a dump, which would leave the processes frozen or with CRIU's code in them:
// who does not want a dump any more refuses the next notification.
//
// A Service belongs to one goroutine.
package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/internal/pb"
	"github.com/strake-containers/strake/internal/sys"
)

// FirstFile is the descriptor that CRIU has the first of Config.Files at: below
// are its standard streams and its end of the connection.
const FirstFile = 4

// minVersion is 3.16, which can give restored processes another LSM profile and
// knows everything else that Options asks for.
const minVersion = 31600

// maxPacket bounds a message of CRIU's; they are some dozen bytes.
const maxPacket = 64 << 10

// maxStderr is how much of what CRIU wrote before it had a log is read.
const maxStderr = 64 << 10

// Config says how to start CRIU.
type Config struct {
	Program string     // "" looks for criu in $PATH
	Stdin   *os.File   // the terminal of a shell job, or nil
	Files   []*os.File // become CRIU's descriptors FirstFile, FirstFile+1, …
	MountNS *os.File   // the mount namespace that it runs in, or nil for ours
}

// Service is one CRIU process.
type Service struct {
	cmd    *exec.Cmd
	conn   *os.File
	stderr *os.File // a memory file
}

// Start starts CRIU, which is killed when ctx ends, and makes sure that it is one
// that can be used. The caller closes the Service.
func Start(ctx context.Context, c Config) (_ *Service, err error) {
	if c.Program == "" {
		c.Program = "criu"
	}
	program, err := exec.LookPath(c.Program)
	if err != nil {
		return nil, fmt.Errorf("%w: install CRIU (https://criu.org)", err)
	}
	conn, theirs, err := sys.PacketPair("criu")
	if err != nil {
		return nil, err
	}
	stderr, err := sys.NewMemFile("criu-stderr")
	if err != nil {
		return nil, errors.Join(err, conn.Close(), theirs.Close())
	}
	s := &Service{conn: conn, stderr: stderr}
	s.cmd = exec.CommandContext(ctx, program, "swrk", "3")
	s.cmd.Stderr = stderr
	if c.Stdin != nil {
		s.cmd.Stdin = c.Stdin
	}
	s.cmd.ExtraFiles = append([]*os.File{theirs}, c.Files...)
	if c.MountNS != nil {
		err = sys.InMountNS(c.MountNS, func() error { return sys.StartProgram(s.cmd.Start) })
	} else {
		err = sys.StartProgram(s.cmd.Start)
	}
	err = errors.Join(err, theirs.Close()) // or nobody would see CRIU's end of it closed
	if err != nil {
		return nil, errors.Join(err, conn.Close(), stderr.Close())
	}
	if err := s.checkVersion(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Pid is CRIU's process.
func (s *Service) Pid() int { return s.cmd.Process.Pid }

// Close hangs up and waits for CRIU's end. That CRIU did what it was asked for
// was in its answer: how it exits is of no interest.
func (s *Service) Close() error {
	err := s.conn.Close()
	var exit *exec.ExitError
	if e := s.cmd.Wait(); e != nil && !errors.As(e, &exit) {
		err = errors.Join(err, e)
	}
	return errors.Join(err, s.stderr.Close())
}

func (s *Service) checkVersion() error {
	answer, err := s.ask(&request{Type: version, KeepOpen: true})
	if err != nil {
		return err
	}
	if answer.Version == nil {
		return errors.New("CRIU does not say its version")
	}
	v := answer.Version
	if v.Major*10000+v.Minor*100+v.Sublevel < minVersion {
		return fmt.Errorf("CRIU is version %d.%d.%d: version 3.16 or later is needed", v.Major, v.Minor, v.Sublevel)
	}
	return nil
}

// Require returns an error that names what of the wanted features CRIU and the
// kernel do not have.
func (s *Service) Require(wanted Features) error {
	answer, err := s.ask(&request{Type: featureCheck, KeepOpen: true, Features: &wanted})
	if err != nil {
		return err
	}
	have := answer.Features
	if have == nil {
		have = &Features{}
	}
	if wanted.MemTrack && !have.MemTrack {
		return errors.New("CRIU cannot track changes of memory on this kernel (soft-dirty, CONFIG_MEM_SOFT_DIRTY)")
	}
	if wanted.LazyPages && !have.LazyPages {
		return errors.New("CRIU cannot restore memory lazily on this kernel (userfaultfd)")
	}
	return nil
}

// Notification is what CRIU tells while it works (criu(8), action scripts). CRIU
// waits for the handler's return.
type Notification struct {
	Script string
	Pid    int      // the restored root process, where it is known
	File   *os.File // the master of "orphan-pts-master"; the handler closes it
}

// Do makes one request and returns the pid of the root process if that is a
// restore. An error of the handler makes CRIU undo what it has done; Do returns
// it.
func (s *Service) Do(t RequestType, o *Options, handle func(Notification) error) (pid int, err error) {
	if err := s.send(&request{Type: t, Options: o}); err != nil {
		return 0, err
	}
	var refused error
	for {
		answer, file, err := s.receive()
		if err != nil {
			return 0, errors.Join(refused, fmt.Errorf("criu %v: %w", t, err))
		}
		switch {
		case answer.Type == notify && answer.Success && answer.Notify != nil && refused == nil:
			refused = handle(Notification{answer.Notify.Script, int(answer.Notify.Pid), file})
			file = nil
			err = s.send(&request{Type: notify, NotifySuccess: refused == nil})
		case answer.Type == notify && answer.Success:
			err = s.send(&request{Type: notify})
		case refused != nil:
			return 0, refused
		case !answer.Success:
			return 0, s.failure(t, answer)
		case answer.Type != t:
			return 0, fmt.Errorf("criu %v: it answers to %v", t, answer.Type)
		case answer.Restore != nil:
			return int(answer.Restore.Pid), nil
		default:
			return 0, nil
		}
		if file != nil {
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			return 0, errors.Join(refused, err)
		}
	}
}

// ask makes a request that is answered at once.
func (s *Service) ask(r *request) (*response, error) {
	if err := s.send(r); err != nil {
		return nil, err
	}
	answer, file, err := s.receive()
	if file != nil {
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("criu %v: %w", r.Type, err)
	}
	if !answer.Success || answer.Type != r.Type {
		return nil, s.failure(r.Type, answer)
	}
	return answer, nil
}

func (s *Service) send(r *request) error {
	data, err := pb.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := s.conn.Write(data); err != nil {
		return s.ended(err)
	}
	return nil
}

func (s *Service) receive() (*response, *os.File, error) {
	buf := make([]byte, maxPacket)
	n, file, err := sys.ReceivePacket(s.conn, buf)
	if err != nil {
		return nil, nil, s.ended(err)
	}
	var answer response
	if err := pb.Unmarshal(buf[:n], &answer); err != nil {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
		return nil, nil, err
	}
	return &answer, file, nil
}

// ended explains a connection that CRIU has closed by what it has said last.
func (s *Service) ended(err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	data := make([]byte, maxStderr)
	n, _ := s.stderr.ReadAt(data, 0) // EOF, or all that is wanted
	if lines := quote(data[:n]); lines != "" {
		return fmt.Errorf("it has ended: %s", lines)
	}
	if lines := strings.TrimSpace(string(data[:n])); lines != "" {
		return fmt.Errorf("it has ended: %.2000s", lines)
	}
	return errors.New("it has ended without an answer")
}

func (s *Service) failure(t RequestType, r *response) error {
	err := fmt.Errorf("criu %v failed", t)
	if r.Message != "" {
		err = fmt.Errorf("%w: %s", err, r.Message)
	}
	if r.Errno != 0 {
		err = fmt.Errorf("%w: %w", err, syscall.Errno(r.Errno))
	}
	return err
}

// Quote returns what a log of CRIU's says about a failure: its first lines with an
// error, in which the cause is, joined by "; ". It is empty without any.
func Quote(log io.Reader) string {
	data, err := io.ReadAll(io.LimitReader(log, maxLog))
	if err != nil {
		return ""
	}
	return quote(data)
}

const (
	maxLog    = 32 << 20 // a log of many processes is some megabytes
	maxQuoted = 6        // lines
	maxLine   = 400      // bytes
)

func quote(log []byte) string {
	var quoted []string
	for line := range bytes.Lines(log) {
		if line = bytes.TrimSpace(line); !bytes.Contains(line, []byte("Error")) {
			continue
		}
		quoted = append(quoted, string(line[:min(len(line), maxLine)]))
		if len(quoted) == maxQuoted {
			break
		}
	}
	return strings.Join(quoted, "; ")
}
