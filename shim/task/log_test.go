package task_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/shim/client"
)

// Rotation under load: no line lost, none doubled, none cut.
func TestLogRotation(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	const lines = 300000
	b := p.run([]string{"seq", fmt.Sprint(lines)})
	var parts []string
	for i := range 20 {
		name := fmt.Sprintf("%s.%d", b.log, i)
		if err := os.Rename(b.log, name); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, name)
		if err := p.monitor.ReopenLog(t.Context(), b.id); err != nil {
			if i == 0 {
				t.Fatal(err)
			}
			break // it has ended
		}
	}
	b.wait()
	if _, err := os.Stat(b.log); err == nil {
		parts = append(parts, b.log)
	}
	next := 1
	for _, part := range parts {
		for _, line := range logLines(t, part) {
			if want := fmt.Sprintf("stdout F %d", next); line != want {
				t.Fatalf("%s: %q, want %q", part, line, want)
			}
			next++
		}
	}
	if next != lines+1 {
		t.Errorf("%d lines, want %d", next-1, lines)
	}
	t.Logf("%d parts", len(parts))
	if err := p.monitor.ReopenLog(t.Context(), b.id); err == nil {
		t.Error("reopening the log of a stopped container succeeded")
	}
	b.remove()
}

// attach attaches until the end of the test, and takes the empty first read.
func (b *box) attach() *client.Attachment {
	b.t.Helper()
	a, err := client.Attach(b.t.Context(), b.bundle)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { a.Close() })
	if data, _, err := a.Read(); len(data) != 0 || err != nil {
		b.t.Fatalf("first read: %q, %v", data, err)
	}
	return a
}

func TestAttach(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	b := p.create([]string{"sh", "-c", "read a; echo got $a; cat; echo over >&2"}, withStdin)
	var clients []*client.Attachment
	for range 3 { // before the start: nothing is missed
		a := b.attach()
		clients = append(clients, a)
	}
	if _, err := clients[0].Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.monitor.Start(t.Context(), b.id); err != nil {
		t.Fatal(err)
	}
	for i, a := range clients[:2] {
		if data, stderr, err := a.Read(); string(data) != "got hello\n" || stderr || err != nil {
			t.Errorf("client %d: %q %v %v", i, data, stderr, err)
		}
	}
	clients[0].Close() // detaching ends nothing
	if _, err := clients[1].Write([]byte("again\n")); err != nil {
		t.Fatal(err)
	}
	if data, _, err := clients[1].Read(); string(data) != "again\n" || err != nil {
		t.Errorf("after a detach: %q %v", data, err)
	}
	if err := clients[1].CloseStdin(); err != nil {
		t.Fatal(err)
	}
	if data, stderr, err := clients[1].Read(); string(data) != "over\n" || !stderr || err != nil {
		t.Errorf("after the half close: %q %v %v", data, stderr, err)
	}
	if _, _, err := clients[1].Read(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	b.wait()
	late := b.attach()
	if _, _, err := late.Read(); !errors.Is(err, io.EOF) {
		t.Errorf("attached after the end: %v", err)
	}
	var all strings.Builder
	for {
		data, _, err := clients[2].Read()
		if err != nil {
			break
		}
		all.Write(data)
	}
	if all.String() != "got hello\nagain\nover\n" {
		t.Errorf("client 2 read %q", all.String())
	}
	b.remove()
}

func TestStdinOnce(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	b := p.run([]string{"cat"}, withStdin, func(o *client.CreateOptions, _ *specs.Spec) { o.StdinOnce = true })
	a := b.attach()
	if _, err := a.Write([]byte("x\n")); err != nil {
		t.Fatal(err)
	}
	if data, _, err := a.Read(); string(data) != "x\n" || err != nil {
		t.Errorf("read %q, %v", data, err)
	}
	a.Close()
	if e := b.wait(); e.Status != 0 {
		t.Errorf("exit: %+v", e)
	}
	b.remove()
}

func TestTerminal(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	b := p.create([]string{"sh", "-c", "read a; stty size; echo $a"}, withTerminal, withStdin)
	a := b.attach()
	if _, err := p.monitor.Start(t.Context(), b.id); err != nil {
		t.Fatal(err)
	}
	if err := a.Resize(200, 50); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write([]byte("hi\n")); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for {
		data, _, err := a.Read()
		if err != nil {
			break
		}
		all.Write(data)
	}
	if want := "hi\r\n50 200\r\nhi\r\n"; all.String() != want {
		t.Errorf("read %q, want %q", all.String(), want)
	}
	b.wait()
	if want := []string{"stdout F hi\r", "stdout F 50 200\r", "stdout F hi\r"}; !slices.Equal(b.lines(), want) {
		t.Errorf("log: %q", b.lines())
	}
	b.remove()
}

// A client that does not read is dropped; the container and its log do not wait.
func TestSlowClient(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	b := p.create([]string{"sh", "-c", "yes | head -c 30000000"})
	a := b.attach()
	if _, err := p.monitor.Start(t.Context(), b.id); err != nil {
		t.Fatal(err)
	}
	b.wait() // the client has read nothing yet
	st, err := os.Stat(b.log)
	if err != nil || st.Size() < 15000000*40 {
		t.Errorf("log: %v, %v", st, err)
	}
	n := 0
	for {
		data, _, err := a.Read()
		if errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			t.Fatalf("the slow client: %v", err)
		}
		n += len(data)
	}
	if n == 0 || n >= 30000000 {
		t.Errorf("the slow client got %d bytes", n)
	}
	b.remove()
}

// BenchmarkLog is the whole way of 100-byte lines: a container that writes them in
// blocks of 64 KiB, a FIFO, the log file.
func BenchmarkLog(b *testing.B) {
	p := newPod(b)
	defer p.monitor.Close()
	line := strings.Repeat("x", 99)
	const size = 64 << 20
	b.SetBytes(size)
	for b.Loop() {
		c := p.run([]string{"sh", "-c", "yes " + line + " | head -c 67108864"})
		c.wait()
		st, err := os.Stat(c.log)
		if err != nil || st.Size() < size*13/10 {
			b.Fatalf("log: %v, %v", st, err)
		}
		c.remove()
	}
	b.ReportMetric(float64(cpuTicks(b, p.monitorPid()))*1e7/float64(b.N)/(size/1e3), "ns/kB")
}

func cpuTicks(t testing.TB, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(data))
	u, _ := strconv.Atoi(f[13])
	s, _ := strconv.Atoi(f[14])
	return u + s
}
