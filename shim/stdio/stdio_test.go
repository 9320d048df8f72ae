package stdio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
)

// content returns a log's lines without their time stamps.
func content(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		stamp, rest, ok := strings.Cut(line, " ")
		if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil || !ok || !strings.HasSuffix(rest, "\n") {
			t.Fatalf("bad line %q: %v", line, err)
		}
		lines = append(lines, strings.TrimSuffix(rest, "\n"))
	}
	return lines
}

func newLog(t *testing.T, path string, maxSize int64) *fileLog {
	t.Helper()
	return newDriver(t, "cri://"+path, maxSize).(*fileLog)
}

func newDriver(t *testing.T, uri string, maxSize int64) driver {
	t.Helper()
	f, err := openFlow(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	log, err := openDriver(uri, maxSize, f, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.close)
	return log
}

// fed is a pump of stdout that moves what it is given at once.
type fed struct {
	t    *testing.T
	in   *os.File
	pump *pump
}

func newFed(t *testing.T, log driver) *fed {
	t.Helper()
	f, err := openFlow(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := openFIFO(path, syscall.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	out, err := openFIFO(path, syscall.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	w := &fed{t: t, in: in}
	w.pump, err = newPump(out, newLineWriter(log, f.cell(0), "stdout"), func([]byte) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); w.pump.close() })
	return w
}

func (w *fed) write(p []byte) {
	w.t.Helper()
	if _, err := w.in.Write(p); err != nil {
		w.t.Fatal(err)
	}
	if err := w.pump.next(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *fed) end() {
	w.pump.stop()
	w.pump.run()
}

func TestLines(t *testing.T) {
	long := strings.Repeat("l", maxLine)
	for name, c := range map[string]struct {
		writes []string
		want   []string
	}{
		"lines":             {[]string{"a\nb\n"}, []string{"stdout F a", "stdout F b"}},
		"empty line":        {[]string{"\n"}, []string{"stdout F "}},
		"line in pieces":    {[]string{"a", "b", "c\nd"}, []string{"stdout F abc", "stdout P d"}},
		"exactly full":      {[]string{long + "\n"}, []string{"stdout F " + long}},
		"one too long":      {[]string{long + "x\n"}, []string{"stdout P " + long, "stdout F x"}},
		"too long in parts": {[]string{"y" + long, long + "\nz\n"}, []string{"stdout P y" + long[1:], "stdout P l" + long[1:], "stdout F l", "stdout F z"}},
		"nothing":           {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			log := newLog(t, path, 0)
			w := newFed(t, log)
			for _, p := range c.writes {
				w.write([]byte(p))
			}
			w.end()
			log.close()
			if got := content(t, path); !slices.Equal(got, c.want) {
				t.Errorf("got %.60q, want %.60q", got, c.want)
			}
		})
	}
}

// What a process wrote last, and then ended, is in its log however much came before.
func TestEndOfMuch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log := newLog(t, path, 0)
	w := newFed(t, log)
	const size = 4 << 10
	lines := strings.Repeat(strings.Repeat("x", size/4-1)+"\n", 4)
	for range maxLate / size {
		w.write([]byte(lines))
	}
	if _, err := io.WriteString(w.in, "the last\n"); err != nil {
		t.Fatal(err)
	}
	w.end()
	log.close()
	if got := content(t, path); got[len(got)-1] != "stdout F the last" {
		t.Errorf("the log ends with %.60q", got[len(got)-1])
	}
}

// Who goes on writing to a stopped pump is not waited for.
func TestWriterWithoutEnd(t *testing.T) {
	log := newLog(t, filepath.Join(t.TempDir(), "log"), 0)
	w := newFed(t, log)
	more := strings.Repeat("y", 4<<10-1) + "\n"
	w.pump.show = func([]byte) { _, _ = w.in.WriteString(more) }
	w.write([]byte("y\n"))
	w.end()
}

// A full disk costs lines, not the container's progress; the log says how many.
func TestDiskFull(t *testing.T) {
	dir := testutil.SmallTmpfs(t, "size=64k")
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	log := newLog(t, dir+"/log", 0)
	w := newFed(t, log)
	for i := range 5000 {
		w.write(fmt.Appendf(nil, "line %d\n", i))
	}
	lost, lossErr := log.loss()
	if lost == 0 || !errors.Is(lossErr, syscall.ENOSPC) {
		t.Fatalf("lost %d, %v", lost, lossErr)
	}
	before := content(t, dir+"/log") // and it ends with a whole line
	if err := os.Rename(dir+"/log", dir+"/old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(dir+"/old", 0); err != nil {
		t.Fatal(err)
	}
	if err := log.reopen(); err != nil {
		t.Fatal(err)
	}
	w.write([]byte("after\n"))
	log.close()
	after := content(t, dir+"/log")
	if len(after) != 2 || after[1] != "stdout F after" ||
		!strings.HasPrefix(after[0], "stderr F strake: ") || !strings.Contains(after[0], "no space left") {
		t.Errorf("log: %q", after)
	}
	if last := before[len(before)-1]; last != fmt.Sprintf("stdout F line %d", len(before)-1) {
		t.Errorf("line %d is %q", len(before)-1, last)
	}
}

func TestLogCap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log := newLog(t, path, 1000)
	w := newFed(t, log)
	for range 100 {
		w.write([]byte("0123456789\n"))
	}
	if lost, err := log.loss(); lost == 0 || !errors.Is(err, errLogFull) {
		t.Errorf("lost %d, %v", lost, err)
	}
	lines := content(t, path)
	if last := lines[len(lines)-1]; !strings.Contains(last, "maximum size") || len(lines) > 30 {
		t.Errorf("log: %q", lines)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := log.reopen(); err != nil { // rotation makes room again
		t.Fatal(err)
	}
	w.write([]byte("again\n"))
	log.close()
	if got := content(t, path); !slices.Equal(got, []string{"stdout F again"}) {
		t.Errorf("log: %q", got)
	}
}

// start runs a program with the streams of an IO, as the task does.
func start(t *testing.T, s *IO, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	stdin, stdout, stderr := s.Files()
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if stdout != nil {
		cmd.Stdout = stdout
	}
	if stderr != nil {
		cmd.Stderr = stderr
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Started(nil); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func finish(t *testing.T, s *IO, cmd *exec.Cmd) {
	t.Helper()
	_ = cmd.Wait() // how it ended is the test's affair
	s.Finish()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestFileURI(t *testing.T) {
	testutil.CheckLeaks(t)
	path := filepath.Join(t.TempDir(), "new", "file")
	s, err := Open(t.Context(), Config{Dir: t.TempDir(), Stdout: "file://" + path, Stderr: "file://" + path})
	if err != nil {
		t.Fatal(err)
	}
	finish(t, s, start(t, s, "sh", "-c", "echo a; echo b >&2; echo c"))
	if data, err := os.ReadFile(path); err != nil || string(data) != "a\nb\nc\n" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestBinaryURI(t *testing.T) {
	testutil.CheckLeaks(t)
	dir := t.TempDir()
	script := "#!/bin/sh\nexec 5>&-\necho \"$CONTAINER_NAMESPACE/$CONTAINER_ID $1 $2\" >" + dir + "/out\ncat <&3 >>" + dir + "/out\ncat <&4 >>" + dir + "/out\n>" + dir + "/done\n"
	if err := os.WriteFile(dir+"/logger", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	collected := make(chan struct{})
	s, err := Open(t.Context(), Config{
		ContainerID: "c", Namespace: "n", Dir: dir, Stdout: "binary://" + dir + "/logger?key=value", Stderr: "binary://" + dir + "/logger?key=value",
		StartChild: func(cmd *exec.Cmd) (func(), error) { return func() { close(collected) }, cmd.Start() },
	})
	if err != nil {
		t.Fatal(err)
	}
	finish(t, s, start(t, s, "sh", "-c", "echo a; echo b >&2"))
	select {
	case <-collected:
	case <-time.After(time.Minute):
		t.Fatal("the logger did not end")
	}
	if data, err := os.ReadFile(dir + "/out"); err != nil || string(data) != "n/c key value\na\nb\n" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestOpenErrors(t *testing.T) {
	testutil.CheckLeaks(t)
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := syscall.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		config Config
		want   string
	}{
		"no reader":       {Config{Stdout: dir + "/fifo"}, "nobody reads"},
		"missing":         {Config{Stdout: dir + "/missing"}, "no such file"},
		"relative":        {Config{Stdin: "fifo"}, "absolute"},
		"unknown scheme":  {Config{Stdout: "ftp:///x"}, "ftp"},
		"two logs":        {Config{Stdout: "cri://" + dir + "/a", Stderr: "cri://" + dir + "/b"}, "same log"},
		"log without dir": {Config{Stdout: "cri://" + dir + "/missing/log", Stderr: "cri://" + dir + "/missing/log"}, "no such file"},
		"not a FIFO":      {Config{Stdin: "/dev/null"}, "not a FIFO"},
		"logger missing":  {Config{Stdout: "binary:///no/such/program"}, "no such file"},
		"logger unready":  {Config{Stdout: "binary:///bin/sleep?100"}, "ready"},
		"logger, no path": {Config{Stdout: "binary://"}, "names no program"},
	} {
		t.Run(name, func(t *testing.T) {
			c.config.Dir = dir
			c.config.StartChild = func(cmd *exec.Cmd) (func(), error) { return func() {}, cmd.Start() }
			s, err := Open(ctx, c.config)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	// The loggers that were given up are collected in their own time.
	for range 200 {
		if children, _ := filepath.Glob("/proc/self/task/*/children"); !anyChild(children) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func anyChild(files []string) bool {
	for _, f := range files {
		if data, _ := os.ReadFile(f); len(bytes.TrimSpace(data)) > 0 {
			return true
		}
	}
	return false
}

// Input that is in the FIFO when it is closed still arrives.
func TestCloseStdin(t *testing.T) {
	testutil.CheckLeaks(t)
	dir := t.TempDir()
	for _, name := range []string{"in", "out"} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := os.OpenFile(dir+"/out", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := os.OpenFile(dir+"/in", os.O_RDWR, 0) // never at its end by itself
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	s, err := Open(t.Context(), Config{Dir: dir, Stdin: dir + "/in", Stdout: dir + "/out"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.WriteString("the last words\n"); err != nil {
		t.Fatal(err)
	}
	cmd := start(t, s, "cat")
	s.CloseStdin()
	if data, err := io.ReadAll(out); err != nil || string(data) != "the last words\n" {
		t.Errorf("%q, %v", data, err)
	}
	finish(t, s, cmd)
}

// What a terminal echoes comes a byte at a time, and each takes a place in the
// FIFO: a long line fills it before it has an end.
func TestLineInManyPieces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log := newLog(t, path, 0)
	w := newFed(t, log)
	var err error
	if w.pump.full, err = isFull(w.in); err != nil {
		t.Fatal(err)
	}
	fifo, err := w.in.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	r, from, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); from.Close() })
	go w.pump.run()
	want := strings.Repeat("x", 300)
	for i := range want {
		if _, err := from.WriteString(want[i : i+1]); err != nil {
			t.Fatal(err)
		}
		if err := fifo.Write(func(fd uintptr) bool {
			var n int
			n, err = sys.Move(int(r.Fd()), int(fd), 1)
			return n == 1 || !errors.Is(err, syscall.EAGAIN)
		}); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.pump.stop()
	<-w.pump.done
	got := ""
	for _, line := range content(t, path) {
		got += strings.TrimPrefix(line, "stdout P ")
	}
	if got != want {
		t.Errorf("the log has %q", got)
	}
}
