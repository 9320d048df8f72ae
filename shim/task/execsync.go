package task

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/strake-containers/strake/shim/stdio"
	"github.com/strake-containers/strake/shim/wire"
)

const (
	// inlineOutput is the most output that an answer carries itself; ttrpc ends
	// at 4 MiB.
	inlineOutput = 1 << 20
	// maxOutput bounds what a caller can make the monitor keep of each stream.
	maxOutput = 64 << 20
	// killedDies is how long a process that was killed for its timeout may take to end
	// before the caller hears that it does not.
	killedDies = 2 * time.Second
)

// execSync runs a process to its end and answers with what it wrote.
func (s *Service) execSync(ctx context.Context, r *execSyncRequest) (*execSyncResponse, error) {
	s.rest.Busy()
	t, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	p := &process{silent: true, done: make(chan struct{}), phase: created, busy: true}
	if err := json.Unmarshal(r.Process, &p.spec); err != nil || p.spec == nil {
		return nil, wire.Errorf(wire.InvalidArgument, "process: %w", err)
	}
	p.spec.Terminal = false
	forget := t.remember(p)
	streams, captured, err := t.capture(p, int(min(max(r.MaxOutput, 0), maxOutput)))
	if err != nil {
		t.settle(p, func() { close(p.done); p.phase = stopped })
		forget()
		return nil, err
	}
	var timeout <-chan time.Time
	launching := ctx
	if r.Timeout > 0 {
		timer := time.NewTimer(time.Duration(r.Timeout))
		defer timer.Stop()
		timeout = timer.C
		// A container that is frozen lets none in.
		var cancel context.CancelFunc
		launching, cancel = context.WithTimeout(ctx, time.Duration(r.Timeout))
		defer cancel()
	}
	err = t.launchExec(launching, p, streams)
	t.settle(p, func() {
		if p.exists() {
			t.running(p, time.Now())
		} else {
			close(p.done)
			p.phase = stopped
		}
	})
	if err != nil && !p.exists() {
		forget()
		return nil, err
	}

	timedOut := false
	select {
	case <-p.done:
	case <-timeout:
		timedOut = true
		t.killTree(p)
		hangs := time.NewTimer(killedDies)
		defer hangs.Stop()
		select {
		case <-p.done:
		case <-hangs.C:
		case <-ctx.Done():
		}
	case <-ctx.Done():
		t.killTree(p)
	}
	select {
	case <-p.done:
	default: // it takes its time to die, which the caller does not have
		go func() { <-p.done; forget() }()
		if ctx.Err() == nil {
			return nil, wire.Errorf(wire.DeadlineExceeded, "timed out after %s; process %d was killed and has not ended: it is frozen or hangs in the kernel",
				time.Duration(r.Timeout), p.pid)
		}
		return nil, ctx.Err()
	}
	defer forget()
	if err != nil {
		return nil, err
	}
	answer := &execSyncResponse{ExitCode: int32(p.exit.Status), TimedOut: timedOut}
	answer.Stdout, answer.Stderr = captured()
	return answer, t.spill(answer)
}

// capture makes streams that are kept in memory.
func (t *task) capture(p *process, limit int) (*stdio.IO, func() (stdout, stderr []byte), error) {
	if t.foreign() == nil {
		return stdio.Capture(limit)
	}
	return stdio.CaptureNamed(t.bundle, p.execID+"-", limit)
}

// remember makes p one of the container's processes, under a name that no caller
// can use; forget ends that and releases what it holds.
func (t *task) remember(p *process) (forget func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.silent++
	p.execID = fmt.Sprintf("\x00%d", t.silent)
	if t.foreign() != nil { // whose shim has to take it for a name
		p.execID = fmt.Sprintf("sync-%d-%d", os.Getpid(), t.silent)
	}
	t.execs[p.execID] = p
	return func() {
		t.mu.Lock()
		delete(t.execs, p.execID)
		t.mu.Unlock()
		t.releaseExec(p)
	}
}

// spill moves output that is too large for a message into a file, which the
// caller reads and removes.
func (t *task) spill(a *execSyncResponse) (err error) {
	if len(a.Stdout)+len(a.Stderr) <= inlineOutput {
		return nil
	}
	f, err := os.CreateTemp(t.bundle, "exec-output-*") // 0600
	if err != nil {
		return fmt.Errorf("keep output: %w", err)
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			_ = os.Remove(f.Name()) // or with the bundle
			err = fmt.Errorf("keep output: %w", err)
		}
	}()
	for _, part := range [][]byte{a.Stdout, a.Stderr} {
		if _, err := f.Write(part); err != nil {
			return err
		}
	}
	a.OutputFile, a.StdoutSize = f.Name(), int64(len(a.Stdout))
	a.Stdout, a.Stderr = nil, nil
	return nil
}
