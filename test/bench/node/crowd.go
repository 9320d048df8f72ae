package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// restarts is how often a crowd's straked is killed.
const restarts = 5

// crowd measures straked with many pods.
func (o options) crowd(ctx context.Context, work, image, cribench, bin string, pods int, network string, n int) (err error) {
	p := &peer{name: "strake", command: o.straked(bin)}
	if err := p.start(work, image); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := p.bench(ctx, cribench, image, network, n); err != nil {
		return err
	}

	// 1. The pods, and what they hold.
	crowd := p.cribench(cribench, image, "-mode", "density", "-hold", "-net", network, "-pods", strconv.Itoa(pods))
	crowd.Stderr = os.Stderr
	release, err := crowd.StdinPipe()
	if err != nil {
		return err
	}
	said, err := crowd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := crowd.Start(); err != nil {
		return err
	}
	lines := bufio.NewReader(said)
	defer func() {
		err = errors.Join(err, release.Close())
		_, copyErr := io.Copy(os.Stdout, lines) // it prints what it measured when it has removed them
		err = errors.Join(err, copyErr, crowd.Wait())
	}()
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return fmt.Errorf("cribench ended: %w", err)
		}
		if line == "holding\n" {
			break
		}
	}

	// 2. A pod's life beside them.
	if err := p.bench(ctx, cribench, image, network, n); err != nil {
		return err
	}
	alone, beside := p.results[network][0], p.results[network][1]
	fmt.Printf("\n%-18s %9s %9s   p50 (least), ms\n", "a pod's life", "alone", "beside")
	for i, phase := range beside.Phases {
		was := alone.Phases[i]
		fmt.Printf("%-18s %7.1f (%.1f) %7.1f (%.1f)  ratio %.2f (%.2f)\n", phase.Name, was.P50, was.Min, phase.P50, phase.Min,
			phase.P50/was.P50, phase.Min/was.Min)
	}
	fmt.Printf("%-18s %7.1f %13.1f        ratio %.2f\n", "CPU ms per pod", alone.CPUms, beside.CPUms, beside.CPUms/alone.CPUms)

	// 3. straked killed, and ready again.
	var took []string
	for range restarts {
		d, err := p.restart(ctx, pods)
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	slices.Sort(took)
	fmt.Printf("killed, ready with %d pods again after ms of time, of processor time: %s\n", pods, strings.Join(took, "; "))
	return nil
}

// restart kills the daemon, starts it again, and tells how long it takes, from its start
// until it lists all pods as ready.
func (p *peer) restart(ctx context.Context, pods int) (string, error) {
	if err := p.daemon.Process.Kill(); err != nil {
		return "", err
	}
	_ = p.daemon.Wait() // by the signal
	if err := os.Remove(p.socket); err != nil {
		return "", err
	}
	began := time.Now()
	if err := p.exec(); err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(p.socket); err == nil {
			break
		}
		if time.Since(began) > time.Minute {
			return "", errors.New("straked has not opened its socket within a minute")
		}
		<-time.After(time.Millisecond)
	}
	conn, err := grpc.NewClient("unix://"+p.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }() // nothing is under way on it
	r, err := cri.NewRuntimeServiceClient(conn).ListPodSandbox(ctx, &cri.ListPodSandboxRequest{
		Filter: &cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}},
	}, grpc.WaitForReady(true))
	if err != nil {
		return "", err
	}
	took := time.Since(began)
	if len(r.Items) != pods {
		return "", fmt.Errorf("%d pods are ready after a restart, of %d", len(r.Items), pods)
	}
	used, err := processorTime(p.daemon.Process.Pid)
	return fmt.Sprintf("%.0f, %.0f", took.Seconds()*1e3, used.Seconds()*1e3), err
}

// processorTime is what a process has used (proc(5): fields 14 and 15 of stat, in
// hundredths of a second everywhere).
func processorTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks int
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
